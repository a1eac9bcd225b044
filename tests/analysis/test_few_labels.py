"""Draws are balanced, labels spread as the equations say, and every training starts afresh."""

from functools import partial

from ae_lib import StudyError, models
from ae_lib.analysis import few_labels

import keras
import numpy as np
import pytest
import scipy.sparse
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import KNeighborsClassifier, kneighbors_graph
from sklearn.svm import SVC


@pytest.fixture(scope="module")
def clouds():
    """Two clouds of points, far apart, of classes 0 and 1."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    return rng.normal(size=(120, 3)).astype("float32") + 20 * labels[:, None].astype(
        "float32"
    ), labels


def test_sizes_are_made_possible_and_that_is_said(capsys):
    labels = np.repeat(np.arange(26), 12)
    assert few_labels.possible_sizes(labels, [26, 260]) == [26, 260]
    assert capsys.readouterr().out == ""
    assert few_labels.possible_sizes(labels, [100, 600, 1000], least=3) == [78, 312]
    assert "sizes are [78, 312] instead of [100, 600, 1000]" in capsys.readouterr().out
    with pytest.raises(StudyError, match="smallest of 26 classes has 12 .*at least 13.*folds"):
        few_labels.possible_sizes(labels, [100], least=13)


def test_every_size_of_a_draw_is_balanced_and_without_repetition(digits):
    draws = few_labels.balanced_draws(digits.y_train, [20, 50, 300], count=4, seed=1)
    assert draws.shape == (4, 300)
    for draw in draws:
        assert len(set(draw)) == 300
        for size in (20, 50, 300):
            assert (np.bincount(digits.y_train[draw[:size]]) == size // 10).all()


def test_a_draw_depends_on_the_seed_and_its_number_only(digits):
    draws = few_labels.balanced_draws(digits.y_train, [20, 50], count=3)
    np.testing.assert_array_equal(
        few_labels.balanced_draws(digits.y_train, [50], count=2), draws[:2]
    )
    assert (draws[0] != draws[1]).any()
    assert (few_labels.balanced_draws(digits.y_train, [50], count=3, seed=1) != draws).any()


@pytest.mark.parametrize("sizes", [[25], [20, 0], [20, 5000]])
def test_unbalanced_draws_are_refused(digits, sizes):
    with pytest.raises(
        StudyError, match=f"A draw has {sizes[-1]} labels; expected a multiple of the 10 classes"
    ):
        few_labels.balanced_draws(digits.y_train, sizes, count=1)


def test_neighbours_are_the_nearest_others(clouds):
    codes, _ = clouds
    weights = few_labels.neighbour_weights(codes, neighbours=5)
    expected = kneighbors_graph(codes, 5)
    np.testing.assert_array_equal(weights.toarray() > 0, expected.toarray() > 0)
    np.testing.assert_allclose(weights.max(axis=1).toarray().ravel() <= 1, True)
    np.testing.assert_allclose(weights.data.reshape(-1, 5).min(axis=1), np.exp(-4), rtol=1e-5)


def test_neighbours_of_copies_have_full_weight():
    weights = few_labels.neighbour_weights(np.zeros((4, 2)), np.zeros((1, 2)), neighbours=3)
    np.testing.assert_array_equal(weights.data, [1, 1, 1])


@pytest.mark.parametrize("neighbours", [0, 120])
def test_impossible_neighbours_are_refused(clouds, neighbours):
    with pytest.raises(
        StudyError, match=f"neighbours is {neighbours}; expected 1 to 119 of 120 codes"
    ):
        few_labels.neighbour_weights(clouds[0], neighbours=neighbours)


@pytest.fixture(params=["harmonic", "poisson"])
def method(request):
    """A way to spread labels: a function of a graph, labelled images and labels."""
    return getattr(few_labels.NeighbourGraph, request.param)


def test_labels_spread_over_their_own_cloud(clouds, method):
    """The clouds are not connected, so that each gets its class from its only labelled image."""
    codes, labels = clouds
    graph = few_labels.NeighbourGraph(few_labels.neighbour_weights(codes, neighbours=6))
    for draw in few_labels.balanced_draws(labels, [2], count=5):
        scores = method(graph, draw, labels)
        assert scores.shape == (120, 2)
        np.testing.assert_array_equal(scores.argmax(axis=1), labels)
        hidden = np.full_like(labels, -1)
        hidden[draw] = labels[draw]
        np.testing.assert_array_equal(method(graph, draw, hidden), scores)


def test_a_cloud_without_labels_has_finite_scores(clouds, method):
    codes, labels = clouds
    graph = few_labels.NeighbourGraph(few_labels.neighbour_weights(codes, neighbours=6))
    scores = method(graph, np.array([0, 1]), labels)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores[60:], 0)


@pytest.fixture(scope="module")
def overlapping():
    """Three overlapping clouds: their labels, the matrix of weights, a graph, and draws."""
    rng = np.random.default_rng(1)
    labels = np.arange(150) % 3
    codes = rng.normal(size=(150, 2)) + 1.5 * np.eye(3)[labels][:, :2]
    weights = few_labels.neighbour_weights(codes, neighbours=8)
    symmetric = (weights + weights.T).toarray().astype("float64")
    draws = few_labels.balanced_draws(labels, [15], count=3)
    return labels, symmetric, few_labels.NeighbourGraph(weights), draws


def test_harmonic_scores_solve_laplaces_equation(overlapping):
    """Against the closed form f_u = (D_uu − W_uu)⁻¹ W_ul f_l."""
    labels, w, graph, draws = overlapping
    laplacian = np.diag(w.sum(axis=1)) - w
    for draw in draws:
        rest = np.setdiff1d(np.arange(150), draw)
        expected = np.eye(3)[labels]
        expected[rest] = np.linalg.solve(
            laplacian[np.ix_(rest, rest)], w[np.ix_(rest, draw)] @ expected[draw]
        )
        np.testing.assert_allclose(graph.harmonic(draw, labels), expected, atol=5e-3)


def test_poisson_scores_solve_poissons_equation(overlapping):
    """Against the pseudoinverse, up to the constant that the equation leaves open."""
    labels, w, graph, draws = overlapping
    degrees = w.sum(axis=1)
    for draw in draws:
        sources = np.zeros((150, 3))
        sources[draw] = np.eye(3)[labels[draw]] - 1 / 3
        expected = np.linalg.pinv(np.diag(degrees) - w) @ sources
        expected -= degrees @ expected / degrees.sum()
        scores = graph.poisson(draw, labels)
        np.testing.assert_allclose(scores, expected, atol=5e-3 * np.abs(expected).max())


def test_equal_masses():
    scores = np.array([[0.6, 0.1], [0.6, 0.5], [0.3, 0.0]])
    np.testing.assert_array_equal(few_labels.equal_masses(scores).argmax(axis=1), [0, 1, 0])
    np.testing.assert_allclose(few_labels.equal_masses(scores).sum(axis=0), 1)
    assert np.isfinite(few_labels.equal_masses(np.zeros((3, 2)))).all()


def test_vote_is_weighted():
    weights = scipy.sparse.csr_array(np.array([[0.4, 0.3, 0.3], [0.9, 0.3, 0.3]], "float32"))
    classes = np.array([[2, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(few_labels.vote(weights, classes), [[1, 2], [0, 0]])


def test_gaussian_kernel_is_scikit_learns():
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=(n, 5)).astype("float32") / 3 for n in (7, 4))
    np.testing.assert_allclose(
        few_labels.gaussian_kernel(a, b, 0.7), rbf_kernel(a, b, 0.7), rtol=1e-5
    )


def test_tuned_predictions_use_the_first_labels_only(digits):
    x, y = digits.x_train[:300], digits.y_train[:300].copy()
    draw = few_labels.balanced_draws(y, [60, 120], count=1)[0]
    grid = {"kernel": [partial(few_labels.gaussian_kernel, gamma=g) for g in (1e-9, 0.02)]}
    found = few_labels.tuned_predictions(
        SVC(C=10), grid, x[draw], y[draw], digits.x_test, [60, 120], tune_on=60
    )
    assert found.shape == (2, 297)
    assert (
        (found != digits.y_test).mean(axis=1) < 0.25
    ).all()  # with the other kernel width it would be 0.9
    poisoned = y[draw].copy()
    poisoned[60:] = 0
    again = few_labels.tuned_predictions(
        SVC(C=10), grid, x[draw], poisoned, digits.x_test, [60, 120], tune_on=60
    )
    np.testing.assert_array_equal(again[0], found[0])
    assert (again[1] != found[1]).any()


def test_hyper_parameters_are_chosen_again_up_to_a_size(monkeypatch, digits):
    asked = []

    class Search(few_labels.GridSearchCV):
        def fit(self, x, y):
            asked.append(len(x))
            return super().fit(x, y)

    monkeypatch.setattr(few_labels, "GridSearchCV", Search)
    draw = few_labels.balanced_draws(digits.y_train, [30, 60, 90, 120], count=1)[0]
    given = (
        KNeighborsClassifier(),
        {"n_neighbors": [1, 3]},
        digits.x_train[draw],
        digits.y_train[draw],
        digits.x_test,
    )
    few_labels.tuned_predictions(*given, [30, 60, 90, 120], tune_on=60)
    assert asked == [30, 60]
    few_labels.tuned_predictions(*given, [90, 120], tune_on=60)
    assert asked[2:] == [60]


@pytest.fixture(scope="module")
def trainer(digits):
    keras.utils.set_random_seed(0)
    classifier = models.classifier(models.dense_autoencoder(hidden=(32,), latent_dim=8).encoder, 10)
    return few_labels.Trainer(
        classifier, digits.pixels_train, digits.y_train, steps=60, batch_size=50, learning_rate=0.01
    )


def test_every_training_starts_afresh(trainer, digits):
    start, chosen = trainer.model.get_weights(), np.arange(200)
    trainer.train(start, chosen, seed=1)
    first = trainer.model.get_weights()
    trainer.train(start, np.arange(100), seed=2)
    trainer.train(start, chosen, seed=1)
    for a, b in zip(first, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    predicted = trainer.model(digits.x_train[:200]).numpy().argmax(axis=1)
    assert (predicted == digits.y_train[:200]).mean() > 0.9


def test_training_is_kerass(trainer, digits):
    """A pass of full batches, against Keras's own train_on_batch in the same order."""
    start, chosen = trainer.model.get_weights(), np.arange(100)
    loss = trainer.train(start, chosen, seed=3)
    mine = trainer.model.get_weights()
    generator = np.random.default_rng(3)
    order = np.concatenate([generator.permutation(chosen) for _ in range(30)]).reshape(60, 50)
    other = keras.models.clone_model(trainer.model)
    other.set_weights(start)
    other.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    losses = []
    for batch in order:
        losses.append(other.train_on_batch(digits.x_train[batch], digits.y_train[batch]))
        other.reset_metrics()
    assert loss == pytest.approx(np.mean(losses[-6:]), rel=0.02)
    for a, b in zip(mine, other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
