"""Models are measured as their own notebooks do, and compared by numbers whose answer is known."""

import inspect
import itertools
import subprocess
import sys

from ae_lib import metrics, models, training
from ae_lib.analysis import anomaly, codec, comparison, latent
from ae_lib.metrics import Interval
from tests.figure_checks import CAPTION, drawn

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

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


def test_reconstruction_has_every_score_of_every_image(digits):
    x, y = digits.x_test, digits.x_test * 0.9
    measured = comparison.reconstruction("paler", x, y, digits.shape)
    assert list(measured) == [f"paler.test.{score}" for score in metrics.SCORES]
    np.testing.assert_allclose(measured["paler.test.mse"], metrics.mse(x, y))
    assert {values.shape for values in measured.values()} == {(len(x),)}


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
    assert {hits.mean() for hits in found.values()} == {1}
    found = comparison.features("constant", lambda x: np.zeros((len(x), 2), "float32"), digits)
    assert all(hits.mean() < 0.2 for hits in found.values())
    assert {hits.shape for hits in found.values()} == {(len(digits.y_test),)}


def test_the_probes_penalty_is_chosen_on_validation_images(digits):
    pca = PCA(16).fit(digits.x_train)
    found = comparison.features("pca", pca.transform, digits, penalties=(1e-6, 1.0))
    fitted = latent.linear_probe(pca.transform(digits.x_train), digits.y_train, 1.0)
    right = fitted.predict(pca.transform(digits.x_test)) == digits.y_test
    assert found["pca.test.linear_probe_accuracy"].tolist() == right.tolist()


def test_bits_are_those_of_the_stream_at_the_error_asked_for(own, digits):
    x = digits.x_test
    target = 1.5 * metrics.mse(x, own.decode(own.encode(x), codec.CELL)).mean()
    found = comparison.compression("small", own, x, target)
    bits = found["small.test.bits_at_equal_error"]
    assert bits.shape == (len(x),)
    steps = np.geomspace(4 * codec.CELL, comparison.COARSEST, 300)
    errors = [
        metrics.mse(x, codec.decompress(codec.compress(x, own, s), own)).mean() for s in steps
    ]
    near = steps[int(np.argmin(np.abs(np.array(errors) - target)))]
    assert bits.mean() == pytest.approx(8 * len(codec.compress(x, own, near)) / len(x), rel=0.03)


def test_the_deviation_of_bits_counts_that_the_images_choose_the_step(own, digits):
    x, rng = digits.x_test, np.random.default_rng(0)
    target = 1.5 * metrics.mse(x, own.decode(own.encode(x), codec.CELL)).mean()

    def bits(images):
        return comparison.compression("a", own, images, target)["a.test.bits_at_equal_error"]

    resampled = [bits(x[rng.integers(len(x), size=len(x))]).mean() for _ in range(60)]
    assert bits(x).std() / np.sqrt(len(x)) == pytest.approx(np.std(resampled), rel=0.35)


@pytest.mark.parametrize("error", [1e-9, 10.0])
def test_an_error_out_of_reach_has_no_bits(own, digits, error):
    assert comparison.compression("small", own, digits.x_test, error) == {}


def test_detection_is_the_one_class_protocol(trained, digits):
    settings = training.Settings(3, 30, training.Cosine(0.002), 3, "none")
    options = digits, settings, training.Reconstruct()
    found = comparison.detection("small", trained.autoencoder, *options)
    again = comparison.detection("small", trained.autoencoder, *options)
    classes = np.unique(digits.y_train)
    sets = [digits.pixels_train[digits.y_train == k] for k in classes]
    networks = anomaly.train_on_each(trained.autoencoder, sets, *options[1:])
    x, is_other = digits.x_test, digits.y_test[:, None] != classes
    reconstructions = [network.autoencoder.predict(x, verbose=0) for network in networks]
    squared = np.stack([metrics.mse(x, y) for y in reconstructions], axis=1)
    relative = [anomaly.relative_error(x, y, digits.shape) for y in reconstructions]
    by_hand = {"mse": squared, "relative": np.stack(relative, axis=1)}
    assert set(found) == {f"oneclass.small_{score}.auroc_mean" for score in by_hand}
    for score, values in by_hand.items():
        name = f"oneclass.small_{score}.auroc_mean"
        np.testing.assert_array_equal(found[name], again[name])
        expected = [roc_auc_score(*pair) for pair in zip(is_other.T, values.T, strict=True)]
        assert found[name].mean() == pytest.approx(np.mean(expected), abs=1e-4)


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
    assert all(np.isfinite(values).all() for values in found.values())


# ------------------------------ over seeds
def test_a_published_metric_is_a_mean_with_its_deviation_over_seeds():
    shown = comparison.over_seeds({"value": 1.3, "mean": 1.2, "std": 0.05, "seeds": 5})
    assert repr(shown) == "1.200 ± 0.05"
    assert (shown.low, shown.high) == pytest.approx((1.15, 1.25))
    assert (
        repr(comparison.over_seeds({"value": 1.2, "mean": 1.2, "std": 0.0, "seeds": 1})) == "1.200"
    )
    assert repr(comparison.over_seeds(None)) == "–"


def test_published_claims_are_those_of_a_notebook(tmp_path):
    path = tmp_path / "mnist_claims.csv"
    assert comparison.published_claims(path, "12_b").empty
    table = pd.DataFrame(
        {"notebook": ["03_a", "12_b"], "claim": ["other", "nearer"], "seeds": [10, 5]}
    )
    table = table.assign(gain=[1.0, 2.0], low=[0.5, 1.5], high=[1.5, 2.5], p=0.01, verdict="yes")
    table.to_csv(path, index=False)
    found = comparison.published_claims(path, "12_b")
    assert found.index.tolist() == [0]
    assert found.loc[0].tolist() == ["nearer", 5, Interval(2.0, 1.5, 2.5), "yes"]


def test_panels_hold_the_intervals_of_a_column():
    table = pd.DataFrame({"a": [Interval(1.0, 0.5, 1.5)], "b": [comparison.NOTHING]}, ["pca"])
    found = comparison.panels({"this run": table}, ["a"])
    assert list(found) == ["a"]
    assert found["a"]["this run"].loc["pca"].to_dict() == {"value": 1.0, "low": 0.5, "high": 1.5}


# ------------------------------ figures
def model_table(names):
    values = np.linspace(1, 2, len(names))
    return pd.DataFrame({"value": values, "low": values - 0.1, "high": values + 0.1}, index=names)


MODELS = ["PCA", "dense", "wide", "conv", "conv30 (30)", "denoising", "denoising_conv", "vae (40)"]


@pytest.mark.parametrize("count", [1, 3])
def test_interval_rows_read_from_top_to_bottom_and_say_what_is_missing(count):
    table = model_table(MODELS)
    table.loc["conv"] = np.nan
    table.loc["vae (40)", ["low", "high"]] = np.nan  # a value without ends is no missing one
    panels = {
        f"measure {i} / unit": {"this run": table, "over seeds": table * 1.1} for i in range(count)
    }
    figure = drawn(comparison.interval_rows(panels, CAPTION))
    first, last = figure.axes[0], figure.axes[-1]
    assert [text.get_text() for text in first.get_yticklabels()] == MODELS
    assert first.get_ylim()[0] > first.get_ylim()[1]
    assert [(text.get_text(), text.get_position()[1]) for text in last.texts] == [
        ("not measured", 3)
    ]
    assert set(last.lines[0].get_xdata()) == {table["value"].iloc[0]}, "the baseline"
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


def test_figures_show_their_parameters():
    for draw in (comparison.interval_rows, comparison.labelled_points):
        assert "caption" in inspect.signature(draw).parameters


def test_the_comparison_of_what_is_measured_starts_without_tensorflow():
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
