# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Remove noise from images
#
# **Question.** Does a denoising autoencoder remove noise better than a linear map, and at which noise level?
#
# **What you will do.** Add Gaussian noise of several strengths to the images. Fit linear maps from noisy to clean pixels, train an
# autoencoder on noisy images, train a network without a bottleneck that corrects the noisy image, and compare them at every
# level, also with doing nothing.
#
# **What you will learn.** Why a linear regression fitted to the same images is the baseline for a learned denoiser; what a
# bottleneck costs where there is little noise; how a network without a bottleneck predicts a correction to the noisy image.
#
# **What you need.** The model `scheduled` of `02_train`, and `09_train_convolutional` for its measures. **Time.** Four minutes
# on one core, a third of it for the network without a bottleneck; half a minute for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that 02_train was given
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
seed: int = 0  # of the initial weights, the order of the images, the noise, and the images that figures show

# Noise
noise_levels: list = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7]  # standard deviations σ for the test images
most_noise: float = 0.5  # the σ of each training image is uniform between 0 and this
shown_level: float = 0.5  # σ of the images in the figure

# Linear maps
ridge_penalties: list = [10.0, 100.0, 1000.0]  # candidates; the validation images choose

# Networks
filters: list = [32, 64]  # of the convolutions of the residual network
batch_size: int = 64  # images per step, as for scheduled in 02_train
epochs: int = 20  # of denoising, as for scheduled
learning_rate: float = 0.002  # of denoising at the start, as for scheduled; it falls to 0 along a cosine
residual_epochs: int = 4  # of residual; each takes about five times as long as one of denoising
residual_learning_rate: float = 0.012  # of residual at its highest; chosen on validation images, see "Train"
residual_warm_up: float = 0.2  # share of residual's steps in which its learning rate rises, as for conv
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions

# What codes are good for, as in 09_train_convolutional
equal_error: float = 0.015  # MSE at which bits are compared
penalties: list = [0.01, 0.1]  # candidates for the linear probe
# fmt: on

# %% [markdown]
# ## Add noise
#
# Each pixel gets Gaussian noise of standard deviation σ, and the result is clipped to [0, 1], as a camera clips.

# %%
import itertools
import time

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import comparison, denoising
from ae_lib.run import Run, as_interval

import keras
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge

if shown_level not in noise_levels:
    raise StudyError(
        f"shown_level is {shown_level}; expected one of noise_levels, {noise_levels}: change it."
    )

# %%
run = Run(profile, "10_denoise")
images = data.load(dataset, image_size=image_size)
images


# %%
def noisy(level):  # made again each time: those of all levels would take much memory
    return denoising.add_noise(x, level, seed)


x, measures = images.x_test, {}
for level in noise_levels:
    y = noisy(level)
    measures[level] = metrics.mse(x, y).mean(), (y - x).mean()
columns = ["MSE to the clean image", "mean bias per pixel"]
table = pd.DataFrame.from_dict(measures, orient="index", columns=columns)
table.rename_axis(f"{images.title}, test: σ").round(4)


# %% [markdown]
# Clipping makes the noise biased. An empty pixel can only become brighter, on average by σ / √(2π), and a full one only darker;
# the second column is the mean bias over all pixels. A filter that assumes noise without bias, such as the Wiener filter, is
# therefore not the best linear filter here.

# %% [markdown]
# ## Fit linear maps
#
# The best linear filter is a regression from noisy to clean pixels. Ridge regression is fitted to the training images in
# two ways. `linear` is one map for each level, so it knows σ. `linear_blind` is one map for all levels: each training image has a σ
# of its own, uniform between 0 and `most_noise`, as for the networks below. The penalty is chosen on noisy validation
# images; the values are clipped to [0, 1]. With MNIST's 50,000 training images any penalty up to 10 gives the same validation
# error to three digits, so it does not matter that the best may lie at the end of the grid. Few training images need more.


# %%
def fit_linear_map(train_std, val_std):
    x_train, x_val = images.x_train, images.x_val  # not kept: as floats they take much memory
    noisy_train = denoising.add_noise(x_train, train_std, seed + 1)
    noisy_val = denoising.add_noise(x_val, val_std, seed + 2)
    best, lowest = None, np.inf
    for penalty in sorted(ridge_penalties):
        fit = Ridge(penalty, solver="cholesky").fit(noisy_train, x_train)
        error = metrics.mse(x_val, fit.predict(noisy_val).clip(0, 1)).mean()
        if error >= lowest:  # with the penalty the error falls, and then it rises
            break
        best, lowest = fit, error
    return best


# %%
positive = [level for level in noise_levels if level > 0]
linear_maps = {level: fit_linear_map(level, level) for level in positive}
generator = np.random.default_rng(seed)
train_std = generator.uniform(0, most_noise, len(images.y_train))
val_std = generator.uniform(0, most_noise, len(images.y_val))
blind_map = fit_linear_map(train_std, val_std)

# %%
chosen = {f"σ = {level:g}": ridge.alpha for level, ridge in linear_maps.items()}
chosen["blind"] = blind_map.alpha
pd.Series(chosen, name="penalty").to_frame().T

# %% [markdown]
# ## Build two networks
#
# `denoising` has the layers of `scheduled` from `02_train`, the study's fully connected autoencoder, whose code is its
# bottleneck. `residual` has no bottleneck. Convolutions compute a correction, a skip connection adds the noisy image, and a
# sigmoid of the sum is the output. The network follows
# DnCNN (Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", IEEE
# TIP 26, 2017), with five convolutions in place of 17. It was chosen on MNIST's noisy validation images, where its loss after
# one epoch was lower than that of two others: a fully connected network, 784-1024-1024-784, with the same skip connection, and
# the same convolutions with the image rescaled to [−4, 4] in the sum.

# %%
scheduled = keras.models.load_model(run.model("scheduled"))
keras.utils.set_random_seed(seed)
networks = {"denoising": models.reinitialized(scheduled)}
keras.utils.set_random_seed(seed)
networks["residual"] = denoising.residual_network(images.shape, filters)
pd.Series({name: n.count_params() for name, n in networks.items()}, name="parameters").to_frame()

# %% [markdown]
# ## Train
#
# In every epoch each training image gets new noise, with a σ of its own between 0 and `most_noise`; the target is the clean
# image (Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders", JMLR 11, 2010). The schedule of
# `denoising` is that of `scheduled`. Only the kind of the residual network and its learning rate were chosen on MNIST's noisy
# validation images: 4 epochs up to 0.012 leave the same errors there, within 2 %, as 6 epochs up to 0.006, in two thirds of the time.

# %%
cosine = training.Cosine(learning_rate)
settings = {"denoising": training.Settings(epochs, batch_size, cosine, seed, compiler)}
cosine = training.Cosine(residual_learning_rate, residual_warm_up)
settings["residual"] = training.Settings(residual_epochs, batch_size, cosine, seed, compiler)

# %% tags=["nbval-ignore-output"]
measured, task = {}, training.Denoise(most=most_noise)
watched = images.pixels_val[: training.VALIDATION_BATCH]  # nothing is chosen here
checkpoints = run.folder / "checkpoints"
for name, network in networks.items():
    start = time.perf_counter()
    training.fit(network, images.pixels_train, watched, settings[name], (), checkpoints, task)
    measured[f"{name}.train.seconds"] = time.perf_counter() - start
    network.save(run.new_artifact(f"{name}.keras"))
pd.Series(measured, name="seconds").to_frame().round(1)

# %% [markdown]
# ## Compare at every level
#
# The table has the squared error against the clean image for all methods: `noisy` is the image as it is, and `scheduled` is
# the autoencoder that never saw noise. The networks and `linear_blind` are the same at all levels; only `linear` is told σ.


# %%
def cleaned(method, level, y):
    if method in networks:
        return models.predict_in_batches(networks[method], y)
    if method == "noisy":
        return y
    linear_map = blind_map if method == "linear_blind" else linear_maps[level]
    return linear_map.predict(y).clip(0, 1)


networks["scheduled"] = scheduled
methods = ["residual", "denoising", "linear_blind", "linear", "scheduled", "noisy"]

# %%
errors = {}
for level in noise_levels:
    applicable = methods if level > 0 else [method for method in methods if method != "linear"]
    y = noisy(level)
    errors[level] = {method: metrics.mse(x, cleaned(method, level, y)) for method in applicable}

# %% tags=["nbval-ignore-output"]
means = pd.DataFrame({level: pd.Series(e).map(np.mean) for level, e in errors.items()})
means = means.reindex(methods).rename_axis(index=f"{images.title}, test: MSE", columns="σ")
means.map("{:.5f}".format).replace("nan", "–")

# %% [markdown]
# Read each column downwards. Without noise the best answer is the image itself, and a network with a bottleneck has an error:
# its code keeps what many images share and loses the rest. On MNIST this loss is larger than the noise itself up to σ = 0.1.
# With more noise the error of `denoising` rises as well, but more slowly than that of the linear maps. At high levels much of
# the image has to be guessed from what images of this kind look like. A network can express more of that than a linear map, if
# there are enough training images to learn it from. `scheduled` was trained on clean images only; noisy inputs lie outside its
# training distribution, and it reconstructs part of the noise.

# %%
curves = {}
for method in methods:
    intervals = [metrics.interval(errors[level][method]) for level in positive]
    curves[method] = pd.DataFrame(intervals, index=positive)

# %%
best = means[positive].idxmin()
winners = " and ".join(
    f"`{method}` at σ = {', '.join(map('{:g}'.format, levels))}"
    for method, levels in best.groupby(best).groups.items()
)
caption = (
    f"Figure 10.1. {images.title}: closest to the clean test image are {winners}. The "
    f"networks and `linear_blind` are fitted to σ from 0 to {most_noise:g}; `linear` knows σ. "
    "Bands are 95 % intervals."
)
axis = "standard deviation σ of the noise (full intensity = 1)"
run.show("10_noise", figures.lines(curves, caption, axis, "MSE per pixel", log=True))

# %%
shown = images.examples(seed)
rows = {"clean": x[shown]}
y = noisy(shown_level)[shown]
rows |= {method: cleaned(method, shown_level, y) for method in reversed(methods)}
first, *others = means[shown_level].sort_values().index
caption = (
    f"Figure 10.2. {images.title}: at σ = {shown_level:g} `{first}` has the lowest squared error, "
    f"followed by {', '.join(others)}. The test images shown are drawn at random."
)
run.show("10_denoised", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# A linear map takes the same weighted means of pixels whatever the image shows, and blurs where the noise is ambiguous.
# The autoencoder decodes a code, and produces plausible strokes, which may be wrong.

# %% [markdown]
# ## Ask what noise does to the code
#
# Denoising was proposed as a way to learn better features, not only to remove noise. Are the codes of `denoising` better than
# those of `scheduled`, which differs in nothing but the noise? The measures are those of `09_train_convolutional`.

# %%
measured |= comparison.evaluate("denoising", networks["denoising"], images, equal_error, penalties)
measured["residual.parameters"] = networks["residual"].count_params()

# %% tags=["nbval-ignore-output"]
known = measured | run.values_of("09_train_convolutional")
table = pd.DataFrame(index=["mse", "knn5_accuracy", "linear_probe_accuracy", "bits_at_equal_error"])
for name in ("scheduled", "denoising"):
    values = [known.get(f"{name}.test.{metric}", np.nan) for metric in table.index]
    table[name] = [as_interval(value) for value in values]
table.rename_axis(index=f"{images.title}, test, mean [95 % interval]")

# %% [markdown]
# The first row is the error on clean images; on MNIST, training on noise raises it by a third (`scheduled` at σ = 0, above).
# The other rows say whether the code has become more useful. On MNIST it has for compression: it needs about 4 bits per image
# fewer at an MSE of 0.015. For the linear probe `12_compare_models` makes a test; for 5-NN none was made.

# %% [markdown]
# ## Decide
#
# Does a network have a lower error than a baseline? At each level up to `most_noise`, both networks are compared with all three
# baselines: doing nothing (`noisy`), `linear_blind`, which knows as little about σ as the networks, and `linear`, which knows it.
# The verdicts are corrected for the number of claims (Holm). "No" means that the network has the significantly higher error.

# %%
metric = {level: metrics.numbered_name("mse_noise", level) for level in positive}
for level, name in metric.items():
    for method, values in errors[level].items():
        measured[f"{method}.test.{name}"] = values

# %%
trained_levels = [level for level in positive if level <= most_noise]
pairs = itertools.product(("denoising", "residual"), ("noisy", "linear_blind", "linear"))
asked = list(itertools.product(pairs, trained_levels))
claims = []
for (method, baseline), level in asked:
    sides = (f"{name}.test.{metric[level]}" for name in (method, baseline))
    claim = f"σ = {level:g}: `{method}` has a lower MSE than `{baseline}`"
    claims.append((claim, *sides, "lower"))

# %% tags=["nbval-ignore-output"]
headline = [f"denoising.test.{name}" for name in table.index]
for method in ("noisy", "linear"):
    headline += [f"{method}.test.{metric[level]}" for level in trained_levels]
headline = [name for name in headline if name in measured]
reproduced = run.finish(measured, claims, headline)
verdicts = pd.DataFrame(columns=[f"σ = {level:g}" for level in trained_levels])
for (pair, level), row in zip(asked, reproduced.claims.itertuples(), strict=True):
    value, low, high = 1000 * row.gain.value, 1000 * row.gain.low, 1000 * row.gain.high
    cell = f"{row.verdict}, {value:.2f} [{low:.2f}, {high:.2f}]"
    verdicts.loc[" against ".join(pair), f"σ = {level:g}"] = cell
verdicts.rename_axis(f"{images.title}, test: lower MSE? gain × 1,000")

# %% [markdown]
# There is a verdict for each level, because the error of an autoencoder with a narrow bottleneck rises slowly with the noise
# and that of a linear map fast: a verdict at one level does not carry over to another. On MNIST `denoising` loses to the blind
# linear map at 0.1 and 0.2, at 0.1 even to doing nothing, and beats the blind map at 0.3 and 0.5. `residual` beats all three
# baselines at every level.

# %% [markdown]
# ## Limitations
#
# The noise is Gaussian, independent from pixel to pixel and clipped; real cameras have other noise. Each linear map is fitted
# to one noisy version of each training image, the networks see a new one in every epoch. The error at levels above `most_noise`
# is an extrapolation for all methods but `linear`. The residual network is small, and whether a larger one does better was not
# measured.

# %%
reproduced

# %% [markdown]
# **Read next.** `11_train_variational` trains an autoencoder whose codes are noisy instead of its images. On denoising as a way to
# learn features: Vincent, Larochelle, Bengio and Manzagol, "Extracting and composing robust features with denoising
# autoencoders", ICML 2008.
