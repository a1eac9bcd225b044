"""A run's folder: nothing is published before it is finished, nothing published is lost."""

import errno
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from ae_lib import StudyError, figures, metrics
from ae_lib import run as runs
from ae_lib.metrics import Difference, Interval

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def run():
    return runs.Run("trial", "01_preprocess")


def results_of(run):
    return runs.read_json(run.folder / "artifacts" / run.notebook / "results.json")


def picture(digits, caption="Three images."):
    return figures.image_rows({"one": digits.x_test[:3]}, (28, 28), caption)


def test_nothing_is_published_before_the_end(run):
    run.new_artifact("model.txt").write_text("new")
    assert not (run.folder / "artifacts").exists()
    run.finish({"dense.test.mse": 1})
    assert (run.folder / "artifacts" / "01_preprocess" / "model.txt").read_text() == "new"
    assert not run.stage.exists()


def test_unfinished_notebook_leaves_the_last_result(run):
    run.new_artifact("model.txt").write_text("good")
    run.finish({"dense.test.mse": 1})
    again = runs.Run("trial", "01_preprocess")
    again.new_artifact("model.txt").write_text("half")
    del again
    assert (run.folder / "artifacts" / "01_preprocess" / "model.txt").read_text() == "good"
    assert results_of(run)["metrics"] == {"dense.test.mse": {"value": 1.0}}


def test_metrics_of_a_notebook_are_replaced_and_no_others_are_touched(run):
    run.finish({"b.test.mse": 1, "b.test.old": 5})
    other = runs.Run("trial", "02_train")
    other.finish({"a.test.mse": 2})
    runs.Run("trial", "01_preprocess").finish({"b.test.mse": 3})
    assert results_of(run)["metrics"] == {"b.test.mse": {"value": 3.0}}
    assert results_of(other)["metrics"] == {"a.test.mse": {"value": 2.0}}


# ------------------------------ C1: as people work in JupyterLab
@pytest.mark.parametrize("order", itertools.permutations(["show", "artifact", "finish"]))
def test_cells_may_be_run_again_after_the_last_one_in_any_order(run, digits, order):
    def show(text):
        run.show("01_three", picture(digits, text))

    def artifact(text):
        run.new_artifact("model.txt").write_text(text)

    def finish(text):
        run.finish({"dense.test.mse": len(text)})

    cells = {"show": show, "artifact": artifact, "finish": finish}
    for cell in ("show", "artifact", "finish"):
        cells[cell]("first")
    for cell in order:
        cells[cell]("second time")
    run.finish({"dense.test.mse": 11})
    assert (run.folder / "artifacts" / "01_preprocess" / "model.txt").read_text() == "second time"
    assert b"second time" in (run.folder / "figures" / "01_three.png").read_bytes()
    assert results_of(run)["metrics"]["dense.test.mse"] == {"value": 11.0}
    assert not run.stage.exists()


def test_finishing_twice_keeps_everything(run):
    run.new_artifact("model.txt").write_text("good")
    for _ in range(2):
        run.finish({"dense.test.mse": 1})
    assert (run.folder / "artifacts" / "01_preprocess" / "model.txt").read_text() == "good"


# ------------------------------ what is read
def test_missing_input_names_the_notebook_that_makes_it(run):
    expected = "trial/artifacts/02_train/dense.keras is missing; .*: run 02_train first"
    with pytest.raises(StudyError, match=expected):
        run.artifact("02_train/dense.keras")


def test_trained_models_by_name(run):
    with pytest.raises(StudyError, match="no model 'cnn'; expected one of dense, scheduled, wide"):
        run.model("cnn")
    with pytest.raises(StudyError, match="vae.keras is missing; .*: run 11_train_variational fir"):
        run.model("vae")
    for model, maker in runs.MODELS.items():
        made = runs.Run("trial", maker)
        made.new_artifact(f"{model}.keras").touch()
        made.finish({})
        assert run.model(model) == run.folder / "artifacts" / maker / f"{model}.keras"


def test_metrics_of_another_notebook_come_back_as_they_were(run):
    given = {"a.test.mse": Interval(1.0, 0.5, 1.5), "a.test.ssim": 0.5, "a.test.gone": math.nan}
    run.finish(given)
    read = runs.Run("trial", "02_train").metrics_of("01_preprocess")
    assert read["a.test.mse"] == given["a.test.mse"]
    assert (read["a.test.ssim"].value, math.isnan(read["a.test.ssim"].low)) == (0.5, True)
    assert math.isnan(read["a.test.gone"].value)


def test_only_what_the_executor_allows_may_be_read(run, monkeypatch):
    for notebook in ("01_preprocess", "02_train", "03_evaluate"):
        made = runs.Run("trial", notebook)
        made.new_artifact("a.txt").touch()
        made.finish({})
    monkeypatch.setenv(runs.MAY_READ, "02_train")
    assert run.artifact("02_train/a.txt").is_file()
    assert run.artifact("01_preprocess/a.txt").is_file(), "its own"
    for read in (lambda: run.artifact("03_evaluate/a.txt"), lambda: run.metrics_of("03_evaluate")):
        with pytest.raises(StudyError, match="NEEDS in ae_lib/study/graph.py does not say so"):
            read()
    monkeypatch.setenv(runs.MAY_READ, "")
    with pytest.raises(StudyError, match=r"expected 02_train in its line: add it\.$"):
        run.artifact("02_train/a.txt")
    monkeypatch.delenv(runs.MAY_READ)
    assert run.artifact("03_evaluate/a.txt").is_file(), "in JupyterLab everything may be read"


def test_a_sweeps_table_is_this_machines_or_the_published_one(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "REFERENCE", tmp_path / "reference")
    own, published = runs.sweep_files("some")
    expected = "no results of the sweep 'some': run make sweep SWEEP=some first"
    with pytest.raises(StudyError, match=expected):
        runs.sweep_table("some")
    for path in (published, own):
        path.parent.mkdir(parents=True)
        path.touch()
        assert runs.sweep_table("some") == path
    _, claims = runs.sweep_files("some", "claims")
    claims.touch()
    with pytest.raises(StudyError, match="no claims of the sweep 'some': run make sweep"):
        runs.sweep_table("some", "claims")  # the published ones are of other results
    own.unlink()
    assert runs.sweep_table("some", "claims") == claims


# ------------------------------ figures
def test_figures_are_saved_twice_and_described(run, digits):
    run.show("01_three", picture(digits))
    run.finish({})
    png, svg = (run.folder / "figures" / f"01_three.{kind}" for kind in ("png", "svg"))
    assert png.read_bytes()[:4] == b"\x89PNG"
    assert b"Three images." in png.read_bytes()
    assert "<svg" in svg.read_text()


def test_same_figure_same_bytes(digits):
    saved = []
    for name in ("first", "second"):
        run = runs.Run(name, "01_preprocess")
        run.show("01_three", picture(digits))
        run.finish({})
        saved.append([path.read_bytes() for path in sorted((run.folder / "figures").iterdir())])
    assert saved[0] == saved[1]


# ------------------------------ what cannot be written
def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


def test_full_disk_is_one_sentence_and_keeps_the_last_result(run, monkeypatch):
    run.finish({"dense.test.mse": 1})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", failing(errno.ENOSPC))
        with pytest.raises(StudyError, match="No space left on device.*make room") as caught:
            runs.Run("trial", "01_preprocess").finish({"dense.test.mse": 2})
    assert "permissions" not in str(caught.value)
    assert results_of(run)["metrics"]["dense.test.mse"]["value"] == 1


def test_missing_permission_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", failing(errno.EACCES))
    with pytest.raises(StudyError, match="Permission denied.*change its permissions, or set AE_R"):
        run.new_artifact("model.txt")


@pytest.mark.parametrize("code", [errno.EIO, errno.EISDIR])
def test_another_error_is_not_explained_as_disk_or_permission(code):
    with (
        pytest.raises(OSError, match=os.strerror(code)) as caught,
        runs.explained_write_errors(Path("folder")),
    ):
        failing(code)()
    assert caught.value.errno == code
    assert not isinstance(caught.value, StudyError)


def test_readers_find_the_old_content_or_the_new(tmp_path, monkeypatch):
    path = tmp_path / "file"
    runs.write_bytes(path, b"old")
    monkeypatch.setattr(Path, "replace", failing(errno.EIO))
    with pytest.raises(OSError, match="Input"):
        runs.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


# ------------------------------ metrics in files
def test_metrics_are_json_with_ends_where_there_are_any_and_null_for_what_is_missing(run):
    given = {
        "a.test.mse": Interval(1.0, 0.5, 1.5),
        "a.test.ssim": 2,
        "a.test.gone": math.nan,
        "a.test.psnr": math.inf,
    }
    run.finish(given)
    path = run.folder / "artifacts" / "01_preprocess" / "results.json"
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict["metrics"] == {
        "a.test.mse": {"value": 1.0, "low": 0.5, "high": 1.5},
        "a.test.ssim": {"value": 2.0},
        "a.test.gone": {"value": None},
        "a.test.psnr": {"value": None},
    }


def test_a_file_that_would_not_be_json_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.write_json(tmp_path / "file", {"a": math.nan})
    assert not (tmp_path / "file").exists()


# ------------------------------ claims, and the values of images
ERRORS = np.random.default_rng(0).normal(1, 0.1, (3, 50))  # of three models


def test_claims_that_were_decided_elsewhere_are_published_as_they_are(run):
    claim = ["it is good", "dense.test.mse", "pca.test.mse", "lower"]
    decided = pd.DataFrame([claim], columns=["claim", "measured", "baseline", "better"])
    decided = decided.assign(gain=Difference(1.0, 0.5, 1.5, 0.01), verdict="yes")
    reproduced = run.finish({}, decided=decided)
    assert reproduced.claims is decided
    saved = results_of(run)["claims"]
    gain = {"value": 1.0, "low": 0.5, "high": 1.5, "p": 0.01}
    expected = dict(zip(decided.columns, [*claim, gain, "yes"], strict=True))
    assert saved == [expected]


def test_the_headline_is_what_is_named_and_what_claims_measure(run):
    given = {f"a.test.{name}": 1.0 for name in ("mse", "ssim", "psnr", "sse")}
    claims = [("it is good", "a.test.ssim", "a.test.sse", "lower")]
    run.finish(given, claims, headline=["a.test.mse"])
    assert results_of(run)["headline"] == ["a.test.mse", "a.test.sse", "a.test.ssim"]


def test_values_of_images_are_published_as_a_metric_and_kept_for_later_notebooks(run):
    both = {"a.test.mse": ERRORS[0], "a.test.random": ERRORS, "a.test.other": ERRORS[1]}
    run.finish(both | {"a.count": 3}, headline=["a.test.mse", "a.test.random", "a.count"])
    later = runs.Run("trial", "02_train")
    values = later.values_of("01_preprocess")
    assert set(values) == {"a.test.mse", "a.test.random"}, "of the headline, and no numbers"
    for name, kept in values.items():
        np.testing.assert_array_equal(kept, both[name])
    assert later.metrics_of("01_preprocess")["a.test.random"] == metrics.interval(ERRORS)
    assert results_of(run)["metrics"]["a.count"] == {"value": 3.0}
    later.finish({"b.count": 4}, headline=["b.count"])
    assert run.values_of("02_train") == {}


def test_claims_are_decided_together_and_kept_with_gain_and_verdict(run):
    measured = {"a.test.mse": ERRORS[0], "b.test.mse": ERRORS[0] + 1, "c.test.mse": ERRORS[1]}
    claims = [
        ("a is nearer than b", "a.test.mse", "b.test.mse", "lower"),
        ("a is nearer than c", "a.test.mse", "c.test.mse", "lower"),
        ("a is above what is published", "a.test.mse", 5.0, "higher"),
    ]
    judged = run.finish(measured, claims).claims
    assert judged.equals(metrics.judge(claims, measured))
    kept = results_of(run)["claims"]
    assert [row["verdict"] for row in kept] == ["yes", "no difference detected", "no"]
    assert [row["baseline"] for row in kept] == ["b.test.mse", "c.test.mse", 5.0]
    assert [row["gain"]["value"] for row in kept] == [gain.value for gain in judged["gain"]]
    assert kept[1]["gain"]["p"] == judged["gain"][1].p


def test_a_claim_may_name_what_an_earlier_notebook_has_measured(run):
    run.finish({"a.test.mse": ERRORS[0]}, headline=["a.test.mse"])
    later = runs.Run("trial", "02_train")
    earlier = later.values_of("01_preprocess")
    claims = [("b is nearer", "b.test.mse", "a.test.mse", "lower")]
    judged = later.finish({"b.test.mse": ERRORS[0] - 1}, claims, earlier=earlier).claims
    assert judged["verdict"].tolist() == ["yes"]
    assert results_of(later)["headline"] == ["b.test.mse"]
    assert list(results_of(later)["metrics"]) == ["b.test.mse"]


@pytest.mark.parametrize("claim", [("a.test.new", 1.0), ("a.test.mse", "a.test.new")])
def test_what_was_not_measured_is_refused_and_nothing_is_published(run, claim):
    expected = "headline or a claim of 01_preprocess names a.test.new, which is not among its met"
    with pytest.raises(StudyError, match=expected):
        run.finish({"a.test.mse": 1.0}, [("it is good", *claim, "lower")])
    with pytest.raises(StudyError, match=expected):
        run.finish({"a.test.mse": 1.0}, headline=["a.test.new"])
    assert not (run.folder / "artifacts").exists()


# ------------------------------ comparison with what is published
def published(value, tolerance):
    return {"value": value, "mean": value, "std": 0.0, "seeds": 1, "tolerance": tolerance}


def test_comparison_prints_fixed_text():
    reference = {"a.test.mse": published(2.0, 0.02), "a.test.ssim": published(0.5, 0.1)}
    inside = runs.Reproduction({"a.test.mse": 2.01, "a.test.ssim": 0.46}, reference)
    other = runs.Reproduction({"a.test.mse": 1.99, "a.test.ssim": 0.54}, reference)
    assert repr(inside) == repr(other) == inside.summary
    assert inside.summary == (
        "reproduced 2 of 2 headline metrics (1 of them with a tolerance above 10% of the value)"
    )


def test_comparison_shows_what_is_outside_and_leaves_out_what_is_not_published():
    reference = {"a.test.mse": published(2.0, 0.02), "a.test.gone": published(1.0, 0.1)}
    measured = {"a.test.mse": 2.1, "a.test.new": 1, "a.test.gone": math.nan}
    comparison = runs.Reproduction(measured, reference)
    assert "a.test.mse is OUTSIDE its tolerance: 2.1, reference 2 ± 0.02" in repr(comparison)
    assert "a.test.gone is OUTSIDE its tolerance: nan" in repr(comparison)
    assert list(comparison.table.index) == ["a.test.mse", "a.test.gone"]
    assert comparison.summary.startswith("reproduced 0 of 2 headline metrics")


def test_tolerance_is_absolute_also_at_zero():
    reference = {"a.test.mse": published(0.0, 1e-8)}
    for value, within in ((1e-9, True), (-1e-8, True), (2e-8, False)):
        comparison = runs.Reproduction({"a.test.mse": value}, reference)
        assert comparison.table["within"].tolist() == [within]


def test_headline_metrics_alone_are_compared(run, monkeypatch):
    reference = {f"a.test.{name}": published(1.0, 0.1) for name in ("mse", "ssim")}
    monkeypatch.setattr(runs, "reference", lambda profile: reference)
    comparison = run.finish({"a.test.mse": 1.0, "a.test.ssim": 5.0}, headline=["a.test.mse"])
    assert list(comparison.table.index) == ["a.test.mse"]
    assert comparison.table["within"].all()


def test_profile_without_reference_has_nothing_to_compare(run):
    comparison = run.finish({"a.test.mse": 1}, headline=["a.test.mse"])
    assert repr(comparison) == "There is no reference for this profile to compare with."


def test_what_starts_a_notebook_imports_neither_pandas_nor_scipy_nor_keras():
    code = (
        "import sys, ae_lib.study.execute\n"
        "print(*{'pandas', 'scipy', 'matplotlib', 'tensorflow', 'keras'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=runs.PROJECT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []
