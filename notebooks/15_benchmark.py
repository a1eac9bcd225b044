# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Race training and inference
#
# **What you will do.** Let this study's `fit` train three networks, dense, convolutional and variational, in turns with Keras's own
# `fit`, PyTorch and JAX; race the reconstruction of images; compare the training with the speed limit of the machine, and see
# what its cost depends on.
#
# **What you will learn.** How to measure speed on a machine that is never quiet; what a roofline is; how near to it the
# training of a small network comes.
#
# **What you need.** An otherwise idle machine; the rivals, if they are to take part (`make rivals`). It reads nothing from
# other notebooks. **Time.** About 25 minutes on two cores.

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
profile: str = "benchmark"  # the run's folder, reports/<profile>/
dataset: str = "any"  # mnist if it is on this machine, else digits, repeated; the cost is the same
images: int = 50000  # training images
validation: int = 10000  # validation images
batch_size: int = 256  # images per step
latent_dim: int = 32  # latent dimension
repetitions: int = 7  # turns of each backend after its first; 3 for a quick look
conv_images: int = 5000  # training images of the convolutional autoencoder, whose epochs are long
conv_batch_size: int = 64  # images per step
conv_latent_dim: int = 32  # latent dimension
vae_images: int = 10000  # training images of the variational autoencoder
vae_batch_size: int = 128  # images per step
vae_latent_dim: int = 40  # latent dimension
small_validation: int = 1000  # validation images of these two
small_repetitions: int = 5  # turns of these two, and of inference
predict_images: int = 10000  # images that are reconstructed at once
single_images: int = 100  # images that are reconstructed one at a time
counts: list = [10000, 50000, 200000, 1000000]  # training images in the study of cost
batch_sizes: list = [64, 256, 1024]  # batch sizes in it
cost_repetitions: int = 2  # epochs of each in it
seeds: list = [0, 1, 2, 3, 4]  # trainings of each kind in the comparison of results
epochs: int = 6  # of each of them

# %%
from ae_lib import data, figures, metrics, models, training
from ae_lib.run import Run, write_json
from ae_lib.study import backends, benchmark

import keras
import pandas as pd
import tensorflow as tf
from scipy.stats import ttest_ind

run = Run(profile, "15_benchmark")
if dataset == "any":
    dataset = "mnist" if data.local_file("mnist") else "digits"
source = data.load(dataset)
settings = {"dataset": dataset, "task": "dense", "images": images, "validation": validation}
settings |= {"batch_size": batch_size, "latent_dim": latent_dim}
small = {**settings, "validation": small_validation}
source

# %% [markdown]
# ## Race the dense autoencoder
#
# Every backend trains the study's network from the same weights, with the same batch size, the same Adam and the same loss, and reports
# training and validation loss after each epoch, as anyone would want it. Each is a process of its own. They train
# in turns, over and over, so that a slow minute of the machine is slow for all of them. A turn is two epochs, of which only the second
# is timed, for a pause can slow down the epoch after it: the thread that tunes a `tf.data` pipeline may sleep on for up to a minute when its iterator
# is dropped, the longer the older the iterator is, and Keras's `fit` drops one in each epoch. The very first epoch, in which a backend prepares and
# compiles, is kept apart.

# %%
for function in backends.TRAININGS:
    print(f"{function.__name__}: {function.__doc__.splitlines()[0].replace('`', '')}")

# %% tags=["nbval-ignore-output"]
trainings = [function.__name__ for function in backends.TRAININGS]
names = [*trainings, *(function.__name__ for function in backends.YARDSTICKS)]
turns, absent = benchmark.race({name: {**settings, "name": name} for name in names}, repetitions)
for reason in absent.values():
    print(f"left out: {reason}")

# %% [markdown]
# Seconds per epoch: the median, its quartiles and range; the first epoch; all of 50 epochs with the first. The validation
# losses after as many epochs show that they trained the same thing.

# %% tags=["nbval-ignore-output"]
table = benchmark.summarise(turns)
peers = [name for name in trainings if name in table.index]
table.loc[peers].round(4)

# %%
speedup = benchmark.speedups(turns).loc[peers]
rate = backends.GEMM_OPERATIONS / table["median"]["gemm"]
network = models.dense_autoencoder(latent_dim=latent_dim)
limit = backends.operations(network, images, validation) / rate
others = speedup["median"].drop(benchmark.STUDY)
caption = (
    f"Figure 15.1. Seconds per epoch of {images:,} images with a validation pass of {validation:,} (median and quartiles of "
    f"{repetitions} turns). The study's training takes {table['median'][benchmark.STUDY]:.2f} s, the others "
    f"{others.min():.2f} to {others.max():.2f} times as long; its matrix products at the machine's rate would take {limit:.2f} s."
)
shown = table.loc[peers, ["median", "low", "high"]].rename(columns={"median": "value"})
alone = shown.assign(value=limit, low=limit, high=limit)
shown = {"an epoch": shown, "its matrix products at the machine's rate": alone}
run.show("15_race", figures.intervals_by_group(shown, caption, "", "seconds"))

# %% [markdown]
# Time as a multiple of the study's: ratio of the medians, and the least and greatest ratio of a single round.

# %% tags=["nbval-ignore-output"]
speedup.round(3)

# %% [markdown]
# ## Race the convolutional and the variational autoencoder
#
# The same race with the two other networks: the convolutional autoencoder, and the variational one, which samples each pixel in every
# epoch and whose loss is the negative ELBO. XLA's convolutions are slow on a CPU, so the study, too, trains them without it, with the
# kernels that Keras's `fit` has. Each table has the seconds of an epoch, median and quartiles, and the multiples of the study's time.


# %%
def race(entries):
    """Seconds and multiples of the time of the entry "study"; a row without numbers if absent."""
    turns, missing = benchmark.race(entries, small_repetitions)
    for reason in missing.values():
        print(f"left out: {reason}")
    seconds = benchmark.summarise(turns)[["median", "low", "high"]]
    ratios = benchmark.speedups(turns).set_axis(["ratio", "least", "greatest"], axis=1)
    return seconds.join(ratios).reindex(list(entries))


# %% tags=["nbval-ignore-output"]
conv = {**small, "task": "convolutional", "images": conv_images}
conv |= {"batch_size": conv_batch_size, "latent_dim": conv_latent_dim}
without_xla = ["study", "keras_fit", "torch_eager", "torch_compiled"]
conv_table = race({name: {**conv, "name": name} for name in without_xla})
conv_table.round(3)

# %% tags=["nbval-ignore-output"]
vae = {**small, "task": "variational", "images": vae_images}
vae |= {"batch_size": vae_batch_size, "latent_dim": vae_latent_dim}
vae_table = race({name: {**vae, "name": name} for name in trainings})
vae_table.round(3)

# %% [markdown]
# ## Race the inference
#
# How fast are images reconstructed, through the encoder and the decoder of the dense autoencoder? All at once, where arithmetic decides, and one at a
# time, where the calls do. Images come and go as NumPy arrays.
#
# The backends are `models.predict_in_batches`, as the notebooks call it, or, for one image at a time, the layers as plain arrays, as
# the codec of `07_compress_images` has them ("study"); `keras.Model.predict` with batches of 1,000;
# PyTorch, eager, under `no_grad`; JAX, the network as one compiled function; NumPy, the chain of matrix products alone.


# %% tags=["nbval-ignore-output"]
def race_inference(count, at_once):
    """Race the predictors; the study's is the entry of its name."""
    work = {**small, "images": count, "batch_size": at_once}
    entries = {
        name.removesuffix("_predict"): {**work, "name": name} for name in backends.PREDICTORS
    }
    return race(entries)


predict_table = race_inference(predict_images, predict_images)
single_table = race_inference(single_images, 1)
parts = {"at once": (predict_table, predict_images), "one at a time": (single_table, single_images)}
columns = {}
for part, (inference, count) in parts.items():
    columns[f"{part}: images per second"] = (count / inference["median"]).round()
    columns[f"{part}: ratio"] = inference["ratio"].round(3)
    columns[f"{part}: range"] = [
        f"{low:.2f} to {high:.2f}" for low, high in inference[["least", "greatest"]].values
    ]
pd.DataFrame(columns)

# %% [markdown]
# ## The roofline
#
# Matrix products are nearly all of the arithmetic: two operations per weight, place in the image and image forward, two for the
# gradient of the weights, two for the gradient of the layer's inputs, which the first layer does not need. The machine's limit is the
# rate at which NumPy's BLAS multiplies large float32 matrices, measured in turns with the dense backends.
#
# What is left is Adam, whose every step reads and writes all weights and moments, the loss, and, in a convolutional network, its first
# and last layer: with one channel they move many bytes for few products. XLA does not help
# there: its convolutions take some thirty times as long.

# %% tags=["nbval-ignore-output"]
trained = {
    "dense": (network, images, validation, table),
    "convolutional": (
        models.convolutional_autoencoder(latent_dim=conv_latent_dim), conv_images, small_validation, conv_table
    ),
    "variational": (
        models.variational_autoencoder(latent_dim=latent_dim), vae_images, small_validation, vae_table
    ),
}  # fmt: skip
roofline = {}
for task, (built, count, held_out, raced) in trained.items():
    needed, seconds = backends.operations(built, count, held_out), raced["median"][benchmark.STUDY]
    roofline[task] = {
        "operations of an epoch / 10⁹": needed / 1e9,
        "an epoch at the matrix-product rate / s": needed / rate,
        "an epoch as measured / s": seconds,
        "share of the limit reached": needed / rate / seconds,
    }
fraction = roofline["dense"]["share of the limit reached"]
title = f"matrix-product rate {rate / 1e9:.0f} · 10⁹ operations per second"
pd.DataFrame(roofline).round(3).rename_axis(columns=title)

# %% [markdown]
# ## What the cost depends on
#
# The study's training alone, with other numbers of images and batch sizes, again in turns. Validation is left
# as small as it can be, so that the time per image is that of training.


# %%
def costs(parameter, values):
    """Microseconds per training image: median, quartiles; peak memory."""
    entries = {
        value: {**settings, "name": benchmark.STUDY, "validation": 1000, parameter: value}
        for value in values
    }
    table = benchmark.summarise(benchmark.race(entries, cost_repetitions)[0])
    trained = [entry["images"] for entry in entries.values()]
    per_image = table[["median", "low", "high"]].div(trained, axis=0) * 1e6
    return per_image.rename(columns={"median": "value"}).assign(peak_rss_mb=table["peak_rss_mb"])


by_count = costs("images", counts)
flat = [count for count in counts if 50_000 <= count <= 1_000_000]
variation = by_count["value"][flat].max() / by_count["value"][flat].min() - 1
caption = (
    f"Figure 15.2. Time per image by the number of training images, median and quartiles of {cost_repetitions} epochs. "
    f"From {flat[0]:,} to {flat[-1]:,} images it varies by {100 * variation:.0f} %."
)
labelled = by_count.set_axis([f"{count:,}" for count in counts])
run.show(
    "15_cost_by_images",
    figures.intervals_by_group({"training": labelled}, caption, "images", "µs per image"),
)

# %%
by_batch = costs("batch_size", batch_sizes)
caption = (
    f"Figure 15.3. Time per image by batch size: {by_batch['value'].iloc[0] / by_batch['value'].iloc[-1]:.1f} times as long "
    f"with batches of {batch_sizes[0]} as with {batch_sizes[-1]}. Adam's update costs the same for any batch."
)
run.show(
    "15_cost_by_batch_size",
    figures.intervals_by_group({"training": by_batch}, caption, "images per batch", "µs per image"),
)

# %% [markdown]
# ## Memory
#
# The peak resident memory of the training processes, and how far it is above a process that has imported TensorFlow and
# done nothing. Images are bytes in memory, one copy from the file and one for training.

# %% tags=["nbval-ignore-output"]
idle = table["peak_rss_mb"]["idle"]
memory = pd.concat(
    [
        table.loc[peers, "peak_rss_mb"],
        labelled["peak_rss_mb"].rename(lambda n: f"study, {n} images"),
    ]
)
pd.DataFrame({"peak / MB": memory, "above idle / MB": memory - idle}).round()

# %% [markdown]
# ## The same results?
#
# A faster training that trains worse would be none. Complete trainings by this study's `fit` and by Keras's, from the same
# initial weights: the test BCE of each seed, and the difference of the means with its 95 % interval (Welch).
#
# Keras gets its minibatches from `tf.data`, in a new order in each epoch. Given an array and a seed
# (`keras.utils.set_random_seed`), its `fit` restarts its shuffling in each epoch, that is, in the same order: every epoch
# has the same minibatches, and the results are slightly worse.

# %% tags=["nbval-ignore-output"]
x_train, x_test = source.x_train, source.x_test


def test_bce(seed, train):
    keras.utils.set_random_seed(seed)
    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    train(network, seed)
    return metrics.bce(x_test, network(x_test).numpy()).mean()


def by_study(network, seed):
    training.fit(
        network,
        source.pixels_train,
        source.pixels_val,
        training.Settings(epochs, batch_size, seed=seed),
    )


def by_keras(network, seed):
    batches = (
        tf.data.Dataset.from_tensor_slices(x_train).shuffle(len(x_train), seed).batch(batch_size)
    )
    network.compile("adam", "binary_crossentropy", steps_per_execution=49)
    network.fit(batches.map(lambda x: (x, x)), epochs=epochs, shuffle=False, verbose=0)


results = pd.DataFrame(
    {
        "study": [test_bce(s, by_study) for s in seeds],
        "keras_fit": [test_bce(s, by_keras) for s in seeds],
    },
    index=seeds,
)
difference = ttest_ind(
    results["study"], results["keras_fit"], equal_var=False
).confidence_interval()
same = difference.low <= 0 <= difference.high
print(
    f"means {results['study'].mean():.5f} and {results['keras_fit'].mean():.5f}, standard deviations over seeds "
    f"{results['study'].std():.5f} and {results['keras_fit'].std():.5f}"
)
print(f"difference of the means between {difference.low:+.5f} and {difference.high:+.5f}")
results.rename_axis("seed").round(5)

# %% [markdown]
# ## Verdicts


# %%
def verdict(holds):
    return "yes" if holds else "no"


def ahead(claim, bound, ratios):
    """The verdict on a claim about all rivals that took part, and one on each that did not."""
    rivals = ratios.drop(benchmark.STUDY)
    missing = rivals[rivals.isna()].index
    nearest = f"{rivals.min():.2f} times as fast as {rivals.idxmin()}"
    rows = [[f"{claim} that took part", nearest, bound, verdict(rivals.min() >= bound)]]
    return rows + [[f"{claim}: {name}", "not measured", bound, "not measured"] for name in missing]


total = table.loc[peers, "total"] / table["total"][benchmark.STUDY]
fastest = total.drop(benchmark.STUDY).min()
above_idle = table["peak_rss_mb"][benchmark.STUDY] - idle
more = by_count["peak_rss_mb"].iloc[-1] - table["peak_rss_mb"][benchmark.STUDY]
means = results.mean()
claims = [
    *ahead(
        "Dense: at least 1.2 times as fast as every rival",
        1.2,
        speedup["median"].reindex(trainings),
    ),
    *ahead("Convolutional: at least as fast as every rival", 1, conv_table["ratio"]),
    *ahead("Variational: at least as fast as every rival", 1, vae_table["ratio"]),
    *ahead("Inference at once: at least as fast as every rival", 1, predict_table["ratio"]),
    [
        "Inference one at a time: at most twice NumPy's time",
        f"{1 / single_table['ratio']['numpy']:.2f} times",
        "2 times",
        verdict(single_table["ratio"]["numpy"] >= 0.5),
    ],
    [
        "Ahead of all that took part over 50 epochs, compiling included",
        f"{fastest:.2f} times as fast as the next",
        1,
        verdict(fastest > 1),
    ],
    [
        "At least 0.75 of the machine's matrix-product rate",
        "benchmark.gemm_fraction",
        0.75,
        verdict(fraction >= 0.75),
    ],
    [
        "At most 1,200 MB above an idle process",
        f"{above_idle:,.0f} MB",
        "1,200 MB",
        verdict(above_idle <= 1200),
    ],
    [
        f"{counts[-1]:,} images in at most 3,000 MB more",
        f"{more:,.0f} MB",
        "3,000 MB",
        verdict(more <= 3000),
    ],
    [
        f"Time per image flat within 15 % from {flat[0]:,} to {flat[-1]:,} images",
        f"{100 * variation:.0f} %",
        "15 %",
        verdict(variation <= 0.15),
    ],
    [
        "Another mean test BCE than Keras's fit",
        f"{means['study']:.5f}",
        f"{means['keras_fit']:.5f}",
        "no difference detected" if same else "yes",
    ],
]
for claim, *_, answer in claims:
    print(f"{claim}: {answer}")

# %%
facts = {"name": source.name, "title": source.title, "source": source.source, "md5": source.md5}
counted = {
    "training": len(source.y_train),
    "validation": len(source.y_val),
    "test": len(source.y_test),
}
write_json(run.new_artifact("data.json"), facts | counted)
turns.to_csv(run.new_artifact("turns.csv"), index=False)
by_count.to_csv(run.new_artifact("cost_by_images.csv"))


# %%
def named(prefix, values):
    return {f"benchmark.{prefix.format(key)}": value for key, value in values.items()}


measured = {
    **named("speedup.{}", others),
    **named("speedup_50_epochs.{}", total.drop(benchmark.STUDY)),
    **named("speedup_conv.{}", conv_table["ratio"].dropna()),
    **named("speedup_vae.{}", vae_table["ratio"].dropna()),
    **named("speedup_inference.{}", predict_table["ratio"].dropna()),
    **named("speedup_inference_single.{}", single_table["ratio"].dropna()),
    **named("seconds_per_epoch.{}", table.loc[peers, "median"]),
    **named("microseconds_per_image.{}", by_count["value"]),
    **named("peak_rss_mb.{}_images", by_count["peak_rss_mb"]),
    **named("test_bce.{}", means),
    "benchmark.gemm_fraction": fraction,
    **{
        f"benchmark.gemm_fraction_{task}": shares["share of the limit reached"]
        for task, shares in roofline.items()
        if task != "dense"
    },
    "benchmark.gemm_rate_gflops": rate / 1e9,
    "benchmark.peak_rss_mb": table["peak_rss_mb"][benchmark.STUDY],
    "benchmark.idle_rss_mb": idle,
}
headline = [*named("speedup.{}", others), "benchmark.gemm_fraction"]
run.finish(measured, claims, headline)

# %% [markdown]
# **Read next.** `02_train`, which trains this way. The roofline: Williams, Waterman and Patterson, "Roofline: an insightful
# visual performance model for multicore architectures", CACM 52, 2009. How to measure on a shared machine: Hoefler and
# Belli, "Scientific benchmarking of parallel computing systems", SC 2015.
