"""The study's network, trained one epoch at a time by those who race in the benchmark, each in a process of its own.

``python -m ae_lib.study.contenders '{"name": "jax_scan", …}'`` prepares itself, then trains one epoch with its validation pass
for every line that it reads, and answers each with a line of JSON. All of them start from the same kind of weights
(Glorot uniform, biases 0), draw minibatches without replacement, take the same Adam steps and report the same losses.
"""

import json
import re
import resource
import sys
import time
from pathlib import Path

from ae_lib import StudyError, data, models

import keras
import numpy as np

LEARNING_RATE = 1e-3
VALIDATION_BATCH = 1000
LINEAR = (2, 5)  # layers without ReLU: the bottleneck, and the output, whose sigmoid is in the loss
GEMM_SIZE = 2048  # large enough that a matrix product is bound by arithmetic alone
GEMM_PRODUCTS = 10  # in each turn, about as long as an epoch


def pixels(dataset, images, validation):
    """Training and validation images as uint8 (n, 784), the data set's own repeated until there are enough."""
    loaded = data.load(dataset)
    return tuple(
        part[np.arange(n) % len(part)]
        for part, n in ((loaded.pixels_train, images), (loaded.pixels_val, validation))
    )


class Turns(keras.callbacks.Callback):
    """Wait for a line before each epoch of Keras's ``fit``, and answer it afterwards."""

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        if not sys.stdin.readline():
            raise EOFError
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        answer(time.perf_counter() - self.begun, logs["loss"], logs["val_loss"])


def answer(seconds, loss=None, val_loss=None):
    """Report an epoch, with the peak memory of this process so far."""
    peak = _peak_rss_mb()
    print(
        json.dumps({"seconds": seconds, "loss": loss, "val_loss": val_loss, "peak_rss_mb": peak}),
        flush=True,
    )


def _peak_rss_mb():
    try:  # getrusage counts what the parent had when it started this process
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
    except FileNotFoundError:  # macOS, which counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def in_turns(epoch):
    """Run a function that trains an epoch and returns its losses, once for every line read."""
    for _ in iter(sys.stdin.readline, ""):
        begun = time.perf_counter()
        losses = epoch()
        answer(time.perf_counter() - begun, *losses)


def study(train, val, batch_size, latent_dim):
    """`ae_lib.training.fit`, as the notebooks call it."""
    from ae_lib import training

    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    training.fit(
        network, train, val, training.Settings(10_000, batch_size, LEARNING_RATE), [Turns()]
    )


def keras_fit(train, val, batch_size, latent_dim, **compile_arguments):
    """``keras.Model.fit`` as tutorials write it: floats in memory, ``validation_data``, nothing else."""
    x, v = data.as_flat_images(train), data.as_flat_images(val)
    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    network.compile(
        keras.optimizers.Adam(LEARNING_RATE), "binary_crossentropy", **compile_arguments
    )
    network.fit(
        x, x, batch_size, epochs=10_000, validation_data=(v, v), verbose=0, callbacks=[Turns()]
    )


def keras_fit_tuned(train, val, batch_size, latent_dim):
    """``keras.Model.fit`` with XLA and fifty minibatches per call, the fastest of what its options allow."""
    keras_fit(train, val, batch_size, latent_dim, jit_compile=True, steps_per_execution=49)


def torch_eager(
    train, val, batch_size, latent_dim, compiled=False
):  # pragma: no cover  # an optional peer
    """PyTorch as its tutorials write it: a loop over minibatches of a shuffled tensor."""
    import torch
    from torch import nn

    network = nn.Sequential()
    for i, (a, b) in enumerate(shapes(latent_dim)):
        linear = nn.Linear(a, b)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        network.append(linear)
        if i not in LINEAR:
            network.append(nn.ReLU())
    x, v = (torch.from_numpy(data.as_flat_images(part)) for part in (train, val))
    # The fused step is PyTorch's fastest Adam on a CPU; tutorials leave it out.
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-7, fused=compiled)

    def loss_of(batch):
        return nn.functional.binary_cross_entropy_with_logits(network(batch), batch)

    if compiled:
        loss_of = torch.compile(loss_of)

    def epoch():
        order, total, val_total = torch.randperm(len(x)), torch.zeros(()), torch.zeros(())
        for indices in order.split(batch_size):
            optimizer.zero_grad()
            loss = loss_of(x[indices])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(indices)
        with torch.no_grad():
            for batch in v.split(VALIDATION_BATCH):
                val_total += loss_of(batch) * len(batch)
        return total.item() / len(x), val_total.item() / len(v)

    in_turns(epoch)


def torch_compiled(train, val, batch_size, latent_dim):  # pragma: no cover  # an optional peer
    """PyTorch with ``torch.compile`` around network and loss, and the fused Adam."""
    torch_eager(train, val, batch_size, latent_dim, compiled=True)


def jax_scan(train, val, batch_size, latent_dim):  # pragma: no cover  # an optional peer
    """JAX with the whole epoch in one compiled function, its minibatches in ``lax.scan``; Adam from Optax."""
    import jax
    import jax.numpy as jnp
    import optax

    x, v = (jnp.asarray(data.as_flat_images(part)) for part in (train, val))
    glorot = jax.nn.initializers.glorot_uniform()
    layers = shapes(latent_dim)
    keys = jax.random.split(jax.random.key(0), len(layers))
    weights = [
        (glorot(key, shape), jnp.zeros(shape[1])) for key, shape in zip(keys, layers, strict=True)
    ]
    optimizer = optax.adam(LEARNING_RATE, eps=1e-7)

    def loss_of(weights, batch):
        h = batch
        for i, (w, b) in enumerate(weights):
            h = h @ w + b
            if i not in LINEAR:
                h = jax.nn.relu(h)
        return optax.sigmoid_binary_cross_entropy(h, batch).mean()

    def epoch_of(carry, key, x, v):
        def step(carry, indices):
            weights, state = carry
            loss, gradient = jax.value_and_grad(loss_of)(weights, x[indices])
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, updates), state), loss * len(indices)

        order, full = jax.random.permutation(key, len(x)), len(x) // batch_size * batch_size
        carry, losses = jax.lax.scan(step, carry, order[:full].reshape(-1, batch_size))
        total = losses.sum()
        if full < len(x):
            carry, last = step(carry, order[full:])
            total += last
        batches = v.reshape(-1, min(VALIDATION_BATCH, len(v)), data.PIXELS)
        _, val_losses = jax.lax.scan(
            lambda _, batch: (None, loss_of(carry[0], batch)), None, batches
        )
        return carry, total / len(x), val_losses.mean()

    compiled = jax.jit(epoch_of, donate_argnums=0)
    carry, key = (weights, optimizer.init(weights)), jax.random.key(1)

    def epoch():
        nonlocal carry, key
        key, now = jax.random.split(key)
        carry, loss, val_loss = compiled(carry, now, x, v)
        return float(loss), float(val_loss)

    in_turns(epoch)


def shapes(latent_dim):
    """Shapes (inputs, outputs) of the network's weights, from the first layer to the last."""
    layers = models.layer_table(models.dense_autoencoder(latent_dim=latent_dim).autoencoder)
    sizes = [data.PIXELS, *(units for _, units, _, _ in layers)]
    return list(zip(sizes, sizes[1:], strict=False))


def gemm(*_):
    """No network: products of large float32 matrices with NumPy's BLAS, the machine's speed limit."""
    a, b = np.random.default_rng(0).random((2, GEMM_SIZE, GEMM_SIZE), dtype="float32")

    def products():
        for _ in range(GEMM_PRODUCTS):
            a @ b
        return ()

    in_turns(products)


def idle(*_):
    """No network: TensorFlow imported and nothing done, the memory that everything else stands on."""
    in_turns(tuple)


CONTENDERS = {
    f.__name__: f
    for f in (study, keras_fit, keras_fit_tuned, torch_eager, torch_compiled, jax_scan)
}
YARDSTICKS = {f.__name__: f for f in (gemm, idle)}


def main(text):
    """Take part as the JSON text says: name, dataset, images, validation, batch_size, latent_dim."""
    settings = json.loads(text)
    name = settings["name"]
    parts = (
        (None, None)
        if name in YARDSTICKS
        else pixels(*(settings[k] for k in ("dataset", "images", "validation")))
    )
    keras.utils.set_random_seed(0)
    print(json.dumps({"ready": name}), flush=True)
    try:
        {**CONTENDERS, **YARDSTICKS}[name](*parts, settings["batch_size"], settings["latent_dim"])
    except EOFError:  # nobody waits for another epoch
        pass
    except ImportError as error:
        sys.exit(f"{error.name} is not installed")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except StudyError as error:
        sys.exit(f"error: {error}")
