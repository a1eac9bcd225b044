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
# **Question.** How many bits does an image need at which error?
#
# **What you will do.** Turn the codes of the test images into bytes and back: quantise them, entropy-code the symbols, and add a
# header. Train the decoder further on quantised codes. Compare the error at equal numbers of bits with PCA under the same coder,
# with JPEG, with WebP, and the bits with lossless formats.
#
# **What you will learn.** How transform coding works, how many bits a code of real numbers is worth, up to which rate an autoencoder
# compresses better than PCA, and which part of the gain comes from the decoder.
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
seed: int = 0  # of the decoder's training and of the images shown

# the quantiser
steps: list = [5, 3.5, 2.4, 1.6, 1, 0.6, 0.3, 0.06]  # of the autoencoder; the larger, the fewer bits
pca_steps: list = [3.2, 2.35, 1.85, 1.45, 1.15, 0.95, 0.78, 0.6, 0.45]  # for rates from the lowest to beyond the highest of these
components: int = 384  # of PCA; on validation, all 784 lower the error by less than 1 % up to 270 bits per image
rounding: float = 0.4  # 0.5 is ordinary rounding; on validation, 0.4 lowers both errors by about 1 % at equal rates
gains: list = [1, 1.1, 1.3, 1.5]  # candidates for the contrast of PCA; the validation images choose

# the decoder, trained further on quantised codes
epochs: int = 15  # passes over the training images; more lower the validation loss little
batch_size: int = 256  # as for the model
learning_rate: float = 1.0e-3  # as for the model; falls to 0 along a cosine
finest: float = 0.05  # the smallest step in training; below the smallest of steps
coarsest: float = 6.0  # the largest step in training; above the largest of steps

# what it is compared with
jpeg_qualities: list = [1, 5, 10, 20, 40, 75]  # ascending; 1 is the lowest there is
webp_qualities: list = [0, 5, 20, 60]  # ascending; 0 is the lowest there is
sharing: int = 1000000  # images among which the bits of a codec's file are divided
singles: int = 100  # test images that are also encoded one at a time
shown: list = [5, 1.6, 0.3]  # those of the steps whose images are shown and about which claims are made
# fmt: on

# %% [markdown]
# ## Load the images and the model

# %%
import lzma

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import codec, codec_comparison
from ae_lib.analysis.codec_stream import HEADER
from ae_lib.run import Run

import keras
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

if unknown := set(shown) - set(steps):
    raise StudyError(f"shown has {min(unknown)}; expected some of steps, {steps}: change it.")
run = Run(profile, "07_compress_images")
autoencoder, encoder, decoder = models.load(run.model(model))
encoder.output_shape

# %%
images = data.load(dataset, image_size=image_size)
x = images.x_test
images

# %% [markdown]
# ## Make the codec
#
# How should a code of real numbers be rounded? Its units are correlated, and an error of one size does more harm in one unit than in
# another, so that a single step for all units would waste bits. Transform coding (Goyal, "Theoretical foundations of transform
# coding", IEEE Signal Processing Magazine 18(5), 2001) first maps the code to coordinates for which a single step is right. They
# are uncorrelated, and an error in any of them changes the image by the same amount, as measured by the decoder's Jacobian on
# training images. Each coordinate is then rounded to bins, and an entropy coder writes the bins. It takes the probability of a
# bin from the training images: how often their coordinates fall into it. These counts are part of the codec.

# %%
as_trained = f"{model}_as_trained"
codecs = {as_trained: codec.from_autoencoder(encoder, decoder, images.pixels_train, rounding)}
codecs[as_trained]

# %% [markdown]
# The codec has as many coordinates as the code has dimensions. The next one does the same with PCA, whose components are
# uncorrelated and of unit length already; only the layers differ. PCA may use as many components as its bits can pay for, and its
# reconstructions are clipped to [0, 1]. The number of components, and the wider bin around 0 (`rounding` below 0.5) for both codecs, were
# chosen on MNIST's validation images.

# %%
n_components = min(components, *images.pixels_train.shape)
pca = PCA(n_components, svd_solver="covariance_eigh").fit(images.x_train)
candidates = {gain: codec.from_pca(pca, images.pixels_train, rounding, gain) for gain in gains}
middle_step = pca_steps[len(pca_steps) // 2]
print(f"PCA with {n_components} components")

# %% [markdown]
# Clipping costs nothing where a value is clipped. A contrast above that of the least-squares solution can therefore lower the error:
# which contrast has the lowest error on the validation images?

# %%
validation_errors = {}
for gain, candidate in candidates.items():
    stream = codec.compress(images.pixels_val, candidate, middle_step)
    reconstructions = codec.decompress(stream, candidate)
    validation_errors[gain] = metrics.mse(images.x_val, reconstructions).mean()
codecs["pca"] = candidates[min(validation_errors, key=validation_errors.get)]

# %% [markdown]
# ## Train the decoder on quantised codes
#
# The decoder has seen exact codes only. What should it reconstruct from a bin? The squared error is smallest for the mean of all
# images whose codes fall into the bin, and that mean is the more blurred the larger the step. The decoder is therefore trained
# further, on codes that are rounded with random steps, and receives the step as one more input (as in Choi, El-Khamy and Lee,
# "Variable rate deep image compression with a conditional autoencoder", ICCV 2019). The encoder, and with it every code and
# every bit, stays the same. The decoder as it was trained remains in the comparison.

# %% tags=["nbval-ignore-output"]
n_steps = epochs * -(-len(images.y_train) // batch_size)
schedule = keras.optimizers.schedules.CosineDecay(learning_rate, n_steps)
settings = training.Settings(epochs, batch_size, schedule, seed)
codecs[model], _ = codec.tuned(
    codecs[as_trained], images.pixels_train, images.pixels_val, settings, (finest, coarsest)
)

# %% [markdown]
# A receiver needs one file, `codec.npz`, to decode all streams. From here on the codec is the one that was read back from that file.

# %%
codecs[model].save(run.new_artifact("codec.npz"))
codecs[model] = codec.load(run.new_artifact("codec.npz"))
codecs[model]

# %% [markdown]
# ## Compress the test images
#
# How many bits does each step cost, and which error does it leave? One stream per codec and step holds all test images. *Bits per
# image* is the length of the whole stream, with its header, over the number of images.

# %%
examples = images.examples(seed)
settings_of = {name: steps for name in codecs} | {"pca": pca_steps}
bits, errors, decoded = {}, {}, {}
for name, its_steps in settings_of.items():
    for step in its_steps:
        stream = codec.compress(x, codecs[name], step)
        reconstructions = codec.decompress(stream, codecs[name])
        bits[name, step] = 8 * len(stream) / len(x)
        errors[name, step] = metrics.mse(x, reconstructions)
        decoded[name, step] = reconstructions[examples]
print(f"{len(bits)} streams of {len(x):,} images, each with a header of {8 * HEADER} bits")

# %% [markdown]
# Could another entropy coder do much better? The ideal length is −log₂ of the probabilities that the codec gives to the bins that
# occur. No coder with these probabilities needs fewer bits on average. The streams are compared with it without their headers.

# %%
within = []
for name, step in bits:
    symbols = codecs[name].quantise(codecs[name].encode(x), step)
    ideal = codecs[name].ideal_bits(symbols, step).sum()
    within.append(bits[name, step] * len(x) - 8 * HEADER <= 1.02 * ideal + 64)
print("within 2 % and 8 bytes of the ideal at every step:", "yes" if all(within) else "no")

# %% [markdown]
# ## Encode in other formats
#
# JPEG and WebP are made for photographs, and their headers alone can take more bits than a small image needs here. To be fair to
# them, all test images are put into one picture, in tiles whose sides are multiples of 16 pixels, so that no block of the format
# belongs to two images and the header is paid for once. The *exact code* is what is often counted instead of bits: the code's real
# numbers as float32, without quantisation or entropy coding.

# %%
qualities = {"JPEG": jpeg_qualities, "WEBP": webp_qualities}
for kind, its_qualities in qualities.items():
    for quality in its_qualities:
        n_bytes, pixels = codec_comparison.lossy(images.pixels_test, images.shape, kind, quality)
        bits[kind, quality] = 8 * n_bytes / len(x)
        errors[kind, quality] = metrics.mse(x, data.as_flat_images(pixels))

# %%
exact = "exact code", "float32"
bits[exact] = 8 * np.dtype("float32").itemsize * encoder.output_shape[1]
errors[exact] = metrics.mse(x, models.predict_in_batches(autoencoder, x))
print(f"exact code: {bits[exact]} bits per image; pixels: {8 * images.pixels} bits per image")

# %% [markdown]
# And how many bits do formats need that lose nothing? They can encode all images as one block, and then use what the images have
# in common. Or they encode one image at a time, as an archive must from which single images are read.

# %% tags=["nbval-ignore-output"]
single = [
    codec_comparison.lossless_sizes(image, images.shape)
    for image in images.pixels_test[:singles, None]
]
sizes = pd.DataFrame({"one image at a time": pd.DataFrame(single).mean()})
together = codec_comparison.lossless_sizes(images.pixels_test, images.shape)
sizes["all as one block"] = pd.Series(together) / len(x)
bits_per_pixel = sizes * 8 / images.pixels
bits_per_pixel.round(3).rename_axis(f"{images.title}, test, lossless, bits per pixel")

# %% [markdown]
# As one block, a general-purpose compressor such as LZMA can need fewer bits than an image format, since it finds strokes that recur in
# other images. One at a time, each file pays for its own header and has nothing to learn from; the same holds for the codec, whose
# header alone was printed above.
#
# ## Compare at equal rates
#
# At which rates does the autoencoder have a lower error than PCA? PCA's error is interpolated, image by image, at each rate of the
# autoencoder: between two measured rates it follows the straight line in a plot with logarithmic axes, which lies below the chord of the
# curve itself and so favours PCA. A rate below PCA's lowest is compared with PCA at its lowest, which has more bits.

# %%
pca_rates = [bits["pca", step] for step in pca_steps]
pca_errors = np.stack([errors["pca", step] for step in pca_steps])
compared = [step for step in steps if bits[model, step] <= max(pca_rates)]
matched = {}
for step in compared:
    matched[step] = codec_comparison.errors_at(bits[model, step], pca_rates, pca_errors)


# %%
def curve(name):
    points = {bits[key]: metrics.interval(errors[key]) for key in errors if key[0] == name}
    return pd.DataFrame(list(points.values()), index=list(points)).sort_index()


names = {"autoencoder": model, "PCA": "pca", "decoder as trained": as_trained}
names |= {"JPEG": "JPEG", "WebP": "WEBP", "exact code, float32": "exact code"}
curves = {label: curve(name) for label, name in names.items()}

# %%
overtaken = codec_comparison.crossing(curves["autoencoder"]["value"], curves["PCA"]["value"])
step = shown[len(shown) // 2]
finding = f"PCA has the lower error above {overtaken:.0f} bits per image"
if np.isnan(overtaken):
    finding = "PCA does not overtake the autoencoder at the rates that both have"
caption = (
    f"Figure 7.1. {images.title}: {finding}. With {bits[model, step]:.0f} bits the autoencoder has an MSE of "
    f"{errors[model, step].mean():.4f}. JPEG needs at least {curves['JPEG'].index[0]:.0f} bits, "
    f"WebP {curves['WebP'].index[0]:.0f}. Headers are counted."
)
figure = figures.lines(curves, caption, "bits per image", "MSE per pixel", log=True)
run.show("07_rate_distortion", figure)

# %% [markdown]
# Both axes are logarithmic, so that a constant distance is a constant ratio. With enough bits PCA must win: it can add components until
# nothing is missing, while the autoencoder keeps the error of its bottleneck however exact its code is. The next figure shows the
# difference at each of the autoencoder's rates, with the decoder as it was trained beside the one that was trained further.


# %%
def error_against_pca(name):
    differences = []
    for step in compared:
        percent = matched[step].mean() / 100
        difference = metrics.difference(errors[name, step] / percent, matched[step] / percent)
        differences.append(difference)
    return pd.DataFrame(differences, index=[round(bits[model, step]) for step in compared])


# %%
tables = {"autoencoder": error_against_pca(model)}
tables["decoder as trained"] = error_against_pca(as_trained)
first, last = (tables["autoencoder"]["value"].iloc[i] for i in (0, -1))
extra = tables["autoencoder"]["value"] - tables["decoder as trained"]["value"]
caption = (
    f"Figure 7.2. {images.title}: at equal bits the autoencoder's error differs from PCA's by {first:+.0f} % at its lowest rate and by "
    f"{last:+.0f} % at its highest. Training the decoder further changes it by {extra.iloc[0]:+.0f} and "
    f"{extra.iloc[-1]:+.0f} percentage points there. Intervals: 95 %, over test images."
)
xlabel, ylabel = "bits per image (not to scale)", "error against PCA's / %"
run.show("07_error_against_pca", figures.intervals_by_group(tables, caption, xlabel, ylabel))

# %% [markdown]
# Below 0 the autoencoder has the lower error. The encoder is the same in both series, so that their distance is the decoder's part. A
# decoder that knows the step can gain most where the rounding is coarse. Where it is fine, its input is nearly the exact code, for
# which the decoder was trained from the beginning, and training it further for all steps costs it some of that: on MNIST its
# error at the finest step is 8 % higher than that of the decoder as trained, which is still below PCA's there. The rate
# above which PCA has the lower error is therefore that of the decoder trained further.
#
# What do such errors look like? The same test images, at some of the rates, and from PCA at the measured rate that is nearest.

# %%
rows = {"test image": x[examples]}
for step in shown:
    nearest = min(pca_steps, key=lambda other: abs(bits["pca", other] - bits[model, step]))
    rows[f"autoencoder, {bits[model, step]:.0f} bits"] = decoded[model, step]
    rows[f"PCA, {bits['pca', nearest]:.0f} bits"] = decoded["pca", nearest]
pairs = [f"{errors[model, step].mean():.4f} at {bits[model, step]:.0f} bits" for step in shown]
caption = (
    f"Figure 7.3. {images.title}: random test images after compression. Mean squared error of the "
    f"autoencoder over all test images: {', '.join(pairs)}."
)
run.show("07_images_by_rate", figures.image_rows(rows, images.shape, caption))

# %% [markdown]
# ## Count the decoder
#
# A stream is useless without the codec, which the receiver must have once. How many bits per image does that add, if many images
# share it?

# %% tags=["nbval-ignore-output"]
receiver = {}
for name in (model, "pca"):
    weights, counts = codecs[name].receiver_bytes()
    receiver[name] = len(weights), len(lzma.compress(weights + counts))
receiver = pd.DataFrame(receiver, index=["weights / bytes", "with counts, LZMA / bytes"]).T
receiver["bits per image"] = (8 * receiver["with counts, LZMA / bytes"] / sharing).round(1)
receiver.rename_axis(columns=f"shared by {sharing:,} images")

# %% [markdown]
# ## Results
#
# The autoencoder at each of its rates, beside the decoder as it was trained and PCA at the same rate.

# %% tags=["nbval-ignore-output"]
results = pd.DataFrame(index=pd.Index(steps, name="step"))
results["bits per image"] = [round(bits[model, step], 1) for step in steps]
results["times smaller than the pixels"] = (8 * images.pixels / results["bits per image"]).round(0)
for label, name in {"MSE, autoencoder": model, "MSE, decoder as trained": as_trained}.items():
    results[label] = [metrics.interval(errors[name, step]) for step in steps]
results["MSE, PCA at equal bits"] = pd.Series(
    {step: metrics.interval(values) for step, values in matched.items()}
)
results.rename_axis(columns=f"{images.title}, test, mean [95 % interval]").fillna("–")

# %% [markdown]
# ## Decide
#
# The claims are decided together, paired by image: the autoencoder against PCA at the rates that are shown, the decoder's
# part at the lowest and the highest of them, and PCA with all its bits against the autoencoder with its exact code.


# %%
def metric(name, step, quantity="mse"):
    return f"codec.{name}.{metrics.numbered_name('step', step)}.{quantity}"


measured = {"codec.pca.lower_error_above_bits": overtaken, "codec.exact_code.mse": errors[exact]}
for name, step in decoded:
    measured[metric(name, step)] = errors[name, step]
    measured[metric(name, step, "bits_per_image")] = bits[name, step]
measured |= {metric("pca_at_equal_bits", step): values for step, values in matched.items()}
block = bits_per_pixel["all as one block"]
measured |= {
    f"codec.lossless.{name.lower()}.bits_per_pixel": value for name, value in block.items()
}

# %%
claims, asked = [], [step for step in shown if step in compared]
for step in asked:
    pair = metric(model, step), metric("pca_at_equal_bits", step), "lower"
    claims.append((f"At step {step:g} the autoencoder has a lower error than PCA", *pair))
for step in dict.fromkeys([*asked[:1], *asked[-1:]]):
    pair = metric(model, step), metric(as_trained, step), "lower"
    claims.append((f"At step {step:g} training the decoder further lowers the error", *pair))
    pair = metric(as_trained, step), metric("pca_at_equal_bits", step), "lower"
    claims.append((f"At step {step:g} the decoder as trained has a lower error than PCA", *pair))
pair = metric("pca", min(pca_steps)), "codec.exact_code.mse", "lower"
claims.append(("PCA at its finest step has a lower error than the exact code", *pair))

# %%
headline = [metric(model, step) for step in steps]
headline += [metric(model, step, "bits_per_image") for step in steps]
headline += [metric("pca_at_equal_bits", step) for step in asked]
reproduced = run.finish(measured, claims, headline)
reproduced

# %% tags=["nbval-ignore-output"]
pd.options.display.max_colwidth = 100
decided = reproduced.claims[["claim", "gain", "verdict"]]
decided.rename_axis(columns=f"{images.title}, test; gain in MSE [95 % interval]")

# %% [markdown]
# ## Limitations
#
# The coordinates are coded independently of each other and with the same probabilities for every image; a learned prior, as in newer
# codecs, would need fewer bits. PCA has no network that is trained to decode its coefficients, so that the decoder as it was
# trained is the fairer rival. The rate above which PCA has the lower error depends on how well the network is trained: `dense` has not
# converged, and `model: scheduled` is the same network under a cosine schedule. The measure is the squared error, which favours
# blurred images.
#
# **Read next.** `08_learn_from_few_labels` asks whether the codes help when labels are few. `12_compare_models` compares the bits of
# all models at one error.
