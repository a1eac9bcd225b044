"""The race is fair and complete: everybody trains the same thing, and who cannot take part is named."""

import contextlib
import io
import json
from importlib.util import find_spec

from ae_lib import StudyError
from ae_lib.study import benchmark, contenders

import keras
import numpy as np
import pandas as pd
import pytest

TINY = {"dataset": "digits", "images": 600, "validation": 100, "batch_size": 100, "latent_dim": 4}


def turn_by_turn(name, monkeypatch, capsys, turns=4):
    """The answers of a contender in this process."""
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n" * turns))
    keras.utils.set_random_seed(0)
    parts = contenders.pixels("digits", 600, 100)
    with contextlib.suppress(EOFError):
        {**contenders.CONTENDERS, **contenders.YARDSTICKS}[name](*parts, 100, 4)
    return [
        json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")
    ]


def trained(answers):
    assert len(answers) == 4
    assert answers[-1]["loss"] == pytest.approx(0.48, rel=0.1)
    assert answers[-1]["val_loss"] == pytest.approx(0.45, rel=0.1)


@pytest.mark.parametrize("name", ["study", "keras_fit"])
def test_contenders_train_the_same_thing(name, monkeypatch, capsys):
    trained(turn_by_turn(name, monkeypatch, capsys))


@pytest.mark.parametrize("name", ["torch_eager", "jax_scan"])
def test_peers_train_the_same_thing(name):
    if not find_spec(name.split("_")[0]):
        pytest.skip("an optional peer is not installed")
    peer = benchmark.Contender(
        {**TINY, "name": name}
    )  # in a process of its own: JAX's threads forbid to fork this one
    trained([peer.epoch() for _ in range(4)])
    peer.end()


def test_yardsticks_only_take_time_and_memory(monkeypatch, capsys):
    monkeypatch.setattr(contenders, "GEMM_SIZE", 64)
    for name in contenders.YARDSTICKS:
        (answer,) = turn_by_turn(name, monkeypatch, capsys, turns=1)
        assert answer["loss"] is None
        assert answer["peak_rss_mb"] > 100


def test_images_are_repeated_until_there_are_enough():
    train, val = contenders.pixels("digits", 3000, 10)
    assert (train.shape, val.shape, train.dtype) == ((3000, 784), (10, 784), np.uint8)
    np.testing.assert_array_equal(train[0], train[1200])


def test_race_goes_round_and_names_who_is_missing():
    entries = {name: {**TINY, "name": name} for name in ("study", "nobody")}
    turns, absent = benchmark.race(entries, 2)
    assert list(turns["entry"]) == ["study"] * 3
    assert list(turns["repetition"]) == [0, 1, 2]
    assert absent == {"nobody": "nobody ended without training: KeyError: 'nobody'."}
    assert turns["seconds"].iloc[0] > turns["seconds"].iloc[1]  # it compiles first


def test_race_without_the_study_is_none():
    with pytest.raises(
        StudyError, match="study ended without training: error: There is no data set 'none'"
    ):
        benchmark.race({"study": {**TINY, "name": "study", "dataset": "none"}}, 1)


@pytest.fixture
def turns():
    rows = [
        (entry, repetition, seconds)
        for entry, times in {
            "study": [5, 1, 2, 1],
            "slow": [3, 2, 2, 9],
            "gemm": [1, 0.5, 0.5, 0.5],
        }.items()
        for repetition, seconds in enumerate(times)
    ]
    table = pd.DataFrame(rows, columns=["entry", "repetition", "seconds"])
    return table.assign(loss=0.1, val_loss=0.2, peak_rss_mb=table["seconds"] * 100)


def test_summary_leaves_the_first_epoch_out_but_of_the_whole(turns):
    table = benchmark.summarise(turns, epochs=50)
    assert table.loc["study", ["median", "least", "most", "first", "whole"]].tolist() == [
        1,
        1,
        2,
        5,
        54,
    ]
    assert table.loc["slow", "peak_rss_mb"] == 900


def test_speedup_is_a_ratio_of_medians_with_the_range_of_the_rounds(turns):
    assert benchmark.speedups(turns).loc["slow"].tolist() == [2, 1, 9]


def test_gemm_rate_counts_every_product(turns):
    assert benchmark.gemm_rate(turns) == 10 * 2 * 2048**3 / 0.5


def test_operations_are_counted_by_layer():
    weights = 784 * 256 + 256 * 128 + 128 * 32
    forward, backward = 2 * 2 * weights, 2 * (2 * 2 * weights) - 2 * 784 * 256
    assert benchmark.operations(50_000, 10_000) == 50_000 * (forward + backward) + 10_000 * forward


def test_profile_names_where_the_time_goes():
    shares = benchmark.time_by_kind(TINY)
    assert shares.sum() == pytest.approx(1)
    assert {"matrix products", "Adam", "loss", "reading images"} <= set(shares.index)
    assert shares["other"] < 0.2
