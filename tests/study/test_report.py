"""From profile to report, at the command line, with three small notebooks instead of the study's."""

import functools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ae_lib import StudyError, data
from ae_lib import run as runs
from ae_lib.metrics import Interval
from ae_lib.study import graph, report, site

import pytest

HEADER = "# ---\n# jupyter:\n#   kernelspec:\n#     display_name: Python 3\n#     language: python\n#     name: python3\n# ---\n"
PARAMETERS = (
    '\n# %% tags=["parameters"]\nprofile: str = "mnist"  # folder\nseed: int = 0  # of everything\n'
)
BODIES = {
    "01_preprocess": """
facts = {"name": "small", "title": "small (not MNIST)", "source": "a test", "md5": {"x_train": "0"}}
runs.write_json(run.new_artifact("data.json"), facts | {"training": 1, "validation": 1, "test": 1})
print(run.finish({"data.test.entropy_floor": 0.5}))
""",
    "02_train": """
print(f"epoch 10/10  loss {rate}")
if os.environ.get("SMALL_FAILS"):
    raise ZeroDivisionError("nothing to divide by")
if epochs < 1:
    raise StudyError(f"epochs is {epochs}; expected a whole number of at least 1: change it.")
if os.environ.get("SMALL_DIES"):
    os.kill(os.getpid(), 9)
if os.environ.get("SMALL_SLEEPS"):
    open(os.environ["SMALL_SLEEPS"], "w").write(str(os.getpid()))
    time.sleep(60)
run.new_artifact("model.txt").write_text(f"epochs {epochs}")
run.finish({"dense.val.bce": 0.1})
""",
    "03_evaluate": """
run.artifact("model.txt", made_by="02_train")
runs.write_json(run.new_artifact("verdicts.json"), {"mse": "yes"})
claims = [("It is small", "0.5 [0.4, 0.6]", "PCA 0.7", "yes")]
run.finish({"dense.test.mse": 0.5, "dense.test.mse.low": 0.4, "dense.test.mse.high": 0.6}, claims)
""",
}


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory):
    """A project of the same form, after one good run: the library itself, small notebooks, two profiles."""
    root = tmp_path_factory.mktemp("finished") / "project"
    (root / "notebooks" / "params").mkdir(parents=True)
    (root / "ae_lib").symlink_to(runs.PROJECT / "ae_lib", target_is_directory=True)
    for name, body in BODIES.items():
        more = (
            "epochs: int = 3  # passes\nrate: float = 0.1  # speed\n" if name == "02_train" else ""
        )
        start = f'\n# %%\nimport os, time\nfrom ae_lib import StudyError, runs\nrun = runs.Run(profile, "{name}")\n'
        text = f"{HEADER}\n# %% [markdown]\n# # Title of {name}\n{PARAMETERS}{more}{start}{body}"
        (root / "notebooks" / f"{name}.py").write_text(text)
    (root / "notebooks" / "params" / "mnist.yaml").write_text("all:\n  seed: 0\n")
    (root / "notebooks" / "params" / "small.yaml").write_text("02_train:\n  epochs: 4\n")
    process = command(root, "small")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return root


def command(root, *arguments, limit=None, **environment):
    """Start ``python -m ae_lib.study.report`` in a project."""
    variables = {**os.environ, "PYTHONPATH": str(root), "AE_REPORTS_DIR": "reports", **environment}
    if limit:  # coverage could not write either
        variables = {name: value for name, value in variables.items() if not name.startswith("COV")}
    return subprocess.Popen(
        [sys.executable, "-m", "ae_lib.study.report", *arguments],
        cwd=root, env={k: str(v) for k, v in variables.items()}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=limit,
    )  # fmt: skip


@pytest.fixture
def project(finished_project, tmp_path):
    """A copy, to be changed by one test."""
    return shutil.copytree(finished_project, tmp_path / "project", symlinks=True)


@pytest.fixture
def good(project):
    return contents(project / "reports" / "small")


@pytest.fixture
def start(project):
    return functools.partial(command, project)


@pytest.fixture
def make(start):
    def make(*arguments, **environment):
        process = start(*arguments, **environment)
        _, errors = process.communicate(timeout=120)
        assert "Traceback" not in errors
        return process.returncode, errors

    return make


def contents(folder):
    kept = [
        p
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".") and ".failed." not in p.name
    ]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def ran(errors):
    return re.findall(r"^(\w+)  done", errors, re.M)


def test_a_run_makes_the_whole_folder(project, good):
    assert set(good) >= {
        "index.html",
        "metrics.json",
        "run.json",
        "artifacts/model.txt",
        "03_evaluate.html",
    }
    assert good["artifacts/model.txt"] == b"epochs 4"
    run = runs.read_json(project / "reports" / "small" / "run.json")
    assert run["parameters"]["02_train"] == {
        "profile": "small",
        "seed": 0,
        "epochs": 4,
        "rate": 0.1,
    }
    assert set(run["seconds"]) == set(BODIES)
    assert run["seeds"]["02_train"] == 0
    assert run["packages"]["keras"]
    assert not list((project / "reports" / "small").glob("*.failed.*"))


def test_pages_say_at_once_that_they_are_not_mnist_and_load_nothing(good):
    for name in ("index.html", *(f"{n}.html" for n in BODIES)):
        page = good[name].decode()
        assert "These are not MNIST's results" in page[page.index("</nav>") :][:200]
        assert not re.search(r"<(?:script|link|iframe)|(?:src|url)[=(][\"']?(?:https?:)?//", page)


def test_front_page_lists_each_claim_with_its_baseline_and_verdict(good):
    row = ["It is small", "0.5 [0.4, 0.6]", "PCA 0.7", "yes"]
    assert (
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        in good["index.html"].decode()
    )


def test_second_run_does_nothing_and_a_touched_notebook_runs_alone(project, make, good):
    before = {
        p: p.stat().st_mtime_ns for p in (project / "reports" / "small").iterdir() if p.is_file()
    }
    code, errors = make("small")
    assert (code, ran(errors)) == (0, [])
    assert "up to date" in errors
    time.sleep(0.05)
    os.utime(project / "notebooks" / "03_evaluate.py")
    code, errors = make("small")
    assert (code, ran(errors)) == (0, ["03_evaluate"])
    changed = {
        p.name
        for p, when in before.items()
        if p.stat().st_mtime_ns != when and not p.name.startswith(".")
    }
    assert changed == {
        "03_evaluate.ipynb",
        "03_evaluate.html",
        "metrics.json",
        "run.json",
        "index.html",
    }


def test_front_page_has_a_row_for_each_model_autoencoders_first_in_the_studys_order():
    models = ("mean", "conv", "vae", "pca", "dense", "another")
    found = {f"{model}.test.mse{end}": 0.5 for model in models for end in ("", ".low", ".high")}
    found |= {"dense.latent_dim": 32.0, "dense.test.ssim": 0.9, "dense.val.bce": 0.1}
    rows = site.results_table(found)
    assert [model for model, _, _ in rows] == ["dense", "conv", "vae", "another", "pca", "mean"]
    assert rows[0][1:] == (32, [None, None, Interval(0.5, 0.5, 0.5), None, None, None])
    assert rows[1][1] is None


def test_front_page_says_whose_verdicts_it_shows(good):
    assert re.search(
        r"dense better than pca_clipped\?</td>(<td></td>){2}<td>yes</td>",
        good["index.html"].decode(),
    )


def test_a_run_without_a_notebook_leaves_out_what_needs_it_and_writes_no_pages(project, make, good):
    for script in (project / "notebooks").glob("*.py"):
        os.utime(script)
    code, errors = make("small", "--without", "02_train")
    assert (code, ran(errors)) == (0, ["01_preprocess"])
    assert "reports/small has no pages of this run, which left out 02_train, 03_evaluate" in errors
    after = contents(project / "reports" / "small")
    assert after["index.html"] == good["index.html"]
    code, errors = make("small")
    assert (code, ran(errors)) == (0, ["02_train", "03_evaluate"])


def test_leaving_out_a_notebook_that_does_not_exist_is_one_sentence():
    needs = {"01_preprocess": set(), "02_train": {"01_preprocess"}, "03_evaluate": {"02_train"}}
    assert report.left_out(needs, ["02_train"]) == {"02_train", "03_evaluate"}
    assert report.left_out(needs, []) == set()
    with pytest.raises(
        StudyError, match="no notebook '02' to leave out; expected one of 01_preprocess, 02_train"
    ):
        report.left_out(needs, ["02"])


def test_notebooks_side_by_side_wait_for_what_they_need(project, make):
    for script in (project / "notebooks").glob("*.py"):
        os.utime(script)
    code, errors = make("small", "--jobs", "2")
    assert code == 0
    events = re.findall(r"^(\w+)  (running|done)", errors, re.M)
    assert set(events[:2]) == {("01_preprocess", "running"), ("02_train", "running")}
    assert events.index(("03_evaluate", "running")) > events.index(("02_train", "done"))


def test_results_changed_in_jupyterlab_or_lost_are_made_again(project, good, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", project / "notebooks")
    monkeypatch.setattr(report, "FOLDER", project / "notebooks")
    monkeypatch.setattr(profiles, "PARAMS", project / "notebooks" / "params")
    folder, parameters = project / "reports" / "small", graph.load_profile("small")
    assert report.out_of_date("small", parameters, folder) == []
    other = {**parameters, "03_evaluate": {**parameters["03_evaluate"], "seed": 1}}
    assert report.out_of_date("small", other, folder) == ["03_evaluate"]
    os.utime(folder / "artifacts" / "03_evaluate.metrics.json")
    assert report.out_of_date("small", parameters, folder) == ["03_evaluate"]
    (folder / "artifacts" / "02_train.metrics.json").unlink()
    assert report.out_of_date("small", parameters, folder) == ["02_train", "03_evaluate"]


def test_a_notebook_that_reads_a_sweep_is_made_again_when_its_table_changes(project, make):
    script, table = (
        project / "notebooks" / "03_evaluate.py",
        project / "reports" / "sweeps" / "some" / "results.csv",
    )
    text = script.read_text()
    script.write_text(
        text.replace("seed: int", 'sweep: str = "some"\nseed: int', 1)
        + "print(runs.sweep_table(sweep))\n"
    )
    code, errors = make("small")
    assert (code, ran(errors)) == (1, [])
    assert (
        "error: There are no results of the sweep 'some': run make sweep SWEEP=some first."
        in errors
    )
    table.parent.mkdir(parents=True)
    for _ in range(2):
        table.touch()
        assert ran(make("small")[1]) == ["03_evaluate"]
    assert ran(make("small")[1]) == []


def test_a_notebook_that_shows_published_values_is_made_again_when_these_change(
    project, monkeypatch
):
    monkeypatch.setattr(profiles, "FOLDER", project / "notebooks")
    monkeypatch.setattr(report, "FOLDER", project / "notebooks")
    monkeypatch.setattr(profiles, "PARAMS", project / "notebooks" / "params")
    monkeypatch.setattr(runs, "REFERENCE", project)
    folder, script = project / "reports" / "small", project / "notebooks" / "03_evaluate.py"
    before = script.stat()
    script.write_text(script.read_text() + "runs.reference(profile)\n")
    os.utime(script, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert report.out_of_date("small", graph.load_profile("small"), folder) == []
    (project / "small.json").write_text("{}")
    assert report.out_of_date("small", graph.load_profile("small"), folder) == ["03_evaluate"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "02_train:\n  epoch: 4\n",
            "sets 'epoch' in section 02_train, which has no such parameter; expected one of epochs",
        ),
        ("all:\n  latent: 4\n", "sets 'latent' in section all"),
        (
            "02_train:\n  epochs: four\n",
            "sets epochs in section 02_train to 'four', which is str; expected int",
        ),
        ("02_train:\n  epochs: true\n", "to True, which is bool; expected int"),
        (
            "02_train:\n  rate: 1e-3\n",
            "which is str; expected float (YAML reads 1e-3 as text: write 1.0e-3)",
        ),
        (
            "all:\n  seed: -1\n",
            "sets seed in section all to -1; expected a whole number of at least 0",
        ),
        ("02_train:\n  profile: other\n", "sets 'profile' in section 02_train"),
        (
            "2_train:\n  epochs: 4\n",
            "has a section '2_train'; expected all or one of 01_preprocess",
        ),
        ("02_train: 4\n", "must map notebook names to parameters"),
        ("02_train: [\n", "is not valid YAML"),
    ],
)
def test_mistakes_in_a_profile_are_refused_before_anything_runs(
    project, good, monkeypatch, capsys, content, message
):
    monkeypatch.setattr(profiles, "FOLDER", project / "notebooks")
    monkeypatch.setattr(profiles, "PARAMS", project / "notebooks" / "params")
    monkeypatch.setenv("AE_REPORTS_DIR", str(project / "reports"))
    (project / "notebooks" / "params" / "small.yaml").write_text(content)
    assert report.main(["small"]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert contents(project / "reports" / "small") == good


@pytest.fixture
def with_models(project, monkeypatch):
    """The project with a notebook that makes another model, after one that reads a model by its parameter."""
    monkeypatch.setattr(profiles, "FOLDER", project / "notebooks")
    monkeypatch.setattr(profiles, "PARAMS", project / "notebooks" / "params")
    reads = f'{HEADER}{PARAMETERS}model: str = "dense"  # name\n\n# %%\nrun.trained(model)\n'
    (project / "notebooks" / "04_error_maps.py").write_text(reads)
    (project / "notebooks" / "09_train_convolutional.py").write_text(f"{HEADER}{PARAMETERS}")
    return project / "notebooks"


def test_a_notebook_needs_the_one_that_makes_its_model(with_models):
    assert list(graph.notebooks("small")) == [*BODIES, "04_error_maps", "09_train_convolutional"]
    assert graph.notebooks("small")["04_error_maps"] == {"02_train"}
    small = with_models / "params" / "small.yaml"
    small.write_text("all:\n  model: conv\n")
    needs = graph.notebooks("small", graph.load_profile("small"))
    assert list(needs) == [*BODIES, "09_train_convolutional", "04_error_maps"]
    assert needs["04_error_maps"] == {"09_train_convolutional"}
    small.write_text("all:\n  model: convolutional\n")
    with pytest.raises(
        StudyError,
        match="sets model in section all to 'convolutional'; expected one of dense, scheduled",
    ):
        graph.load_profile("small")


def test_another_model_makes_its_notebooks_stale(with_models, monkeypatch):
    folder, parameters = with_models.parent / "reports" / "small", graph.load_profile("small")
    monkeypatch.setattr(report, "FOLDER", with_models)
    for name in ("04_error_maps", "09_train_convolutional"):
        runs.write_json(folder / "artifacts" / f"{name}.metrics.json", {})
        runs.write_json(
            folder / f"{name}.ipynb", {"metadata": {"study": {"parameters": parameters[name]}}}
        )
    assert report.out_of_date("small", parameters, folder) == []
    parameters["04_error_maps"]["model"] = "conv"
    assert report.out_of_date("small", parameters, folder) == ["04_error_maps"]
    (folder / "09_train_convolutional.ipynb").unlink()
    assert report.out_of_date("small", parameters, folder) == [
        "09_train_convolutional",
        "04_error_maps",
    ]


def test_notebooks_that_wait_for_each_other_are_refused(with_models):
    parameters = graph.load_profile("small")
    parameters["04_error_maps"]["model"] = "vae"
    with pytest.raises(
        StudyError,
        match="04_error_maps needs 10_train_variational, which cannot be executed before it",
    ):
        graph.notebooks("small", parameters)
    maker = with_models / "09_train_convolutional.py"
    maker.write_text(
        maker.read_text() + '\n# %%\nrun.artifact("verdicts.json", made_by="04_error_maps")\n'
    )
    parameters["04_error_maps"]["model"] = "conv"
    with pytest.raises(
        StudyError,
        match="04_error_maps needs 09_train_convolutional, which cannot be executed before",
    ):
        graph.notebooks("small", parameters)


def test_unknown_profile_is_refused(project, make, good):
    code, errors = make("smal")
    assert code == 1
    assert "There is no profile 'smal'; expected one of mnist, small" in errors
    assert contents(project / "reports" / "small") == good


def test_bad_value_in_a_notebook_is_one_sentence(project, make, good):
    (project / "notebooks" / "params" / "small.yaml").write_text("02_train:\n  epochs: -1\n")
    code, errors = make("small")
    assert code == 1
    assert "error: 02_train failed. epochs is -1; expected a whole number of at least 1" in errors
    after = contents(project / "reports" / "small")
    assert after["artifacts/model.txt"] == good["artifacts/model.txt"]


def test_failed_notebook_leaves_its_traceback_and_the_last_good_result(project, make, good):
    folder = project / "reports" / "small"
    os.utime(project / "notebooks" / "02_train.py")
    code, errors = make("small", SMALL_FAILS=1)
    assert code == 1
    assert (
        "02_train failed. ZeroDivisionError: nothing to divide by (Its executed copy: 02_train.failed.ipynb)"
        in errors
    )
    assert "nothing to divide by" in (folder / "02_train.failed.ipynb").read_text()
    assert contents(folder) == good
    code, errors = make("small")
    assert (code, ran(errors)) == (0, ["02_train", "03_evaluate"])
    assert not list(folder.glob("*.failed.*"))


def test_dead_kernel_is_one_sentence(project, make, good):
    os.utime(project / "notebooks" / "02_train.py")
    code, errors = make("small", SMALL_DIES=1)
    assert code == 1
    assert "02_train failed. Its kernel died, most likely for want of memory" in errors
    assert contents(project / "reports" / "small") == good


def alive(process):
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True
    ).stdout
    return bool(state.strip()) and "Z" not in state


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_run_keeps_results_and_the_next_goes_on(
    project, start, make, good, tmp_path, kind
):
    folder, noted = project / "reports" / "small", tmp_path / "kernel"
    script = project / "notebooks" / "02_train.py"
    script.write_text(script.read_text().replace('f"epochs {epochs}"', '"again"'))
    process = start("small", SMALL_SLEEPS=noted)
    wait_for(lambda: noted.exists() and noted.read_text())
    # Ctrl-C reaches every process of the terminal's group, kill -9 one.
    os.killpg(process.pid, kind) if kind == signal.SIGINT else os.kill(process.pid, kind)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == (130 if kind == signal.SIGINT else -9)
    assert "Traceback" not in errors
    if kind == signal.SIGINT:
        assert errors.splitlines()[-1].startswith("interrupted: finished notebooks are kept")
    wait_for(lambda: not alive(int(noted.read_text())), 15)
    assert contents(folder) == good
    code, errors = make("small")
    assert (code, ran(errors)) == (0, ["02_train", "03_evaluate"])
    assert (folder / "artifacts" / "model.txt").read_text() == "again"
    assert not [
        p.name for p in folder.iterdir() if p.name.startswith(".") and not p.name.endswith(".lock")
    ]


def test_two_runs_of_one_profile_at_once(project, start, make, tmp_path):
    noted = tmp_path / "kernel"
    os.utime(project / "notebooks" / "02_train.py")
    process = start("small", SMALL_SLEEPS=noted)
    wait_for(lambda: noted.exists())
    code, errors = make("small")
    assert code == 1
    assert (
        f"small is in use by another run (process {process.pid}); expected one run of a profile at a time"
        in errors
    )
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def test_full_disk_at_the_command_line(project, make, good):
    """The operating system itself refuses to write: no file may grow beyond 100 bytes."""
    os.utime(project / "notebooks" / "01_preprocess.py")
    code, errors = make(
        "small", limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    )
    assert code == 1
    assert "File too large" in errors
    assert "make room" in errors
    assert contents(project / "reports" / "small") == good


def test_unwritable_reports_at_the_command_line(project, make):
    (project / "file").touch()
    code, errors = make("small", AE_REPORTS_DIR="file")
    assert code == 1
    assert "cannot be written (Not a directory); expected a writable folder" in errors


def test_profile_by_path_has_its_own_name(tmp_path):
    shutil.copy(graph.PARAMS / "digits.yaml", tmp_path / "other.yaml")
    parameters = graph.load_profile(str(tmp_path / "other.yaml"))
    assert parameters["02_train"]["profile"] == "other"
    assert parameters["02_train"]["dataset"] == "digits"


def test_without_mnist_the_digits_are_taken_and_it_is_said(monkeypatch, capsys, tmp_path):
    asked = []

    def unavailable(name):
        asked.append(name)
        raise StudyError("MNIST could not be downloaded.")

    monkeypatch.setattr(data, "download", unavailable)
    monkeypatch.setattr(
        report, "run", lambda profile, jobs, fallback, without: tmp_path / profile / "index.html"
    )
    for _ in range(2):
        assert report.main([]) == 0
        said = capsys.readouterr().err
        assert said.count("THESE ARE NOT MNIST'S RESULTS") == 2
        assert "MNIST could not be downloaded." in said
    assert asked == ["mnist"], "a download that failed is not tried again on every run"
    monkeypatch.setattr(data, "local_file", lambda name: tmp_path)
    assert report.choose_profile() == ("mnist", None)


def test_with_a_download_mnist_is_taken(monkeypatch):
    monkeypatch.setattr(data, "download", lambda name: {})
    assert report.choose_profile() == ("mnist", None)


@pytest.mark.parametrize(
    ("profile", "notebook"),
    [("benchmark", "11_benchmark"), ("latent_size", "13_study_latent_size")],
)
def test_some_notebooks_have_a_profile_of_their_own(profile, notebook):
    assert list(graph.notebooks(profile)) == [notebook]
    assert profile in graph.own_profiles()
    assert notebook not in graph.notebooks("mnist")
    assert graph.notebooks("mnist") == graph.notebooks("digits")


def test_the_studys_own_profiles_are_valid():
    mnist = graph.load_profile("mnist")
    assert mnist["02_train"] == {
        "profile": "mnist", "dataset": "mnist", "hidden": [256, 128], "latent_dim": 32,
        "bottleneck": "linear", "epochs": 50, "batch_size": 256, "learning_rate": 0.001, "seed": 0, "compiler": "auto",
    }  # fmt: skip
    for path in graph.PARAMS.glob("*.yaml"):
        assert set(graph.load_profile(path.stem)) == set(graph.notebooks(path.stem))


def test_a_notebook_before_the_one_it_needs_says_so(tmp_path):
    """The study's own notebook, run on an empty folder."""
    parameters = graph.load_profile("digits")["03_evaluate"]
    with pytest.raises(
        StudyError, match="03_evaluate failed. .*model.keras is missing; .*: run 02_train first"
    ):
        report.execute(
            graph.read_notebook("03_evaluate"), parameters, tmp_path / "03_evaluate.ipynb"
        )
    assert not (tmp_path / "03_evaluate.ipynb").exists()
