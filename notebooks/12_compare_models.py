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
# **Question.** Which model is best for which purpose?
#
# **What you will do.** Put PCA and the autoencoders of this study side by side for each purpose: reconstruction, compression,
# classification from codes, anomaly detection, denoising, and likelihood. Nothing is trained here; every number was
# measured by an earlier notebook.
#
# **What you will learn.** Whether one model is best for every purpose, which differences are larger than those between test
# samples and training seeds, and what a better model costs.
#
# **What you need.** The results of `02_train`, `03_evaluate`, `05_explore_latent_space`, `06_detect_anomalies`,
# `09_train_convolutional`, `10_denoise` and `11_train_variational`. **Time.** Ten seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
# What is compared; a model that the run does not have is left out
models: list = ["pca", "dense", "scheduled", "wide", "conv", "denoising", "vae"]  # one row each, in this order
denoisers: list = ["noisy", "linear", "linear_blind", "scheduled", "denoising", "residual"]  # rows of the denoising table
noise_levels: list = [0.1, 0.2, 0.3, 0.5]  # standard deviations σ to show; a subset of noise_levels in 10_denoise
# fmt: on

# %% [markdown]
# ## Collect the results
#
# A metric is a mean over the test images. The earlier notebooks have kept the values of the single images for the metrics of
# their tables and claims, so that two models can be compared image by image.

# %%
from ae_lib.analysis import comparison
from ae_lib.metrics import numbered_name
from ae_lib.run import Run, claims_file, read_json

import pandas as pd

pd.set_option("display.max_colwidth", None)

# %%
run = Run(profile, "12_compare_models")
title = read_json(run.artifact("01_preprocess/data.json"))["title"]
run

# %%
source_notebooks = ["02_train", "03_evaluate", "05_explore_latent_space", "06_detect_anomalies"]
source_notebooks += ["09_train_convolutional", "10_denoise", "11_train_variational"]
measured, values = {}, {}
for source in source_notebooks:
    measured |= run.metrics_of(source)
    values |= run.values_of(source)

# %% [markdown]
# The next cell has the measures that are defined for all models: the name of the metric, and whether a better model has a lower
# or a higher value.
#
# - **Reconstruction**: the squared error summed over the pixels of an image (SSE).
# - **Compression**: the bits per image that a codec needs for the same mean squared error, on MNIST 0.015 per pixel, with each
#   decoder as it was trained (`07_compress_images` explains the codec).
# - **Classification**: how many test images a 5-nearest-neighbour classifier and a linear probe classify correctly from codes.
# - **Anomaly detection**: the area under the ROC curve (AUROC) when a model is trained on one class and all others are
#   anomalies, averaged over the classes. The score is the squared error, or the relative error of `06_detect_anomalies`.

# %%
purposes = {
    "SSE per image": ("{}.test.sse", "lower"),
    "bits per image": ("{}.test.bits_at_equal_error", "lower"),
    "5-NN accuracy": ("{}.test.knn5_accuracy", "higher"),
    "linear probe accuracy": ("{}.test.linear_probe_accuracy", "higher"),
    "AUROC, squared error": ("oneclass.{}_mse.auroc_mean", "higher"),
    "AUROC, relative error": ("oneclass.{}_relative.auroc_mean", "higher"),
}

# %% [markdown]
# The SSE of PCA is that of its reconstructions clipped to [0, 1], which `03_evaluate` stores as `pca_clipped`.


# %%
def metric_of(purpose, model):
    name = purposes[purpose][0].format(model)
    return name.replace("pca.test.sse", "pca_clipped.test.sse")


# %%
names = pd.DataFrame(index=models)
for purpose in purposes:
    names[purpose] = [metric_of(purpose, model) for model in models]
is_known = names.isin(list(measured))
names = names.loc[is_known.any(axis=1), is_known.any()]
missing = is_known.index.difference(names.index)
print("Models without results in this run:", ", ".join(missing) or "none")

# %% [markdown]
# ## Is the comparison fair?
#
# No: the models do not have equal budgets. `dense` is the network of `02_train` with a constant learning rate. `scheduled` is
# the same network, trained with smaller minibatches and a learning rate that falls to 0; the difference between the two is the
# effect of the training alone. `wide` has wider layers and `conv` has convolutions. `denoising` is `scheduled`, trained to
# remove noise; here it gets clean images. `vae` is the variational autoencoder, trained on binary images; it has more units, of
# which it uses only a part.

# %% tags=["nbval-ignore-output"]
costs = {
    "latent dimension": "{}.latent_dim",
    "parameters": "{}.parameters",
    "training time, s": "{}.train.seconds",
    "inference, s per 10,000 images": "{}.test.seconds_per_10000",
}
costs_of_models = pd.DataFrame(index=names.index)
for cost, name in costs.items():
    cells = [measured.get(name.format(model), comparison.NOTHING) for model in names.index]
    costs_of_models[cost] = cells
costs_of_models.rename_axis(columns=title)

# %% [markdown]
# The seconds are of a single training each, and other notebooks may have run on the machine at the same time. They show the
# order of magnitude, and nothing is concluded from them.

# %% [markdown]
# ## What did this run measure?
#
# In brackets stands the 95 % confidence interval over the test images. It accounts for the sampling of test images, but not for the
# training seed. A dash means that the model was not measured for this purpose.

# %% tags=["nbval-ignore-output"]
intervals = names.map(lambda name: measured.get(name, comparison.NOTHING))
intervals.rename_axis(columns=title).map(str)

# %% [markdown]
# ## What would another training seed give?
#
# The reference values of this profile come from trainings with several seeds. The next table has their mean ± standard
# deviation; a value without a deviation is deterministic, or was measured once.

# %%
reference = run.reference()
over_seeds = names.map(lambda name: comparison.over_seeds(reference.get(name)))
over_seeds.rename_axis(columns=f"{title}, reference, mean ± SD") if reference else "no reference"

# %% [markdown]
# ## Who is best at reconstruction and compression?
#
# Both figures show this run and, where this profile has them, the reference values. The dashed line is PCA. A model
# without a reference value has no second marker.


# %%
def best_for(purpose):
    means = intervals[purpose].map(lambda interval: interval.value)
    return means.idxmin() if purposes[purpose][1] == "lower" else means.idxmax()


# %%
series = {"this run, 95 % over test images": intervals}
if reference:
    series["reference, mean ± SD over seeds"] = over_seeds


# %%
errors = [purpose for purpose in names if purposes[purpose][1] == "lower"]
winners = ", ".join(f"{best_for(purpose)} ({purpose})" for purpose in errors)
caption = f"Figure 12.1. {title}: the lowest values are those of {winners}. Lower is better."
panels = comparison.panels(series, errors)
run.show("12_errors", comparison.interval_rows(panels, caption))

# %% [markdown]
# The reconstructions of an autoencoder lie on a curved manifold in pixel space, those of PCA in an affine subspace; that is why a
# network with as many units can have a lower error. For compression the error is fixed, and the rate depends on the entropy of the
# quantised code. The VAE's KL term penalises the information in the code, in nats per unit. On MNIST it needs the fewest bits,
# although its error on grey images is the highest of the autoencoders.

# %% [markdown]
# ## Who is best at classification and anomaly detection?

# %%
scores = [purpose for purpose in names if purpose not in errors]
winners = ", ".join(f"{best_for(purpose)} ({purpose})" for purpose in scores)
caption = f"Figure 12.2. {title}: the highest values are those of {winners or 'no model'}. Higher is better."
if scores:
    panels = comparison.panels(series, scores)
    run.show("12_scores", comparison.interval_rows(panels, caption))

# %% [markdown]
# The training losses do not reward codes that separate classes or anomalies. A lower reconstruction error therefore
# need not improve these measures. `05_explore_latent_space` explains the linear probe, and `06_detect_anomalies` has
# better scores than the squared error.

# %% [markdown]
# ## What does a lower error cost?
#
# A model is Pareto-optimal if no other has both fewer parameters and a lower mean error. Seconds are left out for the reason
# given above.

# %%
points = pd.DataFrame([vars(interval) for interval in intervals[errors[0]]], names.index)
points["cost"] = [interval.value for interval in costs_of_models["parameters"]]
points["front"] = comparison.pareto_front(points["cost"], points["value"])

# %%
front = ", ".join(points.index[points["front"]])
caption = f"Figure 12.3. {title}: the Pareto-optimal models in parameters and error are {front}."
run.show("12_cost", comparison.labelled_points({"parameters": points}, caption, errors[0]))

# %% [markdown]
# ## Who is best at denoising?
#
# The squared error per pixel against the clean image, by the standard deviation σ of the noise. `noisy` is the image as it
# is. `linear` is the best linear map of `10_denoise` for each σ, and `linear_blind` is one map for all σ, as each
# network is. Methods and levels that `10_denoise` did not measure are left out.

# %% tags=["nbval-ignore-output"]
noise = pd.DataFrame(index=denoisers)
for level in noise_levels:
    metric = f"test.{numbered_name('mse_noise', level)}"
    entries = [measured.get(f"{name}.{metric}", comparison.NOTHING).value for name in denoisers]
    noise[f"σ = {level:g}"] = entries
noise = noise.dropna(how="all").dropna(axis=1, how="all")
noise.rename_axis(columns=f"{title}, MSE per pixel").round(4).fillna("–")

# %% [markdown]
# On MNIST `residual`, which has no bottleneck, has the lowest error at all four levels: it can keep the image and remove the
# noise. `denoising` has to pass the image through its code, and loses to the linear maps where there is little noise.

# %% [markdown]
# ## Who gives images the highest likelihood?
#
# Only the VAE is a probabilistic model of images; its baselines are a mixture of Bernoulli images and independent pixels. For
# the VAE the exact value is unknown: the bound (negative ELBO) is in expectation at least the true value, and the
# importance-weighted estimate converges to it as the number of samples grows.

# %% tags=["nbval-ignore-output"]
likelihoods = {
    "vae, bound": "vae.test.negative_elbo",
    "vae, importance-weighted estimate": "vae.test.nll",
    "mixture, exact": "mixture.test.nll",
    "independent pixels, exact": "independent.test.nll",
}
nats = {label: measured[name] for label, name in likelihoods.items() if name in measured}
pd.Series(nats, dtype=object).to_frame(f"{title}, nats per image").map(str)

# %% [markdown]
# ## Decide
#
# Each question names one purpose and two models, or a model and PCA. The questions were written after an earlier edition's
# results on these test images were known: the correction covers their number, not that choice. The differences are paired by
# image. All claims are decided together (Holm, 5 %). `gain` is positive if the claim holds; "no" means a significant difference
# in the other direction.

# %%
questions = [
    ("A better training schedule reconstructs better", "SSE per image", "scheduled", "dense"),
    ("Convolutions reconstruct better than wide layers", "SSE per image", "conv", "wide"),
    ("The VAE needs fewer bits than conv", "bits per image", "vae", "conv"),
    ("5-NN is better on dense's codes than on PCA's", "5-NN accuracy", "dense", "pca"),
    ("5-NN is better on scheduled's codes than on PCA's", "5-NN accuracy", "scheduled", "pca"),
    ("5-NN is better on wide's codes than on PCA's", "5-NN accuracy", "wide", "pca"),
    ("5-NN is better on conv's codes than on PCA's", "5-NN accuracy", "conv", "pca"),
    ("A probe is better on conv's codes than on PCA's", "linear probe accuracy", "conv", "pca"),
    ("Training on noise helps a probe", "linear probe accuracy", "denoising", "scheduled"),
    ("conv detects better than chosen PCA", "AUROC, relative error", "conv", "pca_chosen"),
]

# %%
claims = []
for claim, purpose, model, baseline in questions:
    pair = metric_of(purpose, model), metric_of(purpose, baseline)
    if set(pair) <= set(values):
        claims.append((claim, *pair, purposes[purpose][1]))
    else:
        print("left out, since this run has no values of the single images:", claim)

# %%
counted = {"compare.models": len(names), "compare.claims": len(claims)}
reproduced = run.finish(counted, claims, list(counted), earlier=values)

# %% tags=["nbval-ignore-output"]
verdicts = reproduced.claims[["claim", "gain", "verdict"]]
verdicts.rename_axis(columns=f"{title}, this run")

# %% [markdown]
# The same claims, decided over training seeds and test images together, from the trainings of the reference values. These verdicts
# account for the training seed as well; where the two tables differ, they take precedence.

# %%
table = comparison.published_claims(claims_file(profile), run.notebook)
table if len(table) else "This profile has no claims decided over several seeds."

# %% [markdown]
# ## Results
#
# For each purpose the model with the best mean of this run, beside the runner-up and PCA. The best model is picked by the test
# images, so that its lead is somewhat too large; the claims above are free of that.

# %% tags=["nbval-ignore-output"]
rows = {}
for purpose in names:
    means = intervals[purpose].map(lambda interval: interval.value).dropna()
    order = means.sort_values(ascending=purposes[purpose][1] == "lower")
    labels = [f"{model}: {mean:.4g}" for model, mean in order.items()]
    first, second = [*labels, "–"][:2]
    pca = f"{order['pca']:.4g}" if "pca" in order else "–"
    rows[purpose] = {"best": first, "second": second, "PCA": pca}
pd.DataFrame(rows).T.rename_axis(columns=title)

# %%
reproduced

# %% [markdown]
# On MNIST no model is best for every purpose. `conv` reconstructs best and has the best linear probe, the VAE needs the fewest
# bits, `residual` removes noise best, and the relative error of `dense`, for which it was tuned, has the highest AUROC, just ahead
# of `wide`. 5-NN is no more accurate on the codes of `dense` and `scheduled` than on those of PCA; on those of `wide` and `conv` it
# is more accurate, by about half a percentage point.

# %% [markdown]
# ## Limitations
#
# The models had unequal budgets of time and parameters, and their learning rates were tuned by hand on validation images. Models
# that were not measured for a purpose may be better at it. All numbers are of one data set. Few training seeds make the
# intervals over seeds wide, so that "no difference detected" is no proof of equality.
#
# **Read next.** `13_study_latent_size` varies the latent dimension of PCA and the autoencoder. On comparing models over several
# seeds: Bouthillier et al., "Accounting for variance in machine learning benchmarks", MLSys 2021.
