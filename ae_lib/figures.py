"""Figures that several notebooks share: arrays in, a matplotlib figure out.

Each takes a caption that states its finding; it stands below the figure and is also its label, from
which `ae_lib.run.Run.show` takes the alternative text. No series differs in its colour alone.
"""

import textwrap

from ae_lib import StudyError

import matplotlib as mpl
import numpy as np
from adjustText import adjust_text
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

COLOURS = ["#1b3a5c", "#c8553d", "#4f7d5c", "#c9a13b", "#6b4c86", "#222222", "#2a8c8c", "#8f9aa3"]
STYLES = mpl.cycler(
    color=COLOURS,
    linestyle=["-", "--", "-.", ":", (0, (8, 3)), (0, (3, 1)), (0, (1, 3)), (0, (8, 2, 2, 2))],
    marker=["o", "s", "D", "v", "*", "x", "P", "^"],
)
LOOK = {
    "axes.prop_cycle": STYLES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "legend.handlelength": 2.6,
}
# The ten of Tol's "muted" scheme ("Colour schemes", SRON technical note, 2021), which the
# colour-blind can distinguish.
CLASSES = ["#332288", "#88ccee", "#44aa99", "#117733", "#999933"]
CLASSES += ["#ddcc77", "#cc6677", "#882255", "#aa4499", "#777777"]
SIGNED = "cividis"  # its lightness rises throughout, so that the sign survives grey-scale print
OUTLINE = [withStroke(linewidth=3.5, foreground="white")]  # a text is readable above points


def look():
    """Return the study's matplotlib settings, as a context manager or a decorator."""
    return mpl.rc_context(LOOK)


def new(caption, width=9.0, height=3.2):
    """Return an empty figure, in inches; the caption below it adds to the height."""
    lines = textwrap.wrap(caption, int(width * 13.5))
    below = 0.2 * len(lines) + 0.12
    total = height + below
    figure = Figure(figsize=(width, total), dpi=110, layout="constrained", label=caption)
    figure.get_layout_engine().set(rect=(0, below / total, 1, height / total), wspace=0.04)
    figure.text(0.01, 0.08 / total, "\n".join(lines), fontsize=9.5, color="#333333", va="bottom")
    return figure


def styled(series):
    """Return (label, content, style) of each series; `StudyError` if there are too many."""
    if len(series) > len(STYLES):
        raise StudyError(
            f"{len(series)} series are too many for one figure; expected at most {len(STYLES)}: "
            "show fewer."
        )
    return [(*item, style) for item, style in zip(series.items(), STYLES, strict=False)]


def half_widths(table):
    """Return how far the intervals of a table reach below and above its values."""
    return [table["value"] - table["low"], table["high"] - table["value"]]


def log_axis(axis, steps=(1, 2, 5)):
    """Make an axis logarithmic, with plain numbers at ``steps`` times the powers of ten."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(mpl.ticker.LogLocator(subs=steps))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def legend_above(axes, ncols=4):
    """Put the legend above the axes, where it covers no data."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.2)


def draw_image(axes, pixels, cmap="gray_r", low=0):
    """Draw one image with values in [low, 1], by default dark ink on light, in a thin frame."""
    axes.imshow(pixels, cmap=cmap, vmin=low, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#cccccc", linewidth=0.5)


def draw_curves(axes, curves):
    """Draw curves with a band between their low and high, as for `lines`."""
    for label, curve, style in styled(curves):
        marker = {"markersize": 4} if len(curve) <= 20 else {"marker": "none"}
        axes.plot(curve.index, curve["value"], label=label, **(style | marker))
        if curve.index.dtype.kind == "i":  # epochs or units: no ticks between them
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(6, integer=True))
        if "low" in curve:
            band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
            axes.fill_between(curve.index, curve["low"], curve["high"], **band)


def draw_intervals(axes, tables, shift=0.16, **look):
    """Draw values with their intervals by group, as for `intervals_by_group`, side by side."""
    groups = next(iter(tables.values())).index
    for i, (label, table, style) in enumerate(styled(tables)):
        if not table.index.equals(groups):
            raise StudyError(
                f"{label} has the groups {list(table.index)}; expected {list(groups)}, as the "
                "first series: give all series the same groups."
            )
        x = np.arange(len(groups)) + shift * (i - (len(tables) - 1) / 2)
        style |= {"capsize": 3, "markersize": 4.5} | look
        axes.errorbar(x, table["value"], half_widths(table), label=label, **style)
    group_ticks(axes, groups)


def group_ticks(axes, groups):
    """Write names or numbers of groups, a pandas.Index, below axes; upright if they are many."""
    number = "{:,}" if groups.dtype.kind == "i" else "{}"
    names = [number.format(group) for group in groups]
    room = 110 / axes.get_subplotspec().get_gridspec().ncols  # letters, in a figure of usual width
    crowded = sum(len(name) + 2 for name in names) > room
    step = -(-2 * len(names) // int(room))  # upright, a name takes as much room as two letters
    places = range(0, len(names), step)
    axes.set_xticks(places, names[::step], rotation=90 if crowded else 0)


@look()
def image_rows(rows, shape, caption, titles=None):
    """Draw rows of images, one below the other, such as originals over reconstructions.

    ``rows``: label to images, float, shape (n, h · w), in [0, 1], or errors in [-1, 1], of
    ``shape`` (h, w); ``titles``: one per column.
    """
    columns = max(map(len, rows.values()))
    size = min(1.5, 8.2 / columns)
    height = size * shape[0] / shape[1]
    figure = new(caption, height=height * len(rows) + (0.35 if titles is not None else 0.1))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (label, images) in zip(grid, rows.items(), strict=True):
        cmap, low = (SIGNED, -1) if np.min(images) < 0 else ("gray_r", 0)
        for axes, image in zip(axes_row, images, strict=False):
            draw_image(axes, np.reshape(image, shape), cmap, low)
        for axes in axes_row[len(images) :]:  # a row may be shorter
            axes.set_axis_off()
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
    if titles is not None:
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=9, loc="center")
    return figure


@look()
def pixel_maps(maps, shape, caption, unit):
    """Draw maps over an image's pixels, side by side on one scale.

    ``maps``: title to values, shape (h · w,), of ``shape`` (h, w). The scale begins at 0, or is
    symmetric about 0 if there are negative values. More than six maps make two rows.
    """
    n_rows = 1 if len(maps) <= 6 else 2
    per_row = -(-len(maps) // n_rows)
    values = np.stack(list(maps.values()))
    top = np.abs(values).max()
    cmap, low = (SIGNED, -top) if values.min() < 0 else ("magma_r", 0)
    size = min(2.6, 7.6 / per_row)
    width = max(7.0, (size + 0.1) * per_row + 1.2)
    height = size * shape[0] / shape[1]
    figure = new(caption, width=width, height=(height + 0.3) * n_rows)
    grid = figure.subplots(n_rows, per_row, squeeze=False)
    for axes, (title, image) in zip(grid.flat[: len(maps)], maps.items(), strict=True):
        drawn = axes.imshow(np.reshape(image, shape), cmap=cmap, vmin=low, vmax=top)
        axes.set_title(title)
    for axes in grid.flat:
        axes.set_axis_off()
    figure.colorbar(drawn, ax=grid, label=unit, shrink=0.9, aspect=16)
    return figure


@look()
def histogram(values, caption, xlabel, marks=None, yscale="linear"):
    """Draw distributions on one axis, as shares of the images in 80 bins.

    ``values``: label to values, shape (n,), not below 0; ``marks``: label to the position of a
    vertical line.
    """
    figure = new(caption, height=2.6)
    axes = figure.subplots()
    edges = np.linspace(0, max(np.max(v) for v in values.values()), 81)
    for label, data, style in styled(values):
        share = 100 * np.histogram(data, edges)[0] / len(data)
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.6}
        axes.stairs(share, edges, label=label, **line)
    for label, position in (marks or {}).items():
        axes.axvline(position, color="#555555", linewidth=1, linestyle="-.", label=label)
    axes.set(xlabel=xlabel, ylabel="share of images / %", yscale=yscale)
    legend_above(axes)
    return figure


@look()
def intervals_by_group(tables, caption, xlabel, ylabel, bottom=0, joined=False):
    """Draw means, or differences, with their intervals by group, one marker per model.

    ``tables``: label to a pandas.DataFrame with columns value, low, high and the same groups as
    index; ``bottom``: where an axis without negative values begins, None leaves it to the values;
    ``joined``: whether a line joins the groups, such as amounts of data, on a logarithmic axis.
    """
    figure = new(caption, height=3.8 if joined else 2.8)
    axes = figure.subplots()
    draw_intervals(axes, tables, **({"shift": 0.04} if joined else {"linestyle": "none"}))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if joined:
        log_axis(axes.yaxis, steps=(1, 1.5, 2, 3, 5, 7))
    elif min(table["low"].min() for table in tables.values()) < 0:  # differences
        axes.axhline(0, color="#777777", linewidth=1)
    else:
        axes.set_ylim(bottom, None)
    legend_above(axes, ncols=3 if joined else 4)
    return figure


@look()
def lines(curves, caption, xlabel, ylabel, shade=None, bottom=0, log=False):
    """Draw curves over one axis.

    ``curves``: label to a pandas.DataFrame with column value and, optionally, low and high, whose
    index is the position on the axis; ``shade``: a stretch of the horizontal axis to set off;
    ``bottom``: where the vertical axis begins, None leaves it to the values; ``log``: whether both
    axes are logarithmic.
    """
    figure = new(caption, height=3.8 if log else 2.8)
    axes = figure.subplots()
    draw_curves(axes, curves)
    if shade:
        axes.axvspan(*shade, color="#eeeeee", zorder=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
    else:
        axes.set_ylim(bottom, None)
    legend_above(axes)
    return figure


@look()
def scatter_maps(maps, labels, caption, axis):
    """Draw points in the plane by class, one panel per map, a class's label by its median.

    ``maps``: title to positions, shape (n, 2); ``labels``: classes, integers or text, shape (n,);
    ``axis``: what the axes are, with their unit, and ``{}`` where their number belongs.
    """
    figure = new(caption, height=9.0 / len(maps) * 0.95)
    grid = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, points) in zip(grid, maps.items(), strict=True):
        draw_classes(axes, points, labels)
        axes.set(title=title, xlabel=axis.format(1), ylabel=axis.format(2), xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
    for axes in grid:  # after the last change of the layout, which moves what is at a place
        adjust_text(axes.texts, ax=axes, avoid_self=False, iter_lim=200)
    return figure


def draw_classes(axes, points, labels):
    """Draw points by class as colour and marker, and each class's label at their median."""
    order = np.random.default_rng(0).permutation(len(labels))  # no class lies wholly on top
    names, number = np.unique(labels, return_inverse=True)
    colours = np.array(CLASSES)[number % len(CLASSES)]
    # Without antialiasing the picture has few colours, and a file a third as large.
    style = {"linewidths": 0, "antialiased": False, "rasterized": True}
    style["s"] = float(np.clip(4000 / len(labels), 2, 14))
    for i, marker in enumerate("os^Dv"):
        group = order[number[order] % 5 == i]
        axes.scatter(*points[group].T, c=colours[group], marker=marker, **style)
    text = {"fontsize": 14, "fontweight": "bold", "ha": "center", "va": "center"}
    for label in names:
        place = np.median(points[labels == label], axis=0)
        axes.text(*place, label, path_effects=OUTLINE, **text)
