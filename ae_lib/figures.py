"""Every figure of the study: arrays in, a matplotlib figure out. Nothing is computed and no file is touched here.

Each takes a caption that states its finding; it stands below the figure and is also the figure's label, from which
`ae_lib.run.Run.show` takes the alternative text. Ink is drawn dark on light, colours keep their order in grey-scale
print, and what is told apart by colour is told apart by marker, line style or position as well.
"""

import itertools
import textwrap

from ae_lib import StudyError
from ae_lib.data import SIDE

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

DPI = 110
STYLES = [  # each with a line style and a marker of its own
    {"color": "#1b3a5c", "linestyle": "-", "marker": "o"},
    {"color": "#c8553d", "linestyle": "--", "marker": "s"},
    {"color": "#8f9aa3", "linestyle": ":", "marker": "^"},
    {"color": "#4f7d5c", "linestyle": "-.", "marker": "D"},
    {"color": "#c9a13b", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#6b4c86", "linestyle": (0, (1, 3)), "marker": "*"},
    {"color": "#222222", "linestyle": (0, (8, 3)), "marker": "x"},
    {"color": "#2a8c8c", "linestyle": (0, (3, 1)), "marker": "P"},
]
LOOK = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",
}
# The ten of Tol's "muted" scheme ("Colour schemes", SRON technical note, 2021): told apart by the colour-blind.
CLASSES = [
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
    "#777777",
]
MARKERS = "os^Dv"
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of red, green and blue; ITU-R BT.709
SIGNED = "cividis"  # its lightness rises throughout, so that the sign survives grey-scale print


def _figure(caption, width=9.0, height=3.2):
    """A figure with its caption on lines of its own below; ``height`` is what remains for the axes, in inches."""
    lines = textwrap.wrap(caption, int(width * 13.5))
    below = 0.2 * len(lines) + 0.12
    figure = Figure(figsize=(width, height + below), dpi=DPI, layout="constrained", label=caption)
    figure.get_layout_engine().set(
        rect=(0, below / (height + below), 1, height / (height + below)), wspace=0.04
    )
    figure.text(
        0.01, 0.08 / (height + below), "\n".join(lines), fontsize=9.5, va="bottom", color="#333333"
    )
    return figure


def _styled(function):
    def drawn(*args, **kwargs):
        with mpl.rc_context(LOOK):
            return function(*args, **kwargs)

    drawn.__name__, drawn.__doc__ = function.__name__, function.__doc__
    return drawn


def _with_styles(series):
    """Label and content of each, with a style of its own."""
    if len(series) > len(STYLES):
        raise StudyError(
            f"{len(series)} curves are too many for one figure; expected at most {len(STYLES)}: show fewer."
        )
    return zip(series.items(), STYLES, strict=False)


def _draw_image(axes, image):
    axes.imshow(
        np.reshape(image, (SIDE, SIDE)), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, color="#cccccc", linewidth=0.5)


def _legend_above(axes, ncols=4):
    # Above the axes it covers no data, whatever these are.
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, borderaxespad=0.2, handlelength=2.6
    )


@_styled
def image_rows(rows, caption, titles=None):
    """Rows of images, one below the other, e.g. originals over reconstructions.

    Parameters
    ----------
    rows : dict
        Row label to images, each float, shape (n, 784), in [0, 1]; the same n in every row.
    caption : str
    titles : sequence of str, optional
        One for each column.
    """
    columns = len(next(iter(rows.values())))
    size = min(1.5, 8.2 / columns)
    figure = _figure(caption, height=size * len(rows) + (0.35 if titles is not None else 0.1))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes_row, (label, images) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            _draw_image(axes, image)
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=6)
    if titles is not None:
        for axes, title in zip(grid[0], titles, strict=True):
            axes.set_title(title, fontsize=9, loc="center")
    return figure


@_styled
def mosaics(panels, caption):
    """Grids of many images, side by side.

    Parameters
    ----------
    panels : dict
        Title to images, float, shape (rows, columns, 784), in [0, 1]; the same shape in every panel.
    caption : str
    """
    rows, columns = next(iter(panels.values())).shape[:2]
    width = min(6.0, 8.6 / len(panels))
    figure = _figure(caption, height=width * rows / columns + 0.3)
    for axes, (title, images) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        framed = np.pad(
            np.reshape(images, (rows, columns, SIDE, SIDE)), [(0, 0), (0, 0), (1, 1), (1, 1)]
        )
        # (row, column, y, x) to (row, y, column, x): one large image, drawn faster than many axes.
        page = framed.swapaxes(1, 2).reshape(rows * (SIDE + 2), columns * (SIDE + 2))
        axes.imshow(page, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#cccccc", linewidth=0.5)
    return figure


@_styled
def class_balance(shares, caption):
    """Share of each class in each split, one panel per split.

    Parameters
    ----------
    shares : pandas.DataFrame
        Index: class; one column per split; values in [0, 1].
    caption : str
    """
    figure = _figure(caption, height=2.4)
    panels = figure.subplots(1, shares.shape[1], sharey=True, squeeze=False)[0]
    for axes, (split, values) in zip(panels, shares.items(), strict=True):
        axes.bar(values.index, 100 * values, color=STYLES[0]["color"])
        axes.axhline(100 / len(values), color=STYLES[1]["color"], linestyle="--", linewidth=1)
        axes.set(title=split, xticks=values.index, xlabel="class")
    panels[0].set_ylabel("share of images / %")
    return figure


@_styled
def pixel_maps(maps, caption, unit, signed=False):
    """Maps over the 28 × 28 pixels, side by side on one scale.

    Parameters
    ----------
    maps : dict
        Title to values, shape (784,). More than six make two rows.
    caption, unit : str
    signed : bool
        Whether the scale is symmetric about 0.
    """
    per_row = len(maps) if len(maps) <= 6 else -(-len(maps) // 2)
    n_rows = -(-len(maps) // per_row)
    top = max(float(np.max(np.abs(values))) for values in maps.values())
    size = min(2.6, 7.6 / per_row)
    figure = _figure(
        caption, width=max(7.0, (size + 0.1) * per_row + 1.2), height=(size + 0.3) * n_rows
    )
    grid = figure.subplots(n_rows, per_row, squeeze=False)
    scale = (
        {"cmap": SIGNED, "vmin": -top, "vmax": top}
        if signed
        else {"cmap": "magma_r", "vmin": 0, "vmax": top}
    )
    for axes, (title, values) in zip(grid.flat, maps.items(), strict=False):
        image = axes.imshow(np.reshape(values, (SIDE, SIDE)), **scale)
        axes.set(title=title, xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes in grid.flat[len(maps) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=grid, label=unit, shrink=0.9, aspect=16)
    return figure


@_styled
def histogram(
    values, caption, xlabel, ylabel="share of images / %", log=False, marks=None, bins=80
):
    """Distributions on one axis.

    Parameters
    ----------
    values : dict
        Label to values, shape (n,).
    caption, xlabel, ylabel : str
    log : bool
        Whether the vertical axis is logarithmic.
    marks : dict, optional
        Label to a position marked by a vertical line.
    bins : int
    """
    figure = _figure(caption, height=2.6)
    axes = figure.subplots()
    edges = np.linspace(0, max(np.max(v) for v in values.values()), bins + 1)
    for (label, data), style in _with_styles(values):
        share = 100 * np.histogram(data, edges)[0] / len(data)
        axes.stairs(
            share,
            edges,
            label=label,
            color=style["color"],
            linestyle=style["linestyle"],
            linewidth=1.6,
        )
    for label, position in (marks or {}).items():
        axes.axvline(position, color="#555555", linewidth=1, linestyle="-.", label=label)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    _legend_above(axes)
    return figure


@_styled
def architecture(table, input_dim, caption):
    """The network as a row of bars whose heights are the layers' units.

    Parameters
    ----------
    table : sequence of (name, units, activation, parameters)
        As `ae_lib.models.layer_table` gives it.
    input_dim : int
    caption : str
    """
    blocks = [("images", input_dim, "", 0), *table]
    figure = _figure(caption, height=3.0)
    axes = figure.subplots()
    narrow = min(units for _, units, _, _ in blocks)
    for x, (_, units, activation, parameters) in enumerate(blocks):
        height = np.sqrt(units)  # an area-like scale keeps the bottleneck visible
        colour = STYLES[1]["color"] if units == narrow else STYLES[0]["color"]
        axes.bar(x, height, 0.36, bottom=-height / 2, color=colour)
        axes.text(x, height / 2 + 0.8, f"{units}", ha="center", va="bottom", fontweight="bold")
        axes.text(x, -np.sqrt(input_dim) / 2 - 1.2, activation or "input", ha="center", va="top")
        if parameters:
            axes.annotate(
                "",
                (x - 0.22, 0),
                (x - 0.78, 0),
                arrowprops={"arrowstyle": "->", "color": "#777777"},
            )
            axes.text(
                x - 0.5,
                0.9,
                f"{parameters:,}",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color="#555555",
            )
    axes.set(
        xlim=(-0.6, len(blocks) - 0.4),
        ylim=(-np.sqrt(input_dim) / 2 - 5, np.sqrt(input_dim) / 2 + 4),
    )
    axes.axis("off")
    return figure


@_styled
def loss_curves(history, floors, caption):
    """Training and validation loss by epoch, and the excess of each above its floor on a logarithmic axis.

    Parameters
    ----------
    history : pandas.DataFrame
        Columns loss and val_loss, in nats per pixel; index: epoch.
    floors : pandas.Series
        Entropy of the training images (loss) and of the validation images (val_loss), in nats per pixel.
    caption : str
    """
    figure = _figure(caption, height=3.0)
    left, right = figure.subplots(1, 2)
    for (column, label), style in zip(
        {"loss": "training", "val_loss": "validation"}.items(), STYLES, strict=False
    ):
        line = {"color": style["color"], "linestyle": style["linestyle"]}
        left.plot(history.index, history[column], label=label, **line)
        right.plot(history.index, history[column] - floors[column], label=label, **line)
    left.axhline(
        floors["val_loss"], color="#777777", linewidth=1, linestyle="-.", label="floor (validation)"
    )
    left.set(xlabel="epoch", ylabel="BCE / nats per pixel")
    right.set(xlabel="epoch", ylabel="excess BCE / nats per pixel", yscale="log")
    right.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("")
    _legend_above(left)
    return figure


@_styled
def intervals_by_group(tables, caption, xlabel, ylabel, bottom=0):
    """Means, or differences, with their intervals by group, one marker style per model.

    Parameters
    ----------
    tables : dict
        Label to a pandas.DataFrame with columns mean, low, high and the groups as index.
    caption, xlabel, ylabel : str
    bottom : float, optional
        Where the vertical axis begins; None leaves it to the values.
    """
    figure = _figure(caption, height=2.8)
    axes = figure.subplots()
    for i, ((label, table), style) in enumerate(_with_styles(tables)):
        x = np.arange(len(table)) + 0.16 * (i - (len(tables) - 1) / 2)
        error = [table["value"] - table["low"], table["high"] - table["value"]]
        axes.errorbar(
            x,
            table["value"],
            error,
            label=label,
            **{**style, "linestyle": "none"},
            capsize=3,
            markersize=4.5,
        )
    axes.set_xticks(range(len(table)), [str(group) for group in table.index])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if min(table["low"].min() for table in tables.values()) < 0:  # differences
        axes.axhline(0, color="#777777", linewidth=1)
    else:
        axes.set_ylim(bottom, None)
    _legend_above(axes)
    return figure


@_styled
def lines(curves, caption, xlabel, ylabel, shade=None, log=False, bottom=0):
    """Curves over one axis, with a light band between two columns where given.

    Parameters
    ----------
    curves : dict
        Label to a pandas.DataFrame with column mean and, optionally, low and high; index: position on the axis.
    caption, xlabel, ylabel : str
    shade : tuple of float, optional
        A stretch of the horizontal axis to set off.
    log : bool
        Whether both axes are logarithmic.
    bottom : float, optional
        Where a linear vertical axis begins; None leaves it to the values.
    """
    figure = _figure(caption, height=3.8 if log else 2.8)
    axes = figure.subplots()
    _draw_curves(axes, curves)
    if shade:
        axes.axvspan(*shade, color="#eeeeee", zorder=0)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if log:
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    elif bottom is not None:
        axes.set_ylim(bottom, None)
    _legend_above(axes)
    return figure


def _draw_curves(axes, curves):
    for (label, curve), style in _with_styles(curves):
        marker = {"markersize": 4} if len(curve) <= 20 else {"marker": "none"}
        axes.plot(curve.index, curve["value"], label=label, **{**style, **marker})
        if curve.index.dtype.kind == "i":  # epochs or units: no ticks between them
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        if "low" in curve:
            axes.fill_between(
                curve.index,
                curve["low"],
                curve["high"],
                color=style["color"],
                alpha=0.2,
                linewidth=0,
            )


@_styled
def line_panels(panels, caption, xlabels, ylabels):
    """Panels of curves, four to a row, on one vertical scale from 0 to 1, with one legend.

    Parameters
    ----------
    panels : dict
        Title to curves, each as in `lines`; the same labels in every panel; values in [0, 1].
    caption : str
    xlabels, ylabels : sequences of str
        One for each panel.
    """
    per_row = min(4, len(panels))
    n_rows = -(-len(panels) // per_row)
    figure = _figure(caption, height=2.2 * n_rows + 0.4 if n_rows > 1 else 3.0)
    grid = figure.subplots(n_rows, per_row, squeeze=False)
    for axes, (title, curves), xlabel, ylabel in zip(
        grid.flat, panels.items(), xlabels, ylabels, strict=False
    ):
        _draw_curves(axes, curves)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-0.02, 1.02))
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


@_styled
def scatter_maps(maps, labels, caption, axis):
    """Points in the plane by class, one panel per map; each class's label stands by the median of its points.

    Parameters
    ----------
    maps : dict
        Title to positions, shape (n, 2).
    labels : int array, shape (n,)
    caption : str
    axis : str
        What the axes are, with their unit, and ``{}`` where their number belongs.
    """
    figure = _figure(caption, height=9.0 / len(maps) * 0.95)
    size = float(np.clip(4000 / len(labels), 2, 14))
    order = np.random.default_rng(0).permutation(len(labels))  # no class lies wholly on top
    colours = np.array([CLASSES[label % len(CLASSES)] for label in labels])
    for axes, (title, points) in zip(
        figure.subplots(1, len(maps), squeeze=False)[0], maps.items(), strict=True
    ):
        for i, marker in enumerate(MARKERS):
            some = order[labels[order] % len(MARKERS) == i]
            # Without antialiasing the picture has few colours, and a file a third as large.
            look = {"marker": marker, "linewidths": 0, "antialiased": False, "rasterized": True}
            axes.scatter(*points[some].T, size, colours[some], **look)
        medians = np.array(
            [np.median(points[labels == label], axis=0) for label in np.unique(labels)]
        )
        for label, place in zip(
            np.unique(labels), _apart(medians, 0.06 * np.ptp(points, axis=0).max()), strict=True
        ):
            text = axes.text(*place, label, fontsize=14, fontweight="bold")
            text.set(
                ha="center",
                va="center",
                path_effects=[withStroke(linewidth=3.5, foreground="white")],
            )
        axes.set(title=title, xlabel=axis.format(1), ylabel=axis.format(2), xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
    return figure


def _apart(places, least, rounds=100):
    """Places moved no further than needed for any two of them to be ``least`` apart; nearly so if they are many."""
    places = np.array(places, "float64")
    for _ in range(rounds):
        for i, j in itertools.combinations(range(len(places)), 2):
            step = places[j] - places[i]
            distance = np.hypot(*step)
            if distance < least:
                push = (least - distance) / 2 * (step / distance if distance else np.array([1, 0]))
                places[i], places[j] = places[i] - push, places[j] + push
    return places


@_styled
def correlation_matrix(values, caption, label):
    """A matrix of correlations on a scale from -1 to 1.

    Parameters
    ----------
    values : float array, shape (d, d), in [-1, 1]
    caption : str
    label : str
        What rows and columns are.
    """
    figure = _figure(caption, width=7.0, height=4.6)
    axes = figure.subplots()
    image = axes.imshow(values, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
    axes.set(xlabel=label, ylabel=label)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.9, aspect=16)
    return figure


@_styled
def learning_curves(curves, caption, xlabel, ylabel):
    """Errors by the amount of data, with intervals, both axes logarithmic.

    Parameters
    ----------
    curves : dict
        Label to a pandas.DataFrame with columns mean, low, high and the amount as index, the same in all.
    caption, xlabel, ylabel : str
    """
    figure = _figure(caption, height=3.8)
    axes = figure.subplots()
    for i, ((label, curve), style) in enumerate(_with_styles(curves)):
        # Side by side, since intervals at one place would hide each other.
        x = curve.index * 1.02 ** (i - (len(curves) - 1) / 2)
        error = [curve["value"] - curve["low"], curve["high"] - curve["value"]]
        axes.errorbar(x, curve["value"], error, label=label, capsize=3, markersize=4.5, **style)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
    axes.set_xticks(curve.index, [f"{amount:,}" for amount in curve.index])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    _legend_above(axes, ncols=3)
    return figure


@_styled
def interval_rows(panels, caption, log=()):
    """Values with their intervals, one row per model and one panel per measure; rows read from top to bottom.

    Parameters
    ----------
    panels : dict
        Measure, with its unit, to a dict of labels to a pandas.DataFrame with columns mean, low, high and the models as index,
        the same in all. A value without ends has no bar; a model without any value in a panel is marked as not measured.
    caption : str
    log : collection of str
        The measures whose axis is logarithmic.
    """
    series = next(iter(panels.values()))
    names = list(next(iter(series.values())).index)
    height = 0.24 * len(names) + 0.8 + 0.3 * (len(series) > 1)
    figure = _figure(caption, height=height)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (measure, tables) in zip(grid, panels.items(), strict=True):
        for i, ((label, table), style) in enumerate(_with_styles(tables)):
            y = np.arange(len(names)) + 0.26 * (i - (len(tables) - 1) / 2)
            error = [table["value"] - table["low"], table["high"] - table["value"]]
            look = {**style, "linestyle": "none", "capsize": 2.5, "markersize": 4.5}
            axes.errorbar(table["value"], y, xerr=error, label=label, **look)
        axes.set_xscale("log" if measure in log else "linear")
        axes.set_xlabel(measure)
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)
        _few_ticks(axes)
        for row in np.flatnonzero(
            np.all([table["value"].isna() for table in tables.values()], axis=0)
        ):
            place = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
            axes.text(
                0.5,
                row,
                "not measured",
                fontsize=8,
                color="#777777",
                backgroundcolor="white",
                **place,
            )
    grid[0].set_yticks(range(len(names)), names)
    grid[0].set_ylim(len(names) - 0.5, -0.5)
    if len(series) > 1:
        figure.legend(
            *grid[0].get_legend_handles_labels(), loc="outside upper left", ncols=len(series)
        )
    return figure


def _few_ticks(axes):
    axis = axes.xaxis
    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        steps = (1,) if high / low > 1000 else (1, 3) if high / low > 40 else (1, 2, 5)
        axis.set_major_locator(
            mpl.ticker.LogLocator(subs=steps) if high / low > 8 else mpl.ticker.MaxNLocator(3)
        )
        axis.set_major_formatter("{x:g}" if high < 1e4 else mpl.ticker.EngFormatter(sep=""))
        axis.set_minor_locator(mpl.ticker.NullLocator())
    else:
        axis.set_major_locator(mpl.ticker.MaxNLocator(4))


@_styled
def labelled_points(panels, caption, ylabel):
    """Errors by what they cost, a point and its name for each model; both axes are logarithmic.

    Parameters
    ----------
    panels : dict
        Cost, with its unit, to a pandas.DataFrame with columns cost, mean, low, high and front (whether no other point is
        below and to the left) and the models as index. Points on the front are filled and joined.
    caption, ylabel : str
    """
    figure = _figure(caption, height=3.6)
    figure.get_layout_engine().set(wspace=0.08)  # names may stand out a little
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (cost, table) in zip(grid, panels.items(), strict=True):
        error = [table["value"] - table["low"], table["high"] - table["value"]]
        colours = np.where(table["front"], STYLES[0]["color"], STYLES[1]["color"])
        axes.errorbar(
            table["cost"],
            table["value"],
            error,
            linestyle="none",
            ecolor="#999999",
            capsize=2.5,
            zorder=1,
        )
        filled = np.where(table["front"], colours, "white")
        axes.scatter(
            table["cost"], table["value"], 34, filled, edgecolors=colours, linewidths=1.5, zorder=3
        )
        best = table[table["front"]].sort_values("cost")
        axes.plot(best["cost"], best["value"], color=STYLES[0]["color"], linewidth=1, zorder=2)
        axes.set(xlabel=cost, xscale="log", yscale="log")
        axes.margins(x=0.15, y=0.14)
        _few_ticks(axes)
        axes.yaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    grid[0].set_ylabel(ylabel)
    figure.draw_without_rendering()  # places depend on the layout, labels on the places
    for axes, table in zip(grid, panels.values(), strict=True):
        _name_points(axes, table)
    return figure


def _name_points(axes, table):
    """Put each name beside its point, at the first of several places that covers no point and no other name."""
    shown = table.dropna(subset=["cost", "value"])
    places = shown[["cost", "value"]].to_numpy("float64")
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(places)]
    sides = [(7, 0, "left"), (-7, 0, "right"), (0, 11, "center"), (0, -11, "center")]
    sides += [
        (side, up, "left" if side > 0 else "right") for up in (10, -10, 20, -20) for side in (7, -7)
    ]
    look = {"textcoords": "offset points", "va": "center", "fontsize": 9}
    look["arrowprops"] = {
        "arrowstyle": "-",
        "color": "#999999",
        "linewidth": 0.7,
        "shrinkA": 0,
    }  # seen if it is far
    for name, place in zip(shown.index, places, strict=True):
        text = axes.annotate(
            name, place, (7, 0), **look, path_effects=[withStroke(linewidth=3, foreground="white")]
        )

        def covered(side, text=text):
            text.set(position=side[:2], ha=side[2])
            return _covered(_extent(text), taken, axes.get_window_extent().padded(40, 0))

        covered(min(sides, key=covered))
        taken.append(_extent(text))


def _extent(annotation):
    annotation.get_window_extent()  # moves it to where it was set
    return Text.get_window_extent(annotation)  # without the line to its point


def _covered(box, others, frame):
    outside = not (frame.contains(*box.min) and frame.contains(*box.max))
    return sum(box.overlaps(other) for other in others) + outside


@_styled
def rank_matrix(ranks, level, caption):
    """Ranks of models under measures, as numbers on shades: the darker, the better.

    Parameters
    ----------
    ranks : pandas.DataFrame
        One row per model, one column per measure; 1 is the best, NaN is not measured.
    level : pandas.DataFrame of bool
        Of the same form: who is not told apart from the best. Its number is set in brackets.
    caption : str
    """
    figure = _figure(caption, height=0.3 * len(ranks) + 0.9)
    axes = figure.subplots()
    scale = {"vmin": 0, "vmax": 1.1 * np.nanmax(ranks.to_numpy())}
    image = axes.imshow(ranks, cmap="Blues_r", aspect="auto", interpolation="nearest", **scale)
    for (i, j), rank in np.ndenumerate(ranks.to_numpy()):
        text = (
            "–"
            if np.isnan(rank)
            else f"({rank:.0f})"
            if level.iloc[i, j] and rank > 1
            else f"{rank:.0f}"
        )
        dark = (
            rank > 0 and np.dot(image.cmap(image.norm(rank))[:3], LUMINANCE) < 0.45
        )  # NaN is no colour, but white
        axes.text(
            j,
            i,
            text,
            ha="center",
            va="center",
            color="white" if dark else "#222222",
            fontweight="bold" if rank == 1 else None,
        )
    axes.set_xticks(
        range(ranks.shape[1]), [textwrap.fill(name, 10) for name in ranks.columns], fontsize=8.5
    )
    axes.set_yticks(range(len(ranks)), ranks.index)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
