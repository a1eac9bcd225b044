"""Learning from few labels: balanced draws of them, their propagation on a graph of codes, and fine-tuning."""

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError
from ae_lib.metrics import student_interval
from ae_lib.training import compiler_for

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import NearestNeighbors

SPECTRAL_RADIUS = 0.99  # assumed of the random walk on a graph; what decays more slowly is left to the last sweeps


def balanced_draws(labels, sizes, count, seed=0):
    """Draw labelled images, as many of each class, enough for the largest of some sizes.

    The classes take turns, so that the first n images of a draw are a balanced draw as well, if n is one of the sizes:
    one draw serves a whole learning curve, and more labels means some in addition.

    Parameters
    ----------
    labels : int array, shape (n,)
    sizes : sequence of int
        Multiples of the number of classes.
    count : int
        Number of draws; each depends on nothing but the labels, the seed and its number.
    seed : int

    Returns
    -------
    int64 array, shape (count, max(sizes))
        Indices of images, none twice in a draw.

    Raises
    ------
    StudyError
        If a size is not a multiple of the number of classes, or a class has too few images.
    """
    classes, members = np.unique(labels, return_counts=True)
    most = members.min() * len(classes)
    for size in sizes:
        if size % len(classes) or not 0 < size <= most:
            raise StudyError(
                f"A draw has {size} labels; expected a multiple of the {len(classes)} classes, at most {most}, since the "
                f"smallest class has {members.min()} images: change it."
            )
    each = max(sizes) // len(classes)
    generators = [np.random.default_rng([seed, number]) for number in range(count)]
    of_class = [np.flatnonzero(labels == label) for label in classes]
    return np.array(
        [np.stack([g.permutation(m)[:each] for m in of_class], axis=1).ravel() for g in generators]
    )


def neighbour_weights(codes, queries=None, neighbours=10):
    """Weights of the nearest codes of each query, as a sparse matrix.

    The weight falls with the distance d as exp(−4 d² / d_k²), where d_k is the distance of the query's k-th neighbour, as
    in Calder, Cook, Thorpe and Slepčev, "Poisson learning: graph based semi-supervised learning at very low label
    rates", ICML 2020.

    Parameters
    ----------
    codes : float array, shape (n, d)
    queries : float array, shape (m, d), optional
        By default the codes themselves; then no code is its own neighbour.
    neighbours : int
        The k above.

    Returns
    -------
    scipy.sparse.csr_array of float32, shape (m, n)
        k entries in each row.
    """
    if not 1 <= neighbours < len(codes):
        raise StudyError(
            f"neighbours is {neighbours}; expected 1 to {len(codes) - 1} of {len(codes)} codes: change it."
        )
    distances, indices = (
        NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(codes).kneighbors(queries)
    )
    furthest = np.maximum(
        distances[:, -1:], np.finfo("float32").tiny
    )  # copies of one image lie at distance 0
    weights = np.exp(-4 * (distances / furthest) ** 2).astype("float32")
    starts = np.arange(0, weights.size + 1, neighbours)
    return scipy.sparse.csr_array(
        (weights.ravel(), indices.ravel(), starts), shape=(len(indices), len(codes))
    )


def propagate(weights, draws, labels, sweeps=30):
    """Give every node of a graph the class that its neighbours have, starting from a few labelled nodes.

    The harmonic function: each node's share of a class is the weighted mean of its neighbours' shares, and the labelled
    nodes keep theirs. Class masses are then made equal, as draws are balanced, and the largest share wins.

    Parameters
    ----------
    weights : sparse array, shape (n, n)
        Made symmetric here, so that an edge leads both ways.
    draws : int array, shape (count, size)
        The labelled nodes of each draw.
    labels : int array, shape (n,)
        Classes 0, 1, …; only those of the nodes in a draw are looked at.
    sweeps : int
        Over the graph, accelerated by Chebyshev's method, without which it takes some three times as many.

    Returns
    -------
    int64 array, shape (count, n)

    References
    ----------
    Zhu, Ghahramani and Lafferty, "Semi-supervised learning using Gaussian fields and harmonic functions", ICML 2003.
    Golub and Varga, "Chebyshev semi-iterative methods …", Numerische Mathematik 3, 1961.
    """
    count, classes = len(draws), int(labels[draws].max()) + 1
    symmetric = (weights + weights.T).tocsr()
    walk = scipy.sparse.diags_array(1 / symmetric.sum(axis=1)).astype("float32") @ symmetric
    # One column for each draw and class, so that all draws share each sweep.
    given = np.zeros((walk.shape[0], count, classes), "float32")
    at = draws, np.arange(count)[:, None]
    given[(*at, labels[draws])] = 1
    shares, before, momentum = given, np.zeros_like(given), 1.0
    for sweep in range(sweeps):
        after = (
            momentum * ((walk @ shares.reshape(len(given), -1)).reshape(given.shape) - before)
            + before
        )
        after[at] = given[at]
        shares, before = after, shares
        momentum = 1 / (1 - SPECTRAL_RADIUS**2 * (0.5 if sweep == 0 else momentum / 4))
    return (shares / shares.sum(axis=0)).argmax(axis=2).T


def vote(weights, classes):
    """Class of each query from a vote of its neighbours.

    Parameters
    ----------
    weights : sparse array, shape (m, n)
        As `neighbour_weights` gives it.
    classes : int array, shape (count, n)
        The neighbours' classes in each draw.

    Returns
    -------
    int64 array, shape (count, m)
    """
    one_hot = np.eye(classes.max() + 1, dtype="float32")[classes.T]
    votes = weights @ one_hot.reshape(one_hot.shape[0], -1)
    return votes.reshape(-1, *one_hot.shape[1:]).argmax(axis=2).T


def gaussian_kernel(a, b, gamma):
    """exp(−γ d²) for every pair of rows, d their Euclidean distance; float32, shape (len(a), len(b)).

    By one matrix product in float32: for features of unit size several times as fast as scikit-learn's, and exact enough.
    """
    squared = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * (a @ b.T)
    return np.exp(-gamma * squared)


def tuned_predictions(estimator, grid, x, y, queries, sizes, tune_on=600, folds=3):
    """Train a classifier on the first labels of a draw, once for each size, and let it classify the queries.

    Parameters
    ----------
    estimator : scikit-learn classifier
    grid : dict
        Hyper-parameters to choose from, by stratified cross-validation within the labels; as for ``GridSearchCV``.
    x, y : arrays, shape (size, d) and (size,)
        A draw's images, in the order of `balanced_draws`.
    queries : array, shape (m, d)
    sizes : sequence of int, ascending
        How many of the labels to use.
    tune_on : int
        With more labels than that, the choice made with fewer is kept.
    folds : int

    Returns
    -------
    int array, shape (len(sizes), m)
    """
    chosen, predictions = None, []
    for size in sizes:
        if chosen is None or size <= tune_on:
            search = GridSearchCV(estimator, grid, cv=StratifiedKFold(folds), refit=False)
            chosen = search.fit(x[: min(size, tune_on)], y[: min(size, tune_on)]).best_params_
        predictions.append(
            clone(estimator).set_params(**chosen).fit(x[:size], y[:size]).predict(queries)
        )
    return np.array(predictions)


def t_interval(values):
    """Mean over draws with its 95 % interval after Student, for values that are few and roughly normal.

    A percentile bootstrap of ten values would be too narrow. The interval says how far the mean would move with other
    draws of labels, for the same network and the same test images.

    Parameters
    ----------
    values : float array, shape (n,), n of at least 2

    Returns
    -------
    ae_lib.metrics.Interval
    """
    return student_interval(np.mean(values), np.std(values, ddof=1), len(values))


def fewer_errors(first, second):
    """Whether the first of two methods errs less, from its errors on the same draws.

    Returns
    -------
    "yes", "no", or "undecided" if the `t_interval` of the mean difference holds 0.
    """
    return t_interval(np.asarray(second) - np.asarray(first)).verdict


class Trainer:
    """Trains a classifier with labels, again and again, each time from the weights that it is given.

    All steps are one compiled graph, and its arguments have one shape, so that it is compiled once for all draws.

    Parameters
    ----------
    model : keras.Model, (n, d) → (n, classes)
        With a softmax output, as of `ae_lib.models.classifier`; its weights are those of the last training.
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
        self.unused_state = [variable.numpy() for variable in self.optimizer.variables]
        self._all_steps = tf.function(self._steps, jit_compile=compiler_for(model) == "xla")

    def train(self, weights, chosen, seed):
        """Train from the given weights on the chosen images, and on no other.

        Parameters
        ----------
        weights : list of arrays
            As of ``model.get_weights()``.
        chosen : int array, shape (size,)
            Indices of images.
        seed : int
            Of the order of the minibatches: as many shuffled passes as the steps need.

        Returns
        -------
        float
            Mean cross-entropy over the last tenth of the steps, in nats.
        """
        self.model.set_weights(weights)
        for variable, value in zip(self.optimizer.variables, self.unused_state, strict=True):
            variable.assign(value)
        generator, count = np.random.default_rng(seed), self.steps * self.batch_size
        passes = [generator.permutation(chosen) for _ in range(-(-count // len(chosen)))]
        batches = np.concatenate(passes)[:count].reshape(self.steps, self.batch_size)
        return float(self._all_steps(tf.constant(batches, tf.int32))) / max(1, self.steps // 10)

    def _steps(self, batches):
        def step(i, total):
            x, y = tf.gather(self.pixels, batches[i]), tf.gather(self.labels, batches[i])
            with tf.GradientTape() as tape:
                predicted = self.model(tf.cast(x, tf.float32) / self.white, training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, predicted))
            self.optimizer.apply(
                tape.gradient(loss, self.model.trainable_variables), self.model.trainable_variables
            )
            return i + 1, total + tf.where(i >= self.steps - max(1, self.steps // 10), loss, 0.0)

        return tf.while_loop(lambda i, _: i < self.steps, step, (0, 0.0))[1]
