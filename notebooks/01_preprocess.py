# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Check and prepare the images
#
# **What you will do.** Load the images, prove that they are the right ones, split and scale them, and look at them
# before any model does.
#
# **What you will learn.** Which numbers a model must beat before it deserves a figure; why the loss that the study
# reports cannot reach 0, and how low it can get.
#
# **What you need.** Nothing but the installed project. **Time.** A quarter of a minute.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # or fashion_mnist, digits, or the path of a file or folder of your own
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
seed: int = 0  # which images the sample grid shows, and the bootstrap

# %% [markdown]
# ## Load and verify
#
# `load` looks for the file in `$AE_DATA_DIR`, then asks Keras. Wherever it came from, the arrays are written as the IDX
# byte streams in which LeCun, Cortes and Burges published MNIST, and their MD5 sums are compared: a permuted, cropped
# or re-labelled copy does not pass.

# %%
from ae_lib import data, figures, metrics
from ae_lib.run import Run, write_json

import numpy as np
import pandas as pd

run = Run(profile, "01_preprocess")
run

# %%
images = data.load(dataset, image_size=image_size)
images

# %% tags=["nbval-ignore-output"]
images.source

# %%
pd.Series(images.md5, name="MD5 as IDX").to_frame()

# %% [markdown]
# ## Split, scale, flatten
#
# The first part of the training images is set aside as the validation subset; it is what decisions may look at. The
# test images are looked at to report, never to choose. Pixels are divided by 255 and images flattened, to 784 numbers in MNIST.

# %%
splits = {"training": images.x_train, "validation": images.x_val, "test": images.x_test}
labels = {"training": images.y_train, "validation": images.y_val, "test": images.y_test}
shapes = {split: (x.shape, x.dtype, x.min(), x.max()) for split, x in splits.items()}
pd.DataFrame(shapes, index=["shape", "dtype", "least", "greatest"]).T.rename_axis(
    columns=images.title
)

# %% [markdown]
# An image that occurs in two splits would let a model be tested on what it has seen. Exact copies are counted here.


# %%
def seen(split):
    return {image.tobytes() for image in splits[split]}


for first, second in [("training", "test"), ("training", "validation"), ("validation", "test")]:
    print(f"images in both {first} and {second}: {len(seen(first) & seen(second))}")

# %% [markdown]
# ## Look at the images
#
# Ten of the training images of each class, in the order of the classes. The seed draws the sample, not a hand.

# %%
rng = np.random.default_rng(seed)
members = {label: np.flatnonzero(images.y_train == k) for k, label in enumerate(images.classes)}
sample = {
    str(label): images.x_train[rng.choice(own, min(10, len(own)), replace=False)]
    for label, own in list(members.items())[:30]
}
caption = (
    f"Figure 1.1. {images.title}: ten training images of each class, drawn at random (seed {seed})."
)
run.show("01_samples", figures.image_rows(sample, images.shape, caption))

# %% [markdown]
# ## Check the balance of the classes
#
# Errors are later averaged over images, so a class with more images weighs more. How uneven are the splits?

# %%
shares = pd.DataFrame(
    {split: np.bincount(y, minlength=len(images.classes)) / len(y) for split, y in labels.items()},
    images.classes,
)
shares.rename_axis(index="class", columns=images.title).round(4)

# %%
low, high = 100 * shares.min().min(), 100 * shares.max().max()
caption = (
    f"Figure 1.2. {images.title}: shares of the classes. They lie between {low:.1f} % and "
    f"{high:.1f} %, and the dashed line is the even share."
)
with figures.look():
    figure = figures.new(caption, height=2.4)
    panels = figure.subplots(1, shares.shape[1], sharey=True)
    for axes, (split, values) in zip(panels, shares.items(), strict=True):
        axes.bar(range(len(values)), 100 * values, color=figures.COLOURS[0])
        axes.axhline(100 / len(values), color=figures.COLOURS[1], linestyle="--", linewidth=1)
        axes.set(title=split, xlabel="class")
        figures.group_ticks(axes, values.index)
    panels[0].set_ylabel("share of images / %")
run.show("01_class_balance", figure)

# %% [markdown]
# ## Describe the pixels
#
# How much of an image is empty, how much is full, and how much is grey? Ink is hardly ever exactly full: nearly all of
# it is grey, which is why the loss, as will be seen, cannot reach 0.

# %%
x = images.x_train
kinds = {"empty (0)": x == 0, "grey": (x > 0) & (x < 1), "full (1)": x == 1}
table = pd.DataFrame({kind: {"share of pixels": mask.mean()} for kind, mask in kinds.items()})
table.rename_axis(columns=images.title).round(4)

# %%
everything = np.concatenate([images.x_val, images.x_train])
print(
    f"mean {everything.mean(dtype='float64'):.4f} and standard deviation {everything.std(dtype='float64'):.4f}"
)
print(
    f"pixels that are empty in every training and validation image: {(everything.max(axis=0) == 0).sum()} of {images.pixels}"
)

# %%
caption = (
    f"Figure 1.3. {images.title}: the mean training image and the standard deviation of each pixel. "
    f"{(x.max(axis=0) == 0).sum()} pixels are never inked, and {(x.std(axis=0) > 0.3).sum()} deviate by more than 0.3."
)
maps = {"mean": x.mean(axis=0), "standard deviation": x.std(axis=0)}
run.show("01_pixel_statistics", figures.pixel_maps(maps, images.shape, caption, "intensity"))

# %%
ink = {split: values.sum(axis=1) for split, values in splits.items()}
medians = ", ".join(f"{split} {np.median(values):.0f}" for split, values in ink.items())
caption = f"Figure 1.4. {images.title}: the amount of ink per image in the three splits (median: {medians})."
run.show(
    "01_ink",
    figures.histogram(ink, caption, f"ink per image / sum of the {images.pixels} intensities"),
)

# %% [markdown]
# ## Find the floor of the loss
#
# The study trains with binary cross-entropy (BCE), −x log y − (1 − x) log(1 − y), averaged over the pixels. For black
# and white targets its least value is 0. For grey targets it is not: even the perfect reconstruction y = x scores the
# pixel's own entropy, −x log x − (1 − x) log(1 − x). A BCE of 0.077 is therefore not 7.7 % away from anything; what
# counts is the **excess BCE**, the part above this floor.

# %% tags=["nbval-ignore-output"]
floors = {
    split: metrics.interval(metrics.entropy(values), seed) for split, values in splits.items()
}
pd.Series(floors, name="entropy floor / nats per pixel [95 % interval]").to_frame().rename_axis(
    columns=images.title
)

# %% [markdown]
# The other end of the scale is a model that draws the mean training image whatever it is shown. Anything that has
# learned something lies between the two.

# %% tags=["nbval-ignore-output"]
guess = np.broadcast_to(x.mean(axis=0), images.x_test.shape)
mean_image = metrics.score(images.x_test, guess, images.shape).mean()
mean_image.to_frame("mean image").rename_axis(columns=f"{images.title}, test").round(4)

# %% [markdown]
# ## Keep the results

# %%
facts = {"name": images.name, "title": images.title, "source": images.source, "md5": images.md5}
facts |= {"shape": images.shape, "notes": images.notes}
counts = {split: len(values) for split, values in splits.items()}
write_json(run.new_artifact("data.json"), facts | counts)

# %%
reproduced = run.finish(
    {
        f"data.{short}.entropy_floor": floors[split].value
        for short, split in zip(("train", "val", "test"), splits, strict=True)
    }
    | {
        f"data.{short}.mean_intensity": splits[split].mean()
        for short, split in (("train", "training"), ("test", "test"))
    },
    headline=["data.test.entropy_floor"],
)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `02_train` builds the autoencoder and trains it on these images. Why BCE on
# grey targets is not a likelihood: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in
# variational autoencoders", NeurIPS 2019.
