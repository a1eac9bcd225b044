"""The report's pages: what they show, and that they show it after each notebook."""

import re

from ae_lib import metrics
from ae_lib.metrics import Interval
from ae_lib.run import read_json, write_json
from ae_lib.study import fingerprint, graph, site
from tests.study.small_project import BODIES, metrics_of, pretend_finished, study_of


def page(folder, name="index"):
    return (folder / f"{name}.html").read_text(encoding="utf-8")


def test_a_run_makes_the_whole_folder(folder):
    names = {path.name for path in folder.iterdir()}
    pages = {f"{name}.{kind}" for name in BODIES for kind in ("html", "ipynb")}
    assert names >= {"index.html", "metrics.json", "run.json", "artifacts", *pages}
    run = read_json(folder / "run.json")
    assert run["parameters"]["03_evaluate"] == {"profile": "small", "seed": 0, "model": "dense"}
    assert set(run["seconds"]) == set(run["fingerprint"]) == set(BODIES)
    assert run["packages"]["keras"]
    assert run["data"]["title"] == "small (not MNIST)"


def test_pages_say_at_once_that_they_are_not_mnist_and_load_nothing(folder):
    for name in ("index", *BODIES):
        text = page(folder, name)
        assert "These are not MNIST's results" in text[text.index("</nav>") :][:200]
        assert not re.search(r"<(?:script|link|iframe)|(?:src|url)[=(][\"']?(?:https?:)?//", text)


def test_front_page_lists_each_claim_with_its_baseline_gain_and_verdict(folder):
    row = ["It is small", Interval(0.5, 0.4, 0.6), 0.7, Interval(0.2, 0.1, 0.3), "yes"]
    cells = "".join(f"<td>{cell}</td>" for cell in row)
    assert f"<tr>{cells}</tr>" in page(folder)


def test_metrics_are_values_with_ends_and_no_value_is_packed_into_a_name(folder):
    metrics = read_json(folder / "metrics.json")
    assert metrics["dense.test.mse"] == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert metrics["dense.val.mse"] == {"value": 0.1}
    assert not [name for name in metrics if name.endswith((".low", ".high"))]


# ------------------------------ after each notebook
def test_front_page_of_an_unfinished_run_says_what_is_still_to_come(new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    assert site.write(profile, folder, None) is None, "nothing says yet what the data are"
    pretend_finished(profile.restricted_to(["01_preprocess"]), folder)
    site.write(profile, folder, None)
    assert "Still to come: 02_train, 03_evaluate." in page(folder)
    pretend_finished(profile, folder)
    site.write(profile, folder, None)
    assert "Still to come" not in page(folder)


def test_pages_are_written_once_unless_their_notebook_has_changed(folder):
    profile = graph.load_profile("small")
    for name in BODIES:
        (folder / f"{name}.html").write_text("old")
    (folder / "03_evaluate.html").unlink()
    site.write(profile, folder, None, changed=["01_preprocess"])
    assert [page(folder, name) == "old" for name in BODIES] == [False, True, False]


def test_metrics_of_a_deleted_notebook_vanish(folder):
    assert set(metrics_of(folder)) == {"data.test.entropy_floor", "dense.val.mse", "dense.test.mse"}
    (graph.FOLDER / "03_evaluate.py").unlink()
    site.write(graph.load_profile("small"), folder, None)
    assert set(metrics_of(folder)) == {"data.test.entropy_floor", "dense.val.mse"}
    assert "It is small" not in page(folder)


def test_what_could_not_be_computed_is_null_and_named_as_missing(new_project, monkeypatch):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    entries = {"dense.test.mse": {"value": None}, "dense.test.ssim": {"value": 0.9}}
    pretend_finished(profile, folder, {"03_evaluate": entries})
    published = {"value": 1.0, "tolerance": 0.1}
    reference = {"dense.test.mse": published, "dense.test.gone": published}
    monkeypatch.setattr(site, "reference", lambda profile: reference)
    comparison = site.write(profile, folder, None)
    assert read_json(folder / "metrics.json")["dense.test.mse"] == {"value": None}
    assert comparison.summary.startswith("reproduced 0 of 2 headline metrics")
    assert page(folder).count("<td>NO</td>") == 2


def test_notice_is_shown(new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    pretend_finished(profile, folder)
    site.write(profile, folder, "The network is down.")
    assert (
        "<b>MNIST is not available</b>, so the embedded digits were used. The network is down."
        in page(folder)
    )


def test_front_page_compares_with_what_is_published(folder, monkeypatch):
    published = {"dense.test.mse": {"value": 0.5, "tolerance": 0.1}}
    monkeypatch.setattr(site, "reference", lambda profile: published)
    assert site.write(graph.load_profile("small"), folder, None).summary == (
        "reproduced 1 of 1 headline metrics (1 of them with a tolerance above 10% of the value)"
    )
    row = ["dense.test.mse", "0.5", "0.5", "± 0.1", "yes"]
    assert "".join(f"<td>{cell}</td>" for cell in row) in page(folder)


# ------------------------------ table of results
def test_the_table_has_a_column_for_each_score():
    assert tuple(site.SCORES) == metrics.SCORES


def test_table_has_a_row_for_each_model_autoencoders_first_in_the_studys_order(new_project):
    models = ("mean", "conv", "vae", "pca", "dense", "another")
    scores = [f"{model}.test.{score}" for model in models for score in ("mse", "ssim")]
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    entries = dict.fromkeys([*scores, "seldom.test.mse"], half) | {
        "dense.latent_dim": {"value": 32}
    }
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    pretend_finished(profile, folder, {"03_evaluate": entries})
    site.write(profile, folder, None)
    rows = re.findall(r"<tr><td>(\w+)(.*?)</td>(.*)</tr>", page(folder))
    rows = [row for row in rows if "0.5000" in row[2]]
    assert [row[0] for row in rows] == ["dense", "conv", "vae", "another", "pca", "mean"]
    assert [row[1] for row in rows] == [" <small>(32)</small>"] + [""] * 5
    cell = "<td>0.5000<br><small>0.4000 to 0.6000</small></td>"
    none = "<td>–</td>"
    assert {row[2] for row in rows} == {none * 2 + cell + none * 2 + cell}


def test_front_page_shows_the_metrics_of_both_sides_of_a_claim_and_its_words_as_text(new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    entries = {"dense.test.mse": {"value": 0.5}, "pca.test.mse": {"value": 0.25}}
    pretend_finished(profile, folder, {"03_evaluate": entries})
    path = folder / "artifacts" / "03_evaluate" / "results.json"
    claim = {"claim": "MSE < PCA's", "measured": "dense.test.mse", "baseline": "pca.test.mse"}
    claim |= {"better": "lower", "gain": {"value": -0.25}, "verdict": "–"}
    write_json(path, read_json(path) | {"claims": [claim]})
    site.write(profile, folder, None)
    cells = ["MSE &lt; PCA&#39;s", "0.5000", "0.2500", "-0.2500", "–"]
    assert f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" in page(folder)


def test_front_page_says_what_was_done_to_the_images_and_what_is_left_out(new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    pretend_finished(profile, folder)
    for name in ("02_train", "03_evaluate"):
        path = folder / f"{name}.ipynb"
        notebook = read_json(path)
        notebook["metadata"]["study"]["left_out"] = "it needs two classes"
        write_json(path, notebook)
    facts = read_json(folder / "artifacts" / "01_preprocess" / "data.json")
    facts["notes"] = ["Dark on light was inverted.", "There are no labels."]
    write_json(folder / "artifacts" / "01_preprocess" / "data.json", facts)
    site.write(profile, folder, None)
    assert "About the images: Dark on light was inverted. There are no labels." in page(folder)
    expected = "<b>Left out</b> in part of 02_train, 03_evaluate: it needs two classes."
    assert expected in page(folder)


def test_results_of_notebooks_are_collected_with_the_notebook_of_each_claim(tmp_path):
    claim = {"claim": "a", "measured": "pca.test.mse", "baseline": 1.0}
    for name, metric in (("01_a", "dense.test.mse"), ("02_b", "pca.test.mse")):
        path = tmp_path / "artifacts" / name / "results.json"
        path.parent.mkdir(parents=True)
        results = {"metrics": {metric: {"value": 1.0}}, "headline": [], "claims": []}
        if name == "02_b":
            results |= {"headline": ["pca.test.mse"], "claims": [claim]}
        write_json(path, results)
    results = site.collect(tmp_path, ["01_a", "02_b"])
    assert results["headline"] == ["pca.test.mse"]
    assert list(results["metrics"]) == ["dense.test.mse", "pca.test.mse"]
    assert results["claims"] == [{**claim, "notebook": "02_b"}]


def test_the_finished_run_is_what_the_executor_noted(folder):
    current = fingerprint.fingerprints(graph.load_profile("small"))
    for name in BODIES:
        assert study_of(folder / f"{name}.ipynb")["fingerprint"] == current[name]
