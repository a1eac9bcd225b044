"""Anomalies: scores that tell them, thresholds for a stated rate of false alarms, and images damaged on purpose."""

from dataclasses import dataclass

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError
from ae_lib.data import PIXELS, SIDE
from ae_lib.metrics import Interval, entropy

import keras
import numpy as np
from scipy.ndimage import gaussian_filter, rotate
from scipy.stats import norm, rankdata


def relative_error(x, y, sigma=1.0):
    """Smoothed reconstruction error relative to the ink of the image, one value per image.

    The residual is smoothed by a Gaussian before it is squared. Along an edge that is drawn a fraction of a pixel beside
    its place, which is where nearly all of the error of a normal image sits, the residual is thin, and smoothing damps
    it; where a stroke is missing or invented it is as broad as the stroke, and stays. The sum over the image is divided
    by the image's ink, since more ink has more edges.

    Parameters
    ----------
    x : float array, shape (n, 784), in [0, 1]
        Images.
    y : float array, shape (n, 784) or (n, k, 784)
        Reconstructions, by one model or by k.
    sigma : float, at least 0
        Standard deviation of the Gaussian, in pixels.

    Returns
    -------
    float array, shape (n,) or (n, k)
    """
    shape = (*y.shape[:-1], SIDE, SIDE)
    residual = (y - x.reshape(len(x), *[1] * (y.ndim - 2), PIXELS)).reshape(shape)
    smooth = gaussian_filter(residual, sigma, axes=(-2, -1))
    ink = np.maximum(x.sum(axis=1), 1)  # an empty image counts as one with a single full pixel
    return np.square(smooth).sum(axis=(-2, -1)) / ink.reshape(-1, *[1] * (y.ndim - 2))


def scores(reconstruct, x, sigma=1.0, part=1000):
    """Scores of images by k models at once: squared error, binary cross-entropy, its excess, and relative error.

    Parameters
    ----------
    reconstruct : callable, (m, 784) → (m, k, 784)
    x : float32 array, shape (n, 784), in [0, 1]
    sigma : float
        As for `relative_error`.
    part : int
        How many images are reconstructed at a time, since k reconstructions of each are k times as large.

    Returns
    -------
    dict
        ``"mse"``, ``"bce"``, ``"excess_bce"`` (less the image's own entropy), ``"relative"`` to arrays, shape (n, k).
    """
    found = []
    for images in np.split(x, range(part, len(x), part)):
        y = np.asarray(reconstruct(images))
        target = np.broadcast_to(images[:, None], y.shape)
        mse = np.asarray(keras.losses.mean_squared_error(target, y))
        bce = np.asarray(keras.losses.binary_crossentropy(target, y))
        found.append([mse, bce, bce - entropy(images)[:, None], relative_error(images, y, sigma)])
    return dict(
        zip(("mse", "bce", "excess_bce", "relative"), np.concatenate(found, axis=1), strict=True)
    )


def ink_deviation(x, normal):
    """How far an image's ink is from the median ink of normal images; the score of a detector that sees nothing else."""
    return np.abs(x.sum(axis=1) - np.median(normal.sum(axis=1)))


def threshold(errors, rate):
    """The error above which an image is called an anomaly, so that at most a share ``rate`` of normal images is.

    The split-conformal quantile: with n held-out normal images, the ⌈(n + 1)(1 − rate)⌉-th smallest of their errors. For
    exchangeable images the expected share of false alarms is then at most ``rate``.

    Parameters
    ----------
    errors : float array, shape (n,)
        Of normal images that the model was not trained on.
    rate : float
        Between 0 and 1.

    Raises
    ------
    StudyError
        If ``rate`` is not between 0 and 1, or there are too few images for it.

    References
    ----------
    Papadopoulos, Proedrou, Vovk and Gammerman, "Inductive confidence machines for regression", ECML 2002.
    """
    if not 0 < rate < 1:
        raise StudyError(
            f"The rate of false alarms is {rate}; expected a share between 0 and 1: change it."
        )
    rank = int(np.ceil((len(errors) + 1) * (1 - rate)))
    if rank > len(errors):
        raise StudyError(
            f"There are {len(errors)} held-out images for a rate of false alarms of {rate}; expected at least "
            f"{int(np.ceil(1 / rate)) - 1}: raise the rate or hold out more."
        )
    return np.sort(errors)[rank - 1]


@dataclass(frozen=True)
class Auroc:
    """Areas under the ROC curve of k detection problems over the same n images.

    Attributes
    ----------
    values : float array, shape (k,)
        The share of pairs of an anomaly and a normal image in which the anomaly has the higher score.
    influences : float array, shape (n, k)
        What each image adds to the estimate; their mean square over n is the estimate's variance.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", Biometrics 44(3), 1988.
    """

    values: np.ndarray
    influences: np.ndarray

    def intervals(self):
        """One `ae_lib.metrics.Interval` (95 %, over the images) per problem."""
        return [
            _normal_interval(*pair) for pair in zip(self.values, self.influences.T, strict=True)
        ]

    def mean(self):
        """The mean over the problems, as an `ae_lib.metrics.Interval` (95 %, over the images)."""
        return _normal_interval(self.values.mean(), self.influences.mean(axis=1))

    def better(self, other):
        """Whether the mean is higher than another's over the same images: "yes", "no" or "undecided"."""
        return Auroc(self.values - other.values, self.influences - other.influences).mean().verdict


def _normal_interval(value, influence):
    half = norm.ppf(0.975) * np.sqrt(np.square(influence).mean() / len(influence))
    return Interval(float(value), float(value - half), float(value + half))


def auroc(scores, anomalous):
    """Areas under the ROC curve, with what is needed for their intervals.

    Parameters
    ----------
    scores : float array, shape (n, k)
        Higher for what is more likely an anomaly; one column per problem.
    anomalous : bool array, shape (n, k)

    Returns
    -------
    Auroc

    Raises
    ------
    StudyError
        If a problem has no anomaly or no normal image.
    """
    if not (anomalous.any(axis=0) & (~anomalous).any(axis=0)).all():
        raise StudyError(
            "A problem has only anomalies or only normal images; expected both: choose other images."
        )
    pairs = [_auroc(*pair) for pair in zip(scores.T, anomalous.T, strict=True)]
    return Auroc(
        np.array([value for value, _ in pairs]),
        np.stack([influence for _, influence in pairs], axis=1),
    )


def _auroc(score, anomalous):
    among_all = rankdata(score)

    def below(
        kind,
    ):  # share of the other kind of images that lie below each of this kind, ties counted half
        return (among_all[kind] - rankdata(score[kind])) / (~kind).sum()

    share = np.empty(len(score))  # of the other kind of images that lie on the right side of each
    share[anomalous], share[~anomalous] = below(anomalous), 1 - below(~anomalous)
    value = share[anomalous].mean()
    weight = np.where(anomalous, len(score) / anomalous.sum(), len(score) / (~anomalous).sum())
    return value, weight * (share - value)


def average(aurocs):
    """The mean of several `Auroc` of the same problems and images, e.g. over training seeds."""
    return Auroc(
        *(np.mean([getattr(a, name) for a in aurocs], axis=0) for name in ("values", "influences"))
    )


def side_by_side(sets):
    """Stack k sets of images to one of k columns, as `ae_lib.models.stacked` takes them.

    Smaller sets begin anew until they are as long as the largest.

    Parameters
    ----------
    sets : sequence of k arrays, shape (n_i, 784)

    Returns
    -------
    array, shape (max n_i, k, 784)
    """
    n = max(map(len, sets))
    return np.stack([images[np.arange(n) % len(images)] for images in sets], axis=1)


def _gaussian_noise(x, strength, rng):
    return x + rng.normal(0, strength, x.shape)


def _salt_and_pepper(x, strength, rng):
    return np.where(rng.random(x.shape) < strength, rng.integers(0, 2, x.shape), x)


def _occlusion(x, strength, rng):
    ends = x.cumsum(axis=1)
    middle = (ends < rng.random((len(x), 1)) * ends[:, -1:]).sum(
        axis=1
    )  # a pixel, drawn in proportion to its ink
    row, column = np.divmod(np.arange(PIXELS), SIDE)
    offsets = [
        axis - at[:, None] for axis, at in zip((row, column), divmod(middle, SIDE), strict=True)
    ]
    inside = [(-strength / 2 <= offset) & (offset < strength / 2) for offset in offsets]
    return np.where(inside[0] & inside[1], 0, x)


def _inversion(x, strength, _):
    return x + strength * (1 - 2 * x)


def _rotation(x, strength, _):
    return rotate(x.reshape(-1, SIDE, SIDE), strength, axes=(2, 1), reshape=False, order=1).reshape(
        x.shape
    )


def _blur(x, strength, _):
    return gaussian_filter(x.reshape(-1, SIDE, SIDE), strength, axes=(1, 2)).reshape(x.shape)


def _shuffled_pixels(x, strength, rng):
    moved = np.flatnonzero(rng.random(PIXELS) < strength)
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


def corrupt(x, kind, strength, seed=0):
    """Damage images.

    Parameters
    ----------
    x : float32 array, shape (n, 784), in [0, 1]
    kind : str
        One of `CORRUPTIONS`, which names the unit of its strength. Salt and pepper makes pixels empty or full, occlusion
        empties a square around a pixel that is drawn in proportion to its ink, shuffling permutes the same pixels in
        every image.
    strength : float
    seed : int

    Returns
    -------
    float32 array, shape (n, 784), in [0, 1]

    Raises
    ------
    StudyError
        For an unknown kind.
    """
    if kind not in CORRUPTIONS:
        raise StudyError(
            f"There is no corruption {kind!r}; expected one of {', '.join(CORRUPTIONS)}."
        )
    damaged = CORRUPTIONS[kind][0](x, strength, np.random.default_rng(seed))
    return np.clip(damaged, 0, 1).astype("float32")
