"""Who is better, by numbers whose answer is known."""

from ae_lib.analysis import standings
from ae_lib.metrics import Interval, welch_interval

import numpy as np
import pytest

NAMES = {model: f"{model}.test.mse" for model in "abcd"}
MEASURED = {
    **Interval(1.0, 0.9, 1.1).as_metrics("a.test.mse"),
    **Interval(1.15, 1.05, 1.25).as_metrics("b.test.mse"),
    **Interval(2.0, 1.9, 2.1).as_metrics("c.test.mse"),
}
PUBLISHED = {
    "a.test.mse": {"mean": 1.0, "spread": 0.01, "seeds": 5},
    "b.test.mse": {"mean": 1.1, "spread": 0.02, "seeds": 3},
    "c.test.mse": {"mean": 2.0, "spread": 0.1, "seeds": 3},
    "d.test.mse": {"value": 1.0, "spread": 0.1, "seeds": 5},  # of before means were published
}


@pytest.fixture
def errors():
    return standings.Standings(NAMES, False, MEASURED, PUBLISHED)


def test_over_images_a_difference_counts_if_intervals_do_not_overlap(errors):
    assert [errors.beats("a", other) for other in "bcd"] == ["undecided", "yes", "–"]
    assert errors.beats("c", "a") == "no"
    assert errors.leaders() == ["a", "b"]
    assert errors.leaders("bc") == ["b"]
    assert errors.leaders("d") == []


def test_where_more_is_better_the_order_is_the_other_one():
    accuracies = standings.Standings(NAMES, True, MEASURED, PUBLISHED)
    assert accuracies.leaders() == ["c"]
    assert accuracies.leaders_over_seeds("ab") == ["b"]
    assert accuracies.beats("c", "a") == "yes"
    assert accuracies.gain_over_seeds("c", "a").value == pytest.approx(1.0)


def test_a_number_without_interval_is_ranked_and_decides_nothing():
    bits = standings.Standings(
        {"a": "a.bits", "b": "b.bits"}, False, {"a.bits": 70.0, "b.bits": 90.0}
    )
    assert bits.ranks().to_dict() == {"a": 1, "b": 2}
    assert bits.beats("a", "b") == "–"
    assert bits.leaders() == ["a"]


def test_over_seeds_welch_decides(errors):
    expected = welch_interval((1.1, 0.02, 3), (1.0, 0.01, 5))
    assert errors.gain_over_seeds("a", "b") == expected
    assert errors.beats_over_seeds("a", "b") == expected.verdict == "yes"
    assert errors.beats_over_seeds("c", "b") == "no"
    assert errors.beats_over_seeds("a", "d") == "–"
    assert errors.counts == {"a": 5, "b": 3, "c": 3, "d": 0}
    assert np.isnan(errors.seeds["d"].value)


def test_comparisons_with_the_best_hold_jointly(errors):
    """With c in the contest, the level of a against b is 97.5 %, at which this gap is not certain."""
    gap = 0.03
    published = {**PUBLISHED, "b.test.mse": {"mean": 1.0 + gap, "spread": 0.014, "seeds": 3}}
    found = standings.Standings(NAMES, False, MEASURED, published)
    assert found.beats_over_seeds("a", "b") == "yes"
    assert found.beats_over_seeds("a", "b", 0.975) == "undecided"
    assert found.leaders_over_seeds("ab") == ["a"]
    assert found.leaders_over_seeds() == ["a", "b"]


def test_ranks_are_shared_and_leave_gaps():
    found = standings.Standings(
        NAMES, True, {"a.test.mse": 3.0, "b.test.mse": 3.0, "c.test.mse": 1.0}
    )
    assert found.ranks().fillna(0).to_dict() == {"a": 1, "b": 1, "c": 3, "d": 0}


def test_without_a_reference_nothing_is_said_over_seeds():
    found = standings.Standings(NAMES, False, MEASURED)
    assert found.leaders_over_seeds() == []
    assert set(found.counts.values()) == {0}
