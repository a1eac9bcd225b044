"""The guards hold for the project, and each fails when what it guards is broken."""

import functools
import shutil
import tomllib

from ae_lib.run import PROJECT, claims_file, reference
from ae_lib.study import fingerprint, graph
from ae_lib.study import reference as publication
from tests import guards

import nbformat
import pandas as pd
import pytest

NAMES = [name for profile in ("mnist", *graph.OWN_PROFILE.values())
         for name in graph.notebooks_of(profile)]  # fmt: skip
GOLDEN = PROJECT / "tests" / "golden"
STORED = sorted(graph.FOLDER.glob("*.ipynb")) + sorted(GOLDEN.glob("*.ipynb"))
LOCK = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
ENVIRONMENT = (PROJECT / "environment.yml").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
README = (PROJECT / "README.md").read_text(encoding="utf-8")
TEXTS = [
    path
    for pattern in ("*.md", "ae_lib/**/*.py", "ae_lib/**/*.j2", "notebooks/**/*.py",
                    "notebooks/**/*.md", "notebooks/**/*.yaml")
    for path in sorted(PROJECT.glob(pattern))
]  # fmt: skip
each_stored = pytest.mark.parametrize(
    "path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}"
)


@functools.cache
def fingerprints_of(profile):
    return fingerprint.fingerprints(graph.load_profile(profile))


def decided(profile):
    """The published claims of a profile, decided over seeds and images."""
    return pd.read_csv(claims_file(profile))


def script(name):
    return graph.FOLDER / f"{name}.py"


def edited(path, tmp_path, change):
    notebook = nbformat.read(path, 4)
    change([cell for cell in notebook.cells if cell.cell_type == "code"])
    nbformat.write(notebook, tmp_path / path.name)
    return tmp_path / path.name


def test_every_notebook_is_stored_with_its_results_and_the_replayed_ones_twice():
    assert [path.stem for path in STORED] == [*sorted(NAMES), *graph.notebooks_of("digits")]


@pytest.mark.parametrize("name", NAMES)
def test_pairs_agree(name):
    assert guards.pair_agrees(script(name), script(name).with_suffix(".ipynb")) == []


@each_stored
def test_stored_notebooks_mean_something(path):
    assert guards.executed_in_order(path) == []
    assert guards.clean_outputs(path) == []
    if graph.OWN_PROFILE.get(path.stem) != "benchmark":  # times are never compared
        assert guards.enough_is_compared(path) == []


@each_stored
def test_stored_notebooks_are_what_the_code_makes(path):
    profile = graph.OWN_PROFILE.get(path.stem, "mnist")
    if profile == "benchmark":
        pytest.skip("It is measured on an idle machine, not whenever code changes.")
    current = fingerprints_of("digits" if path.parent == GOLDEN else profile)
    assert guards.is_what_the_code_makes(path, current[path.stem]) == []


@pytest.mark.parametrize("name", graph.notebooks_of("digits"))
def test_golden_notebooks_are_of_the_current_scripts(name):
    """Their cells are the script's, but for the parameters that papermill puts in."""
    cells = nbformat.read(GOLDEN / f"{name}.ipynb", 4).cells
    injected = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    sources = [cell.source for cell in cells if cell not in injected]
    assert sources == [cell.source for cell in graph.read_notebook(name).cells]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_no_retired_word_is_in_use(path):
    assert guards.words_in_use(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_keep_their_budgets_and_their_names_say_what_they_hold(name):
    text = script(name).read_text(encoding="utf-8")
    assert guards.within_budgets(text) == []
    assert guards.telling_names(text) == []


def test_versions_agree():
    assert guards.versions_agree(PYPROJECT, LOCK, ENVIRONMENT) == []


def test_readme_says_what_is_published():
    assert guards.claims_are_published(README, reference("mnist"), decided("mnist")) == []


@pytest.mark.parametrize("profile", ["mnist", "digits"])
def test_reference_is_complete(profile):
    published = reference(profile)
    names = {f"{model}.test.{score}" for model in ("dense", "pca_clipped", "scheduled", "linear")
             for score in ("bce", "excess_bce", "sse", "ssim")}  # fmt: skip
    names |= {f"{model}.test.{kind}_accuracy" for model in ("dense", "pca", "pixels")
              for kind in ("knn1", "knn5", "linear_probe")}  # fmt: skip
    names |= {f"{model}.test.{score}" for model in ("wide", "conv", "conv30", "denoising", "vae")
              for score in ("sse", "ssim", "linear_probe_accuracy")}  # fmt: skip
    names |= {f"oneclass.{detector}.auroc_mean" for detector in
              ("dense_mse", "dense_relative", "pca_mse", "pca_chosen_relative", "pixels_knn",
               "vae_elbo", "vae_relative")}  # fmt: skip
    if profile == "mnist":  # ten more networks would take too long where a quick run is wanted
        names |= {"oneclass.wide_mse.auroc_mean", "oneclass.wide_relative.auroc_mean"}
    names |= {"dense.val.bce", "data.test.entropy_floor", "vae.test.nll", "vae.test.negative_elbo"}
    assert names - set(published) == set()
    assert len(published) <= 250
    for name, entry in published.items():
        assert set(entry) == {"value", "mean", "std", "seeds", "tolerance"}
        assert entry["tolerance"] > 0
        assert 5 <= entry["seeds"] <= 10, name


@pytest.mark.parametrize("profile", ["mnist", "digits"])
def test_claims_are_decided_over_at_least_five_seeds(profile):
    claims = decided(profile)
    without = {"01_preprocess", "04_error_maps"}  # which need not have claims
    assert set(claims["notebook"]) >= {*graph.notebooks_of(profile)} - without
    assert claims["seeds"].min() >= 5
    assert set(claims["verdict"]) <= {"yes", "no", "no difference detected"}


# ------------------------------ each guard, with what it guards broken
@pytest.fixture
def pair(tmp_path):
    """A script and its notebook, which agree."""
    import jupytext

    shutil.copy(script("02_train"), tmp_path)
    notebook = tmp_path / "02_train.ipynb"
    jupytext.write(jupytext.read(script("02_train")), notebook)
    assert guards.pair_agrees(tmp_path / "02_train.py", notebook) == []
    return tmp_path / "02_train.py", notebook


def test_pair_out_of_step_is_found(pair):
    pair[0].write_text(pair[0].read_text().replace("latent_dim: int = 32", "latent_dim: int = 16"))
    assert guards.pair_agrees(*pair) == ["02_train.py and 02_train.ipynb differ in content"]
    pair[1].unlink()
    assert guards.pair_agrees(*pair) == ["02_train.py has no paired notebook"]


def test_pair_with_other_tags_is_found(pair, tmp_path):
    edited(pair[1], tmp_path, lambda cells: cells[3].metadata.update(tags=["nbval-skip"]))
    assert guards.pair_agrees(*pair) != []


@pytest.mark.parametrize(
    "text",
    [
        "KeptState", "pca_cut", "a contender", "begun anew", "_code_size", "HALVES",
        "a test\n# of doubt", "not told\n# apart", "drawn badly", "it draws an image again",
        "what it has to draw", "to mend", "the spread of seeds", "the divergence", "barely; less",
        "MNIST could not be had", "undecided", "the numbers of a code", "the size of the code",
        "stand-ins", "the scorecard", "the standings", "the cells of a sweep",
    ],
)  # fmt: skip
def test_retired_words_are_found(text):
    assert len(guards.words_in_use(f"good\n{text}, good")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "cells", "renewal", "understanding", "behalves", "state", "recommend", "doubtless",
        "KL divergence", "Kullback-Leibler divergence", "KL\n# divergence", "drawn at random",
        "stand in a table", "half", "widespread", "a code of 32 units", "sizes of images", "level",
    ],
)  # fmt: skip
def test_other_words_are_not(text):
    assert guards.words_in_use(text) == []


@pytest.mark.parametrize(
    "code",
    ["own = 1", "for few in []: 1", "def kept(): 1", "def f(given): 1", "[some for some in []]"],
)
def test_names_that_say_nothing_are_found(code):
    assert len(guards.telling_names(code)) == 1


def test_telling_names_are_not():
    assert guards.telling_names("errors = f(own=1, few=found)\nfrom a import kept\n") == []


def cells_of(*lengths, tags=""):
    return "".join(f"# %%{tags}\n" + "run.show(\n" * length for length in lengths)


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (cells_of(*[0] * 9), "9 code cells"),
        (cells_of(*[0] * 25), "25 code cells"),
        (cells_of(*[0] * 9, 16), "a cell of 16 lines"),
        (cells_of(*[0] * 9, 9), "9 figures"),
        (cells_of(*[1] * 8 + [0]) + cells_of(20, tags=' tags=["parameters"]'), "9 code cells"),
        ("# %%\n1\n\n# %%\n" * 5 + "# %%\n" + "1\n" * 15, None),
        (cells_of(*[0] * 5) + ("# %%\n" + "1\n" * 7) * 6, "a median of 7 lines"),
    ],
)
def test_a_notebook_beyond_its_budgets_is_found(script, problem):
    problems = guards.within_budgets(script)
    if problem is None:
        assert problems == []
    else:
        assert any(text.startswith(problem) for text in problems)


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


@pytest.mark.parametrize("ending", ["", "reproduced"])
def test_notebook_of_which_too_little_is_compared_is_found(tmp_path, ending):
    def ignore(cells):
        for cell in cells:
            if cell.source.endswith(ending):
                cell.metadata["tags"] = ["nbval-ignore-output"]

    assert guards.enough_is_compared(edited(STORED[0], tmp_path, ignore))


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


def test_package_of_any_extra_that_is_not_locked_is_found():
    for extra in ("study", "sweep", "test"):
        extras = PYPROJECT["project"]["optional-dependencies"]
        changed = {**extras, extra: [*extras[extra], "nobody-has-this>=1"]}
        pyproject = {"project": {**PYPROJECT["project"], "optional-dependencies": changed}}
        problems = set(guards.versions_agree(pyproject, LOCK, ENVIRONMENT))
        known = set(guards.versions_agree(PYPROJECT, LOCK, ENVIRONMENT))
        assert problems - known == {"nobody-has-this is not in the lock"}


def test_wrong_claim_in_the_readme_is_found():
    published = reference("mnist")
    accuracy = published["dense.test.knn5_accuracy"]
    mean, std = (f"{100 * accuracy[key]:.2f}" for key in ("mean", "std"))
    shown = f"| {mean} ± {std} % "
    assert shown in README
    for wrong in (f"| 99.99 ± {std} % ", f"| {mean} ± 9.99 % "):
        changed = README.replace(shown, wrong)
        assert len(guards.claims_are_published(changed, published, decided("mnist"))) == 1
    changed = README.replace("| yes <!-- dense.test.sse ", "| no <!-- dense.test.sse ")
    assert len(guards.claims_are_published(changed, published, decided("mnist"))) == 1
    assert guards.claims_are_published(README, {}, decided("mnist")) != []
    assert guards.claims_are_published("no table", published, decided("mnist"))


def test_the_model_card_is_what_the_published_metrics_make():
    assert publication.MODEL_CARD.read_text(encoding="utf-8") == publication.model_card()
