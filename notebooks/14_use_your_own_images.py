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
# **Question.** How well does an autoencoder reconstruct images of your own, score them for anomalies, and compress them?
#
# **What you will do.** Name a file or a folder of images, check how it was read, and do with your images what the study does
# with MNIST: reconstruct them, map the errors, find the most anomalous ones, and compress them.
#
# **What you will learn.** How well an autoencoder with untuned parameters reconstructs your images, compared with PCA with the same
# number of components.
#
# **What you need.** Images: `.npz`, `.npy`, `.csv` or IDX files, or a folder of pictures, with or without classes; if you name
# none, scikit-learn's digits are used. A few hundred images give a first impression, a few thousand a result. **Time.** Under a
# minute for 1,000 small images.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "own_images"  # the run's folder, reports/<profile>/
dataset: str = "digits"  # the path of your file or folder: absolute, or below AE_DATA_DIR or the project's folder
image_size: list = []  # height and width to which the images are resampled, such as [28, 28]; [] leaves them as they are
model: str = ""  # the path of a trained model, .keras, for images of this size, whose latent dimension is used; "" trains one here
hidden: list = [256, 128]  # units of the encoder's hidden layers; the decoder mirrors them
latent_dim: int = 32  # units of the bottleneck; more give a lower error and a larger code
epochs: int = 60  # passes over the training images; more for fewer images
batch_size: int = 32  # images per step; larger ones are faster, and better when there are many images
learning_rate: float = 0.001  # of Adam at the start; it falls to 0 along a cosine
seed: int = 0  # of the initial weights, of the order of the images and of the images shown
step: float = 1.0  # quantisation step of the codec; a larger one gives fewer bytes and a larger error
rate: float = 0.05  # nominal false-alarm rate, for images like the validation images
# fmt: on

# %% [markdown]
# ## Check how the images were read
#
# Pixels become bytes, with 0 for the ground and 255 for full ink; colour becomes grey. If there are no test images, one
# seventh of all images is set aside for testing, and as many for validation. The model is trained on neither.

# %%
from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import anomaly, codec
from ae_lib.run import Run, write_bytes, write_json

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

run = Run(profile, "14_use_your_own_images")
pd.set_option("display.max_colwidth", None)
images = data.load(dataset, image_size=image_size)
images

# %%
pixels = images.pixels_train
facts = {
    "height × width": " × ".join(map(str, images.shape)),
    "classes": ", ".join(map(str, images.classes[:20])),
    "lowest and highest pixel": f"{pixels.min()} and {pixels.max()} of 255",
    "mean intensity": f"{pixels.mean() / 255:.3f}",
}
pd.Series(facts, name=images.title).to_frame()

# %%
count = min(20, len(pixels))
sample = np.random.default_rng(seed).choice(len(pixels), count, replace=False)
first, second = np.array_split(images.x_train[sample], 2)
caption = (
    f"Figure 14.1. {images.title}: {count} training images, drawn at random, as the model sees "
    "them. Ink is dark."
)
rows = {"training images": first, "further training images": second}
run.show("14_images", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# If ink is light here, or images are cut, the file was not read as it was meant: set `image_size`, or prepare the images.
#
# ## Train or load the model
#
# Nothing is tuned: the parameters above are used as they are, and the weights after the last epoch are the result.

# %% tags=["nbval-ignore-output"]
if not model:
    keras.utils.set_random_seed(seed)
    network = models.dense_autoencoder(images.pixels, hidden, latent_dim)
    settings = training.Settings(epochs, batch_size, training.Cosine(learning_rate), seed)
    splits = images.pixels_train, images.pixels_val
    checkpoints = run.folder / "checkpoints"
    training.fit(network.autoencoder, *splits, settings, checkpoint_folder=checkpoints)

# %%
if model:
    network = models.load(data.PROJECT / model)
inputs, size = network.encoder.input_shape[1], network.encoder.output_shape[1]
if inputs != images.pixels:
    raise StudyError(
        f"{model} takes images of {inputs} pixels, and these have {images.pixels}; expected the "
        'same: set image_size, or set model to "" to train one here.'
    )

# %% [markdown]
# ## Reconstruct the test images
#
# There are two baselines. PCA has as many components as the code has units, and is clipped to [0, 1]. The mean training image
# needs no code at all.

# %%
x, x_train = images.x_test, images.x_train
pca = PCA(min(size, *x_train.shape), svd_solver="covariance_eigh").fit(x_train)
pca_name = f"PCA-{pca.n_components_}"
reconstructions = {
    "autoencoder": models.predict_in_batches(network.autoencoder, x),
    pca_name: pca.inverse_transform(pca.transform(x)).clip(0, 1),
    "mean image": np.broadcast_to(x_train.mean(axis=0), x.shape),
}
scores = {name: metrics.score(x, y, images.shape) for name, y in reconstructions.items()}

# %%
shown = images.examples(seed)
rows = {"test image": x} | reconstructions | {"error": reconstructions["autoencoder"] - x}
rows = {name: values[shown] for name, values in rows.items() if name != "mean image"}

# %%
similarity = ", ".join(f"{name} {table['ssim'].mean():.3f}" for name, table in scores.items())
caption = (
    f"Figure 14.2. {images.title}: mean SSIM of the reconstructions: {similarity}. Test images "
    "drawn at random; last row: the autoencoder's error, dark where ink is missing."
)
run.show("14_reconstructions", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# ## Map the errors
#
# At which pixels is the error large? Strokes or objects whose position varies give blurred maps; an object at a fixed position
# gives a sharp one.

# %%
maps = {name: np.abs(y - x).mean(axis=0) for name, y in reconstructions.items()}
means = ", ".join(f"{values.mean():.3f} ({name})" for name, values in maps.items())
caption = f"Figure 14.3. {images.title}: the mean absolute error over all pixels is {means}."
run.show("14_error_maps", figures.pixel_maps(maps, images.shape, caption, "mean |error|"))

# %% [markdown]
# ## Find the most anomalous images
#
# The reconstruction error is large for an image that is unlike the training images. How large is unusual? The **p-value** of a
# test image is (1 + k) / (n + 1), where k of the n validation images have an error at least as large (split conformal
# prediction). If a test image comes from the same source, its p-value is at most 0.05 in at most 5 % of the cases.

# %%
reconstructed = models.predict_in_batches(network.autoencoder, images.x_val)
errors = metrics.mse(images.x_val, reconstructed)
test_errors = scores["autoencoder"]["mse"].to_numpy()
p_values = anomaly.p_values(test_errors, errors)
alarms = p_values <= rate

# %% [markdown]
# Are the test images as a whole like the validation images? If both come from the same distribution, the area under the ROC curve
# (AUROC) of the error for separating the two sets is 0.5 in expectation.

# %%
both_errors = np.concatenate([errors, test_errors])
is_test = np.arange(len(both_errors)) >= len(errors)
separation = anomaly.auroc(both_errors[:, None], is_test[:, None])[:, 0]

# %%
anomalous = np.argsort(-test_errors)[: len(shown)]
rows = {"test image": x, "autoencoder": reconstructions["autoencoder"]}
rows = {name: values[anomalous] for name, values in rows.items()}
label = images.classes[images.y_test]
titles = [f"{label[i]}, {p_values[i]:.2g}" for i in anomalous]

# %%
caption = (
    f"Figure 14.4. {images.title}: {alarms.sum()} of {len(x):,} test images have a p-value of at "
    f"most {rate:g}. Shown are those with the largest errors. Titles: class, p-value."
)
run.show("14_anomalous", figures.image_rows(rows, images.shape, caption, titles))

# %% [markdown]
# Look whether these images are damaged, mislabelled or merely rare. The errors and p-values of all test images are saved.

# %%
table = pd.DataFrame({"class": label, "mse": test_errors, "p_value": p_values})
table.rename_axis("test image").to_csv(run.new_artifact("errors.csv"))

# %% [markdown]
# ## Compress the test images
#
# A codec of the model, as in `07_compress_images`: codes are rounded to multiples of a step and entropy-coded. The receiver
# needs the codec's file beforehand; its size is not counted in the bytes per image. The baseline is lossless: zlib, which PNG uses,
# image by image, with the 6 bytes of zlib's own header and checksum but without those of a file format.

# %%
model_codec = codec.from_autoencoder(network.encoder, network.decoder, images.pixels_train)
model_codec.save(run.new_artifact("codec.npz"))
stream = codec.compress(images.pixels_test, model_codec, step)
write_bytes(run.new_artifact("test_images.ae"), stream)
decompressed = codec.decompress(stream, model_codec)

# %%
import zlib

lossless = np.array([len(zlib.compress(image.tobytes(), 9)) for image in images.pixels_test])

# %% [markdown]
# ## Compare with the baselines
#
# The table puts each result beside its baseline: PCA with as many components, zlib, the nominal false-alarm rate, and
# the AUROC of identical distributions. zlib is lossless, so its MSE is 0.

# %%
models_by_name = {"own": "autoencoder", "pca_clipped": pca_name, "mean": "mean image"}
measured = {"own.test.alarms": alarms.astype("float64"), "own.test.separation": separation}
for key, name in models_by_name.items():
    for score in ("mse", "ssim"):
        measured[f"{key}.test.{score}"] = scores[name][score].to_numpy()

# %%
measured["own.test.compressed_mse"] = metrics.mse(x, decompressed)
measured["own.test.bytes_per_image"] = len(stream) / len(x)
measured["zlib.test.bytes_per_image"] = lossless.mean()

# %% tags=["nbval-ignore-output"]
interval = {name: metrics.interval(values) for name, values in measured.items()}
results = {
    "MSE per pixel": (interval["own.test.mse"], interval["pca_clipped.test.mse"], pca_name),
    "SSIM": (interval["own.test.ssim"], interval["pca_clipped.test.ssim"], pca_name),
    f"bytes per image, step {step:g}": (
        f"{len(stream) / len(x):.1f}",
        f"{lossless.mean():.1f}",
        "zlib",
    ),
    f"MSE after the codec, step {step:g}": (interval["own.test.compressed_mse"], 0, "zlib"),
    f"false alarms at p ≤ {rate:g}": (interval["own.test.alarms"], rate, "nominal"),
    "AUROC, test vs validation": (interval["own.test.separation"], 0.5, "same distribution"),
}
columns = ["autoencoder", "baseline", "which baseline"]
pd.DataFrame(results, columns).T.rename_axis(columns=f"{images.title}, test")

# %% [markdown]
# The claims are decided together. The last one is a check: it compares the errors of the test images with those of the validation
# images. If its verdict is "yes" or "no", the two sets differ, and the nominal false-alarm rate does not apply to the test images.

# %%
reconstructs = "The autoencoder has a lower reconstruction error than"
claims = [
    (f"{reconstructs} {pca_name}", "own.test.mse", "pca_clipped.test.mse", "lower"),
    (f"{reconstructs} the mean image", "own.test.mse", "mean.test.mse", "lower"),
    ("Test images have larger errors than validation images", "own.test.separation", 0.5, "higher"),
]

# %% [markdown]
# The model, the codec and the errors are saved in the run's folder, `artifacts/14_use_your_own_images/`. For further files
# there is a command: `python -m ae_lib score FILE --model autoencoder.keras --output scores.csv`; `--help` names the others.

# %%
network.autoencoder.save(run.new_artifact("autoencoder.keras"))
facts = {"name": images.name, "title": images.title, "source": images.source, "md5": images.md5}
facts |= {"shape": images.shape, "notes": images.notes}
facts |= {"training": len(x_train), "validation": len(errors), "test": len(x)}
write_json(run.new_artifact("data.json"), facts)

# %% tags=["nbval-ignore-output"]
reproduced = run.finish(measured, claims)
reproduced.claims.set_index("claim")[["measured", "baseline", "gain", "verdict"]]

# %% [markdown]
# ## Limitations
#
# A model of few images has seen little variety, so images with a high score may only be rare. The p-values bound the rate of
# false alarms on average over validation sets; they do not promise that an anomaly is detected. The intervals cover other
# test images but not other training seeds, since one network was trained. Nothing was tuned for these images, and other
# parameters may do better.

# %%
reproduced

# %% [markdown]
# **Read next.** `06_detect_anomalies` explains scores and p-values, `07_compress_images` the codec, and `02_train` what the
# parameters of the training do.
