"""What the frozen codes are worth to others: neighbours, linear classification, and how a code's units share the work."""

from ae_lib import StudyError
from ae_lib.metrics import interval, mse

import numpy as np
import pandas as pd
from scipy.stats import mode
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits


def neighbours(references, queries, k):
    """Indices of the k nearest references of each query, nearest first, by Euclidean distance and exactly.

    Parameters
    ----------
    references, queries : float arrays, shapes (n, d) and (m, d)
        Of one dtype; float32 takes half the time of float64.
    k : int, 1 to n

    Returns
    -------
    int array, shape (m, k)

    Raises
    ------
    StudyError
        If there are fewer than k references.
    """
    _check_neighbours(k, len(references))
    # Without a tree: in 32 or 784 dimensions it would visit every point all the same.
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references)
    return index.kneighbors(queries, return_distance=False)


def other_neighbours(points, k):
    """Indices of the k nearest other points of each point: `neighbours` within one set, each point left out of its own.

    A k-NN vote over them is leave-one-out cross-validation.
    """
    _check_neighbours(k, len(points) - 1)
    return (
        NearestNeighbors(n_neighbors=k, algorithm="brute")
        .fit(points)
        .kneighbors(return_distance=False)
    )


def _check_neighbours(k, n):
    if not 1 <= k <= n:
        raise StudyError(
            f"{k} neighbours are asked for and there are {n} to choose from; expected 1 to {n}: lower k."
        )


def vote(labels, found):
    """The most frequent label among each query's neighbours; of equally frequent ones the smallest.

    Parameters
    ----------
    labels : int array, shape (n,)
        Of the references.
    found : int array, shape (m, k)
        What `neighbours` returns, or its first columns for a smaller k.

    Returns
    -------
    int array, shape (m,)
    """
    return mode(labels[found], axis=1).mode


def purity(labels, found):
    """Share of each query's neighbours that carry the label which `vote` gives it; float64, shape (m,)."""
    return (labels[found] == vote(labels, found)[:, None]).mean(axis=1)


def linear_probe(features, labels, c=0.1, tolerance=3e-4):
    """Fit a multinomial logistic regression on standardised features.

    Parameters
    ----------
    features : float array, shape (n, d)
    labels : int array, shape (n,)
    c : float, above 0
        Inverse of the L2 penalty's weight, for the sum of the losses over the images.
    tolerance : float
        L-BFGS stops when no component of the gradient of the mean loss is larger.

    Returns
    -------
    sklearn.pipeline.Pipeline
        With ``predict`` and ``score``.

    Raises
    ------
    StudyError
        If all labels are the same.

    References
    ----------
    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR workshop, 2017.
    """
    _check_classes(labels)
    # The limit on iterations is not met; it only keeps scikit-learn's default of 100 from being met first.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=tolerance, max_iter=5000))
    # Its products are so thin that a second thread waits more than it works: one takes less time, under load far less.
    with threadpool_limits(1):
        return probe.fit(features, labels)


def _check_classes(labels):
    if len(np.unique(labels)) < 2:
        raise StudyError(
            f"All {len(labels)} labels are {labels[0]}; expected at least two classes: give every image its label."
        )


def pixel_metric(codes, images):
    """A linear map of the codes after which their Euclidean distance is that of the images they predict linearly.

    An autoencoder with a linear bottleneck is free in its choice of code: any invertible linear map of the code can be
    undone by the decoder's first layer, and no loss prefers one to another. Its distances therefore mean little. The
    least-squares prediction of the pixels, centred images ≈ centred codes · B, gives them the scale of pixels: with
    B Bᵀ = L Lᵀ, ‖z L − z′ L‖ is the distance between the predicted images. PCA's codes have this scale as they are.

    Parameters
    ----------
    codes : float array, shape (n, d)
        Of training images.
    images : float array, shape (n, 784)
        The same training images. Labels are not used.

    Returns
    -------
    float array, shape (d, d), of the codes' dtype
        L; the codes in the new metric are ``codes @ L``.
    """
    centred = np.asarray(codes, "float64") - codes.mean(axis=0, dtype="float64")
    # Normal equations: products of the large arrays with themselves only, no copy of the images in float64.
    covariance = centred.T @ centred
    cross = centred.astype(images.dtype).T @ images
    prediction = np.linalg.solve(covariance, cross.astype("float64"))
    return np.linalg.cholesky(prediction @ prediction.T).astype(codes.dtype)


def units(codes):
    """Spread, share of variance and correlations of each unit of a code.

    Parameters
    ----------
    codes : float array, shape (n, d), with d of at least 2

    Returns
    -------
    pandas.DataFrame
        One row per unit; columns ``mean``, ``std``, ``share`` (of the summed variance of all units),
        ``mean_correlation`` and ``max_correlation`` (of the absolute correlations with the other units; 0 for a unit
        without spread).
    """
    codes = np.asarray(codes, "float64")
    others = np.abs(correlations(codes))
    np.fill_diagonal(others, 0)
    variance = codes.var(axis=0)
    return pd.DataFrame(
        {
            "mean": codes.mean(axis=0),
            "std": np.sqrt(variance),
            "share": variance / variance.sum(),
            "mean_correlation": others.sum(axis=0) / (codes.shape[1] - 1),
            "max_correlation": others.max(axis=0),
        }
    ).rename_axis("unit")


def correlations(codes):
    """Correlations of the units of a code, float64, shape (d, d); 0 where a unit has no spread."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(np.corrcoef(np.asarray(codes, "float64"), rowvar=False))


def effective_dimensions(codes):
    """Participation ratio of the codes' principal variances λ: (Σ λ)² / Σ λ².

    d for d uncorrelated units of equal variance, 1 if a single direction varies.

    References
    ----------
    Gao, Trautmann, Yu, Santhanam, Ryu, Shenoy and Ganguli, "A theory of multineuronal dimensionality, dynamics and
    measurement", bioRxiv 214262, 2017.
    """
    covariance = np.cov(np.asarray(codes, "float64"), rowvar=False)
    return float(
        np.trace(covariance) ** 2 / np.square(covariance).sum()
    )  # Σ λ² is the squared Frobenius norm


def tsne(codes, seed=0, **options):
    """A t-SNE map of codes, from a PCA start; float32, shape (n, 2).

    The same codes, seed and machine give the same map. Other machines round differently, and t-SNE, which amplifies
    rounding, then puts the points elsewhere; what a good map shows (`sklearn.manifold.trustworthiness`) moves little.

    Parameters
    ----------
    codes : float array, shape (n, d)
    seed : int
    **options
        Of `sklearn.manifold.TSNE`.

    References
    ----------
    Van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008. The start: Kobak and Berens, "The art of
    using t-SNE for single-cell transcriptomics", Nature Communications 10, 2019.
    """
    # Sums over more threads than two come out in any order, each rounded in its own way.
    with threadpool_limits(2, user_api="openmp"):
        return TSNE(init="pca", random_state=seed, **options).fit_transform(codes)


def unit_costs(decode, images, codes, means):
    """Rise of the squared error when one unit of the code is held at its mean.

    Parameters
    ----------
    decode : callable, (n, d) → (n, 784)
    images : float array, shape (n, 784)
    codes : float array, shape (n, d)
        Of the images.
    means : float array, shape (d,)
        What each unit is held at.

    Returns
    -------
    float64 array, shape (n, d)
        Summed over the pixels. For PCA, whose axes are orthonormal, the mean over the training images is the
        component's variance.
    """
    before = mse(images, decode(codes))
    rises = []
    for unit, mean in enumerate(means):
        held = codes.copy()
        held[:, unit] = mean
        rises.append(mse(images, decode(held)) - before)
    return images.shape[1] * np.stack(rises, axis=1)


def traversals(code, low, high, steps):
    """Copies of a code, each with one unit moved in equal steps between two values.

    Parameters
    ----------
    code, low, high : float arrays, shape (d,)
    steps : int, at least 2

    Returns
    -------
    float array, shape (steps, d, d)
        Entry [s, j] is the code with unit j at step s.
    """
    codes, unit = np.tile(code, (steps, len(code), 1)), np.arange(len(code))
    codes[:, unit, unit] = np.linspace(low, high, steps)
    return codes


def unlike_pairs(labels, count, seed=0):
    """Draw pairs of images of different classes.

    Parameters
    ----------
    labels : int array, shape (n,)
    count : int
    seed : int

    Returns
    -------
    int array, shape (2, count)
        Indices; the first of each pair is uniform over the images, the second over those of other classes.

    Raises
    ------
    StudyError
        If all labels are the same.
    """
    _check_classes(labels)
    rng = np.random.default_rng(seed)
    first = rng.integers(len(labels), size=count)
    return np.stack([first, [rng.choice(np.flatnonzero(labels != labels[i])) for i in first]])


def path(start, end, steps):
    """Points on the straight line between two sets of points.

    Parameters
    ----------
    start, end : float arrays, shape (n, d)
    steps : int, at least 2

    Returns
    -------
    float array, shape (steps, n, d)
        From ``start`` to ``end``, both included, equally spaced.
    """
    weights = np.linspace(0, 1, steps, dtype=start.dtype)[:, None, None]
    return (1 - weights) * start + weights * end


def shared(first, second):
    """Share of each query's neighbours that two lists of neighbours have in common, in [0, 1], whatever their order.

    Parameters
    ----------
    first, second : int arrays, shape (m, k)
        What `neighbours` returns; no index twice in a row.

    Returns
    -------
    float array, shape (m,)
    """
    return (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)


def level(first, second, margin, seed=0):
    """Whether two models' mean values differ by less than a margin: a test of equivalence, at 2.5 % on either side.

    Parameters
    ----------
    first, second : arrays, shape (n,)
        Values on the same images.
    margin : float
        Differences that do not matter.
    seed : int
        Of the paired bootstrap.

    Returns
    -------
    bool
        True if the 95 % interval of the mean difference lies within the margin on either side. False is no proof of a
        difference: with few images nothing is level.

    References
    ----------
    Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence
    of average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15(6), 1987.
    """
    gain = interval(np.asarray(first, "float64") - second, seed)
    return -margin < gain.low and gain.high < margin
