"""The execution of notebooks, each in a process of its own, which ends with its parent."""

import contextlib
import functools
import io
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from threading import Thread, Timer

from ae_lib import StudyError
from ae_lib.run import MAY_READ, PROJECT, explained_write_errors, reports_folder, write_bytes
from ae_lib.study import graph
from ae_lib.study.fingerprint import PACKAGES, fingerprint, fingerprints, out_of_date, results_of

THREADS = (
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",  # TensorFlow
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",  # NumPy
)  # fmt: skip


def bring_up_to_date(profile, folder, jobs, done, tell=None):
    """Execute what is out of date in a run's folder; returns the names of these notebooks.

    Parameters
    ----------
    profile : ae_lib.study.graph.Profile
    folder : Path
    jobs : int
        How many notebooks run side by side; the cores are divided among them.
    done : callable, (name, seconds)
        Called after each notebook.
    tell : callable, (name, text), optional
        Gets what a notebook prints while it runs.

    Raises
    ------
    StudyError
        A line for each notebook that has failed; no other is started after the first.
    """
    tasks, sorter = make_tasks(profile), TopologicalSorter()
    current = {name: task["fingerprint"] for name, task in tasks.items()}
    stale = out_of_date(profile, current, folder)
    for name in stale:
        sorter.add(name, *(need for need in profile.needs[name] if need in stale))
    sorter.prepare()
    jobs = max(1, min(jobs, len(stale)))
    environment = threads(max(1, (os.cpu_count() or 1) // jobs))
    ready, running, failures, processes = [], {}, [], set()
    pool = ThreadPoolExecutor(jobs)
    try:
        while sorter.is_active() and (running or not failures):
            ready += sorted(sorter.get_ready())
            while ready and len(running) < jobs and not failures:
                name = ready.pop(0)
                said = functools.partial(tell, name) if tell else None
                call = execute, tasks[name], folder, environment, said, processes
                running[pool.submit(*call)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    done(name, future.result())
                except StudyError as error:
                    failures.append(str(error))
                else:
                    sorter.done(name)
    finally:
        for process in list(processes):  # an interruption: each ends when its input does
            process.stdin.close()
        pool.shutdown()
    if failures:
        raise StudyError("\n".join(failures))
    return stale


def make_tasks(profile):
    """What `execute` takes for each notebook of a profile, as plain values that JSON can hold."""
    import nbformat

    tasks, current = {}, fingerprints(profile)
    for name, parameters in profile.parameters.items():
        defaults = {key: default for key, (_, default) in graph.declared_parameters(name).items()}
        changed = {key: value for key, value in parameters.items() if value != defaults[key]}
        tasks[name] = {
            "name": name,
            "notebook": nbformat.writes(graph.read_notebook(name)),
            "parameters": parameters,
            "changed": changed,  # alone are injected, so that nothing is where nothing is changed
            "needed": {need: current[need] for need in profile.needs[name]},
            "fingerprint": current[name],
        }
    return tasks


def threads(count):
    """The environment that caps the threads of TensorFlow and of the linear algebra libraries."""
    return dict.fromkeys(THREADS, str(count))


def execute(task, folder, environment, tell=None, processes=None, minutes=None):
    """Execute one notebook in a process of its own, which ends when this one does.

    Parameters
    ----------
    task : dict
        Of `make_tasks`.
    folder : Path
        The run's folder, which gets ``<name>.ipynb``; or, after a failure, ``<name>.failed.ipynb``
        and ``<name>.failed.log``, beside the last good copy.
    environment : dict
        Of the process, in addition to this one's.
    tell : callable, (text), optional
        Gets what the notebook prints while it runs.
    processes : set, optional
        Holds the process while it runs; to end it, close its standard input.
    minutes : float, optional
        After which it is ended.

    Returns the seconds it took. `StudyError` says in one sentence what failed.
    """
    begun, name = time.monotonic(), task["name"]
    processes = set() if processes is None else processes
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        log = open(folder / f"{name}.failed.log", "w+", encoding="utf-8")  # noqa: SIM115
    fixed = {
        "AE_REPORTS_DIR": str(folder.parent),
        MAY_READ: ",".join(task["needed"]),
        # Otherwise a first notebook would take all of a GPU's memory from its neighbours.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    environment = {**os.environ, **environment, **fixed}
    command = [sys.executable, "-m", "ae_lib.study.execute"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
    # A session of its own: Ctrl-C is this process's to handle, which closes the other one's input.
    started = {"env": environment, "start_new_session": True, "encoding": "utf-8"}
    with log, subprocess.Popen(command, **pipes, **started) as process:
        processes.add(process)
        limit = Timer(60 * (minutes or 1e6), process.stdin.close)
        limit.daemon = True
        limit.start()
        try:
            error = _listen(process, {**task, "folder": str(folder)}, tell)
            process.wait()  # before its input is closed, which ends it at once
        finally:
            limit.cancel()
            processes.discard(process)
            with contextlib.suppress(OSError):
                process.stdin.close()
        if error is None and process.returncode != 0:
            timed_out = minutes and time.monotonic() - begun >= 60 * minutes
            error = _ended(process.returncode, log, minutes if timed_out else None)
    if error:
        raise StudyError(f"{name} failed. {error}")
    for leftover in ("failed.log", "failed.ipynb"):
        (folder / f"{name}.{leftover}").unlink(missing_ok=True)
    return time.monotonic() - begun


def _listen(process, task, tell):
    """Hand over the task; the error that the process reports in lines of JSON, or None."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
    error = None
    for line in process.stdout:
        message = json.loads(line)
        error = message.get("error", error)
        if tell and "output" in message:
            tell(message["output"])
    return error


def _ended(code, log, minutes):
    if minutes:
        return f"It took longer than {minutes:g} minutes; expected less: raise limits.minutes."
    log.seek(0)
    said = log.read()[-2000:].strip() or "nothing"
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    return f"Its process was ended by {ending}; expected 0. Its last words: {said}"


class _Forward(io.TextIOBase):
    """Forwards what a notebook prints to the process that waits for it."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        self.send({"output": text})
        return len(text)

    def send(self, message):
        """Write a message as a line of JSON."""
        print(json.dumps(message), file=self.stream, flush=True)


def main():
    """Execute the task that stands on the first line of standard input; `execute` starts it."""
    task = json.loads(sys.stdin.readline())
    Thread(target=_end_with_parent, daemon=True).start()
    forward = _Forward(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)  # whatever else is printed goes to the log
    try:
        _execute_here(task, forward)
    except StudyError as error:
        forward.send({"error": " ".join(str(error).split())})
        return 1
    return 0


def _end_with_parent():
    while os.read(0, 1024):  # until the parent closes it, or is gone
        pass
    _kill_children()
    os._exit(1)


def _kill_children():
    """A kernel ends by itself when its parent has gone, but only a second later."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            child.kill()


def _execute_here(task, forward):
    import nbformat

    name, folder, parameters = task["name"], Path(task["folder"]), task["parameters"]
    notebook = nbformat.reads(task["notebook"], 4)
    needed = task["needed"].values()
    if fingerprint(name, notebook, parameters, needed) != task["fingerprint"]:
        raise StudyError(
            "This process sees another ae_lib, other packages or other data than the one that "
            "started it; expected the same: install the same commit with its lock and copy the "
            "data, or, if files were changed meanwhile, start again."
        )
    begun = time.monotonic()
    notebook = _papermill(notebook, task["changed"], folder, name, forward)
    notebook.metadata["study"] = {
        "parameters": parameters,
        "seconds": round(time.monotonic() - begun, 1),
        "sections": seconds_by_section(notebook),
        "git_commit": git_commit(),
        "fingerprint": task["fingerprint"],
        "results": results_of(folder, name),
    }
    with explained_write_errors(folder):
        text = nbformat.writes(without_traces(notebook))
        write_bytes(folder / f"{name}.ipynb", text.encode())


def _papermill(notebook, parameters, folder, name, forward):
    """The notebook, executed in the notebooks' folder or, on another machine, in the run's."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    temporary = folder / f".{name}.{os.getpid()}.ipynb"
    options = {"kernel_name": "python3", "progress_bar": False, "stdout_file": forward}
    options["cwd"] = graph.FOLDER if graph.FOLDER.is_dir() else folder
    try:
        with tempfile.TemporaryDirectory(prefix="kernel-") as sockets:
            # Files, since another process can take the ports of a kernel that is starting.
            manager = {"transport": "ipc", "connection_file": f"{sockets}/kernel.json"}
            options["config"] = Config(KernelManager=manager)
            return papermill.execute_notebook(notebook, temporary, parameters, **options)
    except PapermillExecutionError as error:
        temporary.replace(folder / f"{name}.failed.ipynb")
        own = error.ename == "StudyError"
        message = error.evalue if own else f"{error.ename}: {error.evalue}"
        raise StudyError(f"{message} (Its executed copy: {name}.failed.ipynb)") from None
    except OSError as error:  # of the notebook's copy or of the kernel's files
        raise StudyError(
            f"The operating system refused it: {error}; expected some 50 MB free and permission to "
            "write: make room, change permissions, or set AE_REPORTS_DIR to another folder."
        ) from error
    except (DeadKernelError, RuntimeError) as error:  # the latter if it does not even start
        raise StudyError(
            "Its kernel died without a message; expected it to live: run the notebook in "
            "JupyterLab to see where."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(name):
    """Hold a run's folder for one process; `StudyError` if another one has it."""
    from filelock import FileLock, Timeout

    folder = reports_folder() / name
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".run.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise StudyError(
                f"{folder} is in use by another run; expected one at a time: wait until it has "
                "ended, or end it."
            ) from None
    try:
        yield folder
    finally:
        lock.release()


def remove_leftovers(folder):
    """Remove what killed processes left in a locked folder; what open notebooks write stays."""
    for path in folder.glob(".*.ipynb"):  # executors alone write these, and the lock says: no other
        path.unlink(missing_ok=True)
    for path in [*folder.glob(".*.stage"), *folder.glob(".*.tmp")]:
        process = path.name.split(".")[-2]
        if process.isdigit() and not _lives(int(process)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _lives(process):
    import psutil

    try:  # nobody collects an ended process whose parent was killed, in a container without init
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def seconds_by_section(notebook):
    """Where the seconds of an executed notebook went: heading to those of the cells below it."""
    section, seconds = "", {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            section = cell.source.splitlines()[0].removeprefix("## ")
        elif duration := cell.metadata.get("papermill", {}).get("duration"):
            seconds[section] = round(seconds.get(section, 0) + duration, 1)
    return seconds


def without_traces(notebook):
    """An executed notebook less papermill's paths and times."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    return notebook


def provenance():
    """What a result depends on beside its parameters and the commit: versions and machine."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
    }


def git_commit():
    """The commit of the checkout, with ``-dirty`` if it was changed since; None outside one."""
    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
