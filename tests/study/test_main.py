"""The command line, from profile to report."""

import os
import random
import resource
import shutil
import signal
import time

from ae_lib import StudyError, data
from ae_lib.run import Reproduction, read_json, write_json
from ae_lib.study import __main__ as command
from ae_lib.study import execute, graph
from tests.study import small_project as small

import pytest


# ------------------------------ what is executed again
def test_a_copy_of_project_and_results_elsewhere_executes_nothing_whatever_the_times(
    project, study, tmp_path, monkeypatch
):
    copy = shutil.copytree(project, tmp_path / "elsewhere", symlinks=True)
    for path in copy.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (1, 1) if path.suffix == ".ipynb" else None)
    small.use_project(copy, monkeypatch)
    good = small.contents(copy / "reports" / "small")
    code, errors = study("report", "small")
    assert (code, small.executed(errors)) == (0, [])
    assert "reports/small is up to date" in errors
    after = small.contents(copy / "reports" / "small")
    assert {name for name in good if after[name] != good[name]} == set()


def test_comments_docstrings_and_content_to_and_fro_execute_nothing(project, study):
    path = project / "notebooks" / "02_train.py"
    text = path.read_text()
    path.write_text(text.replace("rate)", "rate + 1)"))
    path.write_text(text.replace("# passes", "# of all") + "\n# %% [markdown]\n# Words.\n")
    code, errors = study("report", "small")
    assert (code, small.executed(errors)) == (0, [])


def test_a_changed_notebook_alone_is_executed_and_its_pages_alone_are_written(
    project, folder, study
):
    small.replace(project / "notebooks" / "03_evaluate.py", "0.45, 0.5, 0.55", "0.65, 0.7, 0.75")
    good = small.contents(folder)
    code, errors = study("report", "small")
    assert (code, small.executed(errors)) == (0, ["03_evaluate"])
    after = small.contents(folder)
    changed = {name for name in after if after[name] != good.get(name)}
    assert changed - {"searchindex.js"} == {
        "03_evaluate.ipynb", "03_evaluate.html", "metrics.json", "run.json", "index.html",
        "artifacts/03_evaluate/results.json", "artifacts/03_evaluate/values.npz",
        "_sources/03_evaluate.ipynb", "_sources/index.md",
    }  # fmt: skip
    assert small.metrics_of(folder)["dense.test.mse"] == pytest.approx(0.7)


def test_times_are_those_of_notebooks_and_of_their_sections(project, folder, capfd):
    run = read_json(folder / "run.json")
    write_json(folder / "run.json", run | {"sections": {"02_train": {"Fit": 7.5, "Judge": 9.0}}})
    assert command.main(["times", "small"]) == 0
    notebooks, sections, _ = capfd.readouterr().out.split("\n\n")
    assert len(notebooks.splitlines()) == 3
    rows = [line.split() for line in sections.splitlines()]
    assert rows == [["02_train", "Judge", "9.0"], ["Fit", "7.5"]]
    del run["sections"]  # as in a run of a former version
    write_json(folder / "run.json", run)
    assert command.main(["times", "small"]) == 0
    assert len(capfd.readouterr().out.split("\n\n")) == 2


def test_times_of_no_run_are_one_sentence(new_project, study):
    code, errors = study("times", "small")
    assert code == 1
    assert "run.json is missing; expected a run: make report PROFILE=small first." in errors


# ------------------------------ failures
def test_a_failed_notebook_leaves_its_copy_and_the_last_good_results_and_is_cleared_up(
    project, folder, study
):
    profile = project / "notebooks" / "params" / "small.yaml"
    good, before = small.contents(folder), profile.read_text()
    profile.write_text("02_train:\n  epochs: 5\n")
    code, errors = study("report", "small", **{small.ACTION: "fail"})
    assert code == 1
    assert "error: 02_train failed. ZeroDivisionError: nothing to divide by" in errors
    assert "(Its executed copy: 02_train.failed.ipynb)" in errors
    assert "nothing to divide by" in (folder / "02_train.failed.ipynb").read_text()
    assert small.contents(folder) == good
    profile.write_text("02_train:\n  epochs: -1\n")
    code, errors = study("report", "small")
    assert code == 1
    assert "error: 02_train failed. epochs is -1; expected a whole number of at least 1" in errors
    assert small.contents(folder) == good
    profile.write_text(before)
    code, errors = study("report", "small")
    assert (code, small.executed(errors)) == (0, [])


def test_full_disk_is_one_sentence_and_keeps_results(project, folder, start):
    """The operating system itself refuses to write: no file may grow beyond 100 bytes."""
    small.replace(project / "notebooks" / "01_preprocess.py", "entropy_floor", "floor")
    good = small.contents(folder)
    limit = (100, 100)
    process = start(project, "report", "small", limit=lambda: resource.setrlimit(1, limit))
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in errors.splitlines()[0]
    assert "File too large" in errors
    assert "make room" in errors
    assert small.contents(folder) == good


def test_unwritable_reports_are_one_sentence(project, study, tmp_path):
    (tmp_path / "file").touch()
    code, errors = study("report", "small", AE_REPORTS_DIR=tmp_path / "file")
    assert code == 1
    assert errors.count("\n") == 1
    assert "cannot be written (Not a directory); expected a writable folder" in errors


def test_two_runs_of_one_profile_at_once(folder, study):
    with execute.locked_folder("small"):
        code, errors = study("report", "small")
    assert code == 1
    assert f"error: {folder} is in use by another run; expected one at a time" in errors
    assert study("report", "small")[0] == 0


def test_a_missing_package_is_one_sentence(study, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'papermill'", name="papermill")

    monkeypatch.setattr(graph, "load_profile", missing)
    code, errors = study("report", "small")
    assert code == 1
    assert "error: The package papermill is missing; expected the extras: run make" in errors


# ------------------------------ ended from outside
def test_nothing_outlives_a_killed_run_and_the_next_completes_with_the_same_metrics(
    new_project, start, study, finished_project, tmp_path
):
    noted, folder = tmp_path / "kernel", new_project / "reports" / "small"

    def executor_starts():
        return len(small.alive(tmp_path)) > 1

    def kernel_runs():
        return small.has_text(noted)

    for moment in (executor_starts, kernel_runs):
        sleeping = {small.ACTION: f"sleep {noted}"}
        process = start(new_project, "report", "small", **sleeping)
        small.wait_until(moment)
        time.sleep(random.uniform(0, 1))
        seen = small.alive(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        small.wait_until(lambda seen=seen: not small.alive(tmp_path, seen), 30)  # idle: under 1 s
    code, errors = study("report", "small")
    assert code == 0
    others = [name for name in small.executed(errors) if name != "01_preprocess"]
    assert others[-1] == "03_evaluate", "nothing waits for 01, which may end at any time"
    finished = finished_project / "reports" / "small"
    assert small.metrics_of(folder) == small.metrics_of(finished)
    hidden = {path.name for path in folder.glob(".*")}
    assert hidden <= {".run.lock", ".site"}, "what killed processes left is removed"


def test_an_interrupted_run_says_so_keeps_results_and_leaves_no_process(
    project, folder, start, tmp_path
):
    noted = tmp_path / "kernel"
    (project / "notebooks" / "params" / "small.yaml").write_text("02_train:\n  epochs: 5\n")
    good = small.contents(folder)
    process = start(project, "report", "small", **{small.ACTION: f"sleep {noted}"})
    small.wait_until(lambda: small.has_text(noted))
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches every process of the terminal's group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted: what is finished is kept")
    assert "Traceback" not in errors
    small.wait_until(lambda: not small.alive(tmp_path))
    assert small.contents(folder) == good


def test_a_run_ends_with_the_make_that_started_it(new_project, start, tmp_path):
    """`make` is killed: here a shell in its place, which does not pass the signal on."""
    noted = tmp_path / "kernel"
    script = tmp_path / "make.py"
    script.write_text(
        "import subprocess, sys\n"
        "command = ['-m', 'ae_lib.study', '--end-with-parent', 'report', 'small']\n"
        "subprocess.run([sys.executable, *command])\n"
    )
    environment = {small.ACTION: f"sleep {noted}", "PYTHONPATH": f"{new_project}:{tmp_path}"}
    process = start(new_project, module="make", **environment)
    small.wait_until(lambda: small.has_text(noted))
    os.kill(process.pid, signal.SIGKILL)
    small.wait_until(lambda: not small.alive(tmp_path))


# ------------------------------ the profile taken
@pytest.fixture
def no_run(monkeypatch, tmp_path):
    """Nothing is executed: what would be is noted."""
    asked = []

    def instead(profile, jobs, notice=None):
        asked.append((profile.name, notice))
        return Reproduction({}, {}), tmp_path / profile.name

    monkeypatch.setattr(command, "_bring_up_to_date", instead)
    return asked


def test_without_mnist_the_digits_are_taken_and_it_is_said(no_run, study, monkeypatch, tmp_path):
    def unavailable(name):
        raise StudyError("MNIST is not available.")

    monkeypatch.setattr(data, "download", unavailable)
    code, said = study("report")
    assert code == 0
    assert said.count("THESE ARE NOT MNIST'S RESULTS") == 2, "before and after"
    assert said.count("MNIST is not available.") == 2
    monkeypatch.setattr(data, "local_file", lambda name: tmp_path)
    code, said = study("report")
    assert "NOT MNIST" not in said
    assert no_run == [("digits", "MNIST is not available."), ("mnist", None)]


def test_the_explorer_is_written_while_a_core_waits_after_its_models(tmp_path, monkeypatch):
    asked, training, others = [], {"09_train_convolutional"}, {"05_explore_latent_space"}

    def bring_up_to_date(profile, folder, jobs, done, tell):
        for name, left, idle in [("a", training, True), ("b", others, False), ("c", others, True)]:
            done(name, 1.0, left, idle)
        done("last", 1.0, set(), True)
        return ["a", "b", "c", "last"]

    def write(profile, folder, notice, changed=(), explorer=False):
        asked.append((*changed, explorer))

    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setattr(command.execute, "bring_up_to_date", bring_up_to_date)
    monkeypatch.setattr(command.site, "write", write)
    command._bring_up_to_date(graph.load_profile("digits"), 2)
    assert asked == [("a", False), ("b", False), ("c", True), (False,)], "the last has no own turn"


def test_with_a_download_mnist_is_taken(no_run, study, monkeypatch):
    monkeypatch.setattr(data, "download", lambda name: {})
    code, said = study("report")
    assert (code, no_run) == (0, [("mnist", None)])
    assert "NOT MNIST" not in said


def test_folders_are_made_absolute_since_kernels_run_elsewhere(no_run, study, monkeypatch):
    monkeypatch.setenv("AE_DATA_DIR", "images")
    study("report", "digits")
    assert os.environ["AE_DATA_DIR"] == os.path.abspath("images")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "small", "--jobs", "0"], "'--jobs': 0 is not in the range x>=1"),
        (["sweep", "some", "--workers", "-1"], "'--workers': -1 is not in the range x>=1"),
        (["sweep", "some", "--workers", "two"], "'--workers': 'two' is not a valid integer"),
        (["report", "small", "--job", "1"], "No such option"),
        (["measure"], "Missing argument 'PROFILE'"),
        (["repor"], "No such command 'repor'"),
    ],
)
def test_wrong_usage_is_one_sentence(study, arguments, message):
    code, errors = study(*arguments)
    assert (code, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: ")
    assert message in errors
