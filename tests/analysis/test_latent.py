"""Neighbours, probes and codes against answers known by other means."""

import warnings
from dataclasses import replace

from ae_lib import StudyError
from ae_lib.analysis import latent

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

SCORES = ["knn1_accuracy", "knn5_accuracy", "linear_probe_accuracy"]


@pytest.fixture
def codes():
    return np.random.default_rng(0).normal(size=(80, 5)).astype("float32")


@pytest.fixture(scope="module")
def pca(digits):
    return PCA(6, svd_solver="covariance_eigh").fit(digits.x_train)


def test_neighbours_are_the_nearest(codes):
    expected = cdist(codes[:9] + 0.1, codes)
    distances, found = latent.neighbours(codes, codes[:9] + 0.1, 4)
    np.testing.assert_array_equal(found, np.argsort(expected)[:, :4])
    np.testing.assert_allclose(distances, np.sort(expected)[:, :4], rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 1000])
def test_neighbours_among_many_are_scikit_learns(shift):
    """Enough references for groups with a rest, some of them twice, near and far from 0."""
    rng = np.random.default_rng(1)
    codes = (rng.normal(size=(3001, 4)) + shift).astype("float32")
    codes[-50:] = codes[:50]
    for queries in (codes[::7] + np.float32(0.25), None):
        expected, _ = (
            NearestNeighbors(n_neighbors=5).fit(codes.astype("float64")).kneighbors(queries)
        )
        distances, found = latent.neighbours(codes, queries, 5)
        np.testing.assert_allclose(distances, expected, rtol=1e-3, atol=1e-6)
        points = codes if queries is None else queries
        measured = np.linalg.norm(codes[found].astype("float64") - points[:, None], axis=2)
        np.testing.assert_allclose(measured, expected, rtol=1e-6, atol=1e-6)
        assert queries is not None or (found != np.arange(len(codes))[:, None]).all()


def test_without_queries_neighbours_leave_the_point_out(codes):
    distances = cdist(codes, codes)
    np.fill_diagonal(distances, np.inf)
    _, found = latent.neighbours(codes, None, 3)
    np.testing.assert_array_equal(found, np.argsort(distances)[:, :3])


@pytest.mark.parametrize(
    ("find", "k", "most"),
    [
        (lambda codes, k: latent.neighbours(codes, codes, k), 81, 80),
        (lambda codes, k: latent.neighbours(codes, codes, k), 0, 80),
        (lambda codes, k: latent.neighbours(codes, None, k), 80, 79),
    ],
)
def test_too_many_neighbours_are_refused(codes, find, k, most):
    with pytest.raises(
        StudyError, match=f"{k} neighbours are asked for .* expected 1 to {most}: lower k"
    ):
        find(codes, k)


@pytest.mark.parametrize("k", [1, 5])
def test_vote_is_scikit_learns_classifier(digits, k):
    expected = KNeighborsClassifier(k).fit(digits.x_train, digits.y_train).predict(digits.x_test)
    _, found = latent.neighbours(digits.x_train, digits.x_test, 5)
    np.testing.assert_array_equal(latent.vote(digits.y_train, found[:, :k]), expected)


def test_vote_and_purity_of_known_neighbours():
    labels, found = (
        np.array([7, 7, 3, 3, 9]),
        np.array([[0, 1, 2], [4, 2, 3], [0, 2, 4], [4, 3, 2]]),
    )
    np.testing.assert_array_equal(
        latent.vote(labels, found), [7, 3, 3, 3]
    )  # of three different ones the smallest
    np.testing.assert_allclose(latent.purity(labels, found), [2 / 3, 2 / 3, 1 / 3, 2 / 3])


def test_linear_probe_does_not_see_the_scale_of_a_feature(digits, pca):
    codes = pca.transform(digits.x_train)
    stretched = codes * np.array([1, 10, 100, 1e3, 1e-3, 1e-2], "float32")
    first, second = (
        latent.linear_probe(x, digits.y_train).predict_proba(x) for x in (codes, stretched)
    )
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_linear_probe_is_at_the_least_of_its_loss(digits, pca):
    """The gradient of the penalised loss, computed here from its formula, is nearly 0."""
    x, y, c = pca.transform(digits.x_train).astype("float64"), digits.y_train, 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = latent.linear_probe(x, y, c, tolerance=1e-6)
    residual = probe.predict_proba(x) - np.eye(10)[y]
    gradient = probe[0].transform(x).T @ residual + probe[1].coef_.T / c
    assert np.abs(gradient).max() / len(x) < 2e-6


def test_one_class_is_refused(codes):
    with pytest.raises(StudyError, match="All 80 labels are 4; expected at least two classes"):
        latent.linear_probe(codes, np.full(80, 4))


def test_what_one_class_cannot_tell_is_not_a_number(codes, digits):
    same = np.full(80, 4)
    first, second = latent.unlike_pairs(same, 50)
    assert (first != second).all()
    assert np.isnan(latent.purity(same, np.zeros((3, 2), int))).all()
    images = replace(digits, y_train=same, y_test=same[:20])
    hits = latent.hits({"train": codes, "val": codes, "test": codes[:20]}, images)
    assert list(hits) == [f"test.{score}" for score in SCORES]
    assert all(np.isnan(hit).all() and hit.shape == (20,) for hit in hits.values())


def test_hits_of_both_splits_with_the_penalty_that_validation_images_choose(digits, pca):
    codes = {part: pca.transform(getattr(digits, f"x_{part}")) for part in ("train", "val", "test")}
    hits = latent.hits(codes, digits, penalties=(1e-6, 1.0), splits=("val", "test"))
    assert list(hits) == [f"{split}.{score}" for split in ("val", "test") for score in SCORES]
    probe = latent.linear_probe(codes["train"], digits.y_train, 1.0)
    for split, truth in (("val", digits.y_val), ("test", digits.y_test)):
        expected = probe.predict(codes[split]) == truth
        np.testing.assert_array_equal(hits[f"{split}.linear_probe_accuracy"], expected)
        for k in (1, 5):
            knn = KNeighborsClassifier(k).fit(codes["train"], digits.y_train)
            expected = knn.predict(codes[split]) == truth
            np.testing.assert_array_equal(hits[f"{split}.knn{k}_accuracy"], expected)


def test_pixel_metric_undoes_any_linear_map_of_pcas_codes(digits, pca):
    """PCA's codes have the scale of pixels; the metric finds their distances, however mixed."""
    codes = pca.transform(digits.x_train)
    mixed = (codes @ np.random.default_rng(1).normal(size=(6, 6)) + 3).astype("float32")
    found = cdist(*(2 * [(mixed @ latent.pixel_metric(mixed, digits.x_train))[:50]]))
    np.testing.assert_allclose(found, cdist(codes[:50], codes[:50]), rtol=1e-3, atol=1e-3)


def test_cost_of_pcas_units_is_their_variance(digits, pca):
    x = digits.x_train
    found = latent.unit_costs(pca.inverse_transform, x, pca.transform(x), np.zeros(6, "float32"))
    assert found.shape == (len(x), 6)
    np.testing.assert_allclose(found.mean(axis=0), pca.explained_variance_, rtol=2e-3)


def test_one_unit_is_moved_in_each_copy():
    codes = np.array([[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])
    expected = [[[0, 6], [0, 8], [0, 10]], [[5, 1], [7, 1], [9, 1]]]
    np.testing.assert_array_equal(latent.with_one_unit_at(codes, [0, 1]), expected)
    np.testing.assert_array_equal(codes[0], [5, 6])


def test_agreement_is_1_for_pca_and_0_for_unrelated_changes(digits, pca):
    codes = pca.transform(digits.x_train[:30])
    low, high = (latent.with_one_unit_at(codes, np.full(6, value, "float32")) for value in (-1, 2))
    changes = pca.inverse_transform(high.reshape(-1, 6)) - pca.inverse_transform(low.reshape(-1, 6))
    np.testing.assert_allclose(latent.agreement(changes.reshape(6, 30, -1)), 1, rtol=1e-4)
    unrelated = np.random.default_rng(4).normal(size=(2, 200, 500))
    np.testing.assert_allclose(latent.agreement(unrelated), 0, atol=2e-3)


def test_agreement_is_the_mean_cosine_of_pairs():
    changes = np.random.default_rng(5).normal(0.5, 1, size=(3, 7, 4))
    cosines = [1 - cdist(change, change, "cosine") for change in changes]
    expected = [cosine[np.triu_indices(7, 1)].mean() for cosine in cosines]
    np.testing.assert_allclose(latent.agreement(changes), expected)


def test_map_quality(codes):
    labels, sample = (codes[:, 0] > 0).astype(int), np.arange(80)
    maps = {"good": codes[:, :2], "none": np.random.default_rng(7).normal(size=(80, 2))}
    table = latent.map_quality(codes[:, :2], maps, labels, sample)
    assert list(table.index) == ["good", "none"]
    assert table["trustworthiness"]["good"] == 1
    assert 0.4 < table["trustworthiness"]["none"] < 0.65
    assert table["5-NN accuracy [95 %]"]["good"].value > 0.85
    assert 0.3 < table["5-NN accuracy [95 %]"]["none"].value < 0.7
    same = latent.map_quality(codes, maps, np.zeros(80, int), sample)
    assert np.isnan(same["5-NN accuracy [95 %]"]["good"].value)


def test_map_by_pca_has_two_axes_also_of_one_unit(codes):
    expected = PCA(2).fit_transform(codes)
    np.testing.assert_allclose(abs(latent.map_by_pca(codes)), abs(expected), atol=1e-4)
    line = latent.map_by_pca(codes[:, :1])
    assert line.shape == (80, 2)
    assert not line[:, 1].any()


def test_unlike_pairs():
    labels = np.array([0, 0, 0, 1, 2])
    first, second = latent.unlike_pairs(labels, 4000, seed=5)
    assert (labels[first] != labels[second]).all()
    np.testing.assert_allclose(np.bincount(first) / 4000, 0.2, atol=0.03)
    np.testing.assert_array_equal(latent.unlike_pairs(labels, 4000, seed=5), [first, second])
    assert (latent.unlike_pairs(labels, 4000, seed=6) != [first, second]).any()


def test_path_is_straight_and_keeps_its_ends(codes):
    found = latent.path(codes[:3], codes[3:6], 5)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found[[0, -1]], [codes[:3], codes[3:6]])
    np.testing.assert_allclose(found[2], (codes[:3] + codes[3:6]) / 2, rtol=1e-5)
    np.testing.assert_allclose(
        np.diff(found, axis=0), np.broadcast_to((codes[3:6] - codes[:3]) / 4, (4, 3, 5)), atol=1e-6
    )
