"""The execution of notebooks, each in a kernel of its own, which ends with this process."""

import asyncio
import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import MAY_READ, PROJECT, explained_write_errors, reports_folder, write_bytes
from ae_lib.study import graph
from ae_lib.study.fingerprint import (
    PACKAGES,
    fingerprint,
    fingerprints,
    out_of_date,
    results_of,
    too_few_classes,
)

import psutil
from filelock import FileLock, Timeout
from tqdm import tqdm

THREADS = (
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",  # TensorFlow
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",  # NumPy
)  # fmt: skip
CLEAN = {  # what keeps the user's own configuration out of a kernel
    "MATPLOTLIBRC": os.devnull,
    "MPLBACKEND": "",  # figures go into the notebook
    "PYTHONSTARTUP": "",
    "PYTHONUTF8": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",  # the environment's kernelspec, not one of the user's
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # or a first notebook would take all of a GPU's memory
}
FOREIGN = "JUPYTER_PATH", "MALLOC_TRIM_THRESHOLD_"  # of Dask: convolutions would take twice as long


def say(text):
    """Lines on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def bring_up_to_date(profile, folder, jobs, done, tell):
    """Execute what is out of date in a run's folder; returns the names of these notebooks.

    ``jobs`` notebooks share the cores. One that more than as many wait for has them all, and no
    other is started beside it. ``done(name, seconds, left, idle)`` is called after each, with the
    names of the unfinished, and whether a core waits; ``tell(name, text)`` with what each prints.
    `StudyError` has a line for each notebook that failed; no other is started after the first.
    """
    tasks = make_tasks(profile)
    current = {name: task["fingerprint"] for name, task in tasks.items()}
    stale = out_of_date(profile, current, folder)
    sorter = TopologicalSorter({name: set(profile.needs[name]) & set(stale) for name in stale})
    sorter.prepare()
    jobs, cores = max(1, min(jobs, len(stale))), os.cpu_count() or 1
    waiting = Counter(need for needs in profile.needs.values() for need in needs)
    awaited = {name for name, count in waiting.items() if count > jobs}
    pool, running, failures, left = ThreadPoolExecutor(jobs), {}, [], {*stale}
    ready = [*sorter.get_ready()]

    def start():
        ready.sort(key=list(graph.NEEDS).index)
        while ready and len(running) < jobs and not (failures or awaited & {*running.values()}):
            name = ready.pop(0)
            own = threads(cores if name in awaited else max(1, cores // jobs))
            running[pool.submit(execute, tasks[name], folder, own, tell)] = name

    try:
        start()
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    seconds = future.result()
                    sorter.done(name)
                    left.remove(name)
                    ready += sorter.get_ready()
                    start()
                    done(name, seconds, left, not ready and len(running) < jobs)
                except StudyError as error:
                    failures.append(str(error))
    finally:
        pool.shutdown(wait=False)
        while not all(future.done() for future in running):  # interrupted: threads wait for kernels
            _kill_children()
            time.sleep(0.1)
    if failures:
        raise StudyError("\n".join(failures))
    return stale


def _kill_children():
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            child.kill()


def make_tasks(profile):
    """What `execute` takes for each notebook of a profile, as plain values that JSON can hold."""
    import nbformat

    tasks, current = {}, fingerprints(profile)
    for name, parameters in profile.parameters.items():
        notebook = graph.read_notebook(name)
        defaults = {key: default for key, (_, default) in graph.declared_parameters(name).items()}
        changed = {key: value for key, value in parameters.items() if value != defaults[key]}
        tasks[name] = {
            "name": name,
            "notebook": nbformat.writes(notebook),
            "parameters": parameters,
            "changed": changed,  # alone are injected, so that nothing is where nothing is changed
            "needed": {need: current[need] for need in profile.needs[name]},
            "fingerprint": current[name],
            "left_out": too_few_classes(parameters) if _needing_classes(notebook) else None,
        }
    return tasks


def threads(count):
    """The environment that caps the threads of TensorFlow and of the linear algebra libraries."""
    return dict.fromkeys(THREADS, str(count))


def execute(task, folder, environment, tell=lambda name, text: None, minutes=None):
    """Execute a task of `make_tasks` in a run's folder; returns the seconds it took.

    Its kernel has ``environment`` in addition to this process's, and is ended after ``minutes``.
    ``tell(name, text)`` gets what the notebook prints while it runs. The folder gets
    ``<name>.ipynb``; or, beside the last good copy, ``<name>.failed.ipynb`` and ``.failed.log``,
    and `StudyError` says in one sentence what failed.
    """
    import nbformat

    begun, name, notebook = time.monotonic(), task["name"], _notebook_of(task)
    failed, log = (folder / f"{name}.failed.{kind}" for kind in ("ipynb", "log"))
    for variable in FOREIGN:
        os.environ.pop(variable, None)
    os.environ.update(CLEAN)
    place = graph.FOLDER if graph.FOLDER.is_dir() else folder  # the latter on another machine
    fixed = {"AE_REPORTS_DIR": str(folder.parent), MAY_READ: ",".join(task["needed"])}
    kernel = {"env": {**os.environ, **environment, **fixed}, "cwd": place}
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        log.touch()
    try:
        asyncio.run(_run_cells(notebook, kernel, log, partial(tell, name), minutes))
    except StudyError as error:
        message = f"{name} failed. {' '.join(str(error).split())}"
        with contextlib.suppress(OSError):  # the disk may be full
            write_bytes(failed, nbformat.writes(notebook).encode())
            message += f" (Its executed copy: {failed.name})"
        raise StudyError(message) from None
    seconds = time.monotonic() - begun
    notebook.metadata["study"] = {
        "parameters": task["parameters"],
        "seconds": round(seconds, 1),
        "sections": seconds_by_section(notebook),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "fingerprint": task["fingerprint"],
        "results": results_of(folder, name),
        "left_out": task["left_out"],
    }
    with explained_write_errors(folder):
        write_bytes(folder / f"{name}.ipynb", nbformat.writes(notebook).encode())
        for leftover in (failed, log):
            leftover.unlink(missing_ok=True)
    return seconds


def _notebook_of(task):
    """The notebook of a task with its parameters; `StudyError` if it would give other results."""
    import nbformat
    from papermill.translators import translate_parameters

    name, notebook = task["name"], nbformat.reads(task["notebook"], 4)
    needed = task["needed"].values()
    if fingerprint(name, notebook, task["parameters"], needed) != task["fingerprint"]:
        raise StudyError(
            f"{name} failed. This process sees another ae_lib, other packages or other data than "
            "the one that made the task; expected the same: install the same commit with its lock "
            "and copy the data, or, if files were changed meanwhile, start again."
        )
    for cell in _needing_classes(notebook) if task["left_out"] else ():
        cell.source = f"print({'left out: ' + task['left_out']!r})"
    if task["changed"]:
        tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
        position = next(i for i, own in enumerate(tags) if "parameters" in own) + 1
        code = translate_parameters("python3", "python", task["changed"])
        injected = nbformat.v4.new_code_cell(code, metadata={"tags": ["injected-parameters"]})
        notebook.cells.insert(position, injected)
    return notebook


def _needing_classes(notebook):
    return [cell for cell in notebook.cells if "classes" in cell.metadata.get("tags", [])]


async def _run_cells(notebook, kernel, log, tell, minutes):
    """Execute a notebook's cells where they stand; `StudyError` says why that failed."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from traitlets.config import Config

    class Client(NotebookClient):
        def output(self, outs, msg, *others):
            if msg["msg_type"] == "stream":
                tell(msg["content"]["text"])
            return super().output(outs, msg, *others)

    limit = asyncio.timeout(minutes and 60 * minutes)
    try:
        with tempfile.TemporaryDirectory(prefix="kernel-") as sockets, log.open("w") as file:
            kernel["env"]["IPYTHONDIR"] = sockets  # without a profile
            # Files, since another process can take the ports of a kernel that is starting.
            manager = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
            client = Client(notebook, kernel_name="python3", config=Config(KernelManager=manager))
            async with limit:
                await client.async_execute(**kernel, stdout=file, stderr=file)
    except CellExecutionError as error:
        own = error.ename == "StudyError"
        raise StudyError(error.evalue if own else f"{error.ename}: {error.evalue}") from None
    except (OSError, RuntimeError) as error:
        if limit.expired():
            why = f"It took longer than {minutes:g} minutes; expected less: raise limits.minutes."
        elif isinstance(error, OSError):  # of the kernel's files
            why = (
                f"The operating system refused it: {error}; expected some 50 MB free and "
                "permission to write: make room, change permissions, or set AE_REPORTS_DIR to "
                "another folder."
            )
        else:
            why = (
                "Its kernel died without a message; expected it to live: read its failed.log, or "
                "run the notebook in JupyterLab, to see where."
            )
        raise StudyError(why) from error


def seconds_by_section(notebook):
    """Where the seconds of an executed notebook went: heading to those of the cells below it.

    Takes the times out of the cells, whose copy is the same whenever they are executed.
    """
    section, seconds = "", {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            section = [section, *re.findall("^## (.+)$", cell.source, re.MULTILINE)][-1]
        elif times := cell.metadata.pop("execution", None):
            begun = datetime.fromisoformat(times["iopub.execute_input"])
            spent = (datetime.fromisoformat(times["shell.execute_reply"]) - begun).total_seconds()
            seconds[section] = round(seconds.get(section, 0) + spent, 1)
    return seconds


@contextlib.contextmanager
def locked_folder(name):
    """Hold a run's folder for one process; `StudyError` if another one has it."""
    folder = reports_folder() / name
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(folder / ".run.lock").acquire(timeout=0)
        except Timeout:
            raise StudyError(
                f"{folder} is in use by another run; expected one at a time: wait until it has "
                "ended, or end it."
            ) from None
    with lock:
        yield folder


def remove_leftovers(folder):
    """Remove what killed processes left in a locked folder; what open notebooks write stays."""
    # Nobody collects an ended process whose parent was killed, in a container without init.
    ended = psutil.STATUS_ZOMBIE
    alive = {str(p.pid) for p in psutil.process_iter(["status"]) if p.info["status"] != ended}
    for path in [*folder.glob(".*.stage"), *folder.glob(".*.tmp")]:
        process = path.name.split(".")[-2]
        if process.isdigit() and process not in alive:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def provenance():
    """What a result depends on beside its parameters and the commit: versions and machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def _cpu():
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text("utf-8"))[1]
    except (OSError, TypeError):  # not Linux, or an ARM, whose file has no such line
        return platform.processor() or platform.machine()


def git_commit():
    """The commit of the checkout, with ``-dirty`` if it was changed since; None outside one."""

    def git(*command):
        done = subprocess.run(["git", *command], cwd=PROJECT, capture_output=True, check=False)
        return done.stdout.decode().strip()

    # The project may have been unpacked inside another repository.
    if not shutil.which("git") or Path(git("rev-parse", "--show-toplevel")) != PROJECT.resolve():
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None  # no tag
