"""Reconstruction errors per image, the uncertainty of their means, and what claims hold."""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import convolution_matrix
from scipy.special import entr, xlog1py, xlogy
from scipy.stats import t as student

EPSILON = 1e-7  # Keras's: predictions are clipped to [EPSILON, 1 - EPSILON] before the logarithm
PART = 1000  # images at a time
SCORES = ("bce", "excess_bce", "mse", "sse", "psnr", "ssim")


@dataclass(frozen=True)
class Interval:
    """A mean and the two ends of its 95 % confidence interval; NaN ends if it has none."""

    value: float
    low: float
    high: float

    def __repr__(self):
        if np.isnan(self.value):
            return "–"
        if np.isnan(self.low):  # a number without an interval, such as a count
            return f"{self.value:,.0f}" if abs(self.value) >= 1e4 else f"{self.value:#.4g}"
        return f"{self.value:#.4g} [{self.low:#.4g}, {self.high:#.4g}]"


@dataclass(frozen=True, repr=False)
class Difference(Interval):
    """A difference of two means, its interval, and the two-sided p-value of "no difference"."""

    p: float


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


def interval(values):
    """Return the mean of values with its 95 % confidence interval.

    For values of n images the interval is Student's, and says how far the mean would move with
    other images from the same source. Values of r replicates, such as training seeds, on the same
    n images form a two-way layout, both of whose factors are random. With the mean squares of
    replicates, images and remainder, the variance of the mean is estimated by (MS_r + MS_n −
    MS_e) / (r n), or by the larger of MS_r and MS_n over r n if that is more, and its degrees of
    freedom after Satterthwaite ("An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2(6), 1946). The interval then covers other replicates and other images.

    Parameters
    ----------
    values : float array, shape (n,) or (r, n)
        With a single value the ends are NaN; with none, or a NaN among them, so is the mean.
    """
    mean, error, degrees = _estimate(values)
    half = error * student.ppf(0.975, degrees)
    return Interval(mean, mean - half, mean + half)


def difference(first, second):
    """Return the mean of ``first − second``, paired, as a `Difference`.

    Both are values as for `interval`, of the same images in the same order; a number, or values
    without replicates, such as PCA's, are compared with each replicate of the other.
    """
    mean, error, degrees = _estimate(np.asarray(first, "float64") - np.asarray(second, "float64"))
    half = error * student.ppf(0.975, degrees)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.divide(abs(mean), error)
    p = 1.0 if mean == 0 else float(2 * student.sf(statistic, degrees))
    return Difference(mean, mean - half, mean + half, p)


def ratio(part, whole):
    """Return values of n images whose mean is ``part.mean() / whole.mean()``; float64, shape (n,).

    Both are float, (n,). The values are the ratio plus each image's influence on it, so that their
    standard error is that of the delta method, the usual one of a ratio estimator (Cochran,
    "Sampling techniques", 3rd edition, 1977, section 6.4), and `interval` and `difference` apply.
    """
    part, whole = (np.asarray(values, "float64") for values in (part, whole))
    quotient = part.mean() / whole.mean()
    return quotient + (part - quotient * whole) / whole.mean()


def _estimate(values):
    """The mean of values as for `interval`, its standard error, and its degrees of freedom."""
    values = np.atleast_2d(np.asarray(values, "float64"))
    if not values.size or np.isnan(values).any():
        return np.nan, np.nan, np.nan
    r, n = values.shape
    mean, replicates, images = values.mean(), values.mean(axis=1), values.mean(axis=0)
    remainder = values - replicates[:, None] - images + mean
    squares = np.array(
        [n * np.square(replicates - mean).sum(), r * np.square(images - mean).sum(),
         np.square(remainder).sum()]
    )  # fmt: skip
    degrees = np.array([r - 1, n - 1, (r - 1) * (n - 1)])
    if not degrees.any():
        return float(mean), np.nan, np.nan
    mean_squares = squares / np.maximum(degrees, 1)
    variance = max(mean_squares @ [1, 1, -1], *mean_squares[:2])
    terms = np.square(mean_squares) / np.maximum(degrees, 1)
    freedom = variance**2 / terms.sum() if variance > 0 else degrees.max()
    return float(mean), float(np.sqrt(variance / (r * n))), float(freedom)


def holm(p_values):
    """Return p-values adjusted for being a family, so that 5 % bounds the chance of any error.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6(2), 1979. NaN, for what could not be tested, stays and does not count.
    """
    p_values = np.asarray(p_values, "float64")
    adjusted, order = np.full(len(p_values), np.nan), np.argsort(p_values)  # NaN last
    order = order[: np.isfinite(p_values).sum()]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def verdicts(differences):
    """Decide a family of `Difference`, each of which a claim says to be positive, at 5 %.

    Returns for each "yes" or "no", if its p-value after `holm` is below 0.05, else "no difference
    detected"; a dash for what could not be tested.
    """
    adjusted = holm([each.p for each in differences])
    return [
        "–" if np.isnan(p) else "no difference detected" if p >= 0.05
        else "yes" if each.value > 0 else "no"
        for each, p in zip(differences, adjusted, strict=True)
    ]  # fmt: skip


def equivalent(gain, margin):
    """Tell whether a `Difference` is within ± margin: two one-sided tests (TOST) at 2.5 % each.

    False does not prove a difference: few images never show equivalence. Schuirmann, "A comparison
    of the two one-sided tests procedure and the power approach for assessing the equivalence of
    average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987.
    """
    return -margin < gain.low and gain.high < margin


def judge(claims, values):
    """Decide the claims of a notebook together.

    Parameters
    ----------
    claims : sequence of (claim, measured, baseline, better)
        ``measured`` is a name in ``values``, ``baseline`` another or a published number, and
        ``better`` is "lower" or "higher": which values a better model has.
    values : dict
        Name to values as for `interval`.

    Returns
    -------
    pandas.DataFrame
        A row for each claim with these four, ``gain``, a `Difference` that is positive if the claim
        holds, and ``verdict``, as of `verdicts`.
    """
    rows = [
        (claim, measured, baseline, better,
         gain(values.get(measured, measured), values.get(baseline, baseline), better))
        for claim, measured, baseline, better in claims
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["claim", "measured", "baseline", "better", "gain"])
    return table.assign(verdict=verdicts(table["gain"]))


def gain(measured, baseline, better):
    """Return by how much values are better than a baseline's, as a `Difference`.

    Both are values as for `interval`, numbers, or an `Interval`, which counts as its value;
    ``better`` is "lower" or "higher", else `ValueError`.
    """
    first, second = (getattr(side, "value", side) for side in (measured, baseline))
    if better not in ("lower", "higher"):
        raise ValueError(f"better is {better!r}; expected 'lower' or 'higher': change the claim.")
    return difference(first, second) if better == "higher" else difference(second, first)


def numbered_name(name, number):
    """Return a part of a metric's name with a number, its decimal point as ``_``: ``step_0_6``."""
    return f"{name}_{number:g}".replace(".", "_")
