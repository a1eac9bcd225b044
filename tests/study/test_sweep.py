"""Sweeps: their files, what is executed again, lost workers, and the table.

Where it does not matter, workers are threads, and a function stands in for the notebooks.
"""

import functools
import json
import os
import re
import signal
from threading import Timer

from ae_lib import StudyError
from ae_lib.study import execute, graph, sweep
from tests.study import fake_work as work
from tests.study import small_project as small

import nbformat
import pandas as pd
import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore:Port 8787 is already in use"),
    # sockets that Dask leaves to the collector
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SWEEP = """
profile: small
notebooks: [03_evaluate]
parameters:
  02_train: {rate: 0.5}
grid:
  epochs: [2, 3]
  seed: [0, 1, 2]
limits: {threads: 2, minutes: 5}
"""


@pytest.fixture
def sweeps(new_project):
    """A project with a sweep and one more notebook."""
    head = small.PARAMETERS + "filters: int = 1  # more\n"
    (new_project / "notebooks" / "09_train_convolutional.py").write_text(head)
    profile = "02_train: {sizes: [4, 5], epochs: 7}\n"
    (new_project / "notebooks" / "params" / "small.yaml").write_text(profile)
    write(SWEEP)


@pytest.fixture
def results(sweeps, new_project):
    """The folder of the sweep's results."""
    return new_project / "reports" / "sweeps" / "some"


@pytest.fixture
def trials(sweeps):
    return sweep.load_sweep("some")


@pytest.fixture(scope="module")
def scheduler():
    """The address of a scheduler with two workers that are threads of this process."""
    from distributed import LocalCluster

    options = {"processes": False, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(n_workers=2, **options) as cluster:
        yield cluster.scheduler_address


def write(text):
    (graph.PARAMS / "sweeps" / "some.yaml").write_text(text)


# ------------------------------ the file
def test_a_sweep_is_every_point_of_its_grid_over_its_profile(trials):
    points = [{"epochs": epochs, "seed": seed} for epochs in (2, 3) for seed in (0, 1, 2)]
    assert [trial.point for trial in trials] == points
    parameters = {name: task["parameters"] for name, task in trials[4].tasks.items()}
    assert parameters == {
        "02_train": {"profile": "some", "seed": 1, "epochs": 3, "rate": 0.5, "sizes": [4, 5]},
        "03_evaluate": {"profile": "some", "seed": 1, "model": "dense"},
    }
    assert trials[0].environment == execute.threads(2)
    assert trials[0].minutes == 5
    assert len({trial.name for trial in trials}) == 6
    assert len({trial.fingerprint for trial in trials}) == 6


def test_another_model_brings_the_notebook_that_trains_it(sweeps):
    write(SWEEP.replace("epochs: [2, 3]", "model: [dense, conv]"))
    executed = [list(trial.tasks) for trial in sweep.load_sweep("some")]
    makers = ["02_train"] * 3 + ["09_train_convolutional"] * 3
    assert [names[-2:] for names in executed] == [[maker, "03_evaluate"] for maker in makers]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: [2, 3]", "epoch: [2, 3]", "varies epoch, which none of 02_train, 03_ev"),
        ("epochs: [2, 3]", "epochs: []", "at $.grid.epochs, [] should be non-empty"),
        ("epochs: [2, 3]", "epochs: 2", "at $.grid.epochs, 2 is not of type 'array'"),
        ("epochs: [2, 3]", "epochs: [2, 3, 2]", "at $.grid.epochs, [2, 3, 2] has non-unique"),
        ("epochs: [2, 3]\n", "epochs: [1, 1.0]\n", "at $.grid.epochs, [1, 1.0] has non-unique"),
        ("epochs: [2, 3]", "seed: [5]", "duplicate key \"seed\""),
        ("epochs: [2, 3]", "sizes: [[1], 2]", "sets sizes in section grid to 2, which is int"),
        ("epochs: [2, 3]", "rate: [1.0]", "sets rate in 02_train and varies it in its grid"),
        ("epochs: [2, 3]", "epochs: [2, three]", "to 'three', which is str; expected int"),
        ("epochs: [2, 3]", "epochs: [2, true]", "to True, which is bool; expected int"),
        ("epochs: [2, 3]", "profile: [other]", "sets profile in section grid to 'other'"),
        ("epochs: [2, 3]", "model: [densest]", "to 'densest'; expected one of dense, scheduled"),
        ("seed: [0, 1, 2]", "seed: [-1]", "sets seed in section grid to -1"),
        ("epochs: [2, 3]", "filters: [1]", "varies filters, which none of 02_train, 03_ev"),
        ("  epochs: [2, 3]\n  seed: [0, 1, 2]", "  {}", "at $.grid, {} should be non-empty"),
        ("profile: small", "", "at $, 'profile' is a required property"),
        ("profile: small", "profile: large", "There is no profile 'large'"),
        ("profile: small", "profile: [small]", "at $.profile, ['small'] is not of type 'string'"),
        ("[03_evaluate]", "[]", "at $.notebooks, [] should be non-empty"),
        ("[03_evaluate]", "[04_maps]", "asks for a notebook '04_maps'; expected some of 01_prepr"),
        ("rate: 0.5", "rates: 0.5", "sets rates in section 02_train"),
        ("02_train:", "02_trains:", "has a section '02_trains'"),
        ("limits:", "limit:", "at $, Additional properties are not allowed ('limit' was"),
        ("minutes: 5", "minutes: 0", "at $.limits.minutes, 0 is less than or equal to the minimum"),
        ("threads: 2", "cores: 2", "at $.limits, Additional properties are not allowed ('cores'"),
        ("threads: 2", "threads: 1.5", "at $.limits.threads, 1.5 is not of type 'integer'"),
        ("grid:", "grid", "is not valid YAML"),
        (SWEEP, "[1]", "at $, [1] is not of type 'object'; expected profile, notebooks"),
    ],
)  # fmt: skip
def test_mistakes_in_a_sweep_are_refused_before_anything_starts(sweeps, study, old, new, message):
    assert old in SWEEP
    write(SWEEP.replace(old, new))
    code, errors = study("sweep", "some")
    assert code == 1
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not (graph.FOLDER.parent / "reports").exists()


def test_an_unknown_sweep_is_one_sentence(sweeps, study):
    code, errors = study("sweep", "som")
    assert (code, "There is no sweep 'som'; expected one of some" in errors) == (1, True)


def test_the_studys_own_sweeps_are_valid():
    names = [path.stem for path in graph.PARAMS.glob("sweeps/*.yaml")]
    grids = {name: [trial.point for trial in sweep.load_sweep(name)] for name in names}
    assert {"latent_size", "bottleneck", "seeds", "smoke"} <= set(grids)
    points = [{"latent_dim": dim, "seed": s} for dim in (2, 4, 8, 16, 32, 64) for s in range(5)]
    assert grids["latent_size"] == points
    assert grids["seeds"] == [{"seed": seed} for seed in range(10)]
    assert len(grids["smoke"]) == 4
    mnist = graph.load_profile("mnist").parameters["02_train"]
    for trial in sweep.load_sweep("seeds"):
        parameters = trial.tasks["02_train"]["parameters"]
        assert {**parameters, "seed": 0, "profile": "mnist"} == mnist


# ------------------------------ a trial
def test_fingerprint_depends_on_what_changes_numbers_and_on_nothing_else(trials):
    def of(environment=None, minutes=1.0, seed=0, name="some"):
        sections = {"all": {"seed": seed}}
        profile = graph.resolve(name, sections, "some.yaml").restricted_to(["03_evaluate"])
        tasks = execute.make_tasks(profile)
        return sweep.Trial({}, tasks, environment or execute.threads(1), minutes).fingerprint

    first = of()
    assert of(minutes=2.0, name="another") == first
    assert of(seed=1) != first
    assert of(environment=execute.threads(2)) != first
    script = graph.FOLDER / "02_train.py"
    text = script.read_text()
    script.write_text(text.replace("Title", "Another title").replace("# passes", "# of all"))
    assert of() == first
    script.write_text(text.replace("0.1 + seed", "0.2 + seed"))
    assert of() != first


@pytest.mark.parametrize(
    ("point", "start"),
    [
        ({"latent_dim": 8, "seed": 0}, "latent_dim=8_seed=0-"),
        ({"hidden": [256, 128], "rate": -0.5}, "hidden=256128_rate=-0.5-"),
        ({"name": "../up/" + "x" * 300}, "name=..upxxx"),
        ({}, "-"),
    ],
)
def test_a_trial_is_named_by_its_point_in_letters_that_every_folder_takes(point, start):
    name = sweep.Trial(point, {}, {}, 1.0).name
    assert name.startswith(start)
    assert re.fullmatch(r"[.=\w-]+", name)
    assert len(name) < 120


def test_a_trial_gives_metrics_notebooks_and_models_without_the_scripts(trials, monkeypatch):
    for script in graph.FOLDER.glob("*.py"):
        script.unlink()  # another machine has none
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    outcome = sweep.run_trial(trials[1], with_models=True)
    assert (outcome["status"], outcome["error"]) == ("done", "")
    mse = {name: entry["value"] for name, entry in outcome["metrics"].items()}
    assert mse == {"dense.val.mse": 1.1, "dense.test.mse": 1.5}
    assert outcome["headline"] == ["dense.test.mse", "dense.val.mse"]
    assert list(outcome["files"]) == ["02_train.ipynb", "03_evaluate.ipynb", "dense.keras"]
    assert outcome["files"]["dense.keras"] == b'"weights"'
    executed = nbformat.reads(outcome["files"]["02_train.ipynb"].decode(), 4)
    assert executed.metadata["study"]["parameters"]["seed"] == 1


def test_an_interrupted_trial_resumes_after_the_notebooks_that_are_executed(trials, monkeypatch):
    executed, execute_one = [], execute.execute

    def interrupted(task, *arguments, **options):
        executed.append(task["name"])
        if executed == ["02_train", "03_evaluate"]:
            raise KeyboardInterrupt
        return execute_one(task, *arguments, **options)

    monkeypatch.setattr(execute, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run_trial(trials[0])
    assert sweep.run_trial(trials[0])["status"] == "done"
    assert executed == ["02_train", "03_evaluate", "03_evaluate"]
    assert sweep.run_trial(trials[0])["status"] == "done"
    assert executed[3:] == ["02_train", "03_evaluate"], "nothing is left of a trial that is done"


def test_the_devices_of_the_machine_that_makes_a_trial_are_no_part_of_it(sweeps, monkeypatch):
    before = sweep.load_sweep("some")[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    after = sweep.load_sweep("some")[0]
    assert after == before
    assert set(after.environment) == set(execute.THREADS)


def test_a_failed_trial_gives_a_sentence_its_notebook_and_its_log(trials, monkeypatch):
    monkeypatch.setenv(small.ACTION, "fail")
    outcome = sweep.run_trial(trials[0])
    assert outcome["status"] == "failed"
    expected = "02_train failed. ZeroDivisionError: nothing to divide by"
    assert outcome["error"].startswith(expected)
    assert "\n" not in outcome["error"]
    assert list(outcome["files"]) == ["02_train.failed.ipynb", "02_train.failed.log"]
    assert b"nothing to divide by" in outcome["files"]["02_train.failed.ipynb"]
    assert not outcome["metrics"]
    monkeypatch.delenv(small.ACTION)
    assert sweep.run_trial(trials[0])["status"] == "done", "and leaves nothing"


# ------------------------------ what is executed again
def test_a_failed_trial_is_reported_the_others_resume_and_only_it_is_executed_again(
    trials, results, scheduler, capsys
):
    first = sweep.collect(trials, results, scheduler, work=work.trivial)
    assert first["status"].tolist() == ["done", "failed", "done", "done", "done", "done"]
    assert first["dense.test.mse"].tolist()[2:] == [2.2, 3.0, 3.1, 3.2]
    assert first.loc[1, "error"] == "it is the second"
    own = results / "trials" / trials[1].name
    errors = capsys.readouterr().err
    assert f"FAILED: it is the second\n    see {own}\n" in errors
    assert {path.name for path in own.iterdir()} == {"failed.json", "03_evaluate.failed.ipynb"}
    assert (results / "trials" / trials[0].name / "03_evaluate.ipynb").read_text() == "good"

    second = sweep.collect(trials, results, scheduler, work=work.corrected)
    assert "5 of 6 trials are done already" in capsys.readouterr().err
    assert second["dense.test.mse"].tolist() == [2.0, 1.0, 2.2, 3.0, 3.1, 3.2]
    assert not list(own.glob("*failed*"))
    assert sweep.collect(trials, results, work=work.never).equals(second)


def test_a_workers_own_error_is_its_trials_alone(trials, results, scheduler):
    table = sweep.collect(trials[:1], results, scheduler, work=work.never)
    assert table.loc[0, "status"] == "failed"
    assert table.loc[0, "error"].startswith("AssertionError: epochs=2_seed=0")


def test_a_failure_does_not_touch_the_last_good_result(trials, results):
    good = {**work.corrected(trials[1], False), "files": {"02_train.ipynb": b"good"}}
    sweep.keep(good, trials[1], results)
    sweep.keep(work.trivial(trials[1], False), trials[1], results)
    own = results / "trials" / trials[1].name
    assert (own / "02_train.ipynb").read_text() == "good"
    assert sweep.write_table([trials[1]], results).loc[0, "status"] == "done"


def test_new_values_execute_new_trials_only_and_new_code_executes_all(trials, results):
    for trial in trials:
        sweep.keep(work.corrected(trial, False), trial, results)
    write(SWEEP.replace("seed: [0, 1, 2]", "seed: [0, 1, 2, 3]"))
    status = sweep.write_table(sweep.load_sweep("some"), results)["status"]
    assert status.tolist() == ["done", "done", "done", "missing"] * 2
    with (graph.FOLDER / "02_train.py").open("a") as script:
        script.write("\n# %%\n1 + 1\n")
    assert set(sweep.write_table(sweep.load_sweep("some"), results)["status"]) == {"missing"}


def test_models_come_back_only_if_asked_for(trials, results, scheduler):
    one, own = trials[:1], results / "trials" / trials[0].name
    sweep.collect(one, results, scheduler, work=work.corrected)
    assert not (own / "dense.keras").exists()
    sweep.collect(one, results, scheduler, work=work.corrected, with_models=True)
    assert (own / "dense.keras").read_bytes() == b"weights"
    sweep.collect(one, results, work=work.never, with_models=True)
    with (graph.FOLDER / "02_train.py").open("a") as script:
        script.write("\n# %%\n1 + 1\n")
    sweep.collect(sweep.load_sweep("some")[:1], results, scheduler, work=work.corrected)
    assert not (own / "dense.keras").exists(), "it was of other code"


def test_the_table_is_the_same_as_csv_and_parquet(trials, results, scheduler):
    table = sweep.collect(trials, results, scheduler, work=work.trivial)
    expected = ["epochs", "seed", "02_train.profile", "02_train.seed", "02_train.epochs"]
    assert list(table)[:5] == expected
    expected = ["dense.test.mse", "dense.test.ssim", "status", "seconds", "worker", "error"]
    assert list(table)[-6:] == expected
    assert table.loc[0, "02_train.sizes"] == "[4, 5]"
    assert table["worker"].str.startswith("inproc://").all()
    parquet = pd.read_parquet(results / "results.parquet")
    csv = pd.read_csv(results / "results.csv", keep_default_na=False, na_values=[""])
    csv = csv.fillna({"error": "", "worker": ""})
    pd.testing.assert_frame_equal(parquet, table, check_exact=True)
    pd.testing.assert_frame_equal(csv, table, check_exact=True, check_dtype=False)


def test_a_metric_that_could_not_be_computed_is_empty_in_the_table(trials, results):
    outcome = {**work.corrected(trials[0], False), "metrics": {"dense.test.mse": {"value": None}}}
    for trial, given in zip(trials[:2], [outcome, work.corrected(trials[1], False)], strict=True):
        sweep.keep(given, trial, results)
    assert sweep.write_table(trials[:2], results)["dense.test.mse"].isna().tolist() == [True, False]
    assert pd.read_csv(results / "results.csv")["dense.test.mse"].isna().tolist() == [True, False]


def test_two_sweeps_of_the_same_points_on_one_scheduler_are_not_mixed_up(
    trials, results, scheduler
):
    from distributed import Client

    two = trials[:2]
    with Client(scheduler) as client:  # whose results stay with the scheduler
        held = [client.submit(work.corrected, trial, False, key=trial.name) for trial in two]
        table = sweep.collect(two, results, scheduler, work=functools.partial(work.numbered, 7.0))
        assert [future.status for future in held] == ["finished"] * 2
    assert table["number"].tolist() == [7.0, 7.0]


# ------------------------------ workers and schedulers lost
def test_a_killed_workers_trial_is_executed_elsewhere_and_one_that_kills_all_fails_alone(
    trials, results, tmp_path, capfd
):
    import dask
    import distributed  # noqa: F401  # its defaults, before one of them is changed

    killing = functools.partial(work.deadly, str(tmp_path))
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        table = sweep.collect(trials, results, workers=2, work=killing)
    assert table["status"].tolist() == ["failed"] + ["done"] * 5
    assert "Every worker that it was tried on has died" in table.loc[0, "error"]
    assert (tmp_path / "killed").exists()
    errors = capfd.readouterr().err
    lost = re.findall(r"^worker tcp://\S+ is lost; executed elsewhere: (.*)$", errors, re.M)
    assert len([line for line in lost if trials[-1].name in line]) == 1


def test_no_scheduler_is_one_sentence(sweeps, study):
    code, errors = study("sweep", "some", "--scheduler", "nonsense://nowhere")
    assert code == 1
    assert "error: No Dask scheduler answers at nonsense://nowhere" in errors


def test_a_scheduler_that_goes_is_one_sentence(
    trials, results, new_project, start, tmp_path, monkeypatch
):
    file, ends = tmp_path / "scheduler.json", []
    options = ["--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    process = start(new_project, *options, module="distributed.cli.dask_scheduler")
    small.wait_until(lambda: small.has_text(file) and file.read_text().strip().endswith("}"))

    def connected(text):
        ends.append(Timer(1, process.kill))
        ends[-1].start()

    monkeypatch.setattr(sweep, "say", connected)
    with pytest.raises(StudyError, match="The Dask scheduler is gone; .*: start the sweep again"):
        sweep.collect(trials, results, json.loads(file.read_text())["address"])  # it has no worker
    assert len(ends) == 1
    assert pd.read_csv(results / "results.csv")["status"].tolist() == ["missing"] * 6


# ------------------------------ the command, for real
def test_a_killed_and_an_interrupted_sweep_keep_what_is_done_and_the_next_start_resumes(
    sweeps, results, new_project, start, study, scheduler, tmp_path
):
    write("profile: small\nnotebooks: [02_train]\ngrid: {seed: [0, 1]}\n")
    begun = tmp_path / "begun"
    command = [new_project, "sweep", "some", "--workers", "1"]
    killed = start(*command, **{small.ACTION: f"sleep_after_first {begun}"})
    small.wait_until(lambda: small.has_text(begun))
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    small.wait_until(lambda: not small.alive(tmp_path))
    assert len(list(results.glob("trials/*/trial.json"))) == 1

    begun.unlink()
    interrupted = start(*command, **{small.ACTION: f"sleep {begun}"})
    small.wait_until(lambda: small.has_text(begun))
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 130
    assert "1 of 2 trials are done already" in errors
    assert "1 workers; dashboard: http://127.0.0.1:" in errors
    assert errors.splitlines()[-1].startswith("interrupted: what is finished is kept, and the next")
    assert "Traceback" not in errors
    small.wait_until(lambda: not small.alive(tmp_path))
    assert sorted(pd.read_csv(results / "results.csv")["status"]) == ["done", "missing"]

    code, errors = study("sweep", "some", "--scheduler", scheduler)
    assert code == 0
    assert re.search(r"^2/2  seed=\d-\w+  done in \d+ s by inproc://\S+$", errors, re.M)
    assert errors.endswith("2 done of 2: reports/sweeps/some/results.csv\n")
    table = pd.read_csv(results / "results.csv")
    assert table["dense.val.mse"].tolist() == [0.1, 1.1]
    assert sorted(table["worker"].str.split(":").str[0]) == ["inproc", "tcp"]
    seeds = [small.study_of(path)["parameters"]["seed"] for path in results.rglob("02_train.ipynb")]
    assert sorted(seeds) == [0, 1]


def test_a_sweep_with_a_failed_trial_ends_with_code_1(sweeps, study, monkeypatch):
    def collect(trials, *_):
        return pd.DataFrame({"status": ["done", "done", "failed"]})

    monkeypatch.setattr(sweep, "collect", collect)
    code, errors = study("sweep", "some")
    assert (code, "2 done, 1 failed of 6" in errors) == (1, True)
