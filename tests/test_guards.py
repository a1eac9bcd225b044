"""The guards hold for the project, and each fails when what it guards is broken."""

import shutil
import tomllib

from ae_lib import run as runs
from ae_lib.study import graph
from tests import guards

import nbformat
import pandas as pd
import pytest

NAMES = [name for profile in ("mnist", *graph.own_profiles()) for name in graph.notebooks(profile)]
STORED = sorted(graph.FOLDER.glob("*.ipynb")) + sorted(
    (runs.PROJECT / "tests" / "golden").glob("*.ipynb")
)
LOCK = (runs.PROJECT / "requirements.lock").read_text(encoding="utf-8")
ENVIRONMENT = (runs.PROJECT / "environment.yml").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((runs.PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
SIZES = guards.by_size(pd.read_csv(runs.sweep_files("latent_size")[1]))
README = (runs.PROJECT / "README.md").read_text(encoding="utf-8")


def script(name):
    return graph.FOLDER / f"{name}.py"


def edited(path, tmp_path, change):
    notebook = nbformat.read(path, 4)
    change([cell for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(notebook, tmp_path / path.name)
    return tmp_path / path.name


def test_every_notebook_is_stored_with_its_results_and_the_replayed_ones_twice():
    assert [path.stem for path in STORED] == [*sorted(NAMES), *graph.notebooks()]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree(name):
    assert guards.pair_agrees(script(name), script(name).with_suffix(".ipynb")) == []


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_stored_notebooks_mean_something(path):
    assert guards.executed_in_order(path) == []
    assert guards.clean_outputs(path) == []
    if path.stem not in graph.notebooks("benchmark"):  # times are never compared
        assert guards.mostly_compared(path) == []


@pytest.mark.parametrize("name", graph.notebooks())
def test_golden_notebooks_are_of_the_current_scripts(name):
    """Their cells are the script's, but for the parameters that papermill puts in."""
    golden = nbformat.read(runs.PROJECT / "tests" / "golden" / f"{name}.ipynb", 4).cells
    sources = [
        cell.source for cell in golden if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    assert sources == [cell.source for cell in graph.read_notebook(name).cells]


def test_versions_agree():
    assert guards.versions_agree(PYPROJECT, LOCK, ENVIRONMENT) == []


def test_readme_says_what_is_published():
    assert guards.table_is_published(README, runs.reference("mnist")) == []
    assert guards.claims_are_published(README, runs.reference("mnist") | SIZES) == []


@pytest.mark.parametrize("profile", ["mnist", "digits"])
def test_reference_is_complete(profile):
    reference = runs.reference(profile)
    assert {
        f"dense.test.{score}" for score in ("bce", "excess_bce", "mse", "sse", "psnr", "ssim")
    } <= set(reference)
    assert {"pca.test.mse", "dense.val.bce", "dense.train.bce", "data.test.entropy_floor"} <= set(
        reference
    )
    probes = ("knn1_accuracy", "knn5_accuracy", "linear_probe_accuracy")
    assert {
        f"{model}.test.{probe}" for model in ("dense", "pca", "pixels") for probe in probes
    } <= set(reference)
    per_digit = ("mean", *range(10))
    scores = ("ink", "pca", "pca_relative", "dense_mse", "dense_bce", "best")
    assert {f"oneclass.{score}.auroc_{part}" for score in scores for part in per_digit} <= set(
        reference
    )
    assert "threshold.false_alarm_rate_at_5" in reference
    for name, entry in reference.items():
        assert set(entry) - {"mean"} == {"value", "rtol", "seeds", "spread"}
        # The spread of ten draws is itself known to a quarter or so.
        assert 0 < entry["rtol"] < 1 or (name.endswith(".error_std") and entry["rtol"] == 1)
        assert 1 <= entry["seeds"] <= 10


def test_models_were_trained_with_several_seeds():
    reference = runs.reference("mnist")
    least = dict.fromkeys(
        ("dense", "scheduled", "wide", "denoising"), 5
    )  # which train in under two minutes
    least |= dict.fromkeys(("conv", "conv30", "denoising_conv", "vae"), 3)
    scores = ("mse", "ssim", "linear_probe_accuracy", "bits_at_equal_error")
    names = {f"{model}.test.{score}": model for model in least for score in scores}
    names |= {
        f"oneclass.{model}_mse.auroc_mean": model
        for model in ("dense", "wide", "denoising", "conv", "vae")
    }
    for name, model in names.items():
        assert reference[name]["seeds"] >= least[model], name
        assert abs(reference[name]["mean"] / reference[name]["value"] - 1) < 0.1


# ------------------------------------------------------------------------------- each guard, with what it guards broken
def test_pair_out_of_step_is_found(tmp_path):
    for suffix in (".py", ".ipynb"):
        shutil.copy(script("02_train").with_suffix(suffix), tmp_path)
    pair = tmp_path / "02_train.py", tmp_path / "02_train.ipynb"
    assert guards.pair_agrees(*pair) == []
    pair[0].write_text(pair[0].read_text().replace("latent_dim: int = 32", "latent_dim: int = 16"))
    assert guards.pair_agrees(*pair) == ["02_train.py and 02_train.ipynb differ in content"]
    pair[1].unlink()
    assert guards.pair_agrees(*pair) == ["02_train.py has no paired notebook"]


def test_pair_with_other_tags_is_found(tmp_path):
    shutil.copy(script("02_train"), tmp_path)
    notebook = edited(
        STORED[1], tmp_path, lambda cells: cells[3].metadata.update(tags=["nbval-skip"])
    )
    assert guards.pair_agrees(tmp_path / "02_train.py", notebook) != []


@pytest.mark.parametrize("count", [None, 7])
def test_unexecuted_cell_is_found(tmp_path, count):
    assert guards.executed_in_order(
        edited(STORED[0], tmp_path, lambda cells: cells[3].update(execution_count=count))
    )


@pytest.mark.parametrize(
    "output",
    [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[]),
        nbformat.v4.new_output(
            "stream", name="stdout", text="saved " + "/".join(["", "home", "me", "model.keras"])
        ),
        nbformat.v4.new_output(
            "display_data", data={"text/html": "<img src='/Users/me/figure.png'>"}
        ),
    ],
)
def test_unclean_output_is_found(tmp_path, output):
    assert guards.clean_outputs(
        edited(STORED[0], tmp_path, lambda cells: cells[3].outputs.append(output))
    )


def test_mostly_ignored_notebook_is_found(tmp_path):
    def ignore(cells):
        for cell in cells[::2]:
            cell.metadata["tags"] = ["nbval-ignore-output"]

    assert guards.mostly_compared(edited(STORED[0], tmp_path, ignore))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nnumpy==", "\nnumpyy==", "numpy is not in the lock"),
        ("\nkeras==3.", "\nkeras==2.", "the lock's keras 2."),
        ("--hash=sha256:", "", "has no hash in the lock"),
        ("# ", "# https://example.org/ ", "the lock holds an address"),
    ],
)
def test_broken_lock_is_found(old, new, message):
    assert old in LOCK
    assert any(
        message in problem
        for problem in guards.versions_agree(PYPROJECT, LOCK.replace(old, new), ENVIRONMENT)
    )


@pytest.mark.parametrize(
    ("old", "new"), [("python=3.12", "python=3.9"), ("-r requirements.lock", "numpy")]
)
def test_broken_environment_is_found(old, new):
    assert old in ENVIRONMENT
    assert guards.versions_agree(PYPROJECT, LOCK, ENVIRONMENT.replace(old, new))


def test_changed_readme_table_is_found():
    reference = runs.reference("mnist")
    shown = f"{reference['dense.test.mse']['value']:.5f}"
    assert shown in README
    assert guards.table_is_published(README.replace(shown, "0.00400"), reference)
    assert guards.table_is_published("no table", reference)


def test_wrong_claim_in_the_readme_is_found():
    reference = runs.reference("mnist")
    shown = f"| {100 * reference['dense.test.knn5_accuracy']['value']:.2f} "
    assert shown in README
    assert (
        len(guards.claims_are_published(README.replace(shown, "| 99.99 "), reference | SIZES)) == 1
    )
    assert (
        len(
            guards.claims_are_published(
                README.replace("| 0.02667 ", "| 0.02666 "), reference | SIZES
            )
        )
        == 1
    )
    assert guards.claims_are_published(README, {}) != []
    assert guards.claims_are_published("no table", reference)
