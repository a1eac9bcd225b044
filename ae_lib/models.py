"""Builders of the study's networks, with the Keras Functional API."""

import math
from typing import NamedTuple

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError

import keras
import numpy as np
import tensorflow as tf
from keras import layers

# Of random numbers in a compiled graph: left to choose, XLA takes one that needs 440 ns a number on a CPU, this needs 7.
GENERATOR = "philox"


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


def dense_autoencoder(input_dim=784, hidden=(256, 128), latent_dim=32, bottleneck="linear"):
    """Build the fully connected autoencoder; by default 784-256-128-32-128-256-784.

    Hidden layers are ReLU. The bottleneck is linear by default, so that a code may use both signs; without hidden layers,
    with a linear output and squared error, the network would be PCA. The output is a sigmoid, since pixels lie in [0, 1].

    Parameters
    ----------
    input_dim : int
        Number of pixels of a flattened image.
    hidden : sequence of int
        Units of the encoder's hidden layers; the decoder mirrors them.
    latent_dim : int
        Units of the bottleneck.
    bottleneck : {"linear", "relu"}
        Its activation.

    Returns
    -------
    Autoencoder
        Not compiled. Initial weights follow `keras.utils.set_random_seed`.

    Raises
    ------
    StudyError
        If the units of a layer are not a whole number of at least 1, or the bottleneck is neither.

    References
    ----------
    Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313, 2006.
    """
    _check_units(input_dim, *hidden, latent_dim)
    if bottleneck not in ("linear", "relu"):
        raise StudyError(f"bottleneck is {bottleneck!r}; expected 'linear' or 'relu': change it.")
    return _mirrored(
        input_dim, hidden, latent_dim, layers.Dense(latent_dim, bottleneck, name="code")
    )


def convolutional_autoencoder(input_dim=784, filters=(32, 64), latent_dim=32):
    """Build a convolutional autoencoder whose images are flat outside, like those of all other models.

    Each convolution halves the side of the image with a stride of 2; the decoder mirrors them with transposed
    convolutions. Kernels are 3 × 3, hidden layers ReLU, the bottleneck linear, the output a sigmoid. With the default
    values, an image is (28, 28, 1), (14, 14, 32), (7, 7, 64), then a code of 32 numbers, and back.

    Parameters
    ----------
    input_dim : int
        Number of pixels of a flattened square image, whose side is a multiple of 2 to the number of convolutions.
    filters : sequence of int
        Filters of the encoder's convolutions.
    latent_dim : int
        Units of the bottleneck.

    Returns
    -------
    Autoencoder
        Not compiled. Initial weights follow `keras.utils.set_random_seed`.

    Raises
    ------
    StudyError
        If filters or units are not whole numbers of at least 1, or the image is not a square that the strides divide.

    References
    ----------
    Masci, Meier, Cireşan and Schmidhuber, "Stacked convolutional auto-encoders for hierarchical feature extraction", ICANN
    2011. Strides take the place of its max-pooling, after Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for
    simplicity: the all convolutional net", ICLR 2015 workshop.
    """
    _check_units(input_dim, *filters, latent_dim)
    side, multiple = math.isqrt(input_dim), 2 ** len(filters)
    if side**2 != input_dim or side % multiple:
        raise StudyError(
            f"An image has {input_dim} pixels; expected a square whose side is a multiple of {multiple}, since each of "
            f"{len(filters)} strides halves it: change the image's size, or the number of filters."
        )
    small = side // multiple, side // multiple, filters[-1] if filters else 1
    look = {"kernel_size": 3, "strides": 2, "padding": "same"}
    inwards = [
        layers.Conv2D(count, activation="relu", name=f"encoder_{n}", **look)
        for n, count in enumerate(filters, 1)
    ]
    outwards = [
        layers.Conv2DTranspose(count, activation="relu", name=f"decoder_{n}", **look)
        for n, count in enumerate(reversed(filters[:-1]), 2)
    ]
    last = layers.Conv2DTranspose(1, activation="sigmoid", name="reconstruction", **look)
    return _composed(
        _chain(
            "encoder",
            input_dim,
            layers.Reshape((side, side, 1), name="to_square"),
            *inwards,
            layers.Flatten(name="to_row"),
            layers.Dense(latent_dim, name="code"),
        ),
        _chain(
            "decoder",
            latent_dim,
            layers.Dense(math.prod(small), activation="relu", name="decoder_1"),
            layers.Reshape(small, name="to_square"),
            *outwards,
            *([last] if filters else []),
            layers.Flatten(name="to_row"),
        ),
    )


def variational_autoencoder(input_dim=784, hidden=(500, 500), latent_dim=40, beta=1.0):
    """Build a fully connected variational autoencoder with Gaussian codes and Bernoulli pixels.

    Its shape is that of `dense_autoencoder`, but for the bottleneck: the encoder's layer ``posterior`` gives the mean and the
    logarithm of the variance of q(z | x), and the layer ``code`` is a `GaussianCode`, which draws from it in training.
    Trained with the mean binary cross-entropy per pixel, as every model here, the loss is −ELBO / `input_dim` for β = 1.

    Parameters
    ----------
    input_dim, hidden, latent_dim : as in `dense_autoencoder`
    beta : float, at least 0
        Weight of the divergence against the reconstruction (Higgins et al., "β-VAE", ICLR 2017); 1 for the ELBO.

    Returns
    -------
    Autoencoder
        Not compiled. Outside training its code is the mean of q(z | x). Initial weights follow
        `keras.utils.set_random_seed`.

    Raises
    ------
    StudyError
        If the units of a layer are not a whole number of at least 1, or beta is negative or not finite.

    References
    ----------
    Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014.
    """
    _check_units(input_dim, *hidden, latent_dim)
    if not 0 <= beta < math.inf:
        raise StudyError(f"beta is {beta!r}; expected a finite number of at least 0: change it.")
    posterior = layers.Dense(2 * latent_dim, name="posterior")
    return _mirrored(
        input_dim, hidden, latent_dim, posterior, GaussianCode(beta / input_dim, name="code")
    )


@keras.saving.register_keras_serializable(package="ae_lib")
class GaussianCode(layers.Layer):
    """Draw a code from a Gaussian with diagonal covariance, and add its divergence from N(0, I) to the loss.

    In training, z = μ + exp(½ log σ²) ε with ε from N(0, I), so that gradients reach μ and σ (the reparametrisation of
    Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014); otherwise z = μ. In both cases the weighted mean over
    the batch of KL(q(z | x) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − log σ²), as in their appendix B, is a loss of this layer.

    Parameters
    ----------
    weight : float
        Of the divergence, in nats per image, in the loss.
    seed : int, optional
        Of ε. By default it follows `keras.utils.set_random_seed`.

    Notes
    -----
    Shapes (n, 2 d) → (n, d): the first d numbers are μ, the others log σ².
    """

    def __init__(self, weight=1.0, seed=None, **options):
        super().__init__(**options)
        self.weight, self.seed = weight, seed
        self.random = keras.random.SeedGenerator(seed)

    def call(self, posterior, training=False):  # noqa: D102
        mean, log_variance = keras.ops.split(posterior, 2, axis=-1)
        self.add_loss(self.weight * keras.ops.mean(gaussian_kl(mean, log_variance)))
        if not training:
            return mean
        # Keras's own normal numbers leave the generator to XLA.
        noise = tf.random.stateless_normal(
            tf.shape(mean), tf.cast(self.random.next(), tf.int32), alg=GENERATOR
        )
        return mean + keras.ops.exp(log_variance / 2) * noise

    def compute_output_shape(self, shape):  # noqa: D102
        return (*shape[:-1], shape[-1] // 2)

    def get_config(self):  # noqa: D102
        return {**super().get_config(), "weight": self.weight, "seed": self.seed}


def gaussian_kl(mean, log_variance):
    """KL(N(μ, diag σ²) ‖ N(0, I)) in nats, one value per row; both shape (n, d), as arrays or tensors."""
    terms = keras.ops.square(mean) + keras.ops.exp(log_variance) - 1 - log_variance
    return keras.ops.sum(terms, axis=-1) / 2


def _check_units(*units):
    for number in units:
        if not isinstance(number, int) or number < 1:
            raise StudyError(
                f"A layer has {number!r} units; expected a whole number of at least 1: change hidden, filters or latent_dim."
            )


def _mirrored(input_dim, hidden, latent_dim, *bottleneck):
    encoder = _chain("encoder", input_dim, *_hidden("encoder", hidden), *bottleneck)
    output = layers.Dense(input_dim, activation="sigmoid", name="reconstruction")
    return _composed(
        encoder, _chain("decoder", latent_dim, *_hidden("decoder", reversed(hidden)), output)
    )


def _hidden(name, units):
    return [
        layers.Dense(count, activation="relu", name=f"{name}_{n}")
        for n, count in enumerate(units, 1)
    ]


def _chain(name, input_dim, *steps):
    inputs = x = keras.Input((input_dim,), name=f"{name}_input")
    for layer in steps:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def _composed(encoder, decoder):
    images = keras.Input(encoder.input_shape[1:], name="images")
    return Autoencoder(
        keras.Model(images, decoder(encoder(images)), name="autoencoder"), encoder, decoder
    )


def reinitialized(autoencoder):
    """Build an autoencoder of the same layers with initial weights of its own.

    Parameters
    ----------
    autoencoder : keras.Model, as the builders of this module make them

    Returns
    -------
    keras.Model
        Not compiled. Its weights follow `keras.utils.set_random_seed`, as those of the builders do: a dense one is the very
        network that `dense_autoencoder` gives under that seed; others draw theirs in another order than their builders.
    """
    encoder = as_autoencoder(autoencoder).encoder
    if not _all_of(autoencoder, layers.Dense):
        return keras.models.clone_model(autoencoder)
    hidden, activation = (
        [layer.units for layer in encoder.layers[1:-1]],
        encoder.layers[-1].activation.__name__,
    )
    return dense_autoencoder(
        encoder.input_shape[1], hidden, encoder.output_shape[1], activation
    ).autoencoder


def _inner_layers(autoencoder):
    both = [layer for half in as_autoencoder(autoencoder)[1:] for layer in half.layers]
    return [layer for layer in both if not isinstance(layer, layers.InputLayer)]


def _all_of(autoencoder, kinds):
    return all(isinstance(layer, kinds) for layer in _inner_layers(autoencoder))


def last_hidden(encoder):
    """The encoder up to its last hidden layer: a keras.Model, (n, 784) → (n, units), that shares its weights."""
    names = {"code", "posterior"}
    return keras.Model(
        encoder.input, [layer for layer in encoder.layers if layer.name not in names][-1].output
    )


def mean_encoder(encoder):
    """An encoder that gives the mean of a code in training as well, which a classifier can be trained on.

    Parameters
    ----------
    encoder : keras.Model, (n, 784) → (n, latent_dim)

    Returns
    -------
    keras.Model, (n, 784) → (n, latent_dim)
        The encoder itself, unless it ends in a `GaussianCode`. Then a dense layer takes the place of the last two: the half
        of ``posterior`` that gives the mean. The hidden layers are shared, and the codes equal up to rounding.
    """
    if not isinstance(encoder.layers[-1], GaussianCode):
        return encoder
    (posterior, code), latent_dim = encoder.layers[-2:], encoder.output_shape[1]
    mean = layers.Dense(latent_dim, activation=posterior.activation, name=code.name)
    model = keras.Model(encoder.input, mean(posterior.input), name=encoder.name)
    mean.set_weights([part[..., :latent_dim] for part in posterior.get_weights()])
    return model


def stacked(autoencoders):
    """Put k autoencoders of one kind side by side, so that they are trained in one go, each on its own images.

    They share nothing: the gradient of each depends on its own images only. The loss is the mean over all k, so each
    gradient is k times smaller than it would be alone; Adam divides by the gradient's size and takes notice of that only
    through its epsilon. Fully connected ones, variational ones included, become layers of k matrices each, which are one
    product; others become branches.

    Parameters
    ----------
    autoencoders : sequence of k keras.Model, as the builders of this module make them
        Their weights are the initial ones. Those of fully connected ones are copied; others are taken as they are, and the
        weights of their divergences, if they have any, are divided by k.

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
    shapes = [[weights.shape for weights in model.get_weights()] for model in autoencoders]
    if any(alike != (tables[0], shapes[0]) for alike in zip(tables, shapes, strict=True)):
        raise StudyError(
            "The autoencoders have different layers; expected the same units in each: build them alike."
        )
    if not _all_of(autoencoders[0], (layers.Dense, GaussianCode)):
        return _branches(autoencoders)
    k, input_dim = len(autoencoders), autoencoders[0].input_shape[1]
    images = x = keras.Input((k, input_dim), name="images")
    for layer in _inner_layers(autoencoders[0]):
        # The mean of a divergence is over the images of all k, and so is 1 / k of each.
        alike = (
            GaussianCode(layer.weight, name=layer.name)
            if isinstance(layer, GaussianCode)
            else _matrices(k, layer)
        )
        x = alike(x)
    model = keras.Model(images, x, name="stacked")
    weights = zip(*(autoencoder.get_weights() for autoencoder in autoencoders), strict=True)
    model.set_weights([np.stack(one) for one in weights])
    return model


def _matrices(k, dense):
    return layers.EinsumDense(
        "nki,kio->nko",
        (k, dense.units),
        bias_axes="ko",
        activation=dense.activation,
        name=dense.name,
        kernel_initializer="zeros",
    )


def _branches(autoencoders):
    k, input_dim = len(autoencoders), autoencoders[0].input_shape[1]
    images = keras.Input((k, input_dim), name="images")
    for autoencoder in autoencoders:
        for layer in as_autoencoder(autoencoder).encoder.layers:
            if isinstance(layer, GaussianCode):
                layer.weight /= k
    # Names must differ within a model.
    branches = [
        keras.Model(a.input, a.output, name=f"autoencoder_{i}") for i, a in enumerate(autoencoders)
    ]
    drawn = [branch(images[:, i]) for i, branch in enumerate(branches)]
    return keras.Model(images, keras.ops.stack(drawn, axis=1), name="stacked")


def load(path):
    """Load a trained autoencoder from a Keras file, as an `Autoencoder`."""
    return as_autoencoder(keras.models.load_model(path))


def as_autoencoder(autoencoder):
    """The encoder and the decoder inside an autoencoder, as an `Autoencoder`."""
    return Autoencoder(
        autoencoder, autoencoder.get_layer("encoder"), autoencoder.get_layer("decoder")
    )


def predict_in_batches(network, x, size=1000):
    """The outputs of a network, or of another callable, for all rows of ``x``, ``size`` at a time."""
    # Not `predict`, which compiles each model, and warns if many are asked one after the other.
    parts = np.split(x, range(size, len(x), size))
    return np.concatenate([np.asarray(network(part)) for part in parts])


def layer_table(model):
    """Names, units, activations and parameter counts of the dense layers, input to output, one tuple each."""
    dense = [
        layer
        for half in as_autoencoder(model)[1:]
        for layer in half.layers
        if isinstance(layer, layers.Dense)
    ]
    return [
        (layer.name, layer.units, layer.activation.__name__, layer.count_params())
        for layer in dense
    ]


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
    return keras.Model(
        images,
        layers.Dense(classes, activation="softmax", name="classes")(codes),
        name="classifier",
    )
