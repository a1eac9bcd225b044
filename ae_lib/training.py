"""Training: checked settings, seeded fitting, progress that a person sees and a stored notebook does not."""

import time
from dataclasses import dataclass

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from IPython import get_ipython
from IPython.display import clear_output


@dataclass(frozen=True)
class Settings:
    """How to train; the defaults are the study's.

    Attributes
    ----------
    epochs : int, at least 1
        Passes over the training images.
    batch_size : int, at least 1
        Images per Adam step.
    learning_rate : float, above 0
        Adam's step size.
    seed : int, at least 0
        Of the order of the minibatches.
    jit_compile : bool
        Whether XLA compiles the epoch. Faster for dense networks on a CPU; it rounds differently.
    """

    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    jit_compile: bool = True

    def __post_init__(self):
        """Refuse values that cannot train."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise StudyError(f"{name} is {value!r}; expected a whole number of at least {least}: change it.")
        if not 0 < self.learning_rate < np.inf:
            raise StudyError(f"learning_rate is {self.learning_rate!r}; expected a number above 0: change it.")


def fit(model, x_train, x_val, settings, callbacks=()):
    """Train an autoencoder to reproduce its input, with Adam and binary cross-entropy.

    A whole epoch, validation included, is one compiled step of Keras's own ``fit``, which saves the time that Keras
    otherwise spends between minibatches. The same initial weights, settings and machine give bit-identical weights.

    Parameters
    ----------
    model : keras.Model, (n, d) → (n, d)
        Its weights change in place; it is not compiled.
    x_train, x_val : float32 arrays, shape (n, d), in [0, 1]
        Training and validation images.
    settings : Settings
    callbacks : sequence of keras.callbacks.Callback
        Further callbacks, beside the progress line; they see one batch per epoch.

    Returns
    -------
    pandas.DataFrame
        One row per epoch (index ``epoch``, from 1): ``loss``, the mean over the epoch's images while the weights moved;
        ``val_loss``, after it. Both in nats per pixel.

    Raises
    ------
    StudyError
        If a batch is larger than the training set, or the loss stops being a number.
    """
    if settings.batch_size > len(x_train):
        raise StudyError(
            f"batch_size is {settings.batch_size} and there are {len(x_train)} training images; "
            "expected a batch no larger than the data: lower batch_size."
        )
    keras.utils.set_random_seed(settings.seed)
    trainer = _EpochTrainer(model, x_train, x_val, settings.batch_size)
    trainer.compile(
        keras.optimizers.Adam(settings.learning_rate), "binary_crossentropy", jit_compile=settings.jit_compile
    )
    history = trainer.fit(
        _permutations(len(x_train), settings),
        epochs=settings.epochs,
        steps_per_epoch=1,
        shuffle=False,  # the permutations are the shuffling
        callbacks=[StopOnNonFiniteLoss(), Progress(len(x_train)), *callbacks],
        verbose=0,
    )
    table = pd.DataFrame(history.history)
    return table.set_index(pd.RangeIndex(1, len(table) + 1, name="epoch"))


def _permutations(n, settings):
    """One order of the training images per epoch, which depends on nothing but the seed and the epoch."""

    def permutation(epoch):
        return tf.random.experimental.stateless_shuffle(tf.range(n), seed=[settings.seed, tf.cast(epoch, tf.int32)])

    return tf.data.Dataset.range(settings.epochs).map(permutation)


class _EpochTrainer(keras.Model):
    """A model whose training step is a whole epoch: its data are one permutation of the training images."""

    def __init__(self, model, x_train, x_val, batch_size):
        super().__init__()
        self.model, self.batch_size = model, batch_size
        # Variables, since constants would become part of the compiled program.
        self.x_train, self.x_val = (tf.Variable(x, trainable=False) for x in (x_train, x_val))

    def call(self, x):
        return self.model(x)

    def train_step(self, permutation):
        def batch(indices):
            x = tf.gather(self.x_train, indices)
            with tf.GradientTape() as tape:
                loss = self.compute_loss(y=x, y_pred=self.model(x, training=True))
            self.optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)
            return loss

        def validation_batch(indices):
            x = tf.gather(self.x_val, indices)
            return self.compute_loss(y=x, y_pred=self.model(x, training=False))

        return {
            "loss": _mean_over_batches(batch, permutation, self.x_train.shape[0], self.batch_size),
            "val_loss": _mean_over_batches(
                validation_batch, tf.range(self.x_val.shape[0]), self.x_val.shape[0], min(1000, self.x_val.shape[0])
            ),
        }


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


class Progress(keras.callbacks.Callback):
    """One line per epoch: losses, images per second, time left.

    In a notebook each line replaces the one before and the last is cleared, so that nothing stays in a stored copy.
    """

    def __init__(self, images):
        super().__init__()
        self.images = images

    def on_train_begin(self, logs=None):  # noqa: D102
        self.begun = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        done, total = epoch + 1, self.params["epochs"]
        seconds = (time.monotonic() - self.begun) / done
        minutes, rest = divmod(round(seconds * (total - done)), 60)
        if get_ipython():
            clear_output(wait=True)
        print(
            f"epoch {done}/{total}  loss {logs['loss']:.4f}  val_loss {logs['val_loss']:.4f}  "
            f"{self.images / seconds:,.0f} images/s  {minutes:02}:{rest:02} left",
            flush=True,
        )

    def on_train_end(self, logs=None):  # noqa: D102
        if get_ipython():
            clear_output()


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """End training with an error as soon as a loss is NaN or infinite."""

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        for name, value in logs.items():
            if not np.isfinite(value):
                raise StudyError(
                    f"{name} is {value} after epoch {epoch + 1}; expected a finite number: "
                    "lower learning_rate, and check the images for values outside [0, 1]."
                )
