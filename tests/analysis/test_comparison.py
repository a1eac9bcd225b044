"""Models are measured as their own notebooks do, and compared by numbers whose answer is known."""

import inspect
import itertools
import subprocess
import sys

from ae_lib import metrics, models, training
from ae_lib.analysis import anomaly, codec, comparison, latent
from ae_lib.metrics import Interval, welch_interval
from tests.figure_checks import CAPTION, drawn

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.decomposition import PCA

PROBES = ("knn1", "knn5", "linear_probe")


@pytest.fixture(scope="module")
def trained(digits):
    keras.utils.set_random_seed(0)
    model = models.dense_autoencoder(hidden=(64,), latent_dim=8)
    training.fit(
        model.autoencoder, digits.pixels_train, digits.pixels_val, training.Settings(20, 50)
    )
    return model


@pytest.fixture(scope="module")
def own(trained, digits):
    return codec.from_autoencoder(trained.encoder, trained.decoder, digits.pixels_train)


def test_predicting_in_batches_is_the_network(trained, digits):
    x = np.concatenate([digits.x_train, digits.x_test])  # several batches, the last one smaller
    codes = models.predict_in_batches(trained.encoder, x)
    np.testing.assert_allclose(codes, trained.encoder(x), rtol=1e-5, atol=1e-5)


def test_reconstruction_has_every_score_with_its_interval(digits):
    x, y = digits.x_test, digits.x_test * 0.9
    measured = comparison.reconstruction("paler", x, y, digits.shape)
    assert list(measured) == [f"paler.test.{score}" for score in metrics.SCORES]
    assert measured["paler.test.mse"].value == pytest.approx(metrics.mse(x, y).mean())
    assert all(interval.low < interval.value < interval.high for interval in measured.values())


def test_features_are_read_by_neighbours_and_by_a_probe(digits):
    """One number that is the class: every classifier that works has to read it."""
    labels = {}
    for split in ("train", "val", "test"):
        pixels, classes = getattr(digits, f"x_{split}"), getattr(digits, f"y_{split}")
        labels |= {x.tobytes(): y for x, y in zip(pixels, classes, strict=True)}
    one_hot = np.eye(10, dtype="float32")
    found = comparison.features(
        "oracle", lambda x: one_hot[[labels[image.tobytes()] for image in x]], digits
    )
    assert list(found) == [f"oracle.test.{name}_accuracy" for name in PROBES]
    assert {interval.value for interval in found.values()} == {1}
    found = comparison.features("constant", lambda x: np.zeros((len(x), 2), "float32"), digits)
    assert all(interval.value < 0.2 for interval in found.values())


def test_the_probes_penalty_is_chosen_on_validation_images(digits):
    pca = PCA(16).fit(digits.x_train)
    found = comparison.features("pca", pca.transform, digits, penalties=(1e-6, 1.0))
    fitted = latent.linear_probe(pca.transform(digits.x_train), digits.y_train, 1.0)
    right = fitted.predict(pca.transform(digits.x_test)) == digits.y_test
    assert found["pca.test.linear_probe_accuracy"].value == pytest.approx(right.mean())


def test_bits_are_those_of_the_stream_at_the_error_asked_for(own, digits):
    x = digits.x_test
    target = 1.5 * metrics.mse(x, own.decode(own.encode(x), codec.CELL)).mean()
    found = comparison.compression("small", own, x, target)
    bits = found["small.test.bits_at_equal_error"]
    assert bits.low < bits.value < bits.high
    steps = np.geomspace(4 * codec.CELL, comparison.COARSEST, 300)
    errors = [
        metrics.mse(x, codec.decompress(codec.compress(x, own, s), own)).mean() for s in steps
    ]
    near = steps[int(np.argmin(np.abs(np.array(errors) - target)))]
    assert bits.value == pytest.approx(8 * len(codec.compress(x, own, near)) / len(x), rel=0.03)


@pytest.mark.parametrize("error", [1e-9, 10.0])
def test_an_error_out_of_reach_has_no_bits(own, digits, error):
    assert comparison.compression("small", own, digits.x_test, error) == {}


def test_detection_is_the_one_class_protocol(trained, digits):
    """By hand: the networks side by side, and the mean areas of both scores."""
    arguments = (trained.autoencoder, digits, (3, 30, 0.002, "none"), training.Reconstruct())
    measured = comparison.detection("small", *arguments, seed=3)
    classes = np.unique(digits.y_train)
    train, val = (
        anomaly.side_by_side([pixels[labels == k] for k in classes])
        for pixels, labels in (
            (digits.pixels_train, digits.y_train),
            (digits.pixels_val, digits.y_val),
        )
    )
    keras.utils.set_random_seed(3)
    stack = models.stacked([models.dense_autoencoder(784, (64,), 8).autoencoder for _ in classes])
    decay = keras.optimizers.schedules.CosineDecay(0.002, 3 * -(-len(train) // 30))
    training.fit(stack, train, val, training.Settings(3, 30, decay, 3, "none"))
    x, outside = digits.x_test, digits.y_test[:, None] != classes
    y = stack.predict(np.repeat(x[:, None], 10, axis=1), verbose=0)
    squared = np.square(y - x[:, None]).mean(axis=2)
    scores = {"mse": squared, "relative": anomaly.relative_error(x, y, digits.shape)}
    assert list(measured) == [f"oneclass.small_{score}.auroc_mean" for score in scores]
    for score, values in scores.items():
        areas = measured[f"oneclass.small_{score}.auroc_mean"]
        assert areas.shape == digits.y_test.shape
        assert areas.mean() == pytest.approx(anomaly.auroc(values, outside).mean(), abs=1e-4)


def test_duration_is_for_ten_thousand_images(digits):
    calls = []
    found = comparison.duration("quick", calls.append, digits.x_test, repeats=3)
    assert len(calls) == 4
    assert 0 < found["quick.test.seconds_per_10000"] < 1


def test_a_line_is_complete(trained, digits):
    found = comparison.evaluate("small", trained.autoencoder, digits, equal_error=0.03)
    assert found["small.parameters"] == trained.autoencoder.count_params()
    assert found["small.latent_dim"] == 8
    names = {
        "mse",
        "ssim",
        "knn1_accuracy",
        "linear_probe_accuracy",
        "bits_at_equal_error",
        "seconds_per_10000",
    }
    assert {f"small.test.{name}" for name in names} <= set(found)
    assert np.isfinite([getattr(value, "value", value) for value in found.values()]).all()


NAMES = {model: f"{model}.test.mse" for model in "abcd"}
MEASURED = {
    "a.test.mse": Interval(1.0, 0.9, 1.1),
    "b.test.mse": Interval(1.15, 1.05, 1.25),
    "c.test.mse": Interval(2.0, 1.9, 2.1),
}
PUBLISHED = {
    "a.test.mse": {"value": 1.0, "mean": 1.0, "std": 0.01, "seeds": 5, "tolerance": 0.1},
    "b.test.mse": {"value": 1.1, "mean": 1.1, "std": 0.02, "seeds": 3, "tolerance": 0.1},
    "c.test.mse": {"value": 2.0, "mean": 2.0, "std": 0.1, "seeds": 3, "tolerance": 0.1},
    "d.test.mse": {"value": 1.0, "tolerance": 1e-5},  # deterministic
}


def number(value):
    return Interval(value, np.nan, np.nan)


@pytest.fixture
def errors():
    return comparison.Ranking(NAMES, False, MEASURED, PUBLISHED)


def test_over_images_a_difference_counts_if_intervals_do_not_overlap(errors):
    assert [errors.beats("a", other) for other in "bcd"] == ["undecided", "yes", "–"]
    assert errors.beats("c", "a") == "no"
    assert errors.leaders() == ["a", "b"]
    assert errors.leaders("bc") == ["b"]
    assert errors.leaders("d") == []


def test_where_more_is_better_the_order_is_the_other_one():
    accuracies = comparison.Ranking(NAMES, True, MEASURED, PUBLISHED)
    assert accuracies.leaders() == ["c"]
    assert accuracies.leaders_over_seeds("ab") == ["b"]
    assert accuracies.beats("c", "a") == "yes"
    assert accuracies.gain_over_seeds("c", "a").value == pytest.approx(1.0)


def test_a_number_without_interval_is_ranked_and_decides_nothing():
    measured = {"a.bits": number(70.0), "b.bits": number(90.0)}
    bits = comparison.Ranking({"a": "a.bits", "b": "b.bits"}, False, measured, {})
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
    """With c as well, a is compared with b at a level of 97.5 %, at which the gap is uncertain."""
    gap = 0.03
    published = {**PUBLISHED, "b.test.mse": {"mean": 1.0 + gap, "std": 0.014, "seeds": 3}}
    ranking = comparison.Ranking(NAMES, False, MEASURED, published)
    assert ranking.beats_over_seeds("a", "b") == "yes"
    assert ranking.beats_over_seeds("a", "b", 0.975) == "undecided"
    assert ranking.leaders_over_seeds("ab") == ["a"]
    assert ranking.leaders_over_seeds() == ["a", "b"]


def test_ranks_are_shared_and_leave_gaps():
    values = {"a.test.mse": number(3.0), "b.test.mse": number(3.0), "c.test.mse": number(1.0)}
    ranking = comparison.Ranking(NAMES, True, values, {})
    assert ranking.ranks().fillna(0).to_dict() == {"a": 1, "b": 1, "c": 3, "d": 0}


def test_without_a_reference_nothing_is_said_over_seeds():
    ranking = comparison.Ranking(NAMES, False, MEASURED, {})
    assert ranking.leaders_over_seeds() == []
    assert set(ranking.counts.values()) == {0}


def model_table(names):
    values = np.linspace(1, 2, len(names))
    return pd.DataFrame({"value": values, "low": values - 0.1, "high": values + 0.1}, index=names)


MODELS = ["PCA", "dense", "wide", "conv", "conv30 (30)", "denoising", "residual", "vae (40)"]


@pytest.mark.parametrize("count", [1, 3])
def test_interval_rows_read_from_top_to_bottom_and_say_what_is_missing(count):
    table = model_table(MODELS)
    table.loc["conv"] = np.nan
    table.loc["vae (40)", ["low", "high"]] = np.nan  # a value without ends is no missing one
    panels = {
        f"measure {i} / unit": {"this run": table, "over seeds": table * 1.1} for i in range(count)
    }
    figure = drawn(comparison.interval_rows(panels, CAPTION, log=["measure 0 / unit"]))
    first, last = figure.axes[0], figure.axes[-1]
    assert [text.get_text() for text in first.get_yticklabels()] == MODELS
    assert first.get_ylim()[0] > first.get_ylim()[1]
    assert [(text.get_text(), text.get_position()[1]) for text in last.texts] == [
        ("not measured", 3)
    ]
    assert (first.get_xscale(), last.get_xscale()) == ("log", "log" if count == 1 else "linear")
    assert [text.get_text() for text in figure.legends[0].texts] == ["this run", "over seeds"]


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_interval_rows_of_one_model(value):
    drawn(
        comparison.interval_rows(
            {"m": {"a": pd.DataFrame({"value": [value], "low": [np.nan], "high": [np.nan]})}},
            CAPTION,
        )
    )


def test_names_of_points_cover_neither_points_nor_each_other():
    table = model_table(MODELS).assign(
        cost=[1, 60, 240, 700, 690, 66, 720, 700], front=[True] * 2 + [False] * 6
    )
    table["value"] = [0.015, 0.0052, 0.0041, 0.0036, 0.0038, 0.0063, 0.0048, 0.0078]
    table["low"], table["high"] = 0.99 * table["value"], 1.01 * table["value"]
    table.loc["wide", "cost"] = np.nan  # not drawn
    figure = drawn(
        comparison.labelled_points(
            {"seconds": table, "parameters": table.assign(cost=1e4 * table["cost"])},
            CAPTION,
            "error",
        )
    )
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == set(MODELS) - {"wide"}
        boxes = [Text.get_window_extent(text) for text in axes.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        at = axes.transData.transform(table[["cost", "value"]].dropna())
        assert not any(box.contains(*point) for box in boxes for point in at)
        assert list(axes.lines[-1].get_xdata()) == sorted(
            table["cost"][:2] * (1e4 if axes is figure.axes[1] else 1)
        )


def test_rank_matrix_shows_ranks_ties_and_gaps():
    ranks = pd.DataFrame(
        {"first measure": [1, 2, 3], "second": [2, np.nan, 1]}, index=["a", "b", "c"]
    )
    close = pd.DataFrame(
        {"first measure": [True, True, False], "second": [False, False, True]}, index=ranks.index
    )
    texts = [
        text.get_text()
        for text in drawn(comparison.rank_matrix(ranks, close, CAPTION)).axes[0].texts
    ]
    assert texts == ["1", "2", "(2)", "–", "3", "1"]


def test_figures_show_their_parameters():
    for draw in (comparison.interval_rows, comparison.labelled_points, comparison.rank_matrix):
        assert "caption" in inspect.signature(draw).parameters


def test_a_ranking_starts_without_tensorflow():
    code = "import sys; from ae_lib.analysis import comparison; print('tensorflow' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert output.stdout.decode().strip() == "False"


def test_pareto_front_holds_what_nothing_beats():
    costs, errors = [1, 2, 3, 2, 4, np.nan, 1], [5, 3, 3, 4, 1, 0, 5]
    assert comparison.pareto_front(costs, errors).tolist() == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]
