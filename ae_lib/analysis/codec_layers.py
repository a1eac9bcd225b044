"""The layers of a codec: dense ones are plain arrays, runs of others are run by Keras."""

import itertools
import json
from dataclasses import dataclass
from functools import cached_property

from ae_lib import StudyError
from ae_lib.models import predict_in_batches

import keras
import numpy as np
import tensorflow as tf
from scipy.special import expit

BATCH = 2000  # images sent through the layers at once

ACTIVATIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": expit,
    "clip": lambda x: np.clip(x, 0, 1),
}
SLOPES = {
    "linear": lambda x: np.ones_like(x),
    "relu": lambda x: x > 0,
    "sigmoid": lambda x: expit(x) * expit(-x),
    "clip": lambda x: (x > 0) & (x < 1),
}
# A file may name no other layers that Keras runs, and nothing of them but plain values.
NETWORK_LAYERS = ("Reshape", "Flatten", "Conv2D", "Conv2DTranspose", "Cropping2D")


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer, ``activation(x @ weights + bias)``; float32, shapes (inputs, d) and (d,)."""

    weights: np.ndarray
    bias: np.ndarray
    activation: str

    inputs = property(lambda self: len(self.weights))

    def __call__(self, x):
        return ACTIVATIONS[self.activation](x @ self.weights + self.bias)

    def carry(self, x, jacobian):
        """Return the outputs, and the Jacobian of all layers so far from that of those before."""
        before = x @ self.weights + self.bias
        # One large product; a hundred small ones take far longer.
        jacobian = jacobian.reshape(-1, len(self.weights)) @ self.weights
        slope = SLOPES[self.activation](before)[:, None]
        outputs = ACTIVATIONS[self.activation](before)
        return outputs, jacobian.reshape(len(x), -1, len(self.bias)) * slope

    def parts(self):
        """Return what is written to a file, name to array."""
        return {name: np.asarray(part) for name, part in vars(self).items()}

    def keras_layers(self):
        """Return a Keras layer that computes the same, with weights of its own."""
        layer = keras.layers.Dense(len(self.bias), activation=self.activation)
        layer.build((None, len(self.weights)))
        layer.set_weights([self.weights, self.bias])
        return [layer]


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in a row that are not dense; its methods are those of `Layer`.

    ``config`` is JSON: the number of inputs, and class and options of each layer, plain values all.
    ``arrays`` are the weights, float32, in Keras's order.
    """

    config: str
    arrays: tuple

    inputs = property(lambda self: json.loads(self.config)["inputs"])

    def __call__(self, x):
        return predict_in_batches(self._model, x)

    def carry(self, x, jacobian):
        # Forward-mode differentiation, one direction for each row of a Jacobian.
        directions = jacobian.shape[1]
        inputs = tf.constant(np.repeat(x, directions, axis=0))
        tangents = tf.constant(jacobian.reshape(inputs.shape))
        with tf.autodiff.ForwardAccumulator(inputs, tangents) as forward:
            outputs = self._model(inputs)
        jacobian = forward.jvp(outputs).numpy().reshape(len(x), directions, -1)
        return outputs.numpy()[::directions], jacobian

    def parts(self):
        arrays = {f"array_{i}": array for i, array in enumerate(self.arrays)}
        return {"config": np.array(self.config)} | arrays

    def keras_layers(self):
        config = json.loads(self.config)
        layers = [_keras_layer(*layer) for layer in config["layers"]]
        model = keras.Sequential([keras.Input((config["inputs"],)), *layers])
        model.set_weights(self.arrays)
        return layers

    @cached_property
    def _model(self):
        return keras.Sequential(self.keras_layers())


def dense(weights, bias, activation):
    """Make a `Layer` of arrays of any floating-point type."""
    return Layer(np.ascontiguousarray(weights, "float32"), np.asarray(bias, "float32"), activation)


def from_keras(layers):
    """Turn Keras layers in a row into a tuple of `Layer` and `Network`.

    Raises `StudyError` for a layer that a codec cannot hold.
    """
    parts = []
    without_input = [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]
    for is_dense, group in itertools.groupby(without_input, _is_dense):
        together = list(group)
        parts += map(_from_dense, together) if is_dense else [_from_others(together)]
    return tuple(parts)


def to_keras(layers, trainable=True):
    """Turn a tuple of `Layer` and `Network` into Keras layers with weights of their own."""
    keras_layers = [made for layer in layers for made in layer.keras_layers()]
    for layer in keras_layers:
        layer.trainable = trainable
    return keras_layers


def run(layers, x):
    """Send rows, float32 (n, inputs), through layers, batch by batch."""

    def in_a_row(part):
        for layer in layers:
            part = layer(part)
        return part

    return predict_in_batches(in_a_row, x, BATCH)


def read(arrays, name):
    """Make the layers of arrays called ``name.0.…``, ``name.1.…``, which `parts` gave.

    Raises ValueError, LookupError, TypeError or AttributeError if they are not such layers.
    """
    layers = []
    while any(key.startswith(f"{name}.{len(layers)}.") for key in arrays):
        prefix = f"{name}.{len(layers)}."
        parts = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        layers.append(_read_network(parts) if "config" in parts else _read_dense(parts))
    return tuple(layers)


def _read_dense(parts):
    layer = Layer(parts["weights"], parts["bias"], str(parts["activation"]))
    if layer.activation not in ACTIVATIONS:
        raise ValueError(f"the activation {layer.activation!r}, none of {', '.join(ACTIVATIONS)}")
    if layer.bias.shape != layer.weights.shape[1:]:
        raise ValueError(f"weights {layer.weights.shape} with a bias {layer.bias.shape}")
    return layer


def _read_network(parts):
    arrays = [parts[f"array_{i}"] for i in range(len(parts) - 1)]
    network = Network(str(parts["config"]), tuple(arrays))
    network.keras_layers()  # which fails now, if ever
    return network


def _is_dense(layer):
    return isinstance(layer, keras.layers.Dense)


def _from_dense(layer):
    if layer.activation.__name__ not in ACTIVATIONS or not layer.use_bias:
        raise _unsupported(layer)
    return dense(*map(np.asarray, layer.get_weights()), layer.activation.__name__)


def _from_others(layers):
    shape = layers[0].input.shape
    if len(shape) != 2:
        raise StudyError(
            f"The layer {layers[0].name!r} takes arrays of shape {shape}; expected rows of pixels, "
            "as all models of this study take them: put a Reshape before it."
        )
    config = {"inputs": shape[1], "layers": [_name_and_options(layer) for layer in layers]}
    arrays = [np.asarray(array, "float32") for layer in layers for array in layer.get_weights()]
    return Network(json.dumps(config, sort_keys=True), tuple(arrays))


def _name_and_options(layer):
    name, options = type(layer).__name__, layer.get_config()
    if name not in NETWORK_LAYERS or options.get("activation", "linear") not in ACTIVATIONS:
        raise _unsupported(layer)
    plain = {key: value for key, value in options.items() if _is_plain(value)}
    # A name and what only training uses are left out.
    return name, {key: plain[key] for key in plain if key not in ("name", "trainable")}


def _is_plain(value):
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _keras_layer(name, options):
    # A file may come from anywhere: nothing that Keras would look up, import or run comes from it.
    plain = name in NETWORK_LAYERS and all(map(_is_plain, options.values()))
    if not plain or options.get("activation", "linear") not in ACTIVATIONS:
        raise ValueError(f"a layer {name!r} with options {options}")
    return getattr(keras.layers, name)(**options)


def _unsupported(layer):
    return StudyError(
        f"The layer {layer.name!r} is of type {type(layer).__name__}; expected Dense, "
        f"{' or '.join(NETWORK_LAYERS)}, with one of the activations {', '.join(ACTIVATIONS)} "
        "and biases: the codec is not made for other networks."
    )
