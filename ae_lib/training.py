"""Train in compiled steps of a whole epoch, behind Keras's own ``fit``: seeded and resumable."""

import contextlib
import sys
from dataclasses import dataclass, replace

from ae_lib import StudyError
from ae_lib.checkpoint import Checkpoint, configuration_of
from ae_lib.data import check_range, whole_number
from ae_lib.models import GENERATOR, compiler_for, model_layers

import keras
import numpy as np
import tensorflow as tf
from IPython import get_ipython
from IPython.display import clear_output
from tqdm import tqdm

VALIDATION_BATCH = 1000
fold_in = tf.random.experimental.stateless_fold_in


@dataclass(frozen=True)
class Cosine:
    """A learning rate that falls to 0 along a cosine, until the last step of a training.

    Loshchilov and Hutter, "SGDR", ICLR 2017, without the restarts.
    """

    highest: float
    warm_up: float = 0.0  # share of the steps in which it rises, from a twentieth of the highest

    def over(self, steps):
        """Return the schedule for so many steps, as Keras's optimizers take it."""
        rising = int(self.warm_up * steps)
        return keras.optimizers.schedules.CosineDecay(
            self.highest / 20, steps - rising, warmup_target=self.highest, warmup_steps=rising
        )


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the study's."""

    epochs: int = 50  # at least 1
    batch_size: int = 256  # images per step of Adam, at least 1; the last batch may be smaller
    learning_rate: float | Cosine | keras.optimizers.schedules.LearningRateSchedule = 1e-3
    seed: int = 0  # at least 0; of the order of the images and of the task's random numbers
    compiler: str = "auto"  # "xla" or "none", which round differently, or as `compiler_for` says
    loss: str = "binary_crossentropy"  # or "mean_squared_error"

    def __post_init__(self):
        """Refuse values that cannot train."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            # Python's integers from NumPy's; a frozen dataclass has no other way to set them.
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        if self.seed >= 2**31:
            raise StudyError(f"seed is {self.seed}; expected less than 2³¹: choose a smaller one.")
        rate = self.learning_rate
        highest, warm_up = (rate.highest, rate.warm_up) if isinstance(rate, Cosine) else (rate, 0)
        if not callable(rate) and not (0 < highest < np.inf and 0 <= warm_up < 1):
            raise StudyError(
                f"learning_rate is {rate!r}; expected a number above 0, with a warm-up of at least "
                "0 and below 1, or a schedule: change it."
            )
        losses = "binary_crossentropy", "mean_squared_error"
        for name, known in (("compiler", ("auto", "xla", "none")), ("loss", losses)):
            if (value := getattr(self, name)) not in known:
                expected = " or ".join(map(repr, known))
                raise StudyError(f"{name} is {value!r}; expected {expected}: change it.")


@dataclass(frozen=True)
class Reconstruct:
    """The task of an autoencoder: reconstruct the input image.

    A task is called in the graph with a minibatch of images, float32 in [0, 1], and a seed of two
    integers for the epoch and the step. It returns the network's input and its target.
    """

    samples_codes_in_validation = False

    def __call__(self, images, seed):  # noqa: D102
        return images, images


@dataclass(frozen=True)
class Denoise(Reconstruct):
    """The task of a denoising autoencoder: reconstruct the clean image from a noisy one.

    Gaussian noise is added and the sum clipped to [0, 1]; its standard deviation is uniform from
    ``least`` to ``most``, in the pixels' unit, for each image (Vincent et al., JMLR 11, 2010).
    """

    least: float = 0.0
    most: float = 0.5

    def __post_init__(self):
        """Refuse limits that are no standard deviations."""
        if not 0 <= self.least <= self.most < np.inf:
            raise StudyError(
                f"The noise goes from {self.least!r} to {self.most!r}; expected two standard "
                "deviations of at least 0, the smaller first: change them."
            )

    def __call__(self, images, seed):  # noqa: D102
        per_image = [images.shape[0], *[1] * (len(images.shape) - 1)]
        std = tf.random.stateless_uniform(per_image, seed, self.least, self.most, alg=GENERATOR)
        noise = tf.random.stateless_normal(images.shape, seed + 1, alg=GENERATOR)
        return tf.clip_by_value(images + std * noise, 0.0, 1.0), images


@dataclass(frozen=True)
class Binarise(Reconstruct):
    """The task of a variational autoencoder with Bernoulli pixels: reconstruct a binary image.

    Each pixel is 1 with its grey value as probability, sampled in every epoch (Burda et al., ICLR
    2016). Codes are sampled in validation, too, so that its loss is −ELBO.
    """

    samples_codes_in_validation = True

    def __call__(self, images, seed):  # noqa: D102
        uniform = tf.random.stateless_uniform(images.shape, seed, alg=GENERATOR)
        binary = tf.cast(uniform < images, tf.float32)
        return binary, binary


# Tasks of the study's models, by the names under which their metrics stand; others reconstruct.
TASKS = {"denoising": Denoise(), "vae": Binarise()}


def fit(model, x_train, x_val, settings, callbacks=(), checkpoint_folder=None, task=Reconstruct()):  # noqa: B008  # frozen
    """Train an autoencoder with Adam and a loss per pixel, plus the losses of its layers.

    A whole epoch, validation included, is one compiled step of Keras's own ``fit``, which saves the
    time that Keras otherwise spends between minibatches. The same initial weights, settings and
    machine give bit-identical weights, whether a run was interrupted or not. Whatever ends training
    early, the model has the weights of its last whole and finite epoch.

    Parameters
    ----------
    model : keras.Model, (n, ...) → (n, ...)
        Compiled and trained in place.
    x_train, x_val : arrays, shape (n, ...)
        Images: uint8, divided by 255 in the graph, or float32 in [0, 1].
    settings, task : Settings, and Reconstruct, Denoise or Binarise
    callbacks : sequence of keras.callbacks.Callback
        They see the model, its epochs, and one batch per epoch. Their state is not kept: after an
        interruption `keras.callbacks.EarlyStopping`, for example, starts to wait again.
    checkpoint_folder : path, optional
        Where a checkpoint is written after each epoch until training ends, so that the same call
        resumes after an interruption. A call with another configuration (model, initial weights,
        images, settings but for ``epochs``, callbacks, task, versions) ignores it.

    Returns
    -------
    keras.callbacks.History
        Of all epochs, per pixel (the cross-entropy in nats): ``loss``, while weights moved, and
        ``val_loss``, after.

    Raises
    ------
    StudyError
        If the model is not built or does not compute in float32, a batch is larger than the
        training set, images are of another kind, the checkpoint is of a later epoch than the last
        one, or a loss is no longer finite.
    """
    callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else [*callbacks]
    _check(model, x_train, x_val, settings)
    if isinstance(settings.learning_rate, Cosine):
        steps = settings.epochs * -(-len(x_train) // settings.batch_size)
        settings = replace(settings, learning_rate=settings.learning_rate.over(steps))
    keras.utils.set_random_seed(settings.seed)
    compiler = compiler_for(model) if settings.compiler == "auto" else settings.compiler
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, settings.loss, jit_compile=compiler == "xla")
    optimizer.build(model.trainable_variables)
    history = keras.callbacks.History()
    checkpoint = Checkpoint(model, history)
    if checkpoint_folder is not None:
        configuration = configuration_of(model, x_train, x_val, settings, compiler, callbacks, task)
        checkpoint.resume(checkpoint_folder, configuration, settings.epochs)
    first = checkpoint.state.epoch
    epochs = first if checkpoint.state.stopped else settings.epochs
    try:
        with _progress(first, epochs) as progress:
            check = keras.callbacks.LambdaCallback(on_epoch_end=_stop_at_non_finite_loss)
            parts = [check, *callbacks, history, checkpoint, progress]
            return _EpochTrainer(model, settings, task).fit(
                _epochs(x_train, x_val, settings, first),
                initial_epoch=first,
                epochs=epochs,
                steps_per_epoch=1,
                shuffle=False,  # the permutations are the shuffling
                callbacks=keras.callbacks.CallbackList(parts, model=model, epochs=epochs, steps=1),
                verbose=0,
            )
    except BaseException:  # Ctrl-C included
        checkpoint.restore()
        raise


def _check(model, x_train, x_val, settings):
    if not model.built:
        raise StudyError(
            "The model has no weights yet; expected a built one: give it an Input, or call it once."
        )
    # The loss is not scaled, so that gradients in half precision would vanish.
    if other := {layer.compute_dtype for layer in model_layers(model)} - {"float32"}:
        raise StudyError(
            f"The model computes in {other.pop()}; expected float32: build it without a dtype "
            "policy."
        )
    shape = getattr(model, "input_shape", None)  # a subclassed model has none
    for name, x in (("x_train", x_train), ("x_val", x_val)):
        if not isinstance(x, np.ndarray) or not x.size or not _fits(x.shape, shape):
            kind = f"of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
            sides = ", ".join(map(str, shape[1:])) if shape else "..."
            raise StudyError(
                f"{name} is {kind}; expected a NumPy array of shape (n, {sides}) with n of at "
                "least 1: convert it."
            )
        if x.dtype not in ("uint8", "float32"):
            raise StudyError(f"{name} is {x.dtype}; expected uint8 or float32: convert it.")
        if x.dtype == np.float32:
            check_range(x)
    if settings.batch_size > len(x_train):
        raise StudyError(
            f"batch_size is {settings.batch_size}; expected at most {len(x_train)}, the number of "
            "training images: lower it."
        )


def _fits(shape, expected):
    """Whether images have a model's input shape, in which None stands for any length."""
    return not expected or (
        len(shape) == len(expected)
        and all(b in (None, a) for a, b in zip(shape[1:], expected[1:], strict=True))
    )


def _epochs(x_train, x_val, settings, first=0):
    """The data of each epoch: its seed, the order of the training images, and all images."""

    def epoch(number):
        seed = tf.stack([settings.seed, tf.cast(number, tf.int32)])
        return seed, tf.random.experimental.stateless_shuffle(tf.range(len(x_train)), seed)

    epochs = tf.data.Dataset.range(first, max(settings.epochs, first + 1)).map(epoch)
    # XLA divides by a constant through its reciprocal; what it captures stays in memory for good.
    images = tf.data.Dataset.from_tensors((x_train, x_val, np.float32(255))).repeat()
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and to stop it can take 20 s
    return tf.data.Dataset.zip(epochs, images).with_options(options)


class _EpochTrainer(keras.Model):
    """A model whose training step, given the data of an epoch, is this epoch of a network."""

    def __init__(self, network, settings, task):
        super().__init__()
        self.network, self.settings, self.task = network, settings, task
        self.compile(network.optimizer, jit_compile=network.jit_compile)

    # Callbacks see the network, and Keras's `fit` asks its own model for these two.
    history = property(lambda self: self.network.history)
    stop_training = property(
        lambda self: self.network.stop_training,
        lambda self, value: setattr(self.network, "stop_training", value),
    )

    def train_step(self, data):
        network, ((seed, permutation), (x_train, x_val, white)) = self.network, data

        def images(x, indices):
            x = tf.gather(x, indices)
            return tf.cast(x, tf.float32) / white if x.dtype == tf.uint8 else x

        def batch(indices, step):
            x, y = self.task(images(x_train, indices), fold_in(seed, step))
            with tf.GradientTape() as tape:
                loss = network.compute_loss(x=x, y=y, y_pred=network(x, training=True))
            weights = network.trainable_variables
            network.optimizer.apply(tape.gradient(loss, weights), weights)
            return loss

        def validation_batch(indices, step):
            # No epoch has the number -1: validation's random numbers are the same in every epoch.
            validation_seed = fold_in([self.settings.seed, -1], step)
            x, y = self.task(images(x_val, indices), validation_seed)
            predicted = network(x, training=self.task.samples_codes_in_validation)
            return network.compute_loss(x=x, y=y, y_pred=predicted)

        n, n_val, size = x_train.shape[0], x_val.shape[0], self.settings.batch_size
        val_indices, val_size = tf.range(n_val), min(VALIDATION_BATCH, n_val)
        return {
            "loss": _mean_over_batches(batch, permutation, n, size),
            "val_loss": _mean_over_batches(validation_batch, val_indices, n_val, val_size),
        }


def _mean_over_batches(function, indices, n, size):
    """Mean over n images of a function of minibatches, of which the last may be shorter."""
    full = n // size

    def step(i, total):
        # tf.slice, unlike indices[…], keeps the number of images known to the compiler.
        return i + 1, total + size * function(tf.slice(indices, [i * size], [size]), i)

    # Keras does not run AutoGraph on train_step, so a Python loop would be unrolled.
    _, total = tf.while_loop(lambda i, _: i < full, step, (0, 0.0))
    if n % size:
        total += (n % size) * function(indices[full * size :], full)
    return total / n


def _stop_at_non_finite_loss(epoch, logs):
    for name, value in logs.items():
        if not np.isfinite(value):
            raise StudyError(
                f"{name} is {value} after epoch {epoch + 1}; expected a finite number: lower "
                "learning_rate, and check the images for values outside [0, 1]. The model has its "
                f"weights after epoch {epoch}."
            )


@contextlib.contextmanager
def _progress(first, epochs):
    """A callback with a bar over epochs, cleared in a notebook, so that no stored copy has it."""
    # tqdm's own callback for Keras writes to a notebook's stderr where ipywidgets is missing.
    with tqdm(total=epochs, initial=first, unit="epoch", file=sys.stdout) as bar:

        def show(epoch, logs):
            bar.set_postfix(logs, refresh=False)
            bar.update()

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)
    if get_ipython():
        clear_output()
