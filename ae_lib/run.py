"""A notebook's view of its run folder: what it reads of earlier notebooks, and what it adds.

Nothing that a run has produced is lost to a later one that fails: a notebook writes into a stage
of its own, and only `Run.finish` moves the files into place, one rename each. What takes seconds to
import is imported where it is used: the study's own processes do without.
"""

import contextlib
import errno
import io
import json
import math
import os
import shutil
from pathlib import Path

from ae_lib import StudyError

import numpy as np

PROJECT = Path(__file__).parents[1]
REFERENCE = PROJECT / "reports" / "reference"
RESULTS = "results.json"  # a notebook's metrics, headline and claims, among its artifacts
VALUES = "values.npz"  # what it measured of each image
MAY_READ = "AE_MAY_READ"  # the variable with the notebooks whose artifacts may be read
WIDE = 0.1  # a tolerance above this share of the value says little

# The trained models that a notebook may be given by its parameter ``model``, and who trains each.
MODELS = {
    "dense": "02_train",
    "scheduled": "02_train",
    "wide": "09_train_convolutional",
    "conv": "09_train_convolutional",
    "conv30": "09_train_convolutional",
    "denoising": "10_denoise",
    "vae": "11_train_variational",
}


class Run:
    """One notebook's view of the folder ``reports/<profile>/``, e.g. that of ``"03_evaluate"``.

    Whatever is written there raises `StudyError` if the disk is full or permission is missing.
    """

    def __init__(self, profile, notebook):
        self.profile, self.notebook = profile, notebook
        self.folder = reports_folder() / profile
        # Another process may be running the same notebook: a stage belongs to one process.
        self.stage = self.folder / f".{notebook}.{os.getpid()}.stage"
        with explained_write_errors(self.folder):
            shutil.rmtree(self.stage, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)

    def __repr__(self):
        return f"reports/{self.profile}, as seen by {self.notebook}"

    def artifact(self, name):
        """Path of ``<notebook>/<file>``; `StudyError` if it is missing, or not in the graph."""
        maker, allowed = name.partition("/")[0], os.environ.get(MAY_READ)
        if allowed is not None and maker not in {self.notebook, *allowed.split(",")}:
            raise StudyError(
                f"{self.notebook} reads {name}, and NEEDS in ae_lib/study/graph.py does not say "
                f"so; expected {maker} in its line: add it."
            )
        path = self.folder / "artifacts" / name
        if not path.is_file():
            raise StudyError(
                f"reports/{self.profile}/artifacts/{name} is missing; {self.notebook} needs it: "
                f"run {maker} first."
            )
        return path

    def model(self, name):
        """Path of a trained model, by its name in `MODELS`; `StudyError` if there is none."""
        return self.artifact(model_file(name))

    def metrics_of(self, notebook):
        """The metrics of an earlier notebook, name to `ae_lib.metrics.Interval`."""
        entries = read_json(self.artifact(f"{notebook}/{RESULTS}"))["metrics"]
        return {name: from_json(entry) for name, entry in entries.items()}

    def reference(self):
        """The published metrics of this profile, as `reference` gives them."""
        return reference(self.profile)

    def new_artifact(self, name):
        """Path to which this notebook writes a file called ``name``."""
        return self._staged(f"artifacts/{self.notebook}", name)

    def show(self, name, figure):
        """Save a figure as PNG and SVG; display the PNG with its caption as alternative text."""
        import matplotlib as mpl
        from IPython.display import Image, display

        png, caption = io.BytesIO(), figure.get_label()
        # Without date and with fixed ids, the same figure gives the same bytes.
        with mpl.rc_context({"svg.hashsalt": name}), explained_write_errors(self.folder):
            figure.savefig(png, format="png", metadata={"Description": caption})
            described = {"Date": None, "Description": caption}
            figure.savefig(self._staged("figures", f"{name}.svg"), metadata=described)
            self._staged("figures", f"{name}.png").write_bytes(png.getvalue())
        display(Image(png.getvalue(), alt=caption))

    def values_of(self, notebook):
        """What an earlier notebook has measured of each image: metric to values, as in `finish`.

        Only of the metrics of its headline and its claims.
        """
        with np.load(self.artifact(f"{notebook}/{VALUES}")) as values:
            return dict(values)

    def finish(self, measured, claims=(), headline=(), earlier=None, decided=None):
        """Publish what this notebook has staged since the last call, and its metrics.

        Parameters
        ----------
        measured : dict
            Names ``<model>.<split>.<metric>`` to what was measured: the values of the images, or of
            replicates and images, whose mean is the metric (see `ae_lib.metrics.interval`); a
            number; or an `ae_lib.metrics.Interval`.
        claims : sequence of (claim, measured, baseline, better)
            As for `ae_lib.metrics.judge`, which decides them together.
        headline : sequence of str
            Metrics that stand in a table of results. They and those that claims name are compared
            with their published values.
        earlier : dict, optional
            Values of earlier notebooks, by `values_of`, that claims name as well.
        decided : pandas.DataFrame, optional
            Claims that were decided elsewhere, as of `ae_lib.metrics.judge`, in place of claims.

        Returns a `Reproduction`; `StudyError` if a name is not among what was measured.
        """
        from ae_lib import metrics

        known = {**(earlier or {}), **measured}
        named = [part for claim in claims for part in claim[1:3] if isinstance(part, str)]
        if missing := [name for name in [*headline, *named] if name not in known]:
            raise StudyError(
                f"The headline or a claim of {self.notebook} names {missing[0]}, which is not "
                "among its metrics; expected only measured ones: add it, or leave it out."
            )
        judged = metrics.judge(claims, known) if decided is None else decided
        intervals = {name: as_interval(value) for name, value in measured.items()}
        headline = sorted({*headline, *named} & set(measured))
        values = {name: np.asarray(measured[name]) for name in headline if np.ndim(measured[name])}
        results = {
            "metrics": {name: to_json(value) for name, value in intervals.items()},
            "headline": headline,
            "claims": [{**row, "gain": to_json(row["gain"])} for row in judged.to_dict("records")],
        }
        with explained_write_errors(self.folder):
            np.savez_compressed(self.new_artifact(VALUES), **values)
            write_json(self.new_artifact(RESULTS), results)
            self._move_into_place()
        published = {name: intervals[name].value for name in headline}
        return Reproduction(published, self.reference(), judged)

    def _staged(self, part, name):
        with explained_write_errors(self.folder):
            (self.stage / part).mkdir(parents=True, exist_ok=True)
        return self.stage / part / name

    def _move_into_place(self):
        files = sorted(path for path in self.stage.rglob("*") if path.is_file())
        files.sort(key=lambda path: path.name == RESULTS)  # last: now it is finished
        for path in files:
            target = self.folder / path.relative_to(self.stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        shutil.rmtree(self.stage)


class Reproduction:
    """Measured metrics beside their published values, if they have one, and what claims hold.

    ``table`` has a row for each metric; ``claims`` is what `ae_lib.metrics.judge` gives. Its
    representation is fixed text, so that stored notebooks compare to the letter.
    """

    def __init__(self, metrics, reference, judged=None):
        import pandas as pd

        compared = {name: value for name, value in metrics.items() if name in reference}
        rows = [(v, reference[n]["value"], reference[n]["tolerance"]) for n, v in compared.items()]
        columns, index = ["measured", "reference", "tolerance"], pd.Index(compared, name="metric")
        self.table = pd.DataFrame(rows, index, columns, dtype="float64")
        distance = (self.table["measured"] - self.table["reference"]).abs()
        self.table["within"] = distance <= self.table["tolerance"]
        self.has_reference, self.claims = bool(reference), judged

    @property
    def summary(self):
        """The comparison in one sentence."""
        if not self.has_reference:
            return "There is no reference for this profile to compare with."
        wide = (self.table["tolerance"] > WIDE * self.table["reference"].abs()).sum()
        return (
            f"reproduced {self.table['within'].sum()} of {len(self.table)} headline metrics "
            f"({wide} of them with a tolerance above {WIDE:.0%} of the value)"
        )

    def __repr__(self):
        outside = [
            f"{name} is OUTSIDE its tolerance: {row.measured:.6g}, reference {row.reference:.6g} "
            f"± {row.tolerance:.2g}"
            for name, row in self.table[~self.table["within"]].iterrows()
        ]
        return "\n".join([*outside, self.summary])


def reports_folder():
    """Where runs live: ``$AE_REPORTS_DIR``, or ``reports/`` of the project."""
    return Path(os.environ.get("AE_REPORTS_DIR") or PROJECT / "reports")


def model_file(name):
    """The artifact ``<notebook>/<file>`` that holds a model of `MODELS`."""
    if name not in MODELS:
        raise StudyError(
            f"There is no model {name!r}; expected one of {', '.join(MODELS)}: change it."
        )
    return f"{MODELS[name]}/{name}.keras"


def reference(profile):
    """The published metrics of a profile, name to value and tolerance; empty if there are none."""
    path = REFERENCE / f"{profile}.json"
    return read_json(path) if path.is_file() else {}


def claims_file(profile):
    """Where the published claims of a profile stand, decided over seeds and images; a CSV file."""
    return REFERENCE / f"{profile}_claims.csv"


def sweep_files(name, table="results"):
    """Where a table of a sweep stands: this machine's, the published one.

    ``"results"`` has a row for each trial, ``"claims"`` one for each claim, decided over seeds.
    """
    own = reports_folder() / "sweeps" / name / f"{table}.csv"
    published = f"{name}.csv" if table == "results" else f"{name}_{table}.csv"
    return own, REFERENCE / "sweeps" / published


def sweep_table(name, table="results"):
    """A table of a sweep, this machine's if its results exist, else the published one.

    `StudyError` if it is missing: claims are never those of other results.
    """
    place = 0 if sweep_files(name)[0].is_file() else 1
    path = sweep_files(name, table)[place]
    if not path.is_file():
        raise StudyError(
            f"There are no {table} of the sweep {name!r}: run make sweep SWEEP={name} first."
        )
    return path


def as_interval(value):
    """The `ae_lib.metrics.Interval` of values; a number as one without ends; one as it is."""
    from ae_lib.metrics import Interval, interval

    if isinstance(value, Interval):
        return value
    return interval(value) if np.ndim(value) else Interval(float(value), math.nan, math.nan)


def to_json(interval):
    """A metric as it stands in a file: ``value``, and ``low`` and ``high`` if it has ends."""
    entry = vars(interval)
    # JSON has no NaN: a value that could not be computed is null, an end is left out.
    known = {key: number if math.isfinite(number) else None for key, number in entry.items()}
    return {key: number for key, number in known.items() if key == "value" or number is not None}


def from_json(entry):
    """The inverse of `to_json`."""
    from ae_lib.metrics import Interval

    ends = (entry.get(key) for key in ("value", "low", "high"))
    return Interval(*(math.nan if end is None else end for end in ends))


def is_duration(name):
    """Whether a metric is a time, which belongs to a machine and is not published."""
    return name.rpartition(".")[2].startswith("seconds")


def read_json(path):
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json(path, content):
    """Write sorted, indented JSON; `ValueError` for NaN, which JSON does not have."""
    options = {"indent": 2, "sort_keys": True, "ensure_ascii": False, "allow_nan": False}
    write_bytes(path, (json.dumps(content, **options) + "\n").encode())


def write_bytes(path, content):
    """Write a file so that a reader finds either the old content or the new, never a part."""
    temporary = Path(path).with_name(f".{Path(path).name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


@contextlib.contextmanager
def explained_write_errors(folder):
    """Turn what hinders writing into one sentence; any other error stays itself."""
    advice = {
        "make room": {errno.ENOSPC, errno.EDQUOT},
        "create its folder": {errno.ENOENT},
        "change its permissions": {errno.EACCES, errno.EPERM, errno.EROFS},
        "remove the file in its place": {errno.ENOTDIR, errno.EEXIST},
    }
    try:
        yield
    except OSError as error:
        what = next((text for text, codes in advice.items() if error.errno in codes), None)
        if what is None:
            raise
        raise StudyError(
            f"{folder} cannot be written ({error.strerror}); expected a writable folder with some "
            f"50 MB free: {what}, or set AE_REPORTS_DIR to another folder."
        ) from error
