"""Every score against a value known by other means."""

from ae_lib import metrics

import keras
import numpy as np
import pytest
from scipy import stats


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    return rng.random((6, 784)).astype("float32"), rng.random((6, 784)).astype("float32")


def test_bce_is_keras_loss(pair):
    expected = keras.losses.binary_crossentropy(*pair).numpy()
    np.testing.assert_allclose(metrics.bce(*pair), expected, rtol=1e-5)


def test_bce_clips_a_certain_mistake():
    assert metrics.bce(np.ones((1, 1)), np.zeros((1, 1)))[0] == pytest.approx(-np.log(1e-7))
    assert metrics.bce(np.ones((1, 1)), np.zeros((1, 1)), epsilon=0.1)[0] == pytest.approx(
        -np.log(0.1)
    )


def test_entropy_is_the_least_bce(pair):
    x, y = pair
    np.testing.assert_allclose(metrics.entropy(x), metrics.bce(x, x), rtol=1e-9)
    assert (metrics.bce(x, y) > metrics.entropy(x)).all()
    assert metrics.entropy(np.full((1, 3), 0.5))[0] == pytest.approx(np.log(2))
    assert metrics.entropy(np.array([[0.0, 1.0]]))[0] == 0


def test_score_is_consistent(pair):
    table = metrics.score(*pair, (28, 28))
    assert tuple(table.columns) == metrics.SCORES
    x, y = (a.astype("float64") for a in pair)
    np.testing.assert_allclose(table["sse"], ((x - y) ** 2).sum(axis=1))
    np.testing.assert_allclose(table["mse"] * 784, table["sse"])
    np.testing.assert_allclose(table["psnr"], 10 * np.log10(1 / table["mse"]))
    np.testing.assert_allclose(table["bce"] - table["excess_bce"], metrics.entropy(x))


def test_equal_images_score_perfectly(pair):
    x, _ = pair
    assert metrics.psnr(x, x)[0] == np.inf
    np.testing.assert_allclose(metrics.ssim(x, x, shape=(28, 28)), 1, rtol=1e-6)
    assert (metrics.mse(x, x) == 0).all()


def test_ssim_is_tensorflows(pair):
    import tensorflow as tf

    x, y = pair
    shaped = [images.reshape(-1, 28, 28, 1).astype("float32") for images in pair]
    expected = tf.image.ssim(*shaped, max_val=1.0)
    np.testing.assert_allclose(metrics.ssim(x, y, shape=(28, 28)), expected, rtol=1e-4, atol=1e-5)


def test_ssim_of_constant_images_is_its_luminance_term():
    """Without variance only (2ab + C1) / (a² + b² + C1) is left, with C1 of 0.01²."""
    a, b = np.full((1, 784), 0.3), np.full((1, 784), 0.6)
    expected = (2 * 0.3 * 0.6 + 1e-4) / (0.3**2 + 0.6**2 + 1e-4)
    assert metrics.ssim(a, b, shape=(28, 28))[0] == pytest.approx(expected, rel=1e-4)


def test_interval_of_images_is_students():
    values = np.random.default_rng(1).exponential(5, 40)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = metrics.interval(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_difference_is_the_paired_t_test():
    rng = np.random.default_rng(5)
    first, second = rng.random(40), rng.random(40)
    expected = stats.ttest_rel(first, second)
    found = metrics.difference(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    ends = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


def test_difference_from_a_published_number_is_the_t_test_of_one_sample():
    values = np.random.default_rng(6).random(30)
    assert metrics.difference(values, 0.6).p == pytest.approx(stats.ttest_1samp(values, 0.6).pvalue)


def test_replicates_of_one_number_have_students_interval():
    values = np.array([1.0, 2.0, 4.0])
    assert vars(metrics.interval(values[:, None])) == pytest.approx(vars(metrics.interval(values)))


def test_replicates_that_agree_add_nothing_to_the_images():
    values = np.random.default_rng(7).random(200)
    once, thrice = metrics.interval(values), metrics.interval(np.tile(values, (3, 1)))
    assert vars(thrice) == pytest.approx(vars(once), rel=1e-3)


def planted(rng, seeds, images, deviations, mean=0.0):
    """Differences of two models: a part of the seed, one of the image, one of both together."""
    of_seed, of_image, of_both = deviations
    values = mean + rng.normal(0, of_both, (seeds, images))
    values += rng.normal(0, of_seed, (seeds, 1))
    return values + rng.normal(0, of_image, images)


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(
    "deviations",  # in the mean: images alone, all alike, mostly seeds, seeds alone
    [(0, 1, 0.3), (0.05, 0.5, 1), (0.2, 1, 0.3), (0.3, 0.1, 0.1)],
)
def test_intervals_over_seeds_and_images_cover_the_truth_as_often_as_they_say(seeds, deviations):
    rng = np.random.default_rng(8)
    found = [metrics.interval(planted(rng, seeds, 300, deviations)) for _ in range(3000)]
    assert 0.93 <= np.mean([each.low <= 0 <= each.high for each in found]) <= 0.97


def test_images_alone_would_cover_the_truth_too_seldom():
    rng = np.random.default_rng(9)
    runs = [planted(rng, 5, 300, (0.2, 1, 0.3)) for _ in range(300)]
    found = [metrics.interval(values.mean(axis=0)) for values in runs]
    assert np.mean([each.low <= 0 <= each.high for each in found]) < 0.85


def test_false_alarms_of_a_family_are_at_most_five_percent():
    rng, alarms = np.random.default_rng(10), 0
    for _ in range(1000):
        family = [metrics.difference(planted(rng, 5, 100, (0.1, 1, 0.5)), 0.0) for _ in range(8)]
        alarms += set(metrics.verdicts(family)) != {"no difference detected"}
    assert alarms / 1000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)


def test_holm_is_the_one_of_the_paper():
    assert metrics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert metrics.holm([0.04, np.nan, 0.5])[0] == pytest.approx(0.08)
    assert np.isnan(metrics.holm([0.04, np.nan])[1])
    assert metrics.holm([]).tolist() == []


def test_a_claim_is_decided_with_its_family():
    rng = np.random.default_rng(3)
    values = {"small": rng.normal(1, 0.1, 500)}
    values["large"] = values["small"] + rng.normal(0.1, 0.1, 500)
    values["same"] = values["small"] + rng.normal(0, 0.1, 500)
    claims = [
        ("smaller", "small", "large", "lower"),
        ("larger", "small", "large", "higher"),
        ("smaller", "small", "same", "lower"),
        ("above a published number", "small", 0.5, "higher"),
    ]
    table = metrics.judge(claims, values)
    assert table["verdict"].tolist() == ["yes", "no", "no difference detected", "yes"]
    assert table["gain"][0].value == pytest.approx(0.1, abs=0.02)
    assert metrics.judge([], values).empty


def test_what_has_no_values_of_images_is_not_decided():
    found = metrics.judge([("fewer", "a", "b", "lower")], {"a": 3.0, "b": 5.0})
    assert found["verdict"].tolist() == ["–"]
    assert found["gain"][0].value == 2


def test_equal_means_are_equivalent_only_if_the_interval_is_narrow():
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, 10_000)
    assert metrics.equivalent(metrics.difference(noise, noise[::-1]), 0.1)
    assert not metrics.equivalent(metrics.difference(noise[:50], noise[50:100]), 0.1)
    assert not metrics.equivalent(metrics.difference(noise + 0.2, noise[::-1]), 0.1)


def test_interval_of_too_few_values_has_no_ends():
    assert metrics.interval([2.0]).value == 2
    assert np.isnan(metrics.interval([2.0]).low)
    assert np.isnan(metrics.interval([]).value)
    assert np.isnan(metrics.interval([1.0, np.nan]).value)


def test_values_that_are_all_equal_have_an_interval_of_no_width():
    assert metrics.interval([1.0, 1.0]) == metrics.Interval(1.0, 1.0, 1.0)
    assert metrics.difference([2.0, 2.0], 1.0).p == 0
    assert metrics.difference([1.0, 1.0], 1.0).p == 1


def test_interval_reads_well():
    assert repr(metrics.Interval(0.123456, 0.1, 0.2)) == "0.1235 [0.1000, 0.2000]"


def test_an_interval_shows_what_is_missing():
    assert str(metrics.Interval(476720.0, np.nan, np.nan)) == "476,720"
    assert str(metrics.Interval(96.4, np.nan, np.nan)) == "96.40"
    assert str(metrics.Interval(np.nan, np.nan, np.nan)) == "–"


# ------------------------------ ratios
def test_the_mean_of_a_ratios_values_is_the_ratio_and_its_interval_covers_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        whole = rng.gamma(4, 1, 300)
        part = whole * rng.uniform(0.2, 0.6, 300)
        values = metrics.ratio(part, whole)
        assert values.mean() == pytest.approx(part.sum() / whole.sum())
        found = metrics.interval(values)
        hits.append(found.low <= 0.4 <= found.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


def test_a_ratio_of_proportional_values_is_certain():
    whole = np.arange(1, 9)
    np.testing.assert_allclose(metrics.ratio(0.3 * whole, whole), 0.3)
