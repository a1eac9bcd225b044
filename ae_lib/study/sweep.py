"""Many runs: every point of a grid of parameters is a cell of its own, executed on Dask.

``python -m ae_lib.study.sweep NAME [--scheduler ADDRESS] [--workers N] [--models]``; ``make sweep`` calls it.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import logging
import math
import sys
import time
import traceback
import uuid
from concurrent.futures import CancelledError

from ae_lib import StudyError
from ae_lib import run as runs
from ae_lib.study import cells, graph
from ae_lib.study.report import make_folders_absolute

import pandas as pd
from tqdm import tqdm

FOLDER = graph.PARAMS / "sweeps"
KEYS = {
    "profile": str,
    "notebooks": list,
    "parameters": dict,
    "grid": dict,
    "limits": dict,
}  # of a sweep's file
OPTIONAL = {"parameters", "limits"}
LIMITS = {"threads": ("int", 1), "minutes": ("float", 60.0)}  # of a cell: types and defaults
RECORD = {True: "cell.json", False: "failed.json"}  # a cell's files, by whether it is done
ROW = {
    "status": "",
    "seconds": math.nan,
    "worker": "",
    "error": "",
}  # the last columns of the table, and their empty values
TABLE_EVERY = 60.0  # seconds between two writings of the table; a cell's own files are written when it arrives


def sweep_file(name):
    """The YAML file of a sweep, which is a name in ``notebooks/params/sweeps/`` or a path; `StudyError` if there is none."""
    return graph.named_file(name, FOLDER, "sweep", "notebooks/params/sweeps")


def load_sweep(name):
    """The cells of a sweep, in the order of its grid, whose last parameter changes fastest.

    Parameters
    ----------
    name : str
        As for `sweep_file`.

    Returns
    -------
    list of ae_lib.study.cells.Cell

    Raises
    ------
    StudyError
        For anything in the file that is unknown, missing, empty, given twice or of a wrong type.
    """
    path = sweep_file(name)
    content = graph.read_yaml(path)
    _check_keys(path.name, content)
    limits, grid = _limits(path.name, content.get("limits", {})), content["grid"]
    base = graph.profile_file(content["profile"])
    sections, more = graph.read_sections(base), content.get("parameters", {})
    graph.check_sections(more, path.name)
    sections |= {name: {**sections.get(name, {}), **(own or {})} for name, own in more.items()}
    full = graph.complete(sections, path.name, base.stem)
    declared = {notebook: graph.declared_parameters(notebook) for notebook in full}
    _check_notebooks(path.name, content["notebooks"], full)
    _check_grid(path.name, grid, more, declared)
    found = []
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        parameters = _at(path.name, point, full, declared, content["notebooks"], base.stem)
        named = {notebook: {**own, "profile": path.stem} for notebook, own in parameters.items()}
        found.append(cells.make(point, named, cells.threads(limits["threads"]), limits["minutes"]))
    return found


def _check_keys(file, content):
    if not isinstance(content, dict):
        raise StudyError(f"{file} holds no names; expected {', '.join(KEYS)}, one to a line.")
    for key, value in content.items():
        if key not in KEYS:
            raise StudyError(
                f"{file} has a part {key!r}; expected {', '.join(KEYS)}: correct its name."
            )
        if not isinstance(value, KEYS[key]):
            raise StudyError(
                f"{key} in {file} is {value!r}; expected {KEYS[key].__name__}: change it."
            )
    for key in KEYS:
        if not content.get(key) and (key in content or key not in OPTIONAL):
            raise StudyError(
                f"{file} has no {key}, or nothing in it; expected at least one entry: add it."
            )


def _limits(file, given):
    for name, value in given.items():
        graph.check_parameter(file, "limits", name, value, LIMITS)
        if value <= 0:
            raise StudyError(
                f"{file} sets {name} in limits to {value}; expected more than 0: change it."
            )
    return {name: given.get(name, default) for name, (_, default) in LIMITS.items()}


def _check_notebooks(file, targets, full):
    for name in targets:
        if name not in full:
            raise StudyError(
                f"{file} asks for a notebook {name!r}; expected some of {', '.join(full)}."
            )


def _check_grid(file, grid, parameters, declared):
    everywhere = {key: kind for known in declared.values() for key, kind in known.items()}
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise StudyError(
                f"{file} gives {name} in its grid as {values!r}; expected a list of values: [1, 2]."
            )
        twice = next(
            (value for number, value in enumerate(values) if value in values[:number]), None
        )
        if twice is not None:
            raise StudyError(
                f"{file} has {twice!r} twice for {name} in its grid; expected each value once."
            )
        for section, own in parameters.items():
            if name in (own or {}):
                raise StudyError(
                    f"{file} sets {name} in {section} and varies it in its grid; expected one of the two."
                )
        if name not in everywhere:
            graph.check_parameter(file, "grid", name, values[0], everywhere)


def _at(file, point, full, declared, targets, profile):
    """The parameters of the notebooks that are executed at a point: what the sweep asks for, and what that needs."""
    parameters = {
        name: own | {key: point[key] for key in point if key in own} for name, own in full.items()
    }
    executed = graph.with_needed(targets, graph.notebooks(profile, parameters))
    for key, value in point.items():
        owners = [name for name in executed if key in declared[name]]
        if not owners:
            raise StudyError(
                f"{file} varies {key}, which none of {', '.join(executed)} has; expected a parameter of theirs: leave it out, "
                "or add a notebook."
            )
        for owner in owners:
            graph.check_parameter(file, "grid", key, value, declared[owner])
    return {name: parameters[name] for name in executed}


def collect(some, folder, scheduler=None, workers=None, with_models=False, work=cells.run):
    """Execute those cells that are not done yet, and keep what each gives when it arrives.

    Parameters
    ----------
    some : sequence of ae_lib.study.cells.Cell
    folder : Path
        Gets ``cells/``, with a folder for each cell, ``results.csv`` and ``results.parquet``.
    scheduler : str, optional
        Address of a Dask scheduler. By default one is started here, with ``workers`` processes.
    workers : int, optional
        By default as many as there are cores for the cells' threads.
    with_models : bool
        Whether trained models are kept as well.
    work : callable, (cell, with_models) → dict
        What a worker does with a cell, as `ae_lib.study.cells.run`.

    Returns
    -------
    pandas.DataFrame
        As `table` gives it.

    Raises
    ------
    StudyError
        If the scheduler cannot be reached, or the folder cannot be written. What arrived before is kept.
    """
    waiting = [cell for cell in some if not _is_done(folder, cell, with_models)]
    if len(waiting) < len(some):
        say(f"{len(some) - len(waiting)} of {len(some)} cells are done already")
    if waiting:
        with _connected(scheduler, workers or _room(waiting), waiting[0].code) as client:
            try:
                with contextlib.closing(_outcomes(waiting, client, with_models, work)) as outcomes:
                    _keep_all(outcomes, len(waiting), some, folder)
            finally:
                results = write_table(some, folder)
    else:
        results = write_table(some, folder)
    return results


def _keep_all(outcomes, total, some, folder):
    begun = written = time.monotonic()
    commit = runs.git_commit()
    with tqdm(total=total, unit="cell", file=sys.stderr, disable=None) as bar:
        for arrived, (cell, outcome) in enumerate(outcomes, 1):
            keep({**outcome, "git_commit": commit}, cell, folder)
            now = time.monotonic()
            left = tqdm.format_interval((now - begun) / arrived * (total - arrived))
            say(f"{arrived}/{total}  {cell.name}  {_told(outcome, cell, folder)}; {left} left")
            bar.update()
            if now - written > TABLE_EVERY:
                write_table(some, folder)
                written = now


def _room(some):
    from dask.system import CPU_COUNT

    threads = int(some[0].environment.get(cells.THREADS[0], CPU_COUNT))
    return max(1, min(len(some), CPU_COUNT // threads))


@contextlib.contextmanager
def _connected(scheduler, workers, code):
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # No more than one cell at a worker: with a worker that dies of one, another that waits there would fail as well.
            stack.enter_context(dask.config.set({"distributed.scheduler.worker-saturation": 1.0}))
            # A worker does nothing but start processes and wait for them: one thread, and no limit on its own memory. Complaints
            # about workers that end with the cluster are silenced; the loss of one is told below.
            options = {
                "threads_per_worker": 1,
                "memory_limit": 0,
                "dashboard_address": "127.0.0.1:8787",
            }
            cluster = LocalCluster(n_workers=workers, silence_logs=logging.CRITICAL, **options)
            scheduler = stack.enter_context(cluster)
        try:
            client = stack.enter_context(Client(scheduler, timeout=20))
        except (OSError, ValueError) as error:
            raise StudyError(
                f"No Dask scheduler answers at {scheduler} ({error}); expected an address such as tcp://host:8786: start one, "
                "or leave the address out."
            ) from error
        found = client.run(cells.library, on_error="return")
        say(f"{len(found)} workers; dashboard: {client.dashboard_link}")
        if unlike := [worker for worker, library in found.items() if library != code]:
            raise StudyError(
                f"{', '.join(unlike)} has another ae_lib, Python or packages than this machine; expected the same: install the "
                "same commit with its lock there, and start the worker again."
            )
        yield client


def _outcomes(some, client, with_models, work):
    """Execute cells on Dask: cells with what their workers gave, as they arrive."""
    from distributed import KilledWorker, as_completed
    from distributed.comm import CommClosedError

    # Keys are of this run alone: a scheduler gives the result that it has for a key, whatever is submitted under it. They begin
    # alike and are submitted in one go, so that Dask takes them for one group, which it keeps in a queue until a worker is free.
    # Cells that it gave to workers beforehand stayed with busy ones, since it tries to steal what runs already.
    run = uuid.uuid4().hex[:8]
    waiting = {f"cell-{cell.name}-{run}": cell for cell in some}
    client.subscribe_topic("all", functools.partial(_tell_of_lost_worker, frozenset(waiting)))
    task = functools.partial(_timed, work, with_models)
    arriving = as_completed(client.map(task, list(waiting.values()), key=list(waiting)))
    try:
        for future in arriving:
            try:
                outcome = future.result()
            except KilledWorker as error:
                outcome = _failed(
                    "Its worker died, and so did all that it was tried on; expected one to live.",
                    error,
                )
            except (CancelledError, CommClosedError) as error:
                raise StudyError(
                    "The Dask scheduler is gone; expected it to stay until the sweep has ended: start the sweep again, which goes "
                    "on from what has arrived."
                ) from error
            except (
                Exception
            ) as error:  # a worker's own, such as of a full disk; it stands in the cell's row
                outcome = _failed(f"{type(error).__name__}: {error}", error)
            yield waiting.pop(future.key), outcome
    finally:
        client.unsubscribe_topic("all")  # lest the scheduler write to a client that has gone


def _tell_of_lost_worker(keys, event):
    _, message = event
    if message.get("action") == "remove-worker" and not message["expected"]:
        running = ", ".join(sorted(keys & set(message["processing-tasks"])))
        say(f"worker {message['worker']} is lost; run elsewhere: {running or 'nothing'}")


def _failed(sentence, error):
    return {
        "status": "failed",
        "error": sentence,
        "traceback": "".join(traceback.format_exception(error)),
    }


def _timed(work, with_models, cell):
    from distributed import get_worker

    begun, address = time.monotonic(), get_worker().address
    outcome = work(cell, with_models)
    seconds = round(time.monotonic() - begun, 1)
    return {**outcome, "seconds": seconds, "worker": address, "provenance": runs.provenance()}


def _told(outcome, cell, folder):
    if outcome["status"] == "done":
        return f"done in {outcome['seconds']:.0f} s by {outcome['worker']}"
    shown = "".join(f"\n    {line}" for line in outcome["traceback"].strip().splitlines()[-12:])
    return f"FAILED: {outcome['error']}{shown}\n    all of it: {folder / 'cells' / cell.name}"


def keep(outcome, cell, folder):
    """Keep what a worker gave for a cell in ``cells/<name>/``; a failure stands beside the last good result, not in its place."""
    own, good = folder / "cells" / cell.name, outcome["status"] == "done"
    files = {
        **{name: text.encode() for name, text in outcome.get("notebooks", {}).items()},
        **(outcome.get("models") or {}),
    }
    kept = {
        name: content for name, content in files.items() if good or name.endswith(".failed.ipynb")
    }
    record = {
        key: outcome.get(key)
        for key in (
            "status",
            "metrics",
            "seconds",
            "worker",
            "error",
            "traceback",
            "provenance",
            "git_commit",
        )
    }
    record["fingerprint"] = cell.fingerprint
    record["models"] = None if outcome.get("models") is None else sorted(outcome["models"])
    with runs.explained_write_errors(folder):
        own.mkdir(parents=True, exist_ok=True)
        for name, content in kept.items():
            runs.write_bytes(own / name, content)
        runs.write_json(own / RECORD[good], record)  # last: now it is done
        for path in own.iterdir() if good else ():
            if path.name not in {*kept, RECORD[good]}:  # of an earlier failure, or of other code
                path.unlink()


def _record(folder, cell):
    """What is kept of a cell under its present fingerprint, or None."""
    for name in RECORD.values():
        path = folder / "cells" / cell.name / name
        if path.is_file() and (record := runs.read_json(path))["fingerprint"] == cell.fingerprint:
            return record
    return None


def metrics_of(cell, folder):
    """The metrics of a cell that is done, name to number."""
    return _record(folder, cell)["metrics"]


def _is_done(folder, cell, with_models):
    record = _record(folder, cell)
    return (
        record is not None
        and record["status"] == "done"
        and not (with_models and record["models"] is None)
    )


def table(some, folder):
    """The results of some cells: one row for each.

    Parameters
    ----------
    some : sequence of ae_lib.study.cells.Cell
    folder : Path
        As for `collect`.

    Returns
    -------
    pandas.DataFrame
        Columns: what is varied; all parameters, as ``<notebook>.<parameter>``, lists as JSON; the metrics; ``status``, "done",
        "failed" or "missing"; ``seconds``; ``worker``; ``error``.
    """
    rows = [_row(cell, _record(folder, cell) or {"status": "missing"}) for cell in some]
    measured = {name for _, metrics, _ in rows for name in metrics}
    ordered = [
        {**given, **{name: metrics.get(name, math.nan) for name in sorted(measured)}, **rest}
        for given, metrics, rest in rows
    ]
    return pd.DataFrame(ordered)


def _row(cell, record):
    every = {
        f"{notebook}.{key}": v
        for notebook, own in cell.parameters.items()
        for key, v in own.items()
    }
    given = {
        key: json.dumps(v) if isinstance(v, list) else v
        for key, v in {**cell.point, **every}.items()
    }
    found = {key: record[key] for key in ROW if record.get(key) is not None}
    return (
        given,
        record.get("metrics") or {},
        {key: found.get(key, empty) for key, empty in ROW.items()},
    )


def write_table(some, folder):
    """Write `table` as ``results.csv`` and ``results.parquet``, and return it."""
    results, content = table(some, folder), io.BytesIO()
    results.to_parquet(content, index=False)
    with runs.explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(folder / "results.parquet", content.getvalue())
        runs.write_text(folder / "results.csv", results.to_csv(index=False))
    return results


def say(text):
    """Lines on standard error, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def main(arguments=None):
    """Command line; returns the exit code. A user's mistake is one sentence, without traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m ae_lib.study.sweep", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", help="a name in notebooks/params/sweeps/, or a file")
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler, such as tcp://host:8786; by default one here",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes here, at least 1; by default as many as there are cores",
    )
    parser.add_argument("--models", action="store_true", help="keep the trained models as well")
    options = parser.parse_args(arguments)
    if options.workers is not None and options.workers < 1:
        parser.error(f"--workers is {options.workers}; expected a whole number of at least 1")
    make_folders_absolute()
    try:
        some, name = load_sweep(options.name), f"sweeps/{sweep_file(options.name).stem}"
        with runs.only_run(name) as folder:
            results = collect(some, folder, options.scheduler, options.workers, options.models)
    except StudyError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: finished cells are kept, and the next start goes on from there")
        return 130
    counts = results["status"].value_counts()
    say(
        ", ".join(f"{count} {status}" for status, count in counts.items())
        + f" of {len(some)}: reports/{name}/results.csv"
    )
    return 0 if set(counts.index) == {"done"} else 1


if __name__ == "__main__":
    sys.exit(main())
