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
# **Question.** Is the data set intact, and what is the lowest loss that a model can reach on it?
#
# **What you will do.** Load the images, compare their checksums with the published files, split and scale them, and look at
# them before any model does.
#
# **What you will learn.** Which error a trivial model already reaches; why the loss of a perfect model is not 0.
#
# **What you need.** Nothing but the installed project. **Time.** A quarter of a minute.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # or fashion_mnist, digits, or the path of a file or folder of your own
image_size: list = []  # height and width to resample to; [] keeps the original size
seed: int = 0  # which images the sample grid shows
per_class: int = 10  # images of each class in the sample grid
shown_classes: int = 30  # classes in the sample grid, at most

# %% [markdown]
# ## Load and verify
#
# Is this the data set that its name says? `load` looks for the file in `$AE_DATA_DIR`, then asks Keras. In either case the
# arrays are written as the IDX byte streams in which LeCun, Cortes and Burges published MNIST, and their MD5 sums are compared
# with those of the published files. A permuted, cropped or relabelled copy is refused. `run` is the folder to which this
# notebook writes its results.

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
pd.Series(images.md5, name="MD5 of the IDX file").to_frame()

# %% [markdown]
# Equal checksums mean equal images and labels, in the same order.
#
# ## Split, scale, flatten
#
# Which images are used for model selection, and which only for the final evaluation? A part of the original training set, in
# MNIST the first 10,000 of 60,000 images, is set aside as the validation set; the rest is called the training set. Parameters
# are chosen on the validation images, and the test images only give results. The claims of the notebooks, however, were written
# when results of an earlier edition on the test images were known. Pixels are scaled to [0, 1], and each image becomes a row of
# numbers, 784 in MNIST.

# %%
splits = {"training": images.x_train, "validation": images.x_val, "test": images.x_test}
labels = {"training": images.y_train, "validation": images.y_val, "test": images.y_test}
shapes = {split: (x.shape, x.dtype, x.min(), x.max()) for split, x in splits.items()}
table = pd.DataFrame(shapes, index=["shape", "dtype", "min", "max"]).T
table.rename_axis(columns=images.title)

# %% [markdown]
# An image that occurs in two splits would let a model be tested on what it was trained on. How many exact copies are there?

# %%
pixels = {
    "training": images.pixels_train,
    "validation": images.pixels_val,
    "test": images.pixels_test,
}
contents = {split: {image.tobytes() for image in x} for split, x in pixels.items()}
for first, second in [("training", "test"), ("training", "validation"), ("validation", "test")]:
    print(f"images in both {first} and {second}: {len(contents[first] & contents[second])}")

# %% [markdown]
# ## Look at the images
#
# What do the classes look like, and how much do the images of one class differ? The sample is drawn at random.

# %%
rng = np.random.default_rng(seed)
sample = {}
for number, name in list(enumerate(images.classes))[:shown_classes]:
    members = np.flatnonzero(images.y_train == number)
    chosen = rng.choice(members, min(per_class, len(members)), replace=False)
    sample[str(name)] = splits["training"][chosen]

# %%
count = sum(map(len, sample.values()))
caption = (
    f"Figure 1.1. {images.title}: {count} training images of {len(sample)} classes, drawn at random (seed {seed}). "
    "Each row is a class."
)
run.show("01_samples", figures.image_rows(sample, images.shape, caption))

# %% [markdown]
# ## Check the balance of the classes
#
# Later errors are means over images, so a class with more images weighs more. How uneven are the splits?

# %%
counts = {split: np.bincount(y, minlength=len(images.classes)) for split, y in labels.items()}
counts = pd.DataFrame(counts, index=images.classes)
shares = counts / counts.sum()
shares.describe().loc[["min", "max"]].rename_axis(columns=images.title).round(4)

# %%
low, high = 100 * shares.min().min(), 100 * shares.max().max()
caption = (
    f"Figure 1.2. {images.title}: the classes have between {low:.1f} % and {high:.1f} % of the images of a split. "
    "The dashed line is an equal share."
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
# How much of an image is empty, how much is full, and how much is grey? The share of grey pixels decides how low the loss
# can get, as the last section shows.


# %%
def count_levels(pixels):
    """How many pixels have each of the intensities 0 to 255."""
    return sum(np.bincount(image, minlength=256) for image in pixels)


levels = {split: count_levels(pixels[split]) for split in ("training", "validation")}
empty, *grey, full = levels["training"]
pixel_shares = pd.Series({"empty (0)": empty, "grey": sum(grey), "full (1)": full})
pixel_shares /= pixel_shares.sum()
pixel_shares.to_frame("share of pixels").rename_axis(columns=images.title).round(4)

# %% [markdown]
# MNIST's usual mean of 0.1307 and standard deviation of 0.3081 are those of the original training set of 60,000 images,
# so training and validation images are taken together here.

# %%
intensities, total = np.arange(256) / 255, levels["training"] + levels["validation"]
mean = np.average(intensities, weights=total)
std = np.sqrt(np.average(np.square(intensities - mean), weights=total))
inked = pixels["training"].any(axis=0) | pixels["validation"].any(axis=0)
print(f"mean {mean:.4f} and standard deviation {std:.4f}")
print(f"pixels that are empty in all these images: {(~inked).sum()} of {images.pixels}")

# %%
x = splits["training"]
caption = (
    f"Figure 1.3. {images.title}: {(x.max(axis=0) == 0).sum()} pixels are empty in every image of the training set, and "
    f"{(x.std(axis=0) > 0.3).sum()} have a standard deviation above 0.3. Left: the mean training image, right: the standard "
    "deviation of each pixel."
)
maps = {"mean": x.mean(axis=0), "standard deviation": x.std(axis=0)}
run.show("01_pixel_statistics", figures.pixel_maps(maps, images.shape, caption, "intensity"))

# %% [markdown]
# Do the three splits have one distribution? The amount of ink, the sum of an image's intensities, should then have the same
# distribution in all three.

# %%
ink = {split: values.sum(axis=1) for split, values in splits.items()}
medians = ", ".join(f"{split} {np.median(values):.0f}" for split, values in ink.items())
caption = f"Figure 1.4. {images.title}: the median amount of ink per image is, by split: {medians}."
xlabel = f"ink per image / sum of the {images.pixels} intensities"
run.show("01_ink", figures.histogram(ink, caption, xlabel))

# %% [markdown]
# ## Find the BCE floor
#
# How low can the loss get? The study trains with binary cross-entropy (BCE), −x log y − (1 − x) log(1 − y), averaged over the
# pixels. For black and white targets its minimum is 0. For a grey target it is not: even the perfect reconstruction y = x has
# the pixel's own entropy, −x log x − (1 − x) log(1 − x), as its BCE. The BCE of a perfect reconstruction, the **BCE floor**,
# is therefore the mean entropy of the pixels. The study also reports the **excess BCE**, the part above the BCE floor.

# %% tags=["nbval-ignore-output"]
entropies = {split: metrics.entropy(values) for split, values in splits.items()}
floors = pd.Series({split: metrics.interval(values) for split, values in entropies.items()})
floors.to_frame("BCE floor, nats per pixel [95 % interval]").rename_axis(index=images.title)

# %% [markdown]
# The 95 % interval covers the sampling of the images: other images of the same distribution would give another mean. On MNIST
# the floors of the training and the validation images are equal within their intervals; on other data they need not be. The
# excess BCE can be compared between splits and between data sets in either case.
#
# ## Results
#
# The other end of the scale is a model that returns the mean training image for every input. A model that has learned
# something lies between the two. `run.finish` saves the metrics, and compares the most important ones, the headline metrics,
# with the published values in `reports/reference`: a metric is reproduced if it lies within the tolerance stated there.

# %% tags=["nbval-ignore-output"]
mean_image = np.broadcast_to(x.mean(axis=0), images.x_test.shape)
scores = metrics.score(images.x_test, mean_image, images.shape)
results = pd.DataFrame({"mean image": scores.mean()})
results["perfect reconstruction"] = pd.Series(
    {"bce": floors["test"].value, "excess_bce": 0, "mse": 0, "sse": 0, "psnr": np.inf, "ssim": 1}
)
results.rename_axis(index=f"{images.title}, test").round(4)

# %%
facts = {"name": images.name, "title": images.title, "source": images.source, "md5": images.md5}
facts |= {"shape": images.shape, "notes": images.notes}
sizes = {split: len(values) for split, values in splits.items()}
write_json(run.new_artifact("data.json"), facts | sizes)

# %%
measured = {
    "data.train.entropy_floor": entropies["training"],
    "data.val.entropy_floor": entropies["validation"],
    "data.test.entropy_floor": entropies["test"],
    "data.train.mean_intensity": splits["training"].mean(),
    "data.test.mean_intensity": splits["test"].mean(),
}
reproduced = run.finish(measured, headline=["data.test.entropy_floor"])
reproduced

# %% [markdown]
# ## Limitations
#
# The checksums prove that the images are the published ones, not that the published labels are right. Exact copies are
# counted, near copies are not. The BCE floor belongs to this loss: with another loss the floor is different, 0 for the squared
# error.
#
# **Read next.** `02_train` builds the autoencoder and trains it on these images. Why the BCE of grey targets is not a
# likelihood: Loaiza-Ganem and Cunningham, "The continuous Bernoulli: fixing a pervasive error in variational autoencoders",
# NeurIPS 2019.
