"""What codes are good for: neighbours, linear classification, and the roles of their units."""

from ae_lib import StudyError
from ae_lib.metrics import mse

import numpy as np
import pandas as pd
from scipy.stats import mode
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits


def neighbours(references, queries, k):
    """Find the k nearest references of each query, by Euclidean distance and exactly.

    Returns indices of references, int (m, k), nearest first. Raises `StudyError` if there are fewer
    than k references to choose from.

    Parameters
    ----------
    references : float array, shape (n, d)
    queries : float array, shape (m, d), or None
        Of the references' dtype; float32 takes half the time of float64. None asks for the
        neighbours of the references themselves, of which none is its own neighbour.
    k : int, at least 1
    """
    choice = len(references) - (queries is None)
    if not 1 <= k <= choice:
        raise StudyError(
            f"{k} neighbours are asked for and there are {choice} to choose from; expected 1 to "
            f"{choice}: lower k."
        )
    # Without a tree: in 32 or 784 dimensions it would visit every point all the same.
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references)
    return index.kneighbors(queries, return_distance=False)


def vote(labels, nearest):
    """Return the most frequent label among each query's neighbours; of several the smallest.

    ``labels`` are the references', int (n,); ``nearest`` is what `neighbours` returns, int (m, k),
    or its first columns for a smaller k. Returns int array, shape (m,).
    """
    return mode(labels[nearest], axis=1).mode


def purity(labels, nearest):
    """Return the share of each query's neighbours with the label that `vote` gives; float64.

    NaN if all labels are the same, among which neighbours cannot but agree.
    """
    if len(np.unique(labels)) < 2:
        return np.full(len(nearest), np.nan)
    return (labels[nearest] == vote(labels, nearest)[:, None]).mean(axis=1)


def shared_neighbours(first, second):
    """Return the share of each query's neighbours that two lists have in common, in any order.

    Both are int arrays, shape (m, k), as `neighbours` returns them; the result has shape (m,).
    """
    return (first[:, :, None] == second[:, None, :]).any(axis=2).mean(axis=1)


def linear_probe(features, labels, c=0.1, tolerance=3e-4):
    """Fit a multinomial logistic regression on standardised features, as a scikit-learn pipeline.

    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR
    workshop, 2017. Raises `StudyError` if all labels are the same.

    Parameters
    ----------
    features, labels : float array, shape (n, d), and int array, shape (n,)
    c : float, above 0
        Inverse of the L2 penalty's weight, for the sum of the losses over the images.
    tolerance : float
        L-BFGS stops when no component of the gradient of the mean loss is larger.
    """
    if len(np.unique(labels)) < 2:
        raise StudyError(
            f"All {len(labels)} labels are {labels[0]}; expected at least two classes: give every "
            "image its label."
        )
    # The limit on iterations is not met; scikit-learn's default of 100 would be.
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, tol=tolerance, max_iter=5000))
    # The products are so thin that a second thread waits more than it works.
    with threadpool_limits(1):
        return probe.fit(features, labels)


def hits(codes, images, penalties=(0.1,), near=None):
    """Tell which test images k-NN and a linear probe classify rightly from their codes.

    Parameters
    ----------
    codes : three float arrays, shape (n, d)
        Of the training, validation and test images.
    images : ae_lib.data.Dataset
    penalties : sequence of float
        Candidates for the ``c`` of `linear_probe`; the validation images choose.
    near : int array, shape (m, k), optional
        The `neighbours` of the test images, at least five, if they are known.

    Returns a dict of ``knn1_accuracy``, ``knn5_accuracy`` and ``linear_probe_accuracy`` to float64
    arrays, shape (m,), of 0 and 1; or of NaN if the training images are of a single class.
    """
    (train, val, test), labels, truth = codes, images.y_train, images.y_test
    near = neighbours(train, test, 5) if near is None else near
    predicted = {f"knn{k}_accuracy": vote(labels, near[:, :k]) for k in (1, 5)}
    if images.single_class:
        return dict.fromkeys([*predicted, "linear_probe_accuracy"], np.full(len(truth), np.nan))
    probes = [linear_probe(train, labels, c) for c in penalties]
    best = max(probes, key=lambda probe: probe.score(val, images.y_val))
    predicted["linear_probe_accuracy"] = best.predict(test)
    return {score: (found == truth).astype("float64") for score, found in predicted.items()}


def pixel_metric(codes, images):
    """Find the linear map of codes after which distances are those of linearly predicted images.

    An autoencoder with a linear bottleneck leaves the scale of its code open: the decoder can undo
    any invertible linear map. The least-squares prediction of the pixels, centred images ≈ centred
    codes · B, gives codes the scale of pixels: with B Bᵀ = L Lᵀ, ‖z L − z′ L‖ is the distance
    between the predicted images. PCA's codes have this scale as they are.

    ``codes``, float (n, d), and ``images``, float (n, pixels), are those of the training images.
    Returns L, shape (d, d), of the codes' dtype; codes in the new metric are ``codes @ L``.
    """
    centred = np.asarray(codes, "float64") - codes.mean(axis=0, dtype="float64")
    # Normal equations: no copy of the images in float64.
    covariance = centred.T @ centred
    cross = centred.astype(images.dtype).T @ images
    prediction = np.linalg.solve(covariance, cross.astype("float64"))
    return np.linalg.cholesky(prediction @ prediction.T).astype(codes.dtype)


def unit_table(codes):
    """Describe each unit of a code, float (n, d), in one row of a pandas.DataFrame.

    Columns ``mean``, ``std``, ``share`` (of the summed variance of all units), ``mean_correlation``
    and ``max_correlation`` (of the absolute correlations with the other units; 0 if constant).
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
            "mean_correlation": others.sum(axis=0) / max(codes.shape[1] - 1, 1),
            "max_correlation": others.max(axis=0),
        }
    ).rename_axis("unit")


def correlations(codes):
    """Return the correlations of a code's units, float64 (d, d); 0 where a unit is constant."""
    with np.errstate(invalid="ignore"):
        return np.atleast_2d(np.nan_to_num(np.corrcoef(np.asarray(codes, "float64"), rowvar=False)))


def effective_dimensions(codes):
    """Return the participation ratio (Σ λ)² / Σ λ² of the codes' principal variances λ.

    d for d uncorrelated units of equal variance, 1 if a single direction varies. Gao, Trautmann,
    Yu, Santhanam, Ryu, Shenoy and Ganguli, "A theory of multineuronal dimensionality, dynamics and
    measurement", bioRxiv 214262, 2017.
    """
    covariance = np.atleast_2d(np.cov(np.asarray(codes, "float64"), rowvar=False))
    squared_norm = np.square(covariance).sum()  # Σ λ², the squared Frobenius norm
    return float(np.trace(covariance) ** 2 / squared_norm)


def unit_costs(decode, images, codes, means):
    """Measure the rise of the squared error when one unit of the code is held at its mean.

    Returns float64 array, shape (n, d), summed over the pixels. For PCA, the mean over the training
    images is a component's variance.

    Parameters
    ----------
    decode : callable, (n, d) → (n, pixels)
    images, codes : float arrays, shapes (n, pixels) and (n, d)
    means : float array, shape (d,)
        What each unit is held at.
    """
    before = mse(images, decode(codes))
    rises = []
    for unit, mean in enumerate(means):
        held = codes.copy()
        held[:, unit] = mean
        rises.append(mse(images, decode(held)) - before)
    return images.shape[1] * np.stack(rises, axis=1)


def traversals(code, low, high, steps):
    """Move one unit of a code at a time in equal steps from ``low`` to ``high``, all (d,).

    Returns float array, shape (steps, d, d): entry [s, j] is the code with unit j at step s.
    """
    codes, unit = np.tile(code, (steps, len(code), 1)), np.arange(len(code))
    codes[:, unit, unit] = np.linspace(low, high, steps)
    return codes


def unlike_pairs(labels, count, seed=0):
    """Draw pairs of images of different classes, by their labels, int (n,).

    Returns indices, int (2, count): the first of each pair is uniform over the images, the second
    over those of other classes, or over all other images if all labels are the same.
    """
    rng = np.random.default_rng(seed)
    first = rng.integers(len(labels), size=count)
    if len(np.unique(labels)) < 2:
        labels = np.arange(len(labels))
    second = [rng.choice(np.flatnonzero(labels != labels[i])) for i in first]
    return np.stack([first, second])


def path(start, end, steps):
    """Return ``steps`` equally spaced points on straight lines, shape (steps, n, d), ends included.

    ``start`` and ``end`` are float arrays, shape (n, d).
    """
    weights = np.linspace(0, 1, steps, dtype=start.dtype)[:, None, None]
    return (1 - weights) * start + weights * end
