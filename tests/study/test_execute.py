"""One notebook in one process: what it gets, how it fails, and that it ends with its parent."""

import json
import os
import shutil
import subprocess
import time

from ae_lib import StudyError
from ae_lib.run import read_json
from ae_lib.study import execute, graph
from tests.study import small_project as small
from tests.study.conftest import STARTED_WITH

import nbformat
import numpy as np
import pytest


@pytest.fixture
def task(new_project):
    """The task of a small notebook."""
    return execute.make_tasks(graph.load_profile("small")).__getitem__


@pytest.fixture
def empty(new_project):
    """The folder of a run that was never started."""
    return new_project / "reports" / "small"


# ------------------------------ what it gets
def test_a_notebook_gets_its_profiles_parameters_and_its_copy_says_what_it_depends_on(folder):
    notebook = nbformat.read(folder / "02_train.ipynb", 4)
    parameters = {"profile": "small", "seed": 0, "epochs": 4, "rate": 0.1, "sizes": [1]}
    assert notebook.metadata["study"]["parameters"] == parameters
    assert len(notebook.metadata["study"]["fingerprint"]) == 64
    assert notebook.metadata["study"]["seconds"] > 0
    assert read_json(folder / "artifacts" / "02_train" / "model.json") == 4
    injected = [
        c.source for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", [])
    ]
    assert len(injected) == 1
    assert "rate" not in injected[0], "what is the default is not injected"


def test_cells_that_need_classes_say_why_they_are_left_out(new_project, empty, data_dir, arrays):
    np.save(data_dir / "mine.npy", arrays["x_train"])
    script = new_project / "notebooks" / "02_train.py"
    small.replace(script, "rate: float", 'dataset: str = "mine.npy"  # images\nrate: float')
    script.write_text(script.read_text() + '\n# %% tags=["classes"]\nraise KeyError("a class")\n')
    execute.execute(execute.make_tasks(graph.load_profile("small"))["02_train"], empty, {})
    notebook = nbformat.read(empty / "02_train.ipynb", 4)
    reason = "it needs two classes in every split, and there are 1"
    assert notebook.metadata["study"]["left_out"] == reason
    assert notebook.cells[-1].outputs[0]["text"] == f"left out: {reason}\n"


def test_the_executed_copy_keeps_no_trace_of_papermill(folder):
    for path in folder.glob("*.ipynb"):
        notebook = nbformat.read(path, 4)
        assert "papermill" not in notebook.metadata
        assert not any({"papermill", "execution"} & set(cell.metadata) for cell in notebook.cells)
    assert not list(folder.glob("*.failed.*"))


def test_a_notebook_has_the_devices_of_its_machine_capped_threads_and_shares_a_gpu(folder):
    environment = read_json(folder / "artifacts" / "01_preprocess" / "environment.json")
    assert environment["CUDA_VISIBLE_DEVICES"] == STARTED_WITH["CUDA_VISIBLE_DEVICES"]
    assert environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert environment["AE_MAY_READ"] == ""
    for name in execute.THREADS:  # two notebooks side by side share the cores
        assert environment[name] == str(max(1, (os.cpu_count() or 1) // 2))


def test_a_notebook_that_many_wait_for_has_all_cores_and_nothing_beside_it(tmp_path, monkeypatch):
    after = dict.fromkeys("abc", ["awaited"])
    needs = {"first": [], "awaited": [], "later": ["a"], **after, "other": []}
    tasks = {name: {"name": name, "fingerprint": name} for name in needs}
    monkeypatch.setattr(graph, "NEEDS", needs)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(execute, "make_tasks", lambda profile: tasks)
    monkeypatch.setattr(execute, "out_of_date", lambda *_: list(tasks))
    threads, begun, ended, told = {}, [], [], {}

    def execute_nothing(task, folder, environment, tell):
        threads[task["name"]] = set(environment.values())
        begun.append(task["name"])
        assert task["name"] in ("first", "awaited") or "awaited" in ended
        time.sleep(0.5 if task["name"] == "b" else 0.1)
        ended.append(task["name"])
        return 0.0

    monkeypatch.setattr(execute, "execute", execute_nothing)
    profile = graph.Profile("small", {name: {} for name in needs})

    def done(name, seconds, left, idle):
        told[name] = len(left), idle
        if name == "awaited":  # no core waits while its pages are written
            small.wait_until(lambda: "a" in begun)

    execute.bring_up_to_date(profile, tmp_path, 2, done, lambda *_: None)
    assert sorted(ended) == sorted(needs)
    assert sorted(count for count, _ in told.values()) == list(range(len(needs)))
    assert not told["first"][1], "another is ready, though it waits for the awaited one"
    assert (0, True) in told.values()
    assert begun[4] == "later"  # ready after a, and before c in the order
    assert threads == {name: {"8" if name == "awaited" else "4"} for name in needs}


def test_seconds_are_those_of_the_last_heading_wherever_it_stands_in_its_cell():
    def cell(begun, ended):
        times = {"iopub.execute_input": begun, "shell.execute_reply": ended}
        stamps = {name: f"2026-01-01T00:00:{second:02}+00:00" for name, second in times.items()}
        return nbformat.v4.new_code_cell(metadata={"execution": stamps})

    headings = ["# Title", "## One\n\nText.", "More.\n\n## Two\n\nText.\n\n### Less"]
    texts = map(nbformat.v4.new_markdown_cell, headings)
    cells = [
        x for pair in zip(texts, [cell(0, 1), cell(1, 3), cell(3, 7)], strict=True) for x in pair
    ]
    notebook = nbformat.v4.new_notebook(cells=[*cells, cell(7, 8)])
    assert execute.seconds_by_section(notebook) == {"": 1, "One": 2, "Two": 5}
    assert not any(cell.metadata for cell in notebook.cells)


def test_threads_are_capped_and_nothing_else_is_set():
    assert set(execute.threads(2)) == set(execute.THREADS)
    assert set(execute.threads(2).values()) == {"2"}
    assert {"TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"} <= set(execute.THREADS)


def test_a_task_says_whose_artifacts_its_notebook_may_read(task):
    assert list(task("03_evaluate")["needed"]) == ["02_train"]
    assert task("03_evaluate")["needed"]["02_train"] == task("02_train")["fingerprint"]
    assert task("01_preprocess")["needed"] == {}


# ------------------------------ what it does not get
SEEN = """
# %%
import ae_lib.models, keras, matplotlib
print(json.dumps({
    "usetex": matplotlib.rcParams["text.usetex"],
    "figures": "inline" in matplotlib.get_backend(),
    "keras": keras.config.backend(),
    "types": [keras.config.floatx(), keras.config.dtype_policy().name],
    "layout": keras.layers.Conv2D(1, 1).data_format,
    "epsilon": keras.config.epsilon(),
    "startup": "startup" in globals(),
    "text": open(os.devnull).encoding,
    "trims": "MALLOC_TRIM_THRESHOLD_" in os.environ,
}))
"""
CLEAN = {
    "usetex": False,
    "figures": True,
    "keras": "tensorflow",
    "types": ["float32", "float32"],
    "layout": "channels_last",
    "epsilon": 1e-7,
    "startup": False,
    "text": "utf-8",
    "trims": False,
}


@pytest.fixture
def configured_home(tmp_path, monkeypatch):
    """A home that configures all that a kernel reads, and an environment that does so as well."""
    keras = {"floatx": "float64", "image_data_format": "channels_first", "epsilon": 0.1}
    nothing = {"argv": ["/bin/false"], "display_name": "Nothing", "language": "python"}
    files = {
        ".config/matplotlib/matplotlibrc": "text.usetex: True\n",
        ".ipython/profile_default/startup/00.py": "startup = 1\n",
        ".ipython/profile_default/startup/01.py": "raise SystemExit\n",
        ".keras/keras.json": json.dumps({**keras, "backend": "jax"}),
        ".local/share/jupyter/kernels/python3/kernel.json": json.dumps(nothing),
    }
    home = tmp_path / "home"
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    environment = {
        "HOME": home,
        "IPYTHONDIR": home / ".ipython",
        "JUPYTER_DATA_DIR": home / ".local/share/jupyter",
        "JUPYTER_PATH": home / ".local/share/jupyter",
        "JUPYTER_PREFER_ENV_PATH": "0",
        "KERAS_BACKEND": "jax",
        "KERAS_HOME": home / ".keras",
        "LC_ALL": "C",
        "MALLOC_TRIM_THRESHOLD_": "65536",  # as in a worker of Dask
        "MATPLOTLIBRC": home / ".config/matplotlib/matplotlibrc",
        "MPLBACKEND": "Agg",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "latin-1",
        "PYTHONSTARTUP": home / ".ipython/profile_default/startup/01.py",
        "PYTHONUTF8": "0",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("without", [[], ["HOME", "MATPLOTLIBRC", "IPYTHONDIR"]])
def test_a_kernel_sees_nothing_of_what_the_user_has_configured(
    new_project, configured_home, empty, monkeypatch, without
):
    for name in without:
        monkeypatch.delenv(name)
    path = graph.FOLDER / "01_preprocess.py"
    path.write_text(path.read_text() + SEEN)
    task, said = execute.make_tasks(graph.load_profile("small"))["01_preprocess"], []
    execute.execute(task, empty, {}, lambda name, text: said.append(text))
    assert json.loads("".join(said)) == CLEAN


# ------------------------------ how it may fail
def test_a_notebook_that_reads_what_the_graph_does_not_name_fails(
    task, empty, finished_project, monkeypatch
):
    shutil.copytree(finished_project / "reports" / "small", empty)
    monkeypatch.setenv(small.ACTION, "read")
    with pytest.raises(
        StudyError,
        match="01_preprocess failed. 01_preprocess reads 02_train/model.json, and NEEDS in "
        r"ae_lib/study/graph.py does not say so; expected 02_train in its line: add it\.",
    ):
        execute.execute(task("01_preprocess"), empty, {})


def test_a_notebook_before_the_one_it_needs_says_so_and_the_next_good_run_clears_up(
    task, empty, finished_project
):
    with pytest.raises(StudyError, match="02_train/model.json is missing; .*: run 02_train first"):
        execute.execute(task("03_evaluate"), empty, {})
    assert not (empty / "03_evaluate.ipynb").exists()
    assert (empty / "03_evaluate.failed.ipynb").exists()
    assert (empty / "03_evaluate.failed.log").exists()
    made = finished_project / "reports" / "small" / "artifacts" / "02_train"
    shutil.copytree(made, empty / "artifacts" / "02_train")
    said = []
    seconds = execute.execute(task("03_evaluate"), empty, {}, lambda *what: said.append(what))
    assert seconds > 0
    assert said == [("03_evaluate", "epochs 4\n")]
    assert not list(empty.glob("*.failed.*"))
    assert not list(empty.glob(".*"))


def test_a_notebook_that_takes_too_long_is_ended_with_its_kernel(
    task, empty, tmp_path, monkeypatch
):
    monkeypatch.setenv(small.MARK, str(tmp_path))
    monkeypatch.setenv(small.ACTION, f"sleep {tmp_path / 'begun'}")
    with pytest.raises(StudyError, match="02_train failed. It took longer than 0.05 minutes"):
        execute.execute(task("02_train"), empty, {}, minutes=0.05)
    monkeypatch.delenv(small.MARK)
    small.wait_until(lambda: not small.alive(tmp_path))


@pytest.mark.parametrize("key", ["fingerprint", "notebook"])
def test_a_machine_with_another_library_or_another_notebook_refuses(task, empty, key):
    other = {"fingerprint": "another", "notebook": task("01_preprocess")["notebook"]}
    with pytest.raises(StudyError, match="This process sees another ae_lib, other packages or"):
        execute.execute({**task("02_train"), key: other[key]}, empty, {})
    assert not (empty / "02_train.ipynb").exists()


def test_a_dead_kernel_is_one_sentence_and_takes_no_sibling_along(new_project, empty, monkeypatch):
    monkeypatch.setenv(small.ACTION, "die")
    finished = []
    with pytest.raises(StudyError, match="02_train failed. Its kernel died without a message"):
        execute.bring_up_to_date(
            graph.load_profile("small"), empty, 2,
            done=lambda name, *_: finished.append(name),
            tell=lambda name, text: None,
        )  # fmt: skip
    assert finished == ["01_preprocess"], "03_evaluate waits for 02_train"
    assert (empty / "01_preprocess.ipynb").is_file()


def test_after_a_failure_no_other_notebook_is_started(new_project, empty, monkeypatch):
    def fail(task, *_):
        started.append(task["name"])
        raise StudyError(f"{task['name']} failed.")

    started = []
    monkeypatch.setattr(execute, "execute", fail)
    with pytest.raises(StudyError, match=r"^01_preprocess failed\.$"):
        execute.bring_up_to_date(graph.load_profile("small"), empty, 1, done=None, tell=None)
    assert started == ["01_preprocess"]


# ------------------------------ a run's folder
def test_one_run_at_a_time_and_the_next_when_it_has_ended(empty):
    with execute.locked_folder("small") as folder:
        assert folder == empty
        with pytest.raises(StudyError, match="small is in use by another run; .*: wait until"):
            execute.locked_folder("small").__enter__()
        with execute.locked_folder("another"):
            pass
    with execute.locked_folder("small"):
        pass


def test_the_lock_works_where_there_is_no_fcntl(empty, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    with execute.locked_folder("small") as folder:
        assert folder.is_dir()


def test_leftovers_of_killed_processes_go_and_those_of_open_notebooks_stay(tmp_path):
    stages = {number: tmp_path / f".02_train.{number}.stage" for number in (os.getpid(), 2**22 + 1)}
    for stage in stages.values():
        (stage / "artifacts").mkdir(parents=True)
    for name in (".metrics.json.4194305.tmp", "02_train.ipynb"):
        (tmp_path / name).touch()
    execute.remove_leftovers(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {stages[os.getpid()].name, "02_train.ipynb"}


def test_a_process_that_has_ended_and_is_not_collected_leaves_leftovers_too(tmp_path):
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        leftover = tmp_path / f".02_train.{process.pid}.stage"
        leftover.mkdir()
        execute.remove_leftovers(tmp_path)
        assert not leftover.exists()


def test_provenance_names_versions_and_machine():
    facts = execute.provenance()
    assert facts["packages"]["tensorflow"].startswith("2.")
    assert facts["cores"] >= 1
    assert facts["cpu"]


@pytest.mark.skipif(not shutil.which("git"), reason="git is missing")
def test_the_commit_is_the_projects_own_and_none_of_a_repository_around_it(tmp_path, monkeypatch):
    def git(*command):
        who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        done = subprocess.run(["git", *who, *command], cwd=tmp_path, capture_output=True, text=True)
        return done.stdout.strip()

    inner = tmp_path / "unpacked"
    inner.mkdir()
    monkeypatch.setattr(execute, "PROJECT", tmp_path)
    assert execute.git_commit() is None, "no repository"
    git("init")
    (tmp_path / "file").touch()
    git("add", "file")
    git("commit", "--message", "first")
    git("tag", "--annotate", "v1", "--message", "a release")
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40
    assert execute.git_commit() == commit
    (tmp_path / "file").write_text("changed")
    assert execute.git_commit() == f"{commit}-dirty"
    monkeypatch.setattr(execute, "PROJECT", inner)
    assert execute.git_commit() is None
    monkeypatch.setattr(execute, "PROJECT", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert execute.git_commit() is None, "no git"
