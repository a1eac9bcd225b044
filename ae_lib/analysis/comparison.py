"""Comparison of models: what is measured of each, and the figures."""

import time
from functools import cache, partial

from ae_lib import figures, metrics
from ae_lib.analysis import latent
from ae_lib.metrics import Interval

import matplotlib as mpl
import numpy as np
import pandas as pd
from adjustText import adjust_text
from scipy.optimize import brentq

# TensorFlow takes seconds to import, and the figures do not need it: Keras and what imports it are
# imported by the functions that train or run a network.

COARSEST = 8.0  # the largest quantisation step that is tried
ROUNDING = 0.4  # of the codecs; the best on the validation images in 07_compress_images
NOTHING = Interval(np.nan, np.nan, np.nan)  # what was not measured
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
    x, model_codec = (
        images.x_test,
        codec.from_autoencoder(encoder, decoder, images.pixels_train, ROUNDING),
    )
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
    codes = {split: encode(getattr(images, f"x_{split}")) for split in ("train", "val", "test")}
    hits = latent.hits(codes, images, penalties)
    return {f"{name}.{score}": hit for score, hit in hits.items()}


def compression(name, model_codec, x, error):
    """Return the images' bits at which a codec has a given error, or nothing if it never has it.

    They are the images' ideal code lengths, scaled to the length of the stream with its header.
    The step depends on these images, too, since it gives them the error: with B(D) the bits at an
    error D, an image of error d contributes |B'(D)| (d − D) besides its own bits (delta method).

    Parameters
    ----------
    model_codec : ae_lib.analysis.codec.Codec
    x : float32 array, shape (n, pixels), in [0, 1]
    error : float, mean squared error per pixel of ``x``
    """
    from ae_lib.analysis import codec

    coordinates = model_codec.encode(x)

    @cache  # the search asks for its ends again
    def at(log_step):
        step = float(np.exp(log_step))
        integers = model_codec.quantise(coordinates, step)
        decoded = model_codec.decode(model_codec.dequantise(integers, step), step)
        return model_codec.ideal_bits(integers, step), metrics.mse(x, decoded)

    def excess(log_step):
        return np.log(at(log_step)[1].mean() / error)

    ends = np.log([4 * codec.CELL, COARSEST])  # CELL is the grid on which coordinates are counted
    if not excess(ends[0]) <= 0 <= excess(ends[1]):
        return {}
    log_step = brentq(excess, *ends, xtol=1e-3)
    ideal, errors = at(log_step)
    finer, coarser = (np.mean(at(log_step + shift), axis=1) for shift in (-0.1, 0.1))
    slope = (coarser[0] - finer[0]) / (coarser[1] - finer[1])  # of the bits over the error
    bits = 8 * len(codec.compress(x, model_codec, float(np.exp(log_step)))) / len(x)
    contributions = ideal - slope * (errors - errors.mean())
    return {f"{name}.test.bits_at_equal_error": contributions * bits / ideal.mean()}


def detection(name, autoencoder, images, settings, task):
    """Return the mean AUROCs in the one-class protocol of 06_detect_anomalies, image by image.

    For each class that has training, validation and test images a network of the same layers is
    trained on the training images of this class alone. The scores are the squared error and the
    relative error. What the images contribute is that of `anomaly.auroc`. Nothing is returned if
    there are fewer than two classes.

    Parameters
    ----------
    settings, task
        As for `anomaly.train_on_each`.
    """
    from ae_lib import models
    from ae_lib.analysis import anomaly

    classes, x = images.everywhere, images.x_test
    if len(classes) < 2:
        return {}
    sets = [images.pixels_train[images.y_train == k] for k in classes]
    networks = anomaly.train_on_each(autoencoder, sets, settings, task)
    errors = []
    for network in networks:
        y = models.predict_in_batches(network.autoencoder, x)
        errors.append((metrics.mse(x, y), anomaly.relative_error(x, y, images.shape)))
    scores = dict(zip(("mse", "relative"), np.stack(errors, axis=2), strict=True))
    is_other = images.y_test[:, None] != classes
    return {
        f"oneclass.{name}_{score}.auroc_mean": anomaly.auroc(values, is_other).mean(axis=1)
        for score, values in scores.items()
    }


def duration(name, reconstruct, x, repeats=3):
    """Return the seconds to reconstruct 10,000 images, from the first 2,000 of ``x``.

    The median of repeats after a first run.
    """
    x = x[:2000]
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


class OverSeeds(Interval):
    """A mean and the ends of one standard deviation over training seeds below and above it."""

    def __repr__(self):
        std = (self.high - self.low) / 2
        return f"{self.value:#.4g} ± {std:.2g}" if std > 0 else super().__repr__()


def over_seeds(entry):
    """Return a published metric, as of `ae_lib.run.reference`, as `OverSeeds`; `NOTHING` of None.

    What is deterministic, or was measured with one seed, has no ends.
    """
    if entry is None:
        return NOTHING
    half = entry["std"] if entry["std"] > 1e-6 * abs(entry["mean"]) else np.nan  # of rounding
    return OverSeeds(entry["mean"], entry["mean"] - half, entry["mean"] + half)


def published_claims(path, notebook):
    """Return a notebook's claims decided over seeds and images, from a file of `ae_lib.run`.

    A pandas.DataFrame with columns claim, seeds, gain and verdict; empty without such a file.
    """
    columns = ["claim", "seeds", "gain", "verdict"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    table = pd.read_csv(path).query("notebook == @notebook")
    parts = zip(table["gain"], table["low"], table["high"], strict=True)
    return table.assign(gain=[Interval(*part) for part in parts])[columns].reset_index(drop=True)


def panels(series, measures):
    """Arrange tables of `ae_lib.metrics.Interval`, label to table, as `interval_rows` takes them.

    The tables have a row for each model and a column for each of ``measures``.
    """
    return {
        measure: {
            label: pd.DataFrame(list(map(vars, table[measure])), table.index)
            for label, table in series.items()
        }
        for measure in measures
    }


@figures.look()
def interval_rows(panels, caption):
    """Draw values with their intervals, one row per model and one panel per measure.

    ``panels`` maps a measure, with its unit, to a dict of labels to tables with columns value, low,
    high and a row for each model, the same in all; a value without ends has no bar. A dashed line
    goes through the first value of the first table, the baseline.
    """
    series = next(iter(panels.values()))
    models = next(iter(series.values())).index
    figure = figures.new(caption, height=0.3 * len(models) + 1.1)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (measure, tables) in zip(grid, panels.items(), strict=True):
        draw_rows(axes, tables)
        axes.set(xlabel=measure)
        few_ticks(axes.xaxis)
    grid[0].set_yticks(range(len(models)), models)
    grid[0].set_ylim(len(models) - 0.5, -0.5)
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=len(series))
    return figure


def draw_rows(axes, tables):
    """Draw one panel of `interval_rows`; a model without any value is marked as not measured."""
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    baseline = next(iter(tables.values()))["value"].iloc[0]
    axes.axvline(baseline, color="#777777", linestyle="--", linewidth=0.9, zorder=0)
    # A marker must not be wider than an interval: a thin upright line, and a small circle.
    looks = [{"marker": "|", "markersize": 11}, {"marker": "o", "markersize": 4, "mfc": "white"}]
    for i, (label, table, style) in enumerate(figures.styled(tables)):
        y = np.arange(len(table)) + 0.3 * (i - (len(tables) - 1) / 2)
        style |= {"linestyle": "none", "capsize": 2, **looks[i % len(looks)]}
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
