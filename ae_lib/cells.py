"""One cell of a sweep: some notebooks under given parameters, executed on any machine, in a process of its own.

A cell brings its notebooks along. A machine that executes it needs the installed library, the packages of the lock and the
data; it shares no disk with the one that asked.
"""

import ast
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from threading import Thread

from ae_lib import StudyError, data, runs
from ae_lib.profiles import read_notebook
from ae_lib.report import NOT_FOR_NOTEBOOKS, execute

import nbformat

THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Cell:
    """What is executed, and all that its numbers depend on but for the kind of processor; `make` makes one.

    Attributes
    ----------
    point : dict
        Where it stands in its sweep: what is varied, to its value.
    parameters : dict
        Notebook to all its parameters, in the order of execution.
    environment : dict
        Variables for its process, such as `threads`.
    minutes : float
        After which it has failed.
    notebooks : dict
        Name to notebook, as JSON text.
    code, md5 : str, dict
        `library` where the cell was made; data set to the MD5 sums of its arrays there.
    """

    point: dict
    parameters: dict
    environment: dict
    minutes: float
    notebooks: dict
    code: str
    md5: dict

    @property
    def name(self):
        """Its point as text, fit for the name of a folder and unique in the sweep."""
        text = " ".join(f"{key}={value}" for key, value in self.point.items())
        return f"{re.sub(r'[^ .=A-Za-z0-9_-]+', '', text).replace(' ', '_')[:100]}-{_sha256(self.point)[:6]}"

    @functools.cached_property
    def fingerprint(self):
        """SHA-256 of what the numbers depend on: parameters, environment, library, code of the notebooks, packages, data."""
        parameters = {n: {k: v for k, v in own.items() if k != "profile"} for n, own in self.parameters.items()}
        cells = {name: json.loads(text)["cells"] for name, text in self.notebooks.items()}
        code = {n: [c["source"] for c in some if c["cell_type"] == "code"] for n, some in cells.items()}
        return _sha256([parameters, self.environment, code, self.code, self.md5])


def make(point, parameters, environment, minutes=60.0):
    """A cell of this machine's notebooks; the parameters are those of `Cell`."""
    datasets = sorted({own["dataset"] for own in parameters.values() if "dataset" in own})
    notebooks = {notebook: notebook_text(notebook) for notebook in parameters}
    return Cell(point, parameters, environment, minutes, notebooks, library(), {d: md5_of(d) for d in datasets})


def threads(count):
    """The environment that caps TensorFlow's and the BLAS's threads."""
    return dict.fromkeys(THREADS, str(count))


@functools.cache
def library():
    """SHA-256 of the library's code, comments and layout aside, as far as it changes results, and of the packages' versions."""
    modules = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name not in NOT_FOR_NOTEBOOKS)
    code = {path.name: ast.dump(ast.parse(path.read_text(encoding="utf-8"))) for path in modules}
    return _sha256([code, {name: version(name) for name in runs.PACKAGES}])


def run(cell, with_models=False):
    """Execute a cell in a process of its own, which ends when this one does.

    Parameters
    ----------
    cell : Cell
    with_models : bool
        Whether the trained models are returned as well.

    Returns
    -------
    dict
        ``status``, "done" or "failed"; ``metrics``, name to number; ``notebooks``, file name to text; ``models``, file name to
        bytes; for a failed cell ``error``, a sentence, and ``traceback``, where a notebook failed.

    Raises
    ------
    StudyError
        If this machine has another library, other packages or other data than the one that made the cell.
    """
    _check_is_the_same(cell)
    with tempfile.TemporaryDirectory(prefix="cell-") as folder:
        folder = Path(folder)
        order = [(name, cell.notebooks[name], parameters) for name, parameters in cell.parameters.items()]
        runs.write_json(folder / "cell.json", order)
        environment = {**os.environ, **cell.environment, "AE_REPORTS_DIR": str(folder / "reports")}
        # Its standard input is closed when this process ends, however it does; the other one waits for that.
        with (
            open(folder / "log", "w", encoding="utf-8") as log,
            subprocess.Popen(
                [sys.executable, "-m", "ae_lib.cells", str(folder)],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            ) as process,
        ):  # fmt: skip
            try:
                error = _last_line(folder / "log") if process.wait(60 * cell.minutes) else ""
            except subprocess.TimeoutExpired:
                error = f"it took longer than {cell.minutes:g} minutes; expected less: raise limits.minutes."
            finally:
                process.kill()
        return _collected(folder / "reports", error, with_models)


def _last_line(log):
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return said[-1] if said else "its process died without a word, most likely for want of memory."


def _check_is_the_same(cell):
    if library() != cell.code:
        raise StudyError(
            "A worker has another ae_lib, or other versions of its packages, than the machine that started the sweep; "
            "expected the same: install the same commit with its lock there, and start the worker again."
        )
    for name, md5 in cell.md5.items():
        if md5_of(name) != md5:
            raise StudyError(
                f"A worker has other images under the name {name} than the machine that started the sweep; expected the same: "
                "copy the file there, and start the worker again."
            )


@functools.cache
def md5_of(dataset):
    """What tells a data set from another of the same name; MNIST is checked whenever it is loaded."""
    return data.MNIST_MD5 if dataset == "mnist" else data.load(dataset).md5


@functools.cache
def notebook_text(name):
    """A notebook from its script, as JSON."""
    return nbformat.writes(read_notebook(name))


def _sha256(content):
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _collected(reports, error, with_models):
    outcome = {"status": "failed" if error else "done", "metrics": {}, "notebooks": {}, "models": {}, "error": error}
    notebooks = sorted(path for path in reports.glob("*/*.ipynb") if not path.name.startswith("."))
    outcome["notebooks"] = {path.name: path.read_text(encoding="utf-8") for path in notebooks}
    for path in reports.glob("*/metrics.json"):
        outcome["metrics"] = runs.read_json(path)
    if with_models:
        outcome["models"] = {path.name: path.read_bytes() for path in sorted(reports.glob("*/artifacts/*.keras"))}
    if error:
        failed = [text for name, text in outcome["notebooks"].items() if name.endswith(".failed.ipynb")]
        outcome["traceback"] = "\n".join(map(_traceback, failed))
    return outcome


def _traceback(notebook):
    outputs = [output for cell in json.loads(notebook)["cells"] for output in cell.get("outputs", [])]
    lines = [line for output in outputs if output["output_type"] == "error" for line in output["traceback"]]
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))


def _end_with_parent(folder):
    sys.stdin.read()  # until the parent closes it, or is gone
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)  # the kernel watches this process, and ends as well


def main(arguments=None):
    """Execute the cell in the folder that is named; returns the exit code. `run` calls it."""
    folder = Path((arguments or sys.argv[1:])[0])
    Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    try:
        for name, notebook, parameters in runs.read_json(folder / "cell.json"):
            target = folder / "reports" / parameters["profile"] / f"{name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            execute(nbformat.reads(notebook, 4), parameters, target, cwd=folder)
    except StudyError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
