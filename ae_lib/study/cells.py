"""One cell of a sweep: some notebooks under given parameters, executed on any machine, in a process of its own.

A cell brings its notebooks along. A machine that executes it needs the installed library, the packages of the lock and the
data; it shares no disk with the one that asked.
"""

import ast
import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import requires, version
from pathlib import Path
from threading import Thread

from ae_lib import StudyError, data
from ae_lib import run as runs
from ae_lib.study.graph import read_notebook
from ae_lib.study.report import NOT_FOR_NOTEBOOKS, execute

import nbformat
import psutil

THREADS = (
    "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",  # TensorFlow
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",  # NumPy, SciPy, scikit-learn
)  # fmt: skip
# What else of the environment changes numbers. A cell has the values of the machine that made it.
VARIABLES = (
    "XLA_FLAGS",
    "TF_ENABLE_ONEDNN_OPTS",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "CUDA_VISIBLE_DEVICES",
)


@dataclass(frozen=True)
class Cell:
    """What is executed, and all that its numbers depend on but for the processor; `make` makes one.

    Attributes
    ----------
    point : dict
        Where it stands in its sweep: what is varied, to its value.
    parameters : dict
        Notebook to all its parameters, in the order of execution.
    environment : dict
        Values of `THREADS` and `VARIABLES`; those that it lacks are not set.
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
        return f"{re.sub(r'[^ .=A-Za-z0-9_-]+', '', text).replace(' ', '_')[:100]}-{_sha256(self.point)[:10]}"

    @functools.cached_property
    def fingerprint(self):
        """SHA-256 of what the numbers depend on: parameters, environment, library, code of the notebooks, packages, data."""
        parameters = {
            n: {k: v for k, v in own.items() if k != "profile"}
            for n, own in self.parameters.items()
        }
        cells = {name: json.loads(text)["cells"] for name, text in self.notebooks.items()}
        code = {
            n: [c["source"] for c in some if c["cell_type"] == "code"] for n, some in cells.items()
        }
        return _sha256([parameters, self.environment, code, self.code, self.md5])


def make(point, parameters, environment, minutes=60.0):
    """A cell of this machine's notebooks; the parameters are those of `Cell`."""
    datasets = sorted({own["dataset"] for own in parameters.values() if "dataset" in own})
    own = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    notebooks = {notebook: notebook_text(notebook) for notebook in parameters}
    md5 = {dataset: md5_of(dataset) for dataset in datasets}
    return Cell(point, parameters, {**own, **environment}, minutes, notebooks, library(), md5)


def threads(count):
    """The environment that caps the threads of TensorFlow and of the linear algebra libraries."""
    return dict.fromkeys(THREADS, str(count))


@functools.cache
def library():
    """SHA-256 of Python's and the packages' versions and of the library's code, as far as it changes results.

    Comments, docstrings and layout are no code.
    """
    modules = sorted(
        path for path in Path(__file__).parent.glob("*.py") if path.name not in NOT_FOR_NOTEBOOKS
    )
    names = [re.match(r"[\w.-]+", text)[0] for text in requires("ae-lib") if "extra ==" not in text]
    versions = {name: version(name) for name in names} | {
        "python": platform.python_version_tuple()[:2]
    }
    return _sha256(
        [{path.name: _code(path.read_text(encoding="utf-8")) for path in modules}, versions]
    )


def _code(text):
    tree = ast.parse(text)
    for node in ast.walk(tree):
        first = (
            node.body[0] if isinstance(getattr(node, "body", None), list) and node.body else None
        )
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            del node.body[0]
    return ast.dump(tree)


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
        bytes, or None if they are not asked for; ``error``, a sentence, and ``traceback`` of a failed cell, else empty.
    """
    others = {
        name: value for name, value in os.environ.items() if name not in {*THREADS, *VARIABLES}
    }
    with tempfile.TemporaryDirectory(prefix="cell-", ignore_cleanup_errors=True) as folder:
        folder = Path(folder)
        runs.write_json(folder / "cell.json", {**asdict(cell), "order": list(cell.parameters)})
        # Its standard input is closed when this process ends, however it does; the other one waits for that.
        with (
            open(folder / "log", "w", encoding="utf-8") as log,
            subprocess.Popen(
                [sys.executable, "-m", "ae_lib.study.cells", str(folder)],
                env={**others, **cell.environment, "AE_REPORTS_DIR": str(folder / "reports")},
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log,
            ) as process,
        ):  # fmt: skip
            try:
                error = _said(folder, process.wait(60 * cell.minutes))
            except subprocess.TimeoutExpired:
                error = f"It took longer than {cell.minutes:g} minutes; expected less: raise limits.minutes."
            finally:
                if process.poll() is None:
                    _kill_children(process.pid)
                    process.kill()
        return _collected(folder / "reports", error, with_models)


def _said(folder, code):
    if code == 0:
        return ""
    if (folder / "error").is_file():
        return (folder / "error").read_text(encoding="utf-8")
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")[-2000:]
    return f"Its process ended with code {code}, most likely for want of memory; expected 0: make room. Its last words: {log}"


def _kill_children(process):
    """A kernel ends by itself when its parent has gone, but a second later, and writes until then."""
    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            child.kill()


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
    notebooks = {}
    for path in sorted(reports.glob("*/*.ipynb")) + sorted(reports.glob("*/.*.ipynb")):
        # Papermill's own copy has a leading dot, and is there if it was interrupted.
        name = f"{path.name.split('.')[1]}.failed.ipynb" if path.name.startswith(".") else path.name
        notebooks[name] = path.read_text(encoding="utf-8")
    failed = [text for name, text in notebooks.items() if name.endswith(".failed.ipynb")]
    found = next(iter(reports.glob("*/metrics.json")), None)
    models = {path.name: path.read_bytes() for path in sorted(reports.glob("*/artifacts/*.keras"))}
    return {
        "status": "failed" if error else "done",
        "metrics": runs.read_json(found) if found else {},
        "notebooks": notebooks,
        "models": models if with_models else None,
        "error": error,
        "traceback": "\n".join(map(_traceback, failed)),
    }


def _traceback(notebook):
    outputs = [
        output for cell in json.loads(notebook)["cells"] for output in cell.get("outputs", [])
    ]
    lines = [
        line
        for output in outputs
        if output["output_type"] == "error"
        for line in output["traceback"]
    ]
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(lines))


def _check_is_the_same(cell):
    """Here and not where `run` is called, whose process may be older than the library's files."""
    if library() != cell["code"]:
        raise StudyError(
            "A worker has another ae_lib, Python or packages than the machine that started the sweep; expected the same: "
            "install the same commit with its lock there, and start the worker again."
        )
    for name, md5 in cell["md5"].items():
        if md5_of(name) != md5:
            raise StudyError(
                f"A worker has other images under the name {name} than the machine that started the sweep; expected the same: "
                "copy the file there, and start the worker again."
            )


def _end_with_parent(folder):
    sys.stdin.read()  # until the parent closes it, or is gone
    _kill_children(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main(arguments=None):
    """Execute the cell in the folder that is named; returns the exit code. `run` calls it."""
    folder = Path((arguments or sys.argv[1:])[0])
    Thread(target=_end_with_parent, args=[folder], daemon=True).start()
    cell = runs.read_json(folder / "cell.json")
    try:
        _check_is_the_same(cell)
        for name in cell["order"]:
            parameters = cell["parameters"][name]
            target = folder / "reports" / parameters["profile"] / f"{name}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            execute(nbformat.reads(cell["notebooks"][name], 4), parameters, target, cwd=folder)
    except StudyError as error:
        runs.write_text(folder / "error", " ".join(str(error).split()))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
