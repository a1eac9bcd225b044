"""Many runs: every point of a grid of parameters is a trial of its own, executed on Dask."""

import functools
import io
import itertools
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import (
    VALUES,
    explained_write_errors,
    read_json,
    write_bytes,
    write_json,
)
from ae_lib.study import execute, graph
from ae_lib.study.execute import say
from ae_lib.study.fingerprint import is_executed, sha256_of
from ae_lib.study.results import as_cell, judge
from ae_lib.study.results import collect as collect_results

import pandas as pd
from tqdm import tqdm

SCHEMA = {  # of a sweep's file
    "type": "object", "additionalProperties": False, "required": ["profile", "notebooks", "grid"],
    "properties": {
        "profile": {"type": "string"},
        "notebooks": {"type": "array", "minItems": 1},
        # Notebook to parameters, as in a profile.
        "parameters": {"type": "object", "additionalProperties": {"type": "object"}},
        "grid": {
            "type": "object", "minProperties": 1,
            "additionalProperties": {"type": "array", "minItems": 1, "uniqueItems": True},
        },
        "limits": {  # of a trial
            "type": "object", "additionalProperties": False,
            "properties": {
                "threads": {"type": "integer", "minimum": 1},
                "minutes": {"type": "number", "exclusiveMinimum": 0},
            },
        },
    },
}  # fmt: skip
RECORD = {"done": "trial.json", "failed": "failed.json"}  # what is kept of a trial
ROW = {"status": "missing", "seconds": math.nan, "worker": "", "error": ""}  # last columns


@dataclass(frozen=True)
class Trial:
    """What is executed, and all that its numbers depend on but for the processor."""

    point: dict  # what is varied, to its value here
    tasks: dict  # of `ae_lib.study.execute.make_tasks`
    environment: dict  # caps on threads, which change the last digits
    minutes: float  # after which a notebook of it has failed

    @property
    def name(self):
        """Its point as text, fit for the name of a folder and unique in the sweep."""
        text = "_".join(f"{key}={value}" for key, value in self.point.items())
        return f"{re.sub(r'[^.=A-Za-z0-9_-]+', '', text)[:100]}-{sha256_of(self.point)[:10]}"

    @property
    def fingerprint(self):
        """SHA-256 of what the numbers depend on."""
        prints = {name: task["fingerprint"] for name, task in self.tasks.items()}
        return sha256_of([self.environment, prints])


def load_sweep(name):
    """The trials of a sweep in ``notebooks/params/sweeps/``, or of a file by its path.

    In the order of the grid, whose last parameter changes fastest. `StudyError` for anything in the
    file that is unknown, missing, empty, given twice or of a wrong type.
    """
    import jsonschema

    path = graph.named_file(name, graph.PARAMS / "sweeps", "sweep")
    content = graph.read_yaml(path)
    try:
        jsonschema.validate(content, SCHEMA)
    except jsonschema.ValidationError as error:
        raise StudyError(
            f"{path.name} is no sweep: at {error.json_path}, {error.message}; expected profile, "
            "notebooks, grid, and if wanted parameters and limits: correct it."
        ) from None
    grid, limits = content["grid"], {"threads": 1, "minutes": 60.0, **content.get("limits", {})}
    base = graph.named_file(content["profile"], graph.PARAMS, "profile")
    sections = graph.read_sections(base)
    for section, own in content.get("parameters", {}).items():
        sections[section] = {**sections.get(section, {}), **own}
        if both := sorted(set(own) & set(grid)):
            raise StudyError(
                f"{path.name} sets {both[0]} in {section} and varies it in its grid; expected one "
                "of the two."
            )
    full = graph.resolve(base.stem, sections, path.name)
    trials = []
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        tasks = execute.make_tasks(_at(path, point, full, content["notebooks"]))
        trials.append(Trial(point, tasks, execute.threads(limits["threads"]), limits["minutes"]))
    return trials


def _at(path, point, full, targets):
    """The profile at a point of the grid: the notebooks asked for, and what they need."""
    if unknown := [name for name in targets if name not in full.parameters]:
        raise StudyError(
            f"{path.name} asks for a notebook {unknown[0]!r}; expected some of "
            f"{', '.join(full.parameters)}."
        )
    varied = {}
    for name, own in full.parameters.items():
        changes = {key: value for key, value in point.items() if key in own}
        graph.check_parameters(path.name, "grid", changes, graph.declared_parameters(name))
        varied[name] = {**own, **changes, "profile": path.stem}
    profile = graph.ordered(path.stem, varied).restricted_to(targets)
    used = {key for own in profile.parameters.values() for key in own}
    if unused := sorted(set(point) - used):
        raise StudyError(
            f"{path.name} varies {unused[0]}, which none of {', '.join(profile.parameters)} has; "
            "expected a parameter of theirs: leave it out, or add a notebook."
        )
    return profile


def run_trial(trial, with_models=False):
    """Execute a trial in a temporary folder, on any machine that has ae_lib and the data.

    If it is interrupted or fails the folder stays, and the trial of the same profile and point
    resumes there after those notebooks that are not out of date. Returns what `outcome_of` gives.
    """
    from filelock import FileLock

    (profile,) = {task["parameters"]["profile"] for task in trial.tasks.values()}
    key, error = sha256_of([profile, trial.point, trial.environment]), ""
    work = Path(tempfile.gettempdir(), f"trial-{key[:16]}")
    work.mkdir(exist_ok=True)
    folder = work / "reports" / profile
    with FileLock(work / ".lock"):  # another sweep on this machine may have the same trial
        try:
            for name, task in trial.tasks.items():
                if not is_executed(folder, name, task["fingerprint"]):
                    execute.execute(task, folder, trial.environment, minutes=trial.minutes)
        except StudyError as failure:
            error = str(failure)
        outcome = outcome_of(trial, folder, error, with_models)
        if not error:
            shutil.rmtree(work, ignore_errors=True)
    return outcome


def outcome_of(trial, folder, error="", with_models=False):
    """What a run's folder has of a trial, a dict.

    ``status``, "done" or "failed"; ``error``, a sentence, empty if it is done; what
    `ae_lib.study.results.collect` gives; ``files``, name to bytes: the notebooks, what they have
    measured of each image, and the models if asked for, or what the notebook that failed has left.
    """
    patterns = [f"{name}.ipynb" for name in trial.tasks] + [f"artifacts/*/{VALUES}"]
    if with_models:
        patterns.append("artifacts/*/*.keras")
    if error:
        patterns = ["*.failed.*"]
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    executed = [name for name in trial.tasks if (folder / f"{name}.ipynb").is_file()]
    return {
        "status": "failed" if error else "done",
        "error": error,
        "files": {_file_name(path): path.read_bytes() for path in paths},
        **collect_results(folder, executed),
    }


def _file_name(path):
    return f"{path.parent.name}.npz" if path.name == VALUES else path.name


def collect(trials, folder, scheduler=None, workers=None, with_models=False, work=run_trial):
    """Execute those trials that are not done yet, and keep what each gives when it arrives.

    The folder gets ``trials/``, with a folder for each trial, ``claims.csv``, a table of `judge`,
    and the table that is returned, as of `write_table`. ``scheduler`` is the address of a Dask
    scheduler; by default one is started here, with ``workers`` processes. ``work`` is a function
    like `run_trial`. `StudyError` if the scheduler cannot be reached, or the folder cannot be
    written; what has arrived is kept.
    """
    waiting = [trial for trial in trials if not _is_done(folder, trial, with_models)]
    if len(waiting) < len(trials):
        say(f"{len(trials) - len(waiting)} of {len(trials)} trials are done already")
    try:
        if waiting:
            room = (os.cpu_count() or 1) // int(waiting[0].environment[execute.THREADS[0]])
            with _connected(scheduler, workers or max(1, min(len(waiting), room))) as client:
                task = functools.partial(_timed, work, with_models)
                _execute_on(client, task, waiting, len(trials), folder)
    finally:
        results = write_table(trials, folder)
        with explained_write_errors(folder):
            table = judge((trial.point, *_finished(folder, trial)) for trial in trials)
            write_bytes(folder / "claims.csv", table.to_csv(index=False).encode())
    return results


def _connected(scheduler, workers):
    import dask
    from distributed import Client

    if scheduler:
        options = {"address": scheduler, "timeout": 20}
    else:  # a worker only waits for a kernel: one thread, no limit on its own memory
        options = {"n_workers": workers, "threads_per_worker": 1, "memory_limit": 0}
        options |= {"dashboard_address": "127.0.0.1:8787", "silence_logs": logging.CRITICAL}
    try:
        # A worker has no more than one trial at a time: if it dies of one, no other fails.
        with dask.config.set({"distributed.scheduler.worker-saturation": 1.0}):
            client = Client(**options)
    except (OSError, ValueError) as error:
        raise StudyError(
            f"No Dask scheduler answers at {scheduler} ({error}); expected an address such as "
            "tcp://host:8786: start one, or leave the address out."
        ) from error
    say(f"{len(client.scheduler_info()['workers'])} workers; dashboard: {client.dashboard_link}")
    return client


def _timed(work, with_models, trial):
    from distributed import get_worker

    begun, address = time.monotonic(), get_worker().address
    outcome = work(trial, with_models)
    seconds = round(time.monotonic() - begun, 1)
    return {**outcome, "seconds": seconds, "worker": address, "provenance": execute.provenance()}


def _execute_on(client, task, trials, total, folder):
    from distributed import as_completed

    # Keys are of this run alone, since a scheduler gives the result that it has for a key. They
    # begin alike and are submitted together: one group, which Dask queues until a worker is free.
    run = uuid.uuid4().hex[:8]
    keys = {f"trial-{trial.name}-{run}": trial for trial in trials}
    done, commit = total - len(trials), execute.git_commit()
    client.subscribe_topic("all", functools.partial(_tell_of_lost_worker, frozenset(keys)))
    try:
        futures = as_completed(client.map(task, trials, key=list(keys)))
        with tqdm(total=total, initial=done, unit="trial", file=sys.stderr, disable=None) as bar:
            for number, future in enumerate(futures, done + 1):
                trial, outcome = keys[future.key], _outcome_of(future)
                keep({**outcome, "git_commit": commit}, trial, folder)
                told = f"FAILED: {outcome['error']}\n    see {folder / 'trials' / trial.name}"
                if outcome["status"] == "done":
                    told = f"done in {outcome['seconds']:.0f} s by {outcome['worker']}"
                bar.update()
                say(f"{number}/{total}  {trial.name}  {told}")
    finally:
        client.unsubscribe_topic("all")  # lest the scheduler write to a client that has gone


def _tell_of_lost_worker(keys, event):
    message = event[1]
    if message.get("action") == "remove-worker" and not message["expected"]:
        running = ", ".join(sorted(keys & set(message["processing-tasks"])))
        say(f"worker {message['worker']} is lost; executed elsewhere: {running or 'nothing'}")


def _outcome_of(future):
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        return future.result()
    except KilledWorker:
        reason = "Every worker that it was tried on has died; try it alone."
    except (CancelledError, CommClosedError) as error:
        raise StudyError(
            "The Dask scheduler is gone; expected it to stay until the sweep has ended: start the "
            "sweep again, which resumes after what has arrived."
        ) from error
    except Exception as error:  # a worker's own, such as of a full disk: its row says it
        reason = f"{type(error).__name__}: {error}"
    return {"status": "failed", "error": reason, "files": {}}


def keep(outcome, trial, folder):
    """Keep what a worker gave in ``trials/<name>/``; a failure beside the last good result."""
    own, record = folder / "trials" / trial.name, RECORD[outcome["status"]]
    kept = {"fingerprint": trial.fingerprint, "files": list(outcome["files"])}
    with explained_write_errors(folder):
        own.mkdir(parents=True, exist_ok=True)
        for name, content in outcome["files"].items():
            write_bytes(own / name, content)
        write_json(own / record, {**outcome, **kept})  # last: now it is done
        if outcome["status"] == "done":  # what else is there is of a failure, or of other code
            for path in own.iterdir():
                if path.name not in {*outcome["files"], record}:
                    path.unlink()


def record_of(folder, trial):
    """What is kept of a trial under its present fingerprint; empty if there is nothing."""
    for name in RECORD.values():
        path = folder / "trials" / trial.name / name
        if path.is_file() and (record := read_json(path))["fingerprint"] == trial.fingerprint:
            return record
    return {}


def _is_done(folder, trial, with_models):
    record = record_of(folder, trial)
    has_models = any(name.endswith(".keras") for name in record.get("files", []))
    return record.get("status") == "done" and (has_models or not with_models)


def _finished(folder, trial):
    """What is kept of a trial that is done, and the paths of its files; empty if it is not."""
    record = record_of(folder, trial)
    if record.get("status") != "done":
        return {}, []
    return record, [folder / "trials" / trial.name / file for file in record["files"]]


def write_table(trials, folder):
    """Write ``results.csv`` and ``results.parquet``, a row for each trial; a pandas.DataFrame.

    Columns: what is varied; all parameters, as ``<notebook>.<parameter>``, lists as JSON; the
    metrics' values; ``status``, "done", "failed" or "missing"; ``seconds``; ``worker``; ``error``.
    """
    records = [record_of(folder, trial) for trial in trials]
    measured = sorted({name for record in records for name in record.get("metrics", {})})
    rows, parquet = [], io.BytesIO()
    for trial, record in zip(trials, records, strict=True):
        row = dict(trial.point)
        for notebook, task in trial.tasks.items():
            row |= {f"{notebook}.{key}": value for key, value in task["parameters"].items()}
        row = {key: as_cell(value) for key, value in row.items()}
        entries = record.get("metrics", {})
        row |= {name: entries.get(name, {}).get("value", math.nan) for name in measured}
        rows.append(row | {key: record.get(key, empty) for key, empty in ROW.items()})
    table = pd.DataFrame(rows)
    table.to_parquet(parquet, index=False)
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "results.parquet", parquet.getvalue())
        write_bytes(folder / "results.csv", table.to_csv(index=False).encode())
    return table
