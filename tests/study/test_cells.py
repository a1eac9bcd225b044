"""One cell of a sweep: what it depends on, and its execution in a process of its own."""

import os
import signal
import subprocess
import sys
import time

from ae_lib import data
from ae_lib import run as runs
from ae_lib.study import cells

import nbformat
import numpy as np
import psutil
import pytest

NOTEBOOK = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Words

# %% tags=["parameters"]
profile: str = "mnist"  # folder
dataset: str = "mnist"  # not loaded
seed: int = 0  # of everything
action: str = "succeed"  # what happens

# %%
import os, time
from pathlib import Path
from ae_lib import run as runs
run = runs.Run(profile, "02_train")
if action == "fail":
    raise ZeroDivisionError("nothing to divide by")
if action == "die":
    os.kill(os.getpid(), 9)
if action.startswith("sleep"):
    Path(action.split()[1]).write_text(f"{os.getpid()} {run.folder.parents[1]}")
    for n in range(60_000):  # writing, as a training does after each epoch
        (run.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run.folder / "checkpoints" / str(n)).touch()
        time.sleep(0.001)
run.new_artifact("model.keras").write_bytes(b"weights")
run.finish({"dense.test.mse": 0.1 + seed, "threads": int(os.environ["OMP_NUM_THREADS"])})
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A project with one small notebook."""
    path = tmp_path / "notebooks" / "02_train.py"
    path.parent.mkdir()
    path.write_text(NOTEBOOK)
    monkeypatch.setattr(profiles, "FOLDER", path.parent)
    cells.notebook_text.cache_clear()
    yield path
    cells.notebook_text.cache_clear()


def cell(environment=None, minutes=1.0, **parameters):
    own = {"profile": "words", "dataset": "mnist", "seed": 3, "action": "succeed", **parameters}
    return cells.make(
        {"seed": own["seed"]}, {"02_train": own}, environment or cells.threads(1), minutes
    )


def test_a_cell_gives_metrics_notebook_and_models_without_the_scripts(script):
    some = cell()
    script.unlink()  # another machine has none
    outcome = cells.run(some, with_models=True)
    assert (outcome["status"], outcome["error"]) == ("done", "")
    assert outcome["metrics"] == {"dense.test.mse": 3.1, "threads": 1.0}
    assert outcome["models"] == {"model.keras": b"weights"}
    assert list(outcome["notebooks"]) == ["02_train.ipynb"]
    executed = nbformat.reads(outcome["notebooks"]["02_train.ipynb"], 4)
    assert executed.metadata["study"]["parameters"]["seed"] == 3
    assert cells.run(cell(environment=cells.threads(2)))["metrics"]["threads"] == 2
    assert cells.run(some)["models"] is None


def test_a_failed_cell_gives_a_sentence_the_traceback_and_the_notebook(script):
    outcome = cells.run(cell(action="fail"))
    assert outcome["status"] == "failed"
    assert outcome["error"].startswith("02_train failed. ZeroDivisionError: nothing to divide by")
    assert "\n" not in outcome["error"]
    assert "----> " in outcome["traceback"]
    assert "\x1b" not in outcome["traceback"]
    assert "nothing to divide by" in outcome["notebooks"]["02_train.failed.ipynb"]


@pytest.mark.parametrize(
    ("minutes", "action", "message"),
    [
        (1.0, "die", "Its kernel died"),
        (0.2, "sleep", "It took longer than 0.2 minutes; expected less"),
    ],
)
def test_a_cell_that_dies_or_sleeps_has_failed(script, tmp_path, minutes, action, message):
    action = f"{action} {tmp_path / 'begun'}" if action == "sleep" else action
    outcome = cells.run(cell(minutes=minutes, action=action))
    assert (outcome["status"], message in outcome["error"]) == ("failed", True)
    if action.startswith("sleep"):
        assert list(outcome["notebooks"]) == ["02_train.failed.ipynb"], "as far as it came"
        kernel, folder = (tmp_path / "begun").read_text().split()
        wait_until(lambda: not psutil.pid_exists(int(kernel)))
        assert not runs.Path(folder).exists()


def test_a_process_killed_by_the_system_is_told_with_its_last_words(tmp_path):
    (tmp_path / "log").write_text("a warning\n")
    assert "code -9, most likely for want of memory" in cells._said(tmp_path, -9)
    assert cells._said(tmp_path, -9).endswith("a warning\n")
    assert cells._said(tmp_path, 0) == ""


def test_a_cell_has_the_environment_of_the_machine_that_made_it(script, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    some = cell()
    assert some.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert cell().fingerprint != some.fingerprint
    free = cells.Cell(some.point, some.parameters, {}, 1.0, some.notebooks, some.code, some.md5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Dask does for its workers
    assert "KeyError: 'OMP_NUM_THREADS'" in cells.run(free)["error"], "a cell without caps has none"


def test_nothing_of_a_cell_outlives_the_process_that_runs_it(script, tmp_path):
    begun = tmp_path / "begun"
    (tmp_path / "worker.py").write_text(
        "from ae_lib import cells, profiles\n"
        f"profiles.FOLDER = __import__('pathlib').Path({str(script.parent)!r})\n"
        f"own = {{'profile': 'words', 'dataset': 'mnist', 'seed': 0, 'action': 'sleep {begun}'}}\n"
        "cells.run(cells.make({}, {'02_train': own}, cells.threads(1)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(runs.PROJECT)}
    worker = subprocess.Popen([sys.executable, tmp_path / "worker.py"], env=environment)
    wait_until(lambda: begun.is_file() and begun.read_text())
    kernel, folder = begun.read_text().split()
    assert runs.Path(folder).is_dir()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not psutil.pid_exists(int(kernel)) and not runs.Path(folder).exists())


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_fingerprint_depends_on_what_changes_numbers_and_on_nothing_else(script, monkeypatch):
    first = cell().fingerprint
    assert cell(profile="another", minutes=2.0).fingerprint == first
    assert cell(seed=4).fingerprint != first
    assert cell(environment=cells.threads(2)).fingerprint != first
    for text, same in [
        (NOTEBOOK.replace("# Words", "# Other words"), True),
        (NOTEBOOK.replace("0.1 +", "0.2 +"), False),
    ]:
        script.write_text(text)
        cells.notebook_text.cache_clear()
        assert (cell().fingerprint == first) is same
    script.write_text(NOTEBOOK)
    cells.notebook_text.cache_clear()
    monkeypatch.setattr(cells, "library", lambda: "another")
    assert cell().fingerprint != first


def test_library_is_told_by_its_code_not_by_its_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "__file__", str(tmp_path / "cells.py"))

    def told(text, name="data.py"):
        (tmp_path / name).write_text(text)
        cells.library.cache_clear()
        return cells.library()

    first = told("x = 1\n")
    assert told('"""Of x."""\nx  =  1  # a comment\n') == first
    assert told("y = 1\n", "report.py") == first, "what calls the notebooks changes no result"
    assert told("x = 2\n") != first
    monkeypatch.undo()
    cells.library.cache_clear()


@pytest.mark.parametrize(
    ("key", "message"), [("code", "has another ae_lib"), ("md5", "images under the name mnist")]
)
def test_a_machine_with_another_library_or_other_data_refuses(script, key, message):
    some = cell()
    changed = {**vars(some), key: "another" if key == "code" else {"mnist": {"x_train": "0"}}}
    outcome = cells.run(
        cells.Cell(**{name: changed[name] for name in cells.Cell.__dataclass_fields__})
    )
    assert (outcome["status"], message in outcome["error"]) == ("failed", True)


def test_ones_own_images_are_told_apart(script, data_dir, arrays):
    np.savez(data_dir / "mine.npz", **arrays)
    cells.md5_of.cache_clear()
    first = cell(dataset="mine").fingerprint
    np.savez(data_dir / "mine.npz", **{**arrays, "x_train": 255 - arrays["x_train"]})
    cells.md5_of.cache_clear()
    assert cell(dataset="mine").fingerprint != first


def test_mnist_is_told_without_being_there():
    assert cells.md5_of("mnist") == data.MNIST_MD5


@pytest.mark.parametrize(
    ("point", "start"),
    [
        ({"latent_dim": 8, "seed": 0}, "latent_dim=8_seed=0-"),
        ({"hidden": [256, 128], "rate": -0.5}, "hidden=256_128_rate=-0.5-"),
        ({"name": "../up/" + "x" * 300}, "name=..upxxx"),
        ({}, "-"),
    ],
)
def test_a_cell_is_named_by_its_point_in_letters_that_every_folder_takes(point, start):
    name = cells.Cell(point, {}, {}, 1.0, {}, "", {}).name
    assert name.startswith(start)
    assert "/" not in name
    assert len(name) < 120
