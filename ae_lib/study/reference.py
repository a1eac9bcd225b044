"""Measure what the project publishes: reference values with their tolerances, and the stored notebooks.

``make reference PROFILE=…`` and ``make baselines`` call it; ``python -m ae_lib.study.reference --help`` lists the rest.
"""

import argparse
import contextlib
import math
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from ae_lib import StudyError
from ae_lib import run as runs
from ae_lib.study import cells, report, sweep
from ae_lib.study.graph import (
    FOLDER,
    SHARED,
    complete,
    declared_parameters,
    load_profile,
    notebooks,
    own_profiles,
    profile_file,
    read_sections,
    with_needed,
)

import nbformat
import numpy as np
import pandas as pd

GOLDEN = runs.PROJECT / "tests" / "golden"
README_FIGURES = ("03_reconstructions",)
# Other machines, as far as this one can play them: which compiler the training uses, and environment variables. XLA
# takes no notice of most of these, so that most stand-ins do without it; then TensorFlow's matrix products go through
# kernels that differ between processors.
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "OPENBLAS_CORETYPE": "Haswell"}
MACHINES = [
    ("auto", {**AVX2, **ONE_THREAD}),
    ("none", {}),
    ("none", {**AVX2, **ONE_THREAD}),
    ("none", {"ONEDNN_MAX_CPU_ISA": "SSE41", "OPENBLAS_CORETYPE": "Nehalem"}),
    ("none", {"TF_ENABLE_ONEDNN_OPTS": "1"}),
]
SAFETY = 3  # the tolerance is this many times the largest deviation seen on five stand-ins for all other machines
MOST_FROM_SEEDS = (
    0.5  # seeds also draw other labels, so that some of their spread is not that of a machine
)
LEAST_TOLERANCE = (
    1e-5  # for what is arithmetic on the data alone; other libraries may sum in another order
)
# How many seeds run all notebooks; how many those that are left without what trains for minutes, which train with these
# parameters or, None, are left out with those that need them; and how many the study's network alone, as the sweep `seeds`.
SEEDS_OF_ALL, SEEDS_OF_FAST, SEEDS_OF_CORE = 3, 5, 10
SLOW = {
    "09_train_convolutional": {"train": ["scheduled", "wide", "denoising"]},
    "10_train_variational": None,
}
CORE = ["03_evaluate"]


def measure(profile, scheduler=None):
    """Run a profile under several seeds and other CPU settings, as a sweep, and write its reference file.

    Parameters
    ----------
    profile : str
        As for `ae_lib.study.graph.profile_file`.
    scheduler : str, optional
        As for `ae_lib.study.sweep.collect`; without one, the cells run one after another, each on all cores.

    Returns
    -------
    Path
        ``reports/reference/<profile>.json``, as `summarise` gives it.

    Raises
    ------
    StudyError
        If a cell failed. The others are kept in ``reports/sweeps/reference_<profile>/``.
    """
    name = profile_file(profile).stem
    by_seed = [_cell(profile, {"seed": seed}, {}) for seed in range(SEEDS_OF_CORE)]
    elsewhere = [
        _cell(profile, {"seed": 0, "compiler": c, **settings}, settings) for c, settings in MACHINES
    ]
    with runs.only_run(f"sweeps/reference_{name}") as folder:
        done = sweep.collect([*by_seed, *elsewhere], folder, scheduler)["status"] == "done"
        if not done.all():
            raise StudyError(
                f"{(~done).sum()} of {len(done)} cells have failed; expected all to end: read why above, mend it, and start again, "
                "which goes on from what is done."
            )
        found = [[sweep.metrics_of(cell, folder) for cell in some] for some in (by_seed, elsewhere)]
    target = runs.REFERENCE / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(target, summarise(*found))
    return target


def summarise(by_seed, elsewhere):
    """Reference entries from the metrics of several seeds, the first of which is published, and of other machines.

    Parameters
    ----------
    by_seed, elsewhere : sequences of dict
        Name to number. Later ones may lack metrics of the first.

    Returns
    -------
    dict
        Name, without the durations, to ``value`` at the first seed, its relative tolerance ``rtol``, the number of
        ``seeds`` that gave the metric, and ``mean`` and standard deviation (``spread``) over these.
    """
    return {
        name: _entry(
            *(
                [metrics[name] for metrics in found if name in metrics]
                for found in (by_seed, elsewhere)
            )
        )
        for name in by_seed[0]
        if not runs.is_duration(name)
    }


def _slow(name, parameters):
    """What of `SLOW` a profile may do without: nothing, if its other notebooks need a model that would be left out."""
    kept = {
        "dense",
        *(model for settings in SLOW.values() for model in (settings or {}).get("train", ())),
    }
    if any(own.get("model", "dense") not in kept for own in parameters.values()):
        return {}
    return {
        notebook: settings for notebook, settings in SLOW.items() if notebook in notebooks(name)
    }


def _cell(profile, point, environment):
    """A cell of all notebooks, or of those that its seed runs."""
    file, seed = profile_file(profile), point["seed"]
    name, sections = file.stem, read_sections(file)
    shared = {key: point[key] for key in ("seed", "compiler") if key in point}
    slow = _slow(name, load_profile(profile)) if seed >= SEEDS_OF_ALL else {}
    for section, changes in {SHARED: shared, **slow}.items():
        sections[section] = {**sections.get(section, {}), **(changes or {})}
    parameters = complete(sections, file.name, name)
    needs = notebooks(name, parameters)
    left = report.left_out(
        needs, [notebook for notebook, changes in slow.items() if changes is None]
    )
    executed = with_needed(CORE if seed >= SEEDS_OF_FAST else needs, needs)
    return cells.make(
        point, {n: parameters[n] for n in executed if n not in left}, environment, minutes=600.0
    )


def _entry(values, elsewhere):
    return {
        "value": values[0],
        "rtol": tolerance(values[0], elsewhere, values[1:]),
        "seeds": len(values),
        "mean": float(np.mean(values)),
        "spread": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
    }


def tolerance(value, elsewhere, seeds=()):
    """`SAFETY` times the largest relative deviation of ``elsewhere`` from ``value``, rounded up to one digit.

    It is no less than the largest deviation of another seed, of which `MOST_FROM_SEEDS` counts at most: training
    amplifies a different rounding until a result has moved about as far as another seed moves it, and few stand-ins may
    all have moved less by chance.
    """
    by_machine, by_seed = (
        max((abs(other - value) for other in o), default=0) / (abs(value) or 1)
        for o in (elsewhere, seeds)
    )
    deviation = max(SAFETY * by_machine, min(by_seed, MOST_FROM_SEEDS))
    if deviation <= LEAST_TOLERANCE:
        return LEAST_TOLERANCE
    digit = 10.0 ** math.floor(math.log10(deviation))
    # Less a hair, so that 0.003 computed as 0.0030000000000000027 stays 0.003.
    return float(f"{math.ceil(deviation / digit - 1e-9) * digit:.0e}")


def write_sweep(name):
    """Publish the table of a sweep that was executed here, for notebooks that read it.

    Raises
    ------
    StudyError
        If there is none, or not all of its cells are done.
    """
    own, published = runs.sweep_files(name)
    table = pd.read_csv(own) if own.is_file() else pd.DataFrame({"status": ["missing"]})
    if set(table["status"]) != {"done"}:
        raise StudyError(
            f"{own} is missing, or has cells that are not done; expected all of them: run make sweep SWEEP={name} first."
        )
    with runs.explained_write_errors(published.parent):
        published.parent.mkdir(parents=True, exist_ok=True)
        runs.write_bytes(published, own.read_bytes())


def write_golden():
    """Execute the notebooks with the digits' parameters and store them, without pictures, in ``tests/golden/``."""
    with _executed(load_profile("digits")) as folder:
        _store(folder, GOLDEN, with_images=False)


def write_pairs():
    """Execute the notebooks as they are, on MNIST, and store them beside their scripts, and the README's figures."""
    with _executed({name: {} for name in notebooks()}) as folder:
        _store(folder, FOLDER, with_images=True)
        (runs.REFERENCE / "figures").mkdir(parents=True, exist_ok=True)
        for name in README_FIGURES:
            shutil.copy(folder / "mnist" / "figures" / f"{name}.png", runs.REFERENCE / "figures")


def write_own(profile):
    """Store the notebooks of a profile that has its own, from its last run, beside their scripts, as if run there.

    Raises
    ------
    StudyError
        If there are none, or their parameters were not the scripts' own.
    """
    for name in notebooks(profile):
        path = runs.reports_folder() / profile / f"{name}.ipynb"
        if not path.is_file():
            raise StudyError(
                f"{path} is missing; expected what a run leaves: run make report PROFILE={profile} first."
            )
        notebook = nbformat.read(path, 4)
        own = {parameter: default for parameter, (_, default) in declared_parameters(name).items()}
        if notebook.metadata["study"]["parameters"] != own:
            raise StudyError(
                f"{path} was executed with other parameters; expected the script's own: run it with these."
            )
        runs.write_text(
            FOLDER / f"{name}.ipynb",
            nbformat.writes(storable(without_injected(notebook), True)) + "\n",
        )


def without_injected(notebook):
    """An executed notebook without the cell of parameters that papermill put in, its later cells numbered one less."""
    injected = [
        cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])
    ]
    for cell in injected:
        notebook.cells.remove(cell)
    for cell in notebook.cells:
        for counted in (cell, *cell.get("outputs", [])):
            if counted.get("execution_count"):
                counted.execution_count -= sum(
                    cell.execution_count < counted.execution_count for cell in injected
                )
    return notebook


@contextlib.contextmanager
def _executed(parameters):
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AE_REPORTS_DIR"] = folder
        report.execute_all(notebooks(), parameters, Path(folder), jobs=1)
        yield Path(folder)


def _store(folder, target, with_images):
    for name in notebooks():
        notebook = storable(nbformat.read(folder / f"{name}.ipynb", 4), with_images)
        runs.write_text(target / f"{name}.ipynb", nbformat.writes(notebook) + "\n")


def storable(notebook, with_images):
    """An executed notebook as it is kept in git; nbval does not compare PNGs, so the golden ones do without."""
    notebook.metadata.pop("study", None)
    # What JupyterLab writes there when it saves the pair, so that a save changes nothing but outputs.
    pairing = tomllib.loads((FOLDER / "jupytext.toml").read_text(encoding="utf-8"))
    notebook.metadata["jupytext"] = {
        key: pairing[key] for key in pairing if key.endswith("_filter")
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if not with_images and "data" in output:
                output.data.pop("image/png", None)
                output.metadata = {}
    return notebook


def main(arguments=None):
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ae_lib.study.reference", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="write reports/reference/<profile>.json")
    measuring.add_argument("profile")
    measuring.add_argument(
        "--scheduler", metavar="ADDRESS", help="a Dask scheduler; by default one here"
    )
    commands.add_parser("baselines", help="execute and store the paired and the golden notebooks")
    storing = commands.add_parser(
        "notebooks", help="store the notebooks of a profile that has its own, from its last run"
    )
    storing.add_argument("profile", choices=own_profiles())
    commands.add_parser("sweep", help="publish the table of a finished sweep").add_argument("name")
    options = parser.parse_args(arguments)
    try:
        report.make_folders_absolute()
        if options.command == "measure":
            report.say(f"wrote {measure(options.profile, options.scheduler)}")
        elif options.command == "notebooks":
            write_own(options.profile)
        elif options.command == "sweep":
            write_sweep(options.name)
        else:
            write_golden()
            write_pairs()
    except StudyError as error:
        report.say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
