"""What training costs: backends train one epoch each in turns, beside the machine's own speed.

Each backend is a process, ``python -m ae_lib.study.benchmark '{"name": "jax_scan", …}'``. It writes
one line of JSON when it is ready, then trains an epoch for every line that it reads and answers
each with a line of JSON. All of them start from the same weights, sample minibatches without
replacement and take the same Adam steps.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ae_lib import StudyError, data, models, training

import keras
import numpy as np
import pandas as pd

STUDY = "study"  # the backend that the others are compared with
PAUSE = 0.1  # seconds; threads of a matrix product go on spinning for some time after it
UNLIMITED = 10_000  # epochs: the process ends when nobody asks for another one
LEARNING_RATE = 1e-3
VALIDATION_BATCH = 1000
LINEAR = (2, 5)  # layers without ReLU: the bottleneck, and the output, whose sigmoid is in the loss
GEMM_SIZE = 2048  # large enough that a matrix product is bound by arithmetic alone
GEMM_PRODUCTS = 10  # in each turn, about as long as an epoch
GEMM_OPERATIONS = GEMM_PRODUCTS * 2 * GEMM_SIZE**3  # floating-point operations of a turn


def race(entries, repetitions):
    """Let backends train in turns, one epoch each, so that a slow minute is slow for all.

    Parameters
    ----------
    entries : dict
        Label to settings, a dict: ``name`` (of `BACKENDS` or `YARDSTICKS`), ``dataset``,
        ``images`` and ``validation`` (how many), ``batch_size``, ``latent_dim``.
    repetitions : int
        Epochs of each, after a first one in which it prepares and compiles.

    Returns
    -------
    turns : pandas.DataFrame
        One row per epoch: ``entry``, ``repetition`` (0 is the first), ``seconds``, ``loss``,
        ``val_loss`` (nats per pixel), ``peak_rss_mb``.
    absent : dict
        Labels of the backends that could not take part, to the reason.

    Raises
    ------
    StudyError
        If the study's own training cannot take part, or a backend ends after its first epoch.
    """
    rows, epochs, absent = [], {}, {}
    with contextlib.ExitStack() as processes:
        for label, settings in entries.items():
            try:
                epoch = processes.enter_context(started(settings))
                begun = time.perf_counter()
                # Timed from the outside: its own clock leaves preparing and compiling out.
                first = epoch() | {"seconds": time.perf_counter() - begun}
                rows.append({"entry": label, "repetition": 0, **first})
                epochs[label] = epoch
            except StudyError as error:
                if settings["name"] == STUDY:
                    raise
                absent[label] = str(error)
        for repetition in range(1, repetitions + 1):
            for label, epoch in epochs.items():
                time.sleep(PAUSE)
                rows.append({"entry": label, "repetition": repetition, **epoch()})
    return pd.DataFrame(rows), absent


@contextlib.contextmanager
def started(settings):
    """Start a backend; yield a function that lets it train one epoch and returns its answer."""
    command = [sys.executable, "-m", "ae_lib.study.benchmark", json.dumps(settings)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, **pipes) as process:

        def epoch(request=b"\n"):
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its log says why
                process.stdin.write(request)
            if line := process.stdout.readline():
                return json.loads(line)
            log.seek(0)
            last = log.read().decode(errors="replace").strip().splitlines()[-1:]
            reason = " ".join(last).rstrip(".") or "it gave no reason"
            raise StudyError(f"The backend {settings['name']} ended without training: {reason}.")

        try:
            epoch(request=b"")  # not yet: it imports its libraries and loads the images
            yield epoch
        finally:
            process.kill()


def summarise(turns, epochs=50):
    """Summarise a race, one row per entry.

    Returns
    -------
    pandas.DataFrame
        Index ``entry``; ``median``, quartiles ``low`` and ``high``, ``min`` and ``max`` of the
        seconds of an epoch after the first; ``first`` (with preparing and compiling), ``total``
        (``epochs`` epochs, the first included); ``val_loss`` after the last; ``peak_rss_mb``.
    """
    columns = {"50%": "median", "25%": "low", "75%": "high", "min": "min", "max": "max"}
    later, by_entry = turns[turns["repetition"] > 0], turns.groupby("entry", sort=False)
    seconds = later.groupby("entry", sort=False)["seconds"]
    table = seconds.describe()[list(columns)].rename(columns=columns)
    table["first"] = by_entry["seconds"].first()
    table["total"] = table["first"] + (epochs - 1) * table["median"]
    table["val_loss"] = by_entry["val_loss"].last()
    return table.assign(peak_rss_mb=by_entry["peak_rss_mb"].max())


def speedups(turns):
    """Divide each entry's time by the study's: ratio of medians, range of the rounds' ratios."""
    later = turns[turns["repetition"] > 0]
    seconds = later.pivot(index="repetition", columns="entry", values="seconds")
    ratios, medians = seconds.div(seconds[STUDY], axis=0), seconds.median()
    columns = {"median": medians / medians[STUDY], "min": ratios.min(), "max": ratios.max()}
    return pd.DataFrame(columns).loc[turns["entry"].unique()]


def operations(images, validation, latent_dim=32):
    """Count the floating-point operations of an epoch's matrix products.

    Each product takes two per weight and image: forward, the gradient of the weights, and the
    gradient of the inputs, which the first layer does not need; validation is forward only.
    """
    weights = [matrix.size for matrix, _ in initial_weights(latent_dim)]
    return images * 2 * (3 * sum(weights) - weights[0]) + validation * 2 * sum(weights)


def initial_weights(latent_dim):
    """Build the study's network; return the matrix (inputs, outputs) and bias of each layer."""
    weights = models.dense_autoencoder(latent_dim=latent_dim).autoencoder.get_weights()
    return list(zip(weights[::2], weights[1::2], strict=True))


def pixels(dataset, images, validation):
    """Load training and validation images, uint8 (n, 784), repeated until there are enough."""
    loaded = data.load(dataset)
    parts = (loaded.pixels_train, images), (loaded.pixels_val, validation)
    return tuple(part[np.arange(n) % len(part)] for part, n in parts)


class Turns(keras.callbacks.Callback):
    """Wait for a line of ``requests`` before each epoch; write a line to ``answers`` after it.

    A backend whose training is Keras's ``fit`` takes it as a callback, the others call `serve`.
    """

    def __init__(self, requests, answers):
        super().__init__()
        self.requests, self.answers = requests, answers

    def on_epoch_begin(self, epoch, logs=None):  # noqa: D102
        if not self.requests.readline():
            raise EOFError
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):  # noqa: D102
        seconds = time.perf_counter() - self.begun
        answer = {**(logs or {}), "seconds": seconds, "peak_rss_mb": _peak_rss_mb()}
        print(json.dumps(answer), file=self.answers, flush=True)

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


def study(turns, train, val, batch_size, latent_dim):
    """`ae_lib.training.fit`, as the notebooks call it."""
    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    settings = training.Settings(UNLIMITED, batch_size, LEARNING_RATE)
    training.fit(network, train, val, settings, [turns])


def keras_fit(turns, train, val, batch_size, latent_dim, **compile_arguments):
    """``keras.Model.fit`` as tutorials write it: floats in memory, ``validation_data``."""
    x, v = data.as_flat_images(train), data.as_flat_images(val)
    network = models.dense_autoencoder(latent_dim=latent_dim).autoencoder
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    network.compile(optimizer, "binary_crossentropy", **compile_arguments)
    network.fit(x, x, batch_size, UNLIMITED, verbose=0, callbacks=[turns], validation_data=(v, v))


def keras_fit_tuned(turns, *work):
    """``keras.Model.fit`` with XLA and 49 minibatches per call, the fastest of its options."""
    keras_fit(turns, *work, jit_compile=True, steps_per_execution=49)


def torch_eager(turns, train, val, batch_size, latent_dim, wrap=lambda loss: loss, **adam):
    """PyTorch as its tutorials write it: a loop over minibatches of a shuffled tensor."""
    import torch

    network = torch.nn.Sequential()
    for i, (matrix, bias) in enumerate(initial_weights(latent_dim)):
        linear = torch.nn.Linear(*matrix.shape)
        linear.load_state_dict({"weight": torch.tensor(matrix.T), "bias": torch.tensor(bias)})
        network.extend([linear] if i in LINEAR else [linear, torch.nn.ReLU()])
    x, v = (torch.from_numpy(data.as_flat_images(part)) for part in (train, val))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, eps=1e-7, **adam)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    loss_of = wrap(lambda batch: bce(network(batch), batch))

    def epoch():
        total = torch.zeros(())
        for indices in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = loss_of(x[indices])
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(indices)
        with torch.no_grad():
            val_losses = torch.stack([loss_of(batch) for batch in v.split(VALIDATION_BATCH)])
        return {"loss": total.item() / len(x), "val_loss": val_losses.mean().item()}

    turns.serve(epoch)


def torch_compiled(turns, *work):
    """PyTorch with ``torch.compile`` around network and loss, and its fastest Adam, fused."""
    import torch

    torch_eager(turns, *work, torch.compile, fused=True)


def jax_scan(turns, train, val, batch_size, latent_dim):
    """JAX with the epoch as one compiled function, minibatches in ``lax.scan``; Optax's Adam."""
    import jax
    import optax

    x, v = (jax.numpy.asarray(data.as_flat_images(part)) for part in (train, val))
    val_batches = v.reshape(-1, min(VALIDATION_BATCH, len(v)), data.PIXELS)
    full = len(x) // batch_size * batch_size
    optimizer = optax.adam(LEARNING_RATE, eps=1e-7)

    def loss_of(weights, batch):
        hidden = batch
        for i, (matrix, bias) in enumerate(weights):
            hidden = hidden @ matrix + bias
            hidden = hidden if i in LINEAR else jax.nn.relu(hidden)
        return optax.sigmoid_binary_cross_entropy(hidden, batch).mean()

    def step(state, batch):
        weights, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(weights, batch)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(weights, updates), moments), loss * len(batch)

    def epoch_of(state, order, x, val_batches):
        rows = order[:full].reshape(-1, batch_size)
        state, losses = jax.lax.scan(lambda state, row: step(state, x[row]), state, rows)
        state, last = step(state, x[order[full:]]) if full < len(x) else (state, 0.0)
        val_losses = jax.lax.map(lambda batch: loss_of(state[0], batch), val_batches)
        return state, (losses.sum() + last) / len(x), val_losses.mean()

    weights = jax.tree.map(jax.numpy.asarray, initial_weights(latent_dim))
    state, random = (weights, optimizer.init(weights)), np.random.default_rng(0)
    compiled = jax.jit(epoch_of, donate_argnums=0)

    def epoch():
        nonlocal state
        state, loss, val_loss = compiled(state, random.permutation(len(x)), x, val_batches)
        return {"loss": float(loss), "val_loss": float(val_loss)}

    turns.serve(epoch)


def gemm(turns, *_):
    """Products of large float32 matrices with NumPy's BLAS, the machine's limit."""
    a, b = np.random.default_rng(0).random((2, GEMM_SIZE, GEMM_SIZE), dtype="float32")

    def products():
        for _ in range(GEMM_PRODUCTS):
            a @ b

    turns.serve(products)


def idle(turns, *_):
    """TensorFlow imported and nothing done, the memory that every training takes."""
    turns.serve(lambda: None)


TRAININGS = (study, keras_fit, keras_fit_tuned, torch_eager, torch_compiled, jax_scan)
BACKENDS = {function.__name__: function for function in TRAININGS}
YARDSTICKS = {function.__name__: function for function in (gemm, idle)}


def main(turns, name, dataset, images, validation, batch_size, latent_dim):
    """Be a backend or yardstick, with settings as for `race`, until nobody asks for more."""
    keras.utils.set_random_seed(0)
    parts = () if name in YARDSTICKS else pixels(dataset, images, validation)
    print(json.dumps({"ready": name}), file=turns.answers, flush=True)
    with contextlib.suppress(EOFError):
        (BACKENDS | YARDSTICKS)[name](turns, *parts, batch_size, latent_dim)


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to the log: the answers are all JSON
    try:
        main(Turns(sys.stdin, answers), **json.loads(sys.argv[1]))
    except (ModuleNotFoundError, StudyError) as error:
        sys.exit(str(error))
