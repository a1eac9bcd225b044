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
# **Question.** Which latent dimension is best for reconstruction, for classification and for compression?
#
# **What you will do.** Read the results of networks that were trained with several latent dimensions and seeds. Choose a
# latent dimension for each purpose on the validation images, and compare it with PCA on the test images. Then ask
# how the error depends on the rate, and whether the bottleneck should be linear or ReLU.
#
# **What you will learn.** How to read a sweep; how to choose with the one-standard-error rule; that the answer depends on
# what the code is for.
#
# **What you need.** Nothing: the results of the sweeps come with the study. After `make sweep SWEEP=latent_size` (100 minutes on
# two cores) and `SWEEP=bottleneck` (18 minutes) it reads your own. Nothing is trained here. **Time.** Ten seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "latent_size"  # the run's folder, reports/<profile>/
sweep: str = "latent_size"  # results of 02, 03, 05 and 07 at several latent dimensions and seeds
bottleneck_sweep: str = "bottleneck"  # the same networks with a ReLU bottleneck
collapsed: float = 0.99  # collapsed: SSE at least this fraction of the mean image's
rates: list = [20, 40, 80, 160, 300]  # bits per image at which latent dimensions are compared

# %% [markdown]
# ## Read the sweeps
#
# Each row of a sweep's table is a trial, that is, one latent dimension with one training seed; its columns are the
# parameters and the metrics of the trial.

# %%
from ae_lib import data, figures, metrics
from ae_lib.analysis import latent_size
from ae_lib.run import Run, sweep_files, sweep_table, write_json

import pandas as pd

run = Run(profile, "13_study_latent_size")
pd.set_option("display.max_colwidth", None)

# %%
purposes = {  # purpose: (metric, variant of PCA with that metric)
    "reconstruction": ("sse", "pca_clipped"),
    "5-NN": ("knn5_accuracy", "pca"),
    "linear probe": ("linear_probe_accuracy", "pca"),
}

# %%
measures = [measure for measure, _ in purposes.values()]
columns = [f"dense.val.{measure}" for measure in measures]
columns += [f"dense.test.{measure}" for measure in measures]
columns += [f"{pca}.test.{measure}" for measure, pca in purposes.values()]
trials = latent_size.read(sweep, columns)
results = trials.pivot(index="latent_dim", columns="seed")  # results[metric]: dimensions × seeds
sizes, seeds = results.index, results["dense.val.sse"].columns
title = data.TITLES.get(trials["02_train.dataset"][0], trials["02_train.dataset"][0])
print(f"{sweep}: {len(sizes)} latent dimensions × {len(seeds)} seeds")

# %% [markdown]
# ## Choose on the validation images
#
# A network is scored by its squared error per image (SSE), and by the share of images that a 5-nearest-neighbour classifier
# or a linear probe on its codes gets wrong. For all three, lower is better.

# %%
validation = {
    "reconstruction": results["dense.val.sse"],
    "5-NN": 1 - results["dense.val.knn5_accuracy"],
    "linear probe": 1 - results["dense.val.linear_probe_accuracy"],
}


# %%
def mean_and_std(scores):
    """Mean ± standard deviation over the seeds, as text, one for each latent dimension."""
    rows = zip(scores.mean(axis=1), scores.std(axis=1), strict=True)
    return [f"{mean:.4f} ± {std:.4f}" for mean, std in rows]


table = {purpose: mean_and_std(scores) for purpose, scores in validation.items()}
pd.DataFrame(table, sizes).rename_axis(columns=f"{title}, validation")

# %% [markdown]
# The latent dimension with the lowest mean may lead by chance, and a larger one costs more. The **one-standard-error rule**
# therefore takes the smallest latent dimension whose mean is within one standard error of the lowest one (Breiman, Friedman,
# Olshen and Stone, "Classification and regression trees", 1984, section 3.4.3). Here the standard error is that over the seeds.


# %%
def best_size(scores):
    return scores.mean(axis=1).idxmin()


def smallest_sufficient_size(scores):
    """The smallest one whose mean is within one standard error of the lowest mean."""
    best = scores.loc[best_size(scores)]
    return (scores.mean(axis=1) <= best.mean() + best.sem()).idxmax()


# %%
errors = pd.Series(validation)
chosen = pd.DataFrame({"lowest validation error": errors.map(best_size)})
chosen["one-standard-error rule"] = errors.map(smallest_sufficient_size)
chosen.rename_axis(index="latent dimension for", columns=title)

# %% [markdown]
# If the largest dimension is chosen, the optimum may lie beyond the sweep. On MNIST it is chosen for reconstruction: the error
# falls with every dimension. For classification a smaller code is better: 16 units are sufficient for 5-NN, and a linear probe
# is most accurate on 8.
#
# ## Compare with PCA on the test images
#
# From here on the test images are used, and nothing more is chosen. The notebooks `03_evaluate` and
# `05_explore_latent_space` compare the autoencoder with PCA at each latent dimension. The sweep has kept the gains over all seeds
# and test images together, paired by image, with their p-values. All purposes and dimensions are decided together here, with
# Holm's correction at 5 %.

# %%
compared = {
    purpose: latent_size.gains(sweep, f"dense.test.{measure}", f"{pca}.test.{measure}")
    for purpose, (measure, pca) in purposes.items()
}
decided = pd.concat(compared, names=["purpose"])
decided["verdict"] = metrics.verdicts(list(decided["gain"]))
table = decided["verdict"].unstack("purpose")[list(purposes)]
table.rename_axis("latent dimension", columns=f"{title}, test: autoencoder better than PCA")

# %% [markdown]
# How much better is the reconstruction? The right panel shows the ratio of the errors, which is hard to read from the logarithmic
# axis on the left.

# %%
curves = {"autoencoder": results["dense.test.sse"], "PCA": results["pca_clipped.test.sse"]}
ratio = curves["PCA"] / curves["autoencoder"]
curves = {name: pd.DataFrame({"value": values.mean(axis=1)}) for name, values in curves.items()}
most, last = ratio.mean(axis=1).idxmax(), sizes[-1]
caption = (
    f"Figure 13.1. {title}: PCA's SSE is {ratio.loc[most].mean():.2f} times the autoencoder's with "
    f"{most} latent dimensions, where this ratio is largest, and "
    f"{ratio.loc[last].mean():.2f} times with {last}. Left: means over {len(seeds)} seeds. "
    "Right: a point for each seed."
)

# %%
with figures.look():
    figure = figures.new(caption)
    left, right = figure.subplots(1, 2)
    figures.draw_curves(left, curves)
    figures.log_axis(left.yaxis)
    right.plot(sizes, ratio, "o", markersize=4, color=figures.COLOURS[0])
    right.axhline(1, color="#777777", linewidth=1)
    left.set(ylabel="SSE per image, test")
    right.set(ylabel="PCA's SSE / autoencoder's SSE")
    for axes in (left, right):
        axes.set(xlabel="latent dimension", xscale="log")
        axes.set_xticks(sizes, sizes, minor=False)
        axes.minorticks_off()
    left.legend()
run.show("13_error", figure)

# %% [markdown]
# Are the codes better features? The figure shows the difference in accuracy, which the claims test. Its axis is logarithmic beyond
# ±1 percentage point, so that large and small differences are both visible.

# %%
gains, wins = {}, []
for name in ("5-NN", "linear probe"):
    claims = decided.loc[name]
    gains[name] = 100 * pd.DataFrame([vars(gain) for gain in claims["gain"]], claims.index)
    won = claims.index[claims["verdict"] == "yes"]
    wins.append(f"{name} {', '.join(map(str, won)) or 'none'}")

# %%
caption = (
    f"Figure 13.2. {title}: latent dimensions whose codes have a significantly higher accuracy "
    f"than PCA's components: {'; '.join(wins)}. Bars are 95 % intervals over seeds and test "
    "images. The axis is linear between −1 and 1, and logarithmic beyond."
)
ylabel = "accuracy, code − PCA /\npercentage points"
figure = figures.intervals_by_group(gains, caption, "latent dimension", ylabel)
figure.axes[0].set_yscale("symlog", linthresh=1)
figure.axes[0].margins(y=0.1)
figure.axes[0].yaxis.set_major_formatter("{x:g}")
run.show("13_features", figure)

# %% [markdown]
# ## Relate the error to the rate
#
# How many bits does an image need? `07_compress_images` makes a codec of each network and of PCA, and measures both at
# several quantisation steps, on the test images only. The lowest error among several latent dimensions is therefore chosen on
# these images and a little optimistic. It describes the curves and is no recommendation. To save time, the decoders of the
# sweep's codecs were trained further for fewer epochs than in `07_compress_images`, and PCA's codec has a contrast of 1.1 in
# place of one that is selected. Both cost a little.

# %%
points = latent_size.codec_points(trials, "dense", "steps")
pca_points = latent_size.codec_points(trials, "pca", "pca_steps")
codecs = {"PCA": pca_points[pca_points["latent_dim"] == last]}
codecs |= {f"{size} dimensions": points[points["latent_dim"] == size] for size in sizes}
at_rates = {name: latent_size.error_at(rates, codec) for name, codec in codecs.items()}
at_rates = pd.DataFrame(at_rates, pd.Index(rates, name="bits per image")).dropna(how="all")

# %%
table = pd.DataFrame({"best codec": at_rates.idxmin(axis=1), "MSE": at_rates.min(axis=1)})
table["MSE of PCA"] = at_rates["PCA"]
best_mse = at_rates.drop(columns="PCA").min(axis=1)
table["MSE of PCA / best autoencoder's"] = at_rates["PCA"] / best_mse
table.round(4).rename_axis(columns=f"{title}, test")

# %%
best = ", ".join(f"{name} at {bits}" for bits, name in table["best codec"].items())
caption = (
    f"Figure 13.3. {title}: of these codecs, the lowest error is reached by {best} bits per image. "
    f"Points are means over {len(seeds)} seeds, at several quantisation steps."
)
curves = {name: codec.set_index("bits")[["value"]] for name, codec in codecs.items()}
axis_labels = ("bits per image", "MSE per pixel, test")
run.show("13_rate_distortion", figures.lines(curves, caption, *axis_labels, log=True))

# %% [markdown]
# A code of small latent dimension reaches its reconstruction error at few bits, and more bits do not lower it further. A code
# of large dimension spends bits on units that carry little information. That is why the best latent dimension tends to grow
# with the rate. On MNIST it is 8 at 20 bits and 64 at 160, and at 300 bits PCA has the lowest error.
#
# ## Compare a linear with a ReLU bottleneck
#
# The study's bottleneck is linear. Many tutorials give it a ReLU like every other layer. A ReLU forbids negative codes, and a
# unit whose input is negative for all images gets no gradient and stays at zero. Networks with the same seed started with the
# same weights and saw the same minibatches, so the errors are compared seed by seed. Since a collapsed network makes the errors
# bimodal, there is no mean and no interval; the table gives the median ratio, and the figure shows each seed. A dead unit has the
# same value for all validation images; the table has their mean number over the seeds.

# %%
needed = ["dense.test.sse", "mean.test.sse", "dense.dead_units"]
relu_trials = latent_size.read(bottleneck_sweep, needed)
both = latent_size.paired(relu_trials, trials)
relu, linear = both["dense.test.sse"], both["dense.test.sse linear"]
outcomes = pd.DataFrame({"relu_is_worse": relu > linear, "ratio": relu / linear})
outcomes["has_collapsed"] = relu >= collapsed * both["mean.test.sse"]

# %%
groups = outcomes.groupby(both["latent_dim"])
counts = groups[["relu_is_worse", "has_collapsed"]].sum()
counts["median_ratio"] = groups["ratio"].median()
dead = both.groupby("latent_dim")[["dense.dead_units", "dense.dead_units linear"]].mean()
counts[["dead_relu", "dead_linear"]] = dead
counts.insert(0, "seeds", groups.size())
columns = ["seeds", "ReLU has the higher SSE", "collapsed", "median SSE, ReLU / linear"]
columns += ["dead units, ReLU", "dead units, linear"]
counts.set_axis(columns, axis=1).rename_axis(columns=f"{title}, test").round(3)

# %%
worse = [
    f"{row.relu_is_worse:.0f} of {row.seeds:.0f} seeds with {size} dimensions"
    for size, row in counts.iterrows()
]
caption = (
    f"Figure 13.4. {title}: a ReLU bottleneck has a higher error than a linear one in "
    f"{', '.join(worse)}; of the {len(both)} ReLU networks, {counts['has_collapsed'].sum():.0f} "
    "collapsed to the mean image (dashed line). A point for each seed."
)

# %%
with figures.look():
    figure = figures.new(caption)
    axes = figure.subplots()
    place = counts.index.get_indexer(both["latent_dim"])
    axes.plot(place - 0.08, linear, "o", color=figures.COLOURS[0], label="linear")
    axes.plot(place + 0.08, relu, "s", color=figures.COLOURS[1], label="ReLU", fillstyle="none")
    axes.axhline(both["mean.test.sse"].mean(), color="#555555", linestyle="--", label="mean image")
    figures.group_ticks(axes, counts.index)
    axes.set(xlabel="latent dimension", ylabel="SSE per image, test", ylim=(0, None))
    figures.legend_above(axes)
run.show("13_bottleneck", figure)

# %% [markdown]
# On MNIST the ReLU bottleneck has the higher error in all ten trainings, by a fifth with 32 dimensions, where on average 6 of
# the 32 units are dead. One of the five networks with 2 dimensions has collapsed.

# %% [markdown]
# ## Report the chosen latent dimensions
#
# For each purpose: the latent dimension that the one-standard-error rule chose on the validation images, the autoencoder's
# result there on the test images (mean ± standard deviation over the seeds), and that of PCA with as many components.


# %%
def report(purpose):
    """A row of the table of results."""
    (metric, pca), size = purposes[purpose], chosen.at[purpose, "one-standard-error rule"]
    error = mean_and_std(results[f"dense.test.{metric}"].loc[[size]])[0]
    baseline = results[f"{pca}.test.{metric}"].loc[size].mean()
    return [metric, size, error, f"{baseline:.4f}", decided.at[(purpose, size), "verdict"]]


columns = ["metric", "latent dimension", "autoencoder", "PCA", "autoencoder better?"]
table = pd.DataFrame([report(purpose) for purpose in purposes], list(purposes), columns)
table.rename_axis(columns=f"{title}, test")

# %% [markdown]
# On MNIST the autoencoder is better than PCA with as many components for each purpose, at the dimension chosen for it. If the
# validation images choose PCA's dimension as well, 5-NN is more accurate with PCA (97.5 % with 32 components), and the linear
# probe with the autoencoder (PCA has 91.6 % with 64). The 32 dimensions of the study are chosen for none of the three: with
# them no difference from PCA is detected for 5-NN.
#
# The decisions at these dimensions, and at those with the lowest validation error, are the notebook's claims.


# %%
def claims_of(purpose):
    """The decided claims of a purpose at its chosen sizes, with the size in the sentence."""
    rows = decided.loc[purpose].loc[chosen.loc[purpose].unique()]
    sentences = [f"{size} latent dimensions: {claim}" for size, claim in rows["claim"].items()]
    return rows.assign(claim=sentences)


claims = pd.concat([claims_of(purpose) for purpose in purposes], ignore_index=True)

# %%
measured = {}
for model, metric in (("dense", "sse"), ("dense", "knn5_accuracy"), ("pca_clipped", "sse")):
    means = results[f"{model}.test.{metric}"].mean(axis=1)
    measured |= {f"{model}_{size}.test.{metric}": mean for size, mean in means.items()}
for size, row in counts.iterrows():
    measured[f"relu_{size}.test.collapsed_networks"] = row["has_collapsed"]

# %% tags=["nbval-ignore-output"]
local = [name for name in (sweep, bottleneck_sweep) if sweep_table(name) == sweep_files(name)[0]]
source = (
    f"the sweeps {sweep} and {bottleneck_sweep}, of this machine: {' and '.join(local) or 'none'}"
)
facts = {"name": trials["02_train.dataset"][0], "title": title, "source": source}
write_json(run.new_artifact("data.json"), facts)
reproduced = run.finish(measured, decided=claims)
reproduced.claims.set_index("claim")[["gain", "verdict"]]

# %% [markdown]
# ## Limitations
#
# The standard errors and deviations are over a few seeds. All networks have the hidden layers, epochs and learning rate of
# the model `dense`, which is under-trained (`02_train`) and need not suit each latent dimension equally.

# %%
reproduced

# %% [markdown]
# **Read next.** `07_compress_images` makes the codec, and `05_explore_latent_space` says why PCA's components have good
# neighbours. The sweep's file is `params/sweeps/latent_size.yaml`; with another one, `make sweep` answers another question. On
# seeds as a part of a result: Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021.
