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
# **What you will do.** Build the fully connected autoencoder 784-256-128-32-128-256-784 with the Keras Functional API,
# train it, and ask of its loss curves whether it has learned, overfitted and converged.
#
# **What you will learn.** How an encoder and a decoder share the autoencoder's weights; how to read a loss whose floor
# is not 0.
#
# **What you need.** Nothing but the images; `01_preprocess` shows them. **Time.** Under 2 minutes on two cores
# for MNIST, 20 seconds for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # or fashion_mnist, digits, or the path of a file or folder of your own
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
hidden: list = [256, 128]  # units of the encoder's hidden layers; the decoder mirrors them
latent_dim: int = 32  # numbers in the code; try 2 for a map, 64 for sharper images
bottleneck: str = "linear"  # or relu, whose codes are never negative
epochs: int = 50  # passes over the training images; 2 for a quick look
batch_size: int = 256  # images per step; smaller is slower, and better when there are few images
learning_rate: float = 0.001  # the step size of Adam; this is Keras's default
seed: int = 0  # of the initial weights and of the order of the images
compiler: str = "auto"  # xla or none; auto takes XLA for a network without convolutions

# %% [markdown]
# ## Load the images

# %%
import time

from ae_lib import data, figures, metrics, models, training
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd

run = Run(profile, "02_train")
settings = training.Settings(epochs, batch_size, learning_rate, seed, compiler)
settings

# %%
images = data.load(dataset, image_size=image_size)
images

# %% [markdown]
# ## Build the encoder, the decoder and their composition
#
# Hidden layers are ReLU, the bottleneck is linear (the parameter), and the output is a sigmoid, since pixels lie in [0, 1]. Without its
# hidden layers, with a linear output and squared error, this network would be PCA with as many components, which makes
# PCA the baseline to beat.

# %%
keras.utils.set_random_seed(seed)
model = models.dense_autoencoder(images.pixels, hidden, latent_dim, bottleneck)
model.autoencoder.count_params(), model.encoder.count_params(), model.decoder.count_params()

# %%
layers = models.layer_table(model.autoencoder)
pd.DataFrame(layers, columns=["layer", "units", "activation", "parameters"]).set_index("layer")

# %%
factor = images.pixels / latent_dim
caption = (
    f"Figure 2.1. The autoencoder: {images.pixels} pixels are squeezed into {latent_dim} numbers, {factor:g} times "
    "fewer, and drawn again. Bars are layers (height: square root of their units), with the weights between them."
)

# %%
units = np.array([images.pixels, *(layer[1] for layer in layers)])
heights = np.sqrt(units)  # an area-like scale keeps the bottleneck visible
with figures.look():
    figure = figures.new(caption, height=3.0)
    axes = figure.subplots()
    colours = np.where(units == units.min(), figures.COLOURS[1], figures.COLOURS[0])
    bars = axes.bar(range(len(units)), heights, 0.36, bottom=-heights / 2, color=colours)
    axes.bar_label(bars, units, padding=3, fontweight="bold")
    for x, (_, _, _, weights) in enumerate(layers):
        axes.text(x + 0.5, 0, f"{weights:,}\n⟶", ha="center", fontsize=9, color="#555555")
    axes.set_xticks(range(len(units)), ["input", *(layer[2] for layer in layers)])
    axes.tick_params(length=0, labelleft=False)
    axes.spines[:].set_visible(False)
run.show("02_architecture", figure)

# %% [markdown]
# The encoder and the decoder are not copies: they are the autoencoder's own layers under names of their own, and what
# trains the whole trains the halves.

# %%
few = images.x_val[:100]
difference = model.decoder(model.encoder(few)) - model.autoencoder(few)
print("decoder(encoder(x)) equals autoencoder(x):", bool(abs(difference.numpy()).max() < 1e-6))

# %% [markdown]
# ## Train
#
# Adam minimises the binary cross-entropy between the image and its reconstruction. There is no early stopping and no
# choice among epochs: the weights after the last epoch are the result, whatever the curves say. While it trains, a line
# shows the epoch, both losses, and the time left. An interrupted training goes on after its last whole epoch when this
# cell is run again, and ends with the same weights, bit for bit.
#
# `training.fit` is Keras's `fit` with a step that is a whole epoch, compiled at once; `15_benchmark` measures what that
# saves. The images stay bytes in memory and are divided by 255 batch by batch.

# %% tags=["nbval-ignore-output"]
begun = time.perf_counter()
fitted = training.fit(
    model.autoencoder,
    images.pixels_train,
    images.pixels_val,
    settings,
    checkpoint_folder=run.folder / "checkpoints",
)
seconds = time.perf_counter() - begun  # after an interruption, those of the rest

# %%
history = pd.DataFrame(fitted.history, index=pd.RangeIndex(1, len(fitted.epoch) + 1, name="epoch"))
print(f"{len(history)} epochs of {-(-len(images.y_train) // batch_size)} steps")

# %% [markdown]
# ## Read the curves
#
# Two corrections before they are read. The training loss of an epoch is an average over weights that were still moving,
# so it lags behind; both losses are therefore measured again with the final weights. And the floor of a loss is not 0
# but the entropy of its grey pixels, which differs between training and validation images: what can be compared is the
# excess of each above its own floor.


# %%
def final_excess(x):
    reconstructed = models.predict_in_batches(model.autoencoder, x)
    return metrics.interval(metrics.bce(x, reconstructed) - metrics.entropy(x), seed)


x_train, x_val = images.x_train, images.x_val
floors = pd.Series(
    {"loss": metrics.entropy(x_train).mean(), "val_loss": metrics.entropy(x_val).mean()}
)
train_excess, val_excess = final_excess(x_train), final_excess(x_val)
gap = val_excess.value / train_excess.value - 1

# %%
caption = (
    f"Figure 2.2. {images.title}: losses by epoch, and their excess above the floors. With the final weights the excess is "
    f"{train_excess.value:.4f} nats per pixel in training and {val_excess.value:.4f} in validation, {100 * gap:+.0f} %."
)

# %%
losses = history[list(floors.index)]
with figures.look():
    figure = figures.new(caption, height=3.0)
    left, right = figure.subplots(1, 2)
    left.plot(losses, marker="", label=["training", "validation"])
    floor = {"color": "#777777", "linestyle": "-.", "linewidth": 1, "label": "floor (validation)"}
    left.axhline(floors["val_loss"], **floor)
    right.plot(losses - floors, marker="")
    left.set(xlabel="epoch", ylabel="BCE / nats per pixel")
    right.set(xlabel="epoch", ylabel="excess BCE / nats per pixel")
    figures.log_axis(right.yaxis)
    figure.legend(loc="outside upper left", ncols=3)
run.show("02_loss_curves", figure)

# %% [markdown]
# **Has it converged?** Three questions to the validation curve: when had 90 % and 99 % of the whole decrease happened, how
# much lower is the last tenth of the epochs than the tenth before, and was the last epoch the best?

# %% tags=["nbval-ignore-output"]
curve = history["val_loss"] - floors["val_loss"]
progress = (curve.iloc[0] - curve) / (curve.iloc[0] - curve.min())
tenth = max(1, epochs // 10)
gain = 1 - curve.iloc[-tenth:].mean() / curve.iloc[-2 * tenth : -tenth].mean()
convergence = {
    "epoch with 90 % of the decrease": (progress >= 0.90).idxmax(),
    "epoch with 99 % of the decrease": (progress >= 0.99).idxmax(),
    "best epoch": curve.idxmin(),
    "last tenth of the epochs lower than the tenth before by": f"{100 * gain:.1f} %",
    "training excess BCE, final weights": train_excess,
    "validation excess BCE, final weights": val_excess,
    "validation above training": f"{100 * gap:.1f} %",
}
pd.Series(convergence, name=images.title).to_frame()

# %% [markdown]
# Verdicts by rule, on the excess. *Learned*: the validation images end with less than half of the excess that the mean
# training image has. *Overfitted*: the last tenth of the epochs lies more than 10 % above the best epoch. *Converged*: it
# differs by less than 10 % from the tenth before. *Codes differ*: at least one unit of the code is not the same for all images.

# %%
guess = metrics.bce(x_val, x_train.mean(axis=0, keepdims=True)).mean() - floors["val_loss"]
verdicts = {
    "learned": val_excess.value < guess / 2,
    "overfitted": curve.iloc[-tenth:].mean() > 1.1 * curve.min(),
    "converged": abs(gain) < 0.1,
    "codes differ": np.ptp(models.predict_in_batches(model.encoder, x_val), axis=0).any(),
}
for question, answer in verdicts.items():
    print(f"{question}: {'yes' if answer else 'no'}")

# %% [markdown]
# ## Keep the model
#
# `model.keras` is an ordinary Keras model; loading it needs Keras and nothing of this project. Its layers `encoder` and
# `decoder` are the two halves.

# %%
model.autoencoder.save(run.new_artifact("dense.keras"))
history.to_csv(run.new_artifact("history.csv"))

# %%
reproduced = run.finish(
    {
        "dense.train.bce": train_excess.value + floors["loss"],
        "dense.val.bce": val_excess.value + floors["val_loss"],
        "dense.val.excess_bce": val_excess.value,
        "dense.parameters": model.autoencoder.count_params(),
        "dense.latent_dim": latent_dim,
        "dense.train.seconds": seconds,
    },
    headline=["dense.train.bce", "dense.val.bce", "dense.val.excess_bce"],
)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `03_evaluate` measures the reconstructions of the test images beside PCA's; `04_error_maps` shows where
# they go wrong. The architecture follows Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural
# networks", Science 313, 2006, who needed pretraining where ReLU and Adam (Kingma and Ba, ICLR 2015) now do without.
