"""Reconstruction errors per image, the uncertainty of their means, and comparisons of means."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import convolution_matrix
from scipy.special import entr, xlog1py, xlogy
from scipy.stats import bootstrap
from scipy.stats import t as student

EPSILON = 1e-7  # Keras's: predictions are clipped to [EPSILON, 1 - EPSILON] before the logarithm
PART = 1000  # images at a time
SCORES = ("bce", "excess_bce", "mse", "sse", "psnr", "ssim")


@dataclass(frozen=True)
class Interval:
    """A number and the two ends of its 95 % interval; NaN ends if it has none."""

    value: float
    low: float
    high: float

    def __repr__(self):
        if np.isnan(self.value):
            return "–"
        if np.isnan(self.low):  # a number without an interval, such as a count
            return f"{self.value:,.0f}" if abs(self.value) >= 1e4 else f"{self.value:#.4g}"
        return f"{self.value:#.4g} [{self.low:#.4g}, {self.high:#.4g}]"

    @property
    def verdict(self):
        """Whether it lies above 0: "yes", "no" if it lies below, "undecided" if it holds 0.

        A dash if the number could not be computed.
        """
        if np.isnan(self.value):
            return "–"
        return "yes" if self.low > 0 else "no" if self.high < 0 else "undecided"

    def above(self, other):
        """Tell whether it lies above another: "undecided" if they overlap or an end is NaN.

        For two independent means with 95 % intervals of equal width, "yes" and "no" are a test at
        0.6 % (Schenker and Gentleman, "On judging the significance of differences by examining the
        overlap between confidence intervals", The American Statistician 55(3), 2001).
        """
        return "yes" if self.low > other.high else "no" if self.high < other.low else "undecided"


def _in_parts(function):
    """Let a function of images go through them in parts, whose float64 copies stay small."""

    def in_parts(*arrays, **options):
        cuts = range(PART, len(arrays[0]), PART)
        parts = zip(*(np.split(a, cuts) for a in np.broadcast_arrays(*arrays)), strict=True)
        return np.concatenate([function(*part, **options) for part in parts])

    return functools.wraps(function)(in_parts)


@_in_parts
def bce(x, y, epsilon=EPSILON):
    """Return the binary cross-entropy of each image, in nats per pixel.

    Parameters
    ----------
    x, y : float arrays, shape (n, d), in [0, 1]
        Targets and predictions; these are clipped to [epsilon, 1 - epsilon].

    Returns
    -------
    float64 array, shape (n,)
        Grey targets have a least possible value above 0: their `entropy`.
    """
    x = np.asarray(x, "float64")
    y = np.clip(np.asarray(y, "float64"), epsilon, 1 - epsilon)
    return -(xlogy(x, y) + xlog1py(1 - x, -y)).mean(axis=1)


@_in_parts
def entropy(x):
    """Return each image's entropy in nats per pixel, its pixels read as probabilities.

    −x log x − (1 − x) log(1 − x), averaged over the pixels: the `bce` of a perfect reconstruction.
    """
    x = np.asarray(x, "float64")
    return (entr(x) + entr(1 - x)).mean(axis=1)


@_in_parts
def mse(x, y):
    """Return the mean squared error per pixel of each image; float64, shape (n,)."""
    return np.square(np.asarray(x, "float64") - y).mean(axis=1)


def psnr(x, y):
    """Return each image's peak signal-to-noise ratio in decibels, −10 log10 of its `mse`."""
    with np.errstate(divide="ignore"):  # a perfect reconstruction has an infinite ratio
        return -10 * np.log10(mse(x, y))


@_in_parts
def ssim(x, y, *, shape):
    """Return the structural similarity of each image, 1 for equal ones; float64, shape (n,).

    ``shape`` is the images' height and width. Gaussian window of 11 pixels, or of as many as fit in
    a smaller image, an odd number; σ 1.5, K1 0.01, K2 0.03, as in Wang, Bovik, Sheikh and
    Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE TIP
    13, 2004.
    """
    reach = min(5, (min(shape) - 1) // 2)
    window = np.exp(-np.square(np.arange(-reach, reach + 1)) / (2 * 1.5**2))
    # A matrix on either side, the window being a product: a convolution takes thirty times as long.
    rows, columns = (convolution_matrix(window / window.sum(), n, "valid") for n in shape)

    def local_mean(images):
        return rows @ images @ columns.T

    x, y = (np.asarray(images, "float64").reshape(-1, *shape) for images in (x, y))
    mean_x, mean_y = local_mean(x), local_mean(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = local_mean(x * y) - product, local_mean(x**2 + y**2) - squares
    luminance = (2 * product + 0.01**2) / (squares + 0.01**2)
    structure = (2 * covariance + 0.03**2) / (variances + 0.03**2)
    return (luminance * structure).mean(axis=(1, 2))


def score(x, y, shape, epsilon=EPSILON):
    """Return all reconstruction errors, one row per image, one column for each of `SCORES`.

    ``x`` are images, float (n, h · w), in [0, 1], of ``shape`` (h, w); predictions ``y`` may leave
    it, as PCA's do, and are clipped to [epsilon, 1 - epsilon] for the BCE only.
    """
    cross_entropy, squared = bce(x, y, epsilon=epsilon), mse(x, y)
    return pd.DataFrame(
        {
            "bce": cross_entropy,
            "excess_bce": cross_entropy - entropy(x),  # above the least possible one
            "mse": squared,
            "sse": squared * x.shape[1],  # as in Hinton and Salakhutdinov (2006)
            "psnr": psnr(x, y),
            "ssim": ssim(x, y, shape=shape),
        }
    )


def interval(values, seed=0, resamples=1000):
    """Return the mean of independent values with its 95 % percentile bootstrap interval.

    Over test images, it says how far the mean would move with another test set of the same size,
    not with another training seed. Source: Efron and Tibshirani, "An introduction to the
    bootstrap", 1993, chapter 13.

    Parameters
    ----------
    values : float array, shape (n,)
        With fewer than two values the ends are NaN; with none, or a NaN, so is the mean.
    seed : int
        Seed of the bootstrap resampling.
    """
    values = np.asarray(values, "float64")
    if len(values) < 2 or np.isnan(values).any():
        return Interval(float(values.sum()) if len(values) else np.nan, np.nan, np.nan)
    generator = np.random.default_rng(seed)
    options = {"n_resamples": resamples, "method": "percentile", "batch": 50, "rng": generator}
    result = bootstrap((values,), np.mean, **options)
    return Interval(float(values.mean()), *map(float, result.confidence_interval))


def difference(first, second, seed=0):
    """Return the `interval` of the mean of ``first - second``, paired image by image."""
    return interval(np.asarray(first) - np.asarray(second), seed)


def higher(first, second, seed=0):
    """Tell whether the mean of ``first`` is above that of ``second``: "yes", "no", "undecided"."""
    return difference(first, second, seed).verdict


def lower(first, second, seed=0):
    """Tell whether the mean of ``first`` is below that of ``second``: "yes", "no", "undecided"."""
    return difference(second, first, seed).verdict


def student_interval(mean, std, n, level=0.95):
    """Return a mean of n ≥ 2 roughly normal values with its interval after Student.

    ``std`` is the values' standard deviation, with n − 1 in the denominator.
    """
    half = std / np.sqrt(n) * student.ppf((1 + level) / 2, n - 1)
    return Interval(float(mean), float(mean - half), float(mean + half))


def welch_interval(first, second, level=0.95):
    """Return the difference of two means of independent values, with its interval after Welch.

    ``first`` and ``second`` are (mean, std, n), as for `student_interval`. Source: Welch, "The
    generalization of 'Student's' problem when several different population variances are
    involved", Biometrika 34, 1947.
    """
    variances = np.array([std**2 / n for _, std, n in (first, second)])
    freedom = np.array([n - 1 for _, _, n in (first, second)])
    value, total = first[0] - second[0], variances.sum()
    half = total  # 0, or NaN
    if total > 0:
        degrees = total**2 / (variances**2 / freedom).sum()
        half = np.sqrt(total) * student.ppf((1 + level) / 2, degrees)
    return Interval(float(value), float(value - half), float(value + half))


def numbered_name(name, number):
    """Return a part of a metric's name with a number, its decimal point as ``_``: ``step_0_6``."""
    return f"{name}_{number:g}".replace(".", "_")
