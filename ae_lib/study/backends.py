"""What races: trainings and inference of the study, of Keras, PyTorch and JAX, and yardsticks.

A backend is a process, ``python -m ae_lib.study.backends '{"name": "jax_scan", …}'``. It writes one
line of JSON when it is ready, then works for every line that it reads, and answers each with a line
of JSON. All start from the same weights; those that train do so for an epoch, sample minibatches
without replacement, and take the same Adam steps, but for the place of its epsilon.
"""

import collections
import contextlib
import functools
import json
import math
import os
import re
import sys
import time
from pathlib import Path

from ae_lib import StudyError, data, models, training
from ae_lib.analysis import codec_layers

import keras
import numpy as np
import tensorflow as tf

UNLIMITED = 10_000  # epochs: the process ends when nobody asks for another one
LEARNING_RATE = 1e-3
VALIDATION_BATCH = 1000
GEMM_SIZE = 2048  # large enough that a matrix product is bound by arithmetic alone
GEMM_PRODUCTS = 10  # in each turn, about as long as an epoch
GEMM_OPERATIONS = GEMM_PRODUCTS * 2 * GEMM_SIZE**3  # floating-point operations of a turn


def operations(network, images, validation):
    """Count the floating-point operations of the matrix products in an epoch of an `Autoencoder`.

    Each product takes two per weight, place and image: forward, the gradient of the weights, and
    the gradient of the inputs, which the first layer does not need; validation is forward only.
    """
    places = {"Dense": lambda of: 1, "Conv2D": lambda of: math.prod(of.output.shape[1:3])}
    places["Conv2DTranspose"] = lambda of: math.prod(of.input.shape[1:3])
    layers = [(type(layer).__name__, layer) for half in network[1:] for layer in half.layers]
    products = [math.prod(of.kernel.shape) * places[k](of) for k, of in layers if k in places]
    return images * 2 * (3 * sum(products) - products[0]) + validation * 2 * sum(products)


def pixels(dataset, images, validation):
    """Load training and validation images, uint8 (n, pixels), repeated until there are enough."""
    loaded = data.load(dataset)
    parts = (loaded.pixels_train, images), (loaded.pixels_val, validation)
    return tuple(part[np.arange(n) % len(part)] for part, n in parts)


class Turns(keras.callbacks.Callback):
    """Wait for a line of ``requests`` before each turn; write a line to ``answers`` after it.

    The first turn is an epoch, later ones are two, of which the second is timed. For tf.data's
    autotuning thread, cancelled with its iterator, may sleep on for the rest of its period, which
    doubles with the iterator's age: Keras's ``fit``, which drops the last epoch's iterator as an
    epoch begins, would wait longer the longer its pause was. Backends whose training is that
    ``fit`` take this as a callback, the others call `serve`.
    """

    def __init__(self, requests, answers):
        super().__init__()
        self.requests, self.answers, self.epochs = requests, answers, 0

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        is_new = self.epochs == 0 or self.epochs % 2
        if is_new and not self.requests.readline():
            raise EOFError
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        seconds = time.perf_counter() - self.begun
        answer = {**(logs or {}), "seconds": seconds, "peak_rss_mb": _peak_rss_mb()}
        if self.epochs % 2 == 0:
            print(json.dumps(answer), file=self.answers, flush=True)
        self.epochs += 1

    def serve(self, epoch):
        """Let a function train that returns ``loss`` and ``val_loss``, or nothing."""
        while True:
            self.on_epoch_begin(None)
            self.on_epoch_end(None, epoch())


def _peak_rss_mb():
    try:  # getrusage counts what the parent had when it started this process
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except FileNotFoundError:  # macOS, which counts in bytes
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def is_variational(network):
    return isinstance(network.encoder.layers[-1], models.GaussianCode)


def study(turns, train, val, batch_size, network):
    """`ae_lib.training.fit`, as the notebooks call it."""
    task = training.Binarise() if is_variational(network) else training.Reconstruct()
    settings = training.Settings(UNLIMITED, batch_size, LEARNING_RATE)
    training.fit(network.autoencoder, train, val, settings, [turns], task=task)


class Binarised(keras.Model):
    """A model whose steps reconstruct images of sampled pixels, as `training.Binarise` does."""

    def train_step(self, data):  # noqa: D102
        return super().train_step(self._sampled(data))

    def test_step(self, data):  # noqa: D102
        return super().test_step(self._sampled(data))

    def _sampled(self, data):
        seed = [0, tf.cast(self.optimizer.iterations, tf.int32)]
        uniform = tf.random.stateless_uniform(tf.shape(data[0]), seed, alg=models.GENERATOR)
        return [tf.cast(uniform < data[0], tf.float32)] * 2


def keras_fit(turns, train, val, batch_size, network, **compile_arguments):
    """``keras.Model.fit`` as tutorials write it: floats in memory, ``validation_data``."""
    x, v = data.as_flat_images(train), data.as_flat_images(val)
    model = network.autoencoder
    if is_variational(network):  # it samples codes in validation, too
        model = Binarised(model.input, model(model.input, training=True))
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer, "binary_crossentropy", **compile_arguments)
    model.fit(x, x, batch_size, UNLIMITED, verbose=0, callbacks=[turns], validation_data=(v, v))


def keras_fit_tuned(turns, *work):
    """``keras.Model.fit`` with XLA and 49 minibatches per call, the fastest of its options."""
    keras_fit(turns, *work, jit_compile=True, steps_per_execution=49)


def rewritten(chain, operations, convert):
    """Rewrite Keras models in a row, without the last sigmoid, for another framework.

    ``operations`` are functions by the names of Keras's layers; ``convert`` is applied to arrays.
    Returns the weights, and a function of these and of inputs.
    """
    layers = [layer for model in chain for layer in model.layers]
    layers = [layer for layer in layers if type(layer).__name__ in operations]
    steps = []
    for layer in layers:
        operation = operations[type(layer).__name__]
        if isinstance(layer, keras.layers.Reshape):
            operation = functools.partial(operation, layer.target_shape)
        steps.append((operation, getattr(layer, "activation", None) is keras.activations.relu))

    def function(weights, x):
        for (operation, is_rectified), arrays in zip(steps, weights, strict=True):
            x = operation(x, *arrays)
            x = operations["relu"](x) if is_rectified else x
        return x

    return [[convert(array) for array in layer.get_weights()] for layer in layers], function


def loss_of(network, operations, convert):
    """Rewrite a network for another framework; return its weights and the loss of a minibatch.

    The loss is a function of weights, images, and samplers of uniform and normal numbers.
    """
    parts = (rewritten([part], operations, convert) for part in network[1:])
    weights, (encode, decode) = zip(*parts, strict=True)
    bce, exp = operations["bce"], operations["exp"]

    def reconstruction(weights, images, *_):
        return bce(decode(weights[1], encode(weights[0], images)), images)

    def negative_elbo(weights, images, uniform, normal):
        binary = (uniform(images.shape) < images) * 1.0
        posterior = encode(weights[0], binary)
        size = posterior.shape[1] // 2
        mean, log_variance = posterior[:, :size], posterior[:, size:]
        kl = (mean**2 + exp(log_variance) - 1 - log_variance).sum(1).mean() / 2
        code = mean + exp(log_variance / 2) * normal(mean.shape)
        return bce(decode(weights[1], code), binary) + kl / images.shape[1]

    return weights, negative_elbo if is_variational(network) else reconstruction


def torch_operations():
    import torch

    f, strides = torch.nn.functional, {"stride": 2, "padding": 1}
    return {
        "Dense": lambda x, matrix, bias: torch.addmm(bias, x, matrix),
        "Conv2D": functools.partial(f.conv2d, **strides),
        "Conv2DTranspose": functools.partial(f.conv_transpose2d, **strides, output_padding=1),
        # Channels stay last in memory, where PyTorch's convolutions are fastest.
        "Reshape": lambda shape, x: x.unflatten(1, shape).permute(0, 3, 1, 2),
        "Flatten": lambda x: x.permute(0, 2, 3, 1).flatten(1),
        "relu": torch.relu,
        "exp": torch.exp,
        "bce": f.binary_cross_entropy_with_logits,
    }


def torch_eager(turns, train, val, batch_size, network, wrap=lambda loss: loss, **adam):
    """PyTorch as its tutorials write it: a loop over minibatches of a shuffled tensor."""
    import torch

    # With pixels and units in reverse order it is the same network, but the "same" padding of
    # Keras's strided convolutions is PyTorch's own, so that nothing need be padded or cut off.
    arrange = np.asarray if is_variational(network) else np.flip

    def parameter(array):
        array = arrange(array)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        return torch.nn.Parameter(torch.from_numpy(array.copy()))

    x, v = (torch.from_numpy(arrange(data.as_flat_images(p)).copy()) for p in (train, val))
    weights, loss_on = loss_of(network, torch_operations(), parameter)
    parameters = [array for part in weights for layer in part for array in layer]
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, eps=1e-7, **adam)
    loss_on, samplers = wrap(loss_on), (torch.rand, torch.randn)

    def epoch():
        total = torch.zeros(())
        for indices in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = loss_on(weights, x[indices], *samplers)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(indices)
        with torch.no_grad():
            losses = [loss_on(weights, batch, *samplers) for batch in v.split(VALIDATION_BATCH)]
        return {"loss": total.item() / len(x), "val_loss": torch.stack(losses).mean().item()}

    turns.serve(epoch)


def torch_compiled(turns, *work):
    """PyTorch with ``torch.compile`` around network and loss, and its fastest Adam, fused."""
    import torch

    torch_eager(turns, *work, torch.compile, fused=True)


def jax_scan(turns, train, val, batch_size, network):
    """JAX with the epoch as one compiled function, minibatches in ``lax.scan``; Optax's Adam."""
    import jax
    import optax

    x, v = (jax.numpy.asarray(data.as_flat_images(part)) for part in (train, val))
    val_batches = v.reshape(-1, min(VALIDATION_BATCH, len(v)), v.shape[1])
    full = len(x) // batch_size * batch_size
    optimizer = optax.adam(LEARNING_RATE, eps=1e-7)
    operations = {"Dense": lambda x, w, b: x @ w + b, "relu": jax.nn.relu, "exp": jax.numpy.exp}
    operations["bce"] = lambda *pair: optax.sigmoid_binary_cross_entropy(*pair).mean()
    weights, loss_on = loss_of(network, operations, jax.numpy.asarray)

    def loss_with(weights, batch, key):
        samplers = zip((jax.random.uniform, jax.random.normal), jax.random.split(key), strict=True)
        return loss_on(weights, batch, *(functools.partial(*sampler) for sampler in samplers))

    def step(state, batch):
        weights, moments, key = state
        key, subkey = jax.random.split(key)
        loss, gradient = jax.value_and_grad(loss_with)(weights, batch, subkey)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(weights, updates), moments, key), loss * len(batch)

    def epoch_of(state, order, x, val_batches):
        rows = order[:full].reshape(-1, batch_size)
        state, losses = jax.lax.scan(lambda state, row: step(state, x[row]), state, rows)
        state, last = step(state, x[order[full:]]) if full < len(x) else (state, 0.0)
        val_losses = jax.lax.map(lambda batch: loss_with(state[0], batch, state[2]), val_batches)
        return state, (losses.sum() + last) / len(x), val_losses.mean()

    state = weights, optimizer.init(weights), jax.random.key(0)
    compiled, random = jax.jit(epoch_of, donate_argnums=0), np.random.default_rng(0)

    def epoch():
        nonlocal state
        state, loss, val_loss = compiled(state, random.permutation(len(x)), x, val_batches)
        return {"loss": float(loss), "val_loss": float(val_loss)}

    turns.serve(epoch)


def study_predict(network):
    """As the notebooks do; one image at a time as the codec does, whose layers are arrays."""
    layers = codec_layers.from_keras([*network.encoder.layers, *network.decoder.layers])
    many = functools.partial(models.predict_in_batches, network.autoencoder)
    return lambda x: many(x) if len(x) > 1 else codec_layers.run(layers, x)


def torch_predict(network):
    import torch

    weights, function = rewritten(network[1:], torch_operations(), torch.from_numpy)
    return torch.no_grad()(lambda x: function(weights, torch.from_numpy(x)).sigmoid().numpy())


def jax_predict(network):
    import jax

    operations = {"Dense": lambda x, w, b: x @ w + b, "relu": jax.nn.relu}
    weights, function = rewritten(network[1:], operations, jax.numpy.asarray)
    compiled = jax.jit(lambda x: jax.nn.sigmoid(function(weights, x)))
    return lambda x: np.asarray(compiled(x))


def numpy_predict(network):
    operations = {"Dense": lambda x, w, b: x @ w + b, "relu": lambda x: np.maximum(x, 0)}
    weights, function = rewritten(network[1:], operations, np.asarray)
    return lambda x: 1 / (1 + np.exp(-function(weights, x)))


def predict(load, turns, train, _, batch_size, network):
    """Reconstruct all images, ``batch_size`` of them in each call of what ``load`` returns."""
    function, images = load(network), data.as_flat_images(train)
    parts = np.split(images, range(batch_size, len(images), batch_size))
    turns.serve(lambda: collections.deque(map(function, parts), maxlen=0))


def gemm(turns, *_):
    """Products of large float32 matrices with NumPy's BLAS, the machine's limit."""
    a, b = np.random.default_rng(0).random((2, GEMM_SIZE, GEMM_SIZE), dtype="float32")
    turns.serve(lambda: collections.deque((a @ b for _ in range(GEMM_PRODUCTS)), maxlen=0))


def idle(turns, *_):
    """TensorFlow imported and nothing done, the memory that every training takes."""
    turns.serve(lambda: None)


TRAININGS = (study, keras_fit, keras_fit_tuned, torch_eager, torch_compiled, jax_scan)
PREDICTORS = {
    "study_predict": study_predict,
    "keras_predict": lambda n: functools.partial(n.autoencoder.predict, batch_size=1000, verbose=0),
    "torch_predict": torch_predict,
    "jax_predict": jax_predict,
    "numpy_predict": numpy_predict,
}
YARDSTICKS = (gemm, idle)
BACKENDS = {function.__name__: function for function in TRAININGS + YARDSTICKS}
BACKENDS |= {name: functools.partial(predict, load) for name, load in PREDICTORS.items()}


def main(turns, name, task, dataset, images, validation, batch_size, latent_dim):
    """Be a backend or yardstick, with settings as for `race`, until nobody asks for more."""
    keras.utils.set_random_seed(0)
    work = ()
    if BACKENDS[name] not in YARDSTICKS:
        network = getattr(models, f"{task}_autoencoder")(latent_dim=latent_dim)
        work = (*pixels(dataset, images, validation), batch_size, network)
    print(json.dumps({"ready": name}), file=turns.answers, flush=True)
    with contextlib.suppress(EOFError):
        BACKENDS[name](turns, *work)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log: the answers are all JSON
    try:
        main(Turns(sys.stdin, answers), **json.loads(sys.argv[1]))
    except (ModuleNotFoundError, StudyError) as error:
        sys.exit(str(error))
