"""13_study_latent_size finds what stands in a sweep's table, and refuses a table that it cannot judge."""

from ae_lib import StudyError
from ae_lib import run as runs
from ae_lib.study import graph, report

import numpy as np
import pandas as pd
import pytest
from scipy import stats

NAME = "13_study_latent_size"
ERROR = "dense.test.mse"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Execute the notebook on the published tables as a function changed them; returns its metrics, and verdicts by claim."""
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))

    def execute(change):
        tables = {
            name: pd.read_csv(runs.sweep_files(name)[1]) for name in ("latent_size", "bottleneck")
        }
        change(*tables.values())
        for name, table in tables.items():
            own, _ = runs.sweep_files(name)
            own.parent.mkdir(parents=True)
            table.to_csv(own, index=False)
        report.execute(graph.read_notebook(NAME), {}, tmp_path / f"{NAME}.ipynb")
        claims = runs.read_json(tmp_path / "latent_size" / "artifacts" / f"{NAME}.claims.json")
        return runs.read_json(tmp_path / "latent_size" / "metrics.json"), {
            claim: verdict for claim, _, _, verdict in claims
        }

    return execute


def noise(table):
    return 1 + 0.01 * table["seed"]


def test_known_effects_are_found(study):
    def change(linear, relu):
        errors = dict(zip((2, 4, 8, 16, 32, 64), (1, 0.4, 0.1, 0.099, 0.098, 0.097), strict=True))
        linear[ERROR] = linear["latent_dim"].map(errors) * noise(linear)
        linear["pca_clipped.test.mse"] = np.where(linear["latent_dim"] == 4, 0.5, 2) * linear[
            "latent_dim"
        ].map(errors)
        linear["dense.test.knn5_accuracy"] = linear["pca.test.knn5_accuracy"] - 0.01 * noise(linear)
        for name in linear:
            if name.startswith("codec.dense.step") and name.endswith(".mse"):
                linear.loc[linear["latent_dim"] == 64, name] /= 1000
        ratios = {2: 0.9, 8: 1, 32: 1.1}
        relu[ERROR] = (
            relu["latent_dim"].map(ratios)
            * relu["latent_dim"].map(errors)
            * noise(relu) ** 2
            / 1.02
        )

    metrics, verdicts = study(change)
    values = 1 + 0.01 * np.arange(5)
    ends = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert [metrics[f"size_2.mse{end}"] for end in ("", ".low", ".high")] == pytest.approx(
        [1.02, *ends]
    )
    assert metrics["size_32.pca_mse_over_own"] == pytest.approx((2 / values).mean())
    assert metrics["size_32.relu_added_mse_percent"] == pytest.approx(10, abs=0.1)
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
    assert {
        start: next(v for claim, v in verdicts.items() if claim.startswith(start))
        for start in expected
    } == expected


def test_its_front_page_shows_the_claims_and_where_they_are_from(tmp_path, monkeypatch):
    monkeypatch.setenv("AE_REPORTS_DIR", str(tmp_path))
    page = report.run("latent_size").read_text(encoding="utf-8")
    claims = runs.read_json(tmp_path / "latent_size" / "artifacts" / f"{NAME}.claims.json")
    assert len(claims) == page.count("<tr><td>") - 1  # and one of the pages
    assert (
        "MNIST from the sweep latent_size as published and the sweep bottleneck as published"
        in page
    )
    assert "MD5" not in page
    assert "<dt>seeds" not in page


def test_a_power_law_has_no_knee(study):
    def change(linear, relu):
        linear[ERROR], relu[ERROR] = (
            noise(linear) / linear["latent_dim"],
            noise(relu) / relu["latent_dim"],
        )

    _, verdicts = study(change)
    assert (
        next(
            verdict
            for claim, verdict in verdicts.items()
            if claim.startswith("the error has a knee")
        )
        == "no"
    )


@pytest.mark.parametrize(
    ("which", "column", "values", "message"),
    [
        (
            0,
            "status",
            ["failed"] + ["done"] * 29,
            "1 of 30 cells of latent_size are not done: run make sweep SWEEP=latent_size",
        ),
        (0, "seed", [0] * 30, "latent_size is not over three sizes or more and as many seeds"),
        (
            1,
            "02_train.epochs",
            3,
            "bottleneck and latent_size differ in 02_train.epochs; expected the same networks",
        ),
        (
            0,
            "02_train.bottleneck",
            "relu",
            "differ in sizes, seeds or bottlenecks; expected the same networks",
        ),
        (
            1,
            "seed",
            [5, 6, 7, 8, 9] * 3,
            "differ in sizes, seeds or bottlenecks; expected the same networks",
        ),
    ],
)
def test_a_table_that_cannot_be_judged_is_refused(study, which, column, values, message):
    with pytest.raises(StudyError, match=message):
        study(lambda *tables: tables[which].__setitem__(column, values))


def test_a_sweep_of_fewer_notebooks_is_refused(study):
    with pytest.raises(
        StudyError,
        match="latent_size has no pca_clipped.test.mse; expected them: name the notebooks",
    ):
        study(lambda linear, relu: linear.drop(columns="pca_clipped.test.mse", inplace=True))
