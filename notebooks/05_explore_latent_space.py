# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explore the latent space
#
# **Question.** Are the codes good features, and what do their units mean?
#
# **What you will do.** Draw maps of the test images' codes, look up neighbours, and classify by the code with two simple
# classifiers. Then fix and traverse single units, interpolate between codes, and look at the decoded images.
#
# **What you will learn.** How features are judged beside baselines (PCA with as many components, raw pixels); why the
# scale of a code matters for its neighbours; and how a linear probe can be less accurate on a larger code.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Three minutes on one core for MNIST, 20
# seconds for the embedded digits.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of t-SNE, of the images and pairs sampled, and of the networks trained here

# Maps
map_images: int = 10000  # the first test images, all of MNIST's
map_iterations: int = 250  # of t-SNE, after 250 of early exaggeration; twice as many changed the trustworthiness by 0.001
trust_images: int = 2000  # random sample for the trustworthiness, which needs memory of order n²

# Neighbours and classifiers
query_images: int = 8  # test images whose neighbours are shown
penalties: list = [0.01, 0.1]  # candidates for the linear probe's inverse penalty, selected on validation images
margin: float = 0.01  # accuracies whose difference is within ± this margin count as equivalent

# Linear probe and latent dimension: a smaller network that is trained here, with the settings of 02_train
small_dim: int = 8  # latent dimension of the smaller network; skipped unless below the model's
hidden: list = [256, 128]  # units of the encoder's hidden layers; the decoder mirrors them
epochs: int = 50  # passes over the training images
batch_size: int = 256  # images per step
learning_rate: float = 0.001  # the step size of Adam

# Units
cost_images: int = 2000  # the first test images, decoded once for every unit
low: float = 0.05  # quantile of a unit's training values to which it is moved, lower end
high: float = 0.95  # quantile of a unit's training values to which it is moved, upper end
moved_images: int = 100  # the first test images, in which every unit is moved
units_shown: int = 8  # units shown in Figure 5.6: half with the highest cost, half with the lowest
moved_shown: int = 2  # images shown in Figure 5.6

# Paths
pairs: int = 200  # pairs of test images of different classes; the interval narrows with the square root
half_steps: int = 4  # steps from the start of a path to its midpoint, and from there to its end
pairs_shown: int = 2  # pairs shown in Figure 5.7
# fmt: on

# %% [markdown]
# ## Load the images and the model

# %%
from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import latent
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from IPython.display import IFrame
from openTSNE import TSNE
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

run = Run(profile, "05_explore_latent_space")
autoencoder, encoder, decoder = models.load(run.model(model))
images = data.load(dataset, image_size=image_size)
pd.set_option("display.max_colwidth", None)
images

# %% [markdown]
# Three representations of every image are compared: the autoencoder's code; as many PCA components, fitted on the same
# training images; and the pixels themselves.


# %%
def encode(network):
    codes = {split: models.predict_in_batches(network, x) for split, x in pixels.items()}
    return {split: code.reshape(len(code), -1) for split, code in codes.items()}


pixels = {"train": images.x_train, "val": images.x_val, "test": images.x_test}
latent_dim = encoder.output_shape[1]
small = f"dense_{small_dim}"  # the smaller network, trained below
settings = training.Settings(epochs, batch_size, learning_rate, seed)  # its training
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(pixels["train"])
features = {model: encode(encoder), "pca": encode(pca.transform), "pixels": pixels}
if not np.ptp(features[model]["train"], axis=0).any():
    raise StudyError(
        f"All codes of {model} are equal; expected codes that differ: train it with a smaller "
        "learning_rate or a linear bottleneck."
    )

# %% [markdown]
# ## Draw maps
#
# Do images of one class lie together? Two ways lead from the codes of the test images to a plane. **PCA of the codes**
# keeps as much of their variance as two axes can. **t-SNE** (van der Maaten and Hinton 2008) keeps neighbours together
# and gives up distances. For PCA, the first map is its first two components; t-SNE is applied to all of them.

# %%
codes = {name: features[name]["test"][:map_images] for name in (model, "pca")}
start = "pca" if latent_dim > 1 else "random"
tsne = TSNE(initialization=start, n_iter=map_iterations, neighbors="exact", random_state=seed)
pca_maps = {name: latent.map_by_pca(points) for name, points in codes.items()}
tsne_maps = {name: np.asarray(tsne.fit(points)) for name, points in codes.items()}

# %% [markdown]
# How far can a map be trusted? **Trustworthiness** is 1 if the neighbours of every image on the map are its neighbours
# in the code, and about 0.5 on a random map (Venna and Kaski 2001). The **5-NN accuracy** of a map is the share of test
# images that the five nearest other test images classify correctly. The rows "full code" use the code itself, whose
# trustworthiness is 1 by definition.

# %% tags=["nbval-ignore-output"]
labels, quality = images.y_test[:map_images], {}
sample = np.random.default_rng(seed).permutation(len(labels))[:trust_images]
for name in codes:
    maps = {"PCA map": pca_maps[name], "t-SNE map": tsne_maps[name], "full code": codes[name]}
    quality[name] = latent.map_quality(codes[name], maps, labels, sample)
pd.concat(quality).round(3).rename_axis(index=[images.title, "map"])

# %%
trust = pd.DataFrame({name: table["trustworthiness"] for name, table in quality.items()})
trust, about = trust.round(2), f"{images.title}, {len(labels):,} test images."
caption = (
    f"Figure 5.1. Two principal axes of codes with {latent_dim} units have a trustworthiness of {trust.loc['PCA map', model]} for the "
    f"autoencoder and {trust.loc['PCA map', 'pca']} for PCA. {about} Each class's name stands at its median."
)
axis = "principal axis {} / units of the code"
run.show("05_map_pca", figures.scatter_maps(pca_maps, images.classes[labels], caption, axis))
caption = (
    f"Figure 5.2. t-SNE maps, whose distances have no unit, have a trustworthiness of {trust.loc['t-SNE map', model]} for the "
    f"autoencoder and {trust.loc['t-SNE map', 'pca']} for PCA. {about}"
)
axis = "t-SNE axis {}"
run.show("05_map_tsne", figures.scatter_maps(tsne_maps, images.classes[labels], caption, axis))

# %% [markdown]
# A map with separate groups, each of one class, shows that near codes mostly belong to one class. PCA's components
# have such a map as well: a map by itself is no evidence for an autoencoder.

# %% [markdown]
# ## Look up neighbours
#
# Which training images are nearest to a test image, by code and by pixels?

# %%
queries = images.examples(seed)[:query_images]
rows, same = {"query": pixels["test"][queries]}, {}
for name in (model, "pixels"):
    _, nearest = latent.neighbours(features[name]["train"], features[name]["test"][queries], 3)
    same[name] = (images.y_train[nearest] == images.y_test[queries, None]).mean()
    rows |= {f"{name} {i + 1}": pixels["train"][nearest[:, i]] for i in range(3)}
caption = (
    f"Figure 5.3. Of the three nearest training images of {len(queries)} test images, {same[model]:.0%} by code and {same['pixels']:.0%} by "
    f"pixels are of the query's class. {images.title}, a test image and its neighbours in each column."
)
titles = images.classes[images.y_test[queries]]
run.show("05_neighbours", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# ## Classify by the code
#
# How well do simple classifiers recognise the class? **k-NN**: the k nearest training images vote. It has no tuned
# hyperparameter; k = 1 and k = 5 are both reported.
# **Linear probe**: multinomial logistic regression on standardised features (Alain and Bengio 2017), whose penalty is
# selected for each representation on the validation images. Both are fitted on the training images, so that the 5-NN
# accuracy differs from that of the map section, where the neighbours are test images.

# %%
measured = {}
for name, representation in features.items():
    splits = ("test",) if name == "pixels" else ("val", "test")
    hits = latent.hits(representation, images, penalties, splits)
    measured |= {f"{name}.{score}": correct for score, correct in hits.items()}


# %% tags=["nbval-ignore-output"]
def test_accuracies(name):
    scores = ("knn1_accuracy", "knn5_accuracy", "linear_probe_accuracy")
    return {score: metrics.interval(measured[f"{name}.test.{score}"]) for score in scores}


table = pd.DataFrame({name: test_accuracies(name) for name in features})
table.rename_axis(columns=f"{images.title}, test [95 %]")

# %% [markdown]
# A difference that is not significant may still be large. Two accuracies are **equivalent** if the 95 % interval of their
# difference, paired by image, lies within ± the margin (two one-sided tests, TOST). Few images never show equivalence.


# %% tags=["nbval-ignore-output"]
def print_difference(first, second):
    gain = metrics.difference(measured[first], measured[second])
    verdict = "yes" if metrics.equivalent(gain, margin) else "not shown"
    print(f"{first} − {second}: {gain}; equivalent within ±{margin:g}: {verdict}")


for score in table.index:
    print_difference(f"{model}.test.{score}", f"pca.test.{score}")

# %% [markdown]
# An autoencoder is trained to reconstruct, not to place images of one class near each other, and PCA with as many components
# is a strong baseline. On MNIST the 5-NN accuracy is about 97.3 % on the code of 32 units, 97.5 % on PCA and 96.6 % on
# pixels. Code and PCA are equivalent within ±1 percentage point. This margin is wide beside an error of 2.5 %: the interval
# does not exclude that the code has a fifth more errors than PCA. The comparison also depends on the training: the default
# model `dense` is under-trained, and `12_compare_models` has the values of `scheduled`, the same network under a decaying
# learning rate.

# %% [markdown]
# ## Give the code a scale
#
# Why are PCA's neighbours hard to beat? A distance between two PCA codes is the distance between their reconstructions.
# The autoencoder's code has no such scale: the decoder's first layer can undo any invertible linear map of the code at no
# loss. Two experiments test whether the scale matters. **Whitening** removes the scale of both: every principal axis
# gets the same variance. **Rescaling** fits a linear decoder B from codes to pixels by least squares on the training
# images; the distance between codes z and z′ is then ‖(z − z′) B‖, that of the linearly decoded images. It uses no labels.

# %% tags=["classes"]
metric = latent.pixel_metric(features[model]["train"], pixels["train"])
views = {f"{model}.test.knn5_accuracy_rescaled": (model, lambda code: code @ metric)}
for name in codes:
    white = PCA(whiten=True, svd_solver="covariance_eigh").fit(features[name]["train"])
    views[f"{name}.test.knn5_accuracy_whitened"] = name, white.transform

# %% tags=["nbval-ignore-output", "classes"]
for score, (name, view) in views.items():
    _, nearest = latent.neighbours(view(features[name]["train"]), view(features[name]["test"]))
    correct = latent.vote(images.y_train, nearest) == images.y_test
    measured[score] = correct.astype("float64")
    print(f"{score}: {metrics.interval(correct)}")
print_difference(f"{model}.test.knn5_accuracy_rescaled", "pca.test.knn5_accuracy")

# %% [markdown]
# On MNIST whitening lowers PCA's accuracy by 0.5 percentage points, so its scale helps its neighbours. Whitening hardly
# changes the accuracy of the code (by at most 0.2), and rescaling raises it by about 0.3: the code had no useful scale. Both
# effects are those of single trainings. They suggest to rescale a code before neighbours are searched by it.

# %% [markdown]
# ## Compare linear probes on a smaller and a larger code
#
# In five trainings on MNIST, a linear probe has an accuracy of 92.2 ± 0.3 % on codes of 8 units and of 90.5 ± 0.2 % on codes
# of 32 (mean ± standard deviation over training seeds), although 5-NN is more accurate on the larger codes. Class information
# is therefore not lost, but it is less linearly separable. The hypothesis: an encoder with few units has to compute
# non-linear functions of the pixels, which separate the classes better than any projection; an encoder with many units can
# reconstruct with nearly linear ones, as PCA does. To test it, a network with fewer units is trained, and ridge regression
# finds the **linear part** of each code: the best prediction of the code by a linear map of the pixels.

# %% tags=["classes", "nbval-ignore-output"]
compared = {model: features[model]}
if 0 < small_dim < latent_dim:
    keras.utils.set_random_seed(seed)
    network = models.dense_autoencoder(images.pixels, hidden, small_dim)
    training.fit(network.autoencoder, images.pixels_train, images.pixels_val[:1000], settings)
    compared = {small: encode(network.encoder), **compared}

# %% tags=["nbval-ignore-output", "classes"]
parts = {name: code for name, code in compared.items() if name != model}
for name, code in compared.items():
    linear = Ridge().fit(pixels["train"], code["train"])
    parts[f"{name}_linear"] = encode(linear.predict)
    print(f"R² of the linear part, {name}: {linear.score(pixels['test'], code['test']):.3f}")
if small in compared:
    small_pca = PCA(small_dim, random_state=seed).fit(pixels["train"])
    parts[f"pca_{small_dim}"] = encode(small_pca.transform)
for name, part in parts.items():
    hits = latent.hits(part, images, penalties)
    measured |= {f"{name}.{score}": correct for score, correct in hits.items()}
table = pd.DataFrame({name: test_accuracies(name) for name in [*parts, model, "pca"]}).T
table.rename_axis(columns=f"{images.title}, test [95 %]")

# %% tags=["classes"]
rivals = {small: f"pca_{small_dim}", model: "pca"}
readouts = {"code": list(compared), "its linear part": [f"{name}_linear" for name in compared]}
readouts["PCA"] = [rivals[name] for name in compared]
dims, curves = [code["train"].shape[1] for code in compared.values()], {}
for readout, names in readouts.items():
    accuracies = [vars(interval) for interval in table["linear_probe_accuracy"][names]]
    curves[readout] = pd.DataFrame(accuracies, index=dims)
gains = 100 * (curves["code"]["value"] - curves["its linear part"]["value"])
caption = (
    f"Figure 5.4. A linear probe on the code gains {gains.iloc[0]:.1f} percentage points over one on its linear part with {dims[0]} units, "
    f"and {gains.iloc[-1]:.1f} with {dims[-1]}. {images.title}, test images, one training for each dimension, 95 % intervals."
)
axes = "latent dimension", "accuracy of the linear probe"
run.show("05_probe", figures.intervals_by_group(curves, caption, *axes, bottom=None))

# %% [markdown]
# A large gain of the code over its linear part shows that the probe uses non-linear functions of the pixels. On MNIST (one
# training each) the gain is about 10 percentage points with 8 units and less than 1 with 32: the larger code is nearly a
# linear map of the pixels (R² about 0.95, with 8 units 0.86), and a linear probe is hardly more accurate on it than on PCA.
# This is consistent with the hypothesis that the larger code lacks non-linear features that separate the classes.
#
# Two other explanations fit less well. The penalty: with `penalties: [1.0, 100.0]` the accuracies are nearly the same. A loss
# of class information: 5-NN rises from 95 % with 8 units to 97 % with 32. Two dimensions and one training each do not prove a
# cause, and why training makes an encoder with many units more linear is not tested here.

# %% [markdown]
# ## Fix and move single units
#
# What do the units mean? PCA's components are ordered: the first carry most of the variance. Nothing orders the
# autoencoder's units. A unit's **cost** is the rise of the squared error when this unit alone is fixed at its training
# mean.


# %%
def decode(codes):
    return models.predict_in_batches(decoder, codes.reshape(-1, latent_dim))


costs = {}
for name, back in {model: decode, "pca": pca.inverse_transform}.items():
    part, means = features[name]["test"][:cost_images], features[name]["train"].mean(axis=0)
    costs[name] = latent.unit_costs(back, pixels["test"][:cost_images], part, means)

# %%
by_cost = {name: np.argsort(-cost.mean(axis=0)) for name, cost in costs.items()}
curves, ranks = {}, np.arange(1, latent_dim + 1)
for name, order in by_cost.items():
    intervals = [metrics.interval(cost) for cost in costs[name].T[order]]
    curves[name] = pd.DataFrame(intervals, index=ranks)
ratio = {name: curve["value"].iloc[0] / curve["value"].iloc[-1] for name, curve in curves.items()}
caption = (
    f"Figure 5.5. The most costly unit costs {ratio[model]:.1f} times as much as the least costly one for the autoencoder, "
    f"{ratio['pca']:.0f} times for PCA. {images.title}, test images, 95 % intervals."
)
axes = "unit, in falling order of its cost", "rise of the SSE per image"
run.show("05_unit_cost", figures.lines(curves, caption, *axes))

# %% [markdown]
# Does a unit have a meaning of its own? Each unit is moved from a low to a high quantile of its training values, in many
# images. The **agreement** of a unit is the mean cosine between the changes that it makes in different images: 1 if it
# changes all images alike, as every component of PCA does, and near 0 if the effect depends on the image.

# %%
ends = np.quantile(features[model]["train"], [low, high], axis=0).astype("float32")
moved = [latent.with_one_unit_at(codes[model][:moved_images], values) for values in ends]
shape = (latent_dim, -1, images.pixels)  # units, images, pixels
at_low, at_high = decode(moved[0]).reshape(shape), decode(moved[1]).reshape(shape)
agreement = latent.agreement(at_high - at_low)
print(f"mean cosine {agreement.mean():.1f} (PCA: 1)")

# %%
half, rows = units_shown // 2, {}
units = pd.unique(np.concatenate([by_cost[model][:half], by_cost[model][-half:]]))
for i in range(moved_shown):
    rows[f"image {i + 1}, unit low"] = at_low[units, i]
    rows[f"image {i + 1}, unit high"] = at_high[units, i]
    rows[f"image {i + 1}, change"] = at_high[units, i] - at_low[units, i]
caption = (
    f"Figure 5.6. The changes that a unit makes in different images have a mean cosine of {agreement.mean():.2f}, where PCA's components "
    f"have 1. {images.title}; the most and the least costly units, by number, moved from their {low:.0%} to their {high:.0%} "
    "quantile in test images. In a row of changes dark is missing ink and light is added ink."
)
run.show("05_traversals", figures.image_rows(rows, images.shape, caption, units))

# %% [markdown]
# On MNIST the mean agreement is below 0.4: most of what a unit changes depends on the other units, so that single units have
# no fixed meaning. With an agreement near 1, a unit would act as a component of PCA does, in every image alike.

# %% [markdown]
# ## Interpolate between images
#
# Do the images between two codes look real? Pairs of test images of different classes are connected by three paths: decoded
# from the straight line between their codes; the **cross-fade** of their pixels; and the cross-fade of their two
# reconstructions. The third has the same ends as the first, so that these two differ by nothing but the decoder's
# non-linearity; for PCA they would be equal.

# %%
steps, ends = 2 * half_steps + 1, latent.unlike_pairs(images.y_test, pairs, seed)
decoded = decode(latent.path(*features[model]["test"][ends], steps)).reshape(steps, pairs, -1)
paths = {
    "decoded": decoded,
    "cross-fade of reconstructions": latent.path(decoded[0], decoded[-1], steps),
    "cross-fade of pixels": latent.path(*pixels["test"][ends], steps),
}
distances = {}
for name, path in paths.items():
    distances[name] = latent.neighbours(pixels["train"], path[half_steps], 1)[0][:, 0] ** 2
keys = [f"{model}.test.midpoint_distance{end}" for end in ("", "_reconstructions", "_pixels")]
measured |= dict(zip(keys, distances.values(), strict=True))

# %%
rows = {}
for i in range(pairs_shown):
    rows |= {f"{i + 1}: {name}": path[:, i] for name, path in paths.items()}
means = [distance.mean() for distance in distances.values()]
caption = (
    f"Figure 5.7. At the midpoint, the squared distance to the nearest training image is {means[0]:.1f} for decoded images, {means[1]:.1f} for the "
    f"cross-fade of reconstructions, {means[2]:.1f} for that of pixels. {images.title}, means of {pairs} pairs; {pairs_shown} are shown."
)
run.show("05_interpolation", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# At the midpoint a cross-fade has less contrast than its ends, and images of low contrast are closer to most others. The
# distance therefore favours the cross-fades, if any. On MNIST the decoded midpoints are nonetheless nearer to a training
# image: the non-linear decoder keeps the path closer to real images than a cross-fade of the same two reconstructions does.

# %% [markdown]
# ## Try the models out
#
# A report ends with a page in which the trained models run by themselves, without kernel, server and network: maps of the
# codes, a slider for each unit, paths between images, images that you draw, and PCA beside the network everywhere. After
# `make report`, run this cell in JupyterLab (`make lab`) to have it here. The page of the published models is
# [explorer.html](../reports/reference/explorer.html) in `reports/reference`.

# %% tags=["nbval-ignore-output"]
IFrame(f"../reports/{profile}/explorer.html", "100%", 800)

# %% [markdown]
# ## Decide
#
# All claims are decided together, paired by image, with Holm's correction for their number. A gain is positive if the
# claim holds. The claims were written after an earlier edition's results on these test images were known: the correction
# covers their number, not that choice.

# %%
knn5, probe = "{}.test.knn5_accuracy".format, "{}.test.linear_probe_accuracy".format
linear = "{}_linear.test.linear_probe_accuracy".format
better = "Linear probe: higher accuracy on"
claims = [
    ("Codes have better neighbours than PCA", knn5(model), knn5("pca"), "higher"),
    ("PCA's scale improves its neighbours", knn5("pca"), knn5("pca") + "_whitened", "higher"),
    ("Rescaling improves the code's neighbours", knn5(model) + "_rescaled", knn5(model), "higher"),
    (f"{better} codes than on PCA", probe(model), probe("pca"), "higher"),
    (f"{better} codes than on pixels", probe(model), probe("pixels"), "higher"),
    (f"{better} {small_dim} units than on {latent_dim}", probe(small), probe(model), "higher"),
    (f"{better} {small_dim} units than on their linear part", probe(small), linear(small), "higher"),
    (f"{better} {latent_dim} units than on their linear part", probe(model), linear(model), "higher"),
    ("Decoded midpoints are nearer to images than cross-fades", *keys[:2], "lower"),
]  # fmt: skip

# %%
claims = [claim for claim in claims if {*claim[1:3]} <= {*measured}]  # some need classes
headline = [f"{name}.test.{score}" for name in features for score in test_accuracies(name)]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
results = reproduced.claims.set_index("claim")[["measured", "baseline", "gain", "verdict"]]
for side in ("measured", "baseline"):
    results[side] = [metrics.interval(measured[name]) for name in results[side]]
results.rename_axis(index=images.title)

# %% [markdown]
# ## Limitations
#
# Every number computed here is that of one training, and the intervals cover the test images only; `13_study_latent_size`
# compares over several training seeds. The verdicts on neighbours depend on `dense`, which is under-trained; with `model:
# scheduled` this notebook judges a better trained network. Both classifiers use all training labels, so that nothing follows for
# few labels. The distance to the nearest training image is only a rough measure of how real an image looks.
#
# **Read next.** `13_study_latent_size` follows neighbours and linear probe over six latent dimensions and five seeds;
# `08_learn_from_few_labels` asks whether codes help when labels are few; `12_compare_models` sets the models side by side.
