"""Reference values, tolerances and stored notebooks."""

import hashlib
import math
import shutil

from ae_lib import StudyError, models
from ae_lib.run import PROJECT, REFERENCE, is_duration, model_file, read_json, sweep_files
from ae_lib.study import execute, graph, reference, sweep
from tests.study import small_project as small

import nbformat
import numpy as np
import pytest
from scipy.stats import t as student


# ------------------------------ the rule, once
def entry_of(values):
    """The published entry of a metric with these values over seeds."""
    return reference.summarise(["a.b.c"], [{"a.b.c": {"value": value}} for value in values])[
        "a.b.c"
    ]


def test_tolerance_is_the_prediction_interval_of_one_more_seed():
    values = [1.0, 1.02, 1.04, 0.98]
    entry = entry_of(values)
    std = np.std(values, ddof=1)
    expected = student.ppf(0.9995, 3) * std * math.sqrt(1 + 1 / 4)
    assert entry == {
        "value": entry["mean"], "mean": pytest.approx(1.01), "std": pytest.approx(std), "seeds": 4,
        "tolerance": pytest.approx(expected, rel=1e-12),
    }  # fmt: skip


def test_that_interval_holds_one_more_seed_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(reference, "LEVEL", 0.9)
    rng = np.random.default_rng(0)
    hits = []
    for values in rng.normal(5, 2, (4000, 6)):
        entry = entry_of([float(value) for value in values[:5]])
        hits.append(abs(values[5] - entry["mean"]) <= entry["tolerance"])
    assert np.mean(hits) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0], [-3.0]])
def test_tolerance_of_arithmetic_is_rounding_with_an_absolute_part(values):
    assert entry_of(values)["tolerance"] == pytest.approx(3e-5 + 1e-8, rel=1e-12)
    assert entry_of([0.0])["tolerance"] == 1e-8
    assert entry_of([6.7e-7])["tolerance"] > 0.0013 * 6.7e-7, "another processor's rounding"


def test_tolerance_is_never_below_rounding():
    values = [1.0, 1.0 + 1e-12]
    assert entry_of(values)["tolerance"] == pytest.approx(1e-5 + 1e-8, rel=1e-12)


def test_summary_is_of_the_headline_without_durations_and_what_could_not_be_computed():
    def metrics(**values):
        return {f"a.test.{name}": {"value": value, "low": 0.0} for name, value in values.items()}

    seeds = [
        metrics(mse=1.0, late=3.0, seconds=60.0, seconds_per_10000=1.0, gone=None, other=1.0),
        metrics(mse=1.0, late=5.0, seconds=70.0, seconds_per_10000=1.0, gone=2.0, other=1.0),
        metrics(mse=4.0),
    ]
    headline = ["mse", "late", "seconds", "seconds_per_10000", "gone"]
    entries = reference.summarise([f"a.test.{name}" for name in headline], seeds)
    assert {name: (entry["seeds"], entry["mean"]) for name, entry in entries.items()} == {
        "a.test.mse": (3, 2.0),
        "a.test.late": (2, 4.0),
    }
    assert not is_duration("seconds.test.mse")


@pytest.mark.parametrize("profile", ["mnist", "digits"])
def test_what_is_published_is_what_the_rule_gives(profile):
    for name, entry in read_json(REFERENCE / f"{profile}.json").items():
        tolerance = reference.tolerance_of(entry["value"], entry["std"], entry["seeds"])
        assert entry["tolerance"] == pytest.approx(tolerance, rel=1e-9), name


# ------------------------------ measuring
@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What `measure` asks for, instead of its execution: each trial gives its seed."""
    seen = []

    def collect(trials, folder, scheduler):
        seen.extend(trials)
        for trial in trials:
            metrics = {"dense.test.mse": {"value": trial.point["seed"]}, "b.c.d": {"value": 1.0}}
            outcome = {"status": "done", "metrics": metrics, "headline": ["dense.test.mse"]}
            outcome["files"] = {}
            sweep.keep(outcome, trial, folder)
        (folder / "claims.csv").write_text("decided\n")
        return sweep.write_table(trials, folder)

    monkeypatch.setattr(sweep, "collect", collect)
    monkeypatch.setattr(reference, "REFERENCE", tmp_path)
    monkeypatch.setattr("ae_lib.run.REFERENCE", tmp_path)
    return seen


def test_measure_varies_the_seed_and_nothing_else_and_writes_what_the_rule_gives(
    measured, study, tmp_path
):
    code, errors = study("measure", "digits")
    assert (code, f"wrote {tmp_path / 'digits.json'}" in errors) == (0, True)
    seeds = [trial.tasks["02_train"]["parameters"]["seed"] for trial in measured]
    assert seeds == [*range(1, 11)], "not the profile's own, 0, whose run is compared with these"
    own = graph.load_profile("digits").parameters
    for trial in measured:
        assert trial.environment == execute.threads(1)
        core = reference.CORE if len(trial.tasks) == 2 else {}
        for name, task in trial.tasks.items():
            same = {key: own[name][key] for key in ("profile", "seed") if key in own[name]}
            assert task["parameters"]["profile"] == "reference_digits", "it reads no reference"
            assert {**task["parameters"], **same} == {**own[name], **core.get(name, {})}
    executed = [list(trial.tasks) for trial in measured]
    assert executed == [list(own)] * 5 + [["02_train", "03_evaluate"]] * 5
    assert read_json(tmp_path / "digits.json") == {"dense.test.mse": entry_of([*range(1, 11)])}
    assert (tmp_path / "digits_claims.csv").read_text() == "decided\n"


def test_nothing_is_published_if_a_trial_failed_and_the_others_are_kept(
    measured, study, monkeypatch, tmp_path
):
    collect, kept = sweep.collect, []

    def with_failure(trials, folder, scheduler):
        table = collect(trials, folder, scheduler)
        table.loc[3, "status"] = "failed"
        kept.append(folder)
        return table

    monkeypatch.setattr(sweep, "collect", with_failure)
    code, errors = study("measure", "digits")
    assert code == 1
    assert "error: 1 of 10 trials have failed; expected none: read why above, fix it" in errors
    assert not list(tmp_path.glob("digits*"))
    assert len(list(kept[0].glob("trials/*/trial.json"))) == 10


def test_measuring_an_unknown_profile_is_one_sentence(study):
    code, errors = study("measure", "digit")
    assert (code, "error: There is no profile 'digit'; expected" in errors) == (1, True)


def test_only_a_finished_sweep_is_published(study, monkeypatch, tmp_path):
    monkeypatch.setattr("ae_lib.run.REFERENCE", tmp_path / "reference")
    own, published = sweep_files("some")
    code, errors = study("publish", "some")
    assert (code, "expected all of them: run make sweep SWEEP=some first" in errors) == (1, True)
    own.parent.mkdir(parents=True)
    own.write_text("seed,status\n0,done\n1,missing\n")
    assert study("publish", "some")[0] == 1
    own.write_text("seed,status\n0,done\n1,done\n")
    own_claims, published_claims = sweep_files("some", "claims")
    code, errors = study("publish", "some")
    assert (code, "no claims of the sweep 'some': run make sweep" in errors) == (1, True)
    assert not published.exists()
    own_claims.write_text("claim,verdict\na,yes\n")
    assert study("publish", "some")[0] == 0
    assert published.read_bytes() == own.read_bytes()
    assert published_claims.read_bytes() == own_claims.read_bytes()
    assert published_claims.name == "some_claims.csv"


# ------------------------------ stored notebooks
@pytest.fixture
def stored(new_project, monkeypatch, tmp_path):
    """A finished run of the profile ``mnist`` of a small project; where git keeps its notebooks."""
    shutil.copy(PROJECT / "notebooks" / "jupytext.toml", graph.FOLDER)
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(reference, "GOLDEN", tmp_path / "golden")
    (tmp_path / "golden").mkdir()
    (tmp_path / "reference" / "figures").mkdir(parents=True)
    folder, profile = new_project / "reports" / "mnist", graph.load_profile("mnist")
    small.pretend_finished(profile, folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "03_reconstructions.png").write_bytes(b"picture")
    (folder / "explorer.html").write_bytes(b"page")
    monkeypatch.setattr(reference, "store_models", lambda folder: None)
    return graph.FOLDER


def test_the_notebooks_of_a_finished_run_are_stored_beside_their_scripts(stored, study, tmp_path):
    code, errors = study("store", "mnist")
    assert code == 0
    assert "reports/mnist is up to date" in errors, "what is finished is not executed again"
    assert errors.endswith("stored 3 notebooks\n")
    for name in small.BODIES:
        notebook = nbformat.read(stored / f"{name}.ipynb", 4)
        assert list(notebook.metadata["study"]) == ["fingerprint"]
    figure = tmp_path / "reference" / "figures" / "03_reconstructions.png"
    assert figure.read_bytes() == b"picture"
    assert (tmp_path / "reference" / "explorer.html").read_bytes() == b"page"
    assert not list((tmp_path / "golden").iterdir())


def test_trained_models_are_stored_without_optimiser_and_written_again_if_weights_differ(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(reference, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(reference, "TRAINED", ("dense", "vae"))
    networks = {
        "dense": models.dense_autoencoder(16, (8,), 2).autoencoder,
        "vae": models.variational_autoencoder(16, (8,), 2).autoencoder,
    }
    for name, network in networks.items():
        network.compile("adam", "mse")
        network.optimizer.build(network.trainable_variables)
        path = tmp_path / "run" / "artifacts" / model_file(name)
        path.parent.mkdir(parents=True)
        network.save(path)
    reference.store_models(tmp_path / "run")
    folder = tmp_path / "reference" / "models"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(kept) == {"dense.keras", "vae.keras", "SHA256SUMS"}
    assert len(kept["vae.keras"]) < path.stat().st_size
    loaded = models.load(folder / "dense.keras").autoencoder.get_weights()
    assert all(map(np.array_equal, loaded, networks["dense"].get_weights()))
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    names = [line.split("  ") for line in sums]
    assert all(hashlib.sha256(kept[name]).hexdigest() == checksum for checksum, name in names)
    networks["vae"].set_weights([w + 1 for w in networks["vae"].get_weights()])
    networks["vae"].save(path)
    reference.store_models(tmp_path / "run")
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != kept[path.name]}
    assert changed == {"vae.keras", "SHA256SUMS"}


def test_a_failure_loses_nothing_that_was_executed_and_stores_nothing(stored, study, monkeypatch):
    folder = stored.parent / "reports" / "mnist"
    (folder / "02_train.ipynb").unlink()  # not finished yet

    def fail(task, folder, *_):
        (folder / f"{task['name']}.failed.ipynb").write_text("{}")
        raise StudyError(f"{task['name']} failed.")

    monkeypatch.setattr(execute, "execute", fail)
    good = small.contents(folder)
    code, errors = study("store", "mnist")
    assert (code, "error: 02_train failed." in errors) == (1, True)
    after = small.contents(folder)
    assert {name: after[name] for name in good} == good
    assert (folder / "02_train.failed.ipynb").exists()
    assert not list(stored.glob("*.ipynb"))


def test_a_profile_of_which_git_keeps_nothing_is_refused_before_it_is_executed(stored, study):
    code, errors = study("store", "small")
    assert code == 1
    assert "Git keeps these notebooks as executed for mnist and digits, not for small" in errors
    assert not (stored.parent / "reports" / "small").exists()


def test_digits_are_stored_as_golden_notebooks(stored, study, tmp_path):
    (graph.PARAMS / "mnist.yaml").rename(graph.PARAMS / "digits.yaml")
    small.pretend_finished(graph.load_profile("digits"), stored.parent / "reports" / "digits")
    assert study("store", "digits")[0] == 0
    assert {path.stem for path in (tmp_path / "golden").iterdir()} == set(small.BODIES)
    assert not list(stored.glob("*.ipynb"))


def test_a_stored_notebook_keeps_its_fingerprint_and_no_trace_of_the_run():
    output = nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": "x"})
    cell = nbformat.v4.new_code_cell("1", outputs=[output])
    metadata = {"study": {"seconds": 3, "fingerprint": "f", "git_commit": "c"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=metadata)
    kept = reference.storable(notebook, with_images=True)
    assert kept.cells[0].outputs[0].data == {"text/plain": "x", "image/png": ""}
    kept = reference.storable(notebook, with_images=False)
    assert kept.cells[0].outputs[0].data == {"text/plain": "x"}
    assert kept.metadata["study"] == {"fingerprint": "f"}
