"""13_study_latent_size finds what stands in a sweep's table, and refuses what it cannot judge.

Its cells are executed here, in this process; once it is executed as the report does.
"""

from ae_lib import StudyError
from ae_lib.run import Run, read_json, sweep_files
from ae_lib.study import graph
from ae_lib.study.__main__ import main

import numpy as np
import pandas as pd
import pytest
from scipy import stats

NAME = "13_study_latent_size"
ERROR = "dense.test.mse"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Execute the notebook's cells on the published tables as a function changed them.

    Returns its metrics' values, with their ends, and its verdicts by claim.
    """
    monkeypatch.setattr(Run, "show", lambda run, name, figure: None)

    def execute(change):
        names = ("latent_size", "bottleneck")
        tables = {name: pd.read_csv(sweep_files(name)[1]) for name in names}
        change(*tables.values())
        for name, table in tables.items():
            own, _ = sweep_files(name)
            own.parent.mkdir(parents=True)
            table.to_csv(own, index=False)
        names = {}
        with pd.option_context("display.max_colwidth", 50):
            for cell in graph.read_notebook(NAME).cells:
                if cell.cell_type == "code":
                    exec(cell.source, names)
        path = tmp_path / "reports" / "latent_size" / "artifacts" / NAME / "results.json"
        results = read_json(path)
        return results["metrics"], {claim: verdict for claim, *_, verdict in results["claims"]}

    return execute


def noise(table):
    return 1 + 0.01 * table["seed"]


def verdict_of(verdicts, start):
    return next(verdict for claim, verdict in verdicts.items() if claim.startswith(start))


def test_known_effects_are_found(study):
    def change(linear, relu):
        errors = dict(zip((2, 4, 8, 16, 32, 64), (1, 0.4, 0.1, 0.099, 0.098, 0.097), strict=True))
        dims = linear["latent_dim"]
        linear[ERROR] = dims.map(errors) * noise(linear)
        linear["pca_clipped.test.mse"] = np.where(dims == 4, 0.5, 2) * dims.map(errors)
        linear["dense.test.knn5_accuracy"] = linear["pca.test.knn5_accuracy"] - 0.01 * noise(linear)
        for name in linear:
            if name.startswith("codec.dense.step") and name.endswith(".mse"):
                linear.loc[dims == 64, name] /= 1000
        ratios, dims = {2: 0.9, 8: 1, 32: 1.1}, relu["latent_dim"]
        relu[ERROR] = dims.map(ratios) * dims.map(errors) * noise(relu) ** 2 / 1.02

    metrics, verdicts = study(change)
    values = 1 + 0.01 * np.arange(5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert metrics["size_2.mse"] == pytest.approx({"value": 1.02, "low": low, "high": high})
    over_own = metrics["size_32.pca_mse_over_own"]["value"]
    assert over_own == pytest.approx((2 / values).mean())
    added = metrics["size_32.relu_added_mse_percent"]["value"]
    assert added == pytest.approx(10, abs=0.1)
    expected = {
        "2 numbers err less": "yes",
        "4 numbers err less": "no",
        "codes of 8 numbers have better": "no",
        "a linear bottleneck of 2 ": "no",
        "a linear bottleneck of 8 ": "undecided",
        "a linear bottleneck of 32 ": "yes",
        "the error has a knee": "yes",
        "one size has the least": "yes",
    }
    assert {start: verdict_of(verdicts, start) for start in expected} == expected


def test_a_power_law_has_no_knee(study):
    def change(linear, relu):
        for table in (linear, relu):
            table[ERROR] = noise(table) / table["latent_dim"]

    assert verdict_of(study(change)[1], "the error has a knee") == "no"


OTHERS = "differ in sizes, seeds or bottlenecks; expected the same networks"


@pytest.mark.parametrize(
    ("which", "column", "values", "message"),
    [
        (
            0,
            "status",
            ["failed"] + ["done"] * 29,
            "1 of 30 trials of latent_size are not done: run",
        ),
        (0, "seed", [0] * 30, "latent_size is not over three sizes or more and as many seeds"),
        (1, "02_train.epochs", 3, "bottleneck and latent_size differ in 02_train.epochs; expected"),
        (0, "02_train.bottleneck", "relu", OTHERS),
        (1, "seed", [5, 6, 7, 8, 9] * 3, OTHERS),
    ],
)
def test_a_table_that_cannot_be_judged_is_refused(study, which, column, values, message):
    with pytest.raises(StudyError, match=message):
        study(lambda *tables: tables[which].__setitem__(column, values))


def test_a_sweep_of_fewer_notebooks_is_refused(study):
    def change(linear, relu):
        linear.drop(columns="pca_clipped.test.mse", inplace=True)

    with pytest.raises(StudyError, match="latent_size has no pca_clipped.test.mse; expected them"):
        study(change)


def test_its_front_page_shows_the_claims_and_where_they_are_from(tmp_path):
    assert main(["report", "latent_size"]) == 0
    folder = tmp_path / "reports" / "latent_size"
    page = (folder / "index.html").read_text(encoding="utf-8")
    claims = read_json(folder / "artifacts" / NAME / "results.json")["claims"]
    assert len(claims) == page.count("<tr><td>") - 1  # and one of the pages
    origin = "the sweep latent_size as published and the sweep bottleneck as published"
    assert f"MNIST from {origin}" in page
    assert "MD5" not in page
    assert "<dt>seeds" not in page
