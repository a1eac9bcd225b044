"""Learn from few labels: balanced draws, graphs of codes, tuned classifiers, and fine-tuning."""

from ae_lib import StudyError
from ae_lib.analysis.latent import neighbours as nearest
from ae_lib.models import compiler_for, predict_in_batches

import keras
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
import tensorflow as tf
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold

TOLERANCE = 1e-3  # of linear systems: the residual's norm over that of the right-hand side
LEAST_DECAY = 1e-5  # makes Poisson's equation solvable in a part of a graph without labels


def possible_sizes(labels, sizes, least=1):
    """Make sizes of balanced draws possible: whole multiples of the number of classes.

    Rounded down, to at least ``least`` images of each class and at most as many as the smallest
    has; what is changed is printed. Raises `StudyError` if the smallest class has fewer.
    """
    classes, members = np.unique(labels, return_counts=True)
    k, most = len(classes), int(members.min())
    if most < least:
        raise StudyError(
            f"The smallest of {k} classes has {most} training images; expected at least {least}, "
            "as many as folds of the cross-validation: lower folds, or add images."
        )
    possible = sorted({k * min(max(size // k, least), most) for size in sizes})
    if possible != sorted(sizes):
        print(
            f"sizes are {possible} instead of {sizes}: multiples of {k} classes, at most {most} of "
            "each"
        )
    return possible


def balanced_draws(labels, sizes, count, seed=0):
    """Draw labelled images, equally many of each class.

    The classes take turns, so that the first n images of a draw are balanced for each size n: one
    draw serves a whole learning curve, and a larger size adds images to a smaller one. Each draw
    depends on the labels, the seed and its index only. Returns indices, int64 (count, max(sizes)),
    none twice in a draw. Raises `StudyError` if a size is not a multiple of the number of classes,
    or a class has too few images.
    """
    classes, members = np.unique(labels, return_counts=True)
    most = members.min() * len(classes)
    for size in sizes:
        if size % len(classes) or not 0 < size <= most:
            raise StudyError(
                f"A draw has {size} labels; expected a multiple of the {len(classes)} classes, at "
                f"most {most}, since the smallest class has {members.min()} images: change it."
            )
    each = max(sizes) // len(classes)
    of_class = [np.flatnonzero(labels == label) for label in classes]
    draws = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        chosen = [rng.permutation(images)[:each] for images in of_class]
        draws.append(np.stack(chosen, axis=1).ravel())
    return np.array(draws)


def neighbour_weights(codes, queries=None, neighbours=10):
    """Weigh the k nearest codes of each query: scipy.sparse.csr_array, float32, shape (m, n).

    The weight falls with the distance d as exp(−4 d² / d_k²), where d_k is the distance of the
    query's k-th neighbour (Calder, Cook, Thorpe and Slepčev, "Poisson learning: graph based
    semi-supervised learning at very low label rates", ICML 2020). ``codes`` are float, shape
    (n, d), and ``queries`` (m, d); these are by default the codes, none its own neighbour.
    """
    if not 1 <= neighbours < len(codes):
        raise StudyError(
            f"neighbours is {neighbours}; expected 1 to {len(codes) - 1} of {len(codes)} codes: "
            "change it."
        )
    distances, indices = nearest(codes, queries, neighbours)
    # Copies of one image lie at distance 0.
    furthest = np.maximum(distances[:, -1:], np.finfo("float32").tiny)
    weights = np.exp(-4 * (distances / furthest) ** 2).astype("float32")
    ends = neighbours * np.arange(len(indices) + 1, dtype="int32")  # products are slower with int64
    shape = len(indices), len(codes)
    return scipy.sparse.csr_array((weights.ravel(), indices.ravel().astype("int32"), ends), shape)


class NeighbourGraph:
    """Images joined to their nearest neighbours, along whose edges labels propagate.

    Both methods return scores, float32 (n, classes), of all n images from the labels of the chosen
    ones; the largest score of an image is its class. ``chosen`` are indices, shape (size,), and
    ``labels`` are classes 0, 1, …, shape (n,), of which only those of the chosen are read.

    Parameters
    ----------
    weights : sparse array, shape (n, n)
        As of `neighbour_weights`; made symmetric here, so that an edge leads both ways.
    """

    def __init__(self, weights):
        symmetric = (weights + weights.T).tocsr()
        root = np.sqrt(symmetric.sum(axis=1))
        scaling = scipy.sparse.diags_array(1 / root)
        # D^-1/2 (D − W) D^-1/2, which is better conditioned than the Laplacian D − W itself.
        identity = scipy.sparse.eye_array(len(root))
        self.laplacian = (identity - scaling @ symmetric @ scaling).tocsr().astype("float32")
        self.root_degrees = root.astype("float32")[:, None]

    def harmonic(self, chosen, labels):
        """Solve Laplace's equation: each image's score is the weighted mean of its neighbours'.

        The scores of the chosen images are fixed, 1 for their class and 0 for others (Zhu,
        Ghahramani and Lafferty, "Semi-supervised learning using Gaussian fields and harmonic
        functions", ICML 2003).
        """
        free = np.ones(len(self.root_degrees), "float32")
        free[chosen] = 0
        known = self._one_hot(chosen, labels) * self.root_degrees
        system = scipy.sparse.linalg.LinearOperator(
            self.laplacian.shape, lambda v: free * (self.laplacian @ (free * v)), dtype="float32"
        )
        unknown = _solve(system, -free[:, None] * (self.laplacian @ known))
        return (known + unknown) / self.root_degrees

    def poisson(self, chosen, labels):
        """Solve Poisson's equation: the chosen images are sources of their class.

        L u = Σ δ_i (y_i − ȳ) with the graph's Laplacian L, one-hot labels y_i and their mean ȳ
        (Calder, Cook, Thorpe and Slepčev, "Poisson learning: graph based semi-supervised learning
        at very low label rates", ICML 2020).
        """
        sources = self._one_hot(chosen, labels)
        sources[chosen] -= sources[chosen].mean(axis=0)
        decay = LEAST_DECAY * scipy.sparse.eye_array(len(sources), dtype="float32")
        return _solve(self.laplacian + decay, sources / self.root_degrees) / self.root_degrees

    def _one_hot(self, chosen, labels):
        scores = np.zeros((len(self.root_degrees), int(labels[chosen].max()) + 1), "float32")
        scores[chosen, labels[chosen]] = 1
        return scores


def equal_masses(scores):
    """Scale scores, shape (n, classes), so that all classes have the same sum over the images.

    Class mass normalisation as in Zhu, Ghahramani and Lafferty (2003), for classes that are equally
    frequent, as in balanced draws.
    """
    return scores / np.maximum(scores.sum(axis=0), np.finfo("float32").tiny)


def vote(weights, classes):
    """Classify each query by a weighted vote of its neighbours.

    ``weights`` is a sparse array, shape (m, n), as of `neighbour_weights`; ``classes`` an int
    array, shape (count, n), the neighbours' classes in each draw. Returns int64, (count, m).
    """
    one_hot = np.eye(classes.max() + 1, dtype="float32")[classes.T]
    votes = weights @ one_hot.reshape(one_hot.shape[0], -1)
    return votes.reshape(-1, *one_hot.shape[1:]).argmax(axis=2).T


def _solve(system, right):
    """Solve for each column of ``right`` by conjugate gradients."""
    columns = [scipy.sparse.linalg.cg(system, column, rtol=TOLERANCE)[0] for column in right.T]
    return np.stack(columns, axis=1)


def gaussian_kernel(a, b, gamma):
    """Return exp(−γ d²) for every pair of rows at distance d; float32, shape (len(a), len(b)).

    One matrix product in float32 is several times as fast as scikit-learn's kernel, and accurate
    enough for features of unit size.
    """
    values = (2 * gamma * a) @ b.T  # in place from here on: memory is slower than arithmetic
    values -= gamma * np.square(a).sum(axis=1)[:, None]
    values -= gamma * np.square(b).sum(axis=1)
    return np.exp(values, out=values)


def tuned_predictions(estimator, grid, x, y, queries, sizes, tune_on=600, folds=3):
    """Train a classifier on the first labels of a draw, once for each size, and classify queries.

    Returns int array, shape (len(sizes), m).

    Parameters
    ----------
    estimator, grid : scikit-learn classifier, and dict
        Hyper-parameters are chosen from the grid by cross-validation within the labels.
    x, y, queries : arrays, shapes (size, d), (size,) and (m, d)
        A draw's images and labels, in the order of `balanced_draws`, and what is classified.
    sizes : sequence of int, ascending
        How many of the labels to use.
    tune_on : int
        With more labels than that, the choice made with fewer is kept.
    folds : int
    """
    chosen, predictions = None, []
    for size in sizes:
        if chosen is None or size <= tune_on:
            search = GridSearchCV(estimator, grid, cv=StratifiedKFold(folds), refit=False)
            chosen = search.fit(x[: min(size, tune_on)], y[: min(size, tune_on)]).best_params_
        fitted = clone(estimator).set_params(**chosen).fit(x[:size], y[:size])
        predictions.append(predict_in_batches(fitted.predict, queries, 1000))  # a kernel is large
    return np.array(predictions)


class Trainer:
    """Train one classifier many times, each time from weights that are given.

    All steps are one compiled graph whose arguments have one shape: it is compiled once.

    Parameters
    ----------
    model : keras.Model, (n, d) → (n, classes)
        With a softmax output, as of `ae_lib.models.classifier`; it holds the last training's
        weights.
    pixels : uint8 array, shape (n, d)
        Scaled in the graph.
    labels : int array, shape (n,)
    steps, batch_size : int
    learning_rate : float
        Of Adam.
    """

    def __init__(self, model, pixels, labels, steps=400, batch_size=100, learning_rate=1e-3):
        self.model, self.steps, self.batch_size = model, steps, batch_size
        # Variables, as in ae_lib.training: constants would become part of the compiled program.
        data = pixels, labels.astype("int32"), np.float32(255)
        self.pixels, self.labels, self.white = (
            tf.Variable(array, trainable=False) for array in data
        )
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.optimizer.build(model.trainable_variables)
        self.initial_state = [variable.numpy() for variable in self.optimizer.variables]
        self._all_steps = tf.function(self._steps, jit_compile=compiler_for(model) == "xla")

    def train(self, weights, chosen, seed):
        """Train from the given weights on the chosen images only.

        Returns the mean cross-entropy over the last tenth of the steps, in nats.

        Parameters
        ----------
        weights : list of arrays
            As of ``model.get_weights()``.
        chosen : int array, shape (size,)
            Indices of images.
        seed : int
            Of the minibatches' order: as many shuffled passes as the steps need.
        """
        self.model.set_weights(weights)
        for variable, value in zip(self.optimizer.variables, self.initial_state, strict=True):
            variable.assign(value)
        rng, count = np.random.default_rng(seed), self.steps * self.batch_size
        passes = [rng.permutation(chosen) for _ in range(-(-count // len(chosen)))]
        batches = np.concatenate(passes)[:count].reshape(self.steps, self.batch_size)
        return float(self._all_steps(tf.constant(batches, tf.int32))) / max(1, self.steps // 10)

    def _steps(self, batches):
        variables, last = self.model.trainable_variables, max(1, self.steps // 10)

        def step(i, total):
            x, y = tf.gather(self.pixels, batches[i]), tf.gather(self.labels, batches[i])
            with tf.GradientTape() as tape:
                predicted = self.model(tf.cast(x, tf.float32) / self.white, training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, predicted))
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return i + 1, total + tf.where(i >= self.steps - last, loss, 0.0)

        return tf.while_loop(lambda i, _: i < self.steps, step, (0, 0.0))[1]
