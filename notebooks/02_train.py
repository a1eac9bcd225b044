# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train the autoencoder
#
# **Question.** Does the autoencoder learn to reconstruct images, and has it converged when its training ends?
#
# **What you will do.** Build the fully connected autoencoder 784-256-128-32-128-256-784 with the Keras Functional API and
# train it for 50 epochs. Train the same network a second time with a learning rate that falls to 0, and compare the loss
# curves.
#
# **What you will learn.** How an encoder and a decoder share the autoencoder's weights; how to read a loss whose floor is not
# 0; why a flat loss curve does not prove that a network has converged.
#
# **What you need.** Nothing but the images; `01_preprocess` shows them. **Time.** Under two minutes on two cores for MNIST,
# 20 seconds for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # or fashion_mnist, digits, or the path of a file or folder of your own
image_size: list = []  # height and width to resample to; [] keeps the original size
seed: int = 0  # of the initial weights and of the order of the images
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions

# Network
hidden: list = [256, 128]  # units of the encoder's hidden layers; the decoder mirrors them
latent_dim: int = 32  # units of the bottleneck; try 2 for a map, 64 for sharper images
bottleneck: str = "linear"  # or relu, whose codes are never negative

# Training of the model `dense`
epochs: int = 50  # passes over the training images; 2 for a quick look
batch_size: int = 256  # images per step; smaller is slower, and better when there are few images
learning_rate: float = 0.001  # the step size of Adam; this is Keras's default

# Training of the model `scheduled`
scheduled_epochs: int = 20  # with smaller batches, fewer passes are enough
scheduled_batch_size: int = 64  # from 09_train_convolutional, chosen on validation images
scheduled_learning_rate: float = 0.002  # at the start; it falls to 0 along a cosine

# Rules for the verdicts on convergence
change: float = 0.01  # smaller relative differences of the excess BCE are ignored

# %% [markdown]
# ## Load the images

# %%
import math
import time
from functools import partial

from ae_lib import data, figures, metrics, models, training
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd

run = Run(profile, "02_train")
run

# %%
images = data.load(dataset, image_size=image_size)
images

# %% [markdown]
# ## Build the encoder, the decoder and the autoencoder
#
# Hidden layers use ReLU. The bottleneck is linear, so that latent units can be negative. The output is a sigmoid, since pixels
# lie in [0, 1]. Without its hidden layers, with a linear output and squared error, this network would find the subspace of PCA
# (Baldi and Hornik, "Neural networks and principal component analysis", Neural Networks 2, 1989), which makes PCA the
# baseline.

# %%
keras.utils.set_random_seed(seed)
model = models.dense_autoencoder(images.pixels, hidden, latent_dim, bottleneck)
layers = models.layer_table(model.autoencoder)
pd.DataFrame(layers, columns=["layer", "units", "activation", "parameters"]).set_index("layer")

# %%
caption = (
    f"Figure 2.1. The autoencoder compresses {images.pixels} pixels into a code of {latent_dim} units, "
    f"{images.pixels / latent_dim:.3g} times fewer, and reconstructs the image from it. Bars are layers, with the number of "
    "weights between them; a bar's height is the square root of its units."
)
units = np.array([images.pixels, *(layer[1] for layer in layers)])
heights = np.sqrt(units)  # a linear scale would hide the bottleneck
colours = np.where(units == units.min(), figures.COLOURS[1], figures.COLOURS[0])

# %%
with figures.look():
    figure = figures.new(caption, height=3.0)
    axes = figure.subplots()
    bars = axes.bar(range(len(units)), heights, 0.36, bottom=-heights / 2, color=colours)
    axes.bar_label(bars, units, padding=3, fontweight="bold")
    for x, (_, _, _, weights) in enumerate(layers):
        axes.text(x + 0.5, 0, f"{weights:,}\n⟶", ha="center", fontsize=9, color="#555555")
    axes.set_xticks(range(len(units)), ["input", *(layer[2] for layer in layers)])
    axes.tick_params(length=0, labelleft=False)
    axes.spines[:].set_visible(False)
run.show("02_architecture", figure)

# %% [markdown]
# The encoder and the decoder share their layers with the autoencoder, so training the autoencoder trains both. If they do, the
# decoder applied to the encoder's output equals the autoencoder.

# %%
x_val = images.x_val
composed = models.predict_in_batches(model.decoder, models.predict_in_batches(model.encoder, x_val))
difference = composed - models.predict_in_batches(model.autoencoder, x_val)
print("decoder(encoder(x)) equals autoencoder(x):", bool(abs(difference).max() < 1e-6))

# %% [markdown]
# ## Train
#
# Adam minimises the binary cross-entropy between the image and its reconstruction. There is no early stopping and no choice
# among epochs: the weights after the last epoch are the result. An interrupted training resumes after its last whole epoch
# when this cell is run again, and ends with the same weights, bit for bit.
#
# `training.fit` trains as Keras's `model.fit` does, but compiles a whole epoch into one call; `15_benchmark` measures the time
# that this saves.

# %%
settings = {"dense": training.Settings(epochs, batch_size, learning_rate, seed, compiler)}
settings["dense"]


# %%
def train(autoencoder, settings):
    folder = run.folder / "checkpoints"
    pixels = images.pixels_train, images.pixels_val
    fitted = training.fit(autoencoder, *pixels, settings, checkpoint_folder=folder)
    index = pd.RangeIndex(1, len(fitted.epoch) + 1, name="epoch")
    return pd.DataFrame(fitted.history, index)


# %% tags=["nbval-ignore-output"]
autoencoders = {"dense": model.autoencoder}
started = time.perf_counter()
histories = {"dense": train(model.autoencoder, settings["dense"])}
seconds = {"dense": time.perf_counter() - started}  # after a resume, of the remaining epochs

# %% [markdown]
# ## Train with a schedule
#
# A constant learning rate keeps the weights moving to the end, so the loss may stop falling although the network could do
# better. Would it do better? The same layers with the same initial weights are trained again, with smaller batches and a
# learning rate that falls to 0 along a cosine (Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts",
# ICLR 2017, without the restarts). This second model is called `scheduled`. Later notebooks use it beside `dense` wherever a
# conclusion could depend on how well the network was trained.

# %%
cosine = training.Cosine(scheduled_learning_rate)
settings["scheduled"] = training.Settings(
    scheduled_epochs, scheduled_batch_size, cosine, seed, compiler
)

# %% tags=["nbval-ignore-output"]
keras.utils.set_random_seed(seed)
autoencoders["scheduled"] = models.reinitialized(model.autoencoder)
started = time.perf_counter()
histories["scheduled"] = train(autoencoders["scheduled"], settings["scheduled"])
seconds["scheduled"] = time.perf_counter() - started

# %%
for name, history in histories.items():
    per_epoch = math.ceil(len(images.y_train) / settings[name].batch_size)
    print(f"{name}: {len(history)} epochs of {per_epoch} steps")

# %% [markdown]
# ## Read the curves
#
# Two corrections are needed. First, the training loss of an epoch is a mean over weights that were still changing, so both
# losses are measured again with the final weights. Second, the BCE floor is the entropy of the grey pixels (`01_preprocess`),
# which may differ between splits and data sets. Losses are therefore compared by their excess BCE.


# %%
def entropies_of(pixels):
    return metrics.entropy(data.as_flat_images(pixels))


def losses_of(autoencoder, pixels):
    x = data.as_flat_images(pixels)
    return metrics.bce(x, models.predict_in_batches(autoencoder, x))


# Part by part, since as floats many images would take gigabytes at once.
in_batches = models.predict_in_batches
splits = {"train": images.pixels_train, "val": images.pixels_val}
entropies = {split: in_batches(entropies_of, pixels) for split, pixels in splits.items()}
excess = {}
for name, autoencoder in autoencoders.items():
    for split, pixels in splits.items():
        losses = in_batches(partial(losses_of, autoencoder), pixels)
        excess[f"{name}.{split}.excess_bce"] = losses - entropies[split]

# %% tags=["nbval-ignore-output"]
intervals = {name: metrics.interval(values) for name, values in excess.items()}
pd.Series(intervals, name="nats per pixel [95 % interval]").to_frame().rename_axis(images.title)

# %%
floors = pd.Series({"loss": entropies["train"].mean(), "val_loss": entropies["val"].mean()})
curves = {name: history[floors.index] - floors for name, history in histories.items()}
final = {name: curve["val_loss"].iloc[-1] for name, curve in curves.items()}
gain = 100 * (1 - final["scheduled"] / final["dense"])
caption = (
    f"Figure 2.2. {images.title}: with the schedule, the excess of the validation loss ends {abs(gain):.0f} % "
    f"{'lower' if gain > 0 else 'higher'} than with a constant learning rate ({final['scheduled']:.4f} and "
    f"{final['dense']:.4f} nats per pixel). The dotted line marks the lower final loss."
)

# %%
with figures.look():
    figure = figures.new(caption, height=3.0)
    panels = figure.subplots(1, 2, sharey=True, width_ratios=list(map(len, curves.values())))
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        axes.plot(curve, marker="", label=["training, while weights change", "validation"])
        axes.axhline(min(final.values()), color="#777777", linestyle=":", linewidth=1)
        axes.set(xlabel="epoch", title=name)
    panels[0].set_ylabel("excess BCE / nats per pixel")
    figures.log_axis(panels[0].yaxis)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
run.show("02_loss_curves", figure)

# %% [markdown]
# Has a training overfitted, and are there signs that it has not converged? All rows of the table but the first are relative
# differences of the validation excess BCE. The third compares the mean of the last 10 % of the epochs with that of the 10 %
# before, which is fewer epochs in a shorter training.

# %%
facts = {}
for name, curve in curves.items():
    validation, tenth = curve["val_loss"], max(1, len(curve) // 10)
    last, before = validation.iloc[-tenth:].mean(), validation.iloc[-2 * tenth : -tenth].mean()
    facts[name] = {
        "best epoch": validation.idxmin(),
        "final loss above the best epoch's / %": 100 * (validation.iloc[-1] / validation.min() - 1),
        "fall over the last 10 % of the epochs / %": 100 * (1 - last / before),
        "final loss above the better training's / %": 100 * (final[name] / min(final.values()) - 1),
    }

# %% tags=["nbval-ignore-output"]
facts = pd.DataFrame(facts).rename_axis(columns=images.title)
facts.round(1)

# %% [markdown]
# Differences below 1 %, the parameter `change`, are ignored. A training has *overfitted* if its final loss lies above that of
# its best epoch. It has *not converged* if its loss still changes at the end, or if another training of the same network ends
# with a lower loss.

# %%
_, above_best, decrease, above_other = facts.to_numpy()
verdicts = {
    "overfitted": above_best > 100 * change,
    "loss still changes": ~(abs(decrease) < 100 * change),
    "another training ends lower": above_other >= 100 * change,
}
pd.DataFrame(verdicts, facts.columns).replace({True: "yes", False: "no"}).T

# %% [markdown]
# A "yes" in one of the last two rows shows that a training has not converged; a "no" in both does not prove that it has. On
# MNIST, `dense` has not converged after its 50 epochs: its loss still falls by more than 1 %, and the same layers with the
# schedule end with an excess BCE that is about 9 % lower. For `scheduled` neither sign is seen, but a flat end is no proof,
# since its learning rate has fallen to 0. The configuration of `dense` stays as it is, so that its results can be compared
# with others'. A conclusion about autoencoders must not rest on it alone.
#
# ## Results
#
# The baseline is a model that returns the mean training image for every input.

# %%
reconstructions = {"mean": np.broadcast_to(images.pixels_train.mean(axis=0) / 255, x_val.shape)}
for name, autoencoder in autoencoders.items():
    reconstructions[name] = models.predict_in_batches(autoencoder, x_val)
measured = dict(excess)
for name, reconstructed in reconstructions.items():
    measured[f"{name}.val.bce"] = metrics.bce(x_val, reconstructed)
    measured[f"{name}.val.excess_bce"] = measured[f"{name}.val.bce"] - entropies["val"]
    measured[f"{name}.val.sse"] = metrics.mse(x_val, reconstructed) * images.pixels

# %% tags=["nbval-ignore-output"]
table = pd.DataFrame(index=["excess_bce", "sse"])
for name in reconstructions:
    table[name] = [metrics.interval(measured[f"{name}.val.{score}"]) for score in table.index]
results = table.T.rename({"mean": "mean image"})
results.rename_axis(index=images.title, columns="validation, mean [95 % interval]")

# %% [markdown]
# The intervals cover the sampling of the validation images, not the training seed. Are the differences between the three
# models significant for these weights? The claims are tested together, paired by image, with Holm's correction at 5 %.
#
# In the table of claims, the *gain* is the mean difference in the direction of the claim, in the unit of the metric. The
# *verdict* is "yes" if the difference is significant in favour of the claim, "no" if it is significant against it, and "no
# difference detected" if it is not significant.
#
# The next cell stores the models. It also counts latent units that are *dead*, that is, constant over the validation images:
# they carry no information. A bottleneck with ReLU can have many, a linear one hardly any.

# %%
for name, autoencoder in autoencoders.items():
    codes = models.predict_in_batches(autoencoder.get_layer("encoder"), x_val)
    measured[f"{name}.dead_units"] = (np.ptp(codes, axis=0) == 0).sum()
    print(f"{name}: {measured[f'{name}.dead_units']} of {latent_dim} latent units are dead")
    measured[f"{name}.parameters"] = autoencoder.count_params()
    measured[f"{name}.latent_dim"] = latent_dim
    measured[f"{name}.train.seconds"] = seconds[name]
    autoencoder.save(run.new_artifact(f"{name}.keras"))
    histories[name].to_csv(run.new_artifact(f"{name}_history.csv"))

# %%
claims = [
    ("dense has a lower SSE than the mean image", "dense.val.sse", "mean.val.sse", "lower"),
    ("the schedule lowers the BCE", "scheduled.val.bce", "dense.val.bce", "lower"),
    ("the schedule lowers the SSE", "scheduled.val.sse", "dense.val.sse", "lower"),
]
headline = ["dense.val.bce", "dense.val.excess_bce", "scheduled.val.bce"]
reproduced = run.finish(measured, claims, [*headline, "scheduled.val.excess_bce"])
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.claims[["claim", "gain", "verdict"]]

# %% [markdown]
# ## Limitations
#
# Both trainings are shown with one seed; `12_compare_models` has the standard deviation over seeds. The schedule differs from
# the constant learning rate in its batch size and its number of steps as well, so its gain is not that of the cosine
# alone. Another training procedure may reach a lower loss; only these two are compared.
#
# **Read next.** `03_evaluate` measures the reconstructions of the test images beside PCA's; `04_error_maps` shows where they
# go wrong. The shape of the network follows Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural
# networks", Science 313, 2006. They pretrained their deeper network layer by layer; ReLU and Adam (Kingma and Ba, ICLR 2015)
# train this one from random weights, to a larger error than theirs, as `03_evaluate` shows.
