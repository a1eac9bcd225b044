"""Evaluate a variational autoencoder as a model of binary images: ELBO, likelihood, active units.

The model is p(z) = N(0, I) and p(x | z) = Π Bernoulli(x; decoder(z)); the encoder gives
q(z | x) = N(μ, diag σ²). All likelihoods are in nats per image.
"""

import math
import zlib
from dataclasses import dataclass

from ae_lib import StudyError, figures, models
from ae_lib.metrics import bce

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from scipy.special import logsumexp


def binarised(images, seed=0):
    """Sample binary images, float32 (n, pixels); a pixel is 1 with its grey value as probability.

    Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", ICML 2008.
    ``images`` are float, shape (n, pixels), in [0, 1].
    """
    uniform = np.random.default_rng(seed).random(images.shape, dtype="float32")
    return (uniform < images).astype("float32")  # uniform is below 1: white stays white


def posterior(encoder, x):
    """Return mean and log-variance of q(z | x), float32 (n, d) each, for images x, (n, pixels).

    ``encoder`` is that of `ae_lib.models.variational_autoencoder`.
    """
    both = keras.Model(encoder.input, encoder.get_layer("posterior").output)
    return np.split(models.predict_in_batches(both, x), 2, axis=1)


def kl_terms(mean, log_variance):
    """Return KL(q(z_j | x) ‖ N(0, 1)) of each unit in nats, float32 (n, d)."""
    return np.asarray(models.gaussian_kl(mean[..., None], log_variance[..., None]))


def bernoulli(decoder):
    """Return log p(x | z) of binary pixels as a function, from the decoder's logits.

    The function maps tensors x (n, pixels) and z (n, s, d) to shape (n, s). With logits l it is
    x·l − Σ log(1 + exp l). Without the sigmoid nothing has to be clipped. Weights are shared with
    the decoder. Raises `StudyError` if its last layer is not dense with a sigmoid.
    """
    last = decoder.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.activation is not keras.activations.sigmoid:
        raise StudyError(
            f"The decoder's last layer is {type(last).__name__} {last.name!r}; expected a dense "
            "layer with a sigmoid: give a decoder of models.variational_autoencoder."
        )
    before = keras.Model(decoder.input, decoder.layers[-2].output)

    def log_likelihood(x, z):
        hidden = before(tf.reshape(z, (-1, z.shape[-1])))
        logits = tf.reshape(tf.matmul(hidden, last.kernel) + last.bias, (*z.shape[:2], -1))
        return tf.reduce_sum(x[:, None] * logits - tf.math.softplus(logits), axis=-1)

    return log_likelihood


def log_weights(x, mean, log_variance, log_likelihood, samples, seed=0, rows=3000):
    """Return log importance weights p(x | z) p(z) / q(z | x), float32 (n, samples), of codes.

    Their mean estimates the ELBO, the log of the weights' mean the log-likelihood. Raises
    `StudyError` if there are no samples.

    Parameters
    ----------
    x : float32 array, shape (n, pixels)
    mean, log_variance : float32 arrays, shape (n, d)
        Of q(z | x), from which the codes are sampled.
    log_likelihood : callable
        Tensors x (m, pixels) and z (m, s, d) to log p(x | z), shape (m, s); compiled by XLA.
    samples, seed : int
        Number of codes per image, and the seed of the samples.
    rows : int
        Codes decoded at a time, which bounds the memory; at least those of one image.
    """
    return sum(_log_terms(x, mean, log_variance, log_likelihood, samples, seed, rows))


def negative_elbo(x, mean, log_variance, log_likelihood, samples, seed=0, rows=3000):
    """Estimate each image's negative evidence lower bound and its two parts, in nats.

    −E_q[log p(x | z)] + KL(q(z | x) ‖ p(z)), an upper bound on −log p(x). The parameters are those
    of `log_weights`. The expectation is a mean over codes sampled from q(z | x); the KL divergence
    is exact. Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, equation 7. Returns
    a pandas.DataFrame with one row per image and columns ``negative_elbo``, ``reconstruction`` (the
    expectation, with its sign) and ``kl``, of which the first is the sum of the others.
    """
    likelihoods, _ = _log_terms(x, mean, log_variance, log_likelihood, samples, seed, rows)
    reconstruction = -likelihoods.mean(axis=1, dtype="float64")
    kl = kl_terms(mean, log_variance).sum(axis=1, dtype="float64")
    parts = {"reconstruction": reconstruction, "kl": kl}
    return pd.DataFrame({"negative_elbo": reconstruction + kl, **parts})


def one_sample_negative_elbo(model, x, seed=0):
    """Estimate each image's negative ELBO from a single code; float64 (n,), in nats.

    Noisier than `negative_elbo`, but nothing is compiled, which pays for many small networks.
    ``model`` is an `ae_lib.models.Autoencoder` with a Gaussian code, ``x`` binary, (n, pixels).
    """
    mean, log_variance = posterior(model.encoder, x)
    noise = np.random.default_rng(seed).standard_normal(mean.shape, dtype="float32")
    y = models.predict_in_batches(model.decoder, mean + np.exp(log_variance / 2) * noise)
    return x.shape[1] * bce(x, y) + kl_terms(mean, log_variance).sum(axis=1, dtype="float64")


def _log_terms(x, mean, log_variance, log_likelihood, samples, seed, rows):
    """Return log p(x | z) and log p(z) / q(z | x) of codes from q(z | x), (2, n, samples)."""
    if samples < 1:
        raise StudyError(f"samples is {samples}; expected at least 1 code per image: raise it.")
    n, size = len(x), max(1, min(len(x), rows // samples))

    def terms(x, mean, log_variance, seed):
        shape = size, samples, mean.shape[1]
        noise = tf.random.stateless_normal(shape, seed, alg=models.GENERATOR)
        log_variance = log_variance[:, None]
        z = mean[:, None] + tf.exp(log_variance / 2) * noise
        ratio = tf.reduce_sum(tf.square(noise) + log_variance - tf.square(z), axis=-1) / 2
        return log_likelihood(x, z), ratio

    shapes = [tf.TensorSpec((size, array.shape[1])) for array in (x, mean, log_variance)]
    compiled = tf.function(terms, jit_compile=True)
    compiled = compiled.get_concrete_function(*shapes, tf.TensorSpec(2, tf.int32))
    both = np.empty((2, n, samples), "float32")
    for step, start in enumerate(range(0, n, size)):
        # The last part is filled up, so that all have one shape and one program.
        part = np.arange(start, start + size) % n
        values = compiled(x[part], mean[part], log_variance[part], tf.constant([seed, step]))
        for i in range(2):
            both[i, start : start + size] = values[i][: n - start]
    return both


def importance_bound(weights, k):
    """Estimate the k-sample bound on log p(x), E[log (1/k) Σ w], over groups of k weights.

    With k of 1 it is the ELBO; it rises with k and tends to log p(x). Burda, Grosse and
    Salakhutdinov, "Importance weighted autoencoders", ICLR 2016, equation 8. ``weights`` is what
    `log_weights` returns; those that do not fill a group are left out. Returns float64 array, shape
    (n,). Raises `StudyError` if there are fewer than k samples.
    """
    n, samples = weights.shape
    if not 1 <= k <= samples:
        raise StudyError(
            f"k is {k} and there are {samples} samples per image; expected 1 to {samples}: "
            "change k."
        )
    groups = weights[:, : samples // k * k].reshape(n, -1, k)
    # In parts: in double precision all images at once would take several times the memory.
    bounds = []
    for part in np.array_split(groups, -(-n // 500)):
        bounds.append(logsumexp(part.astype("float64"), axis=2).mean(axis=1))
    return np.concatenate(bounds) - np.log(k)


def code_length(x):
    """Return the nats that zlib needs for each binary image, a measure of its complexity.

    Serrà et al., "Input complexity and out-of-distribution detection with likelihood-based
    generative models", ICLR 2020, subtract such a length from the negative log-likelihood. ``x`` is
    (n, pixels); returns float64, shape (n,).
    """
    packed = np.packbits(x.astype(bool), axis=1)
    return np.log(2) * np.array([8.0 * len(zlib.compress(row, 9)) for row in packed])


def active_units(means, threshold=0.01):
    """Tell which units are active: the variance of their posterior mean exceeds the threshold.

    The threshold is that of Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders",
    ICLR 2016, section 5.2. ``means`` is a float array, shape (n, d); returns bool, shape (d,).
    """
    return means.var(axis=0, dtype="float64") > threshold


@dataclass(frozen=True, eq=False)
class BernoulliMixture:
    """A mixture of images of independent binary pixels: the baseline for other models.

    ``shares``, shape (k,), are the components' probabilities; ``probabilities``, shape (k, pixels),
    those of a 1 in each pixel.
    """

    shares: np.ndarray
    probabilities: np.ndarray

    def joint(self, x):
        """Return log p(x, component), float32 (n, k), for binary images of shape (n, pixels)."""
        odds = np.log(self.probabilities) - np.log1p(-self.probabilities)
        constant = np.log1p(-self.probabilities).sum(axis=1) + np.log(self.shares)
        return x @ odds.T.astype("float32") + constant.astype("float32")

    def log_likelihood(self, x):
        """Return log p(x), exactly; shape (n,)."""
        return logsumexp(self.joint(x), axis=1)


def fit_mixture(x, components, iterations=30, seed=0):
    """Fit a `BernoulliMixture` by expectation maximisation.

    Bishop, "Pattern recognition and machine learning", 2006, section 9.3.3. One imaginary image,
    the mean image, is added to each component, so that no pixel is impossible. ``x`` is float32,
    (n, pixels), of zeros and ones; 1 component makes the pixels independent; the seed chooses the
    images that components start from. Raises `StudyError` for fewer images than components.
    """
    if not 1 <= components <= len(x):
        raise StudyError(
            f"components is {components}; expected 1 to the {len(x)} images: change it."
        )
    mean = (x.sum(axis=0, dtype="float64") + 1) / (len(x) + 2)
    starts = x[np.random.default_rng(seed).choice(len(x), components, replace=False)]
    mixture = BernoulliMixture(np.full(components, 1 / components), (starts + mean) / 2)
    for _ in range(iterations):
        joint = mixture.joint(x)
        joint -= joint.max(axis=1, keepdims=True)  # in place: it has n · k numbers
        held = np.exp(joint, out=joint)
        held /= held.sum(axis=1, keepdims=True)
        counts = held.sum(axis=0, dtype="float64") + 1
        probabilities = (held.T @ x + mean) / counts[:, None]
        mixture = BernoulliMixture(counts / counts.sum(), probabilities)
    return mixture


@figures.look()
def image_grids(panels, shape, caption):
    """Draw grids of images side by side, each grid as one picture.

    ``panels`` maps titles to images, float (n, h · w), in [0, 1], of ``shape`` (h, w), which fill a
    square grid row by row; those beyond the largest square are left out.
    """
    side = math.isqrt(min(map(len, panels.values())))
    size = min(6.0, 8.6 / len(panels))
    figure = figures.new(caption, height=size * shape[0] / shape[1] + 0.45)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, pictures) in zip(grid, panels.items(), strict=True):
        tiles = pictures[: side**2].reshape(side, side, *shape)
        framed = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)]).swapaxes(1, 2)
        figures.draw_image(axes, framed.reshape(side * framed.shape[1], -1))
        axes.set_title(title)
    return figure
