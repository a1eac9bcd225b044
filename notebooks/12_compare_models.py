# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compare the models
#
# **What you will do.** Put PCA and every autoencoder of the study side by side: how well each draws an image again from its
# code, what that costs, and what its codes are good for. Nothing is trained or measured here; every number is one that an
# earlier notebook left behind.
#
# **What you will learn.** Which differences between models are larger than what other test images or another training seed
# would do, and whether one model wins everywhere.
#
# **What you need.** The results of `02_train`, `03_evaluate`, `05_explore_latent_space`, `06_detect_anomalies`,
# `09_train_convolutional` and `11_train_variational`. **Time.** Ten seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
# Those that the run has are shown; pca and dense must stay
models: list = ["pca", "dense", "scheduled", "wide", "conv", "conv30", "denoising", "denoising_conv", "vae"]
level: float = 0.95  # of the intervals over seeds; in comparisons with the best it holds for all of them jointly
# fmt: on

# %% [markdown]
# ## Collect the results

# %%
from ae_lib import metrics
from ae_lib.analysis import comparison
from ae_lib.run import Run, read_json

import numpy as np
import pandas as pd

run = Run(profile, "12_compare_models")
parts = ["02_train", "03_evaluate", "05_explore_latent_space", "06_detect_anomalies"]
parts += ["09_train_convolutional", "11_train_variational"]
measured = {name: value for part in parts for name, value in run.metrics_of(part).items()}
title = read_json(run.artifact("01_preprocess/data.json"))["title"]
pd.set_option("display.max_colwidth", None)
run

# %% [markdown]
# `dense` is the network of `02_train`; `scheduled` is the same under the schedule of `09_train_convolutional`, and so is
# `denoising`, shown noisy images and asked for clean ones. `wide` has wider layers; `conv`, `conv30` and `denoising_conv` have
# convolutions; `vae` is the variational autoencoder. Is it a fair contest? Only as fair as this list:
#
# - **Budgets differ.** Epochs, batch and learning rate of each model stand in the parameters of `02_train`,
#   `09_train_convolutional` and `11_train_variational`; what they come to in seconds is compared below.
# - **Codes differ** in size where a name is followed by a number in brackets, the size of its code. Who reconstructs best is
#   decided among codes of the same size.
# - **Tasks differ.** All are measured on clean, grey images. The denoising networks were trained for noisy ones, and
#   `09_train_convolutional` shows them at that; the variational one was trained to draw binary images from random codes, and
#   `11_train_variational` asks how probable it makes an image.
# - **PCA** is measured with its reconstructions cut to [0, 1], which costs it nothing.

# %%
found = [name for name in models if f"{name}.test.mse" in measured]
sizes = {name: measured.get(f"{name}.latent_dim", comparison.NOTHING).value for name in found}
base = next(
    name for name in ("dense", *found) if name in found and name != "pca"
)  # whose code size counts
same = [name for name in found if sizes[name] == sizes[base] or np.isnan(sizes[name])]
label = {name: name if name in same else f"{name} ({sizes[name]:.0f})" for name in found}
label |= {"pca": "PCA", "pixels": "pixels", "ink": "ink alone"}
print("compared:", ", ".join(label[name] for name in found))

# %% [markdown]
# What is compared, where its numbers are, and whether more (+1) or less (−1) of it is better:

# %%
measures = {
    "BCE / nats per pixel": ("{}.test.bce", -1),
    "MSE per pixel": ("{}.test.mse", -1),
    "SSE per image": ("{}.test.sse", -1),
    "SSIM": ("{}.test.ssim", +1),
    "1-NN accuracy": ("{}.test.knn1_accuracy", +1),
    "5-NN accuracy": ("{}.test.knn5_accuracy", +1),
    "linear probe accuracy": ("{}.test.linear_probe_accuracy", +1),
    "one-class AUROC": ("oneclass.{}_mse.auroc_mean", +1),
    "bits per image": ("{}.test.bits_at_equal_error", -1),
    "parameters": ("{}.parameters", -1),
    "seconds of training": ("{}.train.seconds", -1),
    "seconds per 10,000 images": ("{}.test.seconds_per_10000", -1),
}
other_names = {f"pca.test.{score}": f"pca_clipped.test.{score}" for score in metrics.SCORES}
other_names |= {
    f"oneclass.{name}_mse.auroc_mean": f"oneclass.{name}.auroc_mean" for name in ("pca", "ink")
}


# %%
def standing(measure, names):
    key, sign = measures[measure]
    metric = {name: other_names.get(key.format(name), key.format(name)) for name in names}
    return comparison.Ranking(metric, sign > 0, measured, published, level)


published = run.reference()
by_measure = {measure: standing(measure, found) for measure in measures}

# %% [markdown]
# Which numbers are missing? A dash stands for them in every table.

# %%
missing = [
    (name, measure)
    for measure, s in by_measure.items()
    for name in found
    if np.isnan(s.images[name].value)
]
print("missing:", "; ".join(f"{label[name]}, {measure}" for name, measure in missing) or "nothing")

# %% [markdown]
# ## Two kinds of doubt
#
# A number would be another one **with other test images**: that is what the bootstrap interval of this run says. And it would
# be another one **with another seed**: initial weights, order of the images, what is drawn in training and, where noise or
# binary test images are drawn, these. For that, every network has to be trained several times, which was done for the
# published reference of this profile, with as many seeds as are printed below; from it come means over seeds, with Student's
# intervals. Three values make a wide interval: Student's factor is 4.3 instead of the 2.8 of five.

# %%
counts = by_measure["MSE per pixel"].counts
for count in sorted(set(counts.values()), reverse=True):
    print(
        f"{count or 'no'} seeds:", ", ".join(label[name] for name in found if counts[name] == count)
    )

# %% [markdown]
# **How differences are judged.** There are no images here, so that nothing can be compared image by image. Over the test
# images a difference counts if the two intervals do not overlap. That asks for more than a test of the difference would, some
# 0.6 % instead of 5 % (Schenker and Gentleman, "On judging the significance of differences by examining the overlap between
# confidence intervals", The American Statistician 55(3), 2001). Where they overlap the verdict is *undecided*, which does
# not mean *equal*; paired comparisons may well decide it, and stand in the notebooks that have the images.
#
# Over seeds, the interval of a difference is Welch's, for spreads and numbers that differ. The best model was picked by its
# number, and is then compared with all others: there the level is raised so that it holds for all of these comparisons
# jointly (Bonferroni).


# %%
def table(which, doubt="images"):
    columns = {measure: getattr(which[measure], doubt) for measure in which}
    return pd.DataFrame(columns).rename(index=label).map(str).rename_axis(index=title)


doubts = {"this run, interval over test images": "images"}
if any(counts.values()):
    doubts["mean over seeds, interval over seeds"] = "seeds"


def panels(which):
    frame = {
        m: {name: getattr(s, doubt) for name, doubt in doubts.items()} for m, s in which.items()
    }
    return {
        m: {n: pd.DataFrame(list(v.values()), [label[k] for k in v]) for n, v in f.items()}
        for m, f in frame.items()
    }


def named(names):
    return ", ".join(label[name] for name in names) or "none"


# %%
def leaders_over_seeds(which, among=found):
    leaders = {measure: s.leaders_over_seeds(among) for measure, s in which.items()}
    rows = {measure: [named(names[:1]), named(names[1:])] for measure, names in leaders.items()}
    return pd.DataFrame(rows, ["best over seeds", "not shown to be worse"]).T.rename_axis(
        columns=title
    )


# %% [markdown]
# ## Who reconstructs best?

# %% tags=["nbval-ignore-output"]
reconstruction = {
    m: by_measure[m] for m in ("BCE / nats per pixel", "MSE per pixel", "SSE per image", "SSIM")
}
table(reconstruction)

# %%
shown = {m: s for m, s in reconstruction.items() if m != "SSE per image"}  # SSE is MSE, times 784
leaders = {m: s.leaders(same) for m, s in shown.items()}
mse = shown["MSE per pixel"].images
winner = leaders["MSE per pixel"][0]
caption = (
    f"Figure 12.1. {title}: reconstruction of the test images. With a code of {sizes[base]:.0f} numbers {label[winner]} has the "
    f"smallest squared error, {mse[winner].value / mse[base].value:.2f} times that of {base}; "
    f"not told apart from it over the test images: {named(leaders['MSE per pixel'][1:])}."
)
run.show("12_reconstruction", comparison.interval_rows(panels(shown), caption, log=list(shown)[:2]))

# %% [markdown]
# Over seeds, all models:

# %%
table(reconstruction, "seeds")

# %% [markdown]
# … and among those with a code as large as that of the study's network:

# %%
leaders_over_seeds(shown, same)

# %% [markdown]
# ## What does the quality cost?
#
# Two prices: the seconds of training, which belong to the machine and its other work, and the parameters. A model is on the
# front of a price if no other one is both cheaper and better. Codes of other sizes take part, with their size in brackets; the
# fronts go by the means, without regard to intervals.

# %% tags=["nbval-ignore-output"]
costs = {
    m: by_measure[m] for m in ("parameters", "seconds of training", "seconds per 10,000 images")
}
table(costs | {"MSE per pixel": by_measure["MSE per pixel"]})


# %%
def price(measure):
    points = pd.DataFrame(list(mse.values()), mse.keys()).assign(
        cost=[i.value for i in costs[measure].images.values()]
    )
    points["front"] = comparison.pareto_front(points["cost"], points["value"])
    return points


prices = {m: price(m) for m in ("seconds of training", "parameters")}
fronts = {m: named(points.index[points["front"]]) for m, points in prices.items()}

# %%
caption = (
    f"Figure 12.2. {title}: squared error against what the models cost. Filled and joined: no other model is both cheaper and "
    f"better. By training time: {fronts['seconds of training']}. By parameters: {fronts['parameters']}."
)
drawn = {m: points.rename(label) for m, points in prices.items() if points["cost"].notna().any()}
run.show("12_cost", comparison.labelled_points(drawn, caption, "MSE per pixel"))

# %% [markdown]
# ## Whose codes are the best features?
#
# A classifier of the nearest neighbours and a linear probe, trained on codes of the training images, as in
# `05_explore_latent_space`. The baseline is the same classifiers on raw pixels.

# %% tags=["nbval-ignore-output"]
probes = {
    m: standing(m, [*found, "pixels"])
    for m in ("1-NN accuracy", "5-NN accuracy", "linear probe accuracy")
}
table(probes)

# %%
ahead = {m: named(s.leaders(found)[:1]) for m, s in probes.items()}
beat = [n for n in found if all(s.beats(n, "pixels") == "yes" for s in probes.values())]
caption = (
    f"Figure 12.3. {title}: what classifiers read from the codes. First among the models: {ahead['1-NN accuracy']} (1-NN), "
    f"{ahead['5-NN accuracy']} (5-NN), {ahead['linear probe accuracy']} (linear probe). Better than the pixels in all three, over "
    f"the test images: {named(beat)}."
)
run.show("12_features", comparison.interval_rows(panels(probes), caption))

# %%
leaders_over_seeds(probes)

# %% [markdown]
# ## Who detects?
#
# The one-class protocol of `06_detect_anomalies`: a model of one digit's images is asked for the squared error of all digits,
# and the area under the ROC curve says how well that tells the others from its own; the mean over the classes. Of `dense` it
# is the mean of several trainings, of the others one training; so the spread of `dense` over seeds is that of such means. The
# baselines are PCA, and the amount of ink alone, without any model.

# %% tags=["nbval-ignore-output"]
auroc = standing("one-class AUROC", [*found, "ink"])
table({"one-class AUROC": auroc})

# %%
detection = {
    "one-class AUROC": by_measure["one-class AUROC"]
}  # ink would squeeze the others into a corner
ahead = auroc.leaders(found)
beat = [name for name in found if auroc.beats(name, "pca") == "yes"]
caption = (
    f"Figure 12.4. {title}: mean AUROC of the squared error in the one-class protocol. First: {named(ahead[:1])}; not told apart from "
    f"it: {named(ahead[1:])}. Better than PCA: {named(beat)}. Ink alone: {auroc.images['ink'].value:.2f}."
)
run.show("12_detection", comparison.interval_rows(panels(detection), caption))

# %%
leaders_over_seeds(detection)

# %% [markdown]
# ## Who compresses?
#
# Bits per image that the codec of `07_compress_images` needs, with each decoder as it was trained, for one and the same squared
# error, about that of PCA with as many exact components as the dense code has numbers (the parameter `equal_error` of
# `09_train_convolutional`). The baseline is PCA under the same coder. A model that cannot come that close has a dash.

# %% tags=["nbval-ignore-output"]
compression = {"bits per image": by_measure["bits per image"]}
table(compression)

# %%
bits = compression["bits per image"]
ahead = [name for name in bits.ranks().sort_values().index if bits.ranks()[name] == 1]
fewer = [name for name in found if bits.images[name].value < bits.images["pca"].value]
caption = (
    f"Figure 12.5. {title}: bits per image at one squared error, decoders as trained. The fewest: {named(ahead)}. "
    f"Fewer than PCA: {named(fewer)}."
)
run.show("12_compression", comparison.interval_rows(panels(compression), caption))

# %%
leaders_over_seeds(compression)

# %% [markdown]
# ## Does one model win everywhere?
#
# Ranks by this run's numbers; SSE is left out, since it is MSE once more. How many measures of a kind stand in the table is a
# choice, so that neither a mean rank nor a number of first places would mean anything.

# %%
ranks = pd.DataFrame({m: s.ranks() for m, s in by_measure.items() if m != "SSE per image"}).rename(
    label
)
close = pd.DataFrame(
    {m: pd.Series({label[n]: n in by_measure[m].leaders() for n in found}) for m in ranks}
)
quality = [m for m in ranks if m not in costs]
never_worse = [name for name in close.index if close.loc[name, quality].all()]
caption = (
    f"Figure 12.6. {title}: ranks, 1 is best; in brackets who is not told apart from the best over the test images, a dash where "
    f"nothing was measured. Never told apart from the best, cost left aside: {', '.join(never_worse) or 'none'}."
)
run.show("12_ranks", comparison.rank_matrix(ranks, close, caption))

# %%
print(
    "one model is nowhere told apart from the best, cost left aside:",
    "yes" if never_worse else "no",
)

# %% [markdown]
# ## Decide
#
# What is said of these models, as comparisons of two, and not picked by their results. Over the test images: *yes* or
# *no* if the two intervals do not overlap. Over seeds: if Welch's interval of the difference leaves out 0, for each comparison by
# itself. A dash: there is no interval.

# %%
sayings = {
    "The schedule alone reconstructs better, MSE": ("scheduled", "dense", "MSE per pixel"),
    "Wider layers reconstruct better, MSE": ("wide", "scheduled", "MSE per pixel"),
    "Convolutions reconstruct better than wider layers, MSE": ("conv", "wide", "MSE per pixel"),
    "… and help a linear probe, accuracy": ("conv", "scheduled", "linear probe accuracy"),
    "Training on noise helps a linear probe, accuracy": (
        "denoising",
        "scheduled",
        "linear probe accuracy",
    ),
    "This VAE, with more units, helps a linear probe, accuracy": (
        "vae",
        "dense",
        "linear probe accuracy",
    ),
    "… and has better neighbours, 1-NN accuracy": ("vae", "dense", "1-NN accuracy"),
    "Convolutions detect better, one-class AUROC": ("conv", "dense", "one-class AUROC"),
    "Convolutions compress better, bits per image": ("conv", "scheduled", "bits per image"),
}
sayings = {saying: pair for saying, pair in sayings.items() if {*pair[:2]} <= set(found)}

# %% tags=["nbval-ignore-output"]
rows = {
    saying: [
        s.images[a],
        f"{label[b]}: {s.images[b]}",
        s.beats(a, b),
        s.gain_over_seeds(a, b),
        s.beats_over_seeds(a, b),
    ]
    for saying, (a, b, measure) in sayings.items()
    for s in [by_measure[measure]]
}
columns = ["measured", "baseline", "over test images", "gain, mean over seeds", "over seeds"]
pd.DataFrame(rows, columns).T.rename_axis(index=title).map(str)

# %% [markdown]
# Over seeds, the verdicts do not depend on this run:

# %%
for saying, (first, second, measure) in sayings.items():
    print(f"{saying}: {by_measure[measure].beats_over_seeds(first, second)}")

# %% [markdown]
# ## Keep the results
#
# The numbers are those of other notebooks and stand under their names; what is new here is how many there are.

# %%
claims = []
for saying, (first, second, measure) in sayings.items():
    names, cells = by_measure[measure].names, rows[saying]
    verdict = f"{cells[2]}; over seeds: {cells[4]}".removeprefix("–; ")
    claims.append((saying, names[first], names[second], verdict))
answer = ", ".join(never_worse) or "none", f"{len(quality)} measures, cost left aside"
claims.append(
    ("One model is nowhere told apart from the best", *answer, "yes" if never_worse else "no")
)
reproduced = run.finish({"compare.models": len(found), "compare.missing": len(missing)}, claims)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=title)

# %% [markdown]
# **Read next.** `09_train_convolutional` and `11_train_variational` compare their models image by image, and show what each of
# them is made for. On comparing models over several seeds: Bouthillier et al., "Accounting for variance in machine learning
# benchmarks", MLSys 2021.
