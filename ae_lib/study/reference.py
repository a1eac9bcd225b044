"""What the project publishes: reference values with tolerances, and the stored notebooks."""

import functools
import hashlib
import math
import tomllib

from ae_lib import StudyError
from ae_lib.run import (
    PROJECT,
    REFERENCE,
    claims_file,
    explained_write_errors,
    is_duration,
    model_file,
    reference,
    sweep_files,
    sweep_table,
    write_bytes,
    write_json,
)
from ae_lib.study import execute, graph, site, sweep

import numpy as np
import pandas as pd
from scipy.stats import t as student

MODEL_CARD = PROJECT / "MODEL_CARD.md"
GOLDEN = PROJECT / "tests" / "golden"
README_FIGURES = ("03_reconstructions",)
TRAINED = ("dense", "conv", "vae")  # the models that git keeps
SEEDS, SEEDS_OF_CORE = 5, 10  # that execute every notebook; and that execute `CORE` alone
CORE = {"03_evaluate": {"compared": [], "sizes": [], "size_epochs": []}}  # the study's network
LEVEL = 0.999  # of the prediction interval that is the tolerance
ROUNDING = 1e-5, 1e-8  # relative and absolute part for arithmetic on the data


def measure(profile, scheduler=None):
    """Execute a profile, by name or path, under several seeds and write its reference files.

    The seeds are others than the profile's own, so that its run is compared with trainings that are
    not its own. Returns the path of the metrics, ``reports/reference/<profile>.json``; beside it
    stands ``<profile>_claims.csv``, as of `ae_lib.study.results.judge`. `StudyError` if a trial
    failed; the others are kept in ``reports/sweeps/reference_<profile>/``.
    """
    path = graph.named_file(profile, graph.PARAMS, "profile")
    trials = [_trial(path, number) for number in range(1, SEEDS_OF_CORE + 1)]
    with execute.locked_folder(f"sweeps/reference_{path.stem}") as folder:
        failed = (sweep.collect(trials, folder, scheduler)["status"] != "done").sum()
        if failed:
            raise StudyError(
                f"{failed} of {len(trials)} trials have failed; expected none: read why above, fix "
                "it, and start again, which resumes after what is done."
            )
        records = [sweep.record_of(folder, trial) for trial in trials]
        claims = (folder / "claims.csv").read_bytes()
    by_seed = [record["metrics"] for record in records]
    target = REFERENCE / f"{path.stem}.json"
    with explained_write_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_json(target, summarise(records[0]["headline"], by_seed))
        write_bytes(claims_file(path.stem), claims)
        if path.stem == "mnist":
            write_bytes(MODEL_CARD, model_card().encode())
    return target


def model_card():
    """The text of `MODEL_CARD`, with MNIST's published metrics."""
    import jinja2

    metrics = reference("mnist")

    def published(name, digits=4):
        if name not in metrics:
            return ""
        mean, std = metrics[name]["mean"], metrics[name]["std"]
        deviation = f" ± {std:.{digits}f}" if std > ROUNDING[0] * abs(mean) else ""
        return f"{mean:.{digits}f}{deviation}"

    loader = jinja2.PackageLoader("ae_lib.study", ".")
    environment = jinja2.Environment(loader=loader, trim_blocks=True, keep_trailing_newline=True)
    return environment.get_template("model_card.md.j2").render(published=published)


def _trial(path, number):
    """The trial with this number, whose seed is as far above the profile's own.

    Its profile has another name, so that no notebook reads the reference that it is a part of.
    """
    sections = graph.read_sections(path)
    shared = sections.setdefault(graph.SHARED, {})
    shared["seed"] = seed = shared.get("seed", 0) + number
    for name, parameters in CORE.items() if number > SEEDS else ():
        sections[name] = {**sections.get(name, {}), **parameters}
    profile = graph.resolve(f"reference_{path.stem}", sections, path.name)
    if number > SEEDS:
        profile = profile.restricted_to(list(CORE))
    tasks = execute.make_tasks(profile)
    return sweep.Trial({"seed": seed}, tasks, execute.threads(1), minutes=600.0)


def summarise(headline, by_seed):
    """Reference entries from the metrics of several seeds.

    ``headline`` are the metrics to publish, durations among them left out; ``by_seed`` has for each
    seed name to ``{"value": …}``, and later ones may lack metrics of the first. Returns name to
    ``mean`` and ``std`` over the ``seeds`` that gave the metric, ``value``, which is the mean, and
    the absolute ``tolerance``, as of `tolerance_of`.
    """
    entries = {}
    for name in headline:
        values = [metrics[name]["value"] for metrics in by_seed if name in metrics]
        if None in values or is_duration(name):
            continue
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        mean = float(np.mean(values))
        entries[name] = {
            "value": mean,
            "mean": mean,
            "std": std,
            "seeds": len(values),
            "tolerance": tolerance_of(mean, std, len(values)),
        }
    return entries


def tolerance_of(value, std, seeds):
    """How far a run may lie from a published value and still count as reproduced.

    For what has seeds: the half width of the interval in which one more seed is expected,
    t · std · √(1 + 1/n), with Student's t at `LEVEL` (Hahn and Meeker, "Statistical intervals",
    1991, section 4.5). Another machine rounds differently, which training amplifies no further
    than another seed would. At least `ROUNDING`, which is all for arithmetic on the data.
    """
    rounding = ROUNDING[0] * abs(value) + ROUNDING[1]
    if std == 0:
        return rounding
    quantile = float(student.ppf((1 + LEVEL) / 2, seeds - 1))
    return max(rounding, quantile * std * math.sqrt(1 + 1 / seeds))


def publish_sweep(name):
    """Publish the tables of a finished sweep and return the path of its results.

    `StudyError` if it is not finished.
    """
    own, published = sweep_files(name)
    table = pd.read_csv(own) if own.is_file() else pd.DataFrame({"status": ["missing"]})
    if set(table["status"]) != {"done"}:
        raise StudyError(
            f"{own} is missing, or has trials that are not done; expected all of them: run make "
            f"sweep SWEEP={name} first."
        )
    claims = sweep_table(name, "claims").read_bytes()
    with explained_write_errors(published.parent):
        published.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(sweep_files(name, "claims")[1], claims)
        write_bytes(published, own.read_bytes())
    return published


def home_of(profile):
    """Where git keeps the executed notebooks of a profile; `StudyError` if it does not."""
    home = {graph.OWN_PROFILE.get(name, "mnist") for name in profile.parameters}.pop()
    folders = {home: graph.FOLDER, "digits": GOLDEN}
    if profile.name not in folders:
        raise StudyError(
            f"Git keeps these notebooks as executed for {home} and digits, not for {profile.name}; "
            "expected one of these."
        )
    return folders[profile.name]


def store(profile, folder):
    """Store the executed notebooks of a finished run in git's folders.

    Golden notebooks lose their pictures, which nbval does not compare. Of the profile ``mnist`` the
    README's figures, the trained models and the explorer are published, too.
    """
    import nbformat

    home = home_of(profile)
    for name in profile.parameters:
        notebook = nbformat.read(folder / f"{name}.ipynb", 4)
        kept = storable(notebook, with_images=home != GOLDEN)
        write_bytes(home / f"{name}.ipynb", (nbformat.writes(kept) + "\n").encode())
    if profile.name == "mnist":
        files = [f"figures/{name}.png" for name in README_FIGURES] + [site.EXPLORER]
        for name in files:
            write_bytes(REFERENCE / name, (folder / name).read_bytes())
        store_models(folder)


def store_models(folder):
    """Publish a run's trained models, `TRAINED`, and their checksums, as of ``sha256sum``.

    Without the optimiser's state, which takes two thirds of a file. A file with equal weights stays
    as it is: Keras writes the time into it.
    """
    from ae_lib import models  # noqa: F401 - Keras reads a layer of its own

    import keras

    target, sums = REFERENCE / "models", ""
    target.mkdir(parents=True, exist_ok=True)
    load = functools.partial(keras.models.load_model, compile=False)
    for name in TRAINED:
        path, part = target / f"{name}.keras", target / f".{name}.tmp.keras"
        model = load(folder / "artifacts" / model_file(name))
        if not path.is_file() or not _equal_weights(model, load(path)):
            model.save(part)
            part.replace(path)
        sums += f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
    write_bytes(target / "SHA256SUMS", sums.encode())


def _equal_weights(first, second):
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def storable(notebook, with_images):
    """An executed notebook as it is kept in git: its fingerprint, and nothing of the run."""
    notebook.metadata["study"] = {"fingerprint": notebook.metadata["study"]["fingerprint"]}
    # What JupyterLab writes there when it saves the pair, so that a save changes only outputs.
    pairing = tomllib.loads((graph.FOLDER / "jupytext.toml").read_text(encoding="utf-8"))
    filters = {key: value for key, value in pairing.items() if key.endswith("_filter")}
    notebook.metadata["jupytext"] = filters
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if not with_images and "data" in output:
                output.data.pop("image/png", None)
                output.metadata = {}
    return notebook
