# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Use your own images
#
# **What you will do.** Name a file or a folder of images, see what was understood of it, and do with your images what the study
# does with MNIST: reconstruct them, map the errors, find the strangest ones, and compress them.
#
# **What you will learn.** How well an autoencoder fits images that nobody has prepared for it, beside PCA with as many numbers.
#
# **What you need.** Images: `.npz`, `.npy`, `.csv` or IDX files, or a folder of pictures, with or without classes; without
# any, scikit-learn's digits are used. Some hundred images give a first impression, some thousand a result. **Time.** Under a
# minute for 1,000 small images.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "own_images"  # the run's folder, reports/<profile>/
dataset: str = "digits"  # the path of your file or folder: absolute, or below AE_DATA_DIR or the project's folder
image_size: list = []  # height and width to which the images are resampled, such as [28, 28]; [] leaves them as they are
model: str = ""  # the path of a trained model, .keras, for images of this size; "" trains one here
hidden: list = [256, 128]  # units of the encoder's hidden layers; the decoder mirrors them
latent_dim: int = 32  # numbers in the code
epochs: int = 60  # passes over the training images; more for fewer images
batch_size: int = 32  # images per step; larger ones are faster, and better when there are many images
learning_rate: float = 0.001  # the step size of Adam at the start; it falls to 0 along a cosine
seed: int = 0  # of the initial weights, of the order of the images and of what is drawn
step: float = 1.0  # of the codec; the larger, the fewer bytes and the more error
rate: float = 0.05  # promised share of false alarms among images like the training images
# fmt: on

# %% [markdown]
# ## See what was understood
#
# Pixels become bytes, dark ground 0 and ink 255; colour becomes grey. Without test images some are set aside, and so are
# validation images, on which nothing is trained.

# %%
from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import anomaly, codec
from ae_lib.run import Run, write_bytes, write_json

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

run = Run(profile, "14_use_your_own_images")
images = data.load(dataset, image_size=image_size)
images

# %%
splits = {
    "training": images.pixels_train,
    "validation": images.pixels_val,
    "test": images.pixels_test,
}
facts = {
    "height and width": " × ".join(map(str, images.shape)),
    "classes": ", ".join(map(str, images.classes[:20])),
    "least and greatest pixel": f"{images.pixels_train.min()} and {images.pixels_train.max()} of 255",
    "ink, mean share": f"{images.pixels_train.mean() / 255:.3f}",
}
pd.Series(
    facts | {f"{split} images": f"{len(x):,}" for split, x in splits.items()}, name=images.title
).to_frame()

# %%
shown = images.examples(seed)
drawn = np.random.default_rng(seed).choice(
    len(images.pixels_train), min(2 * len(shown), len(images.pixels_train)), replace=False
)
halves = np.array_split(images.x_train[drawn], 2)
caption = f"Figure 14.1. {images.title}: training images drawn at random, as the model will see them: ink is dark, ground is light."
run.show(
    "14_images", figures.image_rows({"some": halves[0], "others": halves[1]}, images.shape, caption)
)

# %% [markdown]
# ## Train or load the model

# %% tags=["nbval-ignore-output"]
if model:
    network = models.load(data.PROJECT / model)
    if network.encoder.input_shape[1] != images.pixels:
        raise StudyError(
            f"{model} takes images of {network.encoder.input_shape[1]} pixels, and these have {images.pixels}; expected the same: "
            'set image_size, or model to "", to train one here.'
        )
else:
    keras.utils.set_random_seed(seed)
    network = models.dense_autoencoder(images.pixels, hidden, latent_dim)
    steps = epochs * -(-len(images.y_train) // batch_size)
    falling = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    training.fit(
        network.autoencoder,
        images.pixels_train,
        images.pixels_val,
        training.Settings(epochs, batch_size, falling, seed),
        checkpoint_folder=run.folder / "checkpoints",
    )

# %% [markdown]
# ## Reconstruct
#
# The test images, beside PCA with as many numbers, and beside the mean training image, which is what a model draws that has learned
# nothing.

# %%
x, x_train = images.x_test, images.x_train
size = network.encoder.output_shape[1]
pca = PCA(min(size, *x_train.shape), svd_solver="covariance_eigh").fit(x_train)
pca_name = f"PCA-{pca.n_components_}"
reconstructed = {
    "autoencoder": models.predict_in_batches(network.autoencoder, x),
    pca_name: pca.inverse_transform(pca.transform(x)).clip(0, 1),
    "mean image": np.broadcast_to(x_train.mean(axis=0), x.shape),
}
scores = {name: metrics.score(x, y, images.shape) for name, y in reconstructed.items()}

# %% tags=["nbval-ignore-output"]
means = {
    name: table[["mse", "sse", "psnr", "ssim"]].apply(
        metrics.interval, seed=seed, result_type="reduce"
    )
    for name, table in scores.items()
}
pd.DataFrame(means).T.rename_axis(index=f"{images.title}, test, mean [95 % interval]")

# %%
better = metrics.lower(scores["autoencoder"]["mse"], scores[pca_name]["mse"], seed)
print(f"the autoencoder has a lower squared error than {pca_name}: {better}")

# %%
rows = {"test image": x[shown]} | {name: y[shown] for name, y in list(reconstructed.items())[:2]}
rows["|error|, autoencoder"] = np.abs(x - reconstructed["autoencoder"])[shown]
caption = (
    f"Figure 14.2. {images.title}: test images drawn at random, and what is left of them after {size} numbers. Mean SSIM: "
    + ", ".join(f"{name} {table['ssim'].mean():.3f}" for name, table in scores.items())
    + "."
)
run.show("14_reconstructions", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# ## Map the errors

# %%
maps = {name: np.abs(x - y).mean(axis=0) for name, y in reconstructed.items()}
peaks = ", ".join(f"{name} {values.max():.3f}" for name, values in maps.items())
caption = f"Figure 14.3. {images.title}: mean absolute error of each pixel over the test images. Peaks: {peaks}."
run.show("14_error_maps", figures.pixel_maps(maps, images.shape, caption, "mean |error|"))

# %% [markdown]
# ## Find the strangest images
#
# The model draws an image badly that is unlike its training images. How strange is an error? Its **p-value** is the share of the
# validation images, which the model was not trained on, with an error as large (split conformal prediction): if a test image is of
# their kind, a p-value of at most 0.05 comes up in at most 5 % of the cases.

# %%
errors = {
    split: metrics.mse(part, models.predict_in_batches(network.autoencoder, part))
    for split, part in (("validation", images.x_val), ("test", x))
}
p_values = anomaly.p_values(errors["test"], errors["validation"])
strangest = np.argsort(-errors["test"])[: len(shown)]
alarms = metrics.interval(p_values <= rate, seed)
caption = (
    f"Figure 14.4. {images.title}: the test images with the largest errors. Titles: class, p-value. {(p_values <= rate).sum()} of {len(x):,} "
    f"test images have a p-value of at most {rate:g}."
)
rows = {"test image": x[strangest], "autoencoder": reconstructed["autoencoder"][strangest]}
label = images.classes[images.y_test]
titles = [f"{label[i]}, {p_values[i]:.2g}" for i in strangest]
run.show("14_strangest", figures.image_rows(rows, images.shape, caption, titles))

# %%
table = pd.DataFrame({"class": label, "mse": errors["test"], "p_value": p_values})
table.rename_axis("test image").to_csv(run.new_artifact("errors.csv"))

# %% [markdown]
# ## Compress
#
# A codec of the model, as in `07_compress_images`: codes are rounded and entropy-coded. Its file is what a receiver must have
# beforehand; the stream is what is sent. Beside them the same images as PNG would store them, without loss, one by one and
# without headers: the bytes of zlib.

# %%
import zlib

own = codec.from_autoencoder(network.encoder, network.decoder, images.pixels_train)
own.save(run.new_artifact("codec.npz"))
stream = codec.compress(images.pixels_test, own, step)
write_bytes(run.new_artifact("test_images.ae"), stream)
drawn_again = codec.decompress(stream, own)
packed = sum(len(zlib.compress(image.tobytes(), 9)) for image in images.pixels_test)

# %% tags=["nbval-ignore-output"]
sizes = {
    "pixels": images.pixels,
    "lossless, zlib": packed / len(x),
    f"codec, step {step:g}": len(stream) / len(x),
}
lost = {
    "pixels": 0.0,
    "lossless, zlib": 0.0,
    f"codec, step {step:g}": metrics.interval(metrics.mse(x, drawn_again), seed),
}
pd.DataFrame({"bytes per image": sizes, "MSE per pixel": lost}).rename_axis(index=images.title)

# %% [markdown]
# ## Keep the results
#
# The model, the codec and the errors stand in the run's folder, `artifacts/14_use_your_own_images/`. The same on further files:
# `python -m ae_lib score FILE --model autoencoder.keras --output scores.csv`; `--help` names the other commands.

# %%
network.autoencoder.save(run.new_artifact("autoencoder.keras"))
about = {"name": images.name, "title": images.title, "source": images.source, "md5": images.md5}
counts = {split: len(part) for split, part in splits.items()}
write_json(
    run.new_artifact("data.json"), about | {"shape": images.shape, "notes": images.notes} | counts
)

# %%
measured = {
    f"{key}.test.mse": means[name]["mse"]
    for key, name in (("own", "autoencoder"), ("pca_clipped", pca_name), ("mean", "mean image"))
}
measured |= {"own.test.bytes_per_image": len(stream) / len(x), "own.test.alarms": alarms}
claims = [
    ("The autoencoder reconstructs better than PCA with as many numbers, MSE per pixel", "own.test.mse", "pca_clipped.test.mse", better),
    (f"Of images like the training images at most {rate:.0%} are called strange, share of the test images", "own.test.alarms", f"promised: {rate:g}",
     "yes" if alarms.low <= rate else "no"),
]  # fmt: skip
run.finish(measured, claims)

# %% [markdown]
# **Limitations.** A model of few images knows little: what it calls strange may merely be rare. The p-values promise a rate of false
# alarms, not that what is strange is found. Nothing here was chosen for your images; the parameters above are a start.
