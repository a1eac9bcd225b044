"""One model's line in the comparison of models: how it reconstructs, what its codes are good for, what it costs."""

import time

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import metrics, models
from ae_lib.analysis import codec, latent
from ae_lib.analysis.anomaly import auroc, side_by_side
from ae_lib.training import Settings, fit

import keras
import numpy as np
from scipy.optimize import brentq

BATCH = 1000  # images sent through a network at once
FINEST = (
    4 * codec.CELL
)  # the smallest step that is tried; the grid on which coordinates are counted is still finer
COARSEST = 8.0


def reconstruction(name, x, y, seed=0):
    """Test metrics of reconstructions ``y`` of images ``x``, both (n, 784): a dict of `ae_lib.metrics.SCORES` with intervals."""
    found = metrics.score(x, y)
    return _named(name, {score: metrics.interval(found[score], seed) for score in metrics.SCORES})


def features(name, encode, images, penalties=(0.01, 0.1), seed=0):
    """Test accuracies of classifiers on codes, as a dict of metrics with intervals.

    k-NN votes with the training images; the linear probe's penalty is chosen on the validation images.

    Parameters
    ----------
    name : str
        The model's.
    encode : callable, (n, 784) → (n, d)
    images : ae_lib.data.Dataset
    penalties : sequence of float
        Candidates for the ``c`` of `ae_lib.analysis.latent.linear_probe`.
    seed : int
        Of the bootstrap.
    """
    train, val, test = map(encode, (images.x_train, images.x_val, images.x_test))
    near = latent.neighbours(train, test, 5)
    found = {f"knn{k}_accuracy": latent.vote(images.y_train, near[:, :k]) for k in (1, 5)}
    tried = [latent.linear_probe(train, images.y_train, c) for c in penalties]
    probe = max(tried, key=lambda fitted: fitted.score(val, images.y_val))
    found["linear_probe_accuracy"] = probe.predict(test)
    return _named(
        name, {score: metrics.interval(y == images.y_test, seed) for score, y in found.items()}
    )


def compression(name, own, x, error, seed=0):
    """Bits per image at which a codec reaches an error, as a dict of one metric with its interval; empty if it never does.

    The step is found for which the mean squared error of these very images is the one asked for, so that codecs are
    compared at an equal error. The bits are those of the stream, header counted; the interval is that of the images' ideal
    code lengths, which add up to nearly as much.

    Parameters
    ----------
    name : str
        The model's.
    own : ae_lib.analysis.codec.Codec
    x : float32 array, shape (n, 784), in [0, 1]
    error : float
        Mean squared error per pixel.
    seed : int
        Of the bootstrap.
    """
    coordinates = own.encode(x)

    def excess(log_step):
        step = float(np.exp(log_step))
        rounded = own.dequantise(own.quantise(coordinates, step), step)
        return np.log(metrics.mse(x, own.decode(rounded, step)).mean() / error)

    ends = np.log([FINEST, COARSEST])
    if not excess(ends[0]) <= 0 <= excess(ends[1]):
        return {}
    step = float(np.exp(brentq(excess, *ends, xtol=1e-3)))
    ideal = own.ideal_bits(own.quantise(coordinates, step), step)
    bits = 8 * len(codec.compress(x, own, step)) / len(x)
    found = metrics.interval(ideal * bits / ideal.mean(), seed)
    return {f"{name}.test.bits_at_equal_error": found}


def detection(name, autoencoder, images, settings, task, seed=0):
    """Mean AUROC in the one-class protocol of 06_detect_anomalies, as a dict of one metric with its interval.

    For each class a network of the same layers is trained on the training images of this class alone; the score is the squared
    error. One network for each class: the interval is over the test images, not over seeds.

    Parameters
    ----------
    name : str
        The model's.
    autoencoder : keras.Model
    images : ae_lib.data.Dataset
    settings : (int, int, float, str)
        Epochs, batch size, learning rate at the start, which falls to 0 along a cosine, and compiler.
    task : ae_lib.training.Reconstruct, Denoise or Binarise
        What the networks are trained for.
    seed : int
        Of initial weights and minibatches.
    """
    epochs, batch_size, rate, compiler = settings
    classes = np.unique(images.y_train)
    train, val = (
        side_by_side([pixels[labels == k] for k in classes])
        for pixels, labels in (
            (images.pixels_train, images.y_train),
            (images.pixels_val, images.y_val),
        )
    )
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train) // batch_size))
    keras.utils.set_random_seed(seed)
    stack = models.stacked([models.reinitialized(autoencoder) for _ in classes])
    fit(stack, train, val, Settings(epochs, batch_size, schedule, seed, compiler), task=task)
    parts = np.split(images.x_test[:, None], range(BATCH, len(images.x_test), BATCH))
    drawn = (
        np.square(part - stack(np.repeat(part, len(classes), axis=1))).mean(axis=2)
        for part in parts
    )
    found = auroc(np.concatenate(list(drawn)), images.y_test[:, None] != classes)
    return {f"oneclass.{name}_mse.auroc_mean": found.mean()}


def duration(name, reconstruct, x, repeats=5):
    """Seconds to encode and decode 10,000 images, as a dict of one metric: the median of several runs, after a first one."""
    reconstruct(x)
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        reconstruct(x)
        seconds.append(time.perf_counter() - begun)
    return {f"{name}.test.seconds_per_10000": float(np.median(seconds)) * 10_000 / len(x)}


def measure(name, autoencoder, images, equal_error=0.015, penalties=(0.01, 0.1), seed=0):
    """All of the above but `detection` about one autoencoder, and its sizes, as a dict of metrics.

    Parameters
    ----------
    name : str
    autoencoder : keras.Model
        As a builder of `ae_lib.models` makes it, trained.
    images : ae_lib.data.Dataset
    equal_error : float
        The ``error`` of `compression`.
    penalties : sequence of float
        Those of `features`.
    seed : int
    """
    _, encoder, decoder = models.as_autoencoder(autoencoder)
    own = codec.from_autoencoder(encoder, decoder, images.pixels_train)
    x = images.x_test
    return {
        f"{name}.parameters": autoencoder.count_params(),
        f"{name}.latent_dim": encoder.output_shape[1],
        **reconstruction(name, x, models.predict_in_batches(autoencoder, x), seed),
        **features(
            name, lambda some: models.predict_in_batches(encoder, some), images, penalties, seed
        ),
        **compression(name, own, x, equal_error, seed),
        **duration(name, lambda some: models.predict_in_batches(autoencoder, some), x),
    }


def _named(name, intervals):
    return {f"{name}.test.{score}": interval for score, interval in intervals.items()}
