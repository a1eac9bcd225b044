"""Detect anomalies: scores, thresholds for a stated rate of false alarms, AUROC, corruptions."""

from dataclasses import dataclass

from ae_lib import StudyError
from ae_lib.metrics import Interval, entropy
from ae_lib.models import predict_in_batches

import keras
import numpy as np
from scipy.ndimage import gaussian_filter, rotate
from scipy.stats import norm, rankdata


def relative_error(x, y, shape, sigma=1.0):
    """Return the smoothed squared reconstruction error of each image, relative to its ink.

    The residual is smoothed by a Gaussian before it is squared. Along an edge that is reconstructed
    a fraction of a pixel beside its place, the residual is thin and smoothing damps it; where a
    stroke is missing or invented, the residual is as broad as the stroke and remains. The sum over
    the image is divided by the image's ink, since more ink has more edges.

    Parameters
    ----------
    x : float array, shape (n, h · w), in [0, 1]
    y : float array, shape (n, h · w) or (n, k, h · w)
        Reconstructions by one model, whose errors have shape (n,), or by k: (n, k).
    shape : (int, int)
        Height h and width w.
    sigma : float, at least 0
        Standard deviation of the Gaussian, in pixels.
    """
    models = [1] * (y.ndim - 2)
    residual = y - x.reshape(len(x), *models, -1)
    smooth = gaussian_filter(residual.reshape(*y.shape[:-1], *shape), sigma, axes=(-2, -1))
    ink = np.maximum(x.sum(axis=1), 1)  # an empty image counts as one with a single full pixel
    return np.square(smooth).sum(axis=(-2, -1)) / ink.reshape(-1, *models)


def scores(reconstruct, x, shape, sigma=1.0, part=1000):
    """Score images by k models at once.

    Returns a dict of ``"mse"``, ``"bce"``, ``"excess_bce"`` (BCE minus the image's entropy) and
    ``"relative"`` (`relative_error`) to float64 arrays, shape (n, k).

    Parameters
    ----------
    reconstruct : callable, (m, h · w) → (m, k, h · w)
    x : float32 array, shape (n, h · w), in [0, 1]
    shape, sigma
        As for `relative_error`.
    part : int
        Number of images reconstructed at a time.
    """

    def of_part(images):
        y = np.asarray(reconstruct(images))
        target = np.broadcast_to(images[:, None], y.shape)
        mse = np.asarray(keras.losses.mean_squared_error(target, y))
        bce = np.asarray(keras.losses.binary_crossentropy(target, y))
        excess = bce - entropy(images)[:, None]
        return np.stack([mse, bce, excess, relative_error(images, y, shape, sigma)], axis=1)

    values = np.ascontiguousarray(predict_in_batches(of_part, x, part).swapaxes(0, 1))
    return dict(zip(("mse", "bce", "excess_bce", "relative"), values, strict=True))


def threshold(errors, rate):
    """Return the error above which an image is called an anomaly, for a rate of false alarms.

    The split-conformal quantile: with n held-out normal images, the ⌈(n + 1)(1 − rate)⌉-th smallest
    of their errors. For exchangeable images the expected share of false alarms is at most ``rate``
    (Papadopoulos, Proedrou, Vovk and Gammerman, "Inductive confidence machines for regression",
    ECML 2002). ``errors`` are of normal images that the model was not trained on, float (n,).
    Raises `StudyError` if ``rate`` is not between 0 and 1, or there are too few images for it.
    """
    if not 0 < rate < 1:
        raise StudyError(
            f"The rate of false alarms is {rate}; expected a share between 0 and 1: change it."
        )
    rank = int(np.ceil((len(errors) + 1) * (1 - rate)))
    if rank > len(errors):
        raise StudyError(
            f"There are {len(errors)} held-out images for a rate of false alarms of {rate}; "
            f"expected at least {int(np.ceil(1 / rate)) - 1}: raise the rate or hold out more."
        )
    return np.sort(errors)[rank - 1]


def p_values(errors, normal):
    """Return for each error the share of normal images that are as strange, float64 (n,).

    The conformal p-value (1 + #{normal ≥ error}) / (m + 1), which is uniform or larger for an image
    that is exchangeable with the m normal ones, which the model was not trained on (Vovk, Gammerman
    and Shafer, "Algorithmic learning in a random world", 2005, chapter 2). ``errors`` are float
    (n,), ``normal`` float (m,).
    """
    below = np.searchsorted(np.sort(normal), errors, side="left")
    return (1 + len(normal) - below) / (len(normal) + 1)


@dataclass(frozen=True, eq=False)
class Auroc:
    """Areas under the ROC curve of k detection problems over the same n images.

    The intervals follow DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more
    correlated receiver operating characteristic curves: a nonparametric approach", Biometrics
    44(3), 1988.

    Attributes
    ----------
    values : float array, shape (k,)
        The share of pairs of an anomaly and a normal image in which the anomaly scores higher.
    influences : float array, shape (n, k)
        What each image adds to the estimate; their mean square over n is the estimate's variance.
    """

    values: np.ndarray
    influences: np.ndarray

    def intervals(self):
        """Return one `ae_lib.metrics.Interval` (95 %, over the images) per problem."""
        pairs = zip(self.values, self.influences.T, strict=True)
        return [_normal_interval(value, influence) for value, influence in pairs]

    def mean(self):
        """Return the mean over the problems, as an `Interval` (95 %, over the images)."""
        return _normal_interval(self.values.mean(), self.influences.mean(axis=1))

    def better(self, other):
        """Tell whether the mean is above another's on these images: "yes", "no", "undecided"."""
        return Auroc(self.values - other.values, self.influences - other.influences).mean().verdict


def _normal_interval(value, influence):
    half = norm.ppf(0.975) * np.sqrt(np.square(influence).mean() / len(influence))
    return Interval(float(value), float(value - half), float(value + half))


def auroc(scores, anomalous):
    """Compute areas under the ROC curve, and what their intervals need, as an `Auroc`.

    ``scores``, float (n, k), are higher for what is more likely an anomaly, one column per problem;
    ``anomalous``, shape (n, k), is boolean or 0 and 1. Raises `StudyError` if there are other
    labels, or a problem has no anomaly or no normal image.
    """
    labels = np.asarray(anomalous)
    anomalous = labels.astype(bool)
    if (labels != anomalous).any():
        raise StudyError(
            f"The labels are {np.unique(labels)[:5].tolist()}; expected True for anomalies and "
            "False for normal images: compare the classes first."
        )
    if not (anomalous.any(axis=0) & (~anomalous).any(axis=0)).all():
        raise StudyError(
            "A problem has only anomalies or only normal images; expected both: choose other "
            "images."
        )
    pairs = [_auroc(*pair) for pair in zip(scores.T, anomalous.T, strict=True)]
    values, influences = zip(*pairs, strict=True)
    return Auroc(np.array(values), np.stack(influences, axis=1))


def _auroc(score, anomalous):
    ranks = rankdata(score)

    def share_below(kind):  # of the other kind, below each image of this kind; ties counted half
        return (ranks[kind] - rankdata(score[kind])) / (~kind).sum()

    share = np.empty(len(score))  # of the other kind, on the right side of each image
    share[anomalous], share[~anomalous] = share_below(anomalous), 1 - share_below(~anomalous)
    value = share[anomalous].mean()
    weight = np.where(anomalous, len(score) / anomalous.sum(), len(score) / (~anomalous).sum())
    return value, weight * (share - value)


def average(aurocs):
    """Return the mean of several `Auroc` of the same problems and images, e.g. over seeds."""
    values = np.mean([each.values for each in aurocs], axis=0)
    return Auroc(values, np.mean([each.influences for each in aurocs], axis=0))


def side_by_side(sets):
    """Stack k sets of images, shape (n_i, d), to one of shape (max n_i, k, d).

    `ae_lib.models.stacked` takes them so. Smaller sets are repeated to the length of the largest.
    """
    n = max(map(len, sets))
    return np.stack([images[np.arange(n) % len(images)] for images in sets], axis=1)


def _gaussian_noise(x, _, strength, rng):
    return x + rng.normal(0, strength, x.shape)


def _salt_and_pepper(x, _, strength, rng):
    return np.where(rng.random(x.shape) < strength, rng.integers(0, 2, x.shape), x)


def _occlusion(x, shape, strength, rng):
    ends = x.cumsum(axis=1)
    # A pixel, drawn in proportion to its ink.
    middle = (ends < rng.random((len(x), 1)) * ends[:, -1:]).sum(axis=1)
    inside = np.ones(x.shape, bool)
    for axis, at in zip(
        np.divmod(np.arange(x.shape[1]), shape[1]), divmod(middle, shape[1]), strict=True
    ):
        offset = axis - at[:, None]
        inside &= (-strength / 2 <= offset) & (offset < strength / 2)
    return np.where(inside, 0, x)


def _inversion(x, _, strength, rng):
    return x + strength * (1 - 2 * x)


def _rotation(x, shape, strength, _):
    pictures = x.reshape(-1, *shape)
    return rotate(pictures, strength, axes=(2, 1), reshape=False, order=1).reshape(x.shape)


def _blur(x, shape, strength, _):
    return gaussian_filter(x.reshape(-1, *shape), strength, axes=(1, 2)).reshape(x.shape)


def _shuffled_pixels(x, _, strength, rng):
    moved = np.flatnonzero(rng.random(x.shape[1]) < strength)
    shuffled = x.copy()
    shuffled[:, moved] = x[:, rng.permutation(moved)]
    return shuffled


CORRUPTIONS = {
    "gaussian_noise": (_gaussian_noise, "standard deviation"),
    "salt_and_pepper": (_salt_and_pepper, "share of the pixels"),
    "occlusion": (_occlusion, "side of the square / pixels"),
    "inversion": (_inversion, "share of the way"),
    "rotation": (_rotation, "degrees"),
    "blur": (_blur, "standard deviation / pixels"),
    "shuffled_pixels": (_shuffled_pixels, "share of the pixels"),
}


def corrupt(x, shape, kind, strength, seed=0):
    """Corrupt images, float32 (n, h · w), in [0, 1], of ``shape`` (h, w), and so is the result.

    ``kind`` is one of `CORRUPTIONS`, which names the unit of its ``strength``. Salt and pepper
    makes pixels empty or full, occlusion empties a square around a pixel that is drawn in
    proportion to its ink, shuffling permutes the same pixels in every image. Raises `StudyError`
    for an unknown kind.
    """
    if kind not in CORRUPTIONS:
        raise StudyError(
            f"The corruption is {kind!r}; expected one of {', '.join(CORRUPTIONS)}: change it."
        )
    damaged = CORRUPTIONS[kind][0](x, shape, strength, np.random.default_rng(seed))
    return np.clip(damaged, 0, 1).astype("float32")
