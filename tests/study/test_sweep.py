"""Sweeps: their files, what is executed again, lost workers, and the table. A trivial cell stands in for notebooks."""

import contextlib
import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from ae_lib import StudyError
from ae_lib import run as runs
from ae_lib.study import cells, graph, sweep

import nbformat
import pandas as pd
import psutil
import pytest
from tests.test_cells import NOTEBOOK, wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:Port 8787 is already in use"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning"
    ),  # sockets that Dask leaves to the collector
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
TRAIN = 'profile: str = "mnist"  # f\nseed: int = 0  # s\nepochs: int = 3  # e\nrate: float = 0.1  # r\nsizes: list = [1]  # s\n'
EVALUATE = 'profile: str = "mnist"  # f\nseed: int = 0  # s\nmodel: str = "dense"  # m\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two notebooks, the second of which needs the first, a profile, and a sweep."""
    folder = tmp_path / "notebooks"
    (folder / "params" / "sweeps").mkdir(parents=True)
    head = NOTEBOOK[: NOTEBOOK.index("# %% [markdown]")]
    for name, parameters, body in [
        ("01_preprocess", EVALUATE, ""),
        ("02_train", TRAIN, ""),
        ("03_evaluate", EVALUATE, "run.trained(model)"),
        ("09_train_convolutional", TRAIN + "filters: int = 1  # f\n", ""),
    ]:
        text = f'{head}# %% tags=["parameters"]\n{parameters}\n# %%\n{body}\n'
        (folder / f"{name}.py").write_text(text)
    (folder / "params" / "small.yaml").write_text("02_train: {sizes: [4, 5], epochs: 7}\n")
    (folder / "params" / "sweeps" / "some.yaml").write_text(SWEEP)
    for module, name, value in [
        (profiles, "FOLDER", folder), (profiles, "PARAMS", folder / "params"), (sweep, "FOLDER", folder / "params" / "sweeps"),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, value)
    cells.notebook_text.cache_clear()
    yield folder / "params" / "sweeps"
    cells.notebook_text.cache_clear()


@pytest.fixture
def results(tmp_path):
    return tmp_path / "reports" / "sweeps" / "some"


# ------------------------------------------------------------------------------------------------------------ the file
def test_a_sweep_is_every_point_of_its_grid_over_its_profile(folder):
    some = sweep.load_sweep("some")
    assert [cell.point for cell in some] == [
        {"epochs": e, "seed": s} for e in (2, 3) for s in (0, 1, 2)
    ]
    assert some[4].parameters == {
        "02_train": {"profile": "some", "seed": 1, "epochs": 3, "rate": 0.5, "sizes": [4, 5]},
        "03_evaluate": {"profile": "some", "seed": 1, "model": "dense"},
    }
    assert some[0].environment.items() >= cells.threads(2).items()
    assert some[0].minutes == 5
    assert len({cell.name for cell in some}) == len({cell.fingerprint for cell in some}) == 6


def test_another_model_brings_the_notebook_that_makes_it(folder):
    (folder / "some.yaml").write_text(SWEEP.replace("epochs: [2, 3]", "model: [dense, conv]"))
    executed = [list(cell.parameters) for cell in sweep.load_sweep("some")]
    assert (
        executed
        == [["02_train", "03_evaluate"]] * 3 + [["09_train_convolutional", "03_evaluate"]] * 3
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: [2, 3]", "epoch: [2, 3]", "sets 'epoch' in section grid, which has no such parameter; expected one of"),
        ("epochs: [2, 3]", "epochs: []", "gives epochs in its grid as []; expected a list of values"),
        ("epochs: [2, 3]", "epochs: 2", "gives epochs in its grid as 2; expected a list of values"),
        ("epochs: [2, 3]", "epochs: [2, 3, 2]", "has 2 twice for epochs in its grid; expected each value once"),
        ("epochs: [2, 3]\n", "epochs: [1, 1.0]\n", "has 1.0 twice for epochs"),
        ("epochs: [2, 3]", "seed: [5]", "gives 'seed' twice; expected each name once"),
        ("epochs: [2, 3]", "sizes: [[1], 2]", "sets sizes in section grid to 2, which is int; expected list"),
        ("epochs: [2, 3]", "rate: [1.0]", "sets rate in 02_train and varies it in its grid; expected one of the two"),
        ("epochs: [2, 3]", "epochs: [2, three]", "sets epochs in section grid to 'three', which is str; expected int"),
        ("epochs: [2, 3]", "epochs: [2, true]", "to True, which is bool; expected int"),
        ("epochs: [2, 3]", "profile: [other]", "sets 'profile' in section grid"),
        ("epochs: [2, 3]", "model: [densest]", "no model 'densest'; expected one of dense, scheduled"),
        ("seed: [0, 1, 2]", "seed: [-1]", "sets seed in section grid to -1"),
        ("epochs: [2, 3]", "filters: [1]", "varies filters, which none of 02_train, 03_evaluate has"),
        ("  epochs: [2, 3]\n  seed: [0, 1, 2]", "  {}", "has no grid, or nothing in it"),
        ("profile: small", "", "has no profile"),
        ("profile: small", "profile: large", "There is no profile 'large'"),
        ("profile: small", "profile: [small]", "profile in some.yaml is ['small']; expected str"),
        ("[03_evaluate]", "[]", "has no notebooks, or nothing in it"),
        ("[03_evaluate]", "[04_error_maps]", "asks for a notebook '04_error_maps'; expected some of 01_preprocess"),
        ("rate: 0.5", "rates: 0.5", "sets 'rates' in section 02_train"),
        ("02_train:", "02_trains:", "has a section '02_trains'"),
        ("limits:", "limit:", "has a part 'limit'; expected profile, notebooks"),
        ("minutes: 5", "minutes: 0", "sets minutes in limits to 0; expected more than 0"),
        ("threads: 2", "cores: 2", "sets 'cores' in section limits"),
        ("threads: 2", "threads: 1.5", "which is float; expected int"),
        ("grid:", "grid", "is not valid YAML"),
    ],
)  # fmt: skip
def test_mistakes_in_a_sweep_are_refused_before_anything_starts(
    folder, results, capsys, old, new, message
):
    assert old in SWEEP
    (folder / "some.yaml").write_text(SWEEP.replace(old, new))
    assert sweep.main(["some"]) == 1
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not results.exists()


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_no_workers_are_refused(folder, capsys, workers):
    with pytest.raises(SystemExit):
        sweep.main(["some", "--workers", workers])
    assert (
        f"--workers is {workers}; expected a whole number of at least 1" in capsys.readouterr().err
    )


def test_an_unknown_sweep_is_one_sentence(folder, capsys):
    assert sweep.main(["som"]) == 1
    assert "There is no sweep 'som'; expected one of some" in capsys.readouterr().err


def test_the_studys_own_sweeps_are_valid():
    grids = {
        path.stem: [cell.point for cell in sweep.load_sweep(path.stem)]
        for path in sweep.FOLDER.glob("*.yaml")
    }
    assert {"latent_size", "seeds", "smoke"} <= set(grids)
    sizes = [2, 4, 8, 16, 32, 64]
    assert grids["latent_size"] == [
        {"latent_dim": size, "seed": seed} for size in sizes for seed in range(5)
    ]
    assert grids["seeds"] == [{"seed": seed} for seed in range(10)]
    assert len(grids["smoke"]) == 4
    for cell in sweep.load_sweep("seeds"):
        assert {**cell.parameters["02_train"], "seed": 0, "profile": "mnist"} == graph.load_profile(
            "mnist"
        )["02_train"]


# ------------------------------------------------------------------------------------------------------- the execution
def trivial(cell, with_models):
    """What a worker does here with a cell."""
    seed = cell.point["seed"]
    if seed == 1 and cell.point["epochs"] == 2:
        return {"status": "failed", "metrics": {}, "error": "it is the second", "traceback": "1/0",
                "notebooks": {"03_evaluate.failed.ipynb": "{}", "02_train.ipynb": "bad"}}  # fmt: skip
    found = {"dense.test.mse": cell.point["epochs"] + 0.1 * seed, "dense.test.ssim": 0.1}
    return {
        "status": "done",
        "metrics": found,
        "notebooks": {"03_evaluate.ipynb": "good"},
        "error": "",
    }


def mended(cell, with_models):
    """The same, without the mistake."""
    models = {"model.keras": b"weights"} if with_models else None
    return {
        "status": "done",
        "metrics": {"dense.test.mse": 1.0},
        "notebooks": {},
        "models": models,
        "error": "",
    }


def never(cell, with_models):
    """For cells that must not be executed."""
    raise AssertionError(cell.name)


def test_a_failed_cell_is_reported_the_others_go_on_and_only_it_is_executed_again(
    folder, results, capsys
):
    some = sweep.load_sweep("some")
    first = sweep.collect(some, results, workers=2, work=trivial)
    assert first["status"].tolist() == ["done", "failed", "done", "done", "done", "done"]
    assert first["dense.test.mse"].tolist()[2:] == [2.2, 3.0, 3.1, 3.2]
    assert first.loc[1, "error"] == "it is the second"
    own = results / "cells" / some[1].name
    errors = capsys.readouterr().err
    assert "FAILED: it is the second\n    1/0\n" in errors
    assert str(own) in errors
    assert {path.name for path in own.iterdir()} == {"failed.json", "03_evaluate.failed.ipynb"}
    assert (results / "cells" / some[0].name / "03_evaluate.ipynb").read_text() == "good"

    second = sweep.collect(some, results, workers=2, work=mended)
    assert "5 of 6 cells are done already" in capsys.readouterr().err
    assert second["dense.test.mse"].tolist() == [2.0, 1.0, 2.2, 3.0, 3.1, 3.2]
    assert not list(own.glob("*failed*"))
    assert sweep.collect(some, results, work=never).equals(second)


def test_a_failure_does_not_touch_the_last_good_result(folder, results):
    cell = sweep.load_sweep("some")[1]
    sweep.keep({**mended(cell, False), "notebooks": {"02_train.ipynb": "good"}}, cell, results)
    sweep.keep(trivial(cell, False), cell, results)
    own = results / "cells" / cell.name
    assert (own / "02_train.ipynb").read_text() == "good"
    assert sweep.table([cell], results).loc[0, "status"] == "done"


def test_new_values_execute_new_cells_only_and_new_code_executes_all(folder, results):
    sweep.collect(sweep.load_sweep("some"), results, workers=1, work=mended)
    (folder / "some.yaml").write_text(SWEEP.replace("seed: [0, 1, 2]", "seed: [0, 1, 2, 3]"))
    some = sweep.load_sweep("some")
    before = sweep.table(some, results)["status"]
    assert before.tolist() == ["done", "done", "done", "missing"] * 2
    script = folder.parents[1] / "02_train.py"
    script.write_text(script.read_text() + "\n# %%\n1 + 1\n")
    cells.notebook_text.cache_clear()
    assert set(sweep.table(sweep.load_sweep("some"), results)["status"]) == {"missing"}


def test_models_come_back_only_if_asked_for(folder, results):
    cell = sweep.load_sweep("some")[:1]
    own = results / "cells" / cell[0].name
    sweep.collect(cell, results, workers=1, work=mended)
    assert not (own / "model.keras").exists()
    sweep.collect(cell, results, workers=1, work=mended, with_models=True)
    assert (own / "model.keras").read_bytes() == b"weights"
    sweep.collect(cell, results, work=never, with_models=True)
    script = folder.parents[1] / "02_train.py"
    script.write_text(script.read_text() + "\n# %%\n1 + 1\n")
    cells.notebook_text.cache_clear()
    sweep.collect(sweep.load_sweep("some")[:1], results, workers=1, work=mended)
    assert not (own / "model.keras").exists(), "it was of other code"


def test_the_table_is_the_same_as_csv_and_parquet(folder, results):
    some = sweep.load_sweep("some")
    table = sweep.collect(some, results, workers=2, work=trivial)
    assert list(table)[:6] == [
        "epochs",
        "seed",
        "02_train.profile",
        "02_train.seed",
        "02_train.epochs",
        "02_train.rate",
    ]
    assert list(table)[-6:] == [
        "dense.test.mse",
        "dense.test.ssim",
        "status",
        "seconds",
        "worker",
        "error",
    ]
    assert table.loc[0, "02_train.sizes"] == "[4, 5]"
    assert table["worker"].str.startswith("tcp://127.0.0.1").all()
    parquet = pd.read_parquet(results / "results.parquet")
    csv = pd.read_csv(results / "results.csv", keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(parquet, table, check_exact=True)
    pd.testing.assert_frame_equal(
        csv.fillna({"error": "", "worker": ""}), table, check_exact=True, check_dtype=False
    )


def slow_and_deadly(cell, with_models):
    """Kills its worker at the first attempt at one cell."""
    if cell.point == {"epochs": 3, "seed": 0}:
        marker = Path(os.environ["AE_REPORTS_DIR"]) / "killed"
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return mended(cell, with_models)


def test_a_killed_workers_cells_are_executed_elsewhere_and_the_log_says_so(folder, results, capfd):
    results.mkdir(parents=True)
    some = sweep.load_sweep("some")
    table = sweep.collect(some, results, workers=2, work=slow_and_deadly)
    assert set(table["status"]) == {"done"}
    assert (results.parents[1] / "killed").exists()
    lost = re.findall(
        r"^worker tcp://\S+ is lost; run elsewhere: (.*)$", capfd.readouterr().err, re.M
    )
    assert len(lost) == 1
    assert some[3].name in lost[0]


def deadly(cell, with_models):
    """Kills every worker that begins the first cell."""
    if cell.point == {"epochs": 2, "seed": 0}:
        os.kill(os.getpid(), signal.SIGKILL)
    return mended(cell, with_models)


def test_a_cell_that_kills_every_worker_fails_alone(folder, results):
    table = sweep.collect(sweep.load_sweep("some"), results, workers=1, work=deadly)
    assert table["status"].tolist() == ["failed"] + ["done"] * 5
    assert "Its worker died" in table.loc[0, "error"]


def test_a_worker_with_another_library_is_refused_at_once(folder, results):
    some = [dataclasses.replace(cell, code="another") for cell in sweep.load_sweep("some")]
    with pytest.raises(
        StudyError, match="tcp://.* has another ae_lib, Python or packages than this machine"
    ):
        sweep.collect(some, results, workers=1, work=never)
    assert not results.exists(), "a failed start leaves no table"


def numbered(number, cell, with_models):
    """A result that says who asked."""
    return {**mended(cell, with_models), "metrics": {"number": number}}


def test_two_sweeps_of_the_same_points_on_one_scheduler_are_not_mixed_up(folder, results):
    from distributed import Client, LocalCluster

    some = sweep.load_sweep("some")[:2]
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        held = [
            client.submit(mended, cell, False, key=cell.name) for cell in some
        ]  # its results stay with the scheduler
        table = sweep.collect(
            some, results, cluster.scheduler_address, work=functools.partial(numbered, 7.0)
        )
        assert [future.status for future in held] == ["finished"] * 2
    assert table["number"].tolist() == [7.0, 7.0]


def test_no_scheduler_is_one_sentence(folder, results, capsys):
    assert sweep.main(["some", "--scheduler", "nonsense://nowhere"]) == 1
    assert "error: No Dask scheduler answers at nonsense://nowhere" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- the command, for real
@pytest.fixture
def project(tmp_path):
    """A project of the same form with one small notebook and a sweep over it."""
    root = tmp_path / "project"
    (root / "notebooks" / "params" / "sweeps").mkdir(parents=True)
    (root / "ae_lib").symlink_to(runs.PROJECT / "ae_lib", target_is_directory=True)
    (root / "notebooks" / "02_train.py").write_text(NOTEBOOK)
    (root / "notebooks" / "params" / "mnist.yaml").write_text("all: {}\n")
    write_grid(root, "{seed: [0, 1]}")
    return root


def write_grid(root, grid):
    text = f"profile: mnist\nnotebooks: [02_train]\ngrid: {grid}\n"
    (root / "notebooks" / "params" / "sweeps" / "some.yaml").write_text(text)


def start(root, *arguments, module="ae_lib.study.sweep"):
    # Killed with its whole group, a worker leaves its temporary folders.
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "AE_REPORTS_DIR": "reports",
        "TMPDIR": str(root.parent),
    }
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], cwd=root, env=environment, text=True, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def finish(process):
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_the_command_executes_notebooks_keeps_them_and_goes_on_where_it_was(project):
    code, errors = finish(start(project, "some"))
    assert code == 0, errors
    assert "dashboard: http://127.0.0.1" in errors
    assert re.search(r"^2/2  seed=\d-\w+  done in \d+ s by tcp://\S+; 00:00 left$", errors, re.M)
    assert errors.endswith("2 done of 2: reports/sweeps/some/results.csv\n")
    table = pd.read_csv(project / "reports" / "sweeps" / "some" / "results.csv")
    assert table["dense.test.mse"].tolist() == [0.1, 1.1]
    executed = sorted((project / "reports" / "sweeps" / "some" / "cells").glob("*/02_train.ipynb"))
    assert [
        nbformat.read(path, 4).metadata["study"]["parameters"]["seed"] for path in executed
    ] == [0, 1]

    write_grid(project, "{seed: [0, 1, 2], action: [succeed, fail]}")
    code, errors = finish(start(project, "some"))
    assert code == 1
    assert "ZeroDivisionError: nothing to divide by" in errors
    assert "3 done, 3 failed of 6" in errors or "3 failed, 3 done of 6" in errors


def test_a_killed_sweep_loses_what_was_in_flight_and_leaves_no_process(project, tmp_path):
    write_grid(project, f"{{action: [succeed, sleep {tmp_path / 'begun'}]}}")
    process = start(project, "some", "--workers", "1")
    wait_until((tmp_path / "begun").is_file)
    wait_until(lambda: (tmp_path / "begun").read_text())
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kernel = int((tmp_path / "begun").read_text().split()[0])
    wait_until(lambda: not psutil.pid_exists(kernel))
    kept = list((project / "reports" / "sweeps" / "some" / "cells").glob("*/cell.json"))
    assert len(kept) == 1
    write_grid(project, "{action: [succeed]}")
    code, errors = finish(start(project, "some"))
    assert (code, "workers" in errors) == (0, False)
    assert "1 of 1 cells are done already" in errors


def test_an_interrupted_sweep_says_so_and_keeps_what_is_done(project, tmp_path):
    write_grid(project, f"{{action: [succeed, sleep {tmp_path / 'begun'}]}}")
    process = start(project, "some", "--workers", "1")
    wait_until(lambda: (tmp_path / "begun").is_file() and (tmp_path / "begun").read_text())
    process.send_signal(signal.SIGINT)
    code, errors = finish(process)
    assert code == 130
    assert errors.endswith(
        "interrupted: finished cells are kept, and the next start goes on from there\n"
    )
    assert "Traceback" not in errors
    wait_until(lambda: not psutil.pid_exists(int((tmp_path / "begun").read_text().split()[0])))
    table = pd.read_csv(project / "reports" / "sweeps" / "some" / "results.csv")
    assert table["status"].tolist() == ["done", "missing"]


def test_a_scheduler_that_goes_is_one_sentence(project, tmp_path):
    write_grid(project, f"{{action: [sleep {tmp_path / 'begun'}]}}")
    address, running = cluster(project, tmp_path, 1)
    try:
        process = start(project, "some", "--scheduler", address)
        wait_until((tmp_path / "begun").is_file)
        os.killpg(running[0].pid, signal.SIGKILL)
        code, errors = finish(process)
    finally:
        end(running)
    assert code == 1
    assert "error: The Dask scheduler is gone" in errors


def cluster(root, tmp_path, workers):
    """A scheduler and workers started by hand, as somebody would on other machines; its address, and their processes."""
    file = tmp_path / "scheduler.json"
    running = [
        start(
            root,
            "scheduler",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            file,
            module="dask",
        )
    ]
    wait_until(lambda: file.is_file() and file.read_text().strip().endswith("}"))
    address = json.loads(file.read_text())["address"]
    return address, running + [
        start(root, "worker", address, "--no-dashboard", module="dask") for _ in range(workers)
    ]


def end(running):
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_scheduler_and_workers_elsewhere_give_the_same_table(project, tmp_path):
    assert finish(start(project, "some"))[0] == 0
    local = json.loads(
        pd.read_csv(project / "reports" / "sweeps" / "some" / "results.csv").to_json()
    )
    (project / "reports" / "sweeps").rename(project / "reports" / "local")
    address, running = cluster(project, tmp_path, 2)
    try:
        code, errors = finish(start(project, "some", "--scheduler", address))
        assert code == 0, errors
    finally:
        end(running)
    remote = json.loads(
        pd.read_csv(project / "reports" / "sweeps" / "some" / "results.csv").to_json()
    )
    differ = {name for name in local if local[name] != remote[name]}
    assert differ <= {"seconds", "worker"}


def test_refused_without_anything_started_from_the_command_line(project):
    write_grid(project, "{seeds: [0]}")
    code, errors = finish(start(project, "some"))
    assert code == 1
    assert errors.startswith("error: some.yaml sets 'seeds'")
    assert not (project / "reports").exists()
