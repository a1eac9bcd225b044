"""A codec: images to bytes and back, through quantised coordinates and an entropy coder.

Transform coding as in Goyal, "Theoretical foundations of transform coding", IEEE Signal Processing Magazine 18(5), 2001: an
image becomes a few coordinates; each is rounded to a bin of one step; the bins are entropy-coded under the histogram that
their coordinate had on the training images. An autoencoder and PCA make two codecs that differ in their layers alone.
A codec is plain arrays, kept in one file; so are the layers of a convolutional one, which Keras runs.

What holds where: symbols come out of a stream as they went in, on any machine, since all that touches them is arithmetic of
integers or correctly rounded. Images come out of it the same to the bit on one machine (and with as many threads); between
machines their last bits may differ, and an image whose coordinate lies on the edge of a bin may become another stream.

A stream is, little-endian:

======  ==================================================================================
bytes   content
======  ==================================================================================
3       ``AEC``
1       version of the format
8       beginning of the codec's fingerprint
8       step, float64
4       number of images
4       number n of the payload's 32-bit words
8       beginning of the SHA-256 of all bytes before and after these
4 n     payload: the words of constriction's ANS coder, the first coordinate decoded first
======  ==================================================================================

The checksum finds damage; like any checksum without a secret key, it does not find a forger.
"""

import hashlib
import itertools
import json
import math
import struct
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from numbers import Real
from typing import NamedTuple

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError
from ae_lib.data import PIXELS, SIDE, as_flat_images
from ae_lib.models import mean_encoder, predict_in_batches
from ae_lib.training import fit

import constriction
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.special import expit

MAGIC = b"AEC"
VERSION = 1
HEAD = struct.Struct("<3sB8sdII")
DIGEST = 8  # bytes kept of a SHA-256: one damage in 2^64 would go unnoticed
HEADER = HEAD.size + DIGEST  # bytes of a stream without images
CELL = (
    1 / 64
)  # the grid on which coordinates are counted; a power of two, so that dividing by it is exact
BATCH = 2000  # images sent through the layers at once
TILE = 32  # pixels; whole blocks of JPEG (8) and WebP (16)

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


# Layers that Keras runs for a codec; a file may name no others, and nothing of them but plain values.
NETWORK_LAYERS = ("Reshape", "Flatten", "Conv2D", "Conv2DTranspose")


class Layer(NamedTuple):
    """A dense layer, ``activation(x @ weights + bias)``; float32, shapes (inputs, units) and (units,)."""

    weights: np.ndarray
    bias: np.ndarray
    activation: str

    def __call__(self, x):
        return ACTIVATIONS[self.activation](x @ self.weights + self.bias)

    def carry(self, x, jacobian):
        """Outputs, and the Jacobian of all layers so far, shape (n, d, units), from that of those before."""
        before = x @ self.weights + self.bias
        # One large product; a hundred small ones take far longer.
        jacobian = (jacobian.reshape(-1, len(self.weights)) @ self.weights).reshape(
            len(x), -1, len(self.bias)
        )
        return ACTIVATIONS[self.activation](before), jacobian * SLOPES[self.activation](before)[
            :, None
        ]

    def parts(self):
        """What is written to a file, name to array."""
        return {field: np.asarray(part) for field, part in self._asdict().items()}

    def keras_layers(self):
        """A Keras layer that does the same, with weights of its own."""
        layer = keras.layers.Dense(len(self.bias), activation=self.activation)
        layer.build((None, len(self.weights)))
        layer.set_weights([self.weights, self.bias])
        return [layer]


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in a row that are not dense, run by Keras.

    Attributes
    ----------
    config : str
        JSON: the number of inputs, and the class and options of each layer, plain values all of them.
    arrays : tuple of float32 arrays
        Their weights, in Keras's order.
    """

    config: str
    arrays: tuple

    def __call__(self, x):
        return self._model(x).numpy()

    def carry(self, x, jacobian):
        """As `Layer.carry`, by forward-mode differentiation: each row of a Jacobian is a direction of its own."""
        directions = jacobian.shape[1]
        inputs = tf.constant(np.repeat(x, directions, axis=0))
        with tf.autodiff.ForwardAccumulator(
            inputs, tf.constant(jacobian.reshape(inputs.shape))
        ) as forward:
            outputs = self._model(inputs)
        jacobian = forward.jvp(outputs).numpy().reshape(len(x), directions, -1)
        return outputs.numpy()[::directions], jacobian

    def parts(self):
        """As `Layer.parts`."""
        return {"config": np.array(self.config)} | {
            f"array_{i}": array for i, array in enumerate(self.arrays)
        }

    def keras_layers(self):
        """Keras layers that do the same, with weights of their own."""
        config = json.loads(self.config)
        layers = [_plain_layer(name, options) for name, options in config["layers"]]
        model = keras.Sequential([keras.Input((config["inputs"],)), *layers])
        model.set_weights(self.arrays)
        return layers

    @cached_property
    def _model(self):
        return keras.Sequential(self.keras_layers())


class Bins(NamedTuple):
    """One coordinate's bins at one step: symbol of each cell, integer weight and float32 value of each symbol."""

    symbol: np.ndarray
    weight: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, repr=False)
class Codec:
    """What both ends of a stream must have: the layers, and what was counted on the training images.

    Attributes
    ----------
    encoder : tuple of Layer and Network
        Images, float32 (n, 784) in [0, 1], to coordinates, float32 (n, d) with training mean 0.
    decoder : tuple of Layer and Network, the first one a Layer
        Coordinates to images. If its first layer has d + 1 inputs, the last one is the logarithm of the step.
    first : int32 array, shape (d,)
        The cell that holds the smallest training coordinate: floor(coordinate / CELL).
    counts : uint32 array, shape (d, cells)
        How many training coordinates lie in each cell from ``first`` on; 0 beyond the largest.
    rounding : float, in (0, 0.5]
        A coordinate falls into bin k, at least 1, from (k − rounding) steps on, and likewise below 0. With 0.5 that is ordinary
        rounding; less widens the bin around 0 (a dead zone), which costs some error and saves more bits.
    """

    encoder: tuple
    decoder: tuple
    first: np.ndarray
    counts: np.ndarray
    rounding: float

    def __repr__(self):
        return f"Codec of {len(self.first)} coordinates counted on {self.counts[0].sum():,} images"

    def encode(self, images):
        """Coordinates, float32 (n, d), of images as `ae_lib.data.as_flat_images` takes them."""
        return _through(self.encoder, as_flat_images(images))

    def decode(self, coordinates, step):
        """Images, float32 (n, 784) in [0, 1], of coordinates, shape (n, d), that were rounded with this step."""
        coordinates = np.asarray(coordinates, "float32")
        if len(self.decoder[0].weights) > len(self.first):
            coordinates = np.column_stack(
                [coordinates, np.full(len(coordinates), math.log(step), "float32")]
            )
        return _through(self.decoder, coordinates)

    def quantise(self, coordinates, step):
        """Round coordinates to symbols.

        Parameters
        ----------
        coordinates : float array, shape (n, d)
            One outside its range on the training images counts as the end of that range; `clamped` says how many do.
        step : float, at least CELL
            Width of a bin, in the coordinates' unit.

        Returns
        -------
        int32 array, shape (n, d)
            Numbers of the bins, from 0 for the lowest that training coordinates reach.
        """
        cells = np.clip(_cells(coordinates) - self.first, 0, self._cells - 1)
        return np.stack(
            [bins.symbol[cells[:, i]] for i, bins in enumerate(self._bins(step))], axis=1
        )

    def dequantise(self, symbols, step):
        """Coordinates for symbols, float32 (n, d): the mean of the training coordinates in each bin."""
        return np.stack(
            [bins.value[symbols[:, i]] for i, bins in enumerate(self._bins(step))], axis=1
        )

    def ideal_bits(self, symbols, step):
        """Ideal code length of each image under the counts, float64 (n,): −log2 of its symbols' probabilities, summed."""
        lengths = [-np.log2(bins.weight / bins.weight.sum()) for bins in self._bins(step)]
        return sum(length[symbols[:, i]] for i, length in enumerate(lengths))

    def clamped(self, coordinates):
        """How many of each image's coordinates lie outside their range on the training images, integers (n,)."""
        cells = _cells(coordinates) - self.first
        return ((cells < 0) | (cells >= self._cells)).sum(axis=1)

    @cached_property
    def fingerprint(self):
        """SHA-256 of everything that `save` writes, 32 bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            little = array.astype(array.dtype.newbyteorder("<"))
            digest.update(f"{name} {little.dtype.str} {little.shape} ".encode() + little.tobytes())
        return digest.digest()

    def receiver_bytes(self):
        """What a receiver needs before any stream, as bytes: the decoder's float32 weights, and the counts."""
        parts = [part for stage in self.decoder for part in stage.parts().values()]
        weights = b"".join(part.tobytes() for part in parts if part.dtype == np.float32)
        return weights, self.first.tobytes() + self.counts.tobytes()

    def save(self, path):
        """Write the codec to one .npz file, without pickled objects."""
        np.savez_compressed(path, **self._arrays())

    def _arrays(self):
        arrays = {
            "version": np.array(VERSION),
            "cell": np.array(CELL),
            "rounding": np.array(self.rounding),
        }
        for half in ("encoder", "decoder"):
            for number, stage in enumerate(getattr(self, half)):
                arrays |= {
                    f"{half}.{number}.{field}": part for field, part in stage.parts().items()
                }
        return arrays | {"first": self.first, "counts": self.counts}

    @cached_property
    def _cells(self):
        """How many cells each coordinate's range has, integers (d,)."""
        return self.counts.shape[1] - (self.counts[:, ::-1] > 0).argmax(axis=1)

    def _bins(self, step):
        _check_step(step)
        return [
            _bins(first, counts[:length], float(step), self.rounding)
            for first, counts, length in zip(
                self.first.astype("int64"), self.counts, self._cells, strict=True
            )
        ]


def from_autoencoder(encoder, decoder, images, rounding=0.5, metric_images=1000):
    """Make a codec of a trained autoencoder.

    The units of a code are correlated and differ in what they change in the image, so a step of equal size for all would
    waste bits. Here the code is turned into coordinates in which it would not, at small steps: an error of the code costs
    its length in the metric G = mean of JᵀJ, J being the decoder's Jacobian; in that metric the eigenvectors of the codes'
    covariance are taken, the Karhunen–Loève transform (Goyal 2001). The coordinates' unit is then that of the root of the
    squared error summed over the pixels, and they are uncorrelated.

    Parameters
    ----------
    encoder, decoder : keras.Model, (n, 784) → (n, d) and (n, d) → (n, 784)
        Layers in a row, as the builders of `ae_lib.models` make them: dense ones with linear, ReLU or sigmoid activation, and
        those of `NETWORK_LAYERS`. The code of a `ae_lib.models.GaussianCode` is its mean.
    images : uint8 or float array, shape (n, 784)
        The training images, on whose codes everything is fitted.
    rounding : float, in (0, 0.5]
        See `Codec`.
    metric_images : int
        On how many of the images, spread evenly, the metric is averaged.

    Returns
    -------
    Codec

    Raises
    ------
    StudyError
        If a layer is of another kind, or a rounding is outside its range.
    """
    inwards, outwards = _stages(mean_encoder(encoder).layers), _stages(decoder.layers)
    codes = _through(inwards, as_flat_images(images))
    metric = _mean_metric(outwards, codes[:: max(1, len(codes) // metric_images)])
    mean, forward, backward = _klt(codes.astype("float64"), metric)
    inwards += (_layer(forward, -mean @ forward, "linear"),)
    return _counted(inwards, (_layer(backward, mean, "linear"), *outwards), images, rounding)


def tuned(codec, images, validation, settings, steps):
    """Train a codec's decoder further, on rounded coordinates, and tell it the step.

    The decoder of an autoencoder has seen exact codes only. For rounded ones the best reconstruction is the mean of all
    images whose codes fall into the same bins, which is the less sharp the larger the step. Each training image is rounded
    with a step of its own, drawn log-uniformly; the encoder, and so every code, stays as it is.

    Parameters
    ----------
    codec : Codec
        As `from_autoencoder` made it of a decoder whose first layer is dense.
    images, validation : uint8 or float32 arrays, shape (n, 784)
    settings : ae_lib.training.Settings
    steps : (float, float)
        The smallest and the largest step drawn.

    Returns
    -------
    Codec, keras.callbacks.History

    Raises
    ------
    StudyError
        If the decoder's first layer is not dense, so that there is no place for the step.

    References
    ----------
    One decoder for many rates that is told the rate: Choi, El-Khamy and Lee, "Variable rate deep image compression with a
    conditional autoencoder", ICCV 2019.
    """
    encoder = _keras_layers(codec.encoder, trainable=False)
    decoder = _keras_layers(_told_the_step(codec.decoder))
    inputs = keras.Input((PIXELS,))
    outputs = keras.Sequential(
        [*encoder, _RandomStep(steps, codec.rounding, settings.seed), *decoder]
    )(inputs)
    model = keras.Model(inputs, outputs)
    history = fit(model, images, validation, settings)
    return replace(codec, decoder=_stages(decoder)), history


def from_pca(pca, images, rounding=0.5, gain=1.0):
    """Make a codec of a fitted `sklearn.decomposition.PCA`.

    Its values are cut to [0, 1]. What is cut costs nothing, so that a contrast stronger than that of the mean of a bin lowers
    the error: ``gain`` multiplies what is drawn beside the mean image. Else as `from_autoencoder`.
    """
    basis, mean = pca.components_.astype("float64"), pca.mean_.astype("float64")
    encoder = (_layer(basis.T, -basis @ mean, "linear"),)
    return _counted(encoder, (_layer(gain * basis, mean, "clip"),), images, rounding)


def load(path):
    """Read a codec that `Codec.save` wrote; `StudyError` if the file is not one."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
        if (int(arrays["version"]), float(arrays["cell"])) != (VERSION, CELL):
            raise StudyError(
                f"{path} holds a codec of version {arrays['version']}; expected version {VERSION}: fit the codec again."
            )
        halves = [_read_stages(arrays, half) for half in ("encoder", "decoder")]
        return Codec(*halves, arrays["first"], arrays["counts"], float(arrays["rounding"]))
    except (
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zipfile.zlib.error,
    ) as error:
        raise StudyError(
            f"{path} cannot be read as a codec ({error}); expected a file written by Codec.save: fit the codec again."
        ) from error


def compress(images, codec, step):
    """Images to a stream.

    Parameters
    ----------
    images : array, shape (n, 28, 28), (n, 28, 28, 1) or (n, 784), n at least 1
        uint8 in [0, 255], or floating point in [0, 1].
    codec : Codec
    step : float, at least CELL
        The larger, the fewer bytes and the more error.

    Returns
    -------
    bytes

    Raises
    ------
    StudyError
        If images or step are not of that kind.
    """
    _check_step(step)
    return pack(codec.quantise(codec.encode(images), step), codec, step)


def decompress(stream, codec):
    """A stream to images.

    Parameters
    ----------
    stream : bytes
        As `compress` gave it with the same codec.
    codec : Codec

    Returns
    -------
    float32 array, shape (n, 784), in [0, 1]
        Their last bits may differ between machines; the symbols behind them do not.

    Raises
    ------
    StudyError
        If the stream is truncated, altered, of another codec, or of a newer version: nothing is decoded then.
    """
    symbols, step = unpack(stream, codec)
    return codec.decode(codec.dequantise(symbols, step), step)


def pack(symbols, codec, step):
    """Symbols, as `Codec.quantise` gives them, to a stream."""
    coder = constriction.stream.stack.AnsCoder()
    # A stack: what is pushed last is popped first.
    for i, bins in reversed(list(enumerate(codec._bins(step)))):
        if len(bins.weight) > 1:  # a coordinate that never leaves its only bin costs nothing
            coder.encode_reverse(np.ascontiguousarray(symbols[:, i], "int32"), _model(bins))
    payload = coder.get_compressed().astype("<u4").tobytes()
    head = HEAD.pack(
        MAGIC, VERSION, codec.fingerprint[:DIGEST], step, len(symbols), len(payload) // 4
    )
    return head + _checksum(head, payload) + payload


def unpack(stream, codec):
    """A stream to its symbols, int32 (n, d), and its step; raises as `decompress`."""
    step, count, payload = _checked(stream, codec)
    coder = constriction.stream.stack.AnsCoder(np.frombuffer(payload, "<u4").astype("uint32"))
    columns = [
        coder.decode(_model(bins), count) if len(bins.weight) > 1 else np.zeros(count, "int32")
        for bins in codec._bins(step)
    ]
    if not coder.is_empty():
        raise StudyError(
            "The stream holds more than its images; expected nothing after them: fetch the stream again."
        )
    return np.stack(columns, axis=1), step


def error_at(rate, rates, errors):
    """Error of each image at a rate between those measured.

    Its logarithm is taken to be linear in the rate. By Hölder's inequality the mean of these errors is never more than the
    straight line between the two measured means, on a logarithmic scale or on a plain one.

    Parameters
    ----------
    rate : float
    rates : float array, shape (m,)
        In bits per image.
    errors : float array, shape (m, n)
        Of each image at each of these rates.

    Returns
    -------
    float64 array, shape (n,)

    Raises
    ------
    StudyError
        If the rate is not among or between the others.
    """
    order = np.argsort(rates)
    rates, errors = np.asarray(rates)[order], np.asarray(errors)[order]
    if not rates[0] <= rate <= rates[-1]:
        raise StudyError(
            f"The rate {rate:.4g} was not measured; expected one from {rates[0]:.4g} to {rates[-1]:.4g} bits per image: "
            "add smaller or larger steps."
        )
    right = max(1, np.searchsorted(rates, rate))
    share = (rate - rates[right - 1]) / (rates[right] - rates[right - 1])
    return errors[right - 1] ** (1 - share) * errors[right] ** share


def mosaic(images):
    """Images side by side in one picture, each centred in a tile of 32 × 32 pixels on the darkest ground.

    A file's header is then paid once, and no block of JPEG (8 × 8) or WebP (16 × 16) belongs to two images.

    Parameters
    ----------
    images : uint8 array, shape (n, 784)

    Returns
    -------
    uint8 array, shape (32 × rows, 32 × columns)
    """
    columns = math.isqrt(len(images) - 1) + 1
    rows = -(-len(images) // columns)
    tiles = np.zeros((rows * columns, TILE, TILE), "uint8")
    edge = (TILE - SIDE) // 2
    tiles[: len(images), edge : edge + SIDE, edge : edge + SIDE] = images.reshape(-1, SIDE, SIDE)
    return (
        tiles.reshape(rows, columns, TILE, TILE).swapaxes(1, 2).reshape(rows * TILE, columns * TILE)
    )


def from_mosaic(picture, count):
    """The first ``count`` images, uint8 (count, 784), of a `mosaic`."""
    rows, columns = (side // TILE for side in picture.shape)
    tiles = picture.reshape(rows, TILE, columns, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)
    edge = (TILE - SIDE) // 2
    return tiles[:count, edge : edge + SIDE, edge : edge + SIDE].reshape(count, PIXELS)


def picture_file(picture, kind, **options):
    """A grey picture, uint8 (rows, columns), as a file of Pillow's and back: the file's bytes, and the picture decoded.

    ``kind`` and ``options`` are Pillow's, e.g. ``"JPEG", quality=50`` or ``"WEBP", lossless=True``.
    """
    file = BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    with Image.open(file) as decoded:
        return file.getvalue(), np.asarray(decoded.convert("L"))


def _layer(weights, bias, activation):
    return Layer(np.ascontiguousarray(weights, "float32"), np.asarray(bias, "float32"), activation)


def _stages(layers):
    """Dense layers become `Layer`, runs of others `Network`."""
    stages = []
    kept = [layer for layer in layers if not isinstance(layer, keras.layers.InputLayer)]
    for is_dense, run in itertools.groupby(
        kept, key=lambda layer: isinstance(layer, keras.layers.Dense)
    ):
        together = list(run)
        stages += map(_dense, together) if is_dense else [_network(together)]
    return tuple(stages)


def _dense(layer):
    if layer.activation.__name__ not in ACTIVATIONS or not layer.use_bias:
        raise _not_for(layer)
    return _layer(*map(np.asarray, layer.get_weights()), layer.activation.__name__)


def _network(layers):
    if len(layers[0].input.shape) != 2:
        raise StudyError(
            f"The layer {layers[0].name!r} takes arrays of shape {layers[0].input.shape}; expected rows of numbers, as all models "
            "of this study take and give them: put a Reshape before it."
        )
    config = {
        "inputs": math.prod(layers[0].input.shape[1:]),
        "layers": [_plain(layer) for layer in layers],
    }
    arrays = [np.asarray(array, "float32") for layer in layers for array in layer.get_weights()]
    return Network(json.dumps(config, sort_keys=True), tuple(arrays))


def _plain(layer):
    """Class and options of a layer; what is left out is its name and what only training uses."""
    name, options = type(layer).__name__, layer.get_config()
    if name not in NETWORK_LAYERS or options.get("activation", "linear") not in ACTIVATIONS:
        raise _not_for(layer)
    return name, {
        key: value
        for key, value in options.items()
        if key not in ("name", "trainable") and _is_plain(value)
    }


def _is_plain(value):
    return isinstance(value, bool | int | float | str) or (
        isinstance(value, list | tuple) and all(map(_is_plain, value))
    )


def _plain_layer(name, options):
    # A file may come from anywhere: nothing that Keras would look up, import or run is taken from it.
    if name not in NETWORK_LAYERS or not all(map(_is_plain, options.values())):
        raise ValueError(f"a layer {name!r} with options {options}")
    return getattr(keras.layers, name)(**options)


def _not_for(layer):
    return StudyError(
        f"The layer {layer.name!r} is of type {type(layer).__name__}; expected Dense, {' or '.join(NETWORK_LAYERS)}, with one of the "
        f"activations {', '.join(ACTIVATIONS)} and biases: the codec is not made for other networks."
    )


def _keras_layers(stages, trainable=True):
    made = [layer for stage in stages for layer in stage.keras_layers()]
    for layer in made:
        layer.trainable = trainable
    return made


def _told_the_step(decoder):
    """The decoder with one more input, of which it makes nothing as yet."""
    back, first, *rest = decoder
    if not isinstance(first, Layer):
        raise StudyError(
            "The decoder's first layer is not dense; expected one that can be given the step: build it so."
        )
    # The first layer takes in the way back to codes, which `from_autoencoder` put before it.
    weights = np.vstack([back.weights @ first.weights, np.zeros(len(first.bias))])
    return _layer(weights, back.bias @ first.weights + first.bias, first.activation), *rest


class _RandomStep(keras.layers.Layer):
    """Round each code with a step drawn for it, and append the logarithm of that step."""

    def __init__(self, steps, rounding, seed):
        super().__init__()
        self.logs, self.rounding, self.random = (
            np.log(steps),
            rounding,
            keras.random.SeedGenerator(seed),
        )

    def call(self, x):
        log = keras.random.uniform((keras.ops.shape(x)[0], 1), *self.logs, seed=self.random)
        step = keras.ops.exp(log)
        rounded = (
            keras.ops.sign(x) * keras.ops.floor(keras.ops.abs(x) / step + self.rounding) * step
        )
        return keras.ops.concatenate([rounded, log], axis=1)


def _through(stages, x):
    def run(part):
        for stage in stages:
            part = stage(part)
        return part

    return predict_in_batches(run, x, BATCH)


def _mean_metric(stages, codes):
    """Mean over codes of JᵀJ, J the Jacobian of the stages: the Jacobians are carried along, code by code."""
    total = 0
    for start in range(0, len(codes), 100):
        x = codes[start : start + 100]
        jacobian = np.broadcast_to(
            np.eye(codes.shape[1], dtype="float32"), (len(x), codes.shape[1], codes.shape[1])
        )
        for stage in stages:
            x, jacobian = stage.carry(x, jacobian)
        flat = jacobian.swapaxes(0, 1).reshape(codes.shape[1], -1)
        total = total + (flat @ flat.T).astype("float64")
    return total / len(codes)


def _klt(codes, metric):
    """Mean, map to uncorrelated coordinates of falling variance in which the metric is the identity, and the way back."""
    values, vectors = np.linalg.eigh(metric)
    # A unit that the decoder ignores has no length in the metric; it is given a very small one, so that there is a way back.
    root = np.sqrt(np.maximum(values, 1e-6 * values.max()))
    whitened = (codes - codes.mean(axis=0)) @ (vectors * root)
    _, turn = np.linalg.eigh(whitened.T @ whitened)
    turn = turn[:, ::-1]
    return codes.mean(axis=0), (vectors * root) @ turn, turn.T @ (vectors / root).T


def _counted(encoder, decoder, images, rounding):
    if not 0 < rounding <= 0.5:
        raise StudyError(
            f"rounding is {rounding}; expected a number above 0 and up to 0.5: change it."
        )
    cells = _cells(_through(encoder, as_flat_images(images)))
    first = cells.min(axis=0)
    length = int((cells.max(axis=0) - first).max()) + 1
    counts = [np.bincount(column, minlength=length) for column in (cells - first).T]
    return Codec(
        encoder, decoder, first.astype("int32"), np.array(counts, "uint32"), float(rounding)
    )


def _cells(coordinates):
    return np.clip(np.floor(np.asarray(coordinates) / CELL), -(2**31), 2**31 - 1).astype("int64")


def _bins(first, counts, step, rounding):
    """A coordinate's `Bins`. Only exact or correctly rounded arithmetic: the same weights on every machine."""
    cells = first + np.arange(len(counts))
    highest = math.floor(max(-cells[0], cells[-1] + 1) * CELL / step + rounding)
    edges = np.floor((np.arange(1, highest + 1) - rounding) * step / CELL + 0.5).astype("int64")
    symbol = np.searchsorted(np.concatenate([-edges[::-1], edges]), cells, side="right")
    symbol = (symbol - symbol[0]).astype("int32")
    start = np.searchsorted(symbol, np.arange(symbol[-1] + 1))
    # One half is added to each count (Krichevsky and Trofimov, "The performance of universal encoding", IEEE Transactions on
    # Information Theory 27(2), 1981), so that no bin is impossible; doubled, the weights are whole numbers.
    weight = 2 * np.add.reduceat(counts.astype("int64"), start) + 1
    mass = counts + 1e-3  # an empty bin has its middle for a mean
    value = np.add.reduceat(mass * (cells + 0.5) * CELL, start) / np.add.reduceat(mass, start)
    return Bins(symbol, weight, value.astype("float32"))


def _model(bins):
    # constriction brings the weights to fixed point by the same sums and products of float64 everywhere.
    return constriction.stream.model.Categorical(bins.weight.astype("float64"), perfect=False)


def _check_step(step):
    if isinstance(step, bool) or not isinstance(step, Real) or not CELL <= step < math.inf:
        raise StudyError(f"The step is {step!r}; expected a number of at least {CELL}: change it.")


def _checksum(head, payload):
    return hashlib.sha256(head + payload).digest()[:DIGEST]


def _checked(stream, codec):
    """Step, number of images and payload of a stream, or the reason why it is refused."""
    if not isinstance(stream, bytes):
        raise StudyError(
            f"The stream is of type {type(stream).__name__}; expected bytes: read it with open(path, 'rb')."
        )
    if stream[: len(MAGIC)] != MAGIC or len(stream) < len(MAGIC) + 1:
        raise StudyError(
            f"The stream begins with {stream[:4]!r}; expected {MAGIC!r} and a version: it is no stream of this codec."
        )
    if stream[len(MAGIC)] > VERSION:
        raise StudyError(
            f"The stream is of version {stream[len(MAGIC)]}; expected at most {VERSION}: read it with a newer ae_lib."
        )
    damaged = "fetch the stream again, it was truncated or altered."
    if len(stream) < HEADER:
        raise StudyError(
            f"The stream has {len(stream)} bytes; expected a header of {HEADER} first: {damaged}"
        )
    _, version, fingerprint, step, count, words = HEAD.unpack_from(stream)
    if len(stream) != HEADER + 4 * words:
        raise StudyError(
            f"The stream has {len(stream)} bytes; expected {HEADER + 4 * words} by its header: {damaged}"
        )
    head, checksum, payload = stream[: HEAD.size], stream[HEAD.size : HEADER], stream[HEADER:]
    if version != VERSION or count == 0:
        raise StudyError(
            f"The stream is of version {version} and holds {count} images; expected version {VERSION} and at least one: {damaged}"
        )
    if _checksum(head, payload) != checksum:
        raise StudyError(
            f"The stream's checksum is {checksum.hex()}; expected {_checksum(head, payload).hex()}: {damaged}"
        )
    if fingerprint != codec.fingerprint[:DIGEST]:
        raise StudyError(
            f"The stream was made by the codec {fingerprint.hex()}, this one is {codec.fingerprint[:DIGEST].hex()}; expected "
            "the same: load the codec that made it."
        )
    return step, count, payload


def _read_stages(arrays, half):
    stages = []
    while any(name.startswith(f"{half}.{len(stages)}.") for name in arrays):
        prefix = f"{half}.{len(stages)}."
        stages.append(
            _read_stage(
                {n.removeprefix(prefix): part for n, part in arrays.items() if n.startswith(prefix)}
            )
        )
    return tuple(stages)


def _read_stage(parts):
    if "config" not in parts:
        return Layer(parts["weights"], parts["bias"], str(parts["activation"]))
    network = Network(
        str(parts["config"]), tuple(parts[f"array_{i}"] for i in range(len(parts) - 1))
    )
    network.keras_layers()  # which fails now, if ever
    return network
