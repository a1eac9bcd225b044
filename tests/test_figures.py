"""Every figure draws without a warning, carries its caption, and puts nothing outside its frame."""

import itertools

from ae_lib import figures, models

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

CAPTION = "Figure 0.0. A caption that is long enough to be broken into two lines, since that is what captions here do."
INTERVALS = pd.DataFrame({"mean": [1.0, 2.0, 3.0], "low": [0.5, 1.5, 2.5], "high": [1.5, 2.5, 3.5]}, index=[1, 2, 3])


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
    texts = {text.get_text() for text in drawn(figures.architecture(table, 784, CAPTION)).axes[0].texts}
    assert {"784", "256", "128", "32", "relu", "linear", "sigmoid", "200,960"} <= texts


def test_loss_curves():
    history = pd.DataFrame({"loss": [0.2, 0.1], "val_loss": [0.21, 0.11]}, index=[1, 2])
    left, right = drawn(figures.loss_curves(history, pd.Series({"loss": 0.04, "val_loss": 0.05}), CAPTION)).axes
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.16, 0.06])
    assert left.get_legend()


def test_intervals_by_group():
    drawn(figures.intervals_by_group({"a": INTERVALS, "b": INTERVALS + 1}, CAPTION, "class", "error"))


def test_lines_with_and_without_bands():
    curves = {"a": INTERVALS, "b": INTERVALS[["mean"]]}
    axes = drawn(figures.lines(curves, CAPTION, "distance", "error", shade=(1, 2))).axes[0]
    assert len(axes.lines) == 2
    assert len(axes.collections) == 1


@pytest.mark.parametrize("count", [2, 7])
def test_line_panels_share_a_legend(count):
    panels = {str(i): {"a": INTERVALS / 4, "b": INTERVALS[["mean"]] / 5} for i in range(count)}
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
        assert all(points.get_rasterized() for points in axes.collections), "thousands of shapes in an SVG"


def test_labels_of_classes_in_one_place_do_not_cover_each_other():
    labels = np.repeat(np.arange(6), 50)
    points = np.random.default_rng(0).normal(size=(300, 2)) * np.where(labels < 5, 0.01, 20)[:, None]
    axes = drawn(figures.scatter_maps({"map": points, "again": points}, labels, CAPTION, "axis {}")).axes[0]
    boxes = [text.get_window_extent().padded(-4) for text in axes.texts]  # a digit does not fill its line's height
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


def test_intervals_of_differences_show_the_zero_line():
    axes = drawn(figures.intervals_by_group({"a": INTERVALS - 2}, CAPTION, "labels", "gain")).axes[0]
    assert axes.get_ylim()[0] < -1.5
    assert any(set(line.get_ydata()) == {0} for line in axes.lines)


def test_learning_curves_tell_all_styles_apart():
    curves = {f"a method with a name, {i}": INTERVALS + i for i in range(len(figures.STYLES))}
    axes = drawn(figures.learning_curves(curves, CAPTION, "labels", "error")).axes[0]
    assert len({c.lines[0].get_marker() for c in axes.containers}) == len(curves)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    np.testing.assert_allclose(axes.containers[-1].lines[0].get_ydata(orig=False), curves[list(curves)[-1]]["mean"])


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
        drawn(figures.lines({"a": INTERVALS + 90}, CAPTION, "epoch", "nats", bottom=bottom)).axes[0].get_ylim()[0]
        for bottom in (0, None)
    ]
    assert low[0] == 0
    assert low[1] > 80
