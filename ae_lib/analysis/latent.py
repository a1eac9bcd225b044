"""What codes are good for: neighbours, linear classification, and the effects of their units."""

from ae_lib import StudyError
from ae_lib.metrics import interval, mse

import numpy as np
import pandas as pd
from scipy.stats import mode
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import trustworthiness
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

QUERIES = 200  # whose distances to all references are in memory at a time
SPARE = 8  # candidates beyond the neighbours asked for: rounding may exchange a few at the end


def neighbours(references, queries, k=5):
    """Find the k nearest references of each query by Euclidean distance, with the distances.

    A product of matrices in the arrays' own precision finds a few candidates more than k, whose
    distances are then computed in float64. Without a tree, which in 32 or 784 dimensions would
    visit every point all the same. Raises `StudyError` if there are fewer than k references to
    choose from.

    Parameters
    ----------
    references : float array, shape (n, d)
    queries : float array, shape (m, d), or None
        None asks for the neighbours of the references themselves, of which none is its own.
    k : int, at least 1

    Returns
    -------
    distances, indices : float64 and int64 arrays, shape (m, k), the nearest first
    """
    choice = len(references) - (queries is None)
    if not 1 <= k <= choice:
        raise StudyError(
            f"{k} neighbours are asked for and there are {choice} to choose from; expected 1 to "
            f"{choice}: lower k."
        )
    centre = references.mean(axis=0)  # far from the origin, the products would lose digits
    known = references - centre
    asked = known if queries is None else queries - centre
    norms, found = np.einsum("nd,nd->n", known, known), []
    for start in range(0, len(asked), QUERIES):
        part = asked[start : start + QUERIES]
        own = np.arange(start, start + len(part))[:, None] if queries is None else -1
        squared = (-2 * part) @ known.T
        squared += norms
        candidates = _least(squared, min(k + SPARE, len(known)))
        differences = known[candidates].astype("float64") - part[:, None]
        exact = np.where(candidates == own, np.inf, np.square(differences).sum(axis=2))
        order = np.lexsort((candidates, exact))[:, :k]
        found.append([np.take_along_axis(array, order, axis=1) for array in (exact, candidates)])
    squared, indices = map(np.concatenate, zip(*found, strict=True))
    return np.sqrt(squared), indices


def _least(values, count, width=64):
    """Return the columns of the ``count`` least values of each row, in any order.

    They lie in the ``count`` groups of columns with the least minima, and minima are quickly found.
    """
    groups = values.shape[1] // width
    if groups <= 2 * count:
        return np.argpartition(values, count - 1, axis=1)[:, :count]
    grouped = values[:, : groups * width].reshape(-1, width, groups)
    best = np.argpartition(grouped.min(axis=1), count - 1, axis=1)[:, :count]
    columns = (best[:, None] + groups * np.arange(width)[:, None]).reshape(len(values), -1)
    rest = np.arange(groups * width, values.shape[1])
    columns = np.hstack([columns, np.broadcast_to(rest, (len(values), len(rest)))])
    chosen = np.argpartition(np.take_along_axis(values, columns, axis=1), count - 1, axis=1)
    return np.take_along_axis(columns, chosen[:, :count], axis=1)


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


def hits(codes, images, penalties=(0.1,), splits=("test",)):
    """Tell which images k-NN and a linear probe classify correctly from their codes.

    Both classifiers are fitted on the training images.

    Parameters
    ----------
    codes : dict
        ``"train"``, ``"val"`` and ``"test"`` to float arrays, shape (n, d).
    images : ae_lib.data.Dataset
    penalties : sequence of float
        Candidates for the ``c`` of `linear_probe`; the validation images choose.
    splits : sequence of str, of ``"val"`` and ``"test"``

    Returns a dict of ``<split>.knn1_accuracy``, ``<split>.knn5_accuracy`` and
    ``<split>.linear_probe_accuracy`` to float64 arrays, shape (n,), of 0 and 1; or of NaN if the
    training images are of a single class.
    """
    scores = ("knn1_accuracy", "knn5_accuracy", "linear_probe_accuracy")
    truth = {"val": images.y_val, "test": images.y_test}
    if images.single_class:
        return {f"{s}.{score}": np.full(len(truth[s]), np.nan) for s in splits for score in scores}
    probe, correct = chosen_probe(codes, images, penalties), {}
    for split in splits:
        _, near = neighbours(codes["train"], codes[split])
        labels = [vote(images.y_train, near[:, :k]) for k in (1, 5)]
        labels.append(probe.predict(codes[split]))
        for score, predicted in zip(scores, labels, strict=True):
            correct[f"{split}.{score}"] = (predicted == truth[split]).astype("float64")
    return correct


def chosen_probe(codes, images, penalties):
    """Return the `linear_probe` with the penalty that is best on the validation images.

    The parameters are those of `hits`.
    """
    probes = [linear_probe(codes["train"], images.y_train, c) for c in penalties]
    return max(probes, key=lambda probe: probe.score(codes["val"], images.y_val))


def map_by_pca(codes):
    """Project codes, float (n, d), onto their two first principal axes, shape (n, 2).

    A code of one unit has a single axis; the second coordinate is then 0.
    """
    axes = min(2, codes.shape[1])
    projected = PCA(axes, svd_solver="covariance_eigh").fit_transform(codes)
    return np.pad(projected, [(0, 0), (0, 2 - axes)])


def map_quality(codes, maps, labels, sample):
    """Judge maps of codes by their trustworthiness and by a vote of five neighbours on the map.

    Venna and Kaski, "Neighborhood preservation in nonlinear projection methods", ICANN 2001.

    Parameters
    ----------
    codes : float array, shape (n, d)
    maps : dict
        A map's name to the positions of the codes, float, shape (n, 2).
    labels : int array, shape (n,)
        Each image is classified by its five nearest others. NaN if all labels are the same.
    sample : int array
        Images of which the trustworthiness is taken; its memory grows with their square.

    Returns a pandas.DataFrame with a row for each map.
    """
    rows = {}
    for name, points in maps.items():
        trust = trustworthiness(codes[sample], points[sample], n_neighbors=5)
        correct = vote(labels, neighbours(points, None)[1]) == labels
        accuracy = interval(correct if len(np.unique(labels)) > 1 else np.nan * correct)
        rows[name] = {"trustworthiness": trust, "5-NN accuracy [95 %]": accuracy}
    return pd.DataFrame.from_dict(rows, orient="index")


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


def with_one_unit_at(codes, values):
    """Return codes, float (n, d), d times over, with unit j of copy j at ``values[j]``, all (d,).

    The result has the shape (d, n, d).
    """
    unit = np.arange(codes.shape[1])
    moved = np.tile(codes, (len(unit), 1, 1))
    moved[unit, :, unit] = np.asarray(values)[:, None]
    return moved


def agreement(changes):
    """Return the mean cosine between the changes that one unit makes in different images.

    ``changes``, float (d, n, pixels), are differences of decoded images, for each of d units and of
    n images. The result, shape (d,), is 1 for a unit that changes all images alike, as each
    component of PCA does, and near 0 for one whose effect depends on the image alone.
    """
    n = changes.shape[1]
    lengths = np.linalg.norm(changes, axis=2, keepdims=True)
    sums = (changes / np.maximum(lengths, np.finfo("float32").tiny)).sum(axis=1)
    return (np.square(sums).sum(axis=1) - n) / (n * (n - 1))


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
