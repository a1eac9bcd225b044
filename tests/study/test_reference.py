"""Reference values, tolerances and stored notebooks."""

import shutil

from ae_lib import run as runs
from ae_lib.study import graph, reference, sweep

import nbformat
import pytest


@pytest.mark.parametrize(
    ("value", "others", "expected"),
    [
        (1.0, [1.0, 1.0], 1e-5),
        (2.0, [2.002, 1.999], 0.003),
        (1.0, [1.0011, 1.0], 0.004),
        (-1.0, [-1.02], 0.06),
    ],
)
def test_tolerance_is_three_times_the_largest_deviation_rounded_up(value, others, expected):
    assert reference.tolerance(value, others) == pytest.approx(expected)


def test_tolerance_is_no_less_than_what_another_seed_moves():
    assert reference.tolerance(1.0, [1.01], [1.02, 0.98]) == pytest.approx(0.03)
    assert reference.tolerance(1.0, [1.01], [1.02, 0.949]) == pytest.approx(0.06)
    assert reference.tolerance(1.0, [1.01], [3.0]) == reference.MOST_FROM_SEEDS


def test_summary_publishes_the_first_seed_and_the_spread_of_all():
    found = reference.summarise([{"a": 1.0}, {"a": 1.02}, {"a": 1.04}], [{"a": 1.02}])
    assert found == {
        "a": {
            "value": 1.0,
            "rtol": 0.06,
            "seeds": 3,
            "mean": pytest.approx(1.02),
            "spread": pytest.approx(0.02),
        }
    }


def test_summary_says_how_many_seeds_gave_a_metric_and_leaves_durations_out():
    seeds = [{"a": 1.0, "slow": 3.0, "a.train.seconds": 60.0}, {"a": 1.0, "slow": 5.0}, {"a": 4.0}]
    found = reference.summarise(seeds, [{"a": 1.0, "slow": 3.0, "a.train.seconds": 90.0}])
    assert set(found) == {"a", "slow"}
    assert {name: (entry["seeds"], entry["mean"]) for name, entry in found.items()} == {
        "a": (3, 2.0),
        "slow": (2, 4.0),
    }
    assert found["slow"]["spread"] == pytest.approx(2**0.5)


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What `measure` asks for, instead of its execution: each cell gives its number."""
    seen = []

    def collect(some, folder, scheduler):
        seen.extend(some)
        for number, cell in enumerate(some, 1):
            status = "failed" if cell.environment.get("FAILS") else "done"
            outcome = {
                "status": status,
                "metrics": {"dense.test.mse": float(number)},
                "seconds": 1.0,
                "worker": "",
            }
            sweep.keep(outcome, cell, folder)
        return sweep.table(some, folder)

    monkeypatch.setattr(sweep, "collect", collect)
    monkeypatch.setattr(runs, "REFERENCE", tmp_path)
    return seen


def test_measure_varies_seed_and_machine_and_nothing_else(measured, tmp_path):
    assert reference.main(["measure", "digits"]) == 0
    machines = len(reference.MACHINES)
    assert [cell.parameters["02_train"]["seed"] for cell in measured] == [
        *range(10),
        *[0] * machines,
    ]
    assert [cell.parameters["02_train"]["compiler"] for cell in measured] == ["auto"] * 11 + [
        "none"
    ] * 4
    for cell, (_, settings) in zip(measured[-machines:], reference.MACHINES, strict=True):
        assert cell.environment.items() >= settings.items()
    own = graph.load_profile("digits")
    for cell in measured:
        for name, parameters in cell.parameters.items():
            given = {key: own[name][key] for key in ("seed", "compiler") if key in own[name]}
            assert name == "09_train_convolutional" or {**parameters, **given} == own[name]
    assert len({cell.name for cell in measured}) == len(measured)
    entry = runs.read_json(tmp_path / "digits.json")["dense.test.mse"]
    assert (entry["value"], entry["seeds"], entry["mean"]) == (1.0, 10, 5.5)


def test_later_seeds_do_without_what_is_slow(measured, monkeypatch):
    slow = {"02_train": {"epochs": 3}, "05_explore_latent_space": None, "not_written_yet": None}
    monkeypatch.setattr(reference, "SLOW", slow)
    reference.measure("digits")
    everything = list(graph.notebooks("digits"))
    fast = [
        name for name in everything if name not in ("05_explore_latent_space", "12_compare_models")
    ]
    core = ["02_train", "03_evaluate"]
    assert [list(cell.parameters) for cell in measured] == [
        *[everything] * 3, *[fast] * 2, *[core] * 5, *[everything] * len(reference.MACHINES),
    ]  # fmt: skip
    assert [cell.parameters["02_train"]["epochs"] for cell in measured[2:5]] == [50, 3, 3]
    assert all(cell.parameters["02_train"]["batch_size"] == 32 for cell in measured), (
        "the profile's own are kept"
    )


def test_nothing_is_published_if_a_cell_failed(measured, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(reference, "MACHINES", [("none", {"FAILS": "1"})])
    assert reference.main(["measure", "digits"]) == 1
    assert "error: 1 of 11 cells have failed" in capsys.readouterr().err
    assert not (tmp_path / "digits.json").exists()


def test_measuring_an_unknown_profile_is_one_sentence(capsys):
    assert reference.main(["measure", "digit"]) == 1
    assert "error: There is no profile 'digit'; expected" in capsys.readouterr().err


def test_only_a_finished_sweep_is_published(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setattr(runs, "REFERENCE", tmp_path / "reference")
    own, published = runs.sweep_files("some")
    assert reference.main(["sweep", "some"]) == 1
    assert "expected all of them: run make sweep SWEEP=some first" in capsys.readouterr().err
    own.parent.mkdir(parents=True)
    own.write_text("seed,status\n0,done\n1,missing\n")
    assert reference.main(["sweep", "some"]) == 1
    own.write_text("seed,status\n0,done\n1,done\n")
    assert reference.main(["sweep", "some"]) == 0
    assert published.read_bytes() == own.read_bytes()


def test_stored_notebook_keeps_no_trace_of_the_run():
    cell = nbformat.v4.new_code_cell(
        "1", outputs=[nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": "x"})]
    )
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"study": {"seconds": 3}})
    kept = reference.storable(notebook, with_images=False)
    assert kept.cells[0].outputs[0].data == {"text/plain": "x"}
    assert "study" not in kept.metadata


def benchmark_notebook(folder, parameters):
    """What `make benchmark` leaves: papermill's parameters stand second, and every cell was executed."""
    injected = nbformat.v4.new_code_cell(
        "p = 1", execution_count=2, metadata={"tags": ["injected-parameters"]}
    )
    outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "3"}, execution_count=3)]
    cells = [nbformat.v4.new_code_cell("p = 1", execution_count=1), injected]
    cells += [nbformat.v4.new_code_cell("3", execution_count=3, outputs=outputs)]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"study": {"parameters": parameters}})
    (folder / "benchmark").mkdir()
    nbformat.write(notebook, folder / "benchmark" / "11_benchmark.ipynb")


def test_the_benchmark_is_stored_as_if_run_beside_its_script(monkeypatch, tmp_path):
    own = {
        name: default for name, (_, default) in graph.declared_parameters("11_benchmark").items()
    }
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    shutil.copy(graph.FOLDER / "jupytext.toml", tmp_path)
    benchmark_notebook(tmp_path, own)
    assert reference.main(["notebooks", "benchmark"]) == 0
    stored = nbformat.read(tmp_path / "11_benchmark.ipynb", 4)
    assert [cell.execution_count for cell in stored.cells] == [1, 2]
    assert stored.cells[1].outputs[0].execution_count == 2


def test_only_a_benchmark_with_the_scripts_parameters_is_stored(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    assert reference.main(["notebooks", "benchmark"]) == 1
    assert (
        "expected what a run leaves: run make report PROFILE=benchmark first."
        in capsys.readouterr().err
    )
    benchmark_notebook(tmp_path, {"images": 10})
    assert reference.main(["notebooks", "benchmark"]) == 1
    assert "executed with other parameters" in capsys.readouterr().err
