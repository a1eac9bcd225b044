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
# **What you will do.** Draw maps of the test images' codes, take the code apart unit by unit, walk through it in
# straight lines, look up neighbours in it, and ask how well two simple classifiers read the digit from it.
#
# **What you will learn.** Whether the codes are good features, which nothing in the training asked for. Beside each
# number stands PCA with as many components, and where it makes sense the raw pixels; where PCA wins, the notebook
# shows why.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Two and a half minutes on
# one core.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of the bootstrap, of t-SNE, and of the images and pairs drawn

# Maps
map_images: int = 10000  # the first test images, all of MNIST's
map_iterations: int = 250  # of t-SNE, after as many with exaggerated attraction; twice as many moved its trustworthiness by 0.001
trust_images: int = 2000  # drawn from the maps for the trustworthiness, whose memory grows with their square

# Units
cost_images: int = 2000  # the first test images, decoded once for every unit
low: float = 0.05  # quantile at which a unit's traversal starts
high: float = 0.95  # and where it ends
traversal_steps: int = 5  # images of a traversal

# Paths
pairs: int = 200  # pairs of test images of different classes; the interval narrows with the square root
half_steps: int = 4  # images on a path before half way; as many follow
pairs_shown: int = 3  # of them

# Neighbours and classifiers
neighbour_count: int = 10  # neighbours of each image that are looked up; at least the 5 of 5-NN
query_images: int = 6  # images whose neighbours are shown, each of another class
penalties: list = [0.01, 0.1]  # candidates for the linear probe's inverse penalty, tried on the validation images
why_images: int = 5000  # the first validation images, on which the reasons are sought
margin: float = 0.01  # accuracies closer than this count as equivalent
# fmt: on

# %% [markdown]
# ## Load the images and the model, and encode
#
# Three representations of every image: the autoencoder's code; as many PCA components, fitted on the same training
# images; the pixels themselves.

# %%
from ae_lib import StudyError, data, figures, metrics, models
from ae_lib.analysis import latent
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from openTSNE import TSNE
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

if neighbour_count < 5:
    raise StudyError(f"neighbour_count is {neighbour_count}; expected at least 5: change it.")
run = Run(profile, "05_explore_latent_space")
autoencoder, encoder, decoder = models.load(run.model(model))
latent_dim = encoder.output_shape[1]
if latent_dim < 2:
    raise StudyError(
        f"The code of {model} has one number; expected two or more, which are compared and drawn on a plane: train it with a larger latent_dim."
    )
encoder.input_shape, encoder.output_shape

# %%
images = data.load(dataset, image_size=image_size)
images

# %%
x_train, x_val, x_test = images.x_train, images.x_val, images.x_test
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(x_train)
pca_name = f"PCA-{latent_dim}"
label = {model: "autoencoder", "pca": pca_name, "pixels": "pixels"}


def represent(x):
    return {model: models.predict_in_batches(encoder, x), "pca": pca.transform(x), "pixels": x}


train, val, test = represent(x_train), represent(x_val), represent(x_test)
if not np.ptp(train[model], axis=0).any():
    raise StudyError(
        f"All codes of {model} are equal; expected codes that differ: train it with a smaller learning_rate or a linear bottleneck."
    )
pd.Series(
    {label[name]: codes.shape[1] for name, codes in test.items()}, name="numbers per image"
).to_frame()

# %% [markdown]
# ## Draw maps
#
# Two ways from the codes of the test images to a plane. PCA of the codes keeps as much of their variance as two numbers
# can; it is a projection, so distances shrink and never grow. t-SNE (van der Maaten and Hinton 2008) keeps neighbours
# together and gives up distances. The same is done with PCA's codes.

# %%
shown = {name: test[name][:map_images] for name in (model, "pca")}
y_shown = images.y_test[:map_images]
single = len(np.unique(images.y_train)) < 2  # then there are no classes to be told apart
tsne = TSNE(n_iter=map_iterations, neighbors="exact", random_state=seed)
maps = {
    "pca_map": {
        name: PCA(2, svd_solver="covariance_eigh").fit_transform(codes)
        for name, codes in shown.items()
    },
    "tsne_map": {name: np.asarray(tsne.fit(codes)) for name, codes in shown.items()},
}

# %% [markdown]
# How far can a map be trusted? **Trustworthiness** is 1 if the neighbours of every image on the map are its neighbours
# in the code, and about 0.5 on a random map (Venna and Kaski, "Neighborhood preservation in nonlinear projection
# methods", ICANN 2001). It is taken over images drawn by the seed. **5-NN accuracy** is the share of images whose five
# nearest others on the map vote for their class, so that no image votes for itself; the row *full code* holds the same
# vote without a map.

# %%
drawn = np.random.default_rng(seed).permutation(len(y_shown))[:trust_images]
trusted = min(5, (len(drawn) - 1) // 2)  # neighbours; fewer than half of the images
trust = {
    kind: {
        name: trustworthiness(shown[name][drawn], points[drawn], n_neighbors=trusted)
        for name, points in by.items()
    }
    for kind, by in maps.items()
}


def leave_one_out(points):
    right = latent.vote(y_shown, latent.neighbours(points, None, 5)) == y_shown
    return metrics.interval(np.where(single, np.nan, right), seed)


votes = {
    kind: {n: leave_one_out(p) for n, p in by.items()}
    for kind, by in {**maps, "full_code": shown}.items()
}

# %% tags=["nbval-ignore-output"]
columns = {
    ("trustworthiness", label[n]): {kind: f"{by[n]:.3f}" for kind, by in trust.items()}
    for n in shown
}
columns |= {
    ("5-NN accuracy [95 % interval]", label[n]): {kind: by[n] for kind, by in votes.items()}
    for n in shown
}
pd.DataFrame(columns).reindex(list(votes)).fillna("").rename_axis(index=images.title)

# %%
kinds = {
    "05_map_pca": (
        "pca_map",
        "the first two principal axes of the codes",
        "principal axis {} / units of the code",
    ),
    "05_map_tsne": ("tsne_map", "t-SNE maps, whose distances have no unit", "t-SNE axis {}"),
}
for number, (file, (kind, what, axis)) in enumerate(kinds.items(), 1):
    caption = (
        f"Figure 5.{number}. {images.title}: {len(y_shown):,} test images on {what}; digits stand by their class's median. Five "
        f"neighbours on the map name the class of {100 * votes[kind][model].value:.1f} % of the images for the autoencoder, "
        f"{100 * votes[kind]['pca'].value:.1f} % for {pca_name}; in the full codes {100 * votes['full_code'][model].value:.1f} and "
        f"{100 * votes['full_code']['pca'].value:.1f} %."
    )
    run.show(
        file,
        figures.scatter_maps(
            {label[n]: p for n, p in maps[kind].items()}, images.classes[y_shown], caption, axis
        ),
    )

# %% [markdown]
# ## Take the code apart
#
# PCA's components are uncorrelated on the training images, and the first carry most of the variance. Nothing orders the
# autoencoder's units or keeps them apart. Three measures of how evenly they share the work: each unit's share of the
# summed variance; its correlations with the others; and the **effective number of dimensions**, the participation
# ratio (Σ λ)² / Σ λ² of the codes' principal variances λ (Gao et al. 2017), which is 1 for a single direction.

# %% tags=["nbval-ignore-output"]
units = {name: latent.unit_table(test[name]) for name in shown}
dimensions = {name: latent.effective_dimensions(test[name]) for name in shown}
units[model].round(3).rename_axis(columns=f"{images.title}, autoencoder, test")

# %%
ranks = np.arange(1, latent_dim + 1)
shares = {name: np.sort(100 * table["share"])[::-1] for name, table in units.items()}
curves = {
    label[name]: pd.DataFrame({"value": share}, index=ranks) for name, share in shares.items()
}
caption = (
    f"Figure 5.3. {images.title}: share of the test codes' variance in each unit, in falling order. The largest is "
    f"{shares[model][0] / shares[model][-1]:.1f} times the smallest for the autoencoder, "
    f"{shares['pca'][0] / shares['pca'][-1]:.0f} times for {pca_name}; effective dimensions {dimensions[model]:.1f} and "
    f"{dimensions['pca']:.1f} of {latent_dim}."
)
axis = "latent unit, in falling order of its {}"
run.show(
    "05_unit_variance",
    figures.lines(curves, caption, axis.format("variance"), "share of variance / %"),
)

# %%
order = np.argsort(-units[model]["share"].to_numpy())
matrix = latent.correlations(test[model])[np.ix_(order, order)]
caption = (
    f"Figure 5.4. {images.title}: correlations of the autoencoder's units over the test codes. Mean absolute correlation "
    f"{units[model]['mean_correlation'].mean():.2f}, at most {units[model]['max_correlation'].max():.2f}; {pca_name} has "
    f"{units['pca']['mean_correlation'].mean():.2f} and {units['pca']['max_correlation'].max():.2f}."
)

# %%
with figures.look():
    figure = figures.new(caption, width=7.0, height=4.6)
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap=figures.SIGNED, vmin=-1, vmax=1, interpolation="nearest")
    axes.set(xlabel=axis.format("variance"), ylabel=axis.format("variance"))
    axes.spines[:].set_visible(False)
    figure.colorbar(image, label="correlation", shrink=0.9, aspect=16)
run.show("05_unit_correlation", figure)

# %% [markdown]
# A unit may vary much and matter little. Its **cost** is what it takes away from the image: the rise of the squared
# error when it alone is held at its training mean.


# %%
def decode(codes):
    return models.predict_in_batches(decoder, codes.reshape(-1, latent_dim))


part = slice(cost_images)
costs = {
    name: latent.unit_costs(back, x_test[part], test[name][part], train[name].mean(axis=0))
    for name, back in {model: decode, "pca": pca.inverse_transform}.items()
}
used = sum(metrics.interval(cost, seed).low > 0 for cost in costs[model].T)
print(f"units that lower the error, with a 95 % interval above 0: {used} of {latent_dim}")

# %%
by_cost = {name: np.argsort(-cost.mean(axis=0)) for name, cost in costs.items()}
tables = {
    name: pd.DataFrame([metrics.interval(costs[name][:, j], seed) for j in order], index=ranks)
    for name, order in by_cost.items()
}
extremes = {
    name: " and ".join(f"{table['value'].iloc[i]:.2f}" for i in (0, -1))
    for name, table in tables.items()
}
caption = (
    f"Figure 5.5. {images.title}: rise of the squared error when one unit is held at its mean, with 95 % intervals. The most and "
    f"the least costly unit cost {extremes[model]} for the autoencoder, {extremes['pca']} for {pca_name}."
)
curves = {label[name]: table for name, table in tables.items()}
run.show(
    "05_unit_cost", figures.lines(curves, caption, axis.format("cost"), "rise of the SSE per image")
)

# %% [markdown]
# ## Traverse the units
#
# What does one unit draw? The code of a test image, drawn by the seed, with one unit at a time moved from a low to a
# high quantile of its training values.

# %%
start = test[model][np.random.default_rng(seed).integers(len(x_test))]
ends = np.quantile(train[model], [low, high], axis=0)
traversed = decode(latent.traversals(start, *ends, traversal_steps)).reshape(
    traversal_steps, latent_dim, -1
)
change = np.sqrt(metrics.mse(traversed[0], traversed[-1]))
traversed.shape

# %%
costly, cheap = np.array_split(by_cost[model], 2)
for number, (file, which, chosen) in enumerate(
    [("05_traversals", "most costly", costly), ("05_traversals_rest", "least costly", cheap)], 6
):
    caption = (
        f"Figure 5.{number}. {images.title}: one test image with one unit moved from its {100 * low:.0f} % to its {100 * high:.0f} % "
        f"quantile; the {len(chosen)} {which} units, named above. A pixel's root mean square change is "
        f"{change[chosen].min():.2f} to {change[chosen].max():.2f}."
    )
    rows = {f"step {i + 1}": row[chosen] for i, row in enumerate(traversed)}
    run.show(file, figures.image_rows(rows, images.shape, caption, chosen))

# %% [markdown]
# ## Walk from digit to digit
#
# Pairs of test images of different classes, drawn by the seed. Three paths from one to the other: decoded from the
# straight line between their codes; the cross-fade of their pixels; and the cross-fade of their two reconstructions,
# which has the ends of the decoded path, so that the two differ by nothing but the decoder's bend. For PCA there would be
# no difference: its decoder is linear.

# %%
steps = 2 * half_steps + 1
first, second = latent.unlike_pairs(images.y_test, pairs, seed)
decoded = decode(latent.path(test[model][first], test[model][second], steps)).reshape(
    steps, pairs, -1
)
own, blend, fade = "decoded", "cross-fade of reconstructions", "cross-fade of pixels"
paths = {
    own: decoded,
    blend: latent.path(decoded[0], decoded[-1], steps),
    fade: latent.path(x_test[first], x_test[second], steps),
}
pd.Series(
    {name: path.shape for name, path in paths.items()}, name="steps, pairs, pixels"
).to_frame()

# %%
rows = {}
for i, (a, b) in enumerate(
    zip(
        *(images.classes[images.y_test[side[:pairs_shown]]] for side in (first, second)),
        strict=True,
    )
):
    rows |= {
        f"{i + 1}: {a} to {b}, decoded": paths[own][:, i],
        f"{i + 1}: pixels": paths[fade][:, i],
    }
caption = (
    f"Figure 5.8. {images.title}: the first {len(rows) // 2} pairs drawn, in {steps} steps from end to end. Upper rows: decoded from "
    "the straight line between the codes; lower rows: the cross-fade of the pixels, which shows both images half way."
)
run.show("05_interpolation", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# Does a path stay near real images? For every image on it: the squared distance to the nearest training image; and
# whether the nearest training images agree, the share of them in their most frequent class. Half way a cross-fade is
# paler than its ends, and a pale image is nearer to most others: if anything, the distance favours the cross-fade.

# %%
flat = {name: path.reshape(-1, path.shape[-1]) for name, path in paths.items()}
found = {name: latent.neighbours(x_train, path, neighbour_count) for name, path in flat.items()}
away = {
    name: x_train.shape[1] * metrics.mse(path, x_train[found[name][:, 0]])
    for name, path in flat.items()
}
agree = {name: latent.purity(images.y_train, ids) for name, ids in found.items()}
away, agree = ({name: v.reshape(steps, pairs) for name, v in by.items()} for by in (away, agree))

# %%
middle, position = half_steps, np.linspace(0, 1, steps)
measures = {
    "05_path_distance": (
        away,
        "squared distance to the nearest training image",
        "SSE to the nearest image",
    ),
    "05_path_agreement": (
        agree,
        f"share of the {neighbour_count} nearest training images in one class",
        "share",
    ),
}
for number, (file, (values, what, ylabel)) in enumerate(measures.items(), 9):
    curves = {
        n: pd.DataFrame([metrics.interval(v, seed) for v in by], index=position)
        for n, by in values.items()
    }
    half_way = ", ".join(f"{n} {curve['value'].iloc[middle]:#.3g}" for n, curve in curves.items())
    caption = f"Figure 5.{number}. {images.title}: {what} along {pairs} paths, means with 95 % intervals. Half way: {half_way}."
    run.show(file, figures.lines(curves, caption, "position on the path", ylabel))

# %%
for name in (blend, fade):
    verdict = metrics.lower(away[own][middle], away[name][middle], seed)
    print(f"half way, decoded is nearer to a training image than the {name}: {verdict}")

# %% [markdown]
# ## Look up neighbours
#
# The nearest training images of a test image, by code and by pixels.

# %%
near = {name: latent.neighbours(train[name], test[name], neighbour_count) for name in test}
same_class = {
    name: np.nan if single else (images.y_train[ids] == images.y_test[:, None]).mean()
    for name, ids in near.items()
}
overlap = {name: latent.shared_neighbours(near[name], near["pixels"]).mean() for name in shown}

# %%
rng = np.random.default_rng(seed)
order = rng.permutation(np.unique(images.y_test))[:query_images]
asked = [rng.choice(np.flatnonzero(images.y_test == y)) for y in order]
each = min(5, neighbour_count)
row = {
    i: np.concatenate([x_test[[i]], *(x_train[near[name][i, :each]] for name in (model, "pixels"))])
    for i in asked
}
titles = ["query", *(f"{by} {n + 1}" for by in ("code", "pixels") for n in range(each))]
caption = (
    f"Figure 5.11. {images.title}: test images drawn at random and their nearest training images. Of the {neighbour_count} nearest "
    f"by code {100 * overlap[model]:.0f} % are among those by pixels ({pca_name}: {100 * overlap['pca']:.0f} %), and "
    f"{100 * same_class[model]:.1f} % are of the query's class ({pca_name}: {100 * same_class['pca']:.1f} %, pixels: {100 * same_class['pixels']:.1f} %)."
)
rows = {f"class {images.classes[images.y_test[i]]}": pictures for i, pictures in row.items()}
run.show("05_neighbours", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# ## Classify by the code
#
# **k-NN**: the classes of the k nearest training images vote; nothing is chosen. **Linear probe**: multinomial logistic
# regression on standardised features (Alain and Bengio 2017); its penalty is chosen for each representation on the
# validation images. Both are fitted on the training images and asked about the test images once.

# %%
hits = {
    name: latent.hits((train[name], val[name], test[name]), images, penalties, ids)
    for name, ids in near.items()
}

# %% tags=["nbval-ignore-output"]
accuracy = {
    name: {score: metrics.interval(hit, seed) for score, hit in by.items()}
    for name, by in hits.items()
}
title = f"{images.title}, test, share of images [95 % interval]"
pd.DataFrame(accuracy).rename(columns=label).rename_axis(columns=title)

# %% [markdown]
# ## Ask why
#
# PCA's codes come with a scale: each axis is as long as its part in the image, so that distances between codes are
# distances between reconstructions. The autoencoder's do not: any invertible linear map of its code can be undone in the
# decoder's first layer at no loss. (A variational autoencoder has a scale, that of its prior, which is not the image's
# either; its code here is the mean.) Two experiments, on validation images. Take the scale away from both (whitening: every
# principal axis of the codes gets the same variance). Or give the autoencoder's code the scale of pixels: by the
# least-squares prediction of the training images from their codes, without labels.
#
# And where does the class stand in the network at all? The same classifiers read the layers around the code, and the
# reconstruction; the linear probe only where there are fewer numbers than pixels.

# %%
metric = latent.pixel_metric(train[model], x_train)
whiten = {
    name: PCA(whiten=True, svd_solver="covariance_eigh").fit(train[name]).transform
    for name in shown
}
before = models.last_hidden(encoder)
after = keras.Model(decoder.input, decoder.layers[1].output)
views = {
    "code, as it is": lambda part: part[model],
    "code, standardised": lambda part: part[model] / train[model].std(axis=0),
    "code, whitened": lambda part: whiten[model](part[model]),
    "code, in the metric of pixels": lambda part: part[model] @ metric,
    f"{pca_name}, as it is": lambda part: part["pca"],
    f"{pca_name}, whitened": lambda part: whiten["pca"](part["pca"]),
    "encoder's last hidden layer": lambda part: models.predict_in_batches(before, part["pixels"]),
    "decoder's first hidden layer": lambda part: models.predict_in_batches(after, part[model]),
    "reconstruction": lambda part: decode(part[model]),
}

# %%
few, y_few = {name: codes[:why_images] for name, codes in val.items()}, images.y_val[:why_images]
why = {}
for name, view in views.items():
    references, queries = view(train), view(few)
    ids = latent.neighbours(references, queries, 5)
    right = {f"{k}-NN": latent.vote(images.y_train, ids[:, :k]) == y_few for k in (1, 5)}
    why[name] = {probe: np.where(single, np.nan, hit) for probe, hit in right.items()}
    if (
        references.shape[1] < x_train.shape[1] and not single
    ):  # a reconstruction has as many, a convolution's output more
        why[name]["linear probe"] = (
            latent.linear_probe(references, images.y_train).predict(queries) == y_few
        )

# %% tags=["nbval-ignore-output"]
reasons = {
    name: {probe: metrics.interval(hit, seed) for probe, hit in by.items()}
    for name, by in why.items()
}
pd.DataFrame(reasons).T.fillna("").rename_axis(
    columns=f"{images.title}, validation, share of images [95 % interval]"
)

# %% [markdown]
# ## Decide
#
# Image by image, so that the same hard images weigh on both sides. *Better* is *yes* or *no* if the 95 % interval of the
# mean gain leaves out 0, else *undecided*. The code in the metric of pixels is now asked about the test images as well.

# %% tags=["nbval-ignore-output"]
ids = latent.neighbours(train[model] @ metric, test[model] @ metric, 5)
rescaled = {f"knn{k}_accuracy": latent.vote(images.y_train, ids[:, :k]) for k in (1, 5)}
rescaled = {
    score: np.where(single, np.nan, found == images.y_test) for score, found in rescaled.items()
}
votes5 = {name: by["5-NN"] for name, by in why.items()}
duels = [
    (score, "code", label[o], hit, hits[o][score])
    for o in ("pca", "pixels")
    for score, hit in hits[model].items()
]
duels += [
    (score, "rescaled code", "code", hit, hits[model][score]) for score, hit in rescaled.items()
]
duels += [
    (score, "rescaled code", pca_name, hit, hits["pca"][score]) for score, hit in rescaled.items()
]
for a, b in (
    ("code", "code, as it is"),
    (pca_name, f"{pca_name}, as it is"),
    ("code", f"{pca_name}, whitened"),
):
    duels += [
        ("knn5_accuracy, validation", f"{a}, whitened", b, votes5[f"{a}, whitened"], votes5[b])
    ]
duels += [
    ("agreement half way", own, name, agree[own][middle], agree[name][middle])
    for name in (blend, fade)
]
duels = [(*names, a.astype("float64"), b) for *names, a, b in duels]
rows = [
    (*n, metrics.interval(100 * (a - b), seed), metrics.higher(a, b, seed)) for *n, a, b in duels
]
pd.DataFrame(rows, columns=["score", "first", "against", "gain / points", "better"]).rename_axis(
    columns=images.title
)

# %% [markdown]
# How large can the difference be? Two accuracies are *equivalent* if the 95 % interval of their difference lies within the
# margin on either side (two one-sided tests). With few images none are: *not shown* does not mean different.

# %%
for score, other in (
    ("knn1_accuracy", "pca"),
    ("knn5_accuracy", "pca"),
    ("linear_probe_accuracy", "pixels"),
):
    same = latent.equivalent(hits[model][score], hits[other][score], margin, seed)
    verdict = "yes" if same else "not shown"
    print(f"{score}, code and {label[other]} equivalent within ±{margin:g}: {verdict}")

# %% [markdown]
# **How to read it.** A network that was trained to draw has no reason to place images of a class near each other. If code and
# PCA are equivalent in k-NN, the bent encoder bought nothing there that as many straight axes do not give. PCA's axes have the
# lengths of their parts in the image, and the loss of accuracy by whitening says how much of PCA's result is due to that; the code has
# no such scale, and the gain of the rescaled code says what the lack of it costs. A linear probe does not care for scale; it
# tells whether the classes can be parted by planes, and the table of layers above whether they could anywhere in the
# network. The decoded path is to be judged by the cross-fade of reconstructions, which differs by nothing but the decoder's
# bend.

# %% [markdown]
# ## Keep the results

# %%
results = {score: {name: by[score] for name, by in accuracy.items()} for score in hits[model]}
results |= {
    f"{score}_rescaled": {model: metrics.interval(hit, seed)} for score, hit in rescaled.items()
}
results |= {f"knn5_accuracy_{kind}": by for kind, by in votes.items()}
results |= {f"trustworthiness_{kind}": by for kind, by in trust.items()}
results["neighbours_shared_with_pixels"] = overlap
results["neighbours_in_class"] = same_class
results["mean_correlation"] = {
    name: table["mean_correlation"].mean() for name, table in units.items()
}
results["effective_dimensions"] = dimensions
for score, by in {"midpoint_distance": away, "midpoint_agreement": agree}.items():
    results[score] = {
        model: metrics.interval(by[own][middle], seed),
        "pixels": metrics.interval(by[fade][middle], seed),
    }
    results[f"{score}_reconstructions"] = {model: metrics.interval(by[blend][middle], seed)}

# %% tags=["nbval-ignore-output"]
pd.DataFrame(results).T.rename(columns=label).fillna("").rename_axis(
    columns=f"{images.title}, test [95 % interval]"
)

# %%
measured = {}
for score, by in results.items():
    for name, value in by.items():
        measured[f"{name}.test.{score}"] = value

# %%
rivals = {
    "Codes have the better neighbours (5-NN), accuracy": ("knn5_accuracy", "pca"),
    "A linear probe reads more from codes, accuracy": ("linear_probe_accuracy", "pca"),
    "… more than from the pixels, accuracy": ("linear_probe_accuracy", "pixels"),
}
claims = [
    (
        claim,
        f"{model}.test.{score}",
        f"{o}.test.{score}",
        metrics.higher(1.0 * hits[model][score], hits[o][score]),
    )
    for claim, (score, o) in rivals.items()
]
half_way = f"{model}.test.midpoint_distance", f"{model}.test.midpoint_distance_reconstructions"
nearer = metrics.lower(away[own][middle], away[blend][middle], seed)
claim = "Half way between two digits a decoded image is nearer to a real one than a cross-fade of reconstructions, SSE"
claims.append((claim, *half_way, nearer))
headline = [f"{name}.test.{score}" for name in accuracy for score in accuracy[name]]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** The notebooks that follow ask the same of the code's other uses: to find what is unlike the training images,
# to store an image in few bytes, and to learn from few labels.
