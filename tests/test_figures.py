"""Every figure draws without a warning, carries its caption, and puts nothing outside its frame."""

import inspect
import itertools

from ae_lib import StudyError, figures
from tests.figure_checks import CAPTION, drawn

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

INTERVALS = pd.DataFrame(
    {"value": [1.0, 2.0, 3.0], "low": [0.5, 1.5, 2.5], "high": [1.5, 2.5, 3.5]}, index=[1, 2, 3]
)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((8, 784))


@pytest.mark.parametrize("columns", [1, 5, 8])
def test_image_rows(images, columns):
    rows = {"test image": images[:columns], "autoencoder": images[:columns]}
    assert (
        len(drawn(figures.image_rows(rows, (28, 28), CAPTION, titles=range(columns))).axes)
        == 2 * columns
    )


@pytest.mark.parametrize("count", [1, 2, 10])
@pytest.mark.parametrize("signed", [False, True])
def test_pixel_maps_share_one_scale(images, count, signed):
    maps = {str(i): (images[i % 8] - signed * 0.5) * (i + 1) for i in range(count)}
    figure = drawn(figures.pixel_maps(maps, (28, 28), CAPTION, "error"))
    limits = {axes.images[0].get_clim() for axes in figure.axes if axes.images}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low == (-high if signed else 0)


@pytest.mark.parametrize("yscale", ["linear", "log"])
def test_histogram_shows_shares(images, yscale):
    values = {"a": images[0], "b": images[1]}
    figure = drawn(figures.histogram(values, CAPTION, "error", {"worst": 0.5}, yscale))
    assert figure.axes[0].patches[0].get_data().values.sum() == pytest.approx(100)


def test_intervals_by_group():
    drawn(
        figures.intervals_by_group({"a": INTERVALS, "b": INTERVALS + 1}, CAPTION, "class", "error")
    )


def test_lines_with_and_without_bands():
    curves = {"a": INTERVALS, "b": INTERVALS[["value"]]}
    axes = drawn(figures.lines(curves, CAPTION, "distance", "error", shade=(1, 2))).axes[0]
    assert len(axes.lines) == 2
    assert len(axes.collections) == 1


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


def test_lines_on_logarithmic_axes_tell_seven_curves_apart():
    curves = {name: INTERVALS * (i + 1) for i, name in enumerate("abcdefg")}
    axes = drawn(figures.lines(curves, CAPTION, "bits", "error", log=True)).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    low, high = axes.get_ylim()
    assert 0 < low < INTERVALS["value"].min()
    assert 7 * INTERVALS["value"].max() < high < 50 * INTERVALS["value"].max()
    assert len({line.get_color() for line in axes.lines}) == 7
    assert len({line.get_marker() for line in axes.lines}) == 7


def test_intervals_of_differences_show_the_zero_line():
    axes = drawn(figures.intervals_by_group({"a": INTERVALS - 2}, CAPTION, "labels", "gain")).axes[
        0
    ]
    assert axes.get_ylim()[0] < -1.5
    assert any(set(line.get_ydata()) == {0} for line in axes.lines)


def test_joined_intervals_tell_all_styles_apart():
    curves = {f"a method with a name, {i}": INTERVALS + i for i in range(len(figures.STYLES))}
    figure = figures.intervals_by_group(curves, CAPTION, "labels", "error", joined=True)
    axes = drawn(figure).axes[0]
    assert len({c.lines[0].get_marker() for c in axes.containers}) == len(curves)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "3"]
    np.testing.assert_allclose(
        axes.containers[-1].lines[0].get_ydata(orig=False), curves[list(curves)[-1]]["value"]
    )


@pytest.mark.parametrize("draw", [figures.lines, figures.intervals_by_group])
def test_no_curve_vanishes_for_want_of_a_style(draw):
    curves = {str(i): INTERVALS for i in range(len(figures.STYLES) + 1)}
    with pytest.raises(
        StudyError, match="9 series are too many for one figure; expected at most 8: show fewer"
    ):
        draw(curves, CAPTION, "x", "y")


def test_lines_may_begin_where_the_values_do():
    low = [
        drawn(figures.lines({"a": INTERVALS + 90}, CAPTION, "epoch", "nats", bottom=bottom))
        .axes[0]
        .get_ylim()[0]
        for bottom in (0, None)
    ]
    assert low[0] == 0
    assert low[1] > 80


def test_series_with_other_groups_are_refused():
    tables = {"a": INTERVALS, "b": INTERVALS.set_axis([1, 2, 4])}
    with pytest.raises(StudyError, match=r"b has the groups \[1, 2, 4\]; expected \[1, 2, 3\]"):
        figures.intervals_by_group(tables, CAPTION, "class", "error")


def test_a_title_for_each_column_is_asked_for(images):
    with pytest.raises(ValueError, match="zip"):
        figures.image_rows({"a": images[:2]}, (28, 28), CAPTION, ["one"])


def test_a_shorter_row_leaves_its_places_empty(images):
    figure = figures.image_rows({"a": images[:3], "b": images[:1]}, (28, 28), CAPTION)
    assert [bool(axes.images) for axes in figure.axes] == [True] * 4 + [False] * 2


def test_a_row_of_errors_shows_their_sign_on_one_scale(images):
    rows = {"image": images[:2], "error": images[:2] - 0.5}
    rows["error"][1] = 0.2  # an image whose errors are all positive
    figure = figures.image_rows(rows, (28, 28), CAPTION)
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert limits == [(0, 1), (0, 1), (-1, 1), (-1, 1)]


def test_images_may_have_any_shape(images):
    figure = figures.image_rows({"a": images[:2]}, (14, 56), CAPTION)
    assert figure.axes[0].images[0].get_array().shape == (14, 56)


def test_many_or_long_names_of_groups_stand_upright():
    names = pd.Index([f"class {i}" for i in range(26)])
    table = pd.DataFrame({"value": 1.0, "low": 0.5, "high": 2.0}, names)
    figure = figures.intervals_by_group({"a": table}, CAPTION, "class", "error")
    assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {90}


PUBLIC = [figures.image_rows, figures.pixel_maps, figures.histogram, figures.intervals_by_group]
PUBLIC += [figures.lines, figures.scatter_maps]


@pytest.mark.parametrize("draw", PUBLIC)
def test_a_figure_shows_its_parameters_and_its_docstring(draw):
    parameters = inspect.signature(draw).parameters
    assert "caption" in parameters
    assert "kwargs" not in parameters
    assert inspect.getdoc(draw).startswith("Draw")


def test_the_look_ends_with_the_figure():
    before = dict(mpl.rcParams)
    figures.lines({"a": INTERVALS}, CAPTION, "x", "y")
    with figures.look():
        assert mpl.rcParams["axes.spines.top"] is False
    assert dict(mpl.rcParams) == before


def test_panels_of_a_notebooks_own_share_styles_and_caption():
    with figures.look():
        figure = figures.new(CAPTION, height=2.5)
        left, right = figure.subplots(1, 2)
        for axes in (left, right):
            figures.draw_curves(axes, {"a": INTERVALS, "b": INTERVALS[["value"]]})
        figures.log_axis(right.yaxis)
    drawn(figure)
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    assert [line.get_color() for line in left.lines] == figures.COLOURS[:2]
