"""13_study_latent_size reports what stands in the tables of sweeps, and refuses what it cannot use.

Its cells are executed here, in this process, on tables that are made here; once it is executed as
the report does.
"""

import json

from ae_lib import StudyError
from ae_lib.run import Run, read_json, sweep_files
from ae_lib.study import graph
from ae_lib.study.__main__ import main

import numpy as np
import pandas as pd
import pytest

NAME = "13_study_latent_size"
SIZES, SEEDS = (2, 8, 32), range(5)
ERROR = {2: 0.04, 8: 0.02, 32: 0.01}
COMPARED = [
    ("03_evaluate", "dense.test.sse", "pca_clipped.test.sse", "lower"),
    ("05_explore_latent_space", "dense.test.knn5_accuracy", "pca.test.knn5_accuracy", "higher"),
    ("05_explore_latent_space", "dense.test.linear_probe_accuracy",
     "pca.test.linear_probe_accuracy", "higher"),
]  # fmt: skip


def results(bottleneck):
    """A sweep's results: the larger the code, the lower all errors."""
    rows = [(size, seed) for size in SIZES for seed in SEEDS]
    table = pd.DataFrame(rows, columns=["latent_dim", "seed"])
    noise = 1 + 0.01 * table["seed"]
    table["02_train.dataset"], table["02_train.epochs"] = "mnist", 50
    table["02_train.bottleneck"], table["status"] = bottleneck, "done"
    for split in ("val", "test"):
        table[f"dense.{split}.sse"] = table["latent_dim"].map(ERROR) * noise
        table[f"dense.{split}.knn5_accuracy"] = 1 - table["latent_dim"].map(ERROR) * noise
        table[f"dense.{split}.linear_probe_accuracy"] = 1 - table["latent_dim"].map(ERROR) * noise
    table["pca_clipped.test.sse"], table["mean.test.sse"] = (
        2 * table["latent_dim"].map(ERROR),
        0.067,
    )
    table["pca.test.knn5_accuracy"] = table["pca.test.linear_probe_accuracy"] = 0.9
    table["07_compress_images.steps"] = table["07_compress_images.pca_steps"] = "[0.5, 2]"
    table["dense.dead_units"] = 3 if bottleneck == "relu" else 0
    for codec in ("dense", "pca"):
        for step, name in ((0.5, "step_0_5"), (2, "step_2")):
            table[f"codec.{codec}.{name}.bits_per_image"] = 20 * table["latent_dim"] ** 0.5 / step
            table[f"codec.{codec}.{name}.mse"] = table["latent_dim"].map(ERROR) * (1 + step)
    return table


def claims():
    """Claims as `ae_lib.study.sweep.judge` writes them: all hold but those at 8."""
    rows = [
        (size, notebook, len(SEEDS), f"Claim about {measured}", measured, baseline, better,
         *((0.01, 0.005, 0.015, 0.001, "yes") if size != 8 else (-0.1, -0.2, 0, 0.004, "no")))
        for size in SIZES
        for notebook, measured, baseline, better in COMPARED
    ]  # fmt: skip
    columns = ["latent_dim", "notebook", "seeds", "claim", "measured", "baseline", "better"]
    return pd.DataFrame(rows, columns=[*columns, "gain", "low", "high", "p", "verdict"])


def write_sweeps(change=lambda linear, relu, claims: None):
    tables = results("linear"), results("relu"), claims()
    change(*tables)
    own = [sweep_files("latent_size")[0], sweep_files("bottleneck")[0]]
    own.append(sweep_files("latent_size", "claims")[0])
    for path, table in zip(own, tables, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
    tables[2].to_csv(sweep_files("bottleneck", "claims")[0], index=False)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Execute the notebook's cells on tables as a function changed them; what they define."""
    figures = {}
    monkeypatch.setattr(
        Run, "show", lambda run, name, figure: figures.update({name: figure.get_label()})
    )

    def execute(change=lambda linear, relu, claims: None):
        write_sweeps(change)
        names = {"figures_shown": figures}
        with pd.option_context("display.max_colwidth", 50):
            for cell in graph.read_notebook(NAME).cells:
                if cell.cell_type == "code":
                    exec(cell.source, names)
        return names

    return execute


def saved(tmp_path):
    return read_json(tmp_path / "reports" / "latent_size" / "artifacts" / NAME / "results.json")


def test_sizes_are_chosen_on_validation_images_and_reported_on_test_images(study):
    def change(linear, relu, claims):
        linear["dense.val.sse"] = linear["latent_dim"].map({2: 1, 8: 3, 32: 2}) * linear["seed"]
        linear["dense.val.knn5_accuracy"] = 0.9 + linear["latent_dim"].map({2: 0, 8: 0.05, 32: 0})

    names = study(change)
    best = names["chosen"]["lowest validation error"].to_dict()
    assert best == {"reconstruction": 2, "5-NN": 8, "linear probe": 32}
    shown = names["table"].loc["5-NN"].tolist()
    assert shown[:2] == ["knn5_accuracy", 8], "though the test images would say 32"
    assert shown[2] == f"{1 - 0.02 * 1.02:.4f} ± {0.02 * np.std(0.01 * np.arange(5), ddof=1):.4f}"
    assert shown[3:] == ["0.9000", "no"]


def test_the_smallest_size_within_one_standard_error_is_sufficient(study):
    values = np.array([1.0, 2, 3, 4, 5])  # mean 3, standard error 0.707
    shifts = {2: 0.75, 8: 0.70, 32: 0.0}

    def change(linear, relu, claims):
        for size, shift in shifts.items():
            linear.loc[linear["latent_dim"] == size, "dense.val.sse"] = values + shift

    chosen = study(change)["chosen"].loc["reconstruction"]
    assert chosen.to_list() == [32, 8]


def test_all_purposes_and_dimensions_are_decided_together(study, tmp_path):
    def change(linear, relu, claims):
        claims.loc[claims["latent_dim"] == 8, "p"] = 0.03  # below 0.05 for one, not for three

    undecided = study(change)["decided"].loc["reconstruction"]["verdict"]
    assert undecided.to_dict() == {2: "yes", 8: "no difference detected", 32: "yes"}
    names = study()
    decided = names["decided"].loc["5-NN"]["verdict"]
    assert decided.to_dict() == {2: "yes", 8: "no", 32: "yes"}
    kept = saved(tmp_path)["claims"]
    assert [claim["verdict"] for claim in kept] == ["yes"] * 3
    assert kept[0]["claim"] == "32 latent dimensions: Claim about dense.test.sse"
    assert kept[0]["gain"] == {"value": 0.01, "low": 0.005, "high": 0.015, "p": 0.001}
    assert "5-NN 2, 32; linear probe 2, 32" in names["figures_shown"]["13_features"]


def test_every_seed_of_a_relu_bottleneck_is_counted_and_so_are_collapsed_networks(study, tmp_path):
    def change(linear, relu, claims):
        relu["dense.test.sse"] = 1.1 * linear["dense.test.sse"]
        relu.loc[3, "dense.test.sse"] = 0.0669  # 2 dimensions, seed 3
        relu.loc[5, "dense.test.sse"] = 0.0199  # 8 dimensions, seed 0

    names = study(change)
    counts = names["counts"]
    assert counts["seeds"].to_list() == [5, 5, 5]
    assert counts["relu_is_worse"].to_list() == [5, 4, 5]
    assert counts["has_collapsed"].to_list() == [1, 0, 0]
    assert counts["median_ratio"].to_list() == pytest.approx([1.1] * 3)
    assert counts[["dead_relu", "dead_linear"]].to_numpy().tolist() == [[3, 0]] * 3
    caption = names["figures_shown"]["13_bottleneck"]
    assert "higher error than a linear one in 5 of 5 seeds with 2 dimensions, 4 of 5" in caption
    assert "; of the 15 ReLU networks, 1 collapsed to the mean" in caption
    assert saved(tmp_path)["metrics"]["relu_2.test.collapsed_networks"] == {"value": 1.0}


def test_pca_is_a_candidate_at_every_rate(study):
    def change(linear, relu, claims):
        for name in ("codec.pca.step_0_5.mse", "codec.pca.step_2.mse"):
            linear[name] /= 100
        linear["07_compress_images.pca_steps"] = json.dumps([0.5])  # at many bits only

    names = study(change)
    lowest = names["at_rates"].idxmin(axis=1)
    assert lowest[300] == "PCA"
    assert lowest[20] == "2 dimensions"
    assert np.isnan(names["at_rates"]["PCA"][20])


OTHERS = "differ in dimensions, seeds or bottlenecks; expected the same networks"


@pytest.mark.parametrize(
    ("which", "column", "values", "message"),
    [
        (0, "status", ["failed"] + ["done"] * 14, "1 of 15 trials of latent_size are not done"),
        (0, "seed", 0, "latent_size is not over two latent dimensions or more with as many"),
        (1, "02_train.epochs", 3, "The two sweeps differ in 02_train.epochs; expected"),
        (0, "02_train.bottleneck", "relu", OTHERS),
        (1, "seed", [5, 6, 7, 8, 9] * 3, OTHERS),
        (2, "baseline", 0, "No claim of the sweep latent_size compares dense.test.sse with pca_"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(study, which, column, values, message):
    with pytest.raises(StudyError, match=message):
        study(lambda *tables: tables[which].__setitem__(column, values))


def test_a_sweep_without_validation_metrics_is_refused(study):
    def change(linear, relu, claims):
        linear.drop(columns="dense.val.sse", inplace=True)

    with pytest.raises(StudyError, match="latent_size has no dense.val.sse; expected them"):
        study(change)


def test_its_front_page_shows_the_claims_and_where_they_are_from(tmp_path):
    write_sweeps()
    assert main(["report", "latent_size"]) == 0
    page = (tmp_path / "reports" / "latent_size" / "index.html").read_text(encoding="utf-8")
    decided = saved(tmp_path)["claims"]
    assert len(decided) == page.count("<tr><td>") - 1  # and one of the pages
    assert "the sweeps latent_size and bottleneck, of this machine: latent_size and bott" in page
    assert "MD5" not in page
    assert "<dt>seeds" not in page
