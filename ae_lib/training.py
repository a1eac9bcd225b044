"""Training: a whole epoch, validation included, as one compiled step of Keras's own ``fit``; seeded and resumable."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError
from ae_lib.callbacks import INITIAL, KeptState, Progress, StopOnNonFiniteLoss, plain_attributes

import keras
import numpy as np
import tensorflow as tf

# XLA's code for convolutions on a CPU takes some thirty times as long as TensorFlow's own kernels.
SLOW_WITH_XLA = tuple(getattr(keras.layers, name) for name in dir(keras.layers) if "Conv" in name)


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the study's.

    Attributes
    ----------
    epochs : int, at least 1
        Passes over the training images.
    batch_size : int, at least 1
        Images per Adam step; the last batch of an epoch may be smaller.
    learning_rate : float, above 0, or keras.optimizers.schedules.LearningRateSchedule
        Adam's step size. A schedule counts Adam steps, not epochs.
    seed : int, at least 0
        Of the order of the minibatches.
    compiler : str
        ``"xla"`` or ``"none"``; ``"auto"`` leaves it to `compiler_for`. They round differently.
    """

    epochs: int = 50
    batch_size: int = 256
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3
    seed: int = 0
    compiler: str = "auto"

    def __post_init__(self):
        """Refuse values that cannot train."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise StudyError(f"{name} is {value!r}; expected a whole number of at least {least}: change it.")
        rate = self.learning_rate
        if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) and not 0 < rate < np.inf:
            raise StudyError(f"learning_rate is {rate!r}; expected a number above 0, or a Keras schedule: change it.")
        if self.compiler not in ("auto", "xla", "none"):
            raise StudyError(f"compiler is {self.compiler!r}; expected 'auto', 'xla' or 'none': change it.")


def compiler_for(model):
    """What ``"auto"`` means for a model: ``"none"`` if it has convolutions and there is no GPU, else ``"xla"``."""
    convolutions = any(isinstance(layer, SLOW_WITH_XLA) for layer in _layers(model))
    return "none" if convolutions and not tf.config.list_physical_devices("GPU") else "xla"


def _layers(model):
    for layer in getattr(model, "layers", []):
        yield layer
        yield from _layers(layer)


def fit(model, x_train, x_val, settings, callbacks=(), state_folder=None):
    """Train an autoencoder to reproduce its input, with Adam and binary cross-entropy.

    A whole epoch (the order of the images, every minibatch, the last and smaller one included, the validation pass) is
    one compiled step of Keras's own ``fit``, which saves the time that Keras otherwise spends between minibatches.
    The same initial weights, settings and machine give bit-identical weights, whether a run was interrupted or not.

    Parameters
    ----------
    model : keras.Model, (n, ...) → (n, ...)
        Compiled and trained in place.
    x_train, x_val : arrays, shape (n, ...)
        Training and validation images: uint8, divided by 255 in the graph, or float32 in [0, 1].
    settings : Settings
    callbacks : sequence of keras.callbacks.Callback
        They see epochs, and one batch per epoch.
    state_folder : path, optional
        Where the state is kept after each epoch until training ends, so that the same call, made again after an
        interruption, goes on from there. A call with another configuration (model, initial weights, images, settings
        but for ``epochs``, callbacks, versions) does not see it.

    Returns
    -------
    keras.callbacks.History
        ``loss``, the mean over the epoch's images while the weights moved; ``val_loss``, after it. In nats per pixel.

    Raises
    ------
    StudyError
        If a batch is larger than the training set, images are neither uint8 nor float32, the kept state is of a later
        epoch than the last one asked for, or a loss is not finite any more. Whatever ends training early, the model
        then has its weights after the last whole and finite epoch.
    """
    if settings.batch_size > len(x_train):
        raise StudyError(
            f"batch_size is {settings.batch_size} and there are {len(x_train)} training images; "
            "expected a batch no larger than the data: lower batch_size."
        )
    for x in (x_train, x_val):
        if x.dtype not in (np.uint8, np.float32):
            raise StudyError(f"The images are {x.dtype}; expected uint8, or float32 in [0, 1]: convert them.")
    keras.utils.set_random_seed(settings.seed)
    compiler = compiler_for(model) if settings.compiler == "auto" else settings.compiler
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, "binary_crossentropy", jit_compile=compiler == "xla")
    optimizer.build(model.trainable_variables)
    kept = KeptState(model, callbacks)
    if state_folder is not None:
        configuration = _configuration(model, x_train, x_val, settings, compiler, callbacks)
        kept.find(state_folder, configuration, settings.epochs)
    model.train_step = _Epoch(model, x_train, x_val, settings.batch_size)
    try:
        return model.fit(
            _permutations(len(x_train), settings, first=kept.epoch),
            initial_epoch=kept.epoch,
            epochs=kept.epoch if kept.stopped else settings.epochs,
            steps_per_epoch=1,
            shuffle=False,  # the permutations are the shuffling
            callbacks=[
                StopOnNonFiniteLoss(),
                *callbacks,
                keras.callbacks.History(),  # before what keeps it
                kept,
                Progress(len(x_train)),
            ],
            verbose=0,
        )
    except BaseException:  # Ctrl-C included, which may come between an epoch and what is kept of it
        kept.restore()
        raise
    finally:  # an ordinary model again
        del model.train_step
        model.train_function = None


def _configuration(model, x_train, x_val, settings, compiler, callbacks):
    """Everything that the weights depend on, but for the machine and the number of epochs."""
    return {
        "model": hashlib.sha256(json.dumps(model.get_config(), default=str).encode()).hexdigest(),
        INITIAL: [_sha256(variable.numpy()) for variable in model.variables],
        "training images": _sha256(x_train),
        "validation images": _sha256(x_val),
        "batch_size": settings.batch_size,
        "learning_rate": str(keras.saving.serialize_keras_object(settings.learning_rate)),
        "seed": settings.seed,
        "compiler": compiler,
        "callbacks": [[type(c).__name__, plain_attributes(c)] for c in callbacks],
        "versions": {name: version(name) for name in ("tensorflow", "keras")},
    }


def _sha256(x):
    return f"{x.dtype} {x.shape} {hashlib.sha256(np.ascontiguousarray(x)).hexdigest()}"


def _permutations(n, settings, first=0):
    """One order of the training images per epoch, which depends on nothing but the seed and the epoch."""

    def permutation(epoch):
        return tf.random.experimental.stateless_shuffle(tf.range(n), seed=[settings.seed, tf.cast(epoch, tf.int32)])

    return tf.data.Dataset.range(first, max(settings.epochs, first + 1)).map(permutation)


class _Epoch:
    """A training step that is a whole epoch: its data are one permutation of the training images."""

    def __init__(self, model, x_train, x_val, batch_size):
        self.model, self.batch_size = model, batch_size
        # Variables, since constants would become part of the compiled program. So would 255, and XLA would multiply
        # by its reciprocal, which rounds differently from the division that everything else is scaled by.
        self.x_train, self.x_val, self.white = (
            tf.Variable(x, trainable=False) for x in (x_train, x_val, np.float32(255))
        )

    def __call__(self, permutation):
        model = self.model

        def batch(indices):
            x = self._images(self.x_train, indices)
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x=x, y=x, y_pred=model(x, training=True))
            model.optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
            return loss

        def validation_batch(indices):
            x = self._images(self.x_val, indices)
            return model.compute_loss(x=x, y=x, y_pred=model(x, training=False))

        n = self.x_val.shape[0]
        return {
            "loss": _mean_over_batches(batch, permutation, self.x_train.shape[0], self.batch_size),
            "val_loss": _mean_over_batches(validation_batch, tf.range(n), n, min(1000, n)),
        }

    def _images(self, x, indices):
        x = tf.gather(x, indices)
        return tf.cast(x, tf.float32) / self.white if x.dtype == tf.uint8 else x


def _mean_over_batches(function, indices, n, size):
    """Mean over n images of a function of minibatches; the last one, shorter, has a shape of its own in the graph."""
    full = n // size

    def step(i, total):
        # tf.slice, unlike indices[…], keeps the number of images known to the compiler.
        return i + 1, total + size * function(tf.slice(indices, [i * size], [size]))

    # Keras does not run AutoGraph on train_step, so a Python loop would be unrolled.
    _, total = tf.while_loop(lambda i, _: i < full, step, (0, 0.0))
    if n % size:
        total += (n % size) * function(indices[full * size :])
    return total / n
