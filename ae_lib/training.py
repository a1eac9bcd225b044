"""Train in compiled steps of a whole epoch, behind Keras's own ``fit``: seeded and resumable."""

import contextlib
import copy
import hashlib
import json
import os
import sys
from collections import namedtuple
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ae_lib import StudyError
from ae_lib.data import whole_number
from ae_lib.models import GENERATOR, compiler_for

import keras
import numpy as np
import tensorflow as tf
from IPython import get_ipython
from IPython.display import clear_output
from tqdm import tqdm

VALIDATION_BATCH = 1000
fold_in = tf.random.experimental.stateless_fold_in


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the study's."""

    epochs: int = 50  # at least 1
    batch_size: int = 256  # images per step of Adam, at least 1; the last batch may be smaller
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3  # counts steps
    seed: int = 0  # at least 0; of the order of the images and of the task's random numbers
    compiler: str = "auto"  # "xla" or "none", which round differently, or as `compiler_for` says

    def __post_init__(self):
        """Refuse values that cannot train."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            # Python's integers from NumPy's; a frozen dataclass has no other way to set them.
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        rate, schedules = self.learning_rate, keras.optimizers.schedules
        if not isinstance(rate, schedules.LearningRateSchedule) and not 0 < rate < np.inf:
            raise StudyError(
                f"learning_rate is {rate!r}; expected a number above 0 or a schedule: change it."
            )
        if self.compiler not in ("auto", "xla", "none"):
            raise StudyError(
                f"compiler is {self.compiler!r}; expected 'auto', 'xla' or 'none': change it."
            )


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
TASKS = {"denoising": Denoise(), "denoising_conv": Denoise(), "vae": Binarise()}


def fit(model, x_train, x_val, settings, callbacks=(), checkpoint_folder=None, task=Reconstruct()):  # noqa: B008  # frozen
    """Train an autoencoder with Adam and binary cross-entropy, plus the losses of its layers.

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
        Of all epochs, in nats per pixel: ``loss``, while weights moved, and ``val_loss``, after.

    Raises
    ------
    StudyError
        If a batch is larger than the training set, images have another dtype, the checkpoint is of
        a later epoch than the last one, or a loss is no longer finite.
    """
    _check_images(x_train, x_val, settings)
    keras.utils.set_random_seed(settings.seed)
    compiler = compiler_for(model) if settings.compiler == "auto" else settings.compiler
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, "binary_crossentropy", jit_compile=compiler == "xla")
    optimizer.build(model.trainable_variables)
    history = keras.callbacks.History()
    checkpoint = _Checkpoint(model, history)
    if checkpoint_folder is not None:
        configuration = _configuration(model, x_train, x_val, settings, compiler, callbacks, task)
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


def _check_images(x_train, x_val, settings):
    if settings.batch_size > len(x_train):
        raise StudyError(
            f"batch_size is {settings.batch_size}; expected at most {len(x_train)}, the number of "
            "training images: lower it."
        )
    if not {x_train.dtype, x_val.dtype} <= {np.dtype("uint8"), np.dtype("float32")}:
        raise StudyError(
            f"The images are {x_train.dtype} and {x_val.dtype}; expected uint8 or float32: "
            "convert them."
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


# The arrays are the values of all that training changes.
_State = namedtuple("_State", ["arrays", "epoch", "stopped", "history"])


class _Checkpoint(keras.callbacks.Callback):
    """The state after the last whole epoch: in memory and, with a folder, in a file."""

    def __init__(self, network, history):
        super().__init__()
        self.network, self.history, self.path, self.warned = network, history, None, False
        self.variables = [*network.variables, *network.optimizer.variables]
        self.state = self._now(0)

    def _now(self, epoch):
        arrays = [variable.numpy().copy() for variable in self.variables]
        stopped, history = self.network.stop_training, copy.deepcopy(self.history.history)
        return _State(arrays, epoch, stopped, history)

    def resume(self, folder, configuration, epochs):
        """Take the state of an interrupted run, which began or ended with the network's weights."""
        prefix, weights = _digest(configuration), self.state.arrays[: len(self.network.variables)]
        self.path = Path(folder) / f"{prefix}-{_digest([_sha256(w) for w in weights])}.npz"
        began_alike = [self.path] if self.path.exists() else []
        for path in began_alike or sorted(self.path.parent.glob(f"{prefix}-*.npz")):
            state = _read(path, self.state.arrays)
            if state and (began_alike or all(map(np.array_equal, weights, state.arrays))):
                if state.epoch > epochs:
                    raise StudyError(
                        f"{path} is of a run interrupted after epoch {state.epoch}; expected at "
                        f"most {epochs}: raise epochs to resume it, or remove it to restart."
                    )
                print(f"Training resumes after epoch {state.epoch}, where it was interrupted.")
                self.path, self.state = path, state
                self.restore()

    def restore(self):
        """Put the network into the last state, and write the file, which may be older."""
        for variable, array in zip(self.variables, self.state.arrays, strict=True):
            variable.assign(array)
        if self.path and self.state.epoch:
            self._write()

    def on_train_begin(self, logs=None):
        self.history.history = copy.deepcopy(self.state.history)
        self.history.epoch = list(range(self.state.epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.state = self._now(epoch + 1)
        if self.path:
            self._write()

    def on_train_end(self, logs=None):
        if self.path:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _write(self):
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        arrays, *progress = self.state
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.savez(file, *arrays, progress=json.dumps(progress, default=float))
            temporary.replace(self.path)
        except OSError as error:
            if not self.warned:
                tqdm.write(f"Training continues, but its checkpoint cannot be written: {error}.")
            self.warned = True
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _read(path, like):
    """The state in a file, or None if it is damaged; ``like`` are arrays of the same shapes."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = [file[f"arr_{i}"].reshape(array.shape) for i, array in enumerate(like)]
            return _State(arrays, *json.loads(str(file["progress"])))
    except Exception as error:  # a damaged file can fail in any way
        print(f"Training restarts: the checkpoint {path} cannot be read ({error}).")
        return None


def _configuration(model, x_train, x_val, settings, compiler, callbacks, task):
    """What the weights depend on, but for the initial ones, the machine and the epochs."""
    return {
        "model": json.dumps(model.get_config(), default=str),
        "images": [_sha256(x_train), _sha256(x_val)],
        "settings": [settings.batch_size, settings.seed, compiler, str(task)],
        "learning_rate": str(keras.saving.serialize_keras_object(settings.learning_rate)),
        "callbacks": [_options(callback) for callback in callbacks],
        "versions": [version("tensorflow"), version("keras")],
    }


def _options(callback):
    plain, items = str | int | float | np.generic | None, vars(callback).items()
    public = {n: str(v) for n, v in items if isinstance(v, plain) and not n.startswith("_")}
    return [type(callback).__name__, public]


def _digest(values):
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(x):
    return f"{x.dtype} {x.shape} {hashlib.sha256(np.ascontiguousarray(x)).hexdigest()}"
