"""Builders of the study's networks, with the Keras Functional API."""

from typing import NamedTuple

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError

import keras
import numpy as np
from keras import layers


class Autoencoder(NamedTuple):
    """An autoencoder and its two halves, which share its weights.

    Attributes
    ----------
    autoencoder : keras.Model, (n, 784) → (n, 784)
    encoder : keras.Model, (n, 784) → (n, latent_dim)
    decoder : keras.Model, (n, latent_dim) → (n, 784)
    """

    autoencoder: keras.Model
    encoder: keras.Model
    decoder: keras.Model


def dense_autoencoder(input_dim=784, hidden=(256, 128), latent_dim=32):
    """Build the fully connected autoencoder; by default 784-256-128-32-128-256-784.

    Hidden layers are ReLU. The bottleneck is linear, so that a code may use both signs; without hidden layers, with a
    linear output and squared error, the network would be PCA. The output is a sigmoid, since pixels lie in [0, 1].

    Parameters
    ----------
    input_dim : int
        Number of pixels of a flattened image.
    hidden : sequence of int
        Units of the encoder's hidden layers; the decoder mirrors them.
    latent_dim : int
        Units of the bottleneck.

    Returns
    -------
    Autoencoder
        Not compiled. Initial weights follow `keras.utils.set_random_seed`.

    Raises
    ------
    StudyError
        If the units of a layer are not a whole number of at least 1.

    References
    ----------
    Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006.
    """
    for units in (input_dim, *hidden, latent_dim):
        if not isinstance(units, int) or units < 1:
            raise StudyError(
                f"A layer has {units!r} units; expected a whole number of at least 1: change hidden or latent_dim."
            )
    encoder = _stack("encoder", input_dim, hidden, layers.Dense(latent_dim, name="code"))
    output = layers.Dense(input_dim, activation="sigmoid", name="reconstruction")
    decoder = _stack("decoder", latent_dim, tuple(reversed(hidden)), output)
    images = keras.Input((input_dim,), name="images")
    autoencoder = keras.Model(images, decoder(encoder(images)), name="autoencoder")
    return Autoencoder(autoencoder, encoder, decoder)


def _stack(name, input_dim, hidden, last):
    inputs = x = keras.Input((input_dim,), name=f"{name}_input")
    for number, units in enumerate(hidden, 1):
        x = layers.Dense(units, activation="relu", name=f"{name}_{number}")(x)
    return keras.Model(inputs, last(x), name=name)


def stacked(autoencoders):
    """Put k dense autoencoders of one shape side by side, so that they are trained in one go, each on its own images.

    They share nothing: the gradient of each depends on its own images only. The loss is the mean over all k, so each
    gradient is k times smaller than it would be alone; Adam divides by the gradient's size and takes notice of that only
    through its epsilon.

    Parameters
    ----------
    autoencoders : sequence of k keras.Model, as `dense_autoencoder` builds them
        Their weights are the initial ones; they are copied.

    Returns
    -------
    keras.Model, (n, k, 784) → (n, k, 784)
        Not compiled.

    Raises
    ------
    StudyError
        If the autoencoders have different layers.
    """
    tables = [layer_table(model) for model in autoencoders]
    if any(table != tables[0] for table in tables):
        raise StudyError("The autoencoders have different layers; expected the same units in each: build them alike.")
    k, input_dim = len(autoencoders), autoencoders[0].input_shape[1]
    images = x = keras.Input((k, input_dim), name="images")
    for name, units, activation, _ in tables[0]:
        x = layers.EinsumDense(
            "nki,kio->nko", (k, units), bias_axes="ko", activation=activation, name=name, kernel_initializer="zeros"
        )(x)
    model = keras.Model(images, x, name="stacked")
    weights = zip(*(autoencoder.get_weights() for autoencoder in autoencoders), strict=True)
    model.set_weights([np.stack(one) for one in weights])
    return model


def halves(autoencoder):
    """The encoder and the decoder inside a loaded autoencoder, as an `Autoencoder`."""
    return Autoencoder(autoencoder, autoencoder.get_layer("encoder"), autoencoder.get_layer("decoder"))


def layer_table(model):
    """Names, units, activations and parameter counts of the dense layers, input to output, one tuple each."""
    dense = [layer for half in halves(model)[1:] for layer in half.layers if isinstance(layer, layers.Dense)]
    return [(layer.name, layer.units, layer.activation.__name__, layer.count_params()) for layer in dense]


def classifier(encoder, classes):
    """Put a softmax layer on a copy of an encoder, for training with labels.

    Parameters
    ----------
    encoder : keras.Model, (n, ...) → (n, latent_dim)
        Left as it is: the copy has weights of its own, and new initial ones.
    classes : int
        Units of the softmax layer.

    Returns
    -------
    keras.Model, (n, ...) → (n, classes)
        Not compiled. Its layer ``encoder.name`` is the copy. Initial weights follow `keras.utils.set_random_seed`.
    """
    images = keras.Input(encoder.input_shape[1:], name="images")
    codes = keras.models.clone_model(encoder)(images)
    # No activation in between: the code is linear, as in the autoencoder, so that both signs reach the softmax.
    return keras.Model(images, layers.Dense(classes, activation="softmax", name="classes")(codes), name="classifier")
