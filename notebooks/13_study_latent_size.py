# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Study the latent size
#
# **What you will do.** Ask of many trained networks what the size of the code does: to the error, beside PCA with as many
# components; to neighbours among the codes and to a linear probe; to the bits that an image needs. And ask whether the code
# should be linear or ReLU.
#
# **What you will learn.** How to read a sweep; how little a "knee" says; that the best size depends on what a code is for.
#
# **What you need.** Nothing: the published results are there. After `make sweep SWEEP=latent_size` (80 minutes on two cores)
# and `SWEEP=bottleneck` (25) it reads your own. Nothing is trained or measured here. **Time.** Ten seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "latent_size"  # the run's folder, reports/<profile>/
sweep: str = "latent_size"  # results of 02, 03, 05 and 07 at several latent sizes and seeds
bottleneck_sweep: str = "bottleneck"  # the same networks with a ReLU bottleneck, at some of these sizes
level: float = 0.95  # of the intervals over seeds
near: float = 0.1  # up to which excess an error counts as near the one at the largest size
rates: list = [20, 40, 80, 160, 300]  # bits per image at which sizes are compared
# fmt: on

# %% [markdown]
# ## Read the sweeps

# %%
import json

from ae_lib import StudyError, data, figures, metrics
from ae_lib.analysis import comparison
from ae_lib.run import Run, sweep_files, sweep_table, write_json

import numpy as np
import pandas as pd

run = Run(profile, "13_study_latent_size")
pd.set_option("display.max_colwidth", None)
error, features = (
    "dense.test.mse",
    {"5-NN": "knn5_accuracy", "linear probe": "linear_probe_accuracy"},
)
wanted = [
    f"{model}.test.{feature}"
    for model in ("dense", "pca", "pixels")
    for feature in features.values()
]


def read(name, columns):
    """A sweep's table, one row for each latent size and seed."""
    table = pd.read_csv(sweep_table(name))
    counts = table.groupby("latent_dim")["seed"].agg(["size", "nunique"]).to_numpy()
    left, lacking = (
        (table["status"] != "done").sum(),
        [column for column in columns if column not in table],
    )
    if left:
        raise StudyError(
            f"{left} of {len(table)} trials of {name} are not done: run make sweep SWEEP={name} again."
        )
    if lacking:
        raise StudyError(
            f"{name} has no {', '.join(lacking)}; expected them: name the notebooks 03, 05 and 07 in its file."
        )
    if len(counts) < 3 or counts.min() < 2 or counts.min() < counts.max():
        raise StudyError(
            f"{name} is not over three sizes or more and as many seeds, two or more, at each; expected that alone."
        )
    print(f"{name}: {len(table)} trials")
    return table


trials, relu = (
    read(sweep, [error, "pca_clipped.test.mse", *wanted]),
    read(bottleneck_sweep, [error]),
)
dataset, sizes, seeds = (
    trials["02_train.dataset"][0],
    sorted(set(trials["latent_dim"])),
    sorted(set(trials["seed"])),
)
title = data.TITLES.get(dataset, dataset)
print("latent sizes:", *sizes, "\nseeds:", *seeds)

# %% [markdown]
# All intervals here are over seeds: Student's for a mean, Welch's for a difference between two sizes. They say how far other seeds
# would move a number on these test images. How far other images would move it stands in `03_evaluate` and
# `05_explore_latent_space`, and is often more. PCA has nothing random in it, so that its numbers have no spread.


# %%
def summary(values):
    """Mean, standard deviation and number of values; NaN if one is missing."""
    return values.mean(skipna=False), values.std(skipna=False), len(values)


def over_seeds(values, by=trials["latent_dim"]):
    """Means over seeds by latent size, with their intervals."""
    groups = values.groupby(by)
    return pd.DataFrame(
        [metrics.student_interval(*summary(own), level) for _, own in groups], index=sorted(set(by))
    )


def shown(means):
    return means.apply(lambda row: metrics.Interval(*row), axis=1)


# %% [markdown]
# ## Error
#
# Mean squared error per pixel of the test images. PCA's reconstructions are cut to [0, 1], which favours it.

# %%
errors = {
    "autoencoder": over_seeds(trials[error]),
    "PCA": over_seeds(trials["pca_clipped.test.mse"]),
}
gain = over_seeds(trials["pca_clipped.test.mse"] / trials[error])
most = gain["value"].idxmax()
caption = (
    f"Figure 13.1. {title}: mean squared error against the size of the code, means and intervals over {len(seeds)} seeds. PCA's "
    f"error over the autoencoder's is largest with {most} numbers, {gain['value'][most]:.2f}; with {sizes[0]} it is "
    f"{gain['value'][sizes[0]]:.2f}, with {sizes[-1]} {gain['value'][sizes[-1]]:.2f}."
)
run.show(
    "13_error",
    figures.intervals_by_group(errors, caption, "latent size", "MSE per pixel", joined=True),
)

# %% [markdown]
# What is a code of so many numbers worth in components of PCA? Between the measured sizes the logarithm of PCA's error is taken to
# be linear in that of its components. There is no answer beyond the largest size that was measured.


# %%
def components(mse):
    """Components with which PCA has this error, by interpolation."""
    pca = errors["PCA"]["value"]
    if not pca.min() <= mse <= pca.max():
        return f"more than {sizes[-1]}" if mse < pca.min() else f"less than {sizes[0]}"
    return f"{np.exp(np.interp(-np.log(mse), -np.log(pca), np.log(sizes))):.1f}"


logs = {size: summary(np.log(own)) for size, own in trials.groupby("latent_dim")[error]}
less = {}
for small, large in zip(sizes, sizes[1:], strict=False):
    found = metrics.welch_interval(logs[small], logs[large], level)
    less[large] = metrics.Interval(*(-100 * np.expm1([-found.value, -found.low, -found.high])))
result = pd.DataFrame({"MSE, autoencoder": shown(errors["autoencoder"])})
result["MSE, PCA"] = errors["PCA"]["value"].map("{:.5f}".format)
result["PCA's MSE over its own"] = shown(gain)
result["worth in components"] = errors["autoencoder"]["value"].map(components)
result["less MSE than one size before / %"] = pd.Series(less)
result.fillna("–").rename_axis(index="latent size", columns=f"{title}, test")

# %%
one = metrics.Interval(1, 1, 1)
verdicts = {size: ratio.above(one) for size, ratio in shown(gain).items()}
for size, verdict in verdicts.items():
    print(f"{size} numbers, less error than PCA: {verdict}")

# %% [markdown]
# ## The knee
#
# Where does a larger code stop paying? The usual answer is the **knee**, the point of the curve that lies farthest below the
# straight line between its ends: the idea of Kneedle, here without its smoothing and its threshold (Satopää, Albrecht, Irwin and
# Raghavan, "Finding a 'kneedle' in a haystack", ICDCSW 2011). But another point is farthest when an axis is logarithmic, or when
# the curve ends elsewhere. So it is asked on four pairs of axes, with and without the largest size, seed by seed.


# %%
def knee(x, y):
    """Position of the point that lies farthest below the straight line between the ends; None if none lies below."""
    line = y[0] + (y[-1] - y[0]) * (x - x[0]) / (x[-1] - x[0])
    below = (line - y) / abs(y[-1] - y[0])
    return int(np.argmax(below)) if below.max() > 1e-6 else None  # less is rounding


curves = trials.pivot(index="seed", columns="latent_dim", values=error)
scales = {"linear": lambda values: np.asarray(values, "float64"), "logarithmic": np.log}
places = {
    (of_size, of_error, sizes[end - 1]): [
        knee(across(sizes[:end]), along(own[:end])) for own in curves.to_numpy()
    ]
    for of_size, across in scales.items()
    for of_error, along in scales.items()
    for end in (len(sizes) - 1, len(sizes))
}
knees = pd.DataFrame(places, curves.index).map(
    lambda place: "none" if pd.isna(place) else f"{sizes[int(place)]}"
)
counted = {
    asked: [f"{size} ({n} seeds)" for size, n in found.value_counts().items()]
    for asked, found in knees.items()
}
told = pd.Series(counted, name="knee at").map(", ".join).to_frame()
told.rename_axis(index=["size's axis", "error's axis", "sizes up to"], columns=title)

# %%
found_knees = pd.unique(knees.to_numpy().ravel())
one_knee = "yes" if len(found_knees) == 1 and found_knees[0] != "none" else "no"
print(f"the same knee on all axes, over both ranges and for all seeds: {one_knee}")

# %% [markdown]
# A question that does not depend on the axes, but on the largest size and on what counts as near: which is the smallest size
# whose error is at most a tenth (`near`) above that at the largest?

# %%
enough = (
    curves.le((1 + near) * curves[sizes[-1]], axis=0).idxmax(axis=1).value_counts().sort_index()
)
told = ", ".join(
    f"{size} numbers ({count} of {len(seeds)} seeds)" for size, count in enough.items()
)
print(f"within {100 * near:g} % of the error at the largest size: {told}")

# %% [markdown]
# ## Features
#
# Does a larger code have better neighbours, and does a linear probe read more from it (`05_explore_latent_space`)?

# %%
accuracies = {
    f"{model}, {name}": over_seeds(trials[f"{key}.test.{feature}"])
    for name, feature in features.items()
    for model, key in (("autoencoder", "dense"), ("PCA", "pca"))
}
better = {}
for name in features:
    own, baseline = (shown(accuracies[f"{model}, {name}"]) for model in ("autoencoder", "PCA"))
    better[name] = {size: own[size].above(baseline[size]) for size in sizes}
told = ". ".join(
    f"{name}: {', '.join(f'{size} {verdict}' for size, verdict in own.items())}"
    for name, own in better.items()
)
pixels = ", ".join(
    f"{name} {trials[f'pixels.test.{feature}'].mean():.3f}" for name, feature in features.items()
)
caption = (
    f"Figure 13.2. {title}: accuracy of 5-NN and of a linear probe on codes of several sizes, means and intervals over seeds (on "
    f"pixels: {pixels}). Is the autoencoder's above PCA's? {told}."
)
run.show(
    "13_features",
    figures.intervals_by_group(accuracies, caption, "latent size", "accuracy", bottom=None),
)

# %%
result = pd.DataFrame({label: shown(own) for label, own in accuracies.items()})
for name in features:
    result[f"PCA, {name}"] = accuracies[f"PCA, {name}"]["value"].map("{:.4f}".format)
result.rename_axis(index="latent size", columns=f"{title}, test")

# %% [markdown]
# ## Rate and distortion
#
# How many bits does an image need? Each network has its codec (`07_compress_images`; here its decoder was trained on with rounded
# codes for fewer epochs than there, which costs a little; headers are counted), at several steps. Which points does no other one,
# of any size, beat in both bits and error? They are the **lower envelope**.


# %%
def rates_of(codec, parameter):
    """Bits per image and error of a codec, one row for each trial and step, from few bits to many."""
    keys, tables = trials[["latent_dim", "seed"]], []
    for step in json.loads(trials[f"07_compress_images.{parameter}"][0]):
        name = f"codec.{codec}.{metrics.numbered_name('step', step)}"
        tables.append(
            keys.assign(
                step=step, bits=trials[f"{name}.bits_per_image"], value=trials[f"{name}.mse"]
            )
        )
    return pd.concat(tables).sort_values("bits")


def at(bits, rated):
    """Errors at rates, by interpolation; NaN at fewer bits than were measured."""
    return np.exp(np.interp(bits, rated["bits"], np.log(rated["value"]), left=np.nan))


of_trials = rates_of("dense", "steps")
points = of_trials.groupby(["latent_dim", "step"])[["bits", "value"]].mean().sort_values("bits")
pca = rates_of("pca", "pca_steps").groupby("step")[["bits", "value"]].mean().sort_values("bits")
envelope = points[comparison.pareto_front(points["bits"], points["value"])]

# %% [markdown]
# Which size has the least error at a given rate, which others are not shown to have more, and how does PCA do there? Between
# measured rates the logarithm of the error is taken to be linear in the bits, and beyond its finest step a code keeps its error.
# A rate at which a network has no step so coarse is left out. The best size is picked by its error, so that the level of its
# comparisons with the others holds for all of them jointly (Bonferroni).

# %%
networks = {key: at(rates, own) for key, own in of_trials.groupby(["latent_dim", "seed"])}
by_network = np.log(pd.DataFrame(networks, rates).dropna()).T
if by_network.empty:
    raise StudyError(
        f"No rate of {rates} is one that all networks have; expected one: choose higher rates."
    )
jointly = 1 - (1 - level) / (len(sizes) - 1)
best, as_good, rows = {}, {}, {}
for bits in by_network:
    logs = {size: summary(own) for size, own in by_network[bits].groupby(level=0)}
    first = best[bits] = min(sizes, key=lambda size: logs[size][0])
    as_good[bits] = {
        s for s in sizes if metrics.welch_interval(logs[s], logs[first], jointly).verdict != "yes"
    }
    others, mse = sorted(as_good[bits] - {first}), np.exp(logs[first][0])
    rows[bits] = [
        first,
        ", ".join(map(str, others)) or "none",
        f"{mse:.5f}",
        f"{at(bits, pca) / mse:.3f}",
    ]
columns = ["best size", "not shown to err more", "its MSE", "PCA's MSE over its own"]
pd.DataFrame(rows, columns).T.replace("nan", "–").rename_axis(
    index="bits per image", columns=f"{title}, test"
)

# %%
told_best = ", ".join(f"{size} numbers at {bits} bits" for bits, size in best.items())
caption = (
    f"Figure 13.3. {title}: error against bits per image, means over seeds; the lower envelope joins those {len(envelope)} of "
    f"{len(points)} points that no other one beats in both. The least error have {told_best}."
)
lines = {"envelope": envelope, "PCA": pca} | {f"{size} numbers": points.loc[size] for size in sizes}
lines = {label: own.set_index("bits")[["value"]] for label, own in lines.items()}
run.show(
    "13_rate_distortion", figures.lines(lines, caption, "bits per image", "MSE per pixel", log=True)
)

# %% [markdown]
# ## Linear or ReLU?
#
# The study's bottleneck is linear. Many tutorials give it a ReLU like every other layer, which forbids negative numbers and lets
# a unit die. The same seeds give both networks the same initial weights and the same minibatches, so the errors are compared
# seed by seed.

# %%
both = relu.merge(trials, on=["latent_dim", "seed"], suffixes=("", " linear"))
varied = {f"02_train.{name}" for name in ("profile", "bottleneck", "latent_dim", "seed")}
unequal = [
    n
    for n in relu
    if n.startswith("02_train.") and n not in varied and not both[n].equals(both.get(f"{n} linear"))
]
if (
    unequal
    or len(both) < len(relu)
    or (set(relu["02_train.bottleneck"]), set(trials["02_train.bottleneck"]))
    != ({"relu"}, {"linear"})
):
    raise StudyError(
        f"{bottleneck_sweep} and {sweep} differ in {', '.join(unequal) or 'sizes, seeds or bottlenecks'}; expected the same networks, "
        "with a ReLU bottleneck and with a linear one: name another sweep."
    )

compared = {
    label: over_seeds(both[key], both["latent_dim"])
    for label, key in (("linear", f"{error} linear"), ("ReLU", error))
}
added = shown(
    100 * np.expm1(over_seeds(np.log(both[error] / both[f"{error} linear"]), both["latent_dim"]))
)
told = ", ".join(f"{found.value:+.1f} % with {size} numbers" for size, found in added.items())
caption = (
    f"Figure 13.4. {title}: error with a linear and with a ReLU bottleneck, means and intervals over seeds. What the ReLU adds to the "
    f"error, compared seed by seed: {told}."
)
run.show(
    "13_bottleneck",
    figures.intervals_by_group(compared, caption, "latent size", "MSE per pixel", joined=True),
)

# %%
for size, found in added.items():
    print(
        f"{size} numbers, error that a ReLU adds: {found} %; a linear bottleneck errs less: {found.verdict}"
    )

# %% [markdown]
# ## What came out
#
# Is one size the best at every rate? Yes, if one leads at all of them and no other is as good; no, if none is as good as the
# best at all of them.

# %%
one_size = "undecided"
if not set.intersection(*as_good.values()):
    one_size = "no"
elif len(set.union(*as_good.values())) == 1:
    one_size = "yes"
claims = []
for size in sizes:
    claim = f"{size} numbers err less than as many components: MSE of PCA over the autoencoder's"
    claims.append(
        (claim, f"{metrics.numbered_name('size', size)}.pca_mse_over_own", 1, verdicts[size])
    )
baseline = accuracies["PCA, 5-NN"]["value"].map("{:.4f}".format)
for size in sizes:
    claim = f"codes of {size} numbers have better neighbours than PCA's: accuracy of 5-NN"
    claims.append(
        (
            claim,
            f"{metrics.numbered_name('size', size)}.knn5_accuracy",
            baseline[size],
            better["5-NN"][size],
        )
    )
for size, found in added.items():
    claims.append(
        (
            f"a linear bottleneck of {size} numbers errs less: MSE that a ReLU adds / %",
            found,
            0,
            found.verdict,
        )
    )
claims.append(
    (
        "the error has a knee, the same on all axes, over both ranges and for all seeds",
        ", ".join(found_knees),
        "one",
        one_knee,
    )
)
claims.append(("one size has the least error at every rate", told_best, "one", one_size))
pd.DataFrame(claims, columns=["claim", "measured", "baseline", "holds?"]).set_index("claim")

# %%
purposes = {"least MSE": errors["autoencoder"]["value"].idxmin()}
purposes |= {
    f"accuracy of {name}": accuracies[f"autoencoder, {name}"]["value"].idxmax() for name in features
}
purposes |= {f"least MSE at {bits} bits": size for bits, size in best.items()}
pd.Series(purposes).to_frame("best size").rename_axis(index="for", columns=f"{title}, test")

# %% [markdown]
# ## Keep the results

# %%
kept = {
    "MSE, autoencoder": errors["autoencoder"],
    "MSE, PCA": errors["PCA"],
    "MSE of PCA over its own": gain,
} | accuracies
summary = pd.concat(kept, axis=1).rename_axis(index="latent_dim")
summary.columns = [f"{label}: {end}" for label, end in summary.columns]
summary.to_csv(run.new_artifact("latent_size.csv"))
summary.to_parquet(run.new_artifact("latent_size.parquet"))
origin = {
    name: "of this machine" if sweep_table(name) == sweep_files(name)[0] else "as published"
    for name in (sweep, bottleneck_sweep)
}
facts = {
    "name": dataset,
    "title": title,
    "source": " and ".join(f"the sweep {name} {whose}" for name, whose in origin.items()),
}
write_json(run.new_artifact("data.json"), facts)

# %%
found = {
    "mse": shown(errors["autoencoder"]),
    "pca_mse_over_own": shown(gain),
    "knn5_accuracy": shown(accuracies["autoencoder, 5-NN"]),
    "relu_added_mse_percent": added,
}
measured = {}
for key, means in found.items():
    for size, mean in means.items():
        measured[f"{metrics.numbered_name('size', size)}.{key}"] = mean
reproduced = run.finish(measured, claims)
reproduced

# %% [markdown]
# **Read next.** `07_compress_images` makes the codec, `05_explore_latent_space` says why PCA's codes have good neighbours. The
# sweep's file is `params/sweeps/latent_size.yaml`; with another one, `make sweep` answers another question. On spread over seeds
# as part of a result: Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021.
