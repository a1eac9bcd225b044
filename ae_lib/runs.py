"""A run's folder: what a notebook reads from earlier ones, what it adds, and how its numbers compare with the reference.

Nothing that a run has produced is lost to a later one that fails: a notebook writes into a stage of its own, and only
`Run.finish` moves the files into place, one rename each.
"""

import contextlib
import fcntl
import io
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from ae_lib import StudyError

import matplotlib as mpl
import pandas as pd
from IPython.display import Image, display

PROJECT = Path(__file__).parents[1]
REFERENCE = PROJECT / "reports" / "reference"
ROUNDING = 1e-8  # the absolute part of every tolerance: what is smaller is the rounding of a processor
PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "papermill",
    "jupytext",
)

# The trained models that notebooks may be given by their parameter ``model``: the file of each, and who makes it.
MODELS = {
    "dense": ("model.keras", "02_train"),
    "scheduled": ("scheduled.keras", "09_train_convolutional"),
    "wide": ("wide.keras", "09_train_convolutional"),
    "conv": ("conv.keras", "09_train_convolutional"),
    "conv30": ("conv30.keras", "09_train_convolutional"),
    "denoising": ("denoising.keras", "09_train_convolutional"),
    "denoising_conv": ("denoising_conv.keras", "09_train_convolutional"),
    "vae": ("vae.keras", "10_train_variational"),
}


def reports_folder():
    """Where runs live: ``$AE_REPORTS_DIR``, or ``reports/`` of the project."""
    return Path(os.environ.get("AE_REPORTS_DIR") or PROJECT / "reports")


def sweep_files(name):
    """Where the results of a sweep stand, one row for each cell: this machine's, and the published ones."""
    return reports_folder() / "sweeps" / name / "results.csv", REFERENCE / "sweeps" / f"{name}.csv"


def sweep_table(name):
    """The first of `sweep_files` that there is; `StudyError` if there is neither."""
    found = next((path for path in sweep_files(name) if path.is_file()), None)
    if found is None:
        raise StudyError(f"There are no results of the sweep {name!r}: run make sweep SWEEP={name} first.")
    return found


def model_file(model):
    """The file among a run's artifacts that holds a model of `MODELS`, and the notebook that makes it."""
    if model not in MODELS:
        raise StudyError(f"There is no model {model!r}; expected one of {', '.join(MODELS)}: change it.")
    return MODELS[model]


class Run:
    """One notebook's view of the folder ``reports/<profile>/``.

    Parameters
    ----------
    profile : str
        The run's name.
    notebook : str
        The notebook that writes, e.g. ``"03_evaluate"``.

    Raises
    ------
    StudyError
        If the folder cannot be written.
    """

    def __init__(self, profile, notebook):
        self.profile, self.notebook = profile, notebook
        self.folder = reports_folder() / profile
        # Another process may be running the same notebook: a stage belongs to one process.
        self.stage = self.folder / f".{notebook}.{os.getpid()}.stage"
        with explained_write_errors(self.folder):
            shutil.rmtree(self.stage, ignore_errors=True)
            for part in ("artifacts", "figures"):
                (self.stage / part).mkdir(parents=True)

    def __repr__(self):
        return f"reports/{self.profile}, as seen by {self.notebook}"

    def artifact(self, name, made_by):
        """Path of a file that the notebook ``made_by`` has produced; `StudyError` if it has not."""
        path = self.folder / "artifacts" / name
        if not path.is_file():
            raise StudyError(
                f"reports/{self.profile}/artifacts/{name} is missing; {self.notebook} needs it: run {made_by} first."
            )
        return path

    def trained(self, model):
        """Path of a trained model, by its name in `MODELS`; `StudyError` if there is no such model, or no file yet."""
        return self.artifact(*model_file(model))

    def new_artifact(self, name):
        """Path to which this notebook writes a file called ``name``."""
        return self.stage / "artifacts" / name

    def show(self, name, figure):
        """Save a figure as PNG and SVG, and display the PNG with its caption as alternative text."""
        png, caption = io.BytesIO(), figure.get_label()
        # Without date and with fixed ids, the same figure gives the same bytes.
        with mpl.rc_context({"svg.hashsalt": name}), explained_write_errors(self.folder):
            figure.savefig(png, format="png", metadata={"Description": caption})
            figure.savefig(self.stage / "figures" / f"{name}.svg", metadata={"Date": None, "Description": caption})
            (self.stage / "figures" / f"{name}.png").write_bytes(png.getvalue())
        display(Image(png.getvalue(), alt=caption))

    def finish(self, metrics, claims=()):
        """Publish what this notebook wrote together with its metrics, and compare these with the reference.

        Parameters
        ----------
        metrics : dict
            Names ``<model>.<split>.<metric>`` to numbers. They replace this notebook's earlier ones in
            ``metrics.json``.
        claims : sequence of (claim, measured, baseline, verdict)
            For the report's front page, each shown as its ``str``; numbers as `ae_lib.metrics.Interval`.

        Returns
        -------
        Comparison
        """
        metrics = {name: float(value) for name, value in metrics.items()}
        with explained_write_errors(self.folder):
            write_json(self.new_artifact(f"{self.notebook}.metrics.json"), metrics)
            write_json(
                self.new_artifact(f"{self.notebook}.claims.json"), [[str(cell) for cell in row] for row in claims]
            )
            for path in sorted(self.stage.glob("*/*")):
                target = self.folder / path.relative_to(self.stage)
                target.parent.mkdir(exist_ok=True)
                path.replace(target)
            shutil.rmtree(self.stage)
            with _locked(self.folder / ".metrics.lock", wait=True):  # notebooks may finish side by side
                parts = sorted((self.folder / "artifacts").glob("*.metrics.json"))
                merged = {name: value for part in parts for name, value in read_json(part).items()}
                write_json(self.folder / "metrics.json", merged)
        return Comparison(metrics, reference(self.profile))


class Comparison:
    """Measured metrics beside their reference values.

    Its representation is fixed text, so that a stored notebook can be compared to the letter; the measured numbers
    are in `table`. Durations are not in it: they belong to a machine.
    """

    def __init__(self, metrics, reference):
        compared = {name: value for name, value in metrics.items() if not is_duration(name)}
        self.table = pd.DataFrame(
            [(name, value, *_expected(name, reference)) for name, value in compared.items()],
            columns=["metric", "measured", "reference", "tolerance"],
        ).set_index("metric")
        distance = (self.table["measured"] - self.table["reference"]).abs()
        self.table["within"] = distance <= self.table["tolerance"] * self.table["reference"].abs() + ROUNDING
        self.has_reference = bool(reference)

    @property
    def summary(self):
        """The comparison in one sentence."""
        if not self.has_reference:
            return "There is no reference for this profile to compare with."
        return f"reproduced {self.table['within'].sum()} of {len(self.table)} metrics"

    def __repr__(self):
        if not self.has_reference:
            return self.summary
        lines = [
            f"{name}: within {100 * row.tolerance:g} % of the reference"
            if row.within
            else f"{name}: OUTSIDE the tolerance of {100 * row.tolerance:g} %: {row.measured:.6g}, reference {row.reference:.6g}"
            for name, row in self.table.iterrows()
            if not (row.within and name.endswith((".low", ".high")))  # three times the text, no more sense
        ]
        return "\n".join([*lines, self.summary])


def _expected(name, reference):
    entry = reference.get(name, {})
    return entry.get("value", float("nan")), entry.get("rtol", float("nan"))


def is_duration(name):
    """Whether a metric is a time: the last part of its name begins with ``seconds``."""
    return name.rpartition(".")[2].startswith("seconds")


def reference(profile):
    """The published metrics of a profile, name to what `ae_lib.reference.summarise` says of it; empty if there are none."""
    path = REFERENCE / f"{profile}.json"
    return read_json(path) if path.is_file() else {}


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
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stdout.strip() or None


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def read_json(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path, content):
    """Write sorted, indented JSON."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path, text):
    """`write_bytes` of text in UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path, content):
    """Write a file so that a reader finds either the old content or the new, never a part."""
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextlib.contextmanager
def explained_write_errors(folder):
    """Turn a full disk or a missing permission into one sentence."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"{folder} cannot be written ({error.strerror or error}); expected a writable folder with some 50 MB free: "
            "make room, change its permissions, or set AE_REPORTS_DIR to another folder."
        ) from error


@contextlib.contextmanager
def only_run(profile):
    """Hold a run's folder for one process; `StudyError` if another one has it. A killed process lets go by itself."""
    folder = reports_folder() / profile
    with explained_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".run.lock", wait=False):
        yield folder


@contextlib.contextmanager
def _locked(path, wait):
    with explained_write_errors(path.parent):
        file = open(path, "a+")  # noqa: SIM115  # closed below; what happens in between is not an error of writing
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            file.seek(0)
            raise StudyError(
                f"{path.parent} is in use by another run (process {file.read().strip() or 'unknown'}); expected one run "
                "of a profile at a time: wait until it has ended, or end it."
            ) from error
        with explained_write_errors(path.parent):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield
