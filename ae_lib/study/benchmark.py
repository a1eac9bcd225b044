"""What training costs: a race of processes that take turns, the operations of an epoch, and where its time goes."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ae_lib.quiet  # noqa: F401  # before keras, which imports TensorFlow
from ae_lib import XLA_FLAGS, StudyError, models, training
from ae_lib.study import contenders

import keras
import pandas as pd
import tensorflow as tf

STUDY = "study"
PAUSE = 0.1  # seconds; threads of a matrix product go on spinning for some time after it


class Contender:
    """A process that trains an epoch whenever it is told to.

    Parameters
    ----------
    settings : dict
        ``name`` (one of `ae_lib.study.contenders.CONTENDERS` or `ae_lib.study.contenders.YARDSTICKS`), ``dataset``, ``images``,
        ``validation``, ``batch_size``, ``latent_dim``.

    Raises
    ------
    StudyError
        If it cannot take part.
    """

    def __init__(self, settings):
        self.name, self.errors = settings["name"], tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        command = [sys.executable, "-m", "ae_lib.study.contenders", json.dumps(settings)]
        # The study's choice of compiler flags is not its competitors'.
        flags = (
            ""
            if self.name != STUDY and os.environ["XLA_FLAGS"] == XLA_FLAGS
            else os.environ["XLA_FLAGS"]
        )
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self.errors,
            "text": True,
        }
        self.process = subprocess.Popen(command, **pipes, env={**os.environ, "XLA_FLAGS": flags})
        try:
            self._listen()  # it has imported its libraries and loaded the images
        except StudyError:
            self.end()
            raise

    def epoch(self):
        """Let it train one epoch; a dict of ``seconds``, ``loss``, ``val_loss``, ``peak_rss_mb``."""
        with contextlib.suppress(
            BrokenPipeError
        ):  # why it has ended is among its errors, which _listen reads
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        return self._listen()

    def end(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _listen(self):
        for line in self.process.stdout:
            if line.startswith("{"):  # the rest is what libraries and progress bars print
                return json.loads(line)
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        raise StudyError(
            f"{self.name} ended without training: {' '.join(last) or 'it said nothing'}."
        )


def race(entries, repetitions):
    """Let contenders train in turns: one epoch each, over and over, so that a slow minute is slow for all.

    Parameters
    ----------
    entries : dict
        Label to settings, as for `Contender`.
    repetitions : int
        Epochs of each, after a first one in which it prepares and compiles.

    Returns
    -------
    turns : pandas.DataFrame
        One row per epoch: ``entry``, ``repetition`` (0 is the first), ``seconds``, ``loss``, ``val_loss``,
        ``peak_rss_mb``.
    absent : dict
        Labels of those that could not take part, to the reason.

    Raises
    ------
    StudyError
        If the study's own training cannot take part.
    """
    runners, rows, absent = {}, [], {}
    try:
        for label, settings in entries.items():
            try:
                runners[label] = Contender(settings)
                begun = time.perf_counter()
                first = runners[label].epoch()
            except StudyError as error:
                if settings["name"] == STUDY:
                    raise
                absent[label] = str(error)
                continue
            # From the outside, since preparing and compiling is not in what the contender itself times.
            rows.append(
                {"entry": label, "repetition": 0, **first, "seconds": time.perf_counter() - begun}
            )
        for repetition in range(1, repetitions + 1):
            for label in (label for label in entries if label not in absent):
                time.sleep(PAUSE)
                rows.append({"entry": label, "repetition": repetition, **runners[label].epoch()})
    finally:
        for runner in runners.values():
            runner.end()
    return pd.DataFrame(rows), absent


def summarise(turns, epochs=50):
    """One row per entry of a race.

    Returns
    -------
    pandas.DataFrame
        Index ``entry``; ``median``, quartiles ``low`` and ``high``, range ``least`` to ``most`` of the seconds of an
        epoch; ``first`` (with preparing and compiling), ``whole`` (``epochs`` epochs, the first included); ``val_loss``
        after the last epoch; ``peak_rss_mb``.
    """
    by_entry, later = turns.groupby("entry", sort=False), _later(turns)
    quartiles = {
        "median": later.median(),
        "low": later.quantile(0.25),
        "high": later.quantile(0.75),
    }
    table = pd.DataFrame({**quartiles, "least": later.min(), "most": later.max()})
    table["first"] = by_entry["seconds"].first()
    table["whole"] = table["first"] + (epochs - 1) * table["median"]
    return table.assign(
        val_loss=by_entry["val_loss"].last(), peak_rss_mb=by_entry["peak_rss_mb"].max()
    )


def speedups(turns):
    """How many times as long as the study's each entry's epochs take: ratio of medians, and range over the rounds."""
    seconds = turns[turns["repetition"] > 0].pivot(
        index="repetition", columns="entry", values="seconds"
    )
    by_round, medians = seconds.div(seconds[STUDY], axis=0), seconds.median()
    table = pd.DataFrame(
        {"median": medians / medians[STUDY], "least": by_round.min(), "most": by_round.max()}
    )
    return table.loc[turns["entry"].unique()]


def _later(turns):
    return turns[turns["repetition"] > 0].groupby("entry", sort=False)["seconds"]


def operations(images, validation, latent_dim=32):
    """Floating-point operations of an epoch's matrix products: two per weight and image in each of the three products.

    Forward, the gradient of the weights, and the gradient of the inputs, which the first layer does not need; the
    validation pass is forward only.
    """
    weights = [inputs * outputs for inputs, outputs in contenders.shapes(latent_dim)]
    return images * 2 * (3 * sum(weights) - weights[0]) + validation * 2 * sum(weights)


def gemm_rate(turns):
    """The machine's float32 matrix-product rate in operations per second: the median over ``gemm``'s turns."""
    return contenders.GEMM_PRODUCTS * 2 * contenders.GEMM_SIZE**3 / _later(turns).median()["gemm"]


KINDS = {  # of the compiled program's pieces, by the name of the TensorFlow operation that each was made from
    "matrix products": r"/MatMul",
    "Adam": r"/adam/",
    "loss": r"binary_crossentropy",
    "reading images": r"Gather|truediv|Cast",
    "ReLU, sigmoid and biases": r"Relu|Sigmoid|BiasAdd|Neg|gradient_tape",
}


def time_by_kind(settings):
    """Profile one epoch of the study's training: the share of the compiled program's time, by kind of operation.

    The names of the pieces come from TensorFlow's profiler, what each was made from out of XLA's own listing of the
    compiled program. Where pieces run side by side their times add up.

    Returns
    -------
    pandas.Series
        Shares by kind, ``other`` for what has no name, in descending order, sum 1.
    """
    with tempfile.TemporaryDirectory() as folder:
        flags = f"{XLA_FLAGS} --xla_cpu_enable_xprof_traceme=true --xla_dump_to={folder} --xla_dump_hlo_as_text"
        command = [sys.executable, "-m", "ae_lib.study.benchmark", folder, json.dumps(settings)]
        subprocess.run(
            command, env={**os.environ, "XLA_FLAGS": flags}, check=True, stdout=subprocess.DEVNULL
        )
        listing = max(
            Path(folder).glob("*cpu_after_optimizations.txt"), key=lambda path: path.stat().st_size
        )
        text, seconds = listing.read_text(encoding="utf-8"), _traced(folder)
    made_from = dict(re.findall(r'^ *(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]+)"', text, re.M))
    shares = {}
    for name, duration in seconds.items():
        kind = next(
            (k for k, pattern in KINDS.items() if re.search(pattern, made_from.get(name, ""))),
            "other",
        )
        shares[kind] = shares.get(kind, 0) + duration / sum(seconds.values())
    return pd.Series(shares).sort_values(ascending=False)


def _traced(folder):
    """Seconds of each piece of the compiled program, by its name, from the profile in a folder."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    profile = xplane_pb2.XSpace()
    (path,) = Path(folder).rglob("*.xplane.pb")
    profile.ParseFromString(path.read_bytes())
    seconds = {}
    for plane in profile.planes:
        for line in plane.lines:
            for event in (
                line.events if "Eigen" in line.name else ()
            ):  # the threads on which the program runs
                name = plane.event_metadata[event.metadata_id].name
                if not name.startswith(
                    ("ThunkExecutor", "SlinkyThreadPool", "end: ")
                ):  # they contain or repeat others
                    seconds[name] = seconds.get(name, 0) + event.duration_ps / 1e12
    return seconds


class _ProfileThird(keras.callbacks.Callback):
    """Profile the third epoch: the first compiles, the second warms up."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
            tf.profiler.experimental.start(self.folder, options=options)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            tf.profiler.experimental.stop()


if __name__ == "__main__":  # the process that is profiled
    into, told = sys.argv[1], json.loads(sys.argv[2])
    parts = contenders.pixels(told["dataset"], told["images"], told["validation"])
    network = models.dense_autoencoder(latent_dim=told["latent_dim"]).autoencoder
    training.fit(network, *parts, training.Settings(3, told["batch_size"]), [_ProfileThird(into)])
