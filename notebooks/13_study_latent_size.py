# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Study the latent size
#
# **What you will do.** Ask of many trained networks what the size of the code does: to the error, beside PCA with as many
# components; to neighbours among the codes; to the bytes that an image needs. And settle whether the code should be linear or
# ReLU.
#
# **What you will learn.** How to read a sweep; how little a "knee" says; that the best size depends on what a code is for.
#
# **What you need.** Nothing: the published results are there. With `make sweep SWEEP=latent_size` (90 minutes on two cores)
# and `SWEEP=bottleneck` (25) it reads your own. Nothing is trained or measured here. **Time.** Ten seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "latent_size"  # the run's folder, reports/<profile>/
sweep: str = "latent_size"  # results of 02, 03, 05 and 07 at several latent sizes and seeds
bottleneck_sweep: str = "bottleneck"  # the same networks with a ReLU bottleneck, at some of these sizes
level: float = 0.95  # of the intervals over seeds

# %% [markdown]
# ## Read the sweep

# %%
from ae_lib import data, figures, metrics, runs

import numpy as np
import pandas as pd

run = runs.Run(profile, "13_study_latent_size")


def read(name):
    table = pd.read_csv(runs.sweep_table(name))
    done = table[table["status"] == "done"]
    print(f"{name}: {len(done)} of {len(table)} cells are done")
    return done


cells, relu = read(sweep), read(bottleneck_sweep)
title = data.TITLES.get(cells["02_train.dataset"].iloc[0], cells["02_train.dataset"].iloc[0])
counts = cells.groupby("latent_dim")["seed"].nunique()
sizes = list(counts.index)
counts.to_frame("seeds").T.rename_axis(columns="latent size")

# %% [markdown]
# All intervals here are over seeds: Student's, for the mean over seeds. (How far a mean would move with other test images
# stands in `03_evaluate`; for one network it is the wider of the two.) PCA has nothing random in it, so that its numbers
# have no spread.


# %%
def over_seeds(values):
    """Means over seeds by latent size, with intervals."""
    groups = values.groupby(cells["latent_dim"])
    found = [metrics.student_interval(v.mean(), v.std(), len(v), level) for _, v in groups]
    return pd.DataFrame(found, index=groups.indices.keys())


def shown(frame):
    return frame.apply(lambda row: metrics.Interval(*row), axis=1)


# %% [markdown]
# ## Error
#
# Mean squared error per pixel of the test images. PCA's reconstructions are cut to [0, 1], which favours it.

# %%
errors = {
    f"{name}": over_seeds(cells[key]) for name, key in (("autoencoder", "dense.test.mse"), ("PCA", "pca_cut.test.mse"))
}
gain = over_seeds(cells["pca_cut.test.mse"] / cells["dense.test.mse"])
most = gain["mean"].idxmax()
caption = (
    f"Figure 13.1. {title}: mean squared error against the size of the code, means and intervals over {counts.min()} seeds. The "
    f"autoencoder's lead over PCA is largest with {most} numbers, a factor of {gain['mean'][most]:.2f}; with {sizes[0]} it is "
    f"{gain['mean'][sizes[0]]:.2f}, with {sizes[-1]} {gain['mean'][sizes[-1]]:.2f}."
)
run.show("13_error", figures.learning_curves(errors, caption, "latent size", "MSE per pixel"))

# %% [markdown]
# What is a number of the code worth in components of PCA? Between the measured sizes the logarithm of PCA's error is taken to
# be linear in that of its components; where the autoencoder errs less than PCA with the largest size, there is no answer here.

# %%
pca = errors["PCA"]["mean"]


def components(error):
    """Components with which PCA reaches an error, by interpolation."""
    return np.exp(np.interp(-np.log(error), -np.log(pca), np.log(pca.index), right=np.nan))


worth = over_seeds(cells["dense.test.mse"].map(components))
doubling = {}
for small, large in zip(sizes, sizes[1:], strict=False):
    pair = [cells[cells["latent_dim"] == size].set_index("seed")["dense.test.mse"] for size in (small, large)]
    ratio = np.log(pair[1] / pair[0]).dropna()  # the same seed at both sizes
    found = metrics.student_interval(ratio.mean(), ratio.std(), len(ratio), level)
    doubling[large] = metrics.Interval(*(100 * (1 - np.exp(value)) for value in (found.mean, found.high, found.low)))
result = pd.DataFrame({"MSE, autoencoder": shown(errors["autoencoder"]), "MSE, PCA": pca.map("{:.5f}".format)})
result["PCA / autoencoder"] = shown(gain)
result["worth in components"] = shown(worth)
result["error less than one size before / %"] = pd.Series(doubling)
result.fillna("–").rename_axis(index="latent size", columns=f"{title}, test")

# %%
for size in sizes:
    print(f"{size} numbers, less error than PCA: {metrics.Interval(*(gain.loc[size] - 1)).verdict}")

# %% [markdown]
# ## The knee
#
# Where does a larger code stop paying? The usual answer is the **knee**, the point of the curve that lies farthest from the
# straight line between its ends (Satopää, Albrecht, Irwin and Raghavan, "Finding a 'kneedle' in a haystack", ICDCSW 2011). But
# the farthest point is another one when an axis is stretched, so it is asked on four pairs of axes, seed by seed.


# %%
def knee(x, y):
    """Position of the point that lies farthest below the straight line between the ends."""
    x, y = ((v - v[0]) / (v[-1] - v[0]) for v in (np.asarray(x, "float64"), np.asarray(y, "float64")))
    return int(np.argmax(y - x))  # both run from 0 to 1; the error falls, so that below is ahead


curves = cells.pivot(index="seed", columns="latent_dim", values="dense.test.mse").dropna()
scales = {"linear": np.asarray, "logarithmic": np.log}
knees = {
    (of_size, of_error): [sizes[knee(across(sizes), along(curve))] for curve in curves.to_numpy()]
    for of_size, across in scales.items()
    for of_error, along in scales.items()
}
table = pd.DataFrame(
    {
        pair: [", ".join(f"{size} ({found.count(size)} seeds)" for size in sorted({*found}))]
        for pair, found in knees.items()
    },
    index=["knee at"],
).T
table.rename_axis(index=["size's axis", "error's axis"], columns=title)

# %%
different = sorted({size for found in knees.values() for size in found})
print(
    "the knee is the same on all axes:",
    "yes" if len(different) == 1 else f"no, it lies anywhere from {different[0]} to {different[-1]}",
)

# %% [markdown]
# A question that does not depend on the axes: the smallest size whose error is within a tenth of the error at the largest.

# %%
enough = curves.le(1.1 * curves[sizes[-1]], axis=0).idxmax(axis=1)
found = ", ".join(f"{size} numbers, {count} seeds" for size, count in enough.value_counts().sort_index().items())
print(f"within 10 % of the error at the largest size: {found}")

# %% [markdown]
# ## Neighbours
#
# Does a larger code have better neighbours? Accuracy of 5-NN and of a linear probe on the codes (`05_explore_latent_space`).

# %%
features = {}
for score, name in (("knn5_accuracy", "5-NN"), ("linear_probe_accuracy", "linear probe")):
    features |= {
        f"autoencoder, {name}": over_seeds(cells[f"dense.test.{score}"]),
        f"PCA, {name}": over_seeds(cells[f"pca.test.{score}"]),
    }
pixels = {
    name: cells[f"pixels.test.{key}"].iloc[0]
    for name, key in (("5-NN", "knn5_accuracy"), ("probe", "linear_probe_accuracy"))
}
ahead = [size for size in sizes if features["autoencoder, 5-NN"]["low"][size] > features["PCA, 5-NN"]["mean"][size]]
caption = (
    f"Figure 13.2. {title}: accuracy of 5-NN and of a linear probe on codes of several sizes, means and intervals over seeds. On "
    f"pixels 5-NN has {pixels['5-NN']:.3f}, the probe {pixels['probe']:.3f}. The autoencoder's neighbours are better than "
    f"PCA's with {', '.join(map(str, ahead)) or 'no'} numbers."
)
run.show("13_features", figures.intervals_by_group(features, caption, "latent size", "accuracy", bottom=None))

# %%
result = pd.DataFrame({label: shown(frame) for label, frame in features.items()})
result.rename_axis(index="latent size", columns=f"{title}, test")

# %% [markdown]
# ## Rate and distortion
#
# How many bits does an image need? Each network with its codec (`07_compress_images`: decoder trained on with rounded codes,
# header counted), at seven steps. Of all sizes and steps those stay that no other one beats in both bits and error: the
# **lower envelope**.


# %%
def rates_of(codec):
    """Bits per image and error of a codec by latent size and step, means over seeds."""
    end, means = ".bits_per_image", cells.groupby("latent_dim").mean(numeric_only=True)
    steps = [name.removesuffix(end) for name in means if name.startswith(f"codec.{codec}.step") and name.endswith(end)]
    found = {s: means[[f"{s}{end}", f"{s}.mse"]].set_axis(["bits", "mean"], axis=1) for s in steps}
    return pd.concat(found, names=["step"]).swaplevel().sort_values("bits")


def curve(frame):
    return frame.set_index("bits")[["mean"]]


points, linear = rates_of("dense"), curve(rates_of("pca").loc[sizes[0]])
envelope = points[metrics.pareto_front(points["bits"], points["mean"])]

# %%
rates = {f"{size} numbers": curve(points.loc[size]) for size in sizes} | {
    "PCA": linear,
    "lower envelope": curve(envelope),
}
stretches = envelope.reset_index().groupby("latent_dim", sort=False)["bits"].agg(["min", "max"]).sort_index()
told = ", ".join(f"{size} from {row['min']:.0f} to {row['max']:.0f}" for size, row in stretches.iterrows())
caption = f"Figure 13.3. {title}: error against bits per image, means over seeds. On the lower envelope are, in numbers and bits: {told}."
run.show("13_rate_distortion", figures.lines(rates, caption, "bits per image", "MSE per pixel", log=True))

# %% [markdown]
# Which size is best at a given rate, and what does choosing it gain over one size for all rates, and over PCA? Between measured
# rates the logarithm of the error is taken to be linear in the bits, and beyond its finest step a code keeps its error.

# %%
asked = [10, 20, 40, 80, 120]


def at(bits, frame):
    return np.exp(np.interp(bits, frame.index, np.log(frame["mean"]), left=np.nan))


by_size = pd.DataFrame({size: at(asked, curve(points.loc[size])) for size in sizes}, index=asked)
ratio = pd.DataFrame({size: by_size[size] / by_size.min(axis=1) for size in sizes}).round(3)
ratio["best size"] = by_size.idxmin(axis=1)
ratio["PCA"] = (at(asked, linear) / by_size.min(axis=1)).round(2)
ratio.rename_axis(index="bits per image", columns="error over that of the best size")

# %% [markdown]
# ## Linear or ReLU?
#
# The study's bottleneck is linear. Many tutorials give it a ReLU like every other layer, which forbids negative numbers and lets
# a unit die. The same seeds give both networks the same initial weights and the same minibatches, so the errors are compared
# seed by seed.

# %%
both = relu.merge(cells, on=["latent_dim", "seed"], suffixes=("", " linear"))
change = np.log(both["dense.test.mse"] / both["dense.test.mse linear"])
worse = {}
for size, values in change.groupby(both["latent_dim"]):
    worse[size] = metrics.student_interval(values.mean(), values.std(), len(values), level)
settled = {size: found.verdict for size, found in worse.items()}
for size, verdict in settled.items():
    print(f"{size} numbers, ReLU errs more than linear: {verdict}")

# %%
compared = {
    name: pd.DataFrame(
        [metrics.student_interval(v.mean(), v.std(), len(v), level) for _, v in both.groupby("latent_dim")[key]],
        index=list(worse),
    )
    for name, key in (("linear", "dense.test.mse linear"), ("ReLU", "dense.test.mse"))
}
percent = ", ".join(f"{100 * np.expm1(found.mean):+.0f} % with {size}" for size, found in worse.items())
caption = f"Figure 13.4. {title}: error with a linear and with a ReLU bottleneck, means and intervals over seeds. ReLU's error against that of linear: {percent}."
run.show("13_bottleneck", figures.learning_curves(compared, caption, "latent size", "MSE per pixel"))

# %%
better = {("yes",): "linear", ("no",): "ReLU"}.get(tuple({*settled.values()}), "neither at every size")
print("the better bottleneck:", better)

# %% [markdown]
# ## Keep the results

# %%
frames = {
    "MSE, autoencoder": errors["autoencoder"],
    "MSE, PCA": errors["PCA"],
    "worth in components": worth,
    **features,
}
summary = pd.concat(frames, axis=1).rename_axis(index="latent_dim")
summary.columns = [f"{label}: {end}" for label, end in summary.columns]
summary.to_csv(run.new_artifact("latent_size.csv"))
summary.to_parquet(run.new_artifact("latent_size.parquet"))

# %%
facts = {"name": cells["02_train.dataset"].iloc[0], "title": title, "source": f"the sweep {sweep}"}
runs.write_json(run.new_artifact("data.json"), facts)
verdicts = {f"{size} numbers: less error than PCA": metrics.Interval(*(gain.loc[size] - 1)).verdict for size in sizes}
runs.write_json(run.new_artifact("verdicts.json"), verdicts)
best = ratio["best size"]
claims = [
    (
        "A few numbers of an autoencoder are worth many components of PCA: error of PCA over its own",
        metrics.Interval(*gain.loc[most]),
        f"1, with {most} numbers each",
        verdicts[f"{most} numbers: less error than PCA"],
    ),
    (
        "There is a knee where a larger code stops paying",
        f"{different[0]} to {different[-1]}",
        "the same on all axes",
        "no" if len(different) > 1 else "yes",
    ),
    (
        "The bottleneck should be linear",
        "; ".join(f"{size}: {100 * np.expm1(found.mean):+.1f} %" for size, found in worse.items()),
        "error of ReLU against linear",
        better,
    ),
    (
        "One size is best at every rate",
        ", ".join(f"{size} at {bits} bits" for bits, size in best.items()),
        "",
        "yes" if best.nunique() == 1 else "no",
    ),
]
measured = {}
for size in sizes:
    for key, frame in (("dense.test.mse", errors["autoencoder"]), ("pca_over_dense.test.mse", gain)):
        measured |= metrics.Interval(*frame.loc[size]).as_metrics(f"latent_{size}.{key}")
for size, found in worse.items():
    measured |= found.as_metrics(f"latent_{size}.relu_over_linear.log_mse")
comparison = run.finish(measured, claims)
comparison

# %% [markdown]
# **Read next.** `07_compress_images` makes the codec, `05_explore_latent_space` says why PCA's codes have good neighbours. The
# sweep's file is `params/sweeps/latent_size.yaml`; with another one, `make sweep` answers another question. Of spread over seeds
# as part of a result: Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021.
