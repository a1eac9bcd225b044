"""Training: a whole epoch, validation included, as one compiled step of Keras's own ``fit``; seeded and resumable."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import StudyError
from ae_lib.callbacks import INITIAL, KeptState, Progress, StopOnNonFiniteLoss, plain_attributes
from ae_lib.models import GENERATOR

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
                raise StudyError(
                    f"{name} is {value!r}; expected a whole number of at least {least}: change it."
                )
        rate = self.learning_rate
        if (
            not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
            and not 0 < rate < np.inf
        ):
            raise StudyError(
                f"learning_rate is {rate!r}; expected a number above 0, or a Keras schedule: change it."
            )
        if self.compiler not in ("auto", "xla", "none"):
            raise StudyError(
                f"compiler is {self.compiler!r}; expected 'auto', 'xla' or 'none': change it."
            )


@dataclass(frozen=True)
class Reconstruct:
    """The task of an autoencoder: to draw the image that it is shown.

    A task is called in the graph with a minibatch of images, float32 in [0, 1], and a seed of two integers, and gives what
    the network is shown and what it has to draw.
    """

    codes_are_drawn = (
        False  # whether validation, too, draws codes from what the encoder says of them
    )

    def __call__(self, images, seed):  # noqa: D102
        return images, images


@dataclass(frozen=True)
class Denoise(Reconstruct):
    """The task of a denoising autoencoder: to draw the clean image when it is shown a noisy one.

    Gaussian noise is added and the sum cut to [0, 1]. Each image has noise of a standard deviation of its own, uniform
    between two.

    Attributes
    ----------
    least, most : float
        Standard deviations, in the pixels' unit.

    References
    ----------
    Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising autoencoders", JMLR 11, 2010.
    """

    least: float = 0.0
    most: float = 0.5

    def __post_init__(self):
        """Refuse levels that are none."""
        if not 0 <= self.least <= self.most < np.inf:
            raise StudyError(
                f"The noise goes from {self.least!r} to {self.most!r}; expected two standard deviations of at least 0, the "
                "smaller first: change them."
            )

    def __call__(self, images, seed):  # noqa: D102
        per_image = [images.shape[0], *[1] * (len(images.shape) - 1)]
        level = tf.random.stateless_uniform(per_image, seed, self.least, self.most, alg=GENERATOR)
        noise = tf.random.stateless_normal(images.shape, seed + 1, alg=GENERATOR)
        return tf.clip_by_value(images + level * noise, 0.0, 1.0), images


@dataclass(frozen=True)
class Binarise(Reconstruct):
    """The task of a variational autoencoder with Bernoulli pixels: to draw the binary image that it is shown.

    Each pixel is 1 with its grey value as probability, drawn anew in every epoch, as in Burda, Grosse and Salakhutdinov,
    "Importance weighted autoencoders", ICLR 2016. Validation draws the codes, too, so that its loss is −ELBO as well.
    """

    codes_are_drawn = True

    def __call__(self, images, seed):  # noqa: D102
        binary = tf.cast(
            tf.random.stateless_uniform(images.shape, seed, alg=GENERATOR) < images, tf.float32
        )
        return binary, binary


# What the study's models are trained for, by the names under which their metrics are kept; the others reconstruct.
TASKS = {"denoising": Denoise(), "denoising_conv": Denoise(), "vae": Binarise()}


def compiler_for(model):
    """What ``"auto"`` means for a model: ``"none"`` if it has convolutions and there is no GPU, else ``"xla"``."""
    convolutions = any(isinstance(layer, SLOW_WITH_XLA) for layer in _layers(model))
    return "none" if convolutions and not tf.config.list_physical_devices("GPU") else "xla"


def _layers(model):
    for layer in getattr(model, "layers", []):
        yield layer
        yield from _layers(layer)


def fit(model, x_train, x_val, settings, callbacks=(), checkpoint_folder=None, task=Reconstruct()):  # noqa: B008  # frozen
    """Train an autoencoder, with Adam and binary cross-entropy, plus what losses its layers have of their own.

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
    checkpoint_folder : path, optional
        Where the state is kept after each epoch until training ends, so that the same call, made again after an
        interruption, goes on from there. A call with another configuration (model, initial weights, images, settings
        but for ``epochs``, callbacks, task, versions) does not see it.
    task : Reconstruct, Denoise or Binarise
        What the network is shown and what it has to draw. What is random in it depends on the seed, the epoch and the step;
        in validation on the seed and the step alone. Codes are drawn by the model's own layer, whose state is kept with the
        weights and goes on from epoch to epoch, in validation as well.

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
            raise StudyError(
                f"The images are {x.dtype}; expected uint8, or float32 in [0, 1]: convert them."
            )
    keras.utils.set_random_seed(settings.seed)
    compiler = compiler_for(model) if settings.compiler == "auto" else settings.compiler
    optimizer = keras.optimizers.Adam(settings.learning_rate)
    model.compile(optimizer, "binary_crossentropy", jit_compile=compiler == "xla")
    optimizer.build(model.trainable_variables)
    kept = KeptState(model, callbacks)
    if checkpoint_folder is not None:
        configuration = _configuration(model, x_train, x_val, settings, compiler, callbacks, task)
        kept.find(checkpoint_folder, configuration, settings.epochs)
    model.train_step = _Epoch(model, x_train, x_val, settings, task)
    try:
        return model.fit(
            _epochs(len(x_train), settings, first=kept.epoch),
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


def _configuration(model, x_train, x_val, settings, compiler, callbacks, task):
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
        "task": str(task),
        "callbacks": [[type(c).__name__, plain_attributes(c)] for c in callbacks],
        "versions": {name: version(name) for name in ("tensorflow", "keras")},
    }


def _sha256(x):
    return f"{x.dtype} {x.shape} {hashlib.sha256(np.ascontiguousarray(x)).hexdigest()}"


def _epochs(n, settings, first=0):
    """Seed and order of the training images of each epoch, which depend on nothing but the seed and the epoch."""

    def epoch(number):
        seed = tf.stack([settings.seed, tf.cast(number, tf.int32)])
        return seed, tf.random.experimental.stateless_shuffle(tf.range(n), seed)

    return tf.data.Dataset.range(first, max(settings.epochs, first + 1)).map(epoch)


class _Epoch:
    """A training step that is a whole epoch: its data are a seed and one permutation of the training images."""

    def __init__(self, model, x_train, x_val, settings, task):
        self.model, self.settings, self.task = model, settings, task
        # Variables, since constants would become part of the compiled program. So would 255, and XLA would multiply
        # by its reciprocal, which rounds differently from the division that everything else is scaled by.
        self.x_train, self.x_val, self.white = (
            tf.Variable(x, trainable=False) for x in (x_train, x_val, np.float32(255))
        )

    def __call__(self, data):
        model, (seed, permutation) = self.model, data

        def batch(indices, step):
            x, y = self.task(self._images(self.x_train, indices), _fold_in(seed, step))
            with tf.GradientTape() as tape:
                loss = model.compute_loss(x=x, y=y, y_pred=model(x, training=True))
            model.optimizer.apply(
                tape.gradient(loss, model.trainable_variables), model.trainable_variables
            )
            return loss

        def validation_batch(indices, step):
            # No epoch has this number: validation's randomness is its own, and the same in every epoch.
            x, y = self.task(
                self._images(self.x_val, indices), _fold_in([self.settings.seed, -1], step)
            )
            return model.compute_loss(x=x, y=y, y_pred=model(x, training=self.task.codes_are_drawn))

        n = self.x_val.shape[0]
        return {
            "loss": _mean_over_batches(
                batch, permutation, self.x_train.shape[0], self.settings.batch_size
            ),
            "val_loss": _mean_over_batches(validation_batch, tf.range(n), n, min(1000, n)),
        }

    def _images(self, x, indices):
        x = tf.gather(x, indices)
        return tf.cast(x, tf.float32) / self.white if x.dtype == tf.uint8 else x


def _fold_in(seed, step):
    return tf.random.experimental.stateless_fold_in(seed, step)


def _mean_over_batches(function, indices, n, size):
    """Mean over n images of a function of minibatches; the last one, shorter, has a shape of its own in the graph."""
    full = n // size

    def step(i, total):
        # tf.slice, unlike indices[…], keeps the number of images known to the compiler.
        return i + 1, total + size * function(tf.slice(indices, [i * size], [size]), i)

    # Keras does not run AutoGraph on train_step, so a Python loop would be unrolled.
    _, total = tf.while_loop(lambda i, _: i < full, step, (0, 0.0))
    if n % size:
        total += (n % size) * function(indices[full * size :], full)
    return total / n
