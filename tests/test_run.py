"""A run's folder: nothing is published before it is finished, nothing published is lost."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from ae_lib import StudyError, figures
from ae_lib import run as runs

import pytest


@pytest.fixture
def run():
    return runs.Run("trial", "01_preprocess")


def test_nothing_is_published_before_the_end(run):
    run.new_artifact("model.txt").write_text("new")
    assert not (run.folder / "artifacts").exists()
    run.finish({"dense.test.mse": 1})
    assert (run.folder / "artifacts" / "model.txt").read_text() == "new"
    assert not run.stage.exists()


def test_unfinished_notebook_leaves_the_last_result(run):
    run.new_artifact("model.txt").write_text("good")
    run.finish({"dense.test.mse": 1})
    again = runs.Run("trial", "01_preprocess")
    again.new_artifact("model.txt").write_text("half")
    del again
    assert (run.folder / "artifacts" / "model.txt").read_text() == "good"
    assert runs.read_json(run.folder / "metrics.json") == {"dense.test.mse": 1}


def test_metrics_of_several_notebooks_are_merged_and_replaced(run):
    run.finish({"b.test.mse": 1, "b.test.old": 5})
    runs.Run("trial", "02_train").finish({"a.test.mse": 2})
    runs.Run("trial", "01_preprocess").finish({"b.test.mse": 3})
    text = (run.folder / "metrics.json").read_text()
    assert json.loads(text) == {"a.test.mse": 2, "b.test.mse": 3}
    assert text.index("a.test") < text.index("b.test")


def test_notebooks_that_finish_together_lose_no_metric(tmp_path):
    code = "import sys; from ae_lib import runs; runs.Run('trial', sys.argv[1]).finish({sys.argv[1] + '.test.mse': 1})"
    started = [subprocess.Popen([sys.executable, "-c", code, f"n{i}"]) for i in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    assert len(runs.read_json(tmp_path / "reports" / "trial" / "metrics.json")) == 4


def test_missing_input_names_the_notebook_that_makes_it(run):
    with pytest.raises(
        StudyError, match="trial/artifacts/model.keras is missing; .*: run 02_train first"
    ):
        run.artifact("model.keras", made_by="02_train")


def test_trained_models_by_name(run):
    with pytest.raises(
        StudyError, match="no model 'cnn'; expected one of dense, scheduled, wide, conv"
    ):
        run.trained("cnn")
    with pytest.raises(
        StudyError, match="artifacts/vae.keras is missing; .*: run 10_train_variational first"
    ):
        run.trained("vae")
    for file in ("model.keras", "vae.keras"):
        run.new_artifact(file).touch()
    run.finish({})
    assert run.trained("dense") == run.folder / "artifacts" / "model.keras"
    assert run.trained("vae") == run.folder / "artifacts" / "vae.keras"


def test_figures_are_saved_twice_and_described(run, digits):
    figure = figures.image_rows({"one": digits.x_test[:3]}, "Three images.")
    run.show("01_three", figure)
    run.finish({})
    png, svg = (run.folder / "figures" / f"01_three.{kind}" for kind in ("png", "svg"))
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert b"Three images." in png.read_bytes()
    assert "<svg" in svg.read_text()


def test_same_figure_same_bytes(digits):
    def saved(name):
        run = runs.Run(name, "01_preprocess")
        run.show("01_three", figures.image_rows({"one": digits.x_test[:3]}, "Three images."))
        run.finish({})
        return [path.read_bytes() for path in sorted((run.folder / "figures").iterdir())]

    assert saved("first") == saved("second")


def test_full_disk_is_one_sentence_and_keeps_the_last_result(run, monkeypatch):
    run.finish({"dense.test.mse": 1})
    again = runs.Run("trial", "01_preprocess")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StudyError, match="No space left on device.*make room"):
            again.finish({"dense.test.mse": 2})
    assert runs.read_json(run.folder / "metrics.json") == {"dense.test.mse": 1}


def test_unwritable_folder_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path / "file" / "reports"))
    with pytest.raises(StudyError, match="cannot be written .Not a directory.*set AE_REPORTS_DIR"):
        runs.Run("trial", "01_preprocess")
    with pytest.raises(StudyError, match="cannot be written"), runs.only_run("trial"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_missing_permission_is_one_sentence(tmp_path):
    (tmp_path / "reports").mkdir(mode=0o500)
    with pytest.raises(StudyError, match="Permission denied"):
        runs.Run("trial", "01_preprocess")


def test_a_sweeps_table_is_this_machines_or_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setattr(runs, "REFERENCE", tmp_path / "reference")
    own, published = runs.sweep_files("some")
    with pytest.raises(
        StudyError, match="no results of the sweep 'some': run make sweep SWEEP=some first"
    ):
        runs.sweep_table("some")
    for path in (published, own):
        path.parent.mkdir(parents=True)
        path.touch()
        assert runs.sweep_table("some") == path


def test_comparison_prints_fixed_text():
    reference = {
        "a.test.mse": {"value": 2.0, "rtol": 0.01},
        "a.test.ssim": {"value": 0.5, "rtol": 0.1},
    }
    inside = runs.Comparison({"a.test.mse": 2.01, "a.test.ssim": 0.46}, reference)
    other = runs.Comparison({"a.test.mse": 1.99, "a.test.ssim": 0.54}, reference)
    assert repr(inside) == repr(other)
    assert "a.test.mse: within 1 % of the reference" in repr(inside)
    assert inside.summary == "reproduced 2 of 2 metrics"


def test_comparison_shows_what_is_outside():
    comparison = runs.Comparison(
        {"a.test.mse": 2.1, "a.test.new": 1}, {"a.test.mse": {"value": 2.0, "rtol": 0.01}}
    )
    assert "a.test.mse: OUTSIDE the tolerance of 1 %: 2.1, reference 2" in repr(comparison)
    assert "a.test.new: OUTSIDE" in repr(comparison)
    assert comparison.summary == "reproduced 0 of 2 metrics"


def test_comparison_lists_no_interval_ends_that_are_inside():
    reference = {
        name: {"value": 1.0, "rtol": 0.1}
        for name in ("a.test.mse", "a.test.mse.low", "a.test.mse.high")
    }
    comparison = runs.Comparison(
        {"a.test.mse": 1.0, "a.test.mse.low": 1.0, "a.test.mse.high": 2.0}, reference
    )
    assert "mse.low" not in repr(comparison)
    assert "a.test.mse.high: OUTSIDE" in repr(comparison)
    assert comparison.summary == "reproduced 2 of 3 metrics"


def test_durations_are_kept_and_never_compared(run):
    reference = {
        "a.train.seconds": {"value": 9.0, "rtol": 0.1},
        "a.test.mse": {"value": 1.0, "rtol": 0.1},
    }
    measured = {"a.test.mse": 1.0, "a.train.seconds": 3.0, "a.test.seconds_per_10000": 2.0}
    comparison = runs.Comparison(measured, reference)
    assert list(comparison.table.index) == ["a.test.mse"]
    assert comparison.summary == "reproduced 1 of 1 metrics"
    run.finish(measured)
    assert runs.read_json(run.folder / "metrics.json") == measured
    assert not runs.is_duration("seconds.test.mse")


def test_profile_without_reference_has_nothing_to_compare():
    assert "no reference" in repr(runs.Run("trial", "01_preprocess").finish({"a.test.mse": 1}))


def test_provenance_names_versions_and_machine():
    found = runs.provenance()
    assert found["packages"]["tensorflow"].startswith("2.")
    assert found["cores"] >= 1
    assert runs.git_commit() is None or len(runs.git_commit()) >= 40
    assert found["cpu"]


def test_tolerances_have_an_absolute_part():
    """A reconstruction from all components is wrong by rounding alone, which another processor does in another way."""
    reference = {"pca_filter.test.mse_noise_0": {"value": 6.7e-7, "rtol": 1e-5}}
    comparison = runs.Comparison({"pca_filter.test.mse_noise_0": 6.7e-7 * 1.0013}, reference)
    assert comparison.summary == "reproduced 1 of 1 metrics"
    assert (
        runs.Comparison({"pca_filter.test.mse_noise_0": 7e-7}, reference).summary
        == "reproduced 0 of 1 metrics"
    )
