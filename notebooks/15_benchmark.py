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
# **Question.** How fast does this study train and reconstruct, beside Keras, PyTorch, JAX and the limit of the machine?
#
# **What you will do.** Train three networks (dense, convolutional, variational) with this study's `fit`, with Keras's own
# `fit`, with PyTorch and with JAX, in turns; race the reconstruction of images; compare the training with the machine's rate of
# matrix products; and measure what the cost of training depends on.
#
# **What you will learn.** How to measure speed when other processes also load the machine, and which fraction of its
# peak rate of matrix multiplication the training of a small network reaches.
#
# **What you need.** A machine with as little other work as possible. PyTorch and JAX take part if they are installed (`make rivals`). No other notebook is
# needed. **Time.** About 25 minutes on two cores.

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
margin: float = 0.001  # nats per pixel; mean test BCEs closer than this are equivalent

# %% [markdown]
# ## Load the images

# %%
from ae_lib import data, figures, metrics, models, training
from ae_lib.run import Run, write_json
from ae_lib.study import backends, benchmark

import keras
import pandas as pd
import tensorflow as tf

run = Run(profile, "15_benchmark")
if dataset == "any":
    dataset = "mnist" if data.local_file("mnist") else "digits"
source = data.load(dataset)
source

# %% [markdown]
# ## Race the dense autoencoder
#
# Every backend trains the network of `02_train` from the same weights, with the same batch size, the same Adam and the same loss, and
# computes the validation loss after each epoch. Each backend runs in a separate process. The backends train in turns, so that a
# slow minute of the machine is slow for all of them.
#
# A turn has two epochs, and only the second is timed, because Keras's `tf.data` autotuner can delay the first epoch after a pause.
# Before its turns, each backend runs one epoch in which it prepares and compiles; the time of this first epoch is reported
# separately.

# %%
for function in backends.TRAININGS:
    print(f"{function.__name__}: {function.__doc__.splitlines()[0].replace('`', '')}")

# %% tags=["nbval-ignore-output"]
settings = {"dataset": dataset, "task": "dense", "images": images, "validation": validation}
settings |= {"batch_size": batch_size, "latent_dim": latent_dim}
trainings = [function.__name__ for function in backends.TRAININGS]
yardsticks = [function.__name__ for function in backends.YARDSTICKS]
entries = {name: {**settings, "name": name} for name in [*trainings, *yardsticks]}
turns, absent = benchmark.race(entries, repetitions)
print("left out:", *(absent.values() or ["nothing"]))

# %% [markdown]
# The table has the seconds of an epoch (median, and the quartiles as low and high), of the first epoch, and of 50 epochs with the first. The validation
# losses after the same number of epochs show that the backends train the same thing.

# %% tags=["nbval-ignore-output"]
table = benchmark.summarise(turns)
peers = [name for name in trainings if name in table.index]
table.loc[peers, ["median", "low", "high", "first", "total", "val_loss"]].round(4)

# %% [markdown]
# The ratio of each backend's median to the study's, and the least and the greatest ratio of a single round:

# %% tags=["nbval-ignore-output"]
speedup = benchmark.speedups(turns).loc[peers]
speedup.round(3)

# %%
rate = backends.GEMM_OPERATIONS / table["median"]["gemm"]
dense = models.dense_autoencoder(latent_dim=latent_dim)
limit = backends.operations(dense, images, validation) / rate
epoch = table.loc[peers, ["median", "low", "high"]].rename(columns={"median": "value"})
bound = epoch.assign(value=limit, low=limit, high=limit)
others = speedup["median"].drop(benchmark.STUDY)
caption = (
    f"Figure 15.1. The other backends take {others.min():.2f} to {others.max():.2f} times as long as the study's training, which takes "
    f"{table['median'][benchmark.STUDY]:.2f} s for an epoch of {images:,} images and {validation:,} for validation. Median and quartiles of "
    f"{repetitions} turns; the matrix products alone would take {limit:.2f} s at the machine's rate."
)
series = {"an epoch": epoch, "its matrix products at the machine's rate": bound}
run.show("15_race", figures.intervals_by_group(series, caption, "", "seconds"))

# %% [markdown]
# ## Race the convolutional and the variational autoencoder
#
# The same race with the two other networks. The variational autoencoder samples each pixel in every epoch, and its loss is
# the negative ELBO. XLA's convolutions are slow on a CPU, so the study trains the convolutional network without XLA, with the kernels that Keras's `fit` has as well. Each
# table has the seconds of an epoch, median and quartiles, and their ratio to the study's.

# %% tags=["nbval-ignore-output"]
small = {**settings, "validation": small_validation}
conv = {**small, "task": "convolutional", "images": conv_images}
conv |= {"batch_size": conv_batch_size, "latent_dim": conv_latent_dim}
without_xla = ["study", "keras_fit", "torch_eager", "torch_compiled"]
conv_entries = {name: {**conv, "name": name} for name in without_xla}
conv_turns, _ = benchmark.race(conv_entries, small_repetitions)
conv_table = benchmark.compared(conv_turns, conv_entries)
conv_table.round(3)

# %% tags=["nbval-ignore-output"]
vae = {**small, "task": "variational", "images": vae_images}
vae |= {"batch_size": vae_batch_size, "latent_dim": vae_latent_dim}
vae_entries = {name: {**vae, "name": name} for name in trainings}
vae_turns, _ = benchmark.race(vae_entries, small_repetitions)
vae_table = benchmark.compared(vae_turns, vae_entries)
vae_table.round(3)

# %% [markdown]
# ## Race the inference
#
# Images are reconstructed by the encoder and the decoder of the dense autoencoder, all at once, where arithmetic decides, and one at a
# time, where the overhead of a call decides. They come and go as NumPy arrays. The backends are:
#
# - "study": `models.predict_in_batches`, as the notebooks call it, or, for one image at a time, the layers as plain arrays,
#   as the codec of `07_compress_images` has them;
# - "keras": `keras.Model.predict` with batches of 1,000; "torch": eager, under `no_grad`; "jax": the network as one compiled
#   function; "numpy": the matrix products alone.


# %% tags=["nbval-ignore-output"]
def race_inference(count, at_once):
    work = {**small, "images": count, "batch_size": at_once}
    entries = {
        name.removesuffix("_predict"): {**work, "name": name} for name in backends.PREDICTORS
    }
    turns, _ = benchmark.race(entries, small_repetitions)
    return benchmark.compared(turns, entries)


predict_table = race_inference(predict_images, predict_images)
single_table = race_inference(single_images, 1)
columns = ["median", "ratio", "least", "greatest"]
parts = {"at once": predict_table[columns], "one at a time": single_table[columns]}
pd.concat(parts).round(4)

# %% [markdown]
# ## Compare with the roofline
#
# Matrix products are nearly all of the arithmetic. In the forward pass each weight costs two operations per image and, in a
# convolution, per output position. The backward pass costs two for the gradient of the weights and two for the gradient of the layer's
# inputs, which the first layer does not need. The limit is the rate at which NumPy's BLAS multiplies large float32 matrices, measured
# in turns with the dense backends. A complete roofline would also have the limit set by memory bandwidth, which is not measured here.
#
# The remaining time goes to Adam, whose every step reads and writes all weights and moments, to the loss, and, in a convolutional network, to its
# first and last layer, which move many bytes for few products because they have one channel.

# %% tags=["nbval-ignore-output"]
conv_network = models.convolutional_autoencoder(latent_dim=conv_latent_dim)
vae_network = models.variational_autoencoder(latent_dim=vae_latent_dim)
operations = {
    "dense": backends.operations(dense, images, validation),
    "convolutional": backends.operations(conv_network, conv_images, small_validation),
    "variational": backends.operations(vae_network, vae_images, small_validation),
}
raced = {"dense": table, "convolutional": conv_table, "variational": vae_table}
seconds = {task: summary["median"][benchmark.STUDY] for task, summary in raced.items()}
roofline = benchmark.roofline(operations, rate, seconds)
roofline.round(3).rename_axis(columns=f"rate {rate / 1e9:.0f} · 10⁹ operations per second")

# %% [markdown]
# ## Measure what the cost depends on
#
# The study's training alone, with other numbers of training images and other batch sizes, again in turns. Validation is kept
# small, so that the time per image is that of training.


# %%
def cost_of(parameter, candidates):
    lone = {**settings, "name": benchmark.STUDY, "validation": 1000}
    entries = {value: {**lone, parameter: value} for value in candidates}
    turns, _ = benchmark.race(entries, cost_repetitions)
    trained = [entry["images"] for entry in entries.values()]
    return benchmark.microseconds_per_image(turns, trained)


# %%
by_count = cost_of("images", counts)
large = by_count.loc[[count for count in counts if count >= 50_000], "value"]
variation = large.max() / large.min() - 1
labelled = by_count.set_axis([f"{count:,}" for count in counts])
caption = (
    f"Figure 15.2. The time per image varies by {100 * variation:.0f} % from {large.index[0]:,} to {large.index[-1]:,} training "
    f"images. Median and quartiles of {cost_repetitions} epochs."
)
costs = figures.intervals_by_group({"training": labelled}, caption, "images", "µs per image")
run.show("15_cost_by_images", costs)

# %%
by_batch = cost_of("batch_size", batch_sizes)
ratio = by_batch["value"].iloc[0] / by_batch["value"].iloc[-1]
caption = (
    f"Figure 15.3. An image takes {ratio:.1f} times as long in batches of {batch_sizes[0]} as in batches of {batch_sizes[-1]}. Median and "
    f"quartiles of {cost_repetitions} epochs."
)
costs = figures.intervals_by_group(
    {"training": by_batch}, caption, "images per batch", "µs per image"
)
run.show("15_cost_by_batch_size", costs)

# %% [markdown]
# Adam's update costs the same for a batch of any size, so that small batches make an image expensive.

# %% [markdown]
# ## Measure the memory
#
# The peak resident memory of the training processes, and how far it is above that of a process that has imported TensorFlow and
# does nothing. Images stay bytes in memory, one copy from the file and one for training.

# %% tags=["nbval-ignore-output"]
idle = table["peak_rss_mb"]["idle"]
largest = labelled["peak_rss_mb"].tail(2).rename(lambda count: f"study, {count} images")
memory = pd.concat([table.loc[peers, "peak_rss_mb"], largest])
pd.DataFrame({"peak / MB": memory, "above idle / MB": memory - idle}).round()

# %% [markdown]
# ## Check the results
#
# A faster training is of no use if it trains worse. The next cells train completely with this study's `fit` and with Keras's,
# from the same initial weights for each seed, and measure the test BCE. The two are **equivalent** if the 95 % interval of the
# difference, paired by seed, lies within ± the margin (two one-sided tests).
#
# Keras gets its minibatches from `tf.data`, in a new order in each epoch. With an array and a seed
# (`keras.utils.set_random_seed`) its `fit` would shuffle in the same order in each epoch, so that every epoch
# would have the same minibatches, and the results would be slightly worse.


# %%
def fit_by_study(network, seed):
    options = training.Settings(epochs, batch_size, seed=seed)
    training.fit(network, source.pixels_train, source.pixels_val, options)


def fit_by_keras(network, seed):
    x = tf.data.Dataset.from_tensor_slices(source.x_train)
    batches = x.shuffle(len(source.x_train), seed).batch(batch_size)
    network.compile("adam", "binary_crossentropy", steps_per_execution=49)
    network.fit(batches.map(lambda x: (x, x)), epochs=epochs, shuffle=False, verbose=0)


# %%
def test_bce(seed, fit):
    keras.utils.set_random_seed(seed)
    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    fit(network, seed)
    return metrics.bce(source.x_test, network(source.x_test).numpy()).mean()


# %% tags=["nbval-ignore-output"]
results = pd.DataFrame(index=pd.Index(seeds, name="seed"))
results["study"] = [test_bce(seed, fit_by_study) for seed in seeds]
results["keras_fit"] = [test_bce(seed, fit_by_keras) for seed in seeds]
print(results.agg(["mean", "std"]).round(5))
gain = metrics.difference(results["keras_fit"].to_numpy(), results["study"].to_numpy())
print(f"keras_fit − study: {gain}; equivalent: {metrics.equivalent(gain, margin)}")

# %% [markdown]
# ## Decide
#
# A time is measured once in each round, and all backends are measured in the same round: the differences are paired by round, those of
# the test BCE by seed. All claims are decided together (Holm, 5 %).

# %%
measured = benchmark.seconds_by_round("dense", turns)
measured |= benchmark.seconds_by_round("conv", conv_turns)
measured |= benchmark.seconds_by_round("vae", vae_turns)
measured |= {f"{name}.test.bce": results[name].to_numpy() for name in results}
claims = [benchmark.claim_against(name, "dense") for name in peers[1:]]
claims += [benchmark.claim_against("keras_fit", task) for task in ("conv", "vae")]
claims.append(
    ("The study reaches a lower test BCE", "study.test.bce", "keras_fit.test.bce", "lower")
)


# %%
def named(prefix, numbers):
    return {f"benchmark.{prefix}.{key}": number for key, number in numbers.dropna().items()}


total = table.loc[peers, "total"] / table["total"][benchmark.STUDY]
measured |= named("speedup", others) | named("speedup_50_epochs", total.drop(benchmark.STUDY))
measured |= named("speedup_conv", conv_table["ratio"]) | named("speedup_vae", vae_table["ratio"])
measured |= named("speedup_inference", predict_table["ratio"])
measured |= named("speedup_inference_single", single_table["ratio"])
measured |= named("gemm_fraction", roofline["share of the rate"])
measured |= named("microseconds_per_image", by_count["value"])
measured |= {"benchmark.gemm_rate_gflops": rate / 1e9, "benchmark.idle_rss_mb": idle}

# %%
facts = {"name": source.name, "title": source.title, "source": source.source, "md5": source.md5}
facts["training"], facts["validation"] = len(source.y_train), len(source.y_val)
write_json(run.new_artifact("data.json"), facts | {"test": len(source.y_test)})
turns.to_csv(run.new_artifact("turns.csv"), index=False)
by_count.to_csv(run.new_artifact("cost_by_images.csv"))
reproduced = run.finish(measured, claims, list(named("speedup", others)))

# %% tags=["nbval-ignore-output"]
reproduced.claims[["claim", "gain", "verdict"]]

# %% [markdown]
# ## Results
#
# Each ratio is the time of a backend over the study's: above 1 the study is faster.

# %% tags=["nbval-ignore-output"]
ratios = {"dense": speedup["median"], "50 epochs": total, "convolutional": conv_table["ratio"]}
pd.DataFrame({**ratios, "variational": vae_table["ratio"]}).loc[peers].round(2)

# %%
reproduced

# %% [markdown]
# ## Limitations
#
# The ratios hold for a small network on a CPU with few cores; on a graphics card, and with larger networks, the overheads that the
# study avoids matter less. The rivals run as their tutorials have them and with the options named above, which an expert may improve. A
# few rounds on one machine give wide intervals; PyTorch and JAX are missing where they are not installed.
#
# **Read next.** `02_train`, which trains in this way. The roofline: Williams, Waterman and Patterson, "Roofline: an insightful
# visual performance model for multicore architectures", CACM 52, 2009. How to measure on a shared machine: Hoefler and
# Belli, "Scientific benchmarking of parallel computing systems", SC 2015.
