"""The race is complete: every backend trains the same thing, and who cannot take part is named."""

import contextlib
import functools
import io
import json
import subprocess
import sys
from importlib.util import find_spec

from ae_lib import StudyError, metrics, models
from ae_lib.run import PROJECT, is_duration
from ae_lib.study import backends, benchmark

import numpy as np
import pandas as pd
import pytest

# With all images in one minibatch, the first loss of an epoch is that of the initial weights.
TINY = {"dataset": "digits", "images": 600, "validation": 100, "batch_size": 600, "latent_dim": 4}
TRAININGS = [
    *(("dense", name) for name in ("keras_fit", "torch_eager")),
    *(("convolutional", name) for name in ("keras_fit", "torch_eager")),
    *(("variational", name) for name in ("keras_fit_tuned", "torch_eager")),
]
JAX = """
import json
from tests.study import test_benchmark as tests
tests.assert_predicts_the_same("jax_predict")
losses = [tests.losses_of(task, "jax_scan").tolist() for task in ("dense", "variational")]
print(json.dumps(losses))
"""


def answers_of(name, turns=3, task="dense"):
    """Be a backend in this process; return its answers after the first, that it is ready."""
    requests, answers = io.StringIO("\n" * turns), io.StringIO()
    backends.main(backends.Turns(requests, answers), name=name, task=task, **TINY)
    ready, *epochs = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert ready == {"ready": name}
    return epochs


@functools.cache
def losses_of(task, name):
    answers = answers_of(name, task=task)
    assert len(answers) == 3
    assert min(answer["seconds"] for answer in answers) > 0
    return np.array([[answer["loss"], answer["val_loss"]] for answer in answers])


def assert_same(losses, task):
    expected = losses_of(task, "study")
    # The same network, weights and loss; the sampled pixels of 600 images differ by less.
    assert losses[0][0] == pytest.approx(
        expected[0, 0], rel=5e-4 if task == "variational" else 1e-5
    )
    # Frameworks add Adam's epsilon at different places, which the first steps show.
    np.testing.assert_allclose(losses, expected, rtol=0.025)
    assert (np.diff(losses, axis=0) < 0).all()


def assert_predicts_the_same(name):
    network = models.dense_autoencoder(latent_dim=4)
    images = np.random.default_rng(0).random((7, 784), dtype="float32")
    predicted = backends.PREDICTORS[name](network)(images)
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, network.autoencoder(images), atol=1e-6)


def skip_without(*names):
    if not all(find_spec(name) for name in names):
        pytest.skip("an optional backend is not installed")


@pytest.mark.parametrize(("task", "name"), TRAININGS)
def test_backends_train_the_same_thing(task, name):
    if name.startswith("torch"):
        skip_without("torch")
    assert_same(losses_of(task, name), task)


@pytest.mark.parametrize("name", ["study", "keras", "torch", "numpy"])
def test_backends_predict_the_same(name):
    if name == "torch":
        skip_without("torch")
    assert_predicts_the_same(f"{name}_predict")


def test_jax_trains_and_predicts_the_same():
    skip_without("jax", "optax")
    # In a process of its own: JAX's threads forbid to fork this one.
    command = [sys.executable, "-c", JAX]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for losses, task in zip(json.loads(done.stdout), ("dense", "variational"), strict=True):
        assert_same(losses, task)


def test_predictors_are_asked_for_as_many_images_as_a_call_takes():
    sizes, answers = [], io.StringIO()
    turns = backends.Turns(io.StringIO("\n"), answers)
    with pytest.raises(EOFError):
        backends.predict(lambda _: lambda x: sizes.append(len(x)), turns,
                          np.zeros((5, 784), "uint8"), None, 2, None)  # fmt: skip
    assert sizes == [2, 2, 1]


def test_yardsticks_only_take_time_and_memory(monkeypatch):
    monkeypatch.setattr(backends, "GEMM_SIZE", 64)
    for name in ("gemm", "idle"):
        (answer,) = answers_of(name, turns=1)
        assert answer.keys() == {"seconds", "peak_rss_mb"}
        assert answer["peak_rss_mb"] > 100


def test_images_are_repeated_until_there_are_enough():
    train, val = backends.pixels("digits", 3000, 10)
    assert (train.shape, val.shape, train.dtype) == ((3000, 784), (10, 784), np.uint8)
    np.testing.assert_array_equal(train[0], train[1200])


def test_a_process_answers_in_json_until_it_is_ended():
    with benchmark.started({**TINY, "task": "dense", "name": "idle"}) as epoch:
        assert [epoch().keys() for _ in range(2)] == [{"seconds", "peak_rss_mb"}] * 2


def test_a_backend_that_is_not_installed_says_so_whatever_its_library_prints(tmp_path, monkeypatch):
    absent = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    (tmp_path / "torch.py").write_text(f"print('noise', flush=True)\n{absent}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    reason = "The backend torch_eager ended without training: No module named 'torch'."
    with (
        pytest.raises(StudyError, match=reason),
        benchmark.started({**TINY, "task": "dense", "name": "torch_eager"}) as epoch,
    ):
        epoch()


def test_a_backend_without_data_ends_with_one_sentence():
    with pytest.raises(StudyError, match="There is no data set 'none'"):
        backends.main(None, **{**TINY, "task": "dense", "name": "study", "dataset": "none"})


@pytest.fixture
def order(monkeypatch):
    """The order in which epochs are trained by backends that need no process."""
    trained = []

    @contextlib.contextmanager
    def started(settings):
        def epoch():
            if settings["images"] == 0:
                raise StudyError(f"{settings['name']} ended.")
            trained.append(settings["name"])
            return {"seconds": 0.0, "loss": 0.1}

        yield epoch
        trained.append(f"{settings['name']} is ended")

    monkeypatch.setattr(benchmark, "started", started)
    return trained


def test_race_goes_round_and_names_who_is_missing(order):
    entries = {"study": 600, "absent": 0, "keras_fit": 600}
    entries = {name: {**TINY, "name": name, "images": n} for name, n in entries.items()}
    turns, absent = benchmark.race(entries, 2)
    assert order[:6] == ["study", "keras_fit"] * 3
    assert set(order[6:]) >= {"study is ended", "keras_fit is ended"}
    assert list(turns["repetition"]) == [0, 0, 1, 1, 2, 2]
    assert absent == {"absent": "absent ended."}
    # The first epoch is timed from the outside, with preparing and compiling.
    assert (turns["seconds"] > 0).tolist() == [True] * 2 + [False] * 4


def test_race_without_the_study_is_refused(order):
    with pytest.raises(StudyError, match="study ended"):
        benchmark.race({"study": {**TINY, "name": "study", "images": 0}}, 1)


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


def test_entries_are_compared_in_their_order_and_who_is_absent_has_no_numbers(turns):
    table = benchmark.compared(turns, ["slow", "absent", "study"])
    assert list(table.index) == ["slow", "absent", "study"]
    assert table.loc["slow", ["median", "ratio", "least", "greatest"]].tolist() == [2, 2, 1, 9]
    assert table.loc["absent"].isna().all()


def test_a_race_is_decided_over_its_rounds(turns):
    measured = benchmark.seconds_by_round("dense", turns)
    assert measured["slow.dense.seconds"].tolist() == [2, 2, 9], "without the first turn"
    claim = benchmark.claim_against("slow", "dense")
    table = metrics.judge([claim], measured)
    assert table.loc[0, "gain"] == metrics.difference([2, 2, 9], [1, 2, 1])
    assert table.loc[0, "verdict"] == "no difference detected"
    assert all(is_duration(name) for name in measured), "they belong to a machine"


def test_a_roofline_is_the_share_of_a_rate():
    table = benchmark.roofline({"dense": 1e9, "conv": 4e9}, 2e9, {"dense": 1.0, "conv": 4.0})
    assert table["at the rate / s"].tolist() == [0.5, 2.0]
    assert table["share of the rate"].tolist() == [0.5, 0.5]


def test_time_per_image_is_in_microseconds(turns):
    table = benchmark.microseconds_per_image(turns, [1_000_000, 100_000, 10])
    assert table.loc["study", ["value", "low", "high"]].tolist() == [1, 1, 1.5]
    assert table.loc["slow", ["value", "peak_rss_mb"]].tolist() == [20, 900]


def test_gemm_counts_every_product():
    assert backends.GEMM_OPERATIONS == 10 * 2 * 2048**3


def test_operations_are_counted_by_layer():
    weights = 784 * 256 + 256 * 128 + 128 * 32
    forward, backward = 2 * 2 * weights, 2 * (2 * 2 * weights) - 2 * 784 * 256
    expected = 50_000 * (forward + backward) + 10_000 * forward
    assert backends.operations(models.dense_autoencoder(), 50_000, 10_000) == expected
    # Nine weights at each of 14 x 14 places, from 1 channel to 16, then 7 x 7, from 16 to 128.
    convolutions = 9 * 16 * 14**2 + 9 * 16 * 128 * 7**2
    forward = 2 * 2 * (convolutions + 7 * 7 * 128 * 32)
    assert backends.operations(models.convolutional_autoencoder(), 0, 1) == forward
