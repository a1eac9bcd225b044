"""Detect anomalies: scores, thresholds for a stated rate of false alarms, AUROC, corruptions."""

from ae_lib import StudyError, figures, metrics, models, training

import keras
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, rotate
from scipy.stats import betabinom, rankdata


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


def attainable(rates, n):
    """Return those rates of false alarms that n held-out normal images can give thresholds for.

    Raises `StudyError` if a rate is not between 0 and 1, or none is left: for a rate r there must
    be 1 / r − 1 images.
    """
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise StudyError(
            f"rates is {rates}; expected one or more shares between 0 and 1: change it."
        )
    enough = [rate for rate in rates if _rank(n, rate) <= n]
    if not enough:
        raise StudyError(
            f"rates is {rates} and there are {n} held-out images; expected a rate of at least "
            f"{np.ceil(1000 / (n + 1)) / 1000:g}: raise it or hold out more."
        )
    return enough


def threshold(errors, rate):
    """Return the error above which an image is called an anomaly, for a rate of false alarms.

    The split-conformal quantile: with n held-out normal images, the ⌈(n + 1)(1 − rate)⌉-th smallest
    of their errors. For exchangeable images the expected share of false alarms is at most ``rate``
    (Papadopoulos, Proedrou, Vovk and Gammerman, "Inductive confidence machines for regression",
    ECML 2002). ``errors`` are of normal images that the model was not trained on, float (n,), or
    those of k scores, (n, k), which give k thresholds. A threshold is infinite if there are too few
    images for the rate.
    """
    errors = np.asarray(errors)
    rank = _rank(len(errors), rate)
    if rank > len(errors):
        return np.full(errors.shape[1:], np.inf)
    return np.sort(errors, axis=0)[rank - 1]


def expected_false_alarms(rate, n, m):
    """Return the 95 % range of the share of false alarms among m normal images, two floats.

    With a `threshold` from n images that are exchangeable with the m, their number is
    beta-binomial, which counts the chance in the threshold as well (Vovk, "Conditional validity of
    inductive conformal predictors", ACML 2012).
    """
    rank = _rank(n, rate)
    low, high = betabinom.ppf([0.025, 0.975], m, n + 1 - rank, rank) / m
    return float(low), float(high)


def _rank(n, rate):
    return int(np.ceil((n + 1) * (1 - rate) - 1e-9))  # without rounding errors such as 95.00000001


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


def paired_auroc(normal, altered):
    """Compute the area under the ROC curve between n images and the same images, altered.

    ``normal`` and ``altered`` are k scores of each, float (n, k), higher for what is more likely an
    anomaly. Returns float64 (n, k), whose column means are the areas, as of `auroc`; the two
    contributions of an image are averaged, since they are not independent.
    """
    both = np.concatenate([normal, altered])
    is_altered = np.arange(len(both)) >= len(normal)
    contributions = auroc(both, np.broadcast_to(is_altered[:, None], both.shape))
    return contributions.reshape(2, *normal.shape).mean(axis=0)


def _auroc(score, anomalous):
    ranks = rankdata(score)

    def share_below(kind):  # of the other kind, below each image of this kind; ties counted half
        return (ranks[kind] - rankdata(score[kind])) / (~kind).sum()

    share = np.empty(len(score))  # of the other kind, on the right side of each image
    share[anomalous], share[~anomalous] = share_below(anomalous), 1 - share_below(~anomalous)
    value = share[anomalous].mean()
    weight = np.where(anomalous, len(score) / anomalous.sum(), len(score) / (~anomalous).sum())
    return value + weight * (share - value)


def best_by_class(areas, classes, count=3):
    """Return the AUROCs by class of the detectors with the highest means, the best one first.

    Parameters
    ----------
    areas : dict
        Name of a detector, a tuple of texts, to contributions, float (n, k), as of `auroc`.
    classes : array, shape (k,), what the classes are called
    count : int, how many detectors

    Returns
    -------
    dict
        Label to a pandas.DataFrame as for `ae_lib.figures.intervals_by_group`.
    """
    names = sorted(areas, key=lambda name: areas[name].mean(), reverse=True)
    tables = {}
    for name in names[:count]:
        intervals = map(metrics.interval, areas[name].T)
        tables[", ".join(name)] = pd.DataFrame(map(vars, intervals), index=pd.Index(classes))
    return tables


@figures.look()
def detection_matrix(panels, caption):
    """Draw shares between 0 and 1 as matrices of shaded numbers, side by side.

    ``panels``: title to a pandas.DataFrame with a row for each detector, whose name is a tuple of
    texts, and a column for each kind of anomaly; all with the same rows.
    """
    rows = next(iter(panels.values())).index
    figure = figures.new(caption, height=1.4 + 0.3 * len(rows))
    grid = figure.subplots(1, len(panels), sharey=True)
    for axes, (title, table) in zip(grid, panels.items(), strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(table.shape[1]), table.columns, rotation=90)
        axes.set_yticks(range(len(rows)), map(", ".join, rows))
        axes.set_title(title)
        for (row, column), share in np.ndenumerate(table):
            colour = "white" if share > 0.6 else "#222222"
            text = {"color": colour, "ha": "center", "va": "center", "fontsize": 8}
            axes.text(column, row, f"{share:.2f}", **text)
    return figure


def side_by_side(sets):
    """Stack k sets of images, shape (n_i, d), to one of shape (max n_i, k, d).

    `ae_lib.models.stacked` takes them so. Smaller sets are repeated to the length of the largest.
    """
    n = max(map(len, sets))
    return np.stack([images[np.arange(n) % len(images)] for images in sets], axis=1)


def train_on_each(autoencoder, sets, settings, task=training.Reconstruct()):  # noqa: B008  # frozen
    """Train a network of an autoencoder's layers on each of k sets of images, side by side.

    Parameters
    ----------
    autoencoder : keras.Model, (n, d) → (n, d)
        Its layers are copied, with new initial weights, as by `ae_lib.models.reinitialized`.
    sets : sequence of k arrays, shape (n_i, d)
        Training images, as for `ae_lib.training.fit`.
    settings, task
        As for `ae_lib.training.fit`; the seed is that of the initial weights, too.

    Returns
    -------
    list of k `ae_lib.models.Autoencoder`
    """
    images = side_by_side(sets)
    keras.utils.set_random_seed(settings.seed)
    networks = [models.reinitialized(autoencoder) for _ in sets]
    stack = models.stacked(networks)
    training.fit(stack, images, images[:1], settings, task=task)  # nothing looks at the second loss
    _copy_weights(stack, networks)
    return [models.as_autoencoder(network) for network in networks]


def _copy_weights(stack, networks):
    stacked = stack.get_weights()
    if len(stacked) == len(networks[0].get_weights()):  # else they are shared
        for k, network in enumerate(networks):
            network.set_weights([weights[k] for weights in stacked])


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
    "gaussian_noise": _gaussian_noise,  # by its standard deviation
    "salt_and_pepper": _salt_and_pepper,  # share of the pixels
    "occlusion": _occlusion,  # side of the square in pixels
    "inversion": _inversion,  # share of the way
    "rotation": _rotation,  # degrees
    "blur": _blur,  # standard deviation in pixels
    "shuffled_pixels": _shuffled_pixels,  # share of the pixels
}


def middle_strengths(shape):
    """Return for each of `CORRUPTIONS` a strength that leaves images of ``shape`` readable."""
    noise = {"gaussian_noise": 0.1, "salt_and_pepper": 0.03, "shuffled_pixels": 0.2}
    shapes = {"occlusion": round(9 * min(shape) / 28), "rotation": 45, "blur": 1}
    return {**noise, **shapes, "inversion": 0.2}


def corrupt(x, shape, kind, strength, seed=0):
    """Corrupt images, float32 (n, h · w), in [0, 1], of ``shape`` (h, w), and so is the result.

    ``kind`` is one of `CORRUPTIONS`, whose comments there say what its ``strength`` is. Salt and
    pepper makes pixels empty or full, occlusion empties a square around a pixel that is drawn in
    proportion to its ink, shuffling permutes the same pixels in every image. Raises `StudyError`
    for an unknown kind.
    """
    if kind not in CORRUPTIONS:
        raise StudyError(
            f"The corruption is {kind!r}; expected one of {', '.join(CORRUPTIONS)}: change it."
        )
    damaged = CORRUPTIONS[kind](x, shape, strength, np.random.default_rng(seed))
    return np.clip(damaged, 0, 1).astype("float32")
