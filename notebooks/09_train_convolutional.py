# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train convolutional and denoising autoencoders
#
# **What you will do.** Train the study's relatives: a convolutional autoencoder with as long a code, the same with 30 numbers, and
# denoising variants of the dense and of the convolutional network. Two more networks are trained for nothing but the comparison.
#
# **What you will learn.** How much of the convolutional network's lead is due to its convolutions, and how much to its schedule
# and to its size, which usually change with them; what training on noisy images is worth, beside a median filter and PCA, and
# what it costs.
#
# **What you need.** The model of `02_train`. **Time.** Some 20 minutes on one core, half of it for three convolutional
# networks; a minute for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that 02_train was given
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
seed: int = 0  # of weights, minibatches, noise and the bootstrap
train: list = ["scheduled", "wide", "conv", "conv30", "denoising", "denoising_conv"]  # leave out what you do not need

# Networks
hidden: list = [256, 128]  # the study's
wide_hidden: list = [512, 256]  # twice as wide
filters: list = [32, 64]  # of the strided convolutions
latent_dim: int = 32  # numbers in the code, as in the study
small_latent_dim: int = 30  # of conv30, for comparison with Hinton and Salakhutdinov

# Training
batch_size: int = 64  # on MNIST's validation images a convolutional network was better off with 64 than with 128 or 256
epochs: int = 20  # passes over the training images, of a fully connected network
learning_rate: float = 0.002  # its step size at the start, which falls to 0 along a cosine
conv_epochs: int = 14  # of a convolutional network, whose passes take six times as long
conv_learning_rate: float = 0.0045  # with which 14 passes come within a seed's spread of 20 with 0.002, on validation images
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions

# Noise
most_noise: float = 0.5  # each training image of a denoising network has noise between 0 and this standard deviation
noise_levels: list = [0.0, 0.1, 0.2, 0.3, 0.5, 0.7]  # of the test images; one beyond what the networks were trained for
margin_level: float = 0.5  # the level at which the margin is stated
salt: float = 0.1  # share of the pixels in salt and pepper, which no network was trained for
choose_on: int = 2000  # validation images on which the rivals' settings are chosen at each level
filter_sizes: list = [1, 3, 5]  # sides of the median filter
components: list = [8, 16, 32, 64, 128]  # of PCA
wiener_levels: list = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5]  # standard deviations that the Wiener filter is told

# Comparison with the other models
equal_error: float = 0.015  # MSE at which the codecs are compared; about that of 32 exact PCA components
penalties: list = [0.01, 0.1]  # candidates for the linear probe, as in 05_explore_latent_space
goal: float = 3.0  # SSE per image that a code of 30 numbers is to reach, a published figure, see below
one_class: list = ["wide", "conv", "denoising"]  # kinds that are trained on each digit alone, too
one_class_epochs: int = 8  # as in 06_detect_anomalies, likewise the next two
one_class_batch_size: int = 64
one_class_learning_rate: float = 0.002
conv_one_class_epochs: int = 4  # with conv_learning_rate; twice as many found fewer outsiders among validation images
# fmt: on

# %% [markdown]
# ## Load the images and the study's model

# %%
import time

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import anomaly, codec, comparison
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from scipy.ndimage import median_filter
from sklearn.decomposition import PCA

if margin_level not in noise_levels:
    raise StudyError(
        f"margin_level is {margin_level}; expected one of noise_levels, {noise_levels}: change it."
    )
run = Run(profile, "09_train_convolutional")
dense = keras.models.load_model(run.artifact("02_train/dense.keras"))
dense.name, dense.input_shape, dense.output_shape

# %%
images = data.load(dataset, image_size=image_size)
x = images.x_test
images

# %% [markdown]
# ## Build
#
# - `scheduled`: the study's network, 784-256-128-32 and back, under the new schedule;
# - `wide`: twice as wide;
# - `conv`: two convolutions with a stride of 2, mirrored by transposed ones, and no hidden layer between them and the code;
# - `conv30`: the same with a code of 30 numbers;
# - `denoising` and `denoising_conv`: `scheduled` and `conv` once more, shown noisy images and asked for the clean ones.
#
# All take flat images and have a linear code and a sigmoid output, like the study's.

# %%
builders = {
    "scheduled": (models.dense_autoencoder, hidden, latent_dim),
    "wide": (models.dense_autoencoder, wide_hidden, latent_dim),
    "conv": (models.convolutional_autoencoder, filters, latent_dim),
    "conv30": (models.convolutional_autoencoder, filters, small_latent_dim),
    "denoising": (models.dense_autoencoder, hidden, latent_dim),
    "denoising_conv": (models.convolutional_autoencoder, filters, latent_dim),
}


def is_convolutional(name):
    return builders[name][0] is models.convolutional_autoencoder


def build(name):
    keras.utils.set_random_seed(seed)
    builder, layers, code = builders[name]
    size = images.shape if is_convolutional(name) else images.pixels
    return builder(size, layers, code)


built = {name: build(name) for name in builders if name in train}
parameters = {name: model.autoencoder.count_params() for name, model in built.items()}
pd.Series({"dense": dense.count_params(), **parameters}, name="parameters").to_frame()

# %% [markdown]
# A convolution looks at 3 × 3 pixels and uses the same weights everywhere: nearly all of the convolutional network's weights
# are those of the two dense layers around its code.

# %%
shown = models.convolutional_autoencoder(images.shape, filters, latent_dim)
both = [("encoder", layer) for layer in shown.encoder.layers] + [
    ("decoder", layer) for layer in shown.decoder.layers
]
columns = ["half", "layer", "shape of an image", "parameters"]
pd.DataFrame(
    [(half, f.name, f.output.shape[1:], f.count_params()) for half, f in both], columns=columns
)

# %% [markdown]
# ## Train
#
# Adam and binary cross-entropy as in `02_train`, but smaller minibatches and a step size that falls along a cosine (Loshchilov
# and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, without the restarts). The convolutional
# networks make fewer passes and start with larger steps, with which the fully connected ones fared worse on the validation
# images; that costs the convolutional network no more than another seed would, and saves a quarter of all time here. A denoising network is shown x + σ ε, cut to [0, 1], with a σ of its own for each image, drawn anew in each
# epoch (Vincent et al., "Stacked denoising autoencoders", JMLR 11, 2010).


# %%
def settings(name):
    passes, rate = epochs, learning_rate
    if is_convolutional(name):
        passes, rate = conv_epochs, conv_learning_rate
    steps = passes * -(-len(images.y_train) // batch_size)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    return training.Settings(passes, batch_size, decay, seed, compiler)


tasks = {name: training.Denoise(most=most_noise) for name in ("denoising", "denoising_conv")}
tasks = {name: tasks.get(name, training.Reconstruct()) for name in built}
pd.Series(tasks, name="task").to_frame()

# %% tags=["nbval-ignore-output"]
pixels, history, seconds = (images.pixels_train, images.pixels_val), {}, {}
options = {"checkpoint_folder": run.folder / "checkpoints"}
for name, model in built.items():
    begun = time.perf_counter()
    fitted = training.fit(model.autoencoder, *pixels, settings(name), task=tasks[name], **options)
    history[name], seconds[name] = fitted.history["val_loss"], time.perf_counter() - begun
    model.autoencoder.save(run.new_artifact(f"{name}.keras"))
pd.Series(seconds, name="seconds of training").to_frame().round(1)

# %%
floor = metrics.entropy(images.x_val).mean()
curves = {name: pd.DataFrame({"value": np.subtract(loss, floor)}) for name, loss in history.items()}
for curve in curves.values():
    curve.index = curve.index + 1
caption = (
    f"Figure 9.1. {images.title}: excess of the validation loss above its floor. At the end: "
    + ", ".join(f"{name} {curve['value'].iloc[-1]:.4f}" for name, curve in curves.items())
    + ". The denoising networks see noisy images here, too."
)
run.show(
    "09_loss_curves",
    figures.lines(curves, caption, "epoch", "excess BCE / nats per pixel", log=True),
)

# %% [markdown]
# ## Measure the reconstructions
#
# By the squared error and SSIM, beside PCA with its values cut to [0, 1].

# %%
autoencoders = {"dense": dense, **{name: model.autoencoder for name, model in built.items()}}
drawn = {
    name: models.predict_in_batches(autoencoder, x) for name, autoencoder in autoencoders.items()
}
for size in (latent_dim, small_latent_dim):
    pca = PCA(size, svd_solver="covariance_eigh").fit(images.x_train)
    drawn[f"PCA-{size}"] = pca.inverse_transform(pca.transform(x)).clip(0, 1)
scores = {name: metrics.score(x, y, images.shape) for name, y in drawn.items()}
{name: table.shape for name, table in scores.items()}

# %% tags=["nbval-ignore-output"]
kept = [
    "mse",
    "sse",
    "psnr",
    "ssim",
]  # BCE would need a clipping of its own for PCA, as in 03_evaluate
means = {
    name: table[kept].apply(metrics.interval, seed=seed, result_type="reduce")
    for name, table in scores.items()
}
pd.DataFrame(means).T.rename_axis(index=f"{images.title}, test, mean [95 % interval]")

# %% [markdown]
# What does the convolutional network owe to its convolutions? From the study's network to it in three steps, each
# compared image by image: *yes* or *no* if the 95 % interval of the mean difference in squared error leaves out 0, else
# *undecided*.

# %%
ladder = {
    "the schedule lowers the error": ("scheduled", "dense"),
    "twice the width lowers it": ("wide", "scheduled"),
    "convolutions lower it below that": ("conv", "wide"),
    "30 numbers do, too": ("conv30", "wide"),
}
steps = {claim: pair for claim, pair in ladder.items() if set(pair) <= set(scores)}
verdicts = {
    claim: metrics.lower(scores[a]["sse"], scores[b]["sse"], seed)
    for claim, (a, b) in steps.items()
}
verdicts

# %% tags=["nbval-ignore-output"]
gains = {
    claim: vars(metrics.difference(scores[b]["sse"], scores[a]["sse"], seed))
    for claim, (a, b) in steps.items()
}
pd.DataFrame(gains).T.rename_axis(index=f"{images.title}, test: fall of the SSE per image").round(3)

# %%
chosen = images.examples(seed)
rows = {
    "test image": x,
    **{
        name: drawn[name]
        for name in ("conv", "wide", "dense", f"PCA-{latent_dim}")
        if name in drawn
    },
}
caption = (
    f"Figure 9.2. {images.title}: test images drawn at random and what is left of them after {latent_dim} numbers. SSE per image: "
    + ", ".join(f"{name} {scores[name]['sse'].mean():.2f}" for name in list(rows)[1:])
    + "."
)
run.show(
    "09_reconstructions",
    figures.image_rows({name: y[chosen] for name, y in rows.items()}, images.shape, caption),
)

# %%
label = images.classes[images.y_test]
classes = np.unique(label)
by_class = {
    name: pd.DataFrame(
        [metrics.interval(scores[name]["sse"][label == k], seed) for k in classes],
        index=classes,
    )
    for name in ("dense", "scheduled", "wide", "conv")
    if name in scores
}
best = {k: min(by_class, key=lambda name: by_class[name]["value"][k]) for k in classes}
leader = max(by_class, key=list(best.values()).count)
caption = (
    f"Figure 9.3. {images.title}: squared error by class, with 95 % intervals. The network `{leader}` has the least in "
    f"{list(best.values()).count(leader)} of {len(classes)} classes."
)
run.show(
    "09_error_by_class", figures.intervals_by_group(by_class, caption, "class", "SSE per image")
)

# %% [markdown]
# ## Add noise
#
# Gaussian noise of several strengths on the test images. Who finds the clean image? The denoising networks; their plain
# twins, which were never shown noise; a **median filter**; **PCA**, whose first components hold more digit than noise; and the
# **Wiener filter**, which shrinks each principal coefficient by λ / (λ + σ²), λ being its variance, and is the best linear
# answer to Gaussian noise of known σ. Their settings are chosen at each level on noisy validation images, an advantage that the
# networks do not have: each of them serves all levels.

# %%
full = PCA(svd_solver="covariance_eigh").fit(images.x_train)
variance = full.explained_variance_.clip(0)


def filtered(noisy, size):
    return median_filter(noisy.reshape(-1, *images.shape), (1, size, size)).reshape(noisy.shape)


def projected(noisy, count):
    return (full.transform(noisy)[:, :count] @ full.components_[:count] + full.mean_).clip(0, 1)


def shrunk(noisy, level):
    return full.inverse_transform(full.transform(noisy) * variance / (variance + level**2)).clip(
        0, 1
    )


rivals = {
    "median filter": (filtered, filter_sizes),
    "PCA": (projected, components),
    "Wiener filter": (shrunk, wiener_levels),
}
list(rivals)


# %%
def chosen_setting(function, settings, noisy):
    errors = {s: metrics.mse(images.x_val[:choose_on], function(noisy, s)).mean() for s in settings}
    return min(errors, key=errors.get)


noises = {level: ("gaussian_noise", level) for level in noise_levels} | {
    "salt and pepper": ("salt_and_pepper", salt)
}
noisy_val = {
    level: anomaly.corrupt(images.x_val[:choose_on], images.shape, *noise, seed + 1)
    for level, noise in noises.items()
}
settled = {
    rival: {level: chosen_setting(function, options, some) for level, some in noisy_val.items()}
    for rival, (function, options) in rivals.items()
}
pd.DataFrame(settled).T.rename_axis(index=f"{images.title}, chosen on validation", columns="noise")

# %%
networks = [
    name for name in ("scheduled", "denoising", "conv", "denoising_conv") if name in autoencoders
]
noisy = {level: anomaly.corrupt(x, images.shape, *noise, seed) for level, noise in noises.items()}


def cleaned(name, level, part=slice(None)):
    """Some noisy test images as a network or a rival cleans them."""
    if name in autoencoders:
        return models.predict_in_batches(autoencoders[name], noisy[level][part])
    return rivals[name][0](noisy[level][part], settled[name][level])


noise_error = {
    name: {level: metrics.mse(x, cleaned(name, level)) for level in noises}
    for name in [*networks, *rivals]
}
noise_error["noisy image"] = {level: metrics.mse(x, some) for level, some in noisy.items()}
list(noise_error)

# %% tags=["nbval-ignore-output"]
mean_error = pd.DataFrame(noise_error).map(metrics.interval, seed=seed)
mean_error.rename_axis(
    index=f"{images.title}, test: noise", columns="MSE to the clean image [95 % interval]"
)

# %%
curves = {
    name: pd.DataFrame(list(mean_error[name][noise_levels]), index=noise_levels)
    for name in mean_error.columns
}
at = {name: curve["value"][margin_level] for name, curve in curves.items()}
caption = (
    f"Figure 9.4. {images.title}: error against the clean test image, with 95 % intervals. The denoising networks were trained with "
    f"up to σ = {most_noise:g}. At {margin_level:g}: "
    + ", ".join(f"{name} {value:.4f}" for name, value in at.items())
    + "."
)
run.show(
    "09_noise", figures.lines(curves, caption, "standard deviation of the noise σ", "MSE per pixel")
)

# %%
rows = {"clean": x[chosen], "noisy": noisy[margin_level][chosen]}
rows |= {name: cleaned(name, margin_level, chosen) for name in [*networks, *rivals]}
caption = (
    f"Figure 9.5. {images.title}: test images with noise of σ = {margin_level:g}, and what each method makes of them. The median "
    f"filter's side is {settled['median filter'][margin_level]} pixels, PCA has {settled['PCA'][margin_level]} components."
)
run.show("09_denoised", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# **The margin**, image by image: by what factor does training on noise lower the error, and what does it cost where there is no
# noise?


# %%
def compared(first, second, level):
    ours, theirs = (noise_error[name][level] for name in (first, second))
    return metrics.lower(ours, theirs, seed), theirs.mean() / ours.mean()


twins = [("denoising", "scheduled"), ("denoising_conv", "conv")]
pairs = [*twins, ("denoising_conv", "denoising")]
pairs += [(name, rival) for name in ("denoising", "denoising_conv") for rival in rivals]
pairs = [pair for pair in pairs if set(pair) <= set(noise_error)]
margins = {pair: {level: compared(*pair, level) for level in noises} for pair in pairs}

# %% tags=["nbval-ignore-output"]
words = {
    f"{a} against {b}": {level: f"{v}, {factor:.2f}" for level, (v, factor) in by.items()}
    for (a, b), by in margins.items()
}
pd.DataFrame(words).T.rename_axis(index=f"{images.title}, test", columns="less error? factor")[
    list(noises)
]

# %%
for (a, b), by in margins.items():
    if (a, b) in twins:
        print(f"σ = {margin_level:g}, {a} beats {b}: {by[margin_level][0]}")

# %% [markdown]
# ## Ask what the codes are good for
#
# The measures of `05_explore_latent_space`, `06_detect_anomalies` and `07_compress_images`, in short, for each network trained
# here: k-NN and a linear probe on its codes; for some of them the mean AUROC of one-class networks of the kind, one for each class, scored by
# the squared error, one seed; bits per image at an equal error, with the decoder as it was trained. For the study's network and PCA, which
# have their own notebooks, only what these do not measure. `12_compare_models` puts them side by side.

# %% tags=["nbval-ignore-output"]
measured = {f"{name}.train.seconds": value for name, value in seconds.items()}
for name, model in built.items():
    measured |= comparison.evaluate(name, model.autoencoder, images, equal_error, penalties, seed)
for name in [name for name in one_class if name in built]:
    passes, rate = one_class_epochs, one_class_learning_rate
    if is_convolutional(name):
        passes, rate = conv_one_class_epochs, conv_learning_rate
    own = passes, one_class_batch_size, rate, compiler
    measured |= comparison.detection(name, built[name].autoencoder, images, own, tasks[name], seed)

# %%
begun = time.perf_counter()
fitted = PCA(latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
measured["pca.train.seconds"] = time.perf_counter() - begun
halves = models.as_autoencoder(dense)[1:]
codecs = {
    "dense": codec.from_autoencoder(*halves, images.pixels_train),
    "pca": codec.from_pca(
        PCA(min(max(components), *images.pixels_train.shape), svd_solver="covariance_eigh").fit(
            images.x_train
        ),
        images.pixels_train,
    ),
}
for name, own in codecs.items():
    measured |= comparison.compression(name, own, x, equal_error, seed)
measured |= comparison.duration("dense", lambda some: models.predict_in_batches(dense, some), x)
measured |= comparison.duration(
    "pca", lambda some: fitted.inverse_transform(fitted.transform(some)), x
)
measured["pca.latent_dim"] = latent_dim
measured["pca.parameters"] = fitted.components_.size + fitted.mean_.size

# %% tags=["nbval-ignore-output"]
table = pd.Series(measured).rename_axis("metric")
table = table[~table.index.str.contains("bce|mse$|psnr|ssim")]
table.index = pd.MultiIndex.from_tuples(
    [(name.split(".")[0], name.partition(".")[2]) for name in table.index]
)
table.unstack(0).drop(columns="oneclass", errors="ignore").rename_axis(index=images.title)

# %% [markdown]
# ## Decide
#
# Published for a code of 30 numbers on MNIST, squared error per image: 3.00 for an autoencoder with pretraining, 13.87 for PCA
# (Hinton and Salakhutdinov, Science 313, 2006, trained on all 60,000 images). Nothing here is pretrained, and 50,000 images
# are. The PCA here is cut to [0, 1], as above, and in the second row not.

# %% tags=["nbval-ignore-output"]
uncut = PCA(small_latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
raw = metrics.interval(
    images.pixels * metrics.mse(x, uncut.inverse_transform(uncut.transform(x))), seed
)
small = {
    name: means[name]["sse"] for name in ("conv30", f"PCA-{small_latent_dim}") if name in means
}
pd.Series(
    small | {f"PCA-{small_latent_dim}, not clipped": raw},
    name=f"{images.title}, SSE [95 % interval]",
).to_frame()

# %%
reached = "conv30" in means and means["conv30"]["sse"].high <= goal
print(f"30 numbers, SSE at most {goal:.2f} with its whole interval:", "yes" if reached else "no")

# %% [markdown]
# ## Keep the results

# %%
names = {
    "median filter": "median_filter",
    "PCA": "pca_filter",
    "Wiener filter": "wiener_filter",
    "noisy image": "noisy",
}
levels = {level: metrics.numbered_name("noise", level) for level in noise_levels} | {
    "salt and pepper": "salt_and_pepper"
}


def of_noise(method, level):
    return f"{names.get(method, method)}.test.mse_{levels[level]}"


# Without noise, the error of a filter that changes nothing is rounding, and not a result.
kept = [
    (m, k, error) for m, by in mean_error.items() for k, error in by.items() if error.value > 1e-5
]
measured |= {of_noise(method, level): error for method, level, error in kept}
for (a, b), by in margins.items():
    measured[f"{names.get(a, a)}.test.margin_over_{names.get(b, b)}_{levels[margin_level]}"] = by[
        margin_level
    ][1]

# %%
claims = [
    (
        f"{claim[0].upper()}{claim[1:]}: SSE per image, `{a}` against `{b}`",
        f"{a}.test.sse",
        f"{b}.test.sse",
        verdicts[claim],
    )
    for claim, (a, b) in steps.items()
]
claims += [
    (f"Noise of σ = {margin_level:g}: `{a}` finds the clean image better than {b}: MSE",
     of_noise(a, margin_level), of_noise(b, margin_level), by[margin_level][0])
    for (a, b), by in margins.items()
]  # fmt: skip
if "conv30" in means:
    verdict = "yes" if reached else "no"
    claims.append(
        (
            "30 numbers do as well as published in 2006, SSE per image",
            "conv30.test.sse",
            f"{goal:.2f}",
            verdict,
        )
    )
headline = [n for n in measured if n.endswith((*comparison.HEADLINE, "auroc_mean"))]
headline += [of_noise(method, level) for method, level, _ in kept]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `11_train_variational` puts a probability on images; `12_compare_models` compares all models.
# On why strided convolutions do as well as pooling: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the
# all convolutional net", ICLR 2015 workshop.
