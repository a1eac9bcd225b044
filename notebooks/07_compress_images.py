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
# **Question.** How does the reconstruction error depend on the number of bits per image?
#
# **What you will do.** Turn the codes of the test images into bytes and back: quantise them, entropy-code the symbols, and add a
# header. Fine-tune the decoder on quantised codes. Compare the error with that of PCA (under the same entropy coder), JPEG and WebP
# at equal numbers of bits, and the number of bits with that of lossless formats.
#
# **What you will learn.** How transform coding works, how many bits a code of real numbers is worth, up to which rate an
# autoencoder compresses better than PCA, and which part of the gain comes from the decoder.
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
steps: list = [5, 3.5, 2.4, 1.6, 1, 0.6, 0.3, 0.06]  # quantisation steps of the autoencoder; larger steps need fewer bits
pca_steps: list = [3.2, 2.35, 1.85, 1.45, 1.15, 0.95, 0.78, 0.6, 0.45]  # quantisation steps of PCA; their rates cover most of the autoencoder's
components: int = 384  # of PCA; on validation, all 784 lower the error by less than 1 % up to 270 bits per image
rounding: float = 0.4  # 0.5 is ordinary rounding; on validation, 0.4 lowers both errors by about 1 % at equal rates
gains: list = [1, 1.1, 1.3, 1.5]  # candidates for the contrast of PCA's reconstructions; selected on the validation images

# the fine-tuning of the decoder on quantised codes
epochs: int = 15  # passes over the training images; more lower the validation loss little
batch_size: int = 256  # as for the model
learning_rate: float = 1.0e-3  # as for the model; falls to 0 along a cosine
finest: float = 0.05  # the smallest step in training; below the smallest of steps
coarsest: float = 6.0  # the largest step in training; above the largest of steps

# what it is compared with
jpeg_qualities: list = [1, 5, 10, 20, 40, 75]  # ascending; 1 is the lowest there is
webp_qualities: list = [0, 5, 20, 60]  # ascending; 0 is the lowest there is
sharing: int = 1000000  # number of images that share one codec file
singles: int = 100  # test images that are also encoded one at a time
shown: list = [5, 1.6, 0.3]  # steps whose images are shown and for which claims are tested
# fmt: on

# %% [markdown]
# ## Load the images and the model

# %%
import lzma

from ae_lib import StudyError, data, figures, metrics, models, training
from ae_lib.analysis import codec, codec_comparison
from ae_lib.analysis.codec_stream import HEADER
from ae_lib.run import Run

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

if unknown := set(shown) - set(steps):
    raise StudyError(f"shown has {min(unknown)}; expected some of steps, {steps}: change it.")
run = Run(profile, "07_compress_images")
autoencoder, encoder, decoder = models.load(run.model(model))
print(f"latent dimension of {model}: {encoder.output_shape[1]}")

# %%
images = data.load(dataset, image_size=image_size)
x = images.x_test
images

# %% [markdown]
# ## Make the codec
#
# How should a code of real numbers be rounded? Its units are correlated, and rounding errors of equal size matter more in some
# units than in others, so that a single step for all units would waste bits. Transform coding (Goyal, "Theoretical foundations of
# transform coding", IEEE Signal Processing Magazine 18(5), 2001) first maps the code to coordinates for which a single step is
# right. They are uncorrelated, and an error in any of them changes the image by the same amount, as measured by the decoder's
# Jacobian on training images. Each coordinate is then rounded to bins, and an entropy coder writes the bins. It takes the
# probability of a bin from the training images: how often their coordinates fall into it. These counts are part of the codec. The
# codec made here uses the **original decoder**, that of the trained model.

# %%
as_trained = f"{model}_as_trained"
codecs = {as_trained: codec.from_autoencoder(encoder, decoder, images.pixels_train, rounding)}
codecs[as_trained]

# %% [markdown]
# The codec has as many coordinates as the code has dimensions. The next one does the same with PCA, whose components are
# uncorrelated and of unit length already. It may use many more components than the code has dimensions; at a coarse step most of
# them are rounded to 0 and take few bits. PCA's reconstructions are clipped to [0, 1]. The number of components, and the wider
# bin around 0 (`rounding` below 0.5) for both codecs, were chosen on MNIST's validation images.

# %%
n_components = min(components, *images.pixels_train.shape)
pca = PCA(n_components, svd_solver="covariance_eigh").fit(images.x_train)
candidates = {gain: codec.from_pca(pca, images.pixels_train, rounding, gain) for gain in gains}
middle_step = pca_steps[len(pca_steps) // 2]
print(f"PCA with {n_components} components")

# %% [markdown]
# PCA's reconstructions are clipped to [0, 1], which removes what lies beyond that range. Multiplying their deviation from
# the mean image by a factor above 1, a higher contrast, can therefore lower the error. The factor is selected on the validation
# images, at one step in the middle of PCA's range.

# %%
validation_errors = {}
for gain, candidate in candidates.items():
    stream = codec.compress(images.pixels_val, candidate, middle_step)
    validation_errors[gain] = metrics.mse(images.x_val, codec.decompress(stream, candidate)).mean()
codecs["pca"] = candidates[min(validation_errors, key=validation_errors.get)]
print(f"selected contrast factor: {min(validation_errors, key=validation_errors.get):g}")

# %% [markdown]
# ## Fine-tune the decoder on quantised codes
#
# The original decoder was trained on exact codes only. What should it reconstruct from a bin? The squared error is smallest for
# the mean of all images whose codes fall into the bin, and the larger the step, the more blurred is that mean. A copy of the
# decoder is therefore fine-tuned on codes that are rounded with random steps, and receives the step as one more input (as in
# Choi, El-Khamy and Lee, "Variable rate deep image compression with a conditional autoencoder", ICCV 2019). The encoder, and with
# it every code and every bit, stays the same. From here on there are two series with the same bits: the original decoder and the
# **fine-tuned decoder**.

# %% tags=["nbval-ignore-output"]
settings = training.Settings(epochs, batch_size, training.Cosine(learning_rate), seed)
codecs[model], _ = codec.tuned(
    codecs[as_trained], images.pixels_train, images.pixels_val, settings, (finest, coarsest)
)

# %% [markdown]
# A receiver needs one file, `codec.npz`, to decode all streams. From here on the codec with the fine-tuned decoder is the one
# that was read back from that file.

# %%
codecs[model].save(run.new_artifact("codec.npz"))
codecs[model] = codec.load(run.new_artifact("codec.npz"))
codecs[model]

# %% [markdown]
# ## Compress the test images
#
# How many bits does each step need, and which error remains? One stream per codec and step holds all test images. *Bits per
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
# belongs to two images and there is one header in all. The *exact code* is the code as float32 numbers, without quantisation or
# entropy coding. It is often quoted as the compressed size.

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
# And how many bits do lossless formats need? They can encode all images as one block, and then use what the images have in
# common. Or they encode each image separately, which allows single images to be read.

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
# As one block, a general-purpose compressor such as LZMA can need fewer bits than an image format, since it finds strokes that
# recur in other images. One at a time, each file has its own header and cannot use other images; a stream of the codec for a
# single image would also have the whole header printed above.
#
# ## Compare at equal rates
#
# At which rates does the autoencoder have a lower error than PCA? PCA's error is interpolated, image by image, at each rate of the
# autoencoder, linearly in the logarithms of rate and error. Between two measured rates this gives a lower error than linear
# interpolation does. Below PCA's lowest rate, PCA is represented by its lowest rate, which has more bits and favours PCA.
#
# PCA has no network that is trained to decode its coefficients. The fair comparison is therefore that between PCA and the original
# decoder; the fine-tuned decoder shows what training on quantised codes adds.

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


names = {"fine-tuned decoder": model, "PCA": "pca", "original decoder": as_trained}
names |= {"JPEG": "JPEG", "WebP": "WEBP", "exact code, float32": "exact code"}
curves = {label: curve(name) for label, name in names.items()}

# %%
findings, overtaken = [], {}
for label in ("fine-tuned decoder", "original decoder"):
    overtaken[label] = codec_comparison.crossing(curves[label]["value"], curves["PCA"]["value"])
    where = f"above {overtaken[label]:.0f} bits per image"
    if np.isnan(overtaken[label]):
        where = "at no rate measured for both"
    findings.append(f"the {label} {where}")
jpeg, webp = (curves[kind]["value"] for kind in ("JPEG", "WebP"))
caption = (
    f"Figure 7.1. {images.title}: PCA overtakes {', '.join(findings)}. At its lowest quality JPEG needs {jpeg.index[0]:.0f} bits "
    f"(MSE {jpeg.iloc[0]:.4f}), WebP {webp.index[0]:.0f} bits (MSE {webp.iloc[0]:.4f}). Headers are counted."
)
figure = figures.lines(curves, caption, "bits per image", "MSE per pixel", log=True)
run.show("07_rate_distortion", figure)

# %% [markdown]
# Both axes are logarithmic, so that a constant distance is a constant ratio. With enough bits PCA must win: it can add components
# until nothing is missing, while the autoencoder keeps the error of its bottleneck however exact its code is. The next figure
# shows the difference from PCA at each of the autoencoder's rates, for both decoders.


# %%
def error_against_pca(name):
    differences = []
    for step in compared:
        percent = matched[step].mean() / 100
        difference = metrics.difference(errors[name, step] / percent, matched[step] / percent)
        differences.append(difference)
    return pd.DataFrame(differences, index=[round(bits[model, step]) for step in compared])


# %%
tables = {"fine-tuned decoder": error_against_pca(model)}
tables["original decoder"] = error_against_pca(as_trained)
findings = []
for label, table in tables.items():
    percent = table["value"]
    ends = f"{percent.iloc[0]:+.0f} % at {percent.index[0]} and {percent.iloc[-1]:+.0f} % at {percent.index[-1]} bits"
    findings.append(f"{label} {ends}, lowest {percent.min():+.0f} % at {percent.idxmin()} bits")
caption = (
    f"Figure 7.2. {images.title}, MSE relative to PCA's at equal bits: {'; '.join(findings)}. "
    "Intervals: 95 %, over test images."
)
xlabel, ylabel = "bits per image (not to scale)", "difference from PCA's MSE / %"
run.show("07_error_against_pca", figures.intervals_by_group(tables, caption, xlabel, ylabel))

# %% [markdown]
# Below 0 the autoencoder has the lower error. Both series have the same encoder, so that the distance between them is the effect
# of fine-tuning the decoder. It lowers the error most at coarse steps. At fine steps the input is nearly the exact code, on which
# the original decoder was trained, and one fine-tuned decoder serves all steps: on MNIST fine-tuning raises the MSE by about 2 %
# at step 0.3 and by about 7 % at step 0.06. A codec would use the original decoder there.
#
# On MNIST PCA's curve crosses that of the fine-tuned decoder at high rates. The error of the original decoder is
# above PCA's at the two lowest rates, and below PCA's at all others, up to the highest measured, 209 bits. PCA's error still falls
# beyond that rate, below that of the exact code.
#
# What do such errors look like? The same test images, at some of the rates, and from PCA at the measured rate that is nearest.

# %%
rows = {"test image": x[examples]}
for step in shown:
    nearest = min(pca_steps, key=lambda other: abs(bits["pca", other] - bits[model, step]))
    rows[f"fine-tuned, {bits[model, step]:.0f} bits"] = decoded[model, step]
    rows[f"PCA, {bits['pca', nearest]:.0f} bits"] = decoded["pca", nearest]
pairs = [f"{errors[model, step].mean():.4f} at {bits[model, step]:.0f} bits" for step in shown]
caption = (
    f"Figure 7.3. {images.title}: random test images after compression. MSE of the fine-tuned "
    f"decoder over all test images: {', '.join(pairs)}."
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
with_counts = "weights and counts after LZMA (bytes)"
receiver = pd.DataFrame(receiver, index=["decoder weights (bytes)", with_counts]).T
receiver["extra bits per image"] = (8 * receiver[with_counts] / sharing).round(1)
receiver.rename_axis(columns=f"shared by {sharing:,} images")

# %% [markdown]
# The counts are those of the bins, from which the entropy coder takes its probabilities. On MNIST, with a million images, the
# file adds 7.2 bits per image for the codec with the fine-tuned decoder and 9.1 for PCA. With few images it outweighs the
# streams.
#
# ## Results
#
# The fine-tuned and the original decoder at each step, beside PCA at the same rate.

# %% tags=["nbval-ignore-output"]
results = pd.DataFrame(index=pd.Index(steps, name="step"))
results["bits per image"] = [round(bits[model, step], 1) for step in steps]
results["compression ratio"] = (8 * images.pixels / results["bits per image"]).round(0)
for label, name in {"MSE, fine-tuned decoder": model, "MSE, original decoder": as_trained}.items():
    results[label] = [metrics.interval(errors[name, step]) for step in steps]
results["MSE, PCA at equal bits"] = pd.Series(
    {step: metrics.interval(values) for step, values in matched.items()}
)
results.rename_axis(columns=f"{images.title}, test, mean [95 % interval]").fillna("–")

# %% [markdown]
# ## Decide
#
# The claims are tested together (Holm), paired by image: both decoders against PCA at the steps that are shown, fine-tuning at the
# coarsest and the finest of them, and PCA at its finest step against the exact code.


# %%
def metric(name, step, quantity="mse"):
    return f"codec.{name}.{metrics.numbered_name('step', step)}.{quantity}"


measured = {
    "codec.pca.lower_error_above_bits": overtaken["fine-tuned decoder"],
    "codec.exact_code.mse": errors[exact],
}
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
    for name, label in ((as_trained, "original"), (model, "fine-tuned")):
        pair = metric(name, step), metric("pca_at_equal_bits", step), "lower"
        claims.append((f"At step {step:g} the {label} decoder has a lower error than PCA", *pair))
for step in dict.fromkeys([*asked[:1], *asked[-1:]]):
    pair = metric(model, step), metric(as_trained, step), "lower"
    claims.append((f"At step {step:g} fine-tuning the decoder lowers the error", *pair))
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
# A positive gain supports the claim. The verdict "no" means that the difference is significant in the other direction.
#
# ## Limitations
#
# The coordinates are coded independently of each other and with the same probabilities for every image; a learned prior, as in
# newer codecs, would need fewer bits. PCA's contrast was selected at one step, among few candidates. The rate above which PCA has
# the lower error depends on the decoder and on how well the network is trained: `dense` has not converged, and `model: scheduled`
# is the same network under a cosine schedule. The measure is the squared error, which favours blurred images.
#
# **Read next.** `08_learn_from_few_labels` asks whether the codes help when labels are few. `12_compare_models` compares the bits
# of all models at one error.
