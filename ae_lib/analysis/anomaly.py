"""Detect anomalies: scores, thresholds for a stated rate of false alarms, AUROC, corruptions."""

from ae_lib import StudyError
from ae_lib.metrics import entropy
from ae_lib.models import predict_in_batches

import keras
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata


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


def auroc(scores, anomalous):
    """Compute areas under the ROC curve of k detection problems over the same n images.

    ``scores``, float (n, k), are higher for what is more likely an anomaly, one column per problem;
    ``anomalous``, shape (n, k), is boolean or 0 and 1. Raises `StudyError` if there are other
    labels, or a problem has no anomaly or no normal image.

    Returns float64 array, shape (n, k). The mean of a column is the problem's area: the share of
    pairs of an anomaly and a normal image in which the anomaly scores higher, ties counted half.
    Its values are what the images contribute, so that their standard error is that of DeLong,
    DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", Biometrics 44(3), 1988.
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
    columns = [_auroc(*pair) for pair in zip(scores.T, anomalous.T, strict=True)]
    return np.stack(columns, axis=1)


def _auroc(score, anomalous):
    ranks = rankdata(score)

    def share_below(kind):  # of the other kind, below each image of this kind; ties counted half
        return (ranks[kind] - rankdata(score[kind])) / (~kind).sum()

    share = np.empty(len(score))  # of the other kind, on the right side of each image
    share[anomalous], share[~anomalous] = share_below(anomalous), 1 - share_below(~anomalous)
    value = share[anomalous].mean()
    weight = np.where(anomalous, len(score) / anomalous.sum(), len(score) / (~anomalous).sum())
    return value + weight * (share - value)
