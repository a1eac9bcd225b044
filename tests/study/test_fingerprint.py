"""What makes a notebook's results out of date, and what does not."""

import os
import shutil
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import PROJECT, read_json, write_json
from ae_lib.study import fingerprint, graph
from tests.study.small_project import PARAMETERS, pretend_finished, replace

import numpy as np
import pytest
from PIL import Image

IMPORT_CODEC = {
    "07_compress_images",
    "09_train_convolutional",
    "11_train_variational",
}  # not all directly


@pytest.fixture
def study_copy(tmp_path, monkeypatch):
    """A copy of the study: its notebooks' scripts and its library."""
    ignored = shutil.ignore_patterns("*.ipynb", "__pycache__")
    for part in ("ae_lib", "notebooks"):
        shutil.copytree(PROJECT / part, tmp_path / "copy" / part, ignore=ignored)
    monkeypatch.setattr(fingerprint, "PROJECT", tmp_path / "copy")
    monkeypatch.setattr(graph, "FOLDER", tmp_path / "copy" / "notebooks")
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def of_study():
    """The fingerprints of the study's own notebooks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AE_DATA_DIR", raising=False)
        return fingerprint.fingerprints(graph.load_profile("digits"))


def changed(of_study):
    """The notebooks whose fingerprints are others now."""
    now = fingerprint.fingerprints(graph.load_profile("digits"))
    return {name for name in of_study if now[name] != of_study[name]}


def with_dependants(names):
    profile, result = graph.load_profile("digits"), set(names)
    for name, needs in profile.needs.items():
        if result & set(needs):
            result.add(name)
    return result


# ------------------------------ nothing stale that need not be
def test_a_copy_elsewhere_with_other_times_has_the_same_fingerprints(study_copy, of_study):
    for path in study_copy.rglob("*"):
        os.utime(path, (1, 1))
    assert changed(of_study) == set()


def test_comments_docstrings_and_prose_change_nothing(study_copy, of_study):
    for path in [*study_copy.rglob("ae_lib/**/*.py")]:
        text = path.read_text()
        path.write_text(
            "# A comment.\n\n" + text.replace('    """', '    """Other words. ', 1) + "\n\n"
        )
    for path in study_copy.glob("notebooks/*.py"):
        text = path.read_text().replace(
            "# %% [markdown]\n# #", "# %% [markdown]\n# # Words, and ", 1
        )
        path.write_text(text + "\n# %% [markdown]\n# More words.\n")
    assert changed(of_study) == set()


def test_content_that_went_and_came_again_is_the_same(study_copy, of_study):
    path = study_copy / "ae_lib" / "data.py"
    text = path.read_text()
    path.write_text(text + "\nOTHER = 1\n")
    assert changed(of_study) == set(of_study)
    path.write_text(text)
    assert changed(of_study) == set()


def test_a_change_of_a_module_is_one_for_those_that_import_it_and_for_what_needs_these(
    study_copy, of_study
):
    with (study_copy / "ae_lib" / "analysis" / "codec.py").open("a") as module:
        module.write("\nOTHER = 1\n")
    expected = with_dependants(IMPORT_CODEC)
    assert changed(of_study) == expected
    assert not expected & {"01_preprocess", "02_train", "03_evaluate", "06_detect_anomalies"}
    assert "12_compare_models" in expected


def test_what_runs_the_notebooks_changes_no_result(study_copy, of_study):
    for name in ("graph", "fingerprint", "execute", "site", "sweep", "reference"):
        with (study_copy / "ae_lib" / "study" / f"{name}.py").open("a") as module:
            module.write("\nOTHER = 1\n")
    assert changed(of_study) == set()


def test_a_change_in_a_notebook_is_one_for_what_needs_it(study_copy, of_study):
    with (study_copy / "notebooks" / "11_train_variational.py").open("a") as script:
        script.write("\n# %%\n1 + 1\n")
    assert changed(of_study) == {"11_train_variational", "12_compare_models"}


def test_other_packages_are_a_change_for_all(of_study, monkeypatch):
    monkeypatch.setattr(fingerprint, "_packages", lambda: {"keras": "0"})
    assert changed(of_study) == set(of_study)


def test_published_values_are_a_change_for_the_notebook_that_shows_them(
    of_study, tmp_path, monkeypatch
):
    write_json(tmp_path / "digits.json", {})
    monkeypatch.setattr(fingerprint, "REFERENCE", tmp_path)
    assert changed(of_study) == graph.READS_REFERENCE


# ------------------------------ one notebook
@pytest.fixture
def small(new_project):
    """The fingerprint of a small notebook, now."""

    def of(name="02_train", **parameters):
        own = graph.load_profile("small").parameters[name] | parameters
        return fingerprint.fingerprint(name, graph.read_notebook(name), own, [])

    return of


def test_parameters_are_part_and_the_runs_name_is_not(small):
    first = small()
    assert small(profile="another") == first
    assert small(seed=1) != first
    assert small(sizes=[2]) != first


def test_a_sweeps_table_is_part(small, tmp_path):
    with pytest.raises(StudyError, match="no results of the sweep 'some': run make sweep"):
        small(sweep="some")
    table = Path(os.environ["AE_REPORTS_DIR"]) / "sweeps" / "some" / "results.csv"
    table.parent.mkdir(parents=True)
    table.write_text("a\n1\n")
    with pytest.raises(StudyError, match="no claims of the sweep 'some': run make sweep"):
        small(sweep="some")
    claims = table.with_name("claims.csv")
    claims.write_text("a\n1\n")
    first = small(sweep="some")
    os.utime(table, (1, 1))
    assert small(sweep="some") == first
    for changed in (table, claims):
        changed.write_text("a\n2\n")
        assert small(sweep="some") != first
        changed.write_text("a\n1\n")


def test_images_of_ones_own_are_part_and_mnist_need_not_be_there(small, data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    first = small(dataset="mine")
    np.savez(data_dir / "mine.npz", **{**arrays, "x_train": 255 - arrays["x_train"]})
    assert small(dataset="mine") != first
    assert small(dataset="mnist") != small(dataset="digits")


def test_images_replaced_by_an_older_file_are_other_images(small, data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    first, path = small(dataset="mine"), data_dir / "mine.npz"
    np.savez(data_dir / "other.npz", **{**arrays, "x_test": 255 - arrays["x_test"]})
    os.utime(data_dir / "other.npz", ns=(1, path.stat().st_mtime_ns - 10**9))
    (data_dir / "other.npz").replace(path)
    assert small(dataset="mine") != first


def test_one_picture_of_a_folder_that_changes_is_a_change(small, data_dir, digits):
    (data_dir / "mine").mkdir()
    for i, image in enumerate(digits.pixels_test[:30].reshape(-1, 28, 28)):
        Image.fromarray(image).save(data_dir / "mine" / f"{i}.png")
    first = small(dataset="mine")
    assert small(dataset="mine") == first
    Image.fromarray(digits.pixels_test[30].reshape(28, 28)).save(data_dir / "mine" / "7.png")
    assert small(dataset="mine") != first
    assert small(dataset="mine", image_size=[20, 20]) != small(dataset="mine")


def test_what_classes_are_called_is_part(small, data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    first = small(dataset="mine")
    np.savez(data_dir / "mine.npz", **{k: v + (k[0] == "y") for k, v in arrays.items()})
    assert small(dataset="mine") != first


def test_cells_that_need_classes_are_left_out_where_there_are_none(data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    assert fingerprint.too_few_classes({"dataset": "mine"}) is None
    assert fingerprint.too_few_classes({"dataset": "mnist"}) is None  # which need not be there
    np.save(data_dir / "without.npy", arrays["x_train"])
    reason = fingerprint.too_few_classes({"dataset": "without.npy"})
    assert reason == "it needs two classes in every split, and there are 1"


def test_a_notebook_that_is_not_python_is_one_sentence(small):
    replace(graph.FOLDER / "02_train.py", 'print("epoch', "%timeit 1\nprint(")
    with pytest.raises(StudyError, match=r"02_train is not valid Python .*: correct it\.$"):
        small()


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ('"""Words."""\nx = 1  # why\n\n\n', "x = 1"),
        ('def f():\n    """One.\n\n    Two."""\n    return 1', "def f():\n    return 1"),
        ('class A:\n    # why\n    """One."""\n\n    x = 1', "class A:\n    x = 1"),
        ('x = "# no comment"', 'x = "# no comment"'),
        ('x = """a\n# no comment\n"""', 'x = """a\n# no comment\n"""'),
        ('x = (\n    "a"  # why\n)', 'x = (\n    "a"\n)'),
        ('def f(): "doc"; return 1', 'def f(): "doc"; return 1'),
    ],
)
def test_code_is_what_is_neither_comment_nor_docstring(source, code):
    assert fingerprint.code_of(source) == code


# ------------------------------ out of date
@pytest.fixture
def run(new_project):
    """A run that looks finished: its folder, and what is out of date there."""
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    pretend_finished(profile, folder)

    def stale():
        profile = graph.load_profile("small")
        return fingerprint.out_of_date(profile, fingerprint.fingerprints(profile), folder)

    return folder, stale


def test_nothing_is_out_of_date_after_a_run(run):
    assert run[1]() == []


def test_another_parameter_makes_out_of_date_what_has_it_and_what_needs_that(run):
    small = graph.PARAMS / "small.yaml"
    before = small.read_text()
    small.write_text("02_train:\n  epochs: 5\n")
    assert run[1]() == ["02_train", "03_evaluate"]
    small.write_text(before + "03_evaluate:\n  seed: 1\n")
    assert run[1]() == ["03_evaluate"]
    small.write_text(before)
    assert run[1]() == []


def test_results_changed_in_jupyterlab_or_lost_are_made_again_with_what_needs_them(run):
    folder, stale = run
    results = folder / "artifacts" / "03_evaluate" / "results.json"
    os.utime(results, (1, 1))
    assert stale() == []
    content = read_json(results)
    write_json(
        results, content | {"metrics": content["metrics"] | {"a.train.seconds": {"value": 1}}}
    )
    assert stale() == [], "it only took longer"
    write_json(results, content | {"metrics": content["metrics"] | {"a.test.mse": {"value": 1}}})
    assert stale() == ["03_evaluate"]
    (folder / "artifacts" / "02_train" / "results.json").unlink()
    assert stale() == ["02_train", "03_evaluate"]


def test_a_notebook_executed_by_hand_or_before_fingerprints_is_out_of_date(run):
    folder, stale = run
    write_json(folder / "01_preprocess.ipynb", {"metadata": {}})
    assert stale() == ["01_preprocess"]


def test_another_model_makes_its_maker_and_its_readers_out_of_date(run):
    (graph.FOLDER / "09_train_convolutional.py").write_text(
        (graph.FOLDER / "02_train.py").read_text()
    )
    (graph.PARAMS / "small.yaml").write_text("02_train: {epochs: 4}\nall: {model: conv}\n")
    assert run[1]() == ["09_train_convolutional", "03_evaluate"]


def test_results_that_changed_in_a_later_script_make_its_earlier_reader_out_of_date(new_project):
    (graph.FOLDER / "09_train_convolutional.py").write_text(PARAMETERS)
    (graph.PARAMS / "small.yaml").write_text("all: {model: conv}\n")
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    pretend_finished(profile, folder)
    results = folder / "artifacts" / "09_train_convolutional" / "results.json"
    write_json(results, {"metrics": {"a.test.mse": {"value": 1}}})
    current = fingerprint.fingerprints(profile)
    stale = fingerprint.out_of_date(profile, current, folder)
    assert stale == ["09_train_convolutional", "03_evaluate"]
