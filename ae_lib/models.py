"""Builders of the study's networks, with the Keras Functional API."""

import math
from typing import NamedTuple

from ae_lib import StudyError, silenced_stderr
from ae_lib.data import whole_number

import numpy as np

with silenced_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

# Whatever the user's keras.json and environment say.
keras.config.set_max_epochs(None)
keras.config.set_max_steps_per_epoch(None)
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")
keras.config.set_epsilon(1e-7)

# Of random numbers in a compiled graph. XLA's own choice takes 440 ns a number on a CPU, this 7.
GENERATOR = "philox"
# XLA's code for convolutions on a CPU takes some thirty times as long as TensorFlow's kernels.
SLOW_WITH_XLA = tuple(getattr(layers, name) for name in dir(layers) if "Conv" in name)


class Autoencoder(NamedTuple):
    """An autoencoder (n, d) → (n, d), its encoder and its decoder, which share its weights."""

    autoencoder: keras.Model
    encoder: keras.Model
    decoder: keras.Model


def dense_autoencoder(input_dim=784, hidden=(256, 128), latent_dim=32, bottleneck="linear"):
    """Build the fully connected autoencoder; by default 784-256-128-32-128-256-784.

    Hidden layers (``hidden`` units in the encoder, mirrored in the decoder) are ReLU, the code of
    ``latent_dim`` units is "linear", so that it has both signs, or "relu", and the output is a
    sigmoid, since pixels lie in [0, 1]. See Hinton and Salakhutdinov, "Reducing the dimensionality
    of data with neural networks", Science 313, 2006.

    All builders return an `Autoencoder` that is not compiled and whose initial weights follow
    `keras.utils.set_random_seed`, and raise `StudyError` unless units are whole numbers of at
    least 1.
    """
    if bottleneck not in ("linear", "relu"):
        raise StudyError(f"bottleneck is {bottleneck!r}; expected 'linear' or 'relu': change it.")
    latent_dim = whole_number("latent_dim", latent_dim)
    code = layers.Dense(latent_dim, bottleneck, name="code")
    return _mirrored(input_dim, hidden, latent_dim, code)


def convolutional_autoencoder(shape=(28, 28), filters=(16, 128), latent_dim=32):
    """Build a convolutional autoencoder, whose images are flat outside, like those of all models.

    ``shape`` is their height and width, which may have any size. Each convolution, of ``filters``
    filters, divides both by its stride of 2, rounding up; the decoder mirrors them with transposed
    convolutions, and crops the row or column that is too many. Kernels are 3 × 3, hidden layers
    ReLU, the code of ``latent_dim`` units linear, the output a sigmoid. After Masci, Meier, Cireşan
    and Schmidhuber, "Stacked convolutional auto-encoders for hierarchical feature extraction",
    ICANN 2011, with strides in place of max-pooling.
    """
    shape = tuple(whole_number("shape", side) for side in shape)
    latent_dim = whole_number("latent_dim", latent_dim)
    filters = [whole_number("filters", count) for count in filters]
    sizes = [tuple(-(-side // 2**n) for side in shape) for n in range(len(filters) + 1)]
    small = *sizes[-1], filters[-1] if filters else 1
    options = {"kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"}
    convolutions = [
        layers.Conv2D(count, name=f"encoder_{n}", **options) for n, count in enumerate(filters, 1)
    ]
    transposed = [
        layers.Conv2DTranspose(count, name=f"decoder_{n}", **options)
        for n, count in enumerate(reversed(filters[:-1]), 2)
    ]
    options["activation"] = "sigmoid"
    if filters:
        transposed.append(layers.Conv2DTranspose(1, name="reconstruction", **options))
    outwards = []
    for layer, (height, width) in zip(transposed, sizes[-2::-1], strict=True):
        excess = (0, height % 2), (0, width % 2)  # twice the half, rounded up, is one too many
        crop = [layers.Cropping2D(excess)] if height % 2 or width % 2 else []
        outwards += [layer, *crop]
    encoder = [
        layers.Reshape((*shape, 1), name="to_square"),
        *convolutions,
        layers.Flatten(name="to_row"),
        layers.Dense(latent_dim, name="code"),
    ]
    decoder = [
        layers.Dense(math.prod(small), activation="relu", name="decoder_1"),
        layers.Reshape(small, name="to_square"),
        *outwards,
        layers.Flatten(name="to_row"),
    ]
    pixels = math.prod(shape)
    return _composed(_chain("encoder", pixels, encoder), _chain("decoder", latent_dim, decoder))


def variational_autoencoder(input_dim=784, hidden=(500, 500), latent_dim=40, beta=1.0):
    """Build a fully connected variational autoencoder with Gaussian codes and Bernoulli pixels.

    It is a `dense_autoencoder` but for its bottleneck: the encoder's layer ``posterior`` gives the
    mean and the logarithm of the variance of q(z | x), and the layer ``code`` is a `GaussianCode`,
    which gives the mean outside training. ``beta``, at least 0, is the weight of the KL divergence
    (Higgins et al., "β-VAE", ICLR 2017). Trained with the mean binary cross-entropy per pixel, the
    loss is −ELBO / ``input_dim`` for a beta of 1. See Kingma and Welling, "Auto-encoding
    variational Bayes", ICLR 2014.
    """
    latent_dim = whole_number("latent_dim", latent_dim)
    if not 0 <= beta < math.inf:
        raise StudyError(f"beta is {beta!r}; expected a finite number of at least 0: change it.")
    posterior = layers.Dense(2 * latent_dim, name="posterior")
    code = GaussianCode(beta / whole_number("input_dim", input_dim), name="code")
    return _mirrored(input_dim, hidden, latent_dim, posterior, code)


@keras.saving.register_keras_serializable(package="ae_lib")
class GaussianCode(layers.Layer):
    """Sample a code from a Gaussian with diagonal covariance; its KL divergence is a loss.

    In training, z = μ + exp(½ log σ²) ε with ε from N(0, I), the reparametrisation of Kingma and
    Welling; otherwise z = μ. The input, shape (n, 2 d), is μ beside log σ²; the output is (n, d).
    ``weight`` is that of the mean KL(q(z | x) ‖ N(0, I)), in nats per image, in the loss; ``seed``,
    which by default follows `keras.utils.set_random_seed`, that of ε.
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
        seed = tf.cast(self.random.next(), tf.int32)
        noise = tf.random.stateless_normal(tf.shape(mean), seed, alg=GENERATOR)
        return mean + keras.ops.exp(log_variance / 2) * noise

    def compute_output_shape(self, shape):  # noqa: D102
        return (*shape[:-1], shape[-1] // 2)

    def get_config(self):  # noqa: D102
        return {**super().get_config(), "weight": self.weight, "seed": self.seed}


def gaussian_kl(mean, log_variance):
    """KL(N(μ, diag σ²) ‖ N(0, I)) in nats, one value per row; both shape (n, d)."""
    terms = keras.ops.square(mean) + keras.ops.exp(log_variance) - 1 - log_variance
    return keras.ops.sum(terms, axis=-1) / 2


def _mirrored(input_dim, hidden, latent_dim, *bottleneck):
    # The order in which layers are made decides their initial weights.
    input_dim = whole_number("input_dim", input_dim)
    hidden = [whole_number("hidden", count) for count in hidden]
    encoder = _chain("encoder", input_dim, [*_hidden_layers("encoder", hidden), *bottleneck])
    output = layers.Dense(input_dim, activation="sigmoid", name="reconstruction")
    decoder = _chain("decoder", latent_dim, [*_hidden_layers("decoder", hidden[::-1]), output])
    return _composed(encoder, decoder)


def _hidden_layers(name, units):
    return [
        layers.Dense(count, activation="relu", name=f"{name}_{n}")
        for n, count in enumerate(units, 1)
    ]


def _chain(name, input_dim, steps):
    inputs = x = keras.Input((input_dim,), name=f"{name}_input")
    for layer in steps:
        x = layer(x)
    return keras.Model(inputs, x, name=name)


def _composed(encoder, decoder):
    images = keras.Input(encoder.input_shape[1:], name="images")
    autoencoder = keras.Model(images, decoder(encoder(images)), name="autoencoder")
    return Autoencoder(autoencoder, encoder, decoder)


def load(path):
    """Load a trained autoencoder, an `Autoencoder`, from a Keras file; `StudyError` if none."""
    try:
        return as_autoencoder(keras.models.load_model(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = str(error).partition(":")[0]
        raise StudyError(
            f"{path} cannot be read as an autoencoder ({reason}); expected a "
            ".keras file of a model that a builder of ae_lib.models made: train it again."
        ) from error


def as_autoencoder(autoencoder):
    """Return an autoencoder with the encoder and the decoder inside it, as an `Autoencoder`."""
    encoder, decoder = (autoencoder.get_layer(name) for name in ("encoder", "decoder"))
    return Autoencoder(autoencoder, encoder, decoder)


def _inner_layers(autoencoder):
    _, encoder, decoder = as_autoencoder(autoencoder)
    both = [*encoder.layers, *decoder.layers]
    return [layer for layer in both if not isinstance(layer, layers.InputLayer)]


def layer_table(autoencoder):
    """Name, units, activation and parameter count of each dense layer, input to output."""
    return [
        (layer.name, layer.units, layer.activation.__name__, layer.count_params())
        for layer in _inner_layers(autoencoder)
        if isinstance(layer, layers.Dense)
    ]


def reinitialized(autoencoder):
    """Build an autoencoder, a keras.Model, of the same layers with new initial weights.

    They follow `keras.utils.set_random_seed`; a fully connected one is the network that
    `dense_autoencoder` gives under that seed.
    """
    if not all(isinstance(layer, layers.Dense) for layer in _inner_layers(autoencoder)):
        return keras.models.clone_model(autoencoder)
    _, *hidden_layers, code = as_autoencoder(autoencoder).encoder.layers
    hidden = [layer.units for layer in hidden_layers]
    input_dim, bottleneck = autoencoder.input_shape[1], code.activation.__name__
    return dense_autoencoder(input_dim, hidden, code.units, bottleneck).autoencoder


def mean_encoder(encoder):
    """Return an encoder that gives the mean of a code in training, too, as a classifier needs it.

    That is the encoder itself, unless it ends in a `GaussianCode`. Then a dense layer with a copy
    of the means' weights takes the place of ``posterior`` and ``code``; hidden layers are shared.
    """
    if not isinstance(encoder.layers[-1], GaussianCode):
        return encoder
    (posterior, code), latent_dim = encoder.layers[-2:], encoder.output_shape[1]
    mean = layers.Dense(latent_dim, activation=posterior.activation, name=code.name)
    model = keras.Model(encoder.input, mean(posterior.input), name=encoder.name)
    mean.set_weights([part[..., :latent_dim] for part in posterior.get_weights()])
    return model


def classifier(encoder, classes):
    """Put a softmax layer for a number of classes on a copy of an encoder, not compiled.

    The copy, the layer ``encoder.name``, has new initial weights, and the encoder does not change.
    """
    images = keras.Input(encoder.input_shape[1:], name="images")
    # No activation in between: the softmax gets the linear code, both signs of it.
    codes = keras.models.clone_model(encoder)(images)
    labels = layers.Dense(classes, activation="softmax", name="classes")(codes)
    return keras.Model(images, labels, name="classifier")


def stacked(autoencoders):
    """Put k autoencoders of one kind side by side, to train them in one go, each on its own images.

    Images are (n, k, 784). The gradient of each depends on its own images only. The loss is the
    mean over all k, so each gradient is k times smaller than alone; of that Adam's step shows no
    more than its epsilon. The models, as this module's builders make them, give the initial
    weights; those that are not fully connected are shared.

    Raises `StudyError` if their layers differ, or sample codes without being fully connected.
    """
    kinds = [(layer_table(a), [w.shape for w in a.get_weights()]) for a in autoencoders]
    if any(kind != kinds[0] for kind in kinds):
        raise StudyError(
            "The autoencoders have different layers; expected equal ones: build them alike."
        )
    inner = _inner_layers(autoencoders[0])
    if all(isinstance(layer, layers.Dense | GaussianCode) for layer in inner):
        return _stacked_matrices(autoencoders, inner)
    if any(isinstance(layer, GaussianCode) for layer in inner):
        raise StudyError(
            "The autoencoders sample codes but are not fully connected; expected layers that can "
            "be stacked: train them one by one."
        )
    return _branches(autoencoders)


def _stacked_matrices(autoencoders, inner):
    k, input_dim = len(autoencoders), autoencoders[0].input_shape[1]
    images = x = keras.Input((k, input_dim), name="images")
    for layer in inner:
        if isinstance(layer, GaussianCode):
            # The mean KL divergence is over the images of all k, and so is 1 / k of each.
            x = GaussianCode(layer.weight, name=layer.name)(x)
        else:
            options = {"activation": layer.activation, "name": layer.name, "bias_axes": "ko"}
            # Weights follow below; zeros leave the seeds of random numbers to the codes.
            options["kernel_initializer"] = "zeros"
            x = layers.EinsumDense("nki,kio->nko", (k, layer.units), **options)(x)
    model = keras.Model(images, x, name="stacked")
    weights = zip(*(autoencoder.get_weights() for autoencoder in autoencoders), strict=True)
    model.set_weights([np.stack(parts) for parts in weights])
    return model


def _branches(autoencoders):
    images = keras.Input((len(autoencoders), autoencoders[0].input_shape[1]), name="images")
    # Names must differ within a model.
    branches = [
        keras.Model(autoencoder.input, autoencoder.output, name=f"autoencoder_{i}")
        for i, autoencoder in enumerate(autoencoders)
    ]
    reconstructed = [branch(images[:, i]) for i, branch in enumerate(branches)]
    return keras.Model(images, keras.ops.stack(reconstructed, axis=1), name="stacked")


def compiler_for(model):
    """Choose ``"none"`` for a model with convolutions if there is no GPU, else ``"xla"``."""
    convolutions = any(isinstance(layer, SLOW_WITH_XLA) for layer in model_layers(model))
    return "none" if convolutions and not tf.config.list_physical_devices("GPU") else "xla"


def model_layers(model):
    """Yield all layers of a model, those of models inside it included."""
    for layer in getattr(model, "layers", []):
        yield layer
        yield from model_layers(layer)


def predict_in_batches(network, x, size=None):
    """Return the outputs of a network, or of another callable, for all rows of x.

    ``size`` rows at a time; by default 10,000, or 1,000 where convolutions take memory.
    """
    function = _compiled(network) if isinstance(network, keras.Model) else network
    if size is None:
        size = 10_000 if compiler_for(network) == "xla" else 1000
    parts = np.split(x, range(size, len(x), size))
    return np.concatenate([np.asarray(function(part)) for part in parts])


def _compiled(network):
    # As `predict` does, which takes much longer to compile, and warns if many models are asked.
    if not hasattr(network, "compiled_call"):
        # Not of a lambda, which TensorFlow would take for one function that is traced too often.
        network.compiled_call = tf.function(network, autograph=False, reduce_retracing=True)
    return network.compiled_call
