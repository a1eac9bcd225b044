# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Compress images
#
# **What you will do.** Turn the test images into bytes and back with a real codec: quantised codes, an entropy coder, a
# header, a checksum. Count every byte, and put the curve of error against bytes beside the same coder on PCA, beside
# JPEG and beside WebP.
#
# **What you will learn.** What a claim such as "32 numbers, 24.5 times compression" is worth: how many bits the numbers
# need, what the image is worth at each rate, where PCA overtakes, and what the decoder itself costs.
#
# **What you need.** A trained model, by default that of `02_train`. **Time.** A minute and a half on one core.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
# fmt: off
profile: str = "mnist"  # the run's folder, reports/<profile>/
dataset: str = "mnist"  # the data set that the model was trained on
image_size: list = []  # height and width to which the images are resampled; [] leaves them as they are
model: str = "dense"  # or another of ae_lib.run.MODELS; its metrics are kept under this name
seed: int = 0  # of the bootstrap, of the decoder's training and of the images shown

# the quantiser
steps: list = [5, 3.5, 2.4, 1.6, 1, 0.6, 0.3]  # of the autoencoder; the larger, the fewer bytes
pca_steps: list = [3.2, 2.35, 1.85, 1.45, 1.15, 0.95, 0.78, 0.6, 0.45]  # for about the same rates, and two beyond
components: int = 384  # of PCA; on validation, all 784 err less by under 1 % up to 270 bits per image
rounding: float = 0.4  # 0.5 is ordinary rounding; on validation, 0.4 takes about 1 % off both errors at equal rates
gains: list = [1, 1.1, 1.3, 1.5]  # candidates for the contrast of PCA; validation chooses

# the decoder, trained further on rounded codes
epochs: int = 15  # passes over the training images; the last ones gain little
batch_size: int = 256  # as for the model
learning_rate: float = 1.0e-3  # as for the model; falls to 0 along a cosine
finest: float = 0.1  # the smallest step drawn; finer than the finest used, so that exact codes stay well drawn
coarsest: float = 6.0  # the largest step drawn

# what it is compared with
limit: float = 120.0  # bits per image up to which the verdict is asked for
jpeg_qualities: list = [1, 5, 10, 20, 40, 75]  # below 1 there is nothing
webp_qualities: list = [0, 5, 20, 60]  # below 0 there is nothing
singles: int = 100  # test images that are also put into files of their own
shown: list = [3.5, 1.6, 1, 0.3]  # those of the steps whose images are shown
# fmt: on

# %% [markdown]
# ## Load the images and the model

# %%
import gzip
import io
import math
import time
import zlib

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import codec
from ae_lib.analysis.codec_stream import HEADER, VERSION, unpack
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.decomposition import PCA

if unknown := set(shown) - set(steps):
    raise StudyError(f"shown has {min(unknown)}; expected some of steps, {steps}: change it.")
run = Run(profile, "07_compress_images")
autoencoder, encoder, decoder = models.load(run.model(model))
latent_dim = encoder.output_shape[1]
encoder.output_shape

# %%
images = data.load(dataset, image_size=image_size)
x = images.x_test
images

# %% [markdown]
# ## Make the codec
#
# The units of a code are correlated, and a small error does more harm in one than in another: one step for all would waste
# bits. Transform coding (Goyal, "Theoretical foundations of transform coding", IEEE Signal Processing Magazine 18(5), 2001)
# first turns the code into coordinates for which one step is right: uncorrelated, and each in the unit of what its errors
# do to the image, measured by the decoder's Jacobian on training images. Each coordinate is then rounded to bins; how
# often each bin occurs on the training images is its probability. These counts are part of the codec.

# %%
untuned = f"{model}_as_trained"
codecs = {untuned: codec.from_autoencoder(encoder, decoder, images.pixels_train, rounding)}
codecs[untuned]

# %% [markdown]
# ### The same on PCA
#
# PCA's coefficients are such coordinates by construction; the same code runs with other layers. To be fair to PCA it gets
# as many components as the bits can pay for, its values are cut to [0, 1], and, since what is cut costs nothing, a contrast
# somewhat above 1, chosen on the validation images. (What it does not get is a network that draws from its coefficients, as
# the autoencoder does below; how much of the difference is the decoder's and how much the encoder's stays open.)

# %%
fitted = PCA(min(components, *images.pixels_train.shape), svd_solver="covariance_eigh").fit(
    images.x_train
)
candidates = {gain: codec.from_pca(fitted, images.pixels_train, rounding, gain) for gain in gains}
in_the_middle = pca_steps[len(pca_steps) // 2]


# %%
def validation_error(own):
    rebuilt = codec.decompress(codec.compress(images.pixels_val, own, in_the_middle), own)
    return metrics.mse(images.x_val, rebuilt).mean()


gain = min(gains, key=lambda gain: validation_error(candidates[gain]))
codecs["pca"] = candidates[gain]
codecs["pca"]

# %% [markdown]
# ### Train the decoder on rounded codes
#
# The decoder has only seen exact codes, or, if it is a variational one, codes with noise of its own. What should it draw for
# a bin? The mean of all images whose codes fall into it, which is the more blurred the larger the step. So the decoder is
# trained on, with codes of the grey images rounded at random steps, whatever its task was before, and is told the step as one more input (as in Choi, El-Khamy and Lee, "Variable rate deep image compression with a
# conditional autoencoder", ICCV 2019). The encoder and the codes stay as they are. The decoder as it was trained stays in
# the comparison.

# %% tags=["nbval-ignore-output"]
schedule = keras.optimizers.schedules.CosineDecay(
    learning_rate, epochs * -(-len(images.y_train) // batch_size)
)
settings = training.Settings(epochs, batch_size, schedule, seed)
rest = images.pixels_train, images.pixels_val, settings, (finest, coarsest)
codecs[model], _ = codec.tuned(codecs[untuned], *rest)

# %% [markdown]
# What a receiver needs is one file, `codec.npz`. From here on the codec is the one that was read back from it.

# %%
codecs[model].save(run.new_artifact("codec.npz"))
codecs[model] = codec.load(run.new_artifact("codec.npz"))
codecs[model]

# %% [markdown]
# ## Compress the test images
#
# One stream per codec and step holds all test images. *Bits per image* is the whole stream, header counted, over the
# number of images. The *ideal* is −log₂ of the probabilities that the codec gives to the bins that occur: no coder that
# believes these probabilities can do better. A coordinate beyond the range of the training images is taken for the end of
# that range.

# %%
keys = [(name, step) for name in codecs for step in (pca_steps if name == "pca" else steps)]
streams = {(name, step): codec.compress(x, codecs[name], step) for name, step in keys}
decoded = {
    (name, step): codec.decompress(stream, codecs[name]) for (name, step), stream in streams.items()
}
print(f"{len(streams)} streams, each a header of {HEADER} bytes and its payload")

# %% [markdown]
# Is what comes out of a stream exactly what went in?

# %%
coordinates = {name: each.encode(x) for name, each in codecs.items()}
symbols = {(name, step): codecs[name].quantise(coordinates[name], step) for name, step in keys}
exact = [np.array_equal(unpack(streams[key], codecs[key[0]])[0], symbols[key]) for key in keys]
print(
    f"codes of all {len(x):,} test images reproduced exactly, at every step: {'yes' if all(exact) else 'no'}"
)

# %%
bits = {key: 8 * len(stream) / len(x) for key, stream in streams.items()}
ideal = {key: codecs[key[0]].ideal_bits(symbols[key], key[1]).mean() for key in keys}
errors = {key: metrics.mse(x, y) for key, y in decoded.items()}
means = {key: metrics.interval(values, seed) for key, values in errors.items()}
print(
    "bytes within 2 % of the ideal at every step:",
    "yes" if all(bits[k] < 1.02 * ideal[k] for k in bits) else "no",
)

# %% tags=["nbval-ignore-output"]
rates = pd.DataFrame({"bits per image": bits, "ideal": ideal, "MSE, mean [95 % interval]": means})
rates["above the ideal / %"] = 100 * (rates["bits per image"] / rates["ideal"] - 1)
rates.rename_axis(index=["codec", "step"], columns=f"{images.title}, test").round(2)

# %% [markdown]
# How many images leave the range of the training images, and how fast is it? Encoding includes the network.

# %% tags=["nbval-ignore-output"]
middle = steps[len(steps) // 2]
start = time.perf_counter()
stream = codec.compress(x, codecs[model], middle)
between = time.perf_counter()
codec.decompress(stream, codecs[model])
facts = {
    "test images with a coordinate out of range": f"{(codecs[model].clamped(coordinates[model]) > 0).mean():.2%}",
    "images per second, to bytes": f"{len(x) / (between - start):,.0f}",
    "images per second, back": f"{len(x) / (time.perf_counter() - between):,.0f}",
}
pd.Series(facts, name=images.title).to_frame()

# %% [markdown]
# ## What must not be decoded
#
# A stream carries the version of its format, the fingerprint of its codec, the number of images and a checksum. Whatever
# does not fit is refused before anything is decoded.

# %%
newer = stream[:3] + bytes([VERSION + 1]) + stream[4:]
altered = stream[:-1] + bytes([stream[-1] ^ 1])
attempts = {
    "truncated": stream[:-1],
    "one bit altered": altered,
    "bytes appended": stream + b"\0\0\0\0",
    "of another codec": streams["pca", pca_steps[0]],
    "of a newer version": newer,
    "empty": b"",
}


# %%
def refusal(stream):
    try:
        codec.decompress(stream, codecs[model])
    except StudyError as error:
        return str(error)


refusals = {name: refusal(attempt) for name, attempt in attempts.items()}
for name, sentence in refusals.items():
    print(f"{name}: {'refused' if sentence else 'DECODED'}")

# %% tags=["nbval-ignore-output"]
print(*refusals.values(), sep="\n")

# %% [markdown]
# ## The others
#
# **JPEG and WebP** are made for photographs, and their headers alone are larger than our images. To be fair to them all
# test images are put into one picture, in tiles of 32 × 32 pixels (for images of other sizes: of the next multiples of 16) so
# that no block belongs to two images, and the header is paid once. **Lossless** are PNG, WebP and zlib. The **raw code** is what such claims count: the code's numbers instead
# of the pixels, as float32, although the pixels were bytes.

# %%
tile = tuple(16 * -(-side // 16) for side in images.shape)
edges = [((outer - side) // 2, side) for outer, side in zip(tile, images.shape, strict=True)]
middle_of_tile = tuple(slice(margin, margin + side) for margin, side in edges)


def mosaic(pixels):
    columns = math.isqrt(len(pixels) - 1) + 1
    tiles = np.zeros((-(-len(pixels) // columns) * columns, *tile), "uint8")
    tiles[: len(pixels), *middle_of_tile] = pixels.reshape(-1, *images.shape)
    rows = tiles.reshape(-1, columns, *tile).swapaxes(1, 2)
    return rows.reshape(-1, columns * tile[1])


# %%
def from_mosaic(picture, count):
    columns = picture.shape[1] // tile[1]
    tiles = picture.reshape(-1, tile[0], columns, tile[1]).swapaxes(1, 2).reshape(-1, *tile)
    return tiles[:count, *middle_of_tile].reshape(count, images.pixels)


def picture_file(picture, kind, **options):  # its bytes, and the picture that they decode to
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    with Image.open(file) as decoded:
        return file.getvalue(), np.asarray(decoded.convert("L"))


# %%
picture = mosaic(images.pixels_test)
assert np.array_equal(from_mosaic(picture, len(x)), images.pixels_test)
formats = [("JPEG", {"quality": q, "optimize": True}) for q in jpeg_qualities]
formats += [("WEBP", {"quality": q}) for q in webp_qualities]
for kind, options in formats:
    file, back = picture_file(picture, kind, **options)
    key = kind, options["quality"]
    bits[key] = 8 * len(file) / len(x)
    errors[key] = metrics.mse(x, data.as_flat_images(from_mosaic(back, len(x))))
    means[key] = metrics.interval(errors[key], seed)

# %%
raw = ("raw float32 code", "")
bits[raw] = 8 * np.dtype("float32").itemsize * latent_dim
errors[raw] = metrics.mse(x, models.predict_in_batches(autoencoder, x))
means[raw] = metrics.interval(errors[raw], seed)
print(
    f"raw code: {bits[raw]} bits; image: {8 * images.pixels} bits, {8 * images.pixels / bits[raw]:.1f} times as many"
)

# %% tags=["nbval-ignore-output"]
lossless = {
    "PNG": len(picture_file(picture, "PNG", optimize=True)[0]),
    "WebP": len(picture_file(picture, "WEBP", lossless=True)[0]),
    "zlib": len(zlib.compress(images.pixels_test.tobytes(), 9)),
}
pd.Series(lossless, name="lossless, bits per image").mul(8 / len(x)).round(0).to_frame()

# %% [markdown]
# And one image in a file of its own, where each pays its header: the mean over some of the test images.

# %% tags=["nbval-ignore-output"]
few = [images.pixels_test[i : i + 1] for i in range(min(singles, len(x)))]
tiles = [mosaic(image) for image in few]
alone = {
    f"{model}, step {middle}": [len(codec.compress(image, codecs[model], middle)) for image in few],
    "JPEG, lowest quality": [len(picture_file(tile, "JPEG", **formats[0][1])[0]) for tile in tiles],
    "WebP, lowest quality": [
        len(picture_file(tile, "WEBP", quality=webp_qualities[0])[0]) for tile in tiles
    ],
}
pd.DataFrame(
    {
        "one image alone / bytes": {
            name: metrics.interval(sizes, seed) for name, sizes in alone.items()
        }
    }
)

# %% [markdown]
# ## Rate and distortion


# %%
def curve(*names):
    points = sorted((key for key in means if key[0] in names), key=bits.get)
    best = [
        key
        for i, key in enumerate(points)
        if all(means[key].value < means[p].value for p in points[:i])
    ]
    return pd.DataFrame([means[key] for key in best], index=[bits[key] for key in best])


names = {
    "autoencoder": model,
    "PCA": "pca",
    "decoder as trained": untuned,
    "JPEG": "JPEG",
    "WebP": "WEBP",
    raw[0]: raw[0],
}
curves = {label: curve(name) for label, name in names.items()}

# %% [markdown]
# PCA with more bits must win in the end: it can add components until nothing is missing, while the autoencoder's code,
# however exact, leaves its own error. Where do the curves cross? Between measured rates the logarithm of the error is taken
# to be linear in the bits; beyond its last rate the autoencoder keeps its last error. Below the lowest rate of either there is
# nothing to compare.

# %%
lowest = max(curves[name].index[0] for name in ("autoencoder", "PCA"))
grid = np.linspace(lowest, curves["PCA"].index[-1], 2000)
own, linear = (
    np.exp(np.interp(grid, curves[n].index, np.log(curves[n]["value"])))
    for n in ("autoencoder", "PCA")
)
overtaken = next(
    (rate for rate, first, second in zip(grid, own, linear, strict=True) if second < first), np.nan
)
rates_shown = [bits[model, step] for step in shown if bits[model, step] >= lowest]
ratios = dict(zip(rates_shown, np.interp(rates_shown, grid, own / linear), strict=True))

# %%
caption = (
    f"Figure 7.1. {images.title}: error against bytes, headers counted. Error of the autoencoder over that of PCA: "
    f"{', '.join(f'{ratio:.2f} at {rate:.0f} bits' for rate, ratio in ratios.items())}; PCA is better from "
    f"{overtaken:.0f} on. JPEG needs at least {curves['JPEG'].index[0]:.0f} bits, WebP {curves['WebP'].index[0]:.0f}."
)
run.show(
    "07_rate_distortion",
    figures.lines(curves, caption, "bits per image", "MSE per pixel", log=True),
)

# %% [markdown]
# ## Look
#
# The same test images at a few rates, from the autoencoder and from PCA at the nearest rate that was measured.

# %%
chosen = images.examples(seed)
rows = {"test image": x[chosen]}


def nearest(step):  # of PCA's steps, by the rate
    return min(pca_steps, key=lambda other: abs(bits["pca", other] - bits[model, step]))


for step in shown:
    for label, key in (("autoencoder", (model, step)), ("PCA", ("pca", nearest(step)))):
        rows[f"{label}, {bits[key]:.0f} bits"] = decoded[key][chosen]

# %%
pairs = ", ".join(
    f"{means[model, step].value:.4f} at {bits[model, step] / 8:.1f} bytes" for step in shown
)
caption = (
    f"Figure 7.2. {images.title}: test images drawn at random, compressed and decompressed. Mean squared error of the "
    f"autoencoder over all test images, from the top: {pairs}."
)
run.show("07_images_by_rate", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# ## What the decoder costs
#
# A stream is useless without the decoder. Its weights as float32, and the same with the counts after gzip, shared among as
# many images as are ever sent.

# %% tags=["nbval-ignore-output"]
parts = {name: codecs[name].receiver_bytes() for name in (model, "pca")}
receiver = pd.DataFrame(
    {"weights / bytes": {name: len(weights) for name, (weights, _) in parts.items()}}
)
zipped = {name: len(gzip.compress(b"".join(both))) for name, both in parts.items()}
receiver["with counts, gzip / bytes"] = pd.Series(zipped)
for count in (10_000, 60_000, 1_000_000):
    receiver[f"bits per image, {count:,} images"] = (
        8 * receiver["with counts, gzip / bytes"] / count
    )
receiver.round(1)

# %% [markdown]
# ## Decide
#
# Does the autoencoder beat PCA at the same number of bytes? At each of its rates up to the limit PCA's error is interpolated
# image by image, never above the straight line between its neighbours, which favours PCA; below the lowest of PCA's rates it
# may spend the bits of that one. Then the paired bootstrap decides.


# %%
def error_at(rate, rates, errors):  # of each image, from errors of shape (rates, images)
    order = np.argsort(rates)
    rates, errors = np.asarray(rates)[order], errors[order]
    if not rates[0] <= rate <= rates[-1]:
        raise StudyError(
            f"The rate {rate:.4g} was not measured; expected {rates[0]:.4g} to {rates[-1]:.4g} bits "
            "per image: add smaller or larger steps to pca_steps."
        )
    right = max(1, np.searchsorted(rates, rate))
    share = (rate - rates[right - 1]) / (rates[right] - rates[right - 1])
    return errors[right - 1] ** (1 - share) * errors[right] ** share


# %%
pca_rates = [bits["pca", step] for step in pca_steps]
pca_errors = np.array([errors["pca", step] for step in pca_steps])
at_same_rate = {
    s: error_at(max(bits[model, s], min(pca_rates)), pca_rates, pca_errors) for s in steps
}
verdicts = {step: metrics.lower(errors[model, step], at_same_rate[step], seed) for step in steps}
for step in [step for step in steps if bits[model, step] <= limit]:
    print(f"step {step}, less error than PCA at the same rate: {verdicts[step]}")
print(f"PCA overtakes in the end: {'yes' if overtaken < np.inf else 'no'}")

# %% [markdown]
# One table of what was found: the autoencoder at each of its rates, PCA interpolated at the same rate, and whether it helped
# to train the decoder further.

# %% tags=["nbval-ignore-output"]
result = pd.DataFrame({"bits per image": {step: round(bits[model, step], 1) for step in steps}})
result["times smaller"] = (8 * images.pixels / result["bits per image"]).round(0)
result["MSE, autoencoder"] = {step: means[model, step] for step in steps}
result["MSE, PCA"] = {step: metrics.interval(values, seed) for step, values in at_same_rate.items()}
result["better than PCA"] = verdicts
result["better than as trained"] = {
    s: metrics.lower(errors[model, s], errors[untuned, s], seed) for s in steps
}
result["as trained, better than PCA"] = {
    s: metrics.lower(errors[untuned, s], at_same_rate[s], seed) for s in steps
}
result.rename_axis(index="step", columns=f"{images.title}, test")

# %% [markdown]
# ## Keep the results


# %%
def of_step(name, step):
    return f"codec.{name}.{metrics.numbered_name('step', step)}"


measured = {
    "codec.pca.overtakes_at_bits": overtaken,
    "codec.raw.bits_per_image": bits[raw],
    "codec.raw.mse": means[raw].value,
}
for name, step in keys:
    key = of_step(name, step)
    measured[f"{key}.mse"] = means[name, step]
    if name != untuned:
        measured |= {
            f"{key}.bits_per_image": bits[name, step],
            f"{key}.ideal_bits_per_image": ideal[name, step],
        }

# %%
finest, coarsest = min(step for step in steps if bits[model, step] <= limit), max(steps)
claims = [
    (
        f"Its code, with a decoder trained on rounded codes, compresses better: MSE at {bits[model, finest]:.0f} bits per image",
        f"{of_step(model, finest)}.mse",
        result.loc[finest, "MSE, PCA"],
        verdicts[finest],
    ),
    (
        f"… and so does the autoencoder as it was trained: MSE at {bits[model, coarsest]:.0f} bits per image",
        f"{of_step(untuned, coarsest)}.mse",
        result.loc[coarsest, "MSE, PCA"],
        result.loc[coarsest, "as trained, better than PCA"],
    ),
    (
        "… and at every rate",
        f"up to {overtaken:.0f} bits per image",
        "PCA beyond",
        "no" if overtaken < np.inf else "yes",
    ),
]
# At PCA's finest steps, an image more or less on the edge of a bin shows.
headline = [name for name in measured if name.endswith((".mse", ".bits_per_image"))]
headline = [name for name in headline if not name.startswith("codec.pca.")]
headline += [f"{of_step('pca', nearest(step))}.mse" for step in (finest, coarsest)]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
reproduced.table.rename_axis(columns=images.title)

# %% [markdown]
# **Read next.** `08_learn_from_few_labels` asks what the codes are worth when labels are few.
