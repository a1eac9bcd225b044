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
# **Question.** Where in the image, and on which strokes, is the error?
#
# **What you will do.** Average the reconstruction error by pixel, by distance to the edge of a stroke, by the amount of
# ink and by the thickness of the strokes, and look at the images with the largest errors.
#
# **What you will learn.** How to decompose a mean error. The same MSE can come from a slight blur in all images or from
# large errors in a few. Maps and histograms distinguish the two, beside PCA with the same number of components.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Twenty seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
edge_width: float = 1.0  # pixels on either side of an edge that count as near it
tail: float = 0.01  # share of the test images, those with the largest errors, that is called the tail
# fmt: on

# %% [markdown]
# ## Reconstruct the test images
#
# Nothing is tuned here. PCA is fitted on the training images, and its reconstructions are clipped to [0, 1], which can
# only lower its squared error.

# %%
from ae_lib import StudyError, data, figures, metrics, models
from ae_lib.analysis import strokes
from ae_lib.run import Run

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

if not 0 < tail < 1:
    raise StudyError(f"tail is {tail}; expected a share between 0 and 1: change it.")
run = Run(profile, "04_error_maps")
autoencoder, encoder, _ = models.load(run.model(model))
pd.set_option("display.max_colwidth", None)

# %%
images = data.load(dataset, image_size=image_size)
x, label = images.x_test, images.classes[images.y_test]
images

# %%
latent_dim = encoder.output_shape[1]
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
reconstructions = {
    "autoencoder": models.predict_in_batches(autoencoder, x),
    f"PCA-{latent_dim}": pca.inverse_transform(pca.transform(x)).clip(0, 1),
}
errors = {name: y.astype("float64") - x for name, y in reconstructions.items()}
squared = {name: np.square(error) for name, error in errors.items()}
sse = pd.DataFrame({name: values.sum(axis=1) for name, values in squared.items()})

# %% [markdown]
# ## Map the error over the image
#
# The error of a pixel is the reconstruction minus the original. Where is it large? The mean of its absolute value over the
# test images answers this for each pixel.

# %%
maps = {name: np.abs(error).mean(axis=0) for name, error in errors.items()}
means = " and ".join(f"{values.mean():.4f} ({name})" for name, values in maps.items())
caption = f"Figure 4.1. {images.title}: the mean absolute error over all pixels is {means}."
run.show("04_mean_error", figures.pixel_maps(maps, images.shape, caption, "mean |error|"))

# %% [markdown]
# On MNIST the error is largest where many strokes pass at slightly different positions, and nearly zero at the border,
# where hardly any image has ink.
#
# Is ink missing, or is ink added? The mean of the signed error is negative where ink is missing and positive where ink is
# added.

# %%
maps = {name: error.mean(axis=0) for name, error in errors.items()}
biases = " and ".join(f"{values.mean():+.4f} ({name})" for name, values in maps.items())
caption = f"Figure 4.2. {images.title}: the mean signed error is {biases}. Dark is missing ink."
run.show("04_signed_error", figures.pixel_maps(maps, images.shape, caption, "mean error"))

# %% [markdown]
# PCA without clipping has no bias on its training images, because it reproduces their mean. The bias of PCA in this map
# comes mostly from clipping, which removes negative intensities and thereby adds ink. The cross-entropy is minimised by an
# unbiased prediction, too: the conditional mean of each pixel. A well-trained autoencoder should therefore have little bias.
#
# Does the place of the error depend on the class? The next figure averages over the images of one class at a time.

# %% tags=["classes"]
absolute = np.abs(errors["autoencoder"])
maps = {f"{k}": absolute[label == k].mean(axis=0) for k in np.unique(label)[:12]}
class_means = pd.Series({k: values.mean() for k, values in maps.items()})
caption = (
    f"Figure 4.3. {images.title}: class {class_means.idxmax()} has the largest mean absolute error "
    f"of the autoencoder, {class_means.max() / class_means.min():.1f} times that of class "
    f"{class_means.idxmin()}. One map for each class."
)
run.show("04_error_by_class", figures.pixel_maps(maps, images.shape, caption, "mean |error|"))

# %% [markdown]
# On MNIST the outline of each class appears: the shape is easy to predict, the exact position of its edges is not.
#
# ## Relate the error to the edges of the strokes
#
# The last figure suggests that the error lies along the edges. To test this, each pixel gets its distance to the nearest
# edge of a stroke, negative outside the stroke and positive inside. The squared error is averaged over the pixels of an
# image at each distance, and then over the images.

# %%
limits = np.arange(-6, 4.01, 1)


def error_by_distance(values):
    """The mean squared error at each distance, with its interval over the images that have it."""
    by_image = strokes.mean_by_distance(values, distance, limits).T
    rows = [metrics.interval(means[np.isfinite(means)]) for means in by_image]
    return pd.DataFrame(rows, index=(limits[:-1] + limits[1:]) / 2)


# %% [markdown]
# Strokes are thin, so most of their ink is near an edge as well. The share of the error near edges is therefore compared
# with the share of the inked pixels near edges, and not with the share of all pixels. The band near an edge includes pixels
# outside the stroke, which have an error but no ink, so some excess over the share of the ink is to be expected.

# %%
distance = strokes.signed_edge_distance(x, images.shape)
near, ink = np.abs(distance) < edge_width, x >= strokes.INK
near_sse = pd.DataFrame({name: (values * near).sum(axis=1) for name, values in squared.items()})
edge_share = {name: metrics.ratio(near_sse[name], sse[name]) for name in sse}
ink_share = metrics.ratio((near & ink).sum(axis=1), ink.sum(axis=1))

# %%
shares = " and ".join(f"{100 * v.mean():.0f} % ({name})" for name, v in edge_share.items())
caption = (
    f"Figure 4.4. {images.title}: within {edge_width:g} px of an edge (shaded) lie {shares} of the "
    f"squared error and {100 * ink_share.mean():.0f} % of the inked pixels. Bands are 95 % "
    "intervals over test images."
)

# %%
curves = {name: error_by_distance(values) for name, values in squared.items()}
axis_labels = ("distance to the edge of the stroke / pixels (positive: inside)", "squared error")
shade = (-edge_width, edge_width)
run.show("04_error_by_distance", figures.lines(curves, caption, *axis_labels, shade=shade))

# %% [markdown]
# On MNIST 99 % of the squared error of `dense` lies within 1 px of an edge, where 84 % of the inked pixels lie. PCA has 91 %
# of its error there: the rest of its error is in the background and in the middle of the strokes, where the autoencoder has
# nearly none.
#
# ## Relate the error to ink and thickness
#
# Do images with more ink have larger errors? The test images are sorted into deciles, ten groups of equal size, once by
# their amount of ink and once by the mean thickness of their strokes. The squared error is averaged in each decile.

# %%
traits = pd.DataFrame({"ink": x.sum(axis=1), "thickness": strokes.thickness(x, images.shape)})
deciles = traits.rank(method="first").apply(pd.qcut, q=10, labels=False)  # 0 to 9, from low to high
units = {
    "ink": f"ink / sum of the {images.pixels} intensities",
    "thickness": "mean thickness of the strokes / pixels",
}


def error_by_decile(trait, values):
    """The mean of values in each decile of the images, at the decile's mean of a trait."""
    rows = values.groupby(deciles[trait]).apply(metrics.interval)
    return pd.DataFrame(rows.tolist(), index=traits[trait].groupby(deciles[trait]).mean())


# %% [markdown]
# How much larger is the error in the top decile than in the bottom one? This is a ratio of two means. `metrics.ratio`
# returns one value per image; the mean of these values is the ratio, and their standard error is that of the ratio (delta
# method).


# %%
def top_over_bottom(trait, values):
    """The ratio of the mean error in the top decile to that in the bottom one, as metrics.ratio."""
    top, bottom = deciles[trait] == deciles[trait].max(), deciles[trait] == 0
    return metrics.ratio(values * top / top.mean(), values * bottom / bottom.mean())


ratios = {trait: {name: top_over_bottom(trait, sse[name]) for name in sse} for trait in traits}
ranks = {trait: spearmanr(traits[trait], sse["autoencoder"]).statistic for trait in traits}

# %%
findings = [
    f"{ratio['autoencoder'].mean():.2f} times as large in the top decile of {trait} as in the "
    f"bottom one (Spearman {ranks[trait]:+.2f})"
    for trait, ratio in ratios.items()
]
caption = (
    f"Figure 4.5. {images.title}: the autoencoder's error is {' and '.join(findings)}. Points are "
    "deciles of the test images, bands 95 % intervals."
)

# %%
with figures.look():
    figure = figures.new(caption)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (trait, unit) in zip(panels, units.items(), strict=True):
        curves = {name: error_by_decile(trait, values) for name, values in sse.items()}
        figures.draw_curves(axes, curves)
        axes.set(xlabel=unit, ylim=(0, None))
    panels[0].set_ylabel("SSE per image")
    figures.legend_above(panels[0])
run.show("04_error_by_trait", figure)

# %% [markdown]
# On MNIST the error of `dense` is about 2.5 times as large in the top decile of ink as in the bottom one, but in the top
# decile of thickness it is about 18 % smaller than in the bottom one. This fits the result that the error lies along the
# edges: a thick stroke has more ink, but hardly longer edges than a thin one; more ink at equal thickness means a longer
# stroke, which has longer edges.
#
# ## Look at the tail
#
# Which share of the total error do the images with the largest errors have? If all errors were equal, 1 % of the images
# would have 1 % of the total error.

# %%
count = max(1, round(tail * len(x)))
worst = {name: values.nlargest(count).index for name, values in sse.items()}
tail_share = {name: sse[name][worst[name]].sum() / sse[name].sum() for name in sse}
common = len(set.intersection(*map(set, worst.values()))) / count
shares = " and ".join(f"{100 * share:.1f} % ({name})" for name, share in tail_share.items())
marks = {"start of the autoencoder's tail": sse["autoencoder"][worst["autoencoder"][-1]]}

# %%
caption = (
    f"Figure 4.6. {images.title}: the {100 * tail:g} % of the images with the largest errors have "
    f"{shares} of the squared error; the two tails share {100 * common:.0f} % of their images. The "
    "vertical axis is logarithmic."
)
run.show("04_tail", figures.histogram(dict(sse), caption, "SSE per image", marks, yscale="log"))

# %% [markdown]
# What do these images have in common? The last row shows the signed error of the autoencoder, as in Figure 4.2.

# %%
shown = worst["autoencoder"][:12]
rows = {"test image": x} | reconstructions | {"error": errors["autoencoder"]}
worst_error = errors["autoencoder"][shown]
missing = -worst_error[worst_error < 0].sum() / np.abs(worst_error).sum()
caption = (
    f"Figure 4.7. {images.title}: in the images with the autoencoder's largest errors, "
    f"{100 * missing:.0f} % of the absolute error is missing ink, the rest is added ink. In the "
    "last row dark is missing ink, light is added ink. Titles: class, SSE."
)
titles = [f"{label[i]}, {sse['autoencoder'][i]:.0f}" for i in shown]
rows = {name: values[shown] for name, values in rows.items()}
run.show("04_tail_images", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# ## Compare with PCA
#
# The table sets each part of the error beside that of PCA. Its last column has the value expected without an effect: the
# share near edges if the error were distributed like the ink, a ratio of 1 if all deciles had the same error, and the share
# of the tail if all images had the same error.

# %%
parts = {
    "edge_sse": near_sse,
    "rest_sse": sse - near_sse,
    "sse_thinnest": sse[deciles["thickness"] == 0],
    "sse_thickest": sse[deciles["thickness"] == deciles["thickness"].max()],
    "edge_share": pd.DataFrame(edge_share),
    "sse_ratio_ink": pd.DataFrame(ratios["ink"]),
    "sse_ratio_thickness": pd.DataFrame(ratios["thickness"]),
}
measured = {"data.test.ink_edge_share": ink_share}
for metric, table in parts.items():
    measured |= {f"{model}.test.{metric}": table["autoencoder"].to_numpy()}
    measured |= {f"pca_clipped.test.{metric}": table[f"PCA-{latent_dim}"].to_numpy()}

# %%
row_names = {
    "edge_sse": f"SSE within {edge_width:g} px of an edge",
    "rest_sse": "SSE elsewhere",
    "sse_thinnest": "SSE, thinnest decile",
    "sse_thickest": "SSE, thickest decile",
    "edge_share": "share of the SSE near edges",
    "sse_ratio_ink": "SSE ratio, top to bottom decile of ink",
    "sse_ratio_thickness": "SSE ratio, top to bottom decile of thickness",
    "tail_share": "share of the SSE in the tail (no interval)",
}

# %% tags=["nbval-ignore-output"]
summary = pd.DataFrame({m: table.apply(metrics.interval) for m, table in parts.items()}).T
summary.loc["tail_share"] = pd.Series(tail_share).map("{:.3f}".format)
uniform = {"edge_share": f"{ink_share.mean():.3f}", "sse_ratio_ink": 1, "sse_ratio_thickness": 1}
summary["without effect"] = pd.Series(uniform | {"tail_share": f"{tail:g}"})
summary = summary.fillna("").rename(index=row_names)
summary.rename_axis(index=f"{images.title}, test", columns="mean [95 % interval]")

# %% [markdown]
# Which differences are significant? All claims are decided together, paired by image, with Holm's correction for their
# number. A gain is positive if the claim holds, and its interval is at 95 %.

# %%
ours, of_pca = f"{model}.test.", "pca_clipped.test."
places = {
    "Near the edges": "edge_sse",
    "Away from the edges": "rest_sse",
    "On the thinnest strokes": "sse_thinnest",
    "On the thickest strokes": "sse_thickest",
}
lower = "the autoencoder has a lower error than PCA"
claims = []
for place, metric in places.items():
    claims.append((f"{place} {lower}", ours + metric, of_pca + metric, "lower"))

# %%
at_edges = "The autoencoder's error is more concentrated at the edges than"
grows = "The autoencoder's error grows with the"
claims += [
    (f"{at_edges} ink", f"{ours}edge_share", "data.test.ink_edge_share", "higher"),
    (f"{at_edges} PCA's", f"{ours}edge_share", f"{of_pca}edge_share", "higher"),
    (f"{grows} amount of ink", f"{ours}sse_ratio_ink", 1, "higher"),
    (f"{grows} thickness of the strokes", f"{ours}sse_ratio_thickness", 1, "higher"),
]

tails = {f"{ours}tail_share": tail_share["autoencoder"]}
tails |= {f"{of_pca}tail_share": tail_share[f"PCA-{latent_dim}"]}
reproduced = run.finish(measured | tails, claims, [*measured, *tails])

# %% tags=["nbval-ignore-output"]
results = reproduced.claims.set_index("claim")[["measured", "baseline", "gain", "verdict"]]
for side in ("measured", "baseline"):
    values = [measured.get(name, name) for name in results[side]]
    results[side] = [metrics.interval(v) if np.ndim(v) else v for v in values]
results.rename_axis(index=images.title)

# %% [markdown]
# ## Limitations
#
# Edges are located to whole pixels, at half intensity of the original; a stroke displaced by less than a pixel therefore
# counts as error near an edge. The tail is defined by the error itself, so its share describes these test images and has no
# interval. The limits of the deciles are treated as fixed, although they are estimated from the same images. Thickness, ink
# and class are correlated, so a difference between deciles is no effect of thickness alone.

# %%
reproduced

# %% [markdown]
# **Read next.** `05_explore_latent_space` analyses the codes. Stroke thickness follows Castro, Tan, Kainz,
# Konukoglu and Glocker, "Morpho-MNIST: quantitative assessment and diagnostics for representation learning", JMLR 20(178),
# 2019.
