# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Map the errors
#
# **What you will do.** Ask where the reconstruction goes wrong: at which pixels, in which classes, on which part of the
# stroke, for which kind of handwriting, and in which few images.
#
# **What you will learn.** To take a mean apart. The same MSE can be a slight blur everywhere or a few failures; these
# maps tell which, beside what PCA does with as many numbers.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Twenty seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of the bootstrap
tail: float = 0.01  # the share of images called the tail; 0.05 for a milder one

# %% [markdown]
# ## Reconstruct the test images

# %%
from ae_lib import StudyError, data, figures, metrics, models
from ae_lib.analysis import strokes
from ae_lib.run import Run

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

run = Run(profile, "04_error_maps")
autoencoder, encoder, _ = models.load(run.model(model))
latent_dim = encoder.output_shape[1]

# %%
images = data.load(dataset, image_size=image_size)
images

# %%
x = images.x_test
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
pca_name = f"PCA-{latent_dim}"
reconstructions = {
    "autoencoder": models.predict_in_batches(autoencoder, x),
    pca_name: pca.inverse_transform(pca.transform(x)).clip(0, 1),
}
short = {"autoencoder": model, pca_name: "pca_clipped"}
errors = {name: y - x for name, y in reconstructions.items()}

# %% [markdown]
# ## Where in the image
#
# The error of a pixel is reconstruction minus original: positive where ink was added, negative where ink is missing.
# Its mean absolute value shows where the reconstruction is uncertain, its mean shows where it is biased.

# %%
maps = {name: np.abs(error).mean(axis=0) for name, error in errors.items()}
peaks = ", ".join(f"{name} {values.max():.3f}" for name, values in maps.items())
caption = f"Figure 4.1. {images.title}: mean absolute error of each pixel over the test images. Peaks: {peaks}."
run.show("04_mean_error", figures.pixel_maps(maps, images.shape, caption, "mean |error|"))

# %%
maps = {name: error.mean(axis=0) for name, error in errors.items()}
biases = ", ".join(f"{name} {values.mean():+.4f}" for name, values in maps.items())
caption = (
    f"Figure 4.2. {images.title}: mean signed error of each pixel. Dark: ink is missing; light: ink was added. Mean over all "
    f"pixels: {biases}."
)
run.show("04_signed_error", figures.pixel_maps(maps, images.shape, caption, "mean error"))

# %% [markdown]
# ## Where in each class
#
# The same map for the images of one class at a time: the outline of the digit appears, because a digit's shape is easy
# to guess and the exact position of its edge is not.

# %%
own = np.abs(errors["autoencoder"])
label = images.classes[images.y_test]
by_class = {f"{k}": own[label == k].mean(axis=0) for k in np.unique(label)[:12]}
hardest = max(by_class, key=lambda digit: by_class[digit].mean())
caption = (
    f"Figure 4.3. {images.title}: mean absolute error of the autoencoder's pixels by class. "
    f"Class {hardest} has most of it."
)
run.show("04_error_by_class", figures.pixel_maps(by_class, images.shape, caption, "mean |error|"))

# %% [markdown]
# ## Where on the stroke
#
# Every pixel has a distance to the nearest edge of a stroke, negative outside, positive inside. The squared error is
# averaged over the pixels at each distance, image by image; the interval is over images. Strokes are thin, so that most
# of their ink is near an edge as well: the share of the error there is read beside the share of the ink there.

# %%
distance = strokes.signed_edge_distance(x, images.shape)
edges = np.arange(-6, 4.01, 1)
bins = np.digitize(distance, edges)
middles = (edges[:-1] + edges[1:]) / 2


# %%
def by_distance(error):
    means = [
        np.nanmean(np.where(bins == i, error**2, np.nan), axis=1) for i in range(1, len(edges))
    ]
    return pd.DataFrame([metrics.interval(m[~np.isnan(m)], seed) for m in means], index=middles)


# %% tags=["nbval-ignore-output"]
import warnings

warnings.simplefilter(
    "ignore", RuntimeWarning
)  # images without a pixel at some distance have no mean there
profiles = {name: by_distance(error) for name, error in errors.items()}
near, ink = np.abs(distance) < 1, x >= strokes.INK
edge_share = {name: (error[near] ** 2).sum() / (error**2).sum() for name, error in errors.items()}
pd.DataFrame(
    {
        "within 1 pixel of an edge": edge_share
        | {"share of all pixels": near.mean(), "share of the ink's pixels": near[ink].mean()}
    }
).round(3)

# %%
caption = (
    f"Figure 4.4. {images.title}: squared error by distance to the edge of the stroke (shaded: within one pixel), with 95 % "
    f"intervals. {100 * near.mean():.0f} % of all pixels and {100 * near[ink].mean():.0f} % of the ink lie there; so does "
    f"{100 * edge_share['autoencoder']:.0f} % of the autoencoder's error."
)
labels = ("distance to the edge of the stroke / pixels (positive: inside)", "mean squared error")
run.show("04_error_by_distance", figures.lines(profiles, caption, *labels, shade=(-1, 1)))

# %% [markdown]
# ## Which handwriting
#
# Is a large error simply much ink? Images are sorted into ten equal groups by their ink, and again by the thickness of
# their strokes, and the error is averaged in each.

# %%
traits = {
    "ink": pd.Series(x.sum(axis=1), name=f"ink per image / sum of the {images.pixels} intensities"),
    "thickness": pd.Series(
        strokes.thickness(x, images.shape), name="mean thickness of the strokes / pixels"
    ),
}
sse = {name: (error.astype("float64") ** 2).sum(axis=1) for name, error in errors.items()}


# %%
def by_decile(trait, values):
    groups = trait.groupby(pd.qcut(trait, 10, duplicates="drop"), observed=True)
    rows = [metrics.interval(values[group.index], seed) for _, group in groups]
    return pd.DataFrame(rows, index=groups.mean().to_numpy())


# %%
curves = {
    trait: {name: by_decile(trait_of, values) for name, values in sse.items()}
    for trait, trait_of in traits.items()
}
ratios = {
    trait: {n: c["value"].iloc[-1] / c["value"].iloc[0] for n, c in by.items()}
    for trait, by in curves.items()
}
rank = {
    trait: {n: spearmanr(trait_of, v).statistic for n, v in sse.items()}
    for trait, trait_of in traits.items()
}


# %%
def finding(trait):
    """What the two figures say: the last group beside the first, and the rank correlation."""
    return "; ".join(
        f"{n} {ratios[trait][n]:.2f} times, rank correlation {rank[trait][n]:.2f}" for n in sse
    )


# %%
caption = (
    f"Figure 4.5. {images.title}: error by the amount of ink, means of ten equal groups with 95 % intervals. Most ink against "
    f"least: {finding('ink')}."
)
run.show(
    "04_error_by_ink", figures.lines(curves["ink"], caption, traits["ink"].name, "SSE per image")
)

# %%
caption = (
    f"Figure 4.6. {images.title}: error by the thickness of the strokes, means of ten equal groups with 95 % intervals. "
    f"Thickest against thinnest: {finding('thickness')}."
)
run.show(
    "04_error_by_thickness",
    figures.lines(curves["thickness"], caption, traits["thickness"].name, "SSE per image"),
)

# %% [markdown]
# ## Which few images
#
# How much of the whole error do the worst images carry? If all were alike, the worst 1 % would carry 1 %.

# %%
if not 0 < tail < 1:
    raise StudyError(f"tail is {tail}; expected a share between 0 and 1: change it.")
count = max(1, round(tail * len(x)))
order = {name: np.argsort(values)[::-1] for name, values in sse.items()}
tail_share = {
    name: values[order[name][:count]].sum() / values.sum() for name, values in sse.items()
}
both = len(set(order["autoencoder"][:count]) & set(order[pca_name][:count])) / count

# %%
threshold = sse["autoencoder"][order["autoencoder"][count - 1]]
caption = (
    f"Figure 4.7. {images.title}: errors on a logarithmic axis. The worst {100 * tail:.0f} % of the images carry "
    f"{100 * tail_share['autoencoder']:.1f} % of the autoencoder's error and {100 * tail_share[pca_name]:.1f} % of PCA's; {100 * both:.0f} % of them are "
    "the same images."
)
marks = {f"worst {100 * tail:.0f} % of the autoencoder": threshold}
run.show("04_tail", figures.histogram(sse, caption, "SSE per image", marks, yscale="log"))

# %%
worst = order["autoencoder"][: min(count, 12)]
rows = {
    "test image": x[worst],
    "autoencoder": reconstructions["autoencoder"][worst],
    pca_name: reconstructions[pca_name][worst],
}
rows["|error|"] = np.abs(errors["autoencoder"][worst])
caption = (
    f"Figure 4.8. {images.title}: the images at the end of the tail, their reconstructions, and the autoencoder's error. Titles: "
    "class, SSE. What is missing from a reconstruction stands in the last row."
)
titles = [f"{label[i]}, {sse['autoencoder'][i]:.0f}" for i in worst]
run.show("04_tail_images", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# ## Decide
#
# What the maps say, as rules. *At the edge*: the pixels within one pixel of an edge carry more of the error than their
# share of the ink. *Ink costs*: the tenth of the images with the most ink has an error more than 15 % larger than the
# tenth with the least. *Heavy tail*: the worst images carry more than twice their share.

# %%
for name in errors:
    print(f"{name}, at the edge: {'yes' if edge_share[name] > near[ink].mean() else 'no'}")
    print(f"{name}, ink costs: {'yes' if ratios['ink'][name] > 1.15 else 'no'}")
    print(f"{name}, heavy tail: {'yes' if tail_share[name] > 2 * tail else 'no'}")

# %% [markdown]
# ## Keep the results

# %%
rows = {}
for name, key in short.items():
    rows[f"{key}.test.edge_share"] = edge_share[name]
    rows[f"{key}.test.tail_share"] = tail_share[name]
    rows[f"{key}.test.sse_ratio_ink"] = ratios["ink"][name]
    rows[f"{key}.test.sse_ratio_thickness"] = ratios["thickness"][name]

# %%
reproduced = run.finish(rows, headline=list(rows))
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** The front page of the report puts these numbers beside the published ones. Stroke thickness after Castro,
# Tan, Kainz, Konukoglu and Glocker, "Morpho-MNIST: quantitative assessment and diagnostics for representation learning",
# JMLR 20(178), 2019.
