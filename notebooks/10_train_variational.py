# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a variational autoencoder
#
# **What you will do.** Train a variational autoencoder (VAE), estimate the likelihood that it gives to test images and put it
# beside a mixture model and published figures, count the units of its code that are in use, draw new images from it and
# measure whether they look like real ones, and make its code collapse.
#
# **What you will learn.** What a VAE can do that an autoencoder cannot, say how probable an image is and draw new ones,
# and what it pays for that in reconstruction; how far the ELBO lies below the likelihood.
#
# **What you need.** The model of `02_train`, to compare with. **Time.** Some 15 minutes on one core for MNIST.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that 02_train was given
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
hidden: list = [500, 500]  # units of the encoder's hidden layers; the decoder mirrors them
latent_dim: int = 40  # numbers in the code, as in Rezende and Mohamed (2015); what is too many stays unused
beta: float = 1.0  # weight of the divergence; 1 for the ELBO
epochs: int = 60  # passes over the training images; 5 for a quick look
batch_size: int = 128  # images per step
learning_rate: float = 0.001  # the step size of Adam at the start; it falls to 0 along a cosine
seed: int = 0  # of everything that is drawn
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions
samples: int = 300  # codes per test image, for the likelihood; 5,000 in Burda et al. (2016), which takes longer than training
elbo_samples: int = 10  # codes per image, for the ELBO
goals: list = [89.9, 86.8]  # nats per image that are to be reached: published figures, see below
components: list = [30, 100, 300]  # of the mixture model; the best on the validation images is taken
iterations: int = 30  # of the mixture's expectation maximisation
drawn: int = 2000  # new images to be judged; at most as many as there are test images
neighbour_count: int = 10  # nearest training images that are asked for their class
pairs: int = 500  # of test images between which is interpolated
half_steps: int = 4  # from an end of a path to its middle
sweep_betas: list = [0.1, 1.0, 4.0, 32.0]  # weights of the divergence, ascending
sweep_epochs: int = 5  # enough to tell them apart
map_epochs: int = 6  # for the VAE whose code is two numbers
map_steps: int = 20  # images along each side of its map

# Comparison with the other models, as in 09_train_convolutional
equal_error: float = 0.015  # MSE at which the codecs are compared
penalties: list = [0.01, 0.1]  # candidates for the linear probe
one_class_epochs: int = 8
one_class_batch_size: int = 64
one_class_learning_rate: float = 0.002
# fmt: on

# %% [markdown]
# ## Load the images
#
# A VAE of this kind is a model of binary images. In training, every pixel is drawn anew in every epoch, 1 with its grey value
# as probability; the test images are drawn once, by the seed, and are then the same for every model below.

# %%
import time

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import comparison, latent, variational
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.decomposition import PCA

if pairs < 3:
    raise StudyError(f"pairs is {pairs}; expected at least 3, which are drawn: change it.")
run = Run(profile, "10_train_variational")
dense = models.load(run.artifact("02_train/dense.keras"))
images = data.load(dataset, image_size=image_size)
images

# %%
grey = {"training": images.x_train, "validation": images.x_val, "test": images.x_test}
binary = {split: variational.binarised(x, [seed, n]) for n, (split, x) in enumerate(grey.items())}
x_train, x_val, x_test = grey.values()
{split: (x.shape, sorted(set(x[:10].ravel().tolist()))) for split, x in binary.items()}

# %% [markdown]
# ## Build the VAE
#
# The encoder gives no code but a distribution of codes, q(z | x), a Gaussian with a mean and a variance for each unit. In
# training a code is drawn from it, and the decoder says of each pixel how probable a 1 is. What is maximised is the
# **evidence lower bound** (ELBO), the expected log p(x | z) minus the divergence of q(z | x) from the prior N(0, I): how well
# the image is drawn again, minus what the code tells of it. It lies below log p(x), the logarithm of the probability that the
# model gives to the image (Kingma and Welling 2014). Without the divergence and the draw, this would be an ordinary
# autoencoder of binary images. Outside training, the code is the mean.

# %%
keras.utils.set_random_seed(seed)
vae = models.variational_autoencoder(images.pixels, hidden, latent_dim, beta)
vae.autoencoder.count_params(), vae.encoder.get_layer("posterior").units, vae.encoder.output_shape


# %%
def settings(epochs):
    steps = epochs * -(-len(images.y_train) // batch_size)
    falling = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    return training.Settings(epochs, batch_size, falling, seed, compiler)


def fit(model, epochs):
    given = model.autoencoder, images.pixels_train, images.pixels_val, settings(epochs)
    return training.fit(
        *given, checkpoint_folder=run.folder / "checkpoints", task=training.Binarise()
    )


# %% [markdown]
# ## Train

# %% tags=["nbval-ignore-output"]
begun = time.perf_counter()
fitted = fit(vae, epochs)
train_seconds = time.perf_counter() - begun

# %% [markdown]
# The loss is −ELBO per pixel; in validation codes are drawn, too, one for each image. As in `02_train` there is no early
# stopping and no choice among epochs.

# %%
epoch_numbers = pd.RangeIndex(1, epochs + 1)
names = {"loss": "training", "val_loss": "validation"}
curves = {
    label: pd.DataFrame({"value": images.pixels * np.array(fitted.history[key])}, epoch_numbers)
    for key, label in names.items()
}
ends = {label: curve["value"].iloc[-1] for label, curve in curves.items()}
caption = (
    f"Figure 10.1. {images.title}: −ELBO by epoch; lower is better. It ends at {ends['training']:.1f} nats per image in training and "
    f"{ends['validation']:.1f} in validation; the last tenth of the epochs changed the latter by "
    f"{ends['validation'] - curves['validation']['value'].iloc[-max(2, epochs // 10)]:+.1f}."
)
run.show(
    "10_elbo_curves", figures.lines(curves, caption, "epoch", "−ELBO / nats per image", bottom=None)
)

# %% [markdown]
# ## Take the ELBO apart
#
# Now with the final weights and several draws for each image. The **reconstruction** is the expected log p(x | z), the
# **divergence** what it costs to tell the decoder which code it is.

# %% tags=["nbval-ignore-output"]
posteriors = {split: variational.posterior(vae.encoder, x) for split, x in binary.items()}
likelihood = variational.bernoulli(vae.decoder)
parts = {
    s: variational.elbo(x, *posteriors[s], likelihood, elbo_samples, seed)
    for s, x in binary.items()
}
bounds = {
    split: table.apply(metrics.interval, seed=seed, result_type="reduce")
    for split, table in parts.items()
}
pd.DataFrame(bounds).T.rename_axis(columns=f"{images.title}, nats per image, mean [95 % interval]")

# %% [markdown]
# ## Estimate the likelihood
#
# log p(x) itself is an integral over all codes. Codes drawn from q(z | x), each weighted by p(x | z) p(z) / q(z | x), estimate
# it: the logarithm of the mean of k weights is a lower bound for every k, the ELBO for k = 1, and rises to log p(x) with k
# (Burda, Grosse and Salakhutdinov 2016). What is reported as the **negative log-likelihood** (NLL) is this bound with all
# samples; the true one is lower, if anything.

# %%
weights = variational.log_weights(binary["test"], *posteriors["test"], likelihood, samples, seed)
numbers = [k for k in (1, 2, 5, 10, 50, 100, 500, 1000, 5000) if k < samples] + [samples]
nats = {k: -variational.importance_bound(weights, k) for k in numbers}
by_number = pd.DataFrame(
    [metrics.interval(values, seed) for values in nats.values()], index=numbers
)
nll, gap = nats[samples], metrics.interval(nats[1] - nats[samples], seed)
last_step = by_number["value"].iloc[-2] - by_number["value"].iloc[-1]
caption = (
    f"Figure 10.2. {images.title}: the estimated NLL of the test images falls with the number of samples, from the −ELBO by "
    f"{gap.value:.2f} nats; the last step lowers it by {last_step:.2f}. The intervals, 95 %, are over the images, which are the same throughout."
)
run.show(
    "10_importance_bound",
    figures.intervals_by_group(
        {"VAE": by_number}, caption, "samples per image", "NLL / nats per image", bottom=None
    ),
)

# %% [markdown]
# Is it a good likelihood? Two baselines whose likelihood is exact: independent pixels with the means of the training images,
# and a mixture of such images, fitted by expectation maximisation to one draw of the training images (the VAE sees a new one in
# each epoch), with the number of components that is best on the validation images among a few.

# %% tags=["nbval-ignore-output"]
baselines = {
    k: variational.fit_mixture(binary["training"], k, iterations, seed) for k in [1, *components]
}
mixture = max(components, key=lambda k: baselines[k].log_likelihood(binary["validation"]).mean())
rivals = {
    name: -baselines[k].log_likelihood(binary["test"])
    for name, k in (("independent", 1), ("mixture", mixture))
}
ess = variational.effective_samples(weights)
nll_table = {
    "independent pixels": metrics.interval(rivals["independent"], seed),
    f"mixture of {mixture} components": metrics.interval(rivals["mixture"], seed),
    "VAE, −ELBO": metrics.interval(nats[1], seed),
    f"VAE, NLL with {samples:,} samples": metrics.interval(nll, seed),
    "gap between the two": gap,
    f"effective samples of {samples:,}, median": np.median(ess),
}
pd.Series(nll_table, name=f"{images.title}, test, nats per image [95 % interval]").to_frame()

# %% [markdown]
# Beside them, published figures for MNIST in nats per image. Protocols differ (the binary images, the networks, how long they
# are trained), and a difference of a few tenths means nothing. The first two are the goals of this notebook on MNIST: the one
# has a code of as many numbers, the other the same way to draw the binary images.

# %%
published = {
    "Deep latent Gaussian model, diagonal q": ("≤ 89.9", "40 units, maxout, 500,000 steps; bound", "Rezende and Mohamed 2015"),
    "VAE": ("86.76", "50 units, 2 × 200 tanh, drawn anew; 5,000 samples", "Burda et al. 2016"),
    "Importance weighted autoencoder, 50 samples": ("84.78", "the same", "Burda et al. 2016"),
    "Mixture of Bernoullis": ("137.64", "500 components, drawn once; exact", "Larochelle and Murray 2011"),
}  # fmt: skip
pd.DataFrame(published, ["NLL", "protocol", "source"]).T.rename_axis(columns="published, MNIST")

# %%
for goal in goals:
    print(
        f"NLL at most {goal} nats, with its whole interval:",
        "yes" if by_number["high"].iloc[-1] <= goal else "no",
    )
for name, values in rivals.items():
    print(f"lower NLL than {name}:", metrics.lower(nll, values, seed))

# %% [markdown]
# ## Count the units in use
#
# The divergence is paid for each unit that tells anything, and a unit that is not worth its price is switched off: its
# posterior is the prior, whatever the image. A unit is *active* if the variance of its posterior mean over the images exceeds
# 0.01 (Burda et al. 2016). PCA has no such price: all of its components vary.

# %%
means, log_variances = posteriors["test"]
active = variational.active_units(means)
unit_kl = variational.kl_terms(means, log_variances).mean(axis=0)
active_kl = unit_kl[active].sum()
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(x_train)
spread = {
    "VAE, posterior means": means.var(axis=0),
    f"PCA-{latent_dim}": pca.transform(x_test).var(axis=0),
}
ranks = np.arange(1, latent_dim + 1)
shares = {
    name: pd.DataFrame({"value": 100 * np.sort(v / v.sum())[::-1]}, ranks)
    for name, v in spread.items()
}
caption = (
    f"Figure 10.3. {images.title}: share of each unit in the variance of the test codes. {active.sum()} of {latent_dim} units of the "
    f"VAE are active and have {active_kl:.1f} of the {unit_kl.sum():.1f} nats of divergence; the largest has {unit_kl.max():.1f}."
)
run.show(
    "10_active_units",
    figures.lines(shares, caption, "latent unit, in falling order", "share of variance / %"),
)
print(f"all {latent_dim} units are active:", "yes" if active.all() else "no")

# %% [markdown]
# ## Reconstruct
#
# The grey test images, not the binary ones, from the mean code, beside PCA with as many components and the dense autoencoder of
# `02_train`. The VAE was asked for something else: its loss counts what a code tells.

# %%
from_pca = pca.inverse_transform(pca.transform(x_test)).clip(0, 1)
reconstructions = {
    "vae": models.predict_in_batches(vae.autoencoder, x_test),
    "dense": models.predict_in_batches(dense.autoencoder, x_test),
}
label = {
    "vae": f"VAE-{latent_dim}",
    "dense": f"dense-{dense.encoder.output_shape[1]}",
    "pca": f"PCA-{latent_dim}",
}

# %% tags=["nbval-ignore-output"]
scores = {
    name: metrics.score(x_test, y, images.shape)
    for name, y in {**reconstructions, "pca": from_pca}.items()
}
quality = {
    name: table.apply(metrics.interval, seed=seed, result_type="reduce")
    for name, table in scores.items()
}
title = f"{images.title}, test, mean [95 % interval]"
pd.DataFrame(quality).drop(["bce", "excess_bce"]).rename(columns=label).rename_axis(columns=title)

# %%
chosen = images.examples(seed)
rows = {"test image": x_test[chosen]}
rows |= {label[name]: y[chosen] for name, y in {**reconstructions, "pca": from_pca}.items()}
caption = (
    f"Figure 10.4. {images.title}: test images drawn at random and their reconstructions. Mean squared error per pixel: VAE "
    f"{quality['vae']['mse'].value:.4f}, dense autoencoder {quality['dense']['mse'].value:.4f}, PCA {quality['pca']['mse'].value:.4f}."
)
run.show("10_reconstructions", figures.image_rows(rows, images.shape, caption))
for other in ("pca", "dense"):
    verdict = metrics.lower(scores["vae"]["mse"], scores[other]["mse"], seed)
    print(f"the VAE has a lower squared error than {label[other]}: {verdict}")

# %% [markdown]
# ## Draw new images
#
# From the VAE's prior: standard normal codes, decoded. An ordinary autoencoder has no prior; the nearest thing is a
# Gaussian with the mean and the covariance of its training codes. Does the prior matter? The same Gaussian, fitted to the
# VAE's codes, tells the prior's share from the decoder's.

# %%
rng, count = np.random.default_rng(seed), min(drawn, len(x_test), len(x_val))
codes = {
    name: models.predict_in_batches(model.encoder, x_train)
    for name, model in (("vae", vae), ("dense", dense))
}
covariance = {n: np.atleast_2d(np.cov(c, rowvar=False)) for n, c in codes.items()}
normal = {
    n: rng.multivariate_normal(c.mean(axis=0), covariance[n], count, method="cholesky")
    for n, c in codes.items()
}
prior = rng.standard_normal((count, latent_dim))
new = {
    "VAE, prior": models.predict_in_batches(vae.decoder, prior),
    "VAE, fitted Gaussian": models.predict_in_batches(vae.decoder, normal["vae"]),
    "dense, fitted Gaussian": models.predict_in_batches(dense.decoder, normal["dense"]),
}

# %% [markdown]
# Three questions to each set of images. Is an image near a real one: its squared distance to the nearest training image? Is it
# a digit: do the nearest training images agree on its class? Is the set as diverse as real images: how far is a validation
# image from the nearest one of the set? Decoded images are smoother than real ones and therefore nearer to them all, so that
# the reference of each decoder is what it makes of the codes of as many test images.

# %% tags=["nbval-ignore-output"]
sets = {
    **new,
    "VAE, codes of test images": reconstructions["vae"][:count],
    "dense, codes of test images": reconstructions["dense"][:count],
    "test images": x_test[:count],
}
near = {name: latent.neighbours(x_train, x, neighbour_count) for name, x in sets.items()}
far = {name: images.pixels * metrics.mse(x, x_train[near[name][:, 0]]) for name, x in sets.items()}
agree = {name: latent.purity(images.y_train, ids) for name, ids in near.items()}
x_few = x_val[:count]
missed = {
    n: images.pixels * metrics.mse(x_few, x[latent.neighbours(x, x_few, 1)[:, 0]])
    for n, x in sets.items()
}
columns = {
    "SSE to the nearest training image": far,
    f"agreement of {neighbour_count} neighbours": agree,
    "SSE from a validation image": missed,
}
judged = {
    c: {name: metrics.interval(v, seed) for name, v in by.items()} for c, by in columns.items()
}
pd.DataFrame(judged).rename_axis(columns=f"{images.title}, {count:,} images each [95 % interval]")


# %%
def mosaics(panels, caption):
    """Grids of images, shape (rows, columns, pixels), side by side, each drawn as one picture."""
    rows, columns, _ = next(iter(panels.values())).shape
    with figures.look():
        height = min(6.0, 8.6 / len(panels)) * rows / columns * images.shape[0] / images.shape[1]
        figure = figures.new(caption, height=height + 0.3)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, pictures) in zip(grid, panels.items(), strict=True):
            tiles = pictures.reshape(rows, columns, *images.shape)
            framed = np.pad(tiles, [(0, 0), (0, 0), (1, 1), (1, 1)]).swapaxes(1, 2)
            figures.draw_image(axes, framed.reshape(rows * framed.shape[1], -1))
            axes.set_title(title)
    return figure


# %%
side = min(10, int(np.sqrt(count)))
shown = {name: x[: side**2].reshape(side, side, -1) for name, x in new.items()}
caption = (
    f"Figure 10.5. {images.title}: new images, the first drawn. The {neighbour_count} nearest training images agree to "
    + ", ".join(f"{100 * agree[name].mean():.0f} % ({name})" for name in [*new, "test images"])
)
run.show("10_samples", mosaics(shown, f"{caption}."))

# %% [markdown]
# By how much is a decoder's new image farther from real ones than what it makes of real codes? And are the new images nearer
# to training images than to as many test images, as they would be if the VAE had learned its training images by heart? The
# validation images, which it was not trained on, say what is normal: training and test images may come from other writers.

# %% tags=["nbval-ignore-output"]
excess = {n: far[n] - far[f"{n.split(',')[0]}, codes of test images"] for n in new}


def by_heart(x):  # how much nearer to a training image than to one of as many test images
    some = [part[latent.neighbours(part, x, 1)[:, 0]] for part in (x_train[: len(x_test)], x_test)]
    return images.pixels * (metrics.mse(x, some[1]) - metrics.mse(x, some[0]))


known = by_heart(new["VAE, prior"])
questions = {
    "VAE nearer to a real image than dense, SSE": far["dense, fitted Gaussian"] - far["VAE, prior"],
    "… beyond its own decoded test images, SSE": excess["dense, fitted Gaussian"]
    - excess["VAE, prior"],
    "VAE's neighbours agree more than dense's": agree["VAE, prior"]
    - agree["dense, fitted Gaussian"],
    "VAE misses less of the validation images, SSE": missed["dense, fitted Gaussian"]
    - missed["VAE, prior"],
    "prior better than a Gaussian fitted to the VAE": far["VAE, fitted Gaussian"]
    - far["VAE, prior"],
    "VAE nearer to training than to test images": known,
    "… by more than validation images are": known - by_heart(x_few),
}
margins = {question: metrics.interval(gain, seed) for question, gain in questions.items()}
verdicts = {question: (margin, margin.verdict) for question, margin in margins.items()}
pd.DataFrame(verdicts, ["by [95 % interval]", "verdict"]).T.rename_axis(columns=images.title)

# %%
for question in list(questions)[:2]:
    print(f"{question}: {margins[question].verdict}")

# %% [markdown]
# ## Walk from digit to digit
#
# As in `05_explore_latent_space`: pairs of test images of different classes, the straight line between their codes, and the
# cross-fade of their reconstructions, which has the same ends.

# %% tags=["nbval-ignore-output"]
first, second = latent.unlike_pairs(images.y_test, pairs, seed)
paths, middles = {}, {}
for name, model in (("vae", vae), ("dense", dense)):
    ends = [models.predict_in_batches(model.encoder, x_test[side]) for side in (first, second)]
    walked = latent.path(*ends, 2 * half_steps + 1)
    paths[name] = models.predict_in_batches(
        model.decoder, walked.reshape(-1, walked.shape[-1])
    ).reshape(*walked.shape[:2], -1)
    middles[label[name]] = paths[name][half_steps]
    middles[f"{label[name]}, cross-fade"] = (paths[name][0] + paths[name][-1]) / 2
between = {name: latent.neighbours(x_train, x, neighbour_count) for name, x in middles.items()}
path_far = {
    name: images.pixels * metrics.mse(x, x_train[between[name][:, 0]])
    for name, x in middles.items()
}
path_agree = {name: latent.purity(images.y_train, ids) for name, ids in between.items()}
columns = {
    "SSE to the nearest training image": path_far,
    f"agreement of {neighbour_count} neighbours": path_agree,
}
for by in columns.values():  # pair by pair
    for name in label["vae"], label["dense"]:
        by[f"{name} minus its cross-fade"] = by[name] - by[f"{name}, cross-fade"]
    by[f"{label['vae']} minus {label['dense']}"] = by[label["vae"]] - by[label["dense"]]
half_way = {
    c: {name: metrics.interval(v, seed) for name, v in by.items()} for c, by in columns.items()
}
pd.DataFrame(half_way).rename_axis(
    columns=f"{images.title}, half way, {pairs} pairs [95 % interval]"
)

# %%
rows = {}
for i in range(3):
    rows |= {f"{i + 1}, {label[name]}": path[:, i] for name, path in paths.items()}
caption = (
    f"Figure 10.6. {images.title}: from one test image to another along the straight line between their codes. Half way the squared "
    f"distance to the nearest training image is {path_far[label['vae']].mean():.1f} for the VAE (cross-fade {path_far[label['vae'] + ', cross-fade'].mean():.1f}), "
    f"{path_far[label['dense']].mean():.1f} for the dense autoencoder ({path_far[label['dense'] + ', cross-fade'].mean():.1f})."
)
run.show("10_interpolation", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# ## Draw the map of a code of two numbers
#
# With a code of two numbers the whole model fits on a page: every image that it can draw, each standing for as much of the
# prior's probability as every other (Kingma and Welling 2014).

# %% tags=["nbval-ignore-output"]
keras.utils.set_random_seed(seed)
flat = models.variational_autoencoder(images.pixels, hidden, 2, beta)
flat_fitted = fit(flat, map_epochs)

# %%
quantiles = norm.ppf((np.arange(map_steps) + 0.5) / map_steps).astype("float32")
grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1)  # the second unit grows upwards
drawn_map = models.predict_in_batches(flat.decoder, grid.reshape(-1, 2))
drawn_map = drawn_map.reshape(map_steps, map_steps, -1)
flat_elbo = images.pixels * flat_fitted.history["val_loss"][-1]
caption = (
    f"Figure 10.7. {images.title}: the images of a VAE with a code of two numbers, at the quantiles of the prior. Its validation −ELBO is "
    f"{flat_elbo:.0f} nats, that of the VAE above {-bounds['validation']['elbo'].value:.0f}."
)
run.show("10_manifold", mosaics({f"{map_steps} × {map_steps} codes": drawn_map}, caption))

# %%
flat_codes = models.predict_in_batches(flat.encoder, x_test)
ids = latent.neighbours(models.predict_in_batches(flat.encoder, x_train), flat_codes, 5)
right = latent.vote(images.y_train, ids) == images.y_test
single = len(np.unique(images.y_train)) < 2  # then there are no classes to be told apart
right = metrics.interval(np.where(single, np.nan, right), seed)
caption = (
    f"Figure 10.8. {images.title}: the codes of the test images in the same plane. The 5 nearest training codes name the class of "
    f"{100 * right.value:.1f} % [{100 * right.low:.1f}, {100 * right.high:.1f}] of them; no label was used in training."
)
run.show(
    "10_plane",
    figures.scatter_maps(
        {"codes": flat_codes}, images.classes[images.y_test], caption, "latent unit {}"
    ),
)

# %% [markdown]
# ## Make the code collapse
#
# β weighs the divergence. Below 1 the code may tell more than the ELBO would pay for; above 1, unit after unit is not worth
# its price, until the posterior is the prior, the decoder ignores the code and draws the same image for all: **posterior
# collapse**. The same network, trained for fewer epochs.


# %% tags=["nbval-ignore-output"]
def swept(weight):
    keras.utils.set_random_seed(seed)
    model = models.variational_autoencoder(images.pixels, hidden, latent_dim, weight)
    fit(model, sweep_epochs)
    return model


sweep = {weight: swept(weight) for weight in sweep_betas}

# %% tags=["nbval-ignore-output"]
swept_posteriors = {
    weight: variational.posterior(model.encoder, binary["test"]) for weight, model in sweep.items()
}
swept_images = {
    weight: models.predict_in_batches(model.autoencoder, x_test) for weight, model in sweep.items()
}
swept_parts = {
    w: variational.elbo(
        binary["test"], *swept_posteriors[w], variational.bernoulli(m.decoder), elbo_samples, seed
    )
    for w, m in sweep.items()
}
collapse = {
    f"β = {w:g}": {
        "−ELBO": metrics.interval(-swept_parts[w]["elbo"], seed),
        "KL": metrics.interval(swept_parts[w]["kl"], seed),
        "active units": int(variational.active_units(swept_posteriors[w][0]).sum()),
        "MSE per pixel": metrics.interval(metrics.mse(x_test, swept_images[w]), seed),
    }
    for w in sweep_betas
}
mean_image = metrics.interval(metrics.mse(x_test, x_train.mean(axis=0)), seed)
reference = {"mean image": {"KL": 0, "active units": 0, "MSE per pixel": mean_image}}
title = f"{images.title}, test, {sweep_epochs} epochs [95 % interval]"
pd.DataFrame(collapse | reference).T.fillna("").rename_axis(columns=title)

# %%
rows = {"test image": x_test[chosen]} | {f"β = {w:g}": y[chosen] for w, y in swept_images.items()}
counts = ", ".join(f"{row['active units']} ({weight})" for weight, row in collapse.items())
caption = (
    f"Figure 10.9. {images.title}: reconstructions of VAEs whose divergence weighs more from row to row. Active units of "
    f"{latent_dim}: {counts}."
)
run.show("10_collapse", figures.image_rows(rows, images.shape, caption))
lightest, heaviest = sweep_betas[0], sweep_betas[-1]
for weight in (lightest, heaviest):
    collapsed = collapse[f"β = {weight:g}"]["active units"] == 0
    print(f"collapsed at β = {weight:g}, no unit active:", "yes" if collapsed else "no")

# %% [markdown]
# ## Keep the results
#
# With what `05_explore_latent_space`, `06_detect_anomalies` and `07_compress_images` measure, in short, for the comparison of all
# models.

# %% tags=["nbval-ignore-output"]
vae.autoencoder.save(run.new_artifact("vae.keras"))
measured = {
    "vae.train.seconds": train_seconds,
    "vae.active_units": active.sum(),
    "vae.train.elbo": bounds["training"]["elbo"].value,
    "vae.val.elbo": bounds["validation"]["elbo"].value,
    "vae.test.nll": metrics.interval(nll, seed),
    "independent.test.nll": metrics.interval(rivals["independent"], seed),
    "mixture.test.nll": metrics.interval(rivals["mixture"], seed),
}
for part in ("elbo", "reconstruction", "kl"):
    measured[f"vae.test.{part}"] = bounds["test"][part]
kinds = {
    "vae": "VAE, prior",
    "vae_fitted": "VAE, fitted Gaussian",
    "dense": "dense, fitted Gaussian",
}
for key, name in kinds.items():
    for what, values in (("distance", far[name]), ("agreement", agree[name])):
        measured[f"{key}.samples.{what}"] = metrics.interval(values, seed)
for weight in sweep_betas:
    row, key = collapse[f"β = {weight:g}"], metrics.numbered_name("vae_beta", weight)
    # Not the divergence: once collapsed it is next to 0, and no two machines agree on it.
    measured |= {
        f"{key}.test.mse": row["MSE per pixel"].value,
        f"{key}.active_units": row["active units"],
    }
measured |= comparison.evaluate("vae", vae.autoencoder, images, equal_error, penalties, seed)
one_class = one_class_epochs, one_class_batch_size, one_class_learning_rate, compiler
measured |= comparison.detection(
    "vae", vae.autoencoder, images, one_class, training.Binarise(), seed
)

# %%
prior_question, agreement_question = (list(questions)[i] for i in (1, 2))
claims = [
    (
        "A VAE gives test images more probability than a mixture of Bernoulli images, NLL in nats",
        "vae.test.nll",
        "mixture.test.nll",
        metrics.lower(nll, rivals["mixture"], seed),
    ),
    (
        "New images lie less far from real ones than the decoder's own test images if they come from a VAE's prior, not from a "
        "Gaussian on an autoencoder's codes: excess SSE",
        metrics.interval(excess["VAE, prior"], seed),
        metrics.interval(excess["dense, fitted Gaussian"], seed),
        margins[prior_question].verdict,
    ),
    (
        "… and look more like one digit: agreement of the nearest training images",
        "vae.samples.agreement",
        "dense.samples.agreement",
        margins[agreement_question].verdict,
    ),
    (
        "A VAE reconstructs better than PCA with as many numbers, MSE per pixel",
        "vae.test.mse",
        quality["pca"]["mse"],
        metrics.lower(scores["vae"]["mse"], scores["pca"]["mse"], seed),
    ),
]
scores = [f"vae.test.{score}" for score in comparison.HEADLINE]
headline = [n for n in measured if n.endswith((*scores, "auroc_mean", "nll", "elbo"))]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `12_compare_models` puts the VAE beside all other models. The sources: Kingma and Welling, "Auto-encoding
# variational Bayes", ICLR 2014; Rezende and Mohamed, "Variational inference with normalizing flows", ICML 2015; Burda, Grosse
# and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016; Higgins et al., "β-VAE", ICLR 2017; Larochelle and Murray,
# "The neural autoregressive distribution estimator", AISTATS 2011.
