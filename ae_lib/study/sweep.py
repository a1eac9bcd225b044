"""Many runs: every point of a grid of parameters is a trial of its own, executed on Dask."""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import logging
import math
import os
import re
import sys
import tempfile
import time
import uuid
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import explained_write_errors, read_json, write_bytes, write_json
from ae_lib.study import execute, graph, site
from ae_lib.study.execute import say

import pandas as pd
from tqdm import tqdm

FOLDER = graph.PARAMS / "sweeps"
SCHEMA = {  # of a sweep's file
    "type": "object",
    "additionalProperties": False,
    "required": ["profile", "notebooks", "grid"],
    "properties": {
        "profile": {"type": "string"},
        "notebooks": {"type": "array", "minItems": 1},
        "parameters": {"type": "object"},  # notebook to parameters, as in a profile
        "grid": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"type": "array", "minItems": 1, "uniqueItems": True},
        },
        "limits": {  # of a trial
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "threads": {"type": "integer", "minimum": 1},
                "minutes": {"type": "number", "exclusiveMinimum": 0},
            },
        },
    },
}
RECORD = {True: "trial.json", False: "failed.json"}  # a trial's files, by whether it is done
ROW = {"status": "", "seconds": math.nan, "worker": "", "error": ""}  # last columns, if empty


@dataclass(frozen=True)
class Trial:
    """What is executed, and all that its numbers depend on but for the processor.

    Attributes
    ----------
    point : dict
        What is varied, to its value here.
    tasks : dict
        Of `ae_lib.study.execute.make_tasks`, in the order of execution.
    environment : dict
        Caps on threads; part of the trial, since they change the last digits.
    minutes : float
        After which a notebook of it has failed.
    """

    point: dict
    tasks: dict
    environment: dict
    minutes: float

    @property
    def name(self):
        """Its point as text, fit for the name of a folder and unique in the sweep."""
        text = "_".join(f"{key}={value}" for key, value in self.point.items())
        return f"{re.sub(r'[^.=A-Za-z0-9_-]+', '', text)[:100]}-{_sha256(self.point)[:10]}"

    @property
    def fingerprint(self):
        """SHA-256 of what the numbers depend on."""
        prints = {name: task["fingerprint"] for name, task in self.tasks.items()}
        return _sha256([self.environment, prints])


def make_trial(point, profile, environment, minutes=60.0):
    """A trial of all notebooks of a `ae_lib.study.graph.Profile`."""
    return Trial(point, execute.make_tasks(profile), environment, minutes)


def _sha256(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def run_trial(trial, with_models=False):
    """Execute a trial in a temporary folder, on any machine that has ae_lib and the data.

    Returns
    -------
    dict
        ``status``, "done" or "failed"; ``metrics`` and ``headline`` as of
        `ae_lib.study.site.collect`; ``files``, name to bytes: the notebooks, and the models if they
        are asked for; ``error``, a sentence, empty if it is done.
    """
    error = ""
    with tempfile.TemporaryDirectory(prefix="trial-", ignore_cleanup_errors=True) as temporary:
        names = {task["parameters"]["profile"] for task in trial.tasks.values()}
        folder = Path(temporary) / "reports" / names.pop()
        try:
            for task in trial.tasks.values():
                execute.execute(task, folder, trial.environment, minutes=trial.minutes)
        except StudyError as failure:
            error = str(failure)
        models = folder.glob("artifacts/*/*.keras") if with_models else []
        paths = [*folder.glob("[0-9]*.ipynb"), *folder.glob("*.failed.log"), *models]
        executed = [name for name in trial.tasks if (folder / f"{name}.ipynb").is_file()]
        results = site.collect(folder, executed)
        return {
            "status": "failed" if error else "done",
            "error": error,
            "metrics": results["metrics"],
            "headline": results["headline"],
            "files": {path.name: path.read_bytes() for path in sorted(paths)},
        }


def sweep_file(name):
    """The YAML file of a sweep: a name in ``notebooks/params/sweeps/``, or a path."""
    return graph.named_file(name, FOLDER, "sweep")


def load_sweep(name):
    """The trials of a sweep, in the order of its grid, whose last parameter changes fastest.

    Raises
    ------
    StudyError
        For anything in the file that is unknown, missing, empty, given twice or of a wrong type.
    """
    path = sweep_file(name)
    content = _read(path)
    grid, limits = content["grid"], {"threads": 1, "minutes": 60.0, **content.get("limits", {})}
    base, more = graph.profile_file(content["profile"]), content.get("parameters", {})
    sections = graph.read_sections(base)
    for section, own in graph.checked_sections(more, path.name).items():
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
        profile = _at(path, point, full, content["notebooks"])
        environment = execute.threads(limits["threads"])
        trials.append(make_trial(point, profile, environment, limits["minutes"]))
    return trials


def _read(path):
    import jsonschema

    content = graph.read_yaml(path)
    try:
        jsonschema.validate(content, SCHEMA)
    except jsonschema.ValidationError as error:
        raise StudyError(
            f"{path.name} is no sweep: at {error.json_path}, {error.message}; expected profile, "
            "notebooks, grid, and if wanted parameters and limits: correct it."
        ) from None
    return content


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
        known = graph.declared_parameters(name)
        graph.check_parameters(path.name, "grid", changes, known)
        varied[name] = {**own, **changes, "profile": path.stem}
    profile = graph.ordered(path.stem, varied).restricted_to(targets)
    used = {key for own in profile.parameters.values() for key in own}
    if unused := sorted(set(point) - used):
        raise StudyError(
            f"{path.name} varies {unused[0]}, which none of {', '.join(profile.parameters)} has; "
            "expected a parameter of theirs: leave it out, or add a notebook."
        )
    return profile


def collect(trials, folder, scheduler=None, workers=None, with_models=False, work=run_trial):
    """Execute those trials that are not done yet, and keep what each gives when it arrives.

    Parameters
    ----------
    trials : sequence of Trial
    folder : Path
        Gets ``trials/``, with a folder for each trial, ``results.csv`` and ``results.parquet``.
    scheduler : str, optional
        Address of a Dask scheduler. By default one is started here, with ``workers`` processes.
    with_models : bool
        Whether trained models are kept as well.
    work : callable
        As `run_trial`.

    Returns
    -------
    pandas.DataFrame
        As `table` gives it.

    Raises
    ------
    StudyError
        If the scheduler cannot be reached, or the folder cannot be written. What arrived is kept.
    """
    waiting = [trial for trial in trials if not _is_done(folder, trial, with_models)]
    if len(waiting) < len(trials):
        say(f"{len(trials) - len(waiting)} of {len(trials)} trials are done already")
    try:
        if waiting:
            with _connected(scheduler, workers or _room(waiting)) as client:
                _keep_all(_outcomes(waiting, client, with_models, work), trials, folder)
    finally:
        results = write_table(trials, folder)
    return results


def _room(trials):
    cores = os.cpu_count() or 1
    threads = int(trials[0].environment.get(execute.THREADS[0], cores))
    return max(1, min(len(trials), cores // threads))


@contextlib.contextmanager
def _connected(scheduler, workers):
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # A worker has no more than one trial at a time: if it dies of one, no other fails.
            saturation = {"distributed.scheduler.worker-saturation": 1.0}
            stack.enter_context(dask.config.set(saturation))
            # It only starts a process and waits for it: one thread, no limit on its own memory.
            options = {"threads_per_worker": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL}
            cluster = LocalCluster(n_workers=workers, dashboard_address="127.0.0.1:8787", **options)
            scheduler = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(scheduler, timeout=20))
        except (OSError, ValueError) as error:
            raise StudyError(
                f"No Dask scheduler answers at {scheduler} ({error}); expected an address such as "
                "tcp://host:8786: start one, or leave the address out."
            ) from error
        say(
            f"{len(client.scheduler_info()['workers'])} workers; dashboard: {client.dashboard_link}"
        )
        yield client


def _outcomes(trials, client, with_models, work):
    """Execute trials on Dask: each with what its worker gave, as they arrive."""
    from distributed import KilledWorker, as_completed
    from distributed.comm import CommClosedError

    # Keys are of this run alone, since a scheduler gives the result that it has for a key. They
    # begin alike and are submitted together, so that Dask takes them for one group, which it keeps
    # in a queue until a worker is free.
    run = uuid.uuid4().hex[:8]
    waiting = {f"trial-{trial.name}-{run}": trial for trial in trials}
    client.subscribe_topic("all", functools.partial(_tell_of_lost_worker, frozenset(waiting)))
    task = functools.partial(_timed, work, with_models)
    try:
        for future in as_completed(client.map(task, list(waiting.values()), key=list(waiting))):
            try:
                outcome = future.result()
            except KilledWorker:
                outcome = {"error": "Every worker that it was tried on has died; try it alone."}
            except (CancelledError, CommClosedError) as error:
                raise StudyError(
                    "The Dask scheduler is gone; expected it to stay until the sweep has ended: "
                    "start the sweep again, which resumes after what has arrived."
                ) from error
            except Exception as error:  # a worker's own, such as of a full disk: its row says it
                outcome = {"error": f"{type(error).__name__}: {error}"}
            yield waiting.pop(future.key), {"status": "failed", **outcome}
    finally:
        client.unsubscribe_topic("all")  # lest the scheduler write to a client that has gone


def _tell_of_lost_worker(keys, event):
    _, message = event
    if message.get("action") == "remove-worker" and not message["expected"]:
        running = ", ".join(sorted(keys & set(message["processing-tasks"])))
        say(f"worker {message['worker']} is lost; executed elsewhere: {running or 'nothing'}")


def _timed(work, with_models, trial):
    from distributed import get_worker

    begun, address = time.monotonic(), get_worker().address
    outcome = work(trial, with_models)
    seconds = round(time.monotonic() - begun, 1)
    return {**outcome, "seconds": seconds, "worker": address, "provenance": execute.provenance()}


def _keep_all(outcomes, trials, folder):
    commit = execute.git_commit()
    done = sum(_is_done(folder, trial) for trial in trials)
    bar = tqdm(total=len(trials), initial=done, unit="trial", file=sys.stderr, disable=None)
    with bar, contextlib.closing(outcomes):
        for number, (trial, outcome) in enumerate(outcomes, done + 1):
            keep({**outcome, "git_commit": commit}, trial, folder)
            told = f"FAILED: {outcome['error']}\n    see {folder / 'trials' / trial.name}"
            if outcome["status"] == "done":
                told = f"done in {outcome['seconds']:.0f} s by {outcome['worker']}"
            bar.update()
            say(f"{number}/{len(trials)}  {trial.name}  {told}")


def keep(outcome, trial, folder):
    """Keep what a worker gave in ``trials/<name>/``; a failure beside the last good result."""
    own, good, files = folder / "trials" / trial.name, outcome["status"] == "done", {}
    for name, content in outcome.get("files", {}).items():
        if good or ".failed." in name:
            files[name] = content
    record = {key: value for key, value in outcome.items() if key != "files"}
    record |= {"fingerprint": trial.fingerprint, "files": sorted(files)}
    with explained_write_errors(folder):
        own.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_bytes(own / name, content)
        write_json(own / RECORD[good], record)  # last: now it is done
        for path in own.iterdir() if good else ():
            if path.name not in {*files, RECORD[good]}:  # of a failure before, or of other code
                path.unlink()


def record_of(folder, trial):
    """What is kept of a trial under its present fingerprint, or None."""
    for name in RECORD.values():
        path = folder / "trials" / trial.name / name
        if path.is_file() and (record := read_json(path))["fingerprint"] == trial.fingerprint:
            return record
    return None


def _is_done(folder, trial, with_models=False):
    record = record_of(folder, trial)
    models = record and [name for name in record["files"] if name.endswith(".keras")]
    return bool(record and record["status"] == "done" and (models or not with_models))


def table(trials, folder):
    """The results of some trials as a pandas.DataFrame, one row for each.

    Columns: what is varied; all parameters, as ``<notebook>.<parameter>``, lists as JSON; the
    metrics' values; ``status``, "done", "failed" or "missing"; ``seconds``; ``worker``; ``error``.
    """
    records = [record_of(folder, trial) or {"status": "missing"} for trial in trials]
    measured = sorted({name for record in records for name in record.get("metrics", {})})
    rows = []
    for trial, record in zip(trials, records, strict=True):
        row = dict(trial.point)
        for notebook, task in trial.tasks.items():
            row |= {f"{notebook}.{key}": value for key, value in task["parameters"].items()}
        row = {key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()}
        entries = record.get("metrics", {})
        row |= {name: entries.get(name, {}).get("value", math.nan) for name in measured}
        rows.append(row | {key: record.get(key, empty) for key, empty in ROW.items()})
    return pd.DataFrame(rows)


def write_table(trials, folder):
    """Write `table` as ``results.csv`` and ``results.parquet``, and return it."""
    results, content = table(trials, folder), io.BytesIO()
    results.to_parquet(content, index=False)
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "results.parquet", content.getvalue())
        write_bytes(folder / "results.csv", results.to_csv(index=False).encode())
    return results
