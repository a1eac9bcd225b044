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
# **What you will learn.** How to take a mean apart. The same MSE can be a slight blur everywhere or a few failures. These
# maps distinguish the two, and compare each part of the error with that of PCA with the same number of components.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Twenty seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
edge_width: float = (
    1.0  # pixels on either side of an edge that count as near it; 2 for a wider band
)
tail: float = 0.01  # the share of images called the tail; 0.05 for a milder one

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
# The error is largest where strokes of many images pass but do not agree, and zero at the border, where no image has ink.
#
# Is ink missing, or is ink added? The mean of the signed error tells: it is negative where ink is missing, and positive
# where ink was added.

# %%
maps = {name: error.mean(axis=0) for name, error in errors.items()}
biases = " and ".join(f"{values.mean():+.4f} ({name})" for name, values in maps.items())
caption = f"Figure 4.2. {images.title}: the mean signed error is {biases}. Dark pixels lack ink."
run.show("04_signed_error", figures.pixel_maps(maps, images.shape, caption, "mean error"))

# %% [markdown]
# PCA without clipping has no bias on its training images, because it reproduces their mean. What the map shows of PCA comes
# from clipping, which removes negative intensities and thereby adds ink. The cross-entropy with which the autoencoder is
# trained also has its least value where the mean of the reconstruction is that of the image.
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
# The outline of the class appears: its shape is easy to predict, the exact position of its edges is not.
#
# ## Relate the error to the edges of the strokes
#
# The last figure suggests that the error lies along the edges. To test this, each pixel gets its distance to the nearest
# edge of a stroke, negative outside the stroke and positive inside. The squared error is averaged over the pixels of an
# image at each distance, and then over the images.

# %%
distance = strokes.signed_edge_distance(x, images.shape)
limits = np.arange(-6, 4.01, 1)


def error_by_distance(values):
    """The mean squared error at each distance, with its interval over the images that have it."""
    by_image = strokes.mean_by_distance(values, distance, limits).T
    rows = [metrics.interval(means[np.isfinite(means)]) for means in by_image]
    return pd.DataFrame(rows, index=(limits[:-1] + limits[1:]) / 2)


# %% [markdown]
# Strokes are thin, so most of their ink is near an edge as well. The share of the error near edges is therefore compared
# with the share of the inked pixels near edges, and not with the share of all pixels.

# %%
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
# ## Relate the error to ink and thickness
#
# Is a large error simply much ink? The test images are sorted into ten groups of equal size, once by their amount of ink
# and once by the mean thickness of their strokes, and the squared error is averaged in each group.

# %%
traits = pd.DataFrame({"ink": x.sum(axis=1), "thickness": strokes.thickness(x, images.shape)})
tenths = traits.rank(method="first").apply(pd.qcut, q=10, labels=False)  # 0 to 9
units = {
    "ink": f"ink / sum of the {images.pixels} intensities",
    "thickness": "mean thickness of the strokes / pixels",
}


def error_by_tenth(trait, values):
    """The mean of values in each tenth of the images, at the tenth's mean of a trait."""
    rows = values.groupby(tenths[trait]).apply(metrics.interval)
    return pd.DataFrame(rows.tolist(), index=traits[trait].groupby(tenths[trait]).mean())


# %%
def last_over_first(trait, values):
    """What each image contributes to the error of the last tenth over that of the first."""
    last, first = tenths[trait] == tenths[trait].max(), tenths[trait] == 0
    return metrics.ratio(values * last / last.mean(), values * first / first.mean())


ratios = {trait: {name: last_over_first(trait, sse[name]) for name in sse} for trait in traits}
ranks = {trait: spearmanr(traits[trait], sse["autoencoder"]).statistic for trait in traits}

# %%
findings = [
    f"{ratio['autoencoder'].mean():.2f} times as large in the last tenth by {trait} as in the "
    f"first (Spearman {ranks[trait]:+.2f})"
    for trait, ratio in ratios.items()
]
caption = (
    f"Figure 4.5. {images.title}: the autoencoder's error is {' and '.join(findings)}. Points are "
    "tenths of the test images, bands 95 % intervals."
)

# %%
with figures.look():
    figure = figures.new(caption)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (trait, unit) in zip(panels, units.items(), strict=True):
        curves = {name: error_by_tenth(trait, values) for name, values in sse.items()}
        figures.draw_curves(axes, curves)
        axes.set(xlabel=unit, ylim=(0, None))
    panels[0].set_ylabel("SSE per image")
    figures.legend_above(panels[0])
run.show("04_error_by_trait", figure)

# %% [markdown]
# More ink and thicker strokes are not the same. A thick stroke has more ink, but hardly longer edges than a thin one; more
# ink at equal thickness means a longer stroke, which has longer edges.
#
# ## Look at the tail
#
# How much of the whole error do the worst images carry? If all images had the same error, the worst 1 % would carry 1 %.

# %%
count = max(1, round(tail * len(x)))
worst = {name: values.nlargest(count).index for name, values in sse.items()}
tail_share = {name: sse[name][worst[name]].sum() / sse[name].sum() for name in sse}
common = len(set.intersection(*map(set, worst.values()))) / count
shares = " and ".join(f"{100 * share:.1f} % ({name})" for name, share in tail_share.items())
marks = {"start of the autoencoder's tail": sse["autoencoder"][worst["autoencoder"][-1]]}

# %%
caption = (
    f"Figure 4.6. {images.title}: the worst {100 * tail:g} % of the images carry {shares} of the "
    f"squared error, and {100 * common:.0f} % of these images are in the tail of both. The "
    "vertical axis is logarithmic."
)
run.show("04_tail", figures.histogram(dict(sse), caption, "SSE per image", marks, yscale="log"))

# %% [markdown]
# What do these images have in common? The last row shows the signed error of the autoencoder.

# %%
shown = worst["autoencoder"][:12]
rows = {"test image": x} | reconstructions | {"error": errors["autoencoder"]}
worst_error = errors["autoencoder"][shown]
missing = -worst_error[worst_error < 0].sum() / np.abs(worst_error).sum()
caption = (
    f"Figure 4.7. {images.title}: in the images with the autoencoder's largest errors, "
    f"{100 * missing:.0f} % of the absolute error is missing ink (dark in the last row), the rest "
    "is added ink (light). Titles: class, SSE."
)
titles = [f"{label[i]}, {sse['autoencoder'][i]:.0f}" for i in shown]
rows = {name: values[shown] for name, values in rows.items()}
run.show("04_tail_images", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# ## Compare with PCA
#
# The table puts each part of the error beside that of PCA, and each share beside what it would be if the error were distributed
# like the ink, or alike over all images.

# %%
parts = {
    "edge_sse": near_sse,
    "rest_sse": sse - near_sse,
    "sse_thinnest": sse[tenths["thickness"] == 0],
    "sse_thickest": sse[tenths["thickness"] == tenths["thickness"].max()],
    "edge_share": pd.DataFrame(edge_share),
    "sse_ratio_ink": pd.DataFrame(ratios["ink"]),
    "sse_ratio_thickness": pd.DataFrame(ratios["thickness"]),
}
measured = {"data.test.ink_edge_share": ink_share}
for metric, table in parts.items():
    measured |= {f"{model}.test.{metric}": table["autoencoder"].to_numpy()}
    measured |= {f"pca_clipped.test.{metric}": table[f"PCA-{latent_dim}"].to_numpy()}

# %% tags=["nbval-ignore-output"]
summary = pd.DataFrame({m: table.apply(metrics.interval) for m, table in parts.items()}).T
summary.loc["tail_share"] = pd.Series(tail_share).map("{:.3f}".format)
uniform = {"edge_share": f"{ink_share.mean():.3f}", "sse_ratio_ink": 1, "sse_ratio_thickness": 1}
summary["if distributed evenly"] = pd.Series(uniform | {"tail_share": f"{tail:g}"})
summary.fillna("").rename_axis(index=f"{images.title}, test", columns="mean [95 % interval]")

# %%
first, second = f"{model}.test.", "pca_clipped.test."
places = {
    "Near the edges": "edge_sse",
    "Away from the edges": "rest_sse",
    "On the thinnest strokes": "sse_thinnest",
    "On the thickest strokes": "sse_thickest",
}
lower = "the autoencoder has a lower error than PCA"
claims = []
for place, metric in places.items():
    claims.append((f"{place} {lower}", first + metric, second + metric, "lower"))

# %%
at_edges = "The autoencoder's error is more concentrated at the edges than"
grows = "The autoencoder's error grows with the"
claims += [
    (f"{at_edges} ink", f"{first}edge_share", "data.test.ink_edge_share", "higher"),
    (f"{at_edges} PCA's", f"{first}edge_share", f"{second}edge_share", "higher"),
    (f"{grows} amount of ink", f"{first}sse_ratio_ink", 1, "higher"),
    (f"{grows} thickness of the strokes", f"{first}sse_ratio_thickness", 1, "higher"),
]

# %%
tails = {f"{first}tail_share": tail_share["autoencoder"]}
tails |= {f"{second}tail_share": tail_share[f"PCA-{latent_dim}"]}
reproduced = run.finish(measured | tails, claims, [*measured, *tails])

# %% tags=["nbval-ignore-output"]
reproduced.claims.set_index("claim")[["measured", "baseline", "gain", "verdict"]]

# %% [markdown]
# ## Limitations
#
# The edges are those of the original at half intensity, in whole pixels, so a shift of less than a pixel counts as an error
# near an edge. The tail was chosen by the error itself: its share describes these test images, and has no interval.
# Thickness, ink and class go together, so a difference between tenths is no effect of thickness alone.

# %%
reproduced

# %% [markdown]
# **Read next.** `05_explore_latent_space` asks what the code itself holds. Stroke thickness follows Castro, Tan, Kainz,
# Konukoglu and Glocker, "Morpho-MNIST: quantitative assessment and diagnostics for representation learning", JMLR 20(178),
# 2019.
