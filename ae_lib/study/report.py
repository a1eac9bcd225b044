"""From a profile to a report: which notebooks are out of date, their execution, the pages.

``python -m ae_lib.study.report [PROFILE] [--jobs N] [--without NOTEBOOK …]``; ``make report`` calls it.
"""

import argparse
import contextlib
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread

from ae_lib import StudyError, data
from ae_lib import run as runs
from ae_lib.study.graph import FOLDER, load_profile, notebooks, profile_file, read_notebook

import psutil

NOT_FOR_NOTEBOOKS = {
    "profiles.py",
    "pages.py",
    "report.py",
    "cells.py",
    "sweep.py",
    "reference.py",
}  # a change there changes no result
NO_MNIST = (
    ".mnist-unavailable"  # in reports/: why the last run without a profile fell back to digits
)


def choose_profile():
    """``mnist`` if MNIST can be had, else ``digits``; with the reason for the latter, or None."""
    noted = runs.reports_folder() / NO_MNIST
    if data.local_file("mnist"):
        return "mnist", None
    if noted.is_file():
        looked = (
            f" It is not in AE_DATA_DIR ({os.environ['AE_DATA_DIR']})."
            if os.environ.get("AE_DATA_DIR")
            else ""
        )
        return "digits", noted.read_text(encoding="utf-8") + looked
    try:
        data.download("mnist")
    except StudyError as error:
        with runs.explained_write_errors(noted.parent):
            noted.parent.mkdir(parents=True, exist_ok=True)
            runs.write_text(noted, str(error))
        return "digits", str(error)
    return "mnist", None


def left_out(needs, without):
    """The notebooks that are left out with those of ``without``, since they read from them; these included.

    Parameters
    ----------
    needs : dict
        Notebooks in reading order, with those that they need.
    without : sequence of str

    Raises
    ------
    StudyError
        If one of ``without`` is no notebook.
    """
    for name in without:
        if name not in needs:
            raise StudyError(
                f"There is no notebook {name!r} to leave out; expected one of {', '.join(needs)}."
            )
    left = set()
    for name, needed in needs.items():
        if name in without or needed & left:
            left.add(name)
    return left


def is_newer(target, sources):
    """Whether a file exists and is at least as new as all of ``sources``."""
    return target.is_file() and target.stat().st_mtime >= max(
        source.stat().st_mtime for source in sources
    )


def out_of_date(profile, parameters, folder):
    """The notebooks to be executed, in order.

    Those that are older than what they are made from, were executed with other parameters, or whose results are not
    the ones that the executed copy shows (someone ran the notebook in JupyterLab since); and those that read from them.
    """
    library = [p for p in Path(__file__).parent.glob("*.py") if p.name not in NOT_FOR_NOTEBOOKS]
    stale = []
    for name, needs in notebooks(folder.name, parameters).items():
        executed, own = folder / f"{name}.ipynb", folder / "artifacts" / f"{name}.metrics.json"
        script = FOLDER / f"{name}.py"
        optional = [
            runs.PROJECT / "requirements.lock",
            data.local_file(parameters[name].get("dataset", "")),
        ]
        if "runs.reference(" in script.read_text(encoding="utf-8"):  # it shows what is published
            optional.append(runs.REFERENCE / f"{folder.name}.json")
        sweeps = [
            runs.sweep_table(value)
            for key, value in parameters[name].items()
            if key.endswith("sweep")
        ]
        sources = [
            script,
            profile_file(profile),
            *library,
            *sweeps,
            *(p for p in optional if p and p.is_file()),
        ]
        earlier = [folder / f"{need}.ipynb" for need in needs]
        fresh = (
            not any(need in stale for need in needs)
            and own.is_file()
            and is_newer(executed, [*sources, *earlier, own])
            and _study(executed)["parameters"] == parameters[name]
        )
        if not fresh:
            stale.append(name)
    return stale


def _study(executed):
    return runs.read_json(executed)["metadata"]["study"]


def execute(notebook, parameters, target, cwd=FOLDER, progress=None):
    """Execute a notebook with papermill; call it in a process of its own, since papermill changes directory.

    Parameters
    ----------
    notebook : nbformat notebook
        As `ae_lib.study.graph.read_notebook` gives it.
    parameters : dict
        All of them, as `load_profile` gives them.
    target : Path
        The executed notebook. A failed one is left beside it as ``<name>.failed.ipynb``.
    cwd : Path
        Where its kernel runs.
    progress : text file, optional
        Gets what the notebook prints, while it prints it.

    Returns
    -------
    float
        Seconds it took.

    Raises
    ------
    StudyError
        In one sentence, what failed in the notebook.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    begun, name = time.monotonic(), target.stem
    temporary = target.with_name(f".{name}.{os.getpid()}.ipynb")
    failed = target.with_name(f"{name}.failed.ipynb")
    try:
        notebook = papermill.execute_notebook(
            notebook,
            temporary,
            parameters,
            kernel_name="python3",
            cwd=cwd,
            progress_bar=False,
            stdout_file=progress,
        )
    except PapermillExecutionError as error:
        temporary.replace(failed)
        message = error.evalue if error.ename == "StudyError" else f"{error.ename}: {error.evalue}"
        raise StudyError(f"{name} failed. {message} (Its executed copy: {failed.name})") from None
    except (
        OSError
    ) as error:  # of the notebook's copy or of the kernel's files; the sentence names which
        raise StudyError(
            f"{name} failed. The operating system refused it: {error}; expected some 50 MB free and permission to write: "
            "make room, change permissions, or set AE_REPORTS_DIR to another folder."
        ) from error
    except DeadKernelError as error:
        raise StudyError(
            f"{name} failed. Its kernel died, most likely for want of memory; expected 4 GB free: make room, or lower -j."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    seconds = time.monotonic() - begun
    with runs.explained_write_errors(target.parent):
        runs.write_text(target, nbformat.writes(without_traces(notebook, parameters, seconds)))
    failed.unlink(missing_ok=True)
    return seconds


def without_traces(notebook, parameters, seconds):
    """An executed notebook less papermill's paths and times, plus what run.json needs to know about it."""
    notebook.metadata["study"] = {
        "parameters": parameters,
        "seconds": round(seconds, 1),
        "git_commit": runs.git_commit(),
    }
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if not cell.metadata.get("tags"):
            cell.metadata.pop("tags", None)
    return notebook


class _ProgressLines:
    """Shows a notebook's epochs while it runs: one changing line for a person, every tenth epoch for a log."""

    def __init__(self, name, watched, terminal):
        self.name, self.watched, self.terminal = name, watched, terminal

    def write(self, text):
        for line in text.splitlines():
            if line.startswith("epoch "):
                epoch = int(line.split()[1].split("/")[0])
                if self.watched:
                    print(f"\r\x1b[K{self.name}  {line}", end="", file=self.terminal, flush=True)
                elif epoch % 10 == 0:
                    print(f"{self.name}  {line}", file=self.terminal, flush=True)

    def flush(self):
        pass


def _start_worker(environment):
    """Workers end when the run is killed, and their kernels, which watch them, do too.

    They are forked from a server that keeps the environment of its own start, so the current one is handed over.
    """
    os.environ.update(environment)
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _work(name, parameters, target, watched):
    """`execute` in a worker; the kernel's own messages go to a log that is kept if it fails."""
    terminal, log = os.fdopen(os.dup(2), "w"), target.with_name(f"{name}.failed.log")
    with runs.explained_write_errors(target.parent), open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    seconds = execute(
        read_notebook(name), parameters, target, progress=_ProgressLines(name, watched, terminal)
    )
    log.unlink()
    return seconds


def execute_all(needs, parameters, folder, jobs):
    """Execute notebooks, given as names with those that they need, in that order, at most ``jobs`` at once; stop starting new ones after a failure."""
    watched = sys.stderr.isatty() and jobs == 1
    waiting, running, failures = list(needs), {}, []
    # A fresh process for each notebook, forked from one that has imported what they all need.
    context = get_context("forkserver")
    context.set_forkserver_preload(["papermill", "jupytext"])
    start = {"initializer": _start_worker, "initargs": (dict(os.environ),)}
    pool = ProcessPoolExecutor(jobs, context, **start, max_tasks_per_child=1)
    try:
        while running or (waiting and not failures):
            busy = [*waiting, *running.values()]
            ready = [name for name in waiting if not failures and not needs[name] & set(busy)]
            for name in ready[: jobs - len(running)]:
                say(f"{name}  running")
                waiting.remove(name)
                running[
                    pool.submit(_work, name, parameters[name], folder / f"{name}.ipynb", watched)
                ] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    say(f"{name}  done in {future.result():.0f} s")
                except StudyError as error:
                    failures.append(str(error))
                except BrokenProcessPool:
                    failures.append(
                        f"{name} failed. Its process was killed; expected it to end by itself: run it again."
                    )
    except KeyboardInterrupt:
        for process in active_children():
            process.terminate()  # and with it its kernel, which watches it
        raise
    finally:
        pool.shutdown()
    if failures:
        raise StudyError("\n".join(failures))


def say(text):
    """A line on standard error, over a progress line if there is one."""
    print("\r\x1b[K" * sys.stderr.isatty() + text, file=sys.stderr, flush=True)


def write_run_json(folder, profile):
    """Write what the run's results depend on: parameters, seeds, data, commit, versions, machine, time per notebook."""
    studies = {name: _study(folder / f"{name}.ipynb") for name in notebooks(profile)}
    parameters = {name: study["parameters"] for name, study in studies.items()}
    content = {
        "profile": profile,
        "parameters": parameters,
        "seeds": {name: p["seed"] for name, p in parameters.items() if "seed" in p},
        "data": runs.read_json(folder / "artifacts" / "data.json"),
        "git_commit": {name: study["git_commit"] for name, study in studies.items()},
        "seconds": {name: study["seconds"] for name, study in studies.items()},
        **runs.provenance(),
    }
    with runs.explained_write_errors(folder):
        runs.write_json(folder / "run.json", content)


def run(profile, jobs=1, fallback=None, without=()):
    """Bring ``reports/<profile>/`` up to date and return its front page, or its metrics if there are no pages.

    Parameters
    ----------
    profile : str
        As for `profile_file`.
    jobs : int
        How many notebooks may run side by side.
    fallback : str, optional
        Why this profile was taken instead of ``mnist``; stands on the front page.
    without : sequence of str, optional
        Notebooks to leave out, with those that need them. Then there are metrics, but no pages, which are of a whole run.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        Before anything runs, for a mistake in the profile or a folder in use; afterwards, for a notebook that failed.
    """
    parameters, name = load_profile(profile), profile_file(profile).stem
    left = left_out(notebooks(name, parameters), without)
    with runs.only_run(name) as folder:
        _remove_leftovers(folder)
        stale = [
            notebook
            for notebook in out_of_date(profile, parameters, folder)
            if notebook not in left
        ]
        if stale:
            needs = notebooks(name, parameters)
            execute_all({notebook: needs[notebook] for notebook in stale}, parameters, folder, jobs)
        if left:
            say(
                f"reports/{name} has no pages of this run, which left out {', '.join(sorted(left))}"
            )
            return folder / "metrics.json"
        executed = [folder / f"{notebook}.ipynb" for notebook in parameters]
        if not is_newer(folder / "run.json", executed):
            write_run_json(folder, name)
        say(write_pages(folder, name, executed, fallback) or f"reports/{name} is up to date")
    return folder / "index.html"


def write_pages(folder, profile, executed, fallback):
    """Write the pages that are older than what they show; returns the comparison with the reference, or None."""
    frame = [Path(__file__).with_name("pages.py"), *Path(__file__).parent.glob("*.j2")]
    old = [
        notebook
        for notebook in executed
        if not is_newer(notebook.with_suffix(".html"), [notebook, *frame])
    ]
    published = [path for path in [runs.REFERENCE / f"{profile}.json"] if path.is_file()]
    sources = [folder / "run.json", folder / "metrics.json", *frame, *published]
    if not old and is_newer(folder / "index.html", sources):
        return None
    from ae_lib.study import (
        site,
    )  # takes a second to import, too long for a run that has nothing to do

    title = runs.read_json(folder / "run.json")["data"]["title"]
    with runs.explained_write_errors(folder):
        for notebook in old:
            site.write_page(folder, notebook.stem, title)
        comparison = site.write_front_page(folder, profile, fallback)
    return f"{title}: {comparison.summary}"


def _remove_leftovers(folder):
    """Remove what killed processes left; a stage whose process lives belongs to an open notebook."""
    for path in [*folder.glob(".*.stage"), *folder.glob(".*.tmp"), *folder.glob(".*.ipynb")]:
        process = path.name.split(".")[-2]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(
                missing_ok=True
            )


def main(arguments=None):
    """Command line; returns the exit code. A user's mistake is one sentence, without traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m ae_lib.study.report", description="Execute the study and write its report."
    )
    parser.add_argument(
        "profile", nargs="?", help="a name in notebooks/params/; by default mnist if it can be had"
    )
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that may run side by side")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NOTEBOOK",
        help="leave it out, with those that need it; no pages",
    )
    options = parser.parse_args(arguments)
    make_folders_absolute()
    try:
        profile, fallback = (options.profile, None) if options.profile else choose_profile()
        if fallback:
            say(_notice(fallback))
        front = run(profile, max(1, options.jobs), fallback, options.without)
        if fallback:
            say(_notice(fallback))
    except StudyError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: finished notebooks are kept, and the next run goes on from there")
        return 130
    with contextlib.suppress(ValueError):
        front = front.relative_to(Path.cwd())
    say(f"open {front}")
    return 0


def make_folders_absolute():
    """Make AE_DATA_DIR and AE_REPORTS_DIR mean here what they mean in kernels, which run in another folder."""
    for variable in ("AE_DATA_DIR", "AE_REPORTS_DIR"):
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())


def _notice(reason):
    rule = "=" * 100
    return (
        f"{rule}\nTHESE ARE NOT MNIST'S RESULTS: this run uses scikit-learn's 1,797 small digits instead.\n{reason}\n"
        f"Then run `make report PROFILE=mnist`.\n{rule}"
    )


if __name__ == "__main__":
    sys.exit(main())
