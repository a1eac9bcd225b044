# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a convolutional autoencoder
#
# **Question.** How much do convolutions reduce the error, apart from a better schedule and wider layers?
#
# **What you will do.** Go from the study's network to a convolutional one in three steps: another training schedule, wider layers,
# another kind of layers. One more network has a latent dimension of 30, for which there is a published error.
#
# **What you will learn.** How to build and train a convolutional autoencoder in Keras; how to separate the effect of an
# architecture from the effects of a schedule and of a size that usually change with it.
#
# **What you need.** The models `dense` and `scheduled` of `02_train`. **Time.** Eight minutes on one core, half of it
# for the convolutional networks; half a minute for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that 02_train was given
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
seed: int = 0  # of the initial weights, the order of the images, and the images that figures show

# Networks
wide_hidden: list = [512, 256]  # units of the hidden layers; the study's network has half as many
filters: list = [16, 128]  # of the convolutions, each divides height and width by two; chosen on validation images, see "Train"
latent_dim: int = 32  # that of the study's network
small_latent_dim: int = 30  # of conv30, for comparison with Hinton and Salakhutdinov

# Training
batch_size: int = 64  # on MNIST's validation images conv has a lower error with 64 than with 128 or 256
epochs: int = 20  # of a fully connected network; the schedule is that of scheduled in 02_train
learning_rate: float = 0.002  # at the start; it falls to 0 along a cosine
conv_epochs: int = 7  # of a convolutional network; its epochs take about three times as long as those of wide
conv_learning_rate: float = 0.008  # at its highest; on validation images better than 0.006
conv_warm_up: float = 0.2  # share of a convolutional network's steps in which its learning rate rises, from a twentieth
watched: int = 2000  # the first validation images, which give the loss curves
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions

# What codes are good for
equal_error: float = 0.015  # MSE at which bits are compared; about that of 32 unquantised PCA components
penalties: list = [0.01, 0.1]  # candidates for the linear probe, as in 05_explore_latent_space
one_class: list = ["wide", "conv"]  # networks that are also trained on each class alone
one_class_epochs: int = 8  # as in 06_detect_anomalies
one_class_batch_size: int = 64  # as in 06_detect_anomalies
one_class_learning_rate: float = 0.002  # at the start, as in 06_detect_anomalies
conv_one_class_epochs: int = 4  # of a convolutional network; chosen over 8 on validation images
conv_one_class_rate: float = 0.0045  # of a convolutional network at the start
codec_components: int = 384  # number of PCA components available to the codec, as in 07_compress_images
codec_gain: float = 1.3  # contrast of PCA's reconstructions, the best on the validation images in 07_compress_images
published_sse: float = 3.0  # per image, with 30 units; Hinton and Salakhutdinov, 2006
# fmt: on

# %% [markdown]
# ## Load the images and the study's networks

# %%
import time
from functools import partial

from ae_lib import data, figures, metrics, models, training
from ae_lib.analysis import codec, comparison
from ae_lib.run import Run, as_interval

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

# %%
run = Run(profile, "09_train_convolutional")
networks = {name: models.load(run.model(name)) for name in ("dense", "scheduled")}
images = data.load(dataset, image_size=image_size)
images

# %% [markdown]
# ## Build the networks
#
# Each network differs from the one before it by one step: the schedule, the width, or the kind of its layers, which also changes
# the number of weights and the schedule. Limitations, below, lists what each step includes.
#
# - `dense` is the study's network, 784-256-128-32-128-256-784 for MNIST.
# - `scheduled` is the same network under another training schedule. `02_train` has trained both.
# - `wide` has twice as many hidden units, under the schedule of `scheduled`.
# - `conv` has two convolutions with a stride of 2 in place of the hidden layers. Its decoder mirrors them with transposed
#   convolutions.
# - `conv30` is `conv` with a latent dimension of 30.
#
# All of them take flat images and have a linear code and a sigmoid output.


# %%
def build(builder, *arguments):
    keras.utils.set_random_seed(seed)
    return builder(*arguments)


networks["wide"] = build(models.dense_autoencoder, images.pixels, wide_hidden, latent_dim)
for name, units in {"conv": latent_dim, "conv30": small_latent_dim}.items():
    networks[name] = build(models.convolutional_autoencoder, images.shape, filters, units)

# %% [markdown]
# The encoder of `conv`, layer by layer; the decoder mirrors it.

# %%
layers = networks["conv"].encoder.layers[1:]
rows = [(layer.name, layer.output.shape[1:], layer.count_params()) for layer in layers]
pd.DataFrame(rows, columns=["layer", "output shape", "parameters"])

# %% [markdown]
# A convolution looks at 3 × 3 pixels and uses the same weights at every place. It therefore needs few of them: most
# parameters of `conv` are those of the two dense layers next to the code.

# %% [markdown]
# ## Train
#
# All networks minimise the binary cross-entropy with Adam. The schedule is that of `scheduled`, which differs from that of `dense`
# in two respects: minibatches are smaller, and the learning rate falls to 0 along a cosine (Loshchilov and Hutter, "SGDR:
# stochastic gradient descent with warm restarts", ICLR 2017, without the restarts). Batch size, epochs and learning rates were
# chosen on MNIST's validation images, for fully connected and for convolutional networks separately. The latter make fewer
# epochs with larger steps, after a warm-up in which the learning rate rises (Goyal et al., "Accurate, large minibatch SGD", 2017).
#
# The filters were chosen in the same way, with one seed: after 7 epochs up to 0.008, `conv` has a validation SSE of 2.74. With the
# more usual 32 and 64 filters it has half the parameters, and had 2.75 after 10 epochs up to 0.006, which take half as long again;
# with 16 and 64 filters it had 2.90. What is given up: with 32 and 64 filters the linear probe below is 0.4 points more accurate.

# %%
cosine = training.Cosine(learning_rate)
settings = {"wide": training.Settings(epochs, batch_size, cosine, seed, compiler)}
cosine = training.Cosine(conv_learning_rate, conv_warm_up)
conv_settings = training.Settings(conv_epochs, batch_size, cosine, seed, compiler)
settings |= dict.fromkeys(["conv", "conv30"], conv_settings)

# %% tags=["nbval-ignore-output"]
losses, measured, checkpoints = {}, {}, run.folder / "checkpoints"
splits = images.pixels_train, images.pixels_val[:watched]
for name in settings:
    start, network = time.perf_counter(), networks[name].autoencoder
    history = training.fit(network, *splits, settings[name], checkpoint_folder=checkpoints)
    measured[f"{name}.train.seconds"] = time.perf_counter() - start
    losses[name] = history.history["val_loss"]
    network.save(run.new_artifact(f"{name}.keras"))
pd.Series(measured, name="seconds").to_frame().round(1)

# %% [markdown]
# Did the networks converge? The binary cross-entropy (BCE) against grey targets is at least their binary entropy, so it cannot
# reach 0; the figure shows the excess above this floor.

# %%
floor = metrics.entropy(images.x_val[:watched]).mean()
curves = {}
for name, loss in losses.items():
    epoch_numbers = range(1, len(loss) + 1)
    curves[name] = pd.DataFrame({"value": np.subtract(loss, floor)}, index=epoch_numbers)

# %%
final = pd.Series({name: loss[-1] - floor for name, loss in losses.items()})
ends = ", ".join(f"{name} {value:.4f}" for name, value in final.sort_values().items())
caption = (
    f"Figure 9.1. {images.title}: `{final.idxmin()}` ends with the lowest validation loss. Excess "
    f"above the floor after the last epoch: {ends}."
)
figure = figures.lines(curves, caption, "epoch", "excess BCE / nats per pixel", log=True)
run.show("09_loss_curves", figure)

# %% [markdown]
# The curves flatten towards the end because the learning rate goes to 0. That does not show that longer training would gain
# nothing; it shows that the weights hardly change at the end of this schedule.

# %% [markdown]
# ## Compare the reconstructions
#
# PCA with as many components is the linear baseline. Its values are clipped to [0, 1], as the sigmoid does by construction.


# %%
def pca_reconstruction(components):
    pca = PCA(components, svd_solver="covariance_eigh").fit(images.x_train)
    return pca.inverse_transform(pca.transform(x)).clip(0, 1)


x = images.x_test
reconstructed = {f"pca{small_latent_dim}": pca_reconstruction(small_latent_dim)}
reconstructed["pca"] = pca_reconstruction(latent_dim)

# %%
for name, network in networks.items():
    reconstructed[name] = models.predict_in_batches(network.autoencoder, x)

# %% tags=["nbval-ignore-output"]
scores = {name: metrics.score(x, y, images.shape) for name, y in reconstructed.items()}
columns = ["mse", "sse", "psnr", "ssim"]
intervals = {name: table[columns].apply(metrics.interval) for name, table in scores.items()}
pd.DataFrame(intervals).T.rename_axis(index=f"{images.title}, test, mean [95 % interval]")

# %% [markdown]
# The three steps, one by one: by how much does each lower the squared error of the same test images?

# %%
steps = {
    "schedule": ("dense", "scheduled"),
    "width": ("scheduled", "wide"),
    "convolutions": ("wide", "conv"),
}
sse = pd.DataFrame({name: table["sse"] for name, table in scores.items()})

# %% tags=["nbval-ignore-output"]
ladder = pd.DataFrame(steps, index=["before", "after"]).T
falls = [metrics.difference(sse[before], sse[after]) for before, after in steps.values()]
ladder["reduction of SSE [95 % interval]"] = falls
ladder["reduction, %"] = [100 * fall.value for fall in falls] / sse[ladder["before"]].mean().values
ladder.rename_axis(index=f"{images.title}, test: step").round(1)

# %% [markdown]
# A comparison of `conv` with `dense` alone would credit the convolutions with the sum of the three reductions: on MNIST about a
# third of the SSE of `dense`, of which the convolutions contribute about half.

# %%
columns, shown = ["conv", "wide", "dense", "pca"], images.examples(seed)
rows = {"test image": x[shown]} | {name: reconstructed[name][shown] for name in columns}
means = sse[columns].mean().sort_values()
listed = ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
caption = (
    f"Figure 9.2. {images.title}: of these four, `{means.index[0]}` has the lowest error with "
    f"{latent_dim} units. SSE per test image: {listed}. The images shown are drawn at random."
)
run.show("09_reconstructions", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# Do the convolutions help with all classes, or is the lower mean due to a few?


# %%
def by_class(errors):
    intervals = errors.groupby(images.classes[images.y_test]).apply(metrics.interval)
    return pd.DataFrame(list(intervals), index=intervals.index)


# %%
class_errors = {name: by_class(sse[name]) for name in ("conv", "wide", "scheduled", "dense")}
gains = class_errors["wide"]["value"] - class_errors["conv"]["value"]
caption = (
    f"Figure 9.3. {images.title}: `conv` has a lower squared error than `wide` in "
    f"{(gains > 0).sum()} of {len(gains)} class means. Bars are 95 % intervals."
)
figure = figures.intervals_by_group(class_errors, caption, "class", "SSE per image")
run.show("09_error_by_class", figure)

# %% [markdown]
# ## Ask what the codes are good for
#
# A lower error does not make a better code. Three further measures, each explained in another notebook, test the codes. The
# accuracy of 5-NN and of a linear probe on the codes (`05_explore_latent_space`) says whether classes are near each other,
# and whether they can be separated linearly. The bits per image at an equal squared error (`07_compress_images`) say what a
# code costs when it is stored, with each decoder as it was trained.

# %%
for name in ("scheduled", "wide", "conv", "conv30"):
    network = networks[name].autoencoder
    measured |= comparison.evaluate(name, network, images, equal_error, penalties)

# %% [markdown]
# Two baselines for the bits: the study's network, and the components of PCA under the same codec. Their remaining metrics are
# in the notebooks named above. Their inference time is measured here for `12_compare_models`.

# %%
components = min(codec_components, *images.pixels_train.shape)
many = PCA(components, svd_solver="covariance_eigh").fit(images.x_train)
autoencoder, encoder, decoder = networks["dense"]
codecs = {
    "dense": codec.from_autoencoder(encoder, decoder, images.pixels_train, comparison.ROUNDING),
    "pca": codec.from_pca(many, images.pixels_train, comparison.ROUNDING, codec_gain),
}
for name, model_codec in codecs.items():
    measured |= comparison.compression(name, model_codec, x, equal_error)
reconstruct = partial(models.predict_in_batches, autoencoder)
measured |= comparison.duration("dense", reconstruct, x)

# %%
start = time.perf_counter()
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
measured["pca.train.seconds"] = time.perf_counter() - start
measured["pca.parameters"] = pca.components_.size + pca.mean_.size
measured |= comparison.duration("pca", lambda x: pca.inverse_transform(pca.transform(x)), x)

# %% [markdown]
# The fourth measure is the mean AUROC of one-class networks (`06_detect_anomalies`): one network is trained on each class alone
# and scores the test images of all classes, by the squared error and by the relative error, which smooths the residual and
# divides by the ink. `wide` and `conv` get the same two scores. `06_detect_anomalies` says how the relative error was chosen
# with labelled images of MNIST.

# %% tags=["nbval-ignore-output"]
for name in one_class:
    n_epochs, rate = one_class_epochs, one_class_learning_rate
    if name.startswith("conv"):
        n_epochs, rate = conv_one_class_epochs, conv_one_class_rate
    cosine = training.Cosine(rate)
    options = training.Settings(n_epochs, one_class_batch_size, cosine, seed, compiler)
    network = networks[name].autoencoder
    measured |= comparison.detection(name, network, images, options, training.Reconstruct())

# %% tags=["nbval-ignore-output"]
columns = {
    "5-NN accuracy": "{}.test.knn5_accuracy",
    "linear probe accuracy": "{}.test.linear_probe_accuracy",
    "bits per image": "{}.test.bits_at_equal_error",
    "AUROC, squared error": "oneclass.{}_mse.auroc_mean",
    "AUROC, relative error": "oneclass.{}_relative.auroc_mean",
}
table = sse[["pca", *networks]].apply(metrics.interval).to_frame("SSE per image")
for column, metric in columns.items():
    values = [measured.get(metric.format(name), np.nan) for name in table.index]
    table[column] = [as_interval(value) for value in values]
table.rename_axis(index=f"{images.title}, test")

# %% [markdown]
# A dash means that this notebook does not measure the metric, or that a network never reaches the MSE at which bits are compared.

# %% [markdown]
# ## Compare with the published error
#
# Hinton and Salakhutdinov (Science 313, 2006) report a squared error of 3.00 per image of MNIST for a code of 30 units, and 13.87
# for PCA; we take these to be test images, which their caption leaves open. Their network, 784-1000-500-250-30, is fully
# connected, was pretrained layer by layer as restricted Boltzmann machines, and was trained on all 60,000 training images.
# `conv30` is not pretrained, has convolutions, and sees 50,000 training images, since 10,000 are kept for validation. On MNIST
# `conv30` has 2.9, and `pca30` 12.6, in the table of reconstructions above. The published error of PCA is that of unclipped
# reconstructions; ours are clipped to [0, 1].

# %% [markdown]
# ## Decide
#
# The claims of this notebook, decided together. `gain` is the mean difference over the test images, positive if the
# claim holds, with its 95 % interval; Holm's method corrects the verdicts for the number of claims. "No" means a significant
# difference in the other direction.

# %%
measured["dense.test.sse"] = scores["dense"]["sse"].to_numpy()
claims = [
    ("The schedule lowers the SSE", "scheduled.test.sse", "dense.test.sse", "lower"),
    ("Twice the width lowers the SSE", "wide.test.sse", "scheduled.test.sse", "lower"),
    ("Convolutions lower the SSE", "conv.test.sse", "wide.test.sse", "lower"),
]
other_claims = [
    ("conv needs fewer bits per image than wide", "bits per image", "lower"),
    ("5-NN is better on conv's codes than on wide's", "5-NN accuracy", "higher"),
    ("A linear probe is better on conv's codes than on wide's", "linear probe accuracy", "higher"),
    ("conv detects other classes better by squared error", "AUROC, squared error", "higher"),
    ("conv detects other classes better by relative error", "AUROC, relative error", "higher"),
]

# %% tags=["nbval-ignore-output"]
if images.name == "mnist":
    claims.append(("30 units reach the published SSE", "conv30.test.sse", published_sse, "lower"))
for claim, column, better in other_claims:
    ours, baseline = (columns[column].format(name) for name in ("conv", "wide"))
    if ours in measured and baseline in measured:
        claims.append((claim, ours, baseline, better))
shown_metrics = tuple(metric.rpartition(".")[2] for metric in columns.values())
headline = [name for name in measured if name.endswith((".sse", *shown_metrics))]
reproduced = run.finish(measured, claims, headline)
reproduced.claims[["claim", "gain", "verdict"]].rename_axis(columns=f"{images.title}, test")

# %% [markdown]
# A claim is left out if this run has no value for it: images without classes have no AUROC, a network may never reach the
# MSE at which bits are compared, and the published SSE is that of MNIST.
#
# The first three rows separate what is usually reported as one gain. The comparisons of `conv` with `wide` say for which purposes
# convolutions matter. On MNIST they save bits and improve the linear probe; for 5-NN no difference is detected, and they do not
# improve detection, where `wide` has the higher AUROC if a difference is significant. 5-NN uses the distances between codes and
# the linear probe their linear separability, so that a network may improve one and leave the other as it is.

# %% [markdown]
# ## Limitations
#
# Each step includes more than its name says. The schedule of `scheduled` has smaller minibatches and more steps than that of
# `dense`. `conv` differs from `wide` in more than its kind of layers: it has fewer parameters, and its schedule was chosen for
# it. This run has one training seed; the reference values come from several. Schedules were chosen on MNIST and are kept for
# other images.

# %%
reproduced

# %% [markdown]
# **Read next.** `10_denoise` trains the network `scheduled` again, on noisy images; `12_compare_models` compares all models. On
# convolutional autoencoders: Masci, Meier, Cireşan and Schmidhuber, "Stacked convolutional auto-encoders for hierarchical
# feature extraction", ICANN 2011. On strides in place of pooling: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving
# for simplicity: the all convolutional net", ICLR 2015 workshop.
