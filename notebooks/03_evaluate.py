# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evaluate the reconstructions
#
# **What you will do.** Reconstruct the test images, measure the error in six ways, and put every number beside PCA with
# as many components, beside the mean image, and beside the least error that is possible at all.
#
# **What you will learn.** How much of the quality comes from the network's non-linearity and how much as many linear
# components would give; how sure one can be of a mean over the test images.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** Twenty seconds.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of the bootstrap and of the images shown

# %% [markdown]
# ## Load the images and the model

# %%
from ae_lib import data, figures, metrics, models
from ae_lib.run import Run, write_json

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

run = Run(profile, "03_evaluate")
autoencoder, encoder, decoder = models.load(run.model(model))
latent_dim = encoder.output_shape[1]
encoder.input_shape, encoder.output_shape

# %%
images = data.load(dataset, image_size=image_size)
images

# %% [markdown]
# ## Reconstruct
#
# Four reconstructions of every test image: by the autoencoder; by PCA with as many components, fitted on the same
# training images; by PCA with its values cut to [0, 1], which costs PCA nothing and takes away an error that a picture
# would never show; and the mean training image, which needs no code at all.

# %%
x = images.x_test
codes = models.predict_in_batches(encoder, x)
pca = PCA(latent_dim, svd_solver="covariance_eigh").fit(images.x_train)
from_pca = pca.inverse_transform(pca.transform(x))
reconstructions = {
    model: models.predict_in_batches(decoder, codes),
    "pca": from_pca,
    "pca_clipped": from_pca.clip(0, 1),
    "mean": np.broadcast_to(images.x_train.mean(axis=0), x.shape),
}

# %% [markdown]
# BCE punishes a certain mistake without limit, and PCA, which knows nothing of [0, 1], is often certain. To be fair to
# it, its values are cut to [ε, 1 − ε], with the ε that is best on the validation images.

# %%
validation = pca.inverse_transform(pca.transform(images.x_val))
candidates = [1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4]
epsilon = min(
    candidates,
    key=lambda candidate: metrics.bce(images.x_val, validation, epsilon=candidate).mean(),
)
epsilons = {"pca": epsilon, "pca_clipped": epsilon}
epsilons

# %% [markdown]
# ## Measure
#
# - **BCE**, the loss, in nats per pixel, and the **excess BCE** above the entropy floor of the grey targets;
# - **MSE**, the squared error per pixel, and **SSE**, its sum over the image, as Hinton and Salakhutdinov report it;
# - **PSNR** in decibels, and **SSIM**, which compares local structure (Wang et al. 2004) and is 1 for equal images.
#
# Each image gets a score; the mean has a 95 % bootstrap interval over the images. The interval says how far the mean
# would move with other test images; how far it moves with another training seed stands in the README.

# %% tags=["nbval-ignore-output"]
scores = {
    name: metrics.score(x, y, images.shape, epsilons.get(name, metrics.EPSILON))
    for name, y in reconstructions.items()
}
means = {
    name: table.apply(metrics.interval, seed=seed, result_type="reduce")
    for name, table in scores.items()
}
floor = metrics.interval(metrics.entropy(x), seed)
table = pd.DataFrame(means).rename_axis(columns=f"{images.title}, test, mean [95 % interval]")
table["least possible"] = pd.Series(
    {"bce": floor, "excess_bce": 0, "mse": 0, "sse": 0, "ssim": "at most 1"}
)
table.fillna("")

# %% [markdown]
# ## Decide
#
# Does the autoencoder beat PCA? Both reconstruct the same images, so the difference is bootstrapped image by image: *yes*
# or *no* if its 95 % interval leaves out 0, else *undecided*.

# %%
better = dict.fromkeys(metrics.SCORES, metrics.lower)
better |= {"psnr": metrics.higher, "ssim": metrics.higher}
verdicts = {
    name: compare(scores[model][name], scores["pca_clipped"][name], seed)
    for name, compare in better.items()
}
pd.Series(verdicts, name="autoencoder better than PCA, clipped").to_frame().rename_axis(
    columns=images.title
)

# %% [markdown]
# By how much? And how many components would PCA need to be as good? The latter is found on the validation images, so that
# the test images are asked only once.

# %% tags=["nbval-ignore-output"]
own = metrics.mse(images.x_val, models.predict_in_batches(autoencoder, images.x_val)).mean()
wide = PCA(svd_solver="covariance_eigh").fit(images.x_train)
explained = np.cumsum(np.square(wide.transform(images.x_val)).sum(axis=0))
left = (np.square(images.x_val - wide.mean_).sum() - explained) / images.x_val.size
facts = {
    "MSE of PCA, clipped, over MSE of the autoencoder": scores["pca_clipped"]["mse"].mean()
    / scores[model]["mse"].mean(),
    "share of images on which the autoencoder is nearer": (
        scores[model]["mse"] < scores["pca_clipped"]["mse"]
    ).mean(),
    "components with which PCA reaches the autoencoder's validation MSE": int(
        np.argmax(left <= own)
    )
    + 1,
}
pd.Series(facts, name=images.title, dtype=object).to_frame()

# %% [markdown]
# ## Look
#
# A test image of each class, drawn at random by the seed, over its reconstructions.

# %%
chosen = images.examples(seed)
names = {
    "test image": x,
    "autoencoder": reconstructions[model],
    f"PCA-{latent_dim}": reconstructions["pca_clipped"],
}
caption = (
    f"Figure 3.1. {images.title}: test images drawn at random and what is left of them after {latent_dim} numbers. Mean SSIM: "
    f"autoencoder {scores[model]['ssim'].mean():.3f}, PCA {scores['pca_clipped']['ssim'].mean():.3f}."
)
run.show(
    "03_reconstructions",
    figures.image_rows({name: y[chosen] for name, y in names.items()}, images.shape, caption),
)

# %%
order = scores[model]["mse"].argsort().to_numpy()
best, worst = order[:10], order[: -10 - 1 : -1]
caption = (
    f"Figure 3.2. {images.title}: the ten test images with the largest squared error. Titles: class, SSE. "
    f"They lie {scores[model]['mse'][worst].mean() / scores[model]['mse'].mean():.1f} times above the mean."
)
label = images.classes[images.y_test]
titles = [f"{label[i]}, {scores[model]['sse'][i]:.1f}" for i in worst]
run.show(
    "03_worst",
    figures.image_rows(
        {name: y[worst] for name, y in names.items()}, images.shape, caption, titles
    ),
)

# %%
found, counts = np.unique(label[best], return_counts=True)
caption = (
    f"Figure 3.3. {images.title}: the ten test images with the smallest squared error. Titles: class, SSE. "
    f"{counts.max()} of them are of class {found[counts.argmax()]}."
)
titles = [f"{label[i]}, {scores[model]['sse'][i]:.1f}" for i in best]
run.show(
    "03_best",
    figures.image_rows({name: y[best] for name, y in names.items()}, images.shape, caption, titles),
)

# %%
errors = {
    "autoencoder": scores[model]["sse"],
    f"PCA-{latent_dim}, clipped to [0, 1]": scores["pca_clipped"]["sse"],
}
medians = [values.median() for values in errors.values()]
caption = (
    f"Figure 3.4. {images.title}: squared error per test image. The median is {medians[0]:.2f} for the autoencoder and "
    f"{medians[1]:.2f} for PCA; both have a long tail to the right."
)
run.show("03_error_distribution", figures.histogram(errors, caption, "SSE per image"))

# %% [markdown]
# ## Measure per class

# %% tags=["nbval-ignore-output"]
classes = np.unique(label)
by_class = {
    name: pd.DataFrame([metrics.interval(values[label == k], seed) for k in classes], index=classes)
    for name, values in errors.items()
}
pd.concat(by_class, axis=1).rename_axis(
    index="class", columns=[f"{images.title}, test", "SSE per image"]
).round(2)

# %%
own = by_class["autoencoder"]["value"]
caption = (
    f"Figure 3.5. {images.title}: mean squared error by class with 95 % intervals. Class {own.idxmax()} is the hardest for the "
    f"autoencoder, class {own.idxmin()} the easiest, {own.max() / own.min():.1f} times apart."
)
run.show(
    "03_error_by_class", figures.intervals_by_group(by_class, caption, "class", "SSE per image")
)

# %% [markdown]
# ## Keep the results

# %%
write_json(run.new_artifact("verdicts.json"), verdicts)
np.savez_compressed(run.new_artifact("codes.npz"), test=codes, y_test=label)
measured = {}
for name, row in means.items():
    measured |= {f"{name}.test.{score}": interval for score, interval in row.items()}

# %%
reproduced = run.finish(measured, headline=list(measured))
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `04_error_maps` asks where in the image, and on which strokes, the remaining error sits.
