"""Every figure draws without a warning, carries its caption, and puts nothing outside its frame."""

import itertools

from ae_lib import StudyError, figures, models

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

CAPTION = "Figure 0.0. A caption that is long enough to be broken into two lines, since that is what captions here do."
INTERVALS = pd.DataFrame(
    {"value": [1.0, 2.0, 3.0], "low": [0.5, 1.5, 2.5], "high": [1.5, 2.5, 3.5]}, index=[1, 2, 3]
)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((8, 784))


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    assert figure.get_label() == CAPTION
    assert figure.texts[0].get_text().replace("\n", " ") == CAPTION
    frame = figure.bbox.padded(1)
    for axes in [a for a in figure.axes if a.get_visible()]:
        box = axes.get_tightbbox()
        assert frame.contains(*box.min), "an axes leaves the figure"
        assert frame.contains(*box.max), "an axes leaves the figure"
        assert not box.overlaps(figure.texts[0].get_window_extent()), "an axes covers the caption"
    return figure


@pytest.mark.parametrize("columns", [1, 5, 8])
def test_image_rows(images, columns):
    rows = {"test image": images[:columns], "autoencoder": images[:columns]}
    assert len(drawn(figures.image_rows(rows, CAPTION, titles=range(columns))).axes) == 2 * columns


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("signed", [False, True])
def test_pixel_maps_share_one_scale(images, count, signed):
    maps = {str(i): images[i % 8] * (i + 1) for i in range(count)}
    figure = drawn(figures.pixel_maps(maps, CAPTION, "error", signed))
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == (-high if signed else 0)


def test_class_balance():
    shares = pd.DataFrame({"training": [0.4, 0.6], "test": [0.5, 0.5]})
    bars = drawn(figures.class_balance(shares, CAPTION)).axes[0].patches
    assert [bar.get_height() for bar in bars] == [40, 60]


@pytest.mark.parametrize("log", [False, True])
def test_histogram_shows_shares(images, log):
    values = {"a": images[0], "b": images[1]}
    figure = drawn(figures.histogram(values, CAPTION, "error", log=log, marks={"worst": 0.5}))
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(100)


def test_architecture_names_every_layer():
    table = models.layer_table(models.dense_autoencoder().autoencoder)
    texts = {
        text.get_text() for text in drawn(figures.architecture(table, 784, CAPTION)).axes[0].texts
    }
    assert {"784", "256", "128", "32", "relu", "linear", "sigmoid", "200,960"} <= texts


def test_loss_curves():
    history = pd.DataFrame({"loss": [0.2, 0.1], "val_loss": [0.21, 0.11]}, index=[1, 2])
    left, right = drawn(
        figures.loss_curves(history, pd.Series({"loss": 0.04, "val_loss": 0.05}), CAPTION)
    ).axes
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.16, 0.06])
    assert left.get_legend()


def test_intervals_by_group():
    drawn(
        figures.intervals_by_group({"a": INTERVALS, "b": INTERVALS + 1}, CAPTION, "class", "error")
    )


def test_lines_with_and_without_bands():
    curves = {"a": INTERVALS, "b": INTERVALS[["value"]]}
    axes = drawn(figures.lines(curves, CAPTION, "distance", "error", shade=(1, 2))).axes[0]
    assert len(axes.lines) == 2
    assert len(axes.collections) == 1


@pytest.mark.parametrize("count", [2, 7])
def test_line_panels_share_a_legend(count):
    panels = {str(i): {"a": INTERVALS / 4, "b": INTERVALS[["value"]] / 5} for i in range(count)}
    figure = drawn(figures.line_panels(panels, CAPTION, ["strength"] * count, ["share"] * count))
    assert [text.get_text() for text in figure.legends[0].texts] == ["a", "b"]
    assert sum(axes.get_visible() for axes in figure.axes) == count


@pytest.mark.parametrize(("panels", "count"), [(1, 60), (2, 5000)])
def test_scatter_maps_name_every_class(panels, count):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 12  # more classes than colours
    maps = {f"map {i}": rng.normal(size=(count, 2)) + labels[:, None] for i in range(panels)}
    for axes in drawn(figures.scatter_maps(maps, labels, CAPTION, "t-SNE axis {}")).axes:
        assert {text.get_text() for text in axes.texts} == {str(i) for i in range(12)}
        assert sum(len(points.get_offsets()) for points in axes.collections) == count
        assert all(points.get_rasterized() for points in axes.collections), (
            "thousands of shapes in an SVG"
        )


def test_labels_of_classes_in_one_place_do_not_cover_each_other():
    labels = np.repeat(np.arange(6), 50)
    points = (
        np.random.default_rng(0).normal(size=(300, 2)) * np.where(labels < 5, 0.01, 20)[:, None]
    )
    axes = drawn(
        figures.scatter_maps({"map": points, "again": points}, labels, CAPTION, "axis {}")
    ).axes[0]
    boxes = [
        text.get_window_extent().padded(-4) for text in axes.texts
    ]  # a digit does not fill its line's height
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_correlation_matrix_has_a_fixed_scale():
    axes = drawn(figures.correlation_matrix(np.eye(4) / 2, CAPTION, "unit")).axes[0]
    assert axes.images[0].get_clim() == (-1, 1)


def test_lines_on_logarithmic_axes_tell_seven_curves_apart():
    curves = {name: INTERVALS * (i + 1) for i, name in enumerate("abcdefg")}
    axes = drawn(figures.lines(curves, CAPTION, "bits", "error", log=True)).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert len({line.get_color() for line in axes.lines}) == 7
    assert len({line.get_marker() for line in axes.lines}) == 7


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
    figure = drawn(figures.interval_rows(panels, CAPTION, log=["measure 0 / unit"]))
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
        figures.interval_rows(
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
        figures.labelled_points(
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
        text.get_text() for text in drawn(figures.rank_matrix(ranks, close, CAPTION)).axes[0].texts
    ]
    assert texts == ["1", "2", "(2)", "–", "3", "1"]


def test_intervals_of_differences_show_the_zero_line():
    axes = drawn(figures.intervals_by_group({"a": INTERVALS - 2}, CAPTION, "labels", "gain")).axes[
        0
    ]
    assert axes.get_ylim()[0] < -1.5
    assert any(set(line.get_ydata()) == {0} for line in axes.lines)


def test_learning_curves_tell_all_styles_apart():
    curves = {f"a method with a name, {i}": INTERVALS + i for i in range(len(figures.STYLES))}
    axes = drawn(figures.learning_curves(curves, CAPTION, "labels", "error")).axes[0]
    assert len({c.lines[0].get_marker() for c in axes.containers}) == len(curves)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    np.testing.assert_allclose(
        axes.containers[-1].lines[0].get_ydata(orig=False), curves[list(curves)[-1]]["value"]
    )


@pytest.mark.parametrize(
    "draw", [figures.learning_curves, figures.lines, figures.intervals_by_group]
)
def test_no_curve_vanishes_for_want_of_a_style(draw):
    curves = {str(i): INTERVALS for i in range(len(figures.STYLES) + 1)}
    with pytest.raises(
        StudyError, match="9 curves are too many for one figure; expected at most 8: show fewer"
    ):
        draw(curves, CAPTION, "x", "y")


@pytest.mark.parametrize("panels", [1, 3])
def test_mosaics_put_every_image_in_its_place(panels):
    grid = np.zeros((2, 3, 784))
    grid[1, 2] = 1  # last row, last column
    axes = drawn(figures.mosaics({str(i): grid for i in range(panels)}, CAPTION)).axes
    assert len(axes) == panels
    page = axes[-1].images[0].get_array()
    assert page.shape == (60, 90)
    assert page[31:59, 61:89].all()
    assert page.sum() == 784


def test_lines_may_begin_where_the_values_do():
    low = [
        drawn(figures.lines({"a": INTERVALS + 90}, CAPTION, "epoch", "nats", bottom=bottom))
        .axes[0]
        .get_ylim()[0]
        for bottom in (0, None)
    ]
    assert low[0] == 0
    assert low[1] > 80
