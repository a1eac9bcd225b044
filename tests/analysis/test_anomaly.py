"""Scores order images, thresholds keep their rate, AUROC and its interval are the known ones."""

from dataclasses import replace

from ae_lib import StudyError, metrics, models, training
from ae_lib.analysis import anomaly
from tests.figure_checks import CAPTION, drawn

import keras
import numpy as np
import pandas as pd
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


def test_threshold_keeps_its_promise_on_average():
    rng, alarms = np.random.default_rng(0), []
    for _ in range(500):
        errors = rng.gamma(2, size=400)
        alarms.append((errors[200:] > anomaly.threshold(errors[:200], 0.05)).mean())
    assert 0.04 < np.mean(alarms) <= 0.05 + 3 * np.std(alarms) / np.sqrt(500)


def test_threshold_is_the_conformal_quantile():
    assert anomaly.threshold(np.arange(99)[::-1], 0.05) == 94  # the 95th smallest of 99
    assert anomaly.threshold(np.arange(19), 0.05) == 18


def test_thresholds_of_several_scores_are_those_of_each():
    errors = np.random.default_rng(0).random((50, 3))
    each = [anomaly.threshold(column, 0.1) for column in errors.T]
    np.testing.assert_array_equal(anomaly.threshold(errors, 0.1), each)


@pytest.mark.parametrize(("n", "finite"), [(98, False), (99, True)])
def test_a_threshold_from_too_few_images_is_infinite(n, finite):
    assert np.isfinite(anomaly.threshold(np.arange(n), 0.01)) == finite
    assert np.isfinite(anomaly.threshold(np.ones((n, 2)), 0.01)).tolist() == [finite] * 2


def test_rates_that_so_few_images_cannot_promise_are_left_out():
    assert anomaly.attainable([0.05, 0.01], 99) == [0.05, 0.01]
    assert anomaly.attainable([0.05, 0.01], 98) == [0.05]


@pytest.mark.parametrize(
    ("rates", "n", "message"),
    [
        ([], 100, r"rates is \[\]; expected one or more shares"),
        ([0.1, 0], 100, "expected one or more shares between 0 and 1"),
        ([1.2], 100, "1.2"),
        ([0.05, 0.01], 18, r"18 held-out images; expected a rate of at least 0.053: raise it"),
    ],
)
def test_impossible_rates_are_refused(rates, n, message):
    with pytest.raises(StudyError, match=message):
        anomaly.attainable(rates, n)


def test_false_alarms_are_expected_where_95_percent_of_them_fall():
    rng, shares = np.random.default_rng(0), []
    for _ in range(2000):
        errors = rng.normal(size=500)
        shares.append((errors[200:] > anomaly.threshold(errors[:200], 0.05)).mean())
    low, high = anomaly.expected_false_alarms(0.05, 200, 300)
    inside = (low <= np.array(shares)) & (np.array(shares) <= high)
    assert (
        0.94 < inside.mean() < 0.98
    )  # a discrete distribution has more than 95 % between its ends
    assert anomaly.expected_false_alarms(0.05, 10_000, 10_000)[0] > low


def test_p_values_count_the_image_itself():
    assert anomaly.p_values(np.array([0.5, 2, 9]), np.arange(4)).tolist() == [0.8, 0.6, 0.2]


@pytest.fixture
def problems():
    rng = np.random.default_rng(1)
    anomalous = rng.random((300, 3)) < 0.3
    scores = np.round(rng.normal(anomalous * [0, 1, 2], 1), 1)  # rounded, so that there are ties
    return scores, anomalous


def test_auroc_is_scikit_learns(problems):
    scores, anomalous = problems
    expected = [roc_auc_score(a, s) for s, a in zip(scores.T, anomalous.T, strict=True)]
    np.testing.assert_allclose(anomaly.auroc(scores, anomalous).mean(axis=0), expected)


def test_auroc_takes_labels_of_zeros_and_ones(problems):
    scores, anomalous = problems
    expected = anomaly.auroc(scores, anomalous)
    for dtype in ("int64", "uint8", "float32"):
        np.testing.assert_array_equal(anomaly.auroc(scores, anomalous.astype(dtype)), expected)


def test_auroc_of_integer_labels_in_round_numbers():
    """Of six pairs of an anomaly and a normal image, the anomaly has the higher score in five."""
    scores, labels = np.array([[1.0], [4], [3], [2], [5]]), np.array([[0], [0], [1], [0], [1]])
    assert anomaly.auroc(scores, labels).mean() == pytest.approx(5 / 6)


def test_other_labels_are_refused():
    with pytest.raises(StudyError, match=r"labels are \[0, 1, 2\]; expected True for anomalies"):
        anomaly.auroc(np.ones((3, 1)), np.arange(3)[:, None])


def test_interval_of_the_mean_agrees_with_the_bootstrap(problems):
    scores, anomalous = problems
    rng, means = np.random.default_rng(2), []
    for _ in range(500):
        i = rng.integers(0, 300, 300)
        means.append(anomaly.auroc(scores[i], anomalous[i]).mean())
    mean = metrics.interval(anomaly.auroc(scores, anomalous).mean(axis=1))
    assert (mean.high - mean.low) / 2 == pytest.approx(1.96 * np.std(means), rel=0.15)


def test_areas_on_the_same_images_are_compared(problems):
    scores, anomalous = problems
    noisy = anomaly.auroc(scores, anomalous).mean(axis=1)
    good = anomaly.auroc(scores + 2 * anomalous, anomalous).mean(axis=1)
    gains = [metrics.difference(*pair) for pair in ((good, noisy), (noisy, good), (noisy, noisy))]
    assert metrics.verdicts(gains) == ["yes", "no", "no difference detected"]


def test_paired_auroc_is_scikit_learns_and_has_an_interval_over_pairs():
    rng = np.random.default_rng(3)
    normal = rng.normal(size=(200, 2))
    altered = normal + [0.3, 3]
    found = anomaly.paired_auroc(normal, altered)
    labels = np.repeat([0, 1], 200)
    for i in range(2):
        both = np.concatenate([normal[:, i], altered[:, i]])
        assert found[:, i].mean() == pytest.approx(roc_auc_score(labels, both))
    means = []
    for _ in range(300):
        i = rng.integers(0, 200, 200)
        means.append(anomaly.paired_auroc(normal[i], altered[i])[:, 0].mean())
    interval = metrics.interval(found[:, 0])
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * np.std(means), rel=0.2)


def test_the_best_detectors_come_first():
    areas = {("a", "x"): np.full((9, 2), 0.6), ("b", "x"): np.full((9, 2), 0.9)}
    areas["c", "y"] = np.full((9, 2), 0.7)
    tables = anomaly.best_by_class(areas, ["up", "down"], count=2)
    assert list(tables) == ["b, x", "c, y"]
    assert tables["c, y"]["value"].to_dict() == pytest.approx({"up": 0.7, "down": 0.7})


def test_a_matrix_shows_all_its_shares():
    rows = pd.MultiIndex.from_tuples([("a", "x"), ("b", "y")])
    table = pd.DataFrame([[0, 0.5, 1], [0.25, 0.75, 0.1]], rows, ["noise", "blur", "turn"])
    figure = drawn(anomaly.detection_matrix({"caught": table, "AUROC": table}, CAPTION))
    for axes in figure.axes:
        shown = [text.get_text() for text in axes.texts]
        assert shown == ["0.00", "0.50", "1.00", "0.25", "0.75", "0.10"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a, x", "b, y"]


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


def test_every_corruption_has_a_middle_strength_that_is_seen(digits):
    x = digits.x_test[:20]
    strengths = anomaly.middle_strengths((28, 28))
    assert set(strengths) == set(anomaly.CORRUPTIONS)
    assert anomaly.middle_strengths((56, 84))["occlusion"] == 2 * strengths["occlusion"]
    for kind, strength in strengths.items():
        assert (anomaly.corrupt(x, (28, 28), kind, strength) != x).any(axis=1).mean() > 0.9


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


@pytest.mark.parametrize("convolutional", [False, True])
def test_each_network_is_the_stack_trained_on_its_own_images(digits, convolutional):
    builder = models.convolutional_autoencoder if convolutional else models.dense_autoencoder
    options = {"filters": [2]} if convolutional else {"hidden": [16]}
    network = builder(**options, latent_dim=4).autoencoder
    sets = [digits.pixels_train[:60], digits.pixels_train[60:100]]
    settings = training.Settings(2, 20, training.Cosine(0.01), 1, "none")
    first, second = anomaly.train_on_each(network, sets, settings)
    keras.utils.set_random_seed(1)
    copies = [models.reinitialized(network) for _ in sets]
    stack, both = models.stacked(copies), anomaly.side_by_side(sets)
    decay = keras.optimizers.schedules.CosineDecay(0.01, 2 * 3)
    training.fit(stack, both, both[:1], replace(settings, learning_rate=decay))
    expected = stack.predict(np.repeat(digits.x_test[:5, None], 2, axis=1), verbose=0)
    for i, trained in enumerate((first, second)):
        found = trained.decoder(trained.encoder(digits.x_test[:5]))
        np.testing.assert_allclose(found, expected[:, i], atol=1e-5)
    assert abs(expected[:, 0] - expected[:, 1]).max() > 1e-3


def test_networks_of_different_shapes_are_not_stacked():
    with pytest.raises(StudyError, match="different layers"):
        models.stacked([models.dense_autoencoder(latent_dim=n).autoencoder for n in (2, 3)])
