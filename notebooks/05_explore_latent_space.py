# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Explore the latent space
#
# **What you will do.** Draw maps of the test images' codes, take the code apart unit by unit, walk through it in
# straight lines, look up neighbours in it, and ask how well two simple classifiers read the digit from it.
#
# **What you will learn.** Whether the codes are good features, which nothing in the training asked for. Beside each
# number stands PCA with as many components, and where it makes sense the raw pixels; where PCA wins, the notebook
# shows why.
#
# **What you need.** The model of `02_train`. **Time.** About 80 seconds on two cores.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that 02_train was given
model: str = "dense"  # the name under which the metrics are kept
seed: int = 0  # of the bootstrap, of t-SNE, and of the images and pairs drawn

# Maps
map_images: int = 10000  # the first test images, all of MNIST's; t-SNE's time grows a little faster than their number
map_iterations: int = 500  # of t-SNE; twice as many move its trustworthiness by less than 0.001
trust_images: int = 2000  # drawn from the maps for the trustworthiness, whose memory grows with their square

# Classifiers and neighbours
penalties: list = [0.01, 0.1, 1.0]  # candidates for the linear probe's inverse penalty, tried on the validation images
neighbour_count: int = 10  # length of the lists of neighbours that are compared
why_images: int = 5000  # the first validation images, on which the reasons are sought
query_images: int = 6  # images whose neighbours are shown, each of another class

# Units
cost_images: int = 2000  # the first test images, decoded once for every unit

# Paths and traversals
pairs: int = 300  # pairs of test images of different classes; the interval narrows with the square root
steps: int = 9  # images on a path, both ends included; odd, so that one lies half way
pairs_shown: int = 3  # of them
low: float = 0.05  # quantile at which a unit's traversal starts
high: float = 0.95  # and where it ends
traversal_steps: int = 5  # images of a traversal

# Decision
margin: float = 0.01  # accuracies this close count as level

# %% [markdown]
# ## Load the images and the model, and encode
#
# Three representations of every image: the autoencoder's code; as many PCA components, fitted on the same training
# images; the pixels themselves.

# %%
from ae_lib import data, figures, metrics, models, probes, runs

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.preprocessing import StandardScaler

run = runs.Run(profile, "05_explore_latent_space")
autoencoder, encoder, decoder = models.halves(keras.models.load_model(run.artifact("model.keras", made_by="02_train")))
latent_dim = encoder.output_shape[1]

# %%
images = data.load(dataset)
images

# %%
x_train, x_val, x_test = images.x_train, images.x_val, images.x_test
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(x_train)
pca_name = f"PCA-{latent_dim}"
label = {model: "autoencoder", "pca": pca_name, "pixels": "pixels"}


# %%
def represent(x):
    return {model: encoder.predict(x, batch_size=1000, verbose=0), "pca": pca.transform(x), "pixels": x}


train, val, test = represent(x_train), represent(x_val), represent(x_test)
pd.Series({label[name]: codes.shape[1] for name, codes in test.items()}, name="numbers per image").to_frame()

# %% [markdown]
# ## Draw maps
#
# Two ways from the codes of the test images to a plane. PCA of the codes keeps as much of their variance as two numbers
# can; it is a projection, so distances shrink but never grow. t-SNE (van der Maaten and Hinton 2008) keeps neighbours
# together and gives up distances. The same is done with PCA's codes.

# %%
shown = {name: test[name][:map_images] for name in (model, "pca")}
y_shown = images.y_test[:map_images]
maps = {
    "pca_map": {name: PCA(2).fit_transform(codes) for name, codes in shown.items()},
    "tsne": {name: probes.tsne(codes, seed, max_iter=map_iterations) for name, codes in shown.items()},
}

# %% [markdown]
# How far can a map be trusted? **Trustworthiness** is 1 if every image's neighbours on the map are its neighbours in
# the code, and about 0.5 for a random map (Venna and Kaski, "Neighborhood preservation in nonlinear projection
# methods", ICANN 2001). It is taken over a random part of the images. **k-NN accuracy** is the share of images whose
# five nearest others on the map vote for the right class; the same vote in the full code is what no map can be
# expected to exceed by much.

# %%
some = np.random.default_rng(seed).permutation(len(y_shown))[:trust_images]
trust = {
    kind: {name: trustworthiness(shown[name][some], points[some], n_neighbors=5) for name, points in by.items()}
    for kind, by in maps.items()
}


# %%
def leave_one_out(points):
    return (probes.vote(y_shown, probes.other_neighbours(points, 5)) == y_shown).astype("float64")


map_hits = {kind: {name: leave_one_out(points) for name, points in by.items()} for kind, by in maps.items()}
map_hits["full code"] = {name: leave_one_out(codes) for name, codes in shown.items()}

# %% tags=["nbval-ignore-output"]
map_accuracy = {kind: {n: metrics.interval(h, seed) for n, h in by.items()} for kind, by in map_hits.items()}
columns = {
    ("trustworthiness", label[name]): pd.Series({kind: by[name] for kind, by in trust.items()}) for name in shown
} | {
    ("5-NN accuracy, leave-one-out [95 % interval]", label[name]): {kind: by[name] for kind, by in map_accuracy.items()}
    for name in shown
}
pd.DataFrame(columns).reindex(["pca_map", "tsne", "full code"]).round(3).fillna("")

# %%
caption = (
    f"Figure 5.1. {images.title}: {len(y_shown):,} test codes on their first two principal axes; digits stand at their class's "
    f"median. Five neighbours on the map name the class of {100 * map_accuracy['pca_map'][model].mean:.0f} % of the images for the "
    f"autoencoder, {100 * map_accuracy['pca_map']['pca'].mean:.0f} % for {pca_name}: two linear axes hold little of either code."
)
panels = {label[name]: points for name, points in maps["pca_map"].items()}
run.show("05_map_pca", figures.scatter_maps(panels, y_shown, caption, "principal axis, in the code's units,"))

# %%
caption = (
    f"Figure 5.2. {images.title}: the same codes on t-SNE maps, whose distances have no unit. Five neighbours on the map name the "
    f"class of {100 * map_accuracy['tsne'][model].mean:.1f} % of the images for the autoencoder, "
    f"{100 * map_accuracy['tsne']['pca'].mean:.1f} % for {pca_name}; trustworthiness {trust['tsne'][model]:.3f} and {trust['tsne']['pca']:.3f}."
)
panels = {label[name]: points for name, points in maps["tsne"].items()}
run.show("05_map_tsne", figures.scatter_maps(panels, y_shown, caption, "t-SNE axis"))

# %% [markdown]
# ## Take the code apart
#
# PCA's components are uncorrelated on the training images, and the first carry most of the variance. Nothing orders the
# autoencoder's units or keeps them apart. Three measures of how evenly they share the work: each unit's share of the
# summed variance; its correlations with the others; and the **effective number of dimensions**, the participation
# ratio (Σ λ)² / Σ λ² of the codes' principal variances λ (Gao et al. 2017), which is 1 for a single direction.

# %% tags=["nbval-ignore-output"]
units = {name: probes.units(test[name]) for name in shown}
dimensions = {name: probes.effective_dimensions(test[name]) for name in shown}
units[model].round(3)

# %%
sorted_shares = {
    label[name]: pd.DataFrame({"mean": np.sort(100 * table["share"])[::-1]}, index=np.arange(1, latent_dim + 1))
    for name, table in units.items()
}
shares = {name: table["share"] for name, table in units.items()}
caption = (
    f"Figure 5.3. {images.title}: share of the test codes' variance in each unit, in falling order. The largest is "
    f"{shares[model].max() / shares[model].min():.1f} times the smallest for the autoencoder, {shares['pca'].max() / shares['pca'].min():.0f} times for "
    f"{pca_name}; effective dimensions {dimensions[model]:.1f} and {dimensions['pca']:.1f} of {latent_dim}."
)
axes_labels = ("latent unit, in order of its variance", "share of variance / %")
run.show("05_unit_variance", figures.lines(sorted_shares, caption, *axes_labels))

# %%
order = units[model]["share"].argsort().to_numpy()[::-1]
caption = (
    f"Figure 5.4. {images.title}: correlations of the autoencoder's units over the test codes, units in falling order of "
    f"variance. Mean absolute correlation {units[model]['mean_correlation'].mean():.2f}, at most "
    f"{units[model]['max_correlation'].max():.2f}; {pca_name} has {units['pca']['mean_correlation'].mean():.2f}."
)
matrix = probes.correlations(test[model])[np.ix_(order, order)]
run.show("05_unit_correlation", figures.correlation_matrix(matrix, caption, "latent unit, in order of its variance"))

# %% [markdown]
# A unit may vary much and matter little. Its **cost** is what it takes away from the image: the rise of the squared error
# when it alone is held at its training mean.


# %%
def decode(codes):
    return decoder.predict(codes.reshape(-1, latent_dim), batch_size=1000, verbose=0)


part = slice(cost_images)
costs = {
    name: probes.unit_costs(back, x_test[part], test[name][part], train[name].mean(axis=0))
    for name, back in {model: decode, "pca": pca.inverse_transform}.items()
}
every_unit_counts = all(metrics.interval(rise, seed).low > 0 for rise in costs[model].T)
print(f"every unit lowers the error, its 95 % interval above 0: {'yes' if every_unit_counts else 'no'}")

# %%
tables = {
    label[name]: pd.DataFrame([metrics.interval(rise[:, j], seed) for j in np.argsort(-rise.mean(axis=0))])
    for name, rise in costs.items()
}
tables = {name: table.set_index(np.arange(1, latent_dim + 1)) for name, table in tables.items()}
least, most = tables["autoencoder"]["mean"].iloc[[-1, 0]]
caption = (
    f"Figure 5.5. {images.title}: rise of the squared error when one unit is held at its mean, in falling order, with 95 % "
    f"intervals. The autoencoder's dearest unit costs {most / least:.1f} times its cheapest, "
    f"{pca_name}'s {tables[pca_name]['mean'].iloc[0] / tables[pca_name]['mean'].iloc[-1]:.0f} times."
)
run.show("05_unit_cost", figures.lines(tables, caption, "latent unit, in order of its cost", "rise of the SSE per image"))

# %% [markdown]
# ## Traverse the units
#
# What does one unit draw? A test image's code, drawn by the seed, with one unit at a time moved from a low to a high
# quantile of its training values.

# %%
start = test[model][np.random.default_rng(seed).integers(len(x_test))]
levels = np.linspace(low, high, traversal_steps)
ends = np.quantile(train[model], [low, high], axis=0)
traversed = decode(probes.traversals(start, *ends, traversal_steps)).reshape(traversal_steps, latent_dim, -1)
change = np.sqrt(metrics.mse(traversed[0], traversed[-1]))
first_half, second_half = np.array_split(np.argsort(-costs[model].mean(axis=0)), 2)

# %%
span = f"from the {100 * low:.0f} % to the {100 * high:.0f} % quantile"
caption = (
    f"Figure 5.6. {images.title}: one test image with one unit moved {span}; the {len(first_half)} dearest units. Titles: unit. "
    f"The root mean square change of a pixel is {change[first_half].min():.2f} to {change[first_half].max():.2f}."
)
rows = {f"step {i + 1}": row[first_half] for i, row in enumerate(traversed)}
run.show("05_traversals", figures.image_rows(rows, caption, first_half))

# %%
caption = (
    f"Figure 5.7. {images.title}: the same for the {len(second_half)} cheapest units. The root mean square change of a pixel is "
    f"{change[second_half].min():.2f} to {change[second_half].max():.2f}: no unit is idle."
)
rows = {f"step {i + 1}": row[second_half] for i, row in enumerate(traversed)}
run.show("05_traversals_rest", figures.image_rows(rows, caption, second_half))

# %% [markdown]
# ## Walk from digit to digit
#
# Pairs of test images of different classes, drawn by the seed. Three paths from one to the other: decoded from the
# straight line between their codes; the cross-fade of their pixels; and the cross-fade of their two reconstructions,
# which starts and ends where the decoded path does and so differs from it only by the code's geometry. For PCA the last
# two are the same thing: its decoder is linear.

# %%
first, second = probes.unlike_pairs(images.y_test, pairs, seed)
line = probes.path(test[model][first], test[model][second], steps)
decoded = decode(line).reshape(steps, pairs, -1)
paths = {
    "decoded from the code": decoded,
    "cross-fade of the reconstructions": probes.path(decoded[0], decoded[-1], steps),
    "cross-fade of the pixels": probes.path(x_test[first], x_test[second], steps),
}

# %%
rows = {}
for pair in range(pairs_shown):
    name = f"{images.y_test[first[pair]]} to {images.y_test[second[pair]]}"
    rows[f"{pair + 1}: {name}, code"] = paths["decoded from the code"][:, pair]
    rows[f"{pair + 1}: {name}, pixels"] = paths["cross-fade of the pixels"][:, pair]
caption = (
    f"Figure 5.8. {images.title}: the first {pairs_shown} pairs drawn, walked in {steps} steps. Upper rows: decoded from the code; "
    "lower rows: the cross-fade of the pixels, in which both digits stay visible half way."
)
run.show("05_interpolation", figures.image_rows(rows, caption))

# %% [markdown]
# Does a path stay near real images? For every image on it, the squared distance to the nearest training image, and
# whether the nearest training images agree on a class: the share of them in the most frequent one. Half way a
# cross-fade is paler than either end, which shortens its distances; the measure does not favour the decoder.

# %%
found = {name: probes.neighbours(x_train, path.reshape(-1, path.shape[-1]), neighbour_count) for name, path in paths.items()}
away = {
    name: x_train.shape[1] * metrics.mse(path.reshape(-1, path.shape[-1]), x_train[found[name][:, 0]]).reshape(steps, pairs)
    for name, path in paths.items()
}
agree = {name: probes.purity(images.y_train, ids).reshape(steps, pairs) for name, ids in found.items()}

# %%
middle, (own, blend, fade) = steps // 2, paths
position = np.linspace(0, 1, steps)
curves = {name: pd.DataFrame([metrics.interval(row, seed) for row in rows], index=position) for name, rows in away.items()}
caption = (
    f"Figure 5.9. {images.title}: squared distance to the nearest training image along {pairs} paths, means with 95 % intervals. "
    f"Half way: decoded {curves[own]['mean'].iloc[middle]:.1f}, cross-fade of the reconstructions "
    f"{curves[blend]['mean'].iloc[middle]:.1f}, of the pixels {curves[fade]['mean'].iloc[middle]:.1f}."
)
run.show("05_path_distance", figures.lines(curves, caption, "position on the path", "SSE to the nearest image"))

# %%
curves = {name: pd.DataFrame([metrics.interval(row, seed) for row in rows], index=position) for name, rows in agree.items()}
caption = (
    f"Figure 5.10. {images.title}: share of the {neighbour_count} nearest training images that are of one class, along the same "
    f"paths. Half way: decoded {curves[own]['mean'].iloc[middle]:.2f}, cross-fade of the reconstructions "
    f"{curves[blend]['mean'].iloc[middle]:.2f}, of the pixels {curves[fade]['mean'].iloc[middle]:.2f}."
)
run.show("05_path_agreement", figures.lines(curves, caption, "position on the path", "share of one class"))

# %%
nearer = {name: metrics.better("sse", away[own][middle], away[name][middle], seed) for name in (blend, fade)}
clearer = {name: metrics.better("ssim", agree[own][middle], agree[name][middle], seed) for name in (blend, fade)}
pd.DataFrame({"nearer to a real image": nearer, "its neighbours agree more": clearer}).rename_axis("half way, decoded against")

# %% [markdown]
# ## Look up neighbours
#
# The nearest training images of a test image, by code and by pixels.

# %%
near = {name: probes.neighbours(train[name], test[name], neighbour_count) for name in test}
same_class = {name: (images.y_train[ids] == images.y_test[:, None]).mean(axis=1) for name, ids in near.items()}
overlap = {name: probes.shared(near[name], near["pixels"]) for name in shown}

# %%
rng = np.random.default_rng(seed)
asked = [rng.choice(np.flatnonzero(images.y_test == digit)) for digit in rng.permutation(np.unique(images.y_test))[:query_images]]
some = neighbour_count // 2
rows = {
    f"class {images.y_test[i]}": np.concatenate([x_test[[i]], *(x_train[near[name][i, :some]] for name in (model, "pixels"))])
    for i in asked
}
titles = ["query", *(f"{by} {n + 1}" for by in ("code", "pixels") for n in range(some))]
caption = (
    f"Figure 5.11. {images.title}: test images drawn at random and their nearest training images by code and by pixels. Of the "
    f"{neighbour_count} nearest by code, {100 * overlap[model].mean():.0f} % are among those by pixels ({pca_name}: "
    f"{100 * overlap['pca'].mean():.0f} %) and {100 * same_class[model].mean():.1f} % are of the query's class (pixels: {100 * same_class['pixels'].mean():.1f} %)."
)
run.show("05_neighbours", figures.image_rows(rows, caption, titles))

# %% [markdown]
# ## Classify by the code
#
# **k-NN**: the classes of the nearest training images vote; nothing is chosen. **Linear probe**: multinomial logistic
# regression on standardised features (Alain and Bengio 2017); its penalty is chosen for each representation on the
# validation images. Both are fitted on the training images, both are asked once about the test images.

# %%
hits = {}
for name, ids in near.items():
    tried = [probes.linear_probe(train[name], images.y_train, c) for c in penalties]
    probe = max(tried, key=lambda fitted: fitted.score(val[name], images.y_val))
    hits[name] = {f"knn{k}_accuracy": probes.vote(images.y_train, ids[:, :k]) == images.y_test for k in (1, 5)}
    hits[name]["linear_probe_accuracy"] = probe.predict(test[name]) == images.y_test

# %% tags=["nbval-ignore-output"]
accuracy = {name: {score: metrics.interval(hit, seed) for score, hit in by.items()} for name, by in hits.items()}
pd.DataFrame(accuracy).rename(columns=label).rename_axis(columns=f"{images.title}, test, share of images [95 % interval]")

# %%
standing = {
    other: {score: probes.standing(hit, hits[other][score], margin, seed) for score, hit in hits[model].items()}
    for other in ("pca", "pixels")
}
pd.DataFrame(standing).rename(columns=label).rename_axis(columns=f"autoencoder, {images.title}, against")

# %% [markdown]
# ## Ask why
#
# PCA's codes come with a scale: an axis is as long as its part in the image, so that distances between codes are distances
# between reconstructions. The autoencoder's do not: any invertible linear map of its code can be undone in the decoder's
# first layer at no loss. Two experiments on the validation images. Take PCA's scale away (whitening: every principal axis
# of the codes gets the same variance), and the autoencoder's with it. Or give the autoencoder's code the scale of pixels,
# by the least-squares prediction of the training pixels from it, without labels.

# %%
metric = probes.pixel_metric(train[model], x_train)
whiten = {name: PCA(whiten=True, svd_solver="covariance_eigh").fit(train[name]).transform for name in shown}
hidden = {
    "encoder's last hidden layer": keras.Model(encoder.inputs, encoder.layers[-2].output),
    "decoder's first hidden layer": keras.Model(encoder.inputs, keras.Model(decoder.inputs, decoder.layers[1].output)(encoder.output)),
}
views = {
    "code, as it is": lambda part: part[model],
    "code, standardised": lambda part: part[model] / train[model].std(axis=0),
    "code, whitened": lambda part: whiten[model](part[model]),
    "code, in the metric of pixels": lambda part: part[model] @ metric,
    "reconstruction": lambda part: decode(part[model]),
    **{name: lambda part, layer=layer: layer.predict(part["pixels"], batch_size=1000, verbose=0) for name, layer in hidden.items()},
    f"{pca_name}, as it is": lambda part: part["pca"],
    f"{pca_name}, whitened": lambda part: whiten["pca"](part["pca"]),
}

# %%
few, y_few = {name: codes[:why_images] for name, codes in val.items()}, images.y_val[:why_images]
why = {}
for name, view in views.items():
    own_train, own_few = view(train), view(few)
    ids = probes.neighbours(own_train, own_few, 5)
    why[name] = {f"{k}-NN": probes.vote(images.y_train, ids[:, :k]) == y_few for k in (1, 5)}
    if own_train.shape[1] < x_train.shape[1]:
        why[name]["linear probe"] = probes.linear_probe(own_train, images.y_train).predict(own_few) == y_few

# %% tags=["nbval-ignore-output"]
table = {name: {probe: metrics.interval(hit, seed) for probe, hit in by.items()} for name, by in why.items()}
pd.DataFrame(table).T.fillna("").rename_axis(columns=f"{images.title}, validation, share of images [95 % interval]")
