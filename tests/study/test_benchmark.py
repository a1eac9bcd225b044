"""The race is complete: every backend trains the same thing, and who cannot take part is named."""

import io
import json
from importlib.util import find_spec

from ae_lib import StudyError
from ae_lib.study import benchmark

import numpy as np
import pandas as pd
import pytest

TINY = {"dataset": "digits", "images": 600, "validation": 100, "batch_size": 100, "latent_dim": 4}


def answers_of(name, turns=4):
    """Be a backend in this process; return its answers after the first, that it is ready."""
    requests, answers = io.StringIO("\n" * turns), io.StringIO()
    benchmark.main(benchmark.Turns(requests, answers), name=name, **TINY)
    ready, *epochs = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert ready == {"ready": name}
    return epochs


def assert_trained(answers):
    assert len(answers) == 4
    assert answers[-1]["loss"] == pytest.approx(0.48, rel=0.1)
    assert answers[-1]["val_loss"] == pytest.approx(0.45, rel=0.1)
    assert answers[-1]["seconds"] > 0


@pytest.fixture
def without_torch(tmp_path, monkeypatch):
    """PyTorch is not installed, for processes started from here."""
    absent = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch.py").write_text(absent)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("name", ["study", "keras_fit"])
def test_backends_train_the_same_thing(name):
    assert_trained(answers_of(name))


@pytest.mark.parametrize("name", ["torch_eager", "jax_scan"])
def test_optional_backends_train_the_same_thing(name):
    if not find_spec(name.split("_")[0]):
        pytest.skip("an optional backend is not installed")
    # In a process of its own: JAX's threads forbid to fork this one.
    with benchmark.started({**TINY, "name": name}) as epoch:
        assert_trained([epoch() for _ in range(4)])


def test_yardsticks_only_take_time_and_memory(monkeypatch):
    monkeypatch.setattr(benchmark, "GEMM_SIZE", 64)
    for name in benchmark.YARDSTICKS:
        (answer,) = answers_of(name, turns=1)
        assert answer.keys() == {"seconds", "peak_rss_mb"}
        assert answer["peak_rss_mb"] > 100


def test_images_are_repeated_until_there_are_enough():
    train, val = benchmark.pixels("digits", 3000, 10)
    assert (train.shape, val.shape, train.dtype) == ((3000, 784), (10, 784), np.uint8)
    np.testing.assert_array_equal(train[0], train[1200])


def test_race_goes_round_and_names_a_backend_that_is_not_installed(without_torch):
    entries = {label: {**TINY, "name": label} for label in ("study", "torch_eager")}
    turns, absent = benchmark.race(entries, 2)
    assert list(turns["entry"]) == ["study"] * 3
    assert list(turns["repetition"]) == [0, 1, 2]
    reason = "The backend torch_eager ended without training: No module named 'torch'."
    assert absent == {"torch_eager": reason}
    assert turns["seconds"].iloc[0] > turns["seconds"].iloc[1]  # it compiles first


def test_race_without_the_study_is_refused():
    none = {**TINY, "name": "study", "dataset": "none"}
    with pytest.raises(StudyError, match="study ended without training: There is no data set 'no"):
        benchmark.race({"study": none}, 1)


def test_answers_are_json_whatever_a_library_prints(tmp_path, monkeypatch):
    # Imported at the start of every Python process: a library that prints, at once and at the end.
    noisy = "import atexit\natexit.register(print, 'noise')\n"
    (tmp_path / "optax.py").write_text("print('noise', flush=True)\n" + noisy)
    (tmp_path / "jax.py").write_text("import optax\nraise ModuleNotFoundError('no jax here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        pytest.raises(StudyError, match="jax_scan ended without training"),
        benchmark.started({**TINY, "name": "jax_scan"}) as epoch,
    ):
        epoch()


@pytest.fixture
def turns():
    seconds = {"study": [5, 1, 2, 1], "slow": [3, 2, 2, 9], "gemm": [1, 0.5, 0.5, 0.5]}
    table = pd.DataFrame(seconds).rename_axis("repetition").reset_index()
    table = table.melt("repetition", var_name="entry", value_name="seconds")
    return table.assign(loss=0.1, val_loss=0.2, peak_rss_mb=table["seconds"] * 100)


def test_summary_leaves_the_first_epoch_out_of_all_but_the_total(turns):
    table = benchmark.summarise(turns, epochs=50)
    columns = ["median", "low", "high", "min", "max", "first", "total"]
    assert table.loc["study", columns].tolist() == [1, 1, 1.5, 1, 2, 5, 54]
    assert table.loc["slow", "peak_rss_mb"] == 900
    assert list(table.index) == ["study", "slow", "gemm"]


def test_speedup_is_a_ratio_of_medians_with_the_range_of_the_rounds(turns):
    assert benchmark.speedups(turns).loc["slow"].tolist() == [2, 1, 9]


def test_gemm_counts_every_product():
    assert benchmark.GEMM_OPERATIONS == 10 * 2 * 2048**3


def test_operations_are_counted_by_layer():
    weights = 784 * 256 + 256 * 128 + 128 * 32
    forward, backward = 2 * 2 * weights, 2 * (2 * 2 * weights) - 2 * 784 * 256
    assert benchmark.operations(50_000, 10_000) == 50_000 * (forward + backward) + 10_000 * forward
