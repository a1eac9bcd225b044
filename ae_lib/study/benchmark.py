"""A race of the backends in `ae_lib.study.backends`, each a process, which work in turns."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time

from ae_lib import StudyError

import pandas as pd

STUDY = "study"  # the backend that the others are compared with
PAUSE = 0.1  # seconds; threads of a matrix product go on spinning for some time after it
COLUMNS = ["entry", "repetition", "seconds", "loss", "val_loss", "peak_rss_mb"]


def race(entries, repetitions):
    """Let backends work in turns, so that a slow minute is slow for all of them.

    ``entries`` are settings by label: ``name`` (of a backend), ``task`` (the first word of a
    builder's name in `models`), ``dataset``, ``images``, ``validation`` (how many), ``batch_size``
    and ``latent_dim``. Each takes ``repetitions`` turns after a first, in which it also compiles.

    Returns one row per turn, ``repetition`` 0 being the first, and the labels of backends that
    could not take part, to the reason; raises `StudyError` if the study cannot.
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
                if STUDY in (label, settings["name"]):
                    raise
                absent[label] = str(error)
        for repetition in range(1, repetitions + 1):
            for label, epoch in epochs.items():
                time.sleep(PAUSE)
                rows.append({"entry": label, "repetition": repetition, **epoch()})
    return pd.DataFrame(rows, columns=COLUMNS), absent


@contextlib.contextmanager
def started(settings):
    """Start a backend; yield a function that lets it train one epoch and returns its answer."""
    command = [sys.executable, "-m", "ae_lib.study.backends", json.dumps(settings)]
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
    """Summarise a race: median, quartiles and range of the seconds of an entry's later turns.

    Beside them: the first turn, all of ``epochs`` epochs, the last validation loss, the memory.
    """
    columns = {"50%": "median", "25%": "low", "75%": "high", "min": "min", "max": "max"}
    later, by_entry = turns[turns["repetition"] > 0], turns.groupby("entry", sort=False)
    seconds = later.groupby("entry", sort=False)["seconds"]
    table = seconds.describe()[list(columns)].rename(columns=columns)
    table["first"] = by_entry["seconds"].first()
    table["total"] = table["first"] + (epochs - 1) * table["median"]
    return table.join(by_entry[["val_loss", "peak_rss_mb"]].last())  # memory's peak so far


def by_round(turns):
    """Return the seconds of the later turns, a row for each round and a column for each entry."""
    later = turns[turns["repetition"] > 0]
    return later.pivot(index="repetition", columns="entry", values="seconds")


def seconds_by_round(task, turns):
    """Return `by_round` as metrics, ``<entry>.<task>.seconds`` to values, float64 (rounds,)."""
    seconds = by_round(turns)
    return {f"{entry}.{task}.seconds": seconds[entry].to_numpy() for entry in seconds}


def claim_against(rival, task):
    """Return the claim, as of `ae_lib.metrics.judge`, that the study trains faster than a rival."""
    sides = (f"{entry}.{task}.seconds" for entry in (STUDY, rival))
    return f"{task}: the study is faster than {rival}", *sides, "lower"


def speedups(turns):
    """Divide each entry's time by the study's: ratio of medians, range of the rounds' ratios."""
    seconds = by_round(turns)
    ratios, medians = seconds.div(seconds[STUDY], axis=0), seconds.median()
    columns = {"median": medians / medians[STUDY], "min": ratios.min(), "max": ratios.max()}
    return pd.DataFrame(columns).loc[turns["entry"].unique()]


def compared(turns, entries):
    """Return the quartiles of seconds and the multiples of the study's time, a row for each entry.

    Columns median, low, high as of `summarise`, ratio, least, greatest as of `speedups`; a row of
    NaN for an entry that could not take part.
    """
    seconds = summarise(turns)[["median", "low", "high"]]
    ratios = speedups(turns).set_axis(["ratio", "least", "greatest"], axis=1)
    return seconds.join(ratios).reindex(list(entries))


def roofline(operations, rate, seconds):
    """Compare the measured seconds of an epoch with its matrix products at a machine's rate.

    ``operations`` and ``seconds`` map networks to floating-point operations, as of
    `ae_lib.study.backends.operations`, and to what was measured; ``rate`` is in operations per
    second. Returns a pandas.DataFrame with a row for each network.
    """
    table = pd.DataFrame({"operations": operations, "measured / s": seconds})
    table["at the rate / s"] = table["operations"] / rate
    table["share of the rate"] = table["at the rate / s"] / table["measured / s"]
    return table


def microseconds_per_image(turns, images):
    """Return quartiles of the time per training image, in µs, and the peak memory in MB.

    ``images`` are the numbers of training images of the entries, in the order of the turns. The
    columns are value (the median), low, high and peak_rss_mb.
    """
    table = summarise(turns)
    times = table[["median", "low", "high"]].div(images, axis=0) * 1e6
    return times.rename(columns={"median": "value"}).join(table["peak_rss_mb"])
