"""Every score against a value known by other means."""

from ae_lib import metrics

import keras
import numpy as np
import pandas as pd
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


def test_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    found = metrics.interval(values)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert found.value == values.mean()
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert metrics.interval(values) == found
    assert metrics.interval(values, seed=1) != found


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [metrics.interval(rng.exponential(1, 200), resamples=300) for _ in range(200)]
    assert 0.90 <= np.mean([i.low <= 1 <= i.high for i in found]) <= 0.98


def test_interval_of_too_few_values_has_no_ends():
    assert metrics.interval([2.0]).value == 2
    assert np.isnan(metrics.interval([2.0]).low)
    assert np.isnan(metrics.interval([]).value)


def test_interval_reads_well():
    assert repr(metrics.Interval(0.123456, 0.1, 0.2)) == "0.1235 [0.1000, 0.2000]"


def test_the_direction_of_a_comparison_is_in_the_functions_name():
    rng = np.random.default_rng(3)
    small = rng.normal(1, 0.1, 500)
    large = small + rng.normal(0.1, 0.1, 500)
    same = small + rng.normal(0, 0.1, 500)
    assert [metrics.lower(small, other) for other in (large, same)] == ["yes", "undecided"]
    assert [metrics.higher(small, other) for other in (large, same)] == ["no", "undecided"]
    assert (metrics.lower(large, small), metrics.higher(large, small)) == ("no", "yes")


@pytest.mark.parametrize("name", ["knn5_accuracy", "mse"])  # no name decides
def test_a_metric_is_compared_without_its_name(name):
    hits = pd.DataFrame({name: np.ones(50), "baseline": np.zeros(50)})
    assert metrics.higher(hits[name], hits["baseline"]) == "yes"
    assert metrics.lower(hits[name], hits["baseline"]) == "no"


def test_a_difference_is_paired_and_has_the_bootstrap_of_one_mean():
    rng = np.random.default_rng(5)
    first, second = rng.random(40), rng.random(40)
    assert metrics.difference(first, second, 7) == metrics.interval(first - second, 7)
    assert metrics.difference(first, second, 7) != metrics.difference(first, second, 8)
    assert metrics.difference(first, first + 1) == metrics.Interval(-1.0, -1.0, -1.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 1, "yes"), (-1, -0.1, "no"), (-1, 1, "undecided"), (0, 1, "undecided")],
)
def test_verdict_of_an_interval(low, high, verdict):
    assert metrics.Interval(0.0, low, high).verdict == verdict


def test_an_interval_shows_what_is_missing():
    assert str(metrics.Interval(476720.0, np.nan, np.nan)) == "476,720"
    assert str(metrics.Interval(96.4, np.nan, np.nan)) == "96.40"
    assert str(metrics.Interval(np.nan, np.nan, np.nan)) == "–"


def test_an_interval_above_another_does_not_overlap_with_it():
    low, middle, high = (metrics.Interval(m, m - 0.5, m + 0.5) for m in (1.0, 1.75, 3.0))
    assert (high.above(low), low.above(high)) == ("yes", "no")
    assert (low.above(middle), middle.above(low), low.above(low)) == ("undecided",) * 3
    assert high.above(metrics.Interval(1.0, np.nan, np.nan)) == "undecided"


def test_student_interval_is_scipys():
    values = np.array([1.0, 2.0, 4.0])
    found = metrics.student_interval(values.mean(), values.std(ddof=1), 3, 0.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_welch_interval_is_scipys():
    a, b = np.array([1.0, 2.0, 4.0, 3.0, 2.5]), np.array([0.5, 0.6, 0.8])
    found = metrics.welch_interval(*((v.mean(), v.std(ddof=1), len(v)) for v in (a, b)), level=0.99)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.99)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(a.mean() - b.mean())


def test_welch_interval_against_what_has_nothing_random_in_it_is_students():
    sample = 2.0, 0.5, 3
    one, two = metrics.welch_interval(sample, (1.0, 0.0, 5)), metrics.student_interval(*sample)
    assert (one.low, one.high) == pytest.approx((two.low - 1, two.high - 1))
    assert metrics.welch_interval((2.0, 0.0, 5), (1.0, 0.0, 5)) == metrics.Interval(1.0, 1.0, 1.0)


def test_welch_interval_of_one_value_decides_nothing():
    with np.errstate(divide="ignore", invalid="ignore"):
        found = metrics.welch_interval((2.0, np.nan, 1), (1.0, np.nan, 1))
    assert (found.value, found.verdict) == (1.0, "undecided")
    assert np.isnan([found.low, found.high]).all()
