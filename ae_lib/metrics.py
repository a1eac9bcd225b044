"""Reconstruction errors per image, what they mean, and how sure one can be of their mean."""

from dataclasses import dataclass

from ae_lib.data import SIDE

import numpy as np
import pandas as pd
from scipy.special import entr, xlog1py, xlogy
from scipy.stats import bootstrap
from scipy.stats import t as student

EPSILON = 1e-7  # Keras's: predictions are clipped to [EPSILON, 1 - EPSILON] before the logarithm
SCORES = ("bce", "excess_bce", "mse", "sse", "psnr", "ssim")
HIGHER_IS_BETTER = {"psnr", "ssim", "accuracy"}


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
        """Whether it lies above 0: "yes", "no" if it lies below, "undecided" if it holds 0."""
        return "yes" if self.low > 0 else "no" if self.high < 0 else "undecided"

    def above(self, other):
        """Whether it lies above another: "yes", "no" if it lies below, "undecided" if they overlap or an end is NaN.

        For two independent means with 95 % intervals of equal width, "yes" and "no" are a test at 0.6 %, stricter than one
        of the difference; the more so for means over the same images, whose errors rise and fall together. See Schenker and
        Gentleman, "On judging the significance of differences by examining the overlap between confidence intervals", The
        American Statistician 55(3), 2001.
        """
        return "yes" if self.low > other.high else "no" if self.high < other.low else "undecided"


def bce(x, y, epsilon=EPSILON):
    """Binary cross-entropy of predictions ``y`` for targets ``x``, in nats per pixel, one value per image.

    Targets are grey, not binary, so its least possible value is not 0 but the targets' own `entropy`.

    Parameters
    ----------
    x, y : float arrays, shape (n, d), in [0, 1]
    epsilon : float
        Predictions are clipped to [epsilon, 1 - epsilon].

    Returns
    -------
    float64 array, shape (n,)
    """
    x = np.asarray(x, "float64")
    y = np.clip(np.asarray(y, "float64"), epsilon, 1 - epsilon)
    return -(xlogy(x, y) + xlog1py(1 - x, -y)).mean(axis=1)


def entropy(x):
    """Entropy of grey pixels read as probabilities, in nats per pixel, one value per image: the floor of `bce`.

    −x log x − (1 − x) log(1 − x), averaged over an image's pixels; a perfect reconstruction has exactly this BCE.
    """
    x = np.asarray(x, "float64")
    return (entr(x) + entr(1 - x)).mean(axis=1)


def mse(x, y):
    """Mean squared error per image: squared differences averaged over its pixels; float64, shape (n,)."""
    return np.square(np.asarray(x, "float64") - y).mean(axis=1)


def psnr(x, y):
    """Peak signal-to-noise ratio per image, in decibels, for a peak of 1: −10 log10 of its `mse`."""
    with np.errstate(divide="ignore"):  # a perfect reconstruction has an infinite ratio
        return -10 * np.log10(mse(x, y))


def ssim(x, y):
    """Structural similarity per image, 1 for equal images; float64, shape (n,).

    With the constants of Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 13(4), 2004: Gaussian window of 11 pixels, σ 1.5, K1 0.01, K2 0.03.
    """
    import ae_lib.quiet  # noqa: F401, I001
    import tensorflow as tf

    pairs = [np.asarray(images, "float32").reshape(-1, SIDE, SIDE, 1) for images in (x, y)]
    return tf.image.ssim(*pairs, max_val=1.0).numpy().astype("float64")


def score(x, y, epsilon=EPSILON):
    """All reconstruction errors of predictions ``y`` for images ``x``.

    Parameters
    ----------
    x, y : float arrays, shape (n, 784)
        x in [0, 1]; y may leave it, as PCA's does, and is clipped for BCE only.
    epsilon : float
        The clipping of BCE.

    Returns
    -------
    pandas.DataFrame
        One row per image; columns `SCORES`. ``sse`` is summed over the 784 pixels, as in Hinton and Salakhutdinov
        (2006); ``excess_bce`` is BCE minus the entropy floor of the same image.
    """
    cross_entropy, squared = bce(x, y, epsilon), mse(x, y)
    return pd.DataFrame(
        {
            "bce": cross_entropy,
            "excess_bce": cross_entropy - entropy(x),
            "mse": squared,
            "sse": squared * x.shape[1],
            "psnr": psnr(x, y),
            "ssim": ssim(x, y),
        }
    )


def interval(values, seed=0, resamples=1000):
    """Mean of independent values with its 95 % percentile bootstrap interval.

    Says how far the mean would move with another test set of the same size, not with another training seed.

    Parameters
    ----------
    values : float array, shape (n,)
    seed : int
        Of the resampling.
    resamples : int

    Returns
    -------
    Interval
        With fewer than two values its ends are NaN; with none, its mean too.

    References
    ----------
    Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    values = np.asarray(values, "float64")
    if len(values) < 2:
        return Interval(float(values.sum()) if len(values) else np.nan, np.nan, np.nan)
    result = bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        method="percentile",
        batch=50,
        rng=np.random.default_rng(seed),
    )
    return Interval(float(values.mean()), *map(float, result.confidence_interval))


def better(name, first, second, seed=0):
    """Whether the first of two models has the better mean, from a paired bootstrap over the same images.

    Returns
    -------
    "yes", "no", or "undecided" if the interval of the mean difference holds 0.
    """
    gain = np.asarray(first) - np.asarray(second)
    return interval(gain if name in HIGHER_IS_BETTER else -gain, seed).verdict


def student_interval(mean, spread, n, level=0.95):
    """A mean with its interval after Student, for values that are few and roughly normal.

    Parameters
    ----------
    mean, spread : float
        Of the values; ``spread`` is their standard deviation, with n − 1 in the denominator.
    n : int, at least 2
    level : float

    Returns
    -------
    Interval
    """
    half = spread / np.sqrt(n) * student.ppf((1 + level) / 2, n - 1)
    return Interval(float(mean), float(mean - half), float(mean + half))


def welch_interval(first, second, level=0.95):
    """The difference between two means of independent values, with its interval after Welch.

    Parameters
    ----------
    first, second : (mean, spread, n)
        As for `student_interval`; the spreads and the numbers may differ.
    level : float

    Returns
    -------
    Interval
        Of ``first`` less ``second``; without width if neither has a spread, with NaN ends if one of them is NaN.

    References
    ----------
    Welch, "The generalization of 'Student's' problem when several different population variances are involved",
    Biometrika 34, 1947.
    """
    variances = np.array([spread**2 / n for _, spread, n in (first, second)])
    freedom = np.array([n - 1 for _, _, n in (first, second)])
    difference, total = first[0] - second[0], variances.sum()
    half = total  # 0, or NaN
    if total > 0:
        half = np.sqrt(total) * student.ppf(
            (1 + level) / 2, total**2 / (variances**2 / freedom).sum()
        )
    return Interval(float(difference), float(difference - half), float(difference + half))


def numbered(name, number):
    """A part of a metric's name with a number in it, its decimal point as ``_``: ``step_0_6``."""
    return f"{name}_{number:g}".replace(".", "_")


def pareto_front(costs, errors):
    """Which of several points no other one beats: none has a cost and an error as low, and one of the two lower.

    Parameters
    ----------
    costs, errors : float arrays, shape (n,)
        A point with a NaN beats nothing and is not on the front.

    Returns
    -------
    bool array, shape (n,)
    """
    costs, errors = np.asarray(costs, "float64"), np.asarray(errors, "float64")
    no_worse = (costs[:, None] <= costs) & (errors[:, None] <= errors)
    beaten = (no_worse & ((costs[:, None] < costs) | (errors[:, None] < errors))).any(axis=0)
    return ~beaten & np.isfinite(costs) & np.isfinite(errors)
