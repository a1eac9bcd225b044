"""Comparison of models: what is measured of each, and the figures."""

import textwrap
import time
from functools import partial

from ae_lib import figures, metrics
from ae_lib.analysis import latent

import matplotlib as mpl
import numpy as np
from adjustText import adjust_text
from scipy.optimize import brentq

# TensorFlow takes seconds to import, and the figures do not need it: Keras and what imports it are
# imported by the functions that train or run a network.

BATCH = 200  # images sent through ten networks at once
COARSEST = 8.0  # the largest quantisation step that is tried
# Which of the metrics of `evaluate` stand in a table of results.
HEADLINE = ("bce", "mse", "sse", "ssim", "bits_at_equal_error")
HEADLINE += ("knn1_accuracy", "knn5_accuracy", "linear_probe_accuracy")


def evaluate(name, autoencoder, images, equal_error=0.015, penalties=(0.01, 0.1)):
    """Measure an autoencoder by all functions of this module except `detection`.

    Returns a dict of metrics to numbers, or to values of the test images, float64 (n,), whose mean
    is the metric.

    Parameters
    ----------
    name : str, the model's, with which the names of its metrics begin
    autoencoder : keras.Model, trained, as a builder of `ae_lib.models` makes it
    images : ae_lib.data.Dataset
    """
    from ae_lib import models
    from ae_lib.analysis import codec

    _, encoder, decoder = models.as_autoencoder(autoencoder)
    x, model_codec = images.x_test, codec.from_autoencoder(encoder, decoder, images.pixels_train)
    encode = partial(models.predict_in_batches, encoder)
    reconstruct = partial(models.predict_in_batches, autoencoder)
    return {
        f"{name}.parameters": autoencoder.count_params(),
        f"{name}.latent_dim": encoder.output_shape[1],
        **reconstruction(name, x, reconstruct(x), images.shape),
        **features(name, encode, images, penalties),
        **compression(name, model_codec, x, equal_error),
        **duration(name, reconstruct, x),
    }


def reconstruction(name, x, y, shape):
    """Return `ae_lib.metrics.SCORES` of reconstructions ``y`` of images ``x``, image by image."""
    scores = metrics.score(x, y, shape)
    return {f"{name}.test.{s}": scores[s].to_numpy() for s in metrics.SCORES}


def features(name, encode, images, penalties=(0.01, 0.1)):
    """Return which test images 1-NN, 5-NN and a linear probe classify rightly from codes.

    Parameters
    ----------
    encode : callable, (n, pixels) → (n, d)
    images : ae_lib.data.Dataset
    penalties : sequence of float
        Candidates for the ``c`` of `latent.linear_probe`; the validation images choose.
    """
    codes = map(encode, (images.x_train, images.x_val, images.x_test))
    hits = latent.hits(codes, images, penalties)
    return {f"{name}.test.{score}": hit for score, hit in hits.items()}


def compression(name, model_codec, x, error):
    """Return the images' bits at which a codec has a given error, or nothing if it never has it.

    They are the images' ideal code lengths, scaled to the length of the stream with its header.

    Parameters
    ----------
    model_codec : ae_lib.analysis.codec.Codec
    x : float32 array, shape (n, pixels), in [0, 1]
    error : float, mean squared error per pixel of ``x``
    """
    from ae_lib.analysis import codec

    coordinates = model_codec.encode(x)

    def excess(log_step):
        step = float(np.exp(log_step))
        rounded = model_codec.dequantise(model_codec.quantise(coordinates, step), step)
        return np.log(metrics.mse(x, model_codec.decode(rounded, step)).mean() / error)

    ends = np.log([4 * codec.CELL, COARSEST])  # CELL is the grid on which coordinates are counted
    if not excess(ends[0]) <= 0 <= excess(ends[1]):
        return {}
    step = float(np.exp(brentq(excess, *ends, xtol=1e-3)))
    ideal = model_codec.ideal_bits(model_codec.quantise(coordinates, step), step)
    bits = 8 * len(codec.compress(x, model_codec, step)) / len(x)
    return {f"{name}.test.bits_at_equal_error": ideal * bits / ideal.mean()}


def detection(name, autoencoder, images, settings, task, seed=0):
    """Return mean AUROCs in the one-class protocol of 06_detect_anomalies, image by image.

    For each class that has training, validation and test images a network of the same layers is
    trained on the training images of this class alone. The scores are the squared error, whose
    metric is ``oneclass.<name>_mse.auroc_mean``, and `anomaly.relative_error`, whose metric has
    ``relative`` in its place. What the images contribute is that of `anomaly.auroc`. Nothing if
    there are fewer than two classes.

    Parameters
    ----------
    settings : (int, int, float, str)
        Epochs, batch size, learning rate at the start of its cosine decay to 0, and compiler.
    task : ae_lib.training.Reconstruct, Denoise or Binarise
    seed : int, of the initial weights and the minibatches
    """
    from ae_lib import models, training
    from ae_lib.analysis import anomaly

    import keras

    epochs, batch_size, rate, compiler = settings
    classes = images.everywhere
    if len(classes) < 2:
        return {}
    train = anomaly.side_by_side([images.pixels_train[images.y_train == k] for k in classes])
    val = anomaly.side_by_side([images.pixels_val[images.y_val == k] for k in classes])
    decay = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(train) // batch_size))
    keras.utils.set_random_seed(seed)
    stack = models.stacked([models.reinitialized(autoencoder) for _ in classes])
    options = training.Settings(epochs, batch_size, decay, seed, compiler)
    training.fit(stack, train, val, options, task=task)

    def errors(x):
        y = models.predict_in_batches(stack, np.repeat(x[:, None], len(classes), axis=1))
        squared = np.square(x[:, None] - y).mean(axis=2)
        return np.stack([squared, anomaly.relative_error(x, y, images.shape)], axis=1)

    scores = models.predict_in_batches(errors, images.x_test, BATCH).swapaxes(0, 1)
    outside = images.y_test[:, None] != classes
    return {
        f"oneclass.{name}_{score}.auroc_mean": anomaly.auroc(values, outside).mean(axis=1)
        for score, values in zip(("mse", "relative"), scores, strict=True)
    }


def duration(name, reconstruct, x, repeats=3):
    """Return the seconds to reconstruct 10,000 images: the median of repeats after a first run."""
    reconstruct(x)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        reconstruct(x)
        seconds.append(time.perf_counter() - start)
    return {f"{name}.test.seconds_per_10000": float(np.median(seconds)) * 10_000 / len(x)}


def pareto_front(costs, errors):
    """Tell which of n points no other beats: none is as low in both and lower in one.

    A point with a NaN beats nothing and is not on the front. Returns a bool array, shape (n,).
    """
    costs, errors = np.asarray(costs, "float64"), np.asarray(errors, "float64")
    no_worse = (costs[:, None] <= costs) & (errors[:, None] <= errors)
    beaten = (no_worse & ((costs[:, None] < costs) | (errors[:, None] < errors))).any(axis=0)
    return ~beaten & np.isfinite(costs) & np.isfinite(errors)


@figures.look()
def interval_rows(panels, caption, log=()):
    """Draw values with their intervals, one row per model and one panel per measure.

    ``panels`` maps a measure, with its unit, to a dict of labels to tables with columns value, low,
    high and a row for each model, the same in all; a value without ends has no bar. The axes of the
    measures in ``log`` are logarithmic.
    """
    series = next(iter(panels.values()))
    models = next(iter(series.values())).index
    figure = figures.new(caption, height=0.24 * len(models) + 1.1)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (measure, tables) in zip(grid, panels.items(), strict=True):
        draw_rows(axes, tables)
        axes.set(xlabel=measure, xscale="log" if measure in log else "linear")
        few_ticks(axes.xaxis)
    grid[0].set_yticks(range(len(models)), models)
    grid[0].set_ylim(len(models) - 0.5, -0.5)
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=len(series))
    return figure


def draw_rows(axes, tables):
    """Draw one panel of `interval_rows`; a model without any value is marked as not measured."""
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    for i, (label, table, style) in enumerate(figures.styled(tables)):
        y = np.arange(len(table)) + 0.26 * (i - (len(tables) - 1) / 2)
        style |= {"linestyle": "none", "capsize": 2.5, "markersize": 4.5}
        axes.errorbar(table["value"], y, xerr=figures.half_widths(table), label=label, **style)
    missing = np.all([table["value"].isna() for table in tables.values()], axis=0)
    style = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
    style |= {"fontsize": 8, "color": "#777777", "backgroundcolor": "white"}
    for row in np.flatnonzero(missing):
        axes.text(0.5, row, "not measured", **style)


def few_ticks(axis):
    """Give an axis some four ticks with plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(mpl.ticker.MaxNLocator(4))
    if axis.get_scale() == "log":
        if high > 8 * low:
            steps = (1, 3) if high < 1000 * low else (1,)
            axis.set_major_locator(mpl.ticker.LogLocator(subs=steps))
        axis.set_major_formatter("{x:g}" if high < 1e4 else mpl.ticker.EngFormatter(sep=""))
        axis.set_minor_locator(mpl.ticker.NullLocator())


@figures.look()
def labelled_points(panels, caption, ylabel):
    """Draw errors by what they cost, a named point for each model, on logarithmic axes.

    ``panels`` maps a cost, with its unit, to a table with columns cost, value, low, high and front
    (whether no other point beats it), a row for each model. The front is filled and joined.
    """
    figure = figures.new(caption, height=3.6)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (cost, table) in zip(grid, panels.items(), strict=True):
        draw_points(axes, table.dropna(subset=["cost", "value"]))
        axes.set(xlabel=cost, xscale="log")
        axes.margins(x=0.15, y=0.14)
        few_ticks(axes.xaxis)
        figures.log_axis(axes.yaxis, steps=(1, 1.5, 2, 3, 5, 7))
    grid[0].set_ylabel(ylabel)
    options = {"iter_lim": 500, "expand": (1.3, 2), "force_static": (0.3, 0.5), "avoid_self": False}
    options["arrowprops"] = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.7}
    for axes in grid:  # after the last change of the layout, which moves what is at a place
        adjust_text(axes.texts, *axes.collections[-1].get_offsets().T, ax=axes, **options)
    return figure


def draw_points(axes, table):
    """Draw one panel of `labelled_points`, each name at its point."""
    on_front, off_front, *_ = figures.COLOURS
    bars = {"yerr": figures.half_widths(table), "ecolor": "#999999", "capsize": 2.5}
    axes.errorbar(table["cost"], table["value"], linestyle="none", marker="none", zorder=1, **bars)
    front = table[table["front"]].sort_values("cost")
    axes.plot(front["cost"], front["value"], color=on_front, linestyle="-", marker="", zorder=2)
    look = {"edgecolors": np.where(table["front"], on_front, off_front), "linewidths": 1.5}
    filled = np.where(table["front"], on_front, "white")
    axes.scatter(table["cost"], table["value"], 34, filled, zorder=3, **look)
    text = {"fontsize": 9, "in_layout": False, "path_effects": figures.OUTLINE}
    for model, row in table.iterrows():
        axes.text(row["cost"], row["value"], model, **text)


@figures.look()
def rank_matrix(ranks, level, caption):
    """Draw ranks as numbers on shades, the darker the better, with a dash for NaN.

    ``ranks`` and ``level`` are tables with one row per model and one column per measure; ``level``
    tells who does not differ significantly from the best, and has its rank in brackets.
    """
    figure = figures.new(caption, height=0.3 * len(ranks) + 0.9)
    axes = figure.subplots()
    values = ranks.to_numpy()
    top = 1.1 * np.nanmax(values)
    axes.imshow(values, cmap="Blues_r", aspect="auto", vmin=0, vmax=top)
    for (i, j), rank in np.ndenumerate(values):
        text = "–" if np.isnan(rank) else f"{rank:.0f}"
        if level.iloc[i, j] and rank > 1:
            text = f"({text})"
        style = {"color": "white" if rank < 0.35 * top else "#222222", "ha": "center"}
        axes.text(j, i, text, va="center", fontweight="bold" if rank == 1 else None, **style)
    columns = [textwrap.fill(name, 10) for name in ranks.columns]
    axes.set_xticks(range(len(columns)), columns, fontsize=8.5)
    axes.set_yticks(range(len(ranks)), ranks.index)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure
