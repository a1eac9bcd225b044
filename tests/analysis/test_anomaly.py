"""Scores order images, thresholds keep their rate, AUROC and its interval are the known ones."""

from ae_lib import StudyError, metrics, models, training
from ae_lib.analysis import anomaly

import keras
import numpy as np
import pytest
from scipy.ndimage import shift
from sklearn.metrics import roc_auc_score


def test_relative_error_forgives_a_shifted_edge_and_not_a_missing_stroke():
    x = np.zeros((1, 28, 28), "float32")
    x[0, 6:22, 12:16] = 1
    moved = shift(x, (0, 0, 0.5), order=1)
    broken = x.copy()
    broken[0, 12:14, 12:16] = 0  # as much squared error as the moved stroke
    x, moved, broken = (images.reshape(1, 784) for images in (x, moved, broken))
    assert np.square(moved - x).sum() == pytest.approx(np.square(broken - x).sum())
    assert (
        anomaly.relative_error(x, broken, (28, 28))[0]
        > 1.3 * anomaly.relative_error(x, moved, (28, 28))[0]
    )


def test_relative_error_without_smoothing_is_squared_error_by_ink(digits):
    x, y = digits.x_test[:5], digits.x_test[5:10]
    expected = np.square(y - x).sum(axis=1) / x.sum(axis=1)
    np.testing.assert_allclose(anomaly.relative_error(x, y, (28, 28), sigma=0), expected, rtol=1e-5)
    both = anomaly.relative_error(x, np.stack([y, x], axis=1), (28, 28), sigma=1)
    np.testing.assert_allclose(
        both[:, 0], anomaly.relative_error(x, y, (28, 28), sigma=1), rtol=1e-5
    )
    assert (both[:, 1] == 0).all()
    assert np.isfinite(
        anomaly.relative_error(np.zeros((1, 784)), np.ones((1, 784)), (28, 28))
    ).all()


def test_scores_are_those_of_the_whole_whatever_the_parts(digits):
    x = digits.x_test[:7]
    y = np.stack([digits.x_train[:7].clip(0.05, 0.95), np.full_like(x, 0.5)], axis=1)
    given = iter([y[:3], y[3:6], y[6:]])
    found = anomaly.scores(lambda images: next(given), x, (28, 28), part=3)
    for k in range(2):
        np.testing.assert_allclose(found["mse"][:, k], metrics.mse(x, y[:, k]), rtol=1e-4)
        np.testing.assert_allclose(found["bce"][:, k], metrics.bce(x, y[:, k]), rtol=1e-3)
        np.testing.assert_allclose(
            found["excess_bce"][:, k], metrics.bce(x, y[:, k]) - metrics.entropy(x), atol=1e-3
        )
        np.testing.assert_allclose(
            found["relative"][:, k], anomaly.relative_error(x, y[:, k], (28, 28)), rtol=1e-5
        )


def test_threshold_keeps_its_promise_on_average():
    rng, alarms = np.random.default_rng(0), []
    for _ in range(500):
        errors = rng.gamma(2, size=400)
        alarms.append((errors[200:] > anomaly.threshold(errors[:200], 0.05)).mean())
    assert 0.04 < np.mean(alarms) <= 0.05 + 3 * np.std(alarms) / np.sqrt(500)


def test_threshold_is_the_conformal_quantile():
    assert anomaly.threshold(np.arange(99)[::-1], 0.05) == 94  # the 95th smallest of 99
    assert anomaly.threshold(np.arange(19), 0.05) == 18


@pytest.mark.parametrize(
    ("n", "rate", "message"),
    [(100, 0, "between 0 and 1"), (100, 1.2, "1.2"), (98, 0.01, "least 99")],
)
def test_impossible_thresholds_are_refused(n, rate, message):
    with pytest.raises(StudyError, match=message):
        anomaly.threshold(np.arange(n), rate)


@pytest.fixture
def problems():
    rng = np.random.default_rng(1)
    anomalous = rng.random((300, 3)) < 0.3
    scores = np.round(rng.normal(anomalous * [0, 1, 2], 1), 1)  # rounded, so that there are ties
    return scores, anomalous


def test_auroc_is_scikit_learns(problems):
    scores, anomalous = problems
    expected = [roc_auc_score(a, s) for s, a in zip(scores.T, anomalous.T, strict=True)]
    np.testing.assert_allclose(anomaly.auroc(scores, anomalous).values, expected)


def test_auroc_takes_labels_of_zeros_and_ones(problems):
    scores, anomalous = problems
    expected = anomaly.auroc(scores, anomalous)
    for dtype in ("int64", "uint8", "float32"):
        areas = anomaly.auroc(scores, anomalous.astype(dtype))
        np.testing.assert_array_equal(areas.values, expected.values)
        np.testing.assert_array_equal(areas.influences, expected.influences)


def test_auroc_of_integer_labels_in_round_numbers():
    """Of six pairs of an anomaly and a normal image, the anomaly has the higher score in five."""
    scores, labels = np.array([[1.0], [4], [3], [2], [5]]), np.array([[0], [0], [1], [0], [1]])
    areas = anomaly.auroc(scores, labels)
    assert areas.values[0] == pytest.approx(5 / 6)
    assert areas.values[0] == pytest.approx(roc_auc_score(labels[:, 0], scores[:, 0]))


def test_other_labels_are_refused():
    with pytest.raises(StudyError, match=r"labels are \[0, 1, 2\]; expected True for anomalies"):
        anomaly.auroc(np.ones((3, 1)), np.arange(3)[:, None])


def test_areas_are_compared_by_identity(problems):
    areas = anomaly.auroc(*problems)
    assert (areas == areas) is True
    assert (areas == anomaly.auroc(*problems)) is False


def test_interval_of_the_mean_agrees_with_the_bootstrap(problems):
    scores, anomalous = problems
    rng, means = np.random.default_rng(2), []
    for _ in range(500):
        i = rng.integers(0, 300, 300)
        means.append(anomaly.auroc(scores[i], anomalous[i]).values.mean())
    mean = anomaly.auroc(scores, anomalous).mean()
    assert (mean.high - mean.low) / 2 == pytest.approx(1.96 * np.std(means), rel=0.15)
    assert len(anomaly.auroc(scores, anomalous).intervals()) == 3


def test_verdicts_on_the_same_images(problems):
    scores, anomalous = problems
    good, noisy = anomaly.auroc(scores + 2 * anomalous, anomalous), anomaly.auroc(scores, anomalous)
    assert good.better(noisy) == "yes"
    assert noisy.better(good) == "no"
    assert noisy.better(noisy) == "undecided"
    np.testing.assert_allclose(
        anomaly.average([good, noisy]).values, (good.values + noisy.values) / 2
    )


def test_one_kind_of_images_alone_is_refused():
    with pytest.raises(StudyError, match="only anomalies or only normal"):
        anomaly.auroc(np.ones((3, 1)), np.ones((3, 1), bool))


@pytest.mark.parametrize("kind", anomaly.CORRUPTIONS)
def test_corruptions_are_seeded_in_range_and_grow(digits, kind):
    x = digits.x_test[:50]
    weak, strong = {"occlusion": (4, 12), "rotation": (10, 60), "blur": (0.5, 2)}.get(
        kind, (0.05, 0.6)
    )
    damaged = anomaly.corrupt(x, (28, 28), kind, weak, seed=3)
    np.testing.assert_array_equal(damaged, anomaly.corrupt(x, (28, 28), kind, weak, seed=3))
    assert damaged.shape == x.shape
    assert damaged.dtype == np.float32
    assert damaged.min() >= 0
    assert damaged.max() <= 1
    changed = [
        np.square(anomaly.corrupt(x, (28, 28), kind, s, seed=3) - x).mean() for s in (weak, strong)
    ]
    assert 0 < changed[0] < changed[1]


def test_corruptions_do_what_they_say(digits):
    x = digits.x_test[:50]
    np.testing.assert_allclose(anomaly.corrupt(x, (28, 28), "inversion", 1.0), 1 - x, atol=1e-6)
    full = np.ones((200, 784), "float32")
    for side in (5, 6):  # the largest hole is the whole square; near a border it is cut
        assert (anomaly.corrupt(full, (28, 28), "occlusion", side) == 0).sum(
            axis=1
        ).max() == side**2
    assert ((anomaly.corrupt(x, (28, 28), "occlusion", 6) != x).sum(axis=1) > 0).all()
    shuffled = anomaly.corrupt(x, (28, 28), "shuffled_pixels", 1.0)
    np.testing.assert_array_equal(np.sort(shuffled), np.sort(x))
    speckled = anomaly.corrupt(x, (28, 28), "salt_and_pepper", 0.2)
    assert set(np.unique(speckled[speckled != x])) == {0, 1}
    assert (
        0.1 < (speckled != x).mean() < 0.2
    )  # some of the pixels that are drawn have that value already
    with pytest.raises(StudyError, match="corruption is 'rain'; expected one of gaussian_noise"):
        anomaly.corrupt(x, (28, 28), "rain", 1)


def test_side_by_side_repeats_shorter_sets():
    stacked = anomaly.side_by_side([np.zeros((2, 784)), np.arange(3)[:, None] + np.zeros((3, 784))])
    assert stacked.shape == (3, 2, 784)
    np.testing.assert_array_equal(stacked[:, 1, 0], [0, 1, 2])


def test_stacked_networks_learn_from_their_own_images_alone(digits):
    """And as much as they would by themselves, where only Adam's epsilon weighs less."""
    settings, val = (
        training.Settings(epochs=5, batch_size=50, compiler="none"),
        digits.pixels_val[:50],
    )
    own, other = digits.pixels_train[:200], digits.pixels_train[200:400]

    def trained(sets):
        keras.utils.set_random_seed(0)
        stack = models.stacked(
            [models.dense_autoencoder(hidden=[16], latent_dim=4).autoencoder for _ in sets]
        )
        training.fit(
            stack, anomaly.side_by_side(sets), anomaly.side_by_side([val] * len(sets)), settings
        )
        return stack.predict(np.repeat(digits.x_test[:9, None], len(sets), axis=1), verbose=0)[:, 0]

    np.testing.assert_allclose(trained([own, own]), trained([own, other]), atol=1e-6)
    keras.utils.set_random_seed(0)
    alone = models.dense_autoencoder(hidden=[16], latent_dim=4).autoencoder
    training.fit(alone, own, val, settings)
    np.testing.assert_allclose(
        trained([own, other]), alone.predict(digits.x_test[:9], verbose=0), atol=0.02
    )


def test_networks_of_different_shapes_are_not_stacked():
    with pytest.raises(StudyError, match="different layers"):
        models.stacked([models.dense_autoencoder(latent_dim=n).autoencoder for n in (2, 3)])
