"""The report's site: what it shows, that it shows it after each notebook, and to whom."""

import base64
import io
import shutil

from ae_lib import StudyError, metrics
from ae_lib.run import read_json, write_json
from ae_lib.study import explorer, fingerprint, graph, site
from ae_lib.study.results import collect
from tests.study import small_project as small
from tests.study.small_project import BODIES, metrics_of, pretend_finished, study_of

import bs4
import nbformat
import pytest
from PIL import Image

CLAIM = {
    "claim": "MSE < PCA's, of `dense`", "measured": "dense.test.mse", "baseline": "pca.test.mse",
    "better": "lower", "gain": {"value": -0.25}, "verdict": "no",
}  # fmt: skip


def page(folder, name="index"):
    return (folder / f"{name}.html").read_text(encoding="utf-8")


def soup(folder, name="index"):
    return bs4.BeautifulSoup(page(folder, name), "html.parser")


def rows(table):
    cells = [row.select("td") for row in table.select("tr")]
    return [[cell.text.replace("\u00a0", " ") for cell in row] for row in cells]


@pytest.fixture
def front(new_project, monkeypatch):
    """Write a small run's front page, without Sphinx, which takes seconds; returns its parts."""
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    monkeypatch.setattr(site, "_build", lambda *arguments: None)

    def write(entries=None, claims=(), facts=None, notice=None, targets=tuple(BODIES)):
        pretend_finished(profile.restricted_to(targets), folder, {targets[-1]: entries or {}})
        path = folder / "artifacts" / targets[-1] / "results.json"
        write_json(path, read_json(path) | {"claims": list(claims)})
        path = folder / "artifacts" / "01_preprocess" / "data.json"
        write_json(path, read_json(path) | (facts or {}))
        site.write(profile, folder, notice)
        text = (folder / site.WORK / "source" / "index.md").read_text(encoding="utf-8")
        return bs4.BeautifulSoup(text, "html.parser")

    return write


def test_a_run_makes_the_whole_folder(folder):
    names = {path.name for path in folder.iterdir()}
    pages = {f"{name}.{kind}" for name in BODIES for kind in ("html", "ipynb")}
    assert names >= {"index.html", "search.html", "metrics.json", "run.json", "artifacts", *pages}
    run = read_json(folder / "run.json")
    assert run["parameters"]["03_evaluate"] == {"profile": "small", "seed": 0, "model": "dense"}
    assert set(run["seconds"]) == set(run["fingerprint"]) == set(run["finished"]) == set(BODIES)
    assert run["packages"]["keras"]
    assert run["data"]["title"] == "small (not MNIST)"
    assert (folder / site.WORK / "warnings.txt").read_text() == ""


def test_every_page_says_that_it_is_not_mnist_and_its_links_lead_to_something(folder):
    for name in ("index", *BODIES, "search"):
        parsed = soup(folder, name)
        banner = parsed.select_one(".bd-header-announcement")
        assert "These are not MNIST's results. This run is on small" in banner.text
        for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
            for link in parsed.find_all(tag, **{attribute: True}):
                file, _, anchor = link[attribute].partition("#")
                target = folder / (file.partition("?")[0] or f"{name}.html")
                assert target.is_file(), link
                if anchor and target.suffix == ".html":
                    assert f'id="{anchor}"' in target.read_text(encoding="utf-8"), link


def test_each_claim_has_its_number_baseline_gain_and_verdict_and_leads_to_its_cell(folder):
    row = ["It is small", "yes", "0.5000 [0.4000, 0.6000]", "0.7", "0.2000 [0.1000, 0.3000]"]
    table = soup(folder).select_one("[aria-label='All claims']")
    assert row in rows(table)
    file, _, anchor = table.select_one("td a")["href"].partition("#")
    assert file == "03_evaluate.html"
    cell = soup(folder, "03_evaluate").find(id=anchor).find_next(class_="cell")
    assert '"claim": "It is small"' in cell.text


def test_metrics_are_values_with_ends_and_no_value_is_packed_into_a_name(folder):
    metrics = read_json(folder / "metrics.json")
    assert metrics["dense.test.mse"] == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert metrics["dense.val.mse"] == {"value": 0.1}
    assert not [name for name in metrics if name.endswith((".low", ".high"))]


def test_code_is_folded_and_the_notebook_can_be_downloaded_as_it_was_executed(folder):
    parsed = soup(folder, "03_evaluate")
    assert len(parsed.select("details.hide .cell_input")) == len(parsed.select(".cell_input")) > 0
    link = parsed.select_one("a[href^='_sources/']")["href"]
    assert (folder / link).read_bytes() == (folder / "03_evaluate.ipynb").read_bytes()


def test_the_guide_and_an_explorer_stand_in_the_table_of_contents_if_there_are_any(folder, project):
    assert "explorer.html" not in page(folder)
    (folder / "explorer.html").write_text("own")
    (project / "notebooks" / "guide").mkdir()
    (project / "notebooks" / "guide" / "help.md").write_text("# Help\n\n[2](../02_train.ipynb)\n")
    site.write(graph.load_profile("small"), folder, None)
    links = {link["href"] for link in soup(folder, "guide/help").select("nav a")}
    assert {"../explorer.html", "../02_train.html", "../index.html"} <= links
    assert soup(folder).select_one("main a[href='explorer.html']")
    assert page(folder, "explorer") == "own"


def test_the_explorer_is_of_the_runs_models_and_written_again_if_they_have_changed(
    tmp_path, monkeypatch
):
    written = []

    def write(folder, images, model, state):
        written.append((images.title, model))
        (folder / "explorer.html").write_text(f'<meta content="{state}">')

    monkeypatch.setattr(explorer, "write", write)
    profile = graph.Profile("small", {"02_train": {"dataset": "digits", "image_size": []}})
    site._write_explorer(profile, tmp_path, {"02_train": "a"})
    assert written == [], "there is no model"
    path = tmp_path / "artifacts" / "02_train" / "dense.keras"
    path.parent.mkdir(parents=True)
    path.touch()
    for fingerprint_of_training in ("a", "a", "b"):
        site._write_explorer(profile, tmp_path, {"02_train": fingerprint_of_training})
    assert written == [("scikit-learn digits (not MNIST)", "dense")] * 2


# ------------------------------ after each notebook
def test_front_page_of_an_unfinished_run_says_what_is_still_to_come(front, new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    assert site.write(profile, folder, None) is None, "nothing says yet what the data are"
    assert "Still to come: 02_train, 03_evaluate." in front(targets=["01_preprocess"]).text
    assert "Still to come" not in front().text


@pytest.fixture
def built(monkeypatch):
    """How often Sphinx runs, and what it is asked to make."""
    asked, run = [], site._run_sphinx

    def noting(folder, builder, options, only=()):
        asked.append([path.stem for path in only])
        run(folder, builder, options, only)

    monkeypatch.setattr(site, "_run_sphinx", noting)
    return asked


def test_pages_are_made_again_if_they_have_changed_and_all_at_the_end(folder, built):
    profile = graph.load_profile("small")
    site.write(profile, folder, None)
    assert built == []
    for name in BODIES:
        (folder / f"{name}.html").write_text("old")
    (folder / "03_evaluate.html").unlink()
    site.write(profile, folder, None, changed=["01_preprocess"])
    assert [page(folder, name) == "old" for name in BODIES] == [False, True, False]
    site.write(profile, folder, "A notice.")
    assert [page(folder, name) == "old" for name in BODIES] == [False] * 3
    assert built == [["index", "01_preprocess", "03_evaluate"], []]


def test_a_failure_leaves_the_pages(folder, monkeypatch):
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError

    def fail(*arguments, **options):
        raise SphinxError("no more")

    good = small.contents(folder)
    monkeypatch.setattr(Sphinx, "build", fail)
    with pytest.raises(StudyError, match="Sphinx could not make the pages of .*: no more; expect"):
        site.write(graph.load_profile("small"), folder, "A notice.")
    pages = folder / site.WORK / "html"
    (pages / "index.html").write_text("<html>", encoding="utf-8")
    with pytest.raises(StudyError, match="index.html was not written to its end; expected some"):
        site._publish(pages, folder)
    assert small.contents(folder) == good


def test_metrics_of_a_deleted_notebook_vanish(folder):
    assert set(metrics_of(folder)) == {"data.test.entropy_floor", "dense.val.mse", "dense.test.mse"}
    (graph.FOLDER / "03_evaluate.py").unlink()
    site.write(graph.load_profile("small"), folder, None)
    assert set(metrics_of(folder)) == {"data.test.entropy_floor", "dense.val.mse"}
    assert "It is small" not in page(folder)


# ------------------------------ the front page
def test_another_metric_is_another_number_and_verdict_on_the_front_page(front):
    entries = {"dense.test.mse": {"value": 0.5}, "pca.test.mse": {"value": 0.25}}
    first = front(entries, [CLAIM])
    cells = ["MSE < PCA's, of dense", "no", "0.5000", "0.2500", "-0.2500"]
    assert cells in rows(first.select_one("[aria-label='All claims']"))
    assert (
        "of dense: no, 0.5000 against 0.2500, a gain of -0.2500."
        in first.select_one(".verdicts").text
    )
    entries["dense.test.mse"]["value"] = 0.125
    better = CLAIM | {"gain": {"value": 0.125}, "verdict": "yes"}
    entry = front(entries, [better, CLAIM]).select_one(".verdicts").text
    assert "of dense: yes, 0.1250 against 0.2500, a gain of 0.1250." in entry
    assert "1 yes, 1 no" in entry


def test_what_could_not_be_computed_is_null_and_named_as_missing(front, new_project, monkeypatch):
    entries = {"dense.test.mse": {"value": None}, "dense.test.ssim": {"value": 0.9}}
    published = {"value": 1.0, "tolerance": 0.1}
    reference = {"dense.test.mse": published, "dense.test.gone": published}
    monkeypatch.setattr(site, "reference", lambda profile: reference)
    parsed = front(entries)
    assert "reproduced 0 of 2 headline metrics" in parsed.text
    assert [row[-1] for row in rows(parsed.select_one("details"))[1:]] == ["NO", "NO"]
    stored = read_json(new_project / "reports" / "small" / "metrics.json")
    assert stored["dense.test.mse"] == {"value": None}


def test_notice_is_shown(front):
    notice = front(notice="The network is down.").select_one(".note")
    assert "MNIST is not available, so the embedded digits were used. The net" in notice.text


def test_front_page_compares_with_what_is_published(front, monkeypatch):
    published = {"dense.test.mse": {"value": 0.5, "tolerance": 0.1}}
    monkeypatch.setattr(site, "reference", lambda profile: published)
    parsed = front({"dense.test.mse": {"value": 0.5}})
    assert (
        "Reproduced 1 of 1 headline metrics (1 of them with a tolerance above 10% of the value)."
        in parsed.text
    )
    assert rows(parsed.select_one("details"))[1:] == [
        ["dense.test.mse", "0.5", "0.5", "± 0.1", "yes"]
    ]


def test_the_table_has_a_column_for_each_score_but_the_mse_where_there_is_the_sse(front):
    assert tuple(site.SCORES) == metrics.SCORES
    entries = {f"dense.test.{score}": {"value": 0.5} for score in ("mse", "ssim")}
    heads = [head.text for head in front(entries).select("[aria-label^='Recons'] th")]
    assert heads == ["model", "MSE per pixel", "SSIM"]
    entries["dense.test.sse"] = {"value": 392.0}
    heads = [head.text for head in front(entries).select("[aria-label^='Recons'] th")]
    assert heads == ["model", "SSE per image", "SSIM"]


def test_front_page_says_which_model_has_the_lowest_error_and_what_its_interval_leaves_out(front):
    errors = {"dense": 2.5, "conv": 1.25, "pca": 3.0}
    entries = {f"{model}.test.ssim": {"value": 0.5} for model in errors}
    assert "lowest squared error" not in front(entries).text
    ends = {"low": 1.0, "high": 4.0}
    entries |= {f"{model}.test.sse": {"value": sse, **ends} for model, sse in errors.items()}
    text = " ".join(front(entries).text.split())
    assert "is that of conv: 1.250 [1.000, 4.000]. That of dense is 2.500 [1.000, 4.000]." in text
    assert "That of pca is 3.000 [1.000, 4.000]. In brackets: 95 % intervals" in text
    assert "do not contain the variation between training seeds." in text


def test_table_has_a_row_for_each_model_autoencoders_first_in_the_studys_order(front):
    models = ("mean", "conv", "vae", "pca", "dense", "another")
    scores = [f"{model}.test.{score}" for model in models for score in ("sse", "ssim")]
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    entries = dict.fromkeys([*scores, "seldom.test.mse"], half)
    entries["dense.latent_dim"] = {"value": 32}
    table = rows(front(entries).select_one("[aria-label^='Reconstruction']"))[1:]
    names = ["dense (32)", "conv", "vae", "another", "pca", "mean"]
    assert [row[0] for row in table] == names
    assert [row[1:] for row in table] == [["0.50000.4000 to 0.6000"] * 2] * 6


def test_front_page_says_what_was_done_to_the_images_and_what_is_left_out(front, new_project):
    folder, profile = new_project / "reports" / "small", graph.load_profile("small")
    front(facts={"notes": ["Dark on light was inverted.", "There are no labels."]})
    for name in ("02_train", "03_evaluate"):
        path = folder / f"{name}.ipynb"
        notebook = read_json(path)
        notebook["metadata"]["study"]["left_out"] = "it needs two classes"
        write_json(path, notebook)
    site.write(profile, folder, None)
    text = (folder / site.WORK / "source" / "index.md").read_text(encoding="utf-8")
    assert "About the images: Dark on light was inverted. There are no labels." in text
    expected = "<b>Left out</b> in part of 02_train, 03_evaluate: it needs two classes."
    assert expected in text


def test_results_of_notebooks_are_collected_with_the_notebook_of_each_claim(tmp_path):
    claim = {"claim": "a", "measured": "pca.test.mse", "baseline": 1.0}
    for name, metric in (("01_a", "dense.test.mse"), ("02_b", "pca.test.mse")):
        path = tmp_path / "artifacts" / name / "results.json"
        path.parent.mkdir(parents=True)
        results = {"metrics": {metric: {"value": 1.0}}, "headline": [], "claims": []}
        if name == "02_b":
            results |= {"headline": ["pca.test.mse"], "claims": [claim]}
        write_json(path, results)
    results = collect(tmp_path, ["01_a", "02_b"])
    assert results["headline"] == ["pca.test.mse"]
    assert list(results["metrics"]) == ["dense.test.mse", "pca.test.mse"]
    assert results["claims"] == [{**claim, "notebook": "02_b"}]


def test_the_finished_run_is_what_the_executor_noted(folder):
    current = fingerprint.fingerprints(graph.load_profile("small"))
    for name in BODIES:
        assert study_of(folder / f"{name}.ipynb")["fingerprint"] == current[name]


# ------------------------------ in a browser
def _with_everything(folder):
    """Give an executed notebook what may be wide or hard to see: a figure, tables, long lines."""
    picture = io.BytesIO()
    Image.new("RGB", (1200, 300), "white").save(picture, format="png")
    figure = {"image/png": base64.b64encode(picture.getvalue()).decode()}
    cells = "".join(f"<td>column_{number}</td>" for number in range(30))
    table = f'<table border="1" class="dataframe"><tbody><tr>{cells}</tr></tbody></table>'
    outputs = [
        nbformat.v4.new_output(
            "display_data", figure, metadata={"image/png": {"alt": "Figure 1."}}
        ),
        nbformat.v4.new_output("display_data", {"text/html": table, "text/plain": "table"}),
        nbformat.v4.new_output("stream", text="word" * 100),
    ]
    path = folder / "03_evaluate.ipynb"
    notebook = nbformat.read(path, 4)
    line = f"# {'a long line ' * 30}\nfor name in ('text', 1.5):\n    print(f'{{name}}', lambda: 0)"
    notebook.cells.append(nbformat.v4.new_code_cell(line, outputs=outputs, id="wide"))
    header = "| " + " | ".join(f"heading{number}" for number in range(20)) + " |"
    words = f"## Words\n\n{header}\n{'|---' * 20}|\n{header}\n\n`{'code' * 50}` of `02_train`"
    notebook.cells.append(nbformat.v4.new_markdown_cell(words, id="words"))
    nbformat.write(notebook, path)


@pytest.fixture(scope="session")
def full_site(tmp_path_factory):
    """The folder of a small run whose pages have all that a page of the study may have."""
    root = small.write_project(tmp_path_factory.mktemp("site") / "project")
    folder = root / "reports" / "small"
    scores = [f"{model}.test.{score}" for model in ("dense", "pca") for score in site.SCORES]
    short = {"value": 0.3239, "low": 0.3195, "high": 0.3283}  # as wide as those of digits
    long = {"value": 0.006125, "low": 0.005542, "high": 0.006724}
    entries = dict.fromkeys([*scores, "dense.test.mse", "pca.test.mse"], short)
    entries |= {name: long for name in entries if name.endswith(("excess_bce", "sse", "mse"))}
    guide = root / "notebooks" / "guide"
    guide.mkdir()
    (guide / "help.md").write_text(
        "# Help\n\n```sh\nmake report  # all\n```\n\n1. [2](../02_train.ipynb)\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        small.use_project(root, patch)
        profile = graph.load_profile("small")
        pretend_finished(profile, folder, {"03_evaluate": entries})
        _with_everything(folder)
        path = folder / "artifacts" / "03_evaluate" / "results.json"
        verdicts = ("yes", "no", "no difference detected", "–")
        gain = {"value": -0.0007769, "low": -0.0009560, "high": -0.0006321}
        claims = [CLAIM | {"verdict": verdict, "gain": gain} for verdict in verdicts]
        write_json(path, read_json(path) | {"claims": claims})
        patch.setattr(site, "reference", lambda name: {"a.b": {"value": 1.0, "tolerance": 1.0}})
        site.write(profile, folder, "The network is down.")
    return folder


@pytest.fixture
def visit(browser, full_site):
    """Open a page without network in a browser that notes what goes wrong."""
    contexts = []

    def visit(address, scheme="light", width=1280, **options):
        size = {"width": width, "height": 844}
        options |= {"color_scheme": scheme, "viewport": size}
        context = browser.new_context(offline=True, **options)
        context.set_default_timeout(180_000)  # of a busy machine
        contexts.append(context)
        tab = context.new_page()
        tab.wrong = []
        tab.on("console", lambda m: m.type == "error" and tab.wrong.append(m.text))
        tab.on("pageerror", lambda error: tab.wrong.append(str(error)))
        tab.on("requestfailed", lambda request: tab.wrong.append(request.url))
        tab.on("request", lambda r: r.url.startswith("http") and tab.wrong.append(r.url))
        tab.goto(f"file://{full_site}/{address}")
        return tab

    yield visit
    for context in contexts:
        context.close()


PAGES = ["index.html", "03_evaluate.html", "guide/help.html", "search.html?q=train"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_barrier_no_error_and_ask_the_network_for_nothing(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.base").AXE_SCRIPT
    for address in PAGES:
        tab = visit(address, scheme)
        assert tab.evaluate("document.documentElement.dataset.theme") == scheme
        tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        tab.wait_for_timeout(500)  # the theme fades in what was folded
        assert tab.wrong == [], address
        tab.evaluate(axe)
        checked = "axe.run({preload: false}).then(result => result.violations)"
        found = tab.evaluate(checked)  # preloading would read style sheets, which files may not
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        assert [(each["id"], each["nodes"][0]["html"]) for each in grave] == [], address


def test_a_phone_scrolls_no_page_sideways(visit):
    for address in PAGES:
        tab = visit(address, width=390)
        tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390, address
        main = "document.querySelector('main').getBoundingClientRect().right"
        assert tab.evaluate(main) <= 390, address
        assert tab.wrong == []


def test_tables_of_the_front_page_fit_a_desk(visit):
    tab = visit("index.html")
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    script = "[...document.querySelectorAll('.wide')].map(e => [e.scrollWidth, e.clientWidth])"
    for needed, there in tab.evaluate(script):
        assert needed <= there


def test_without_javascript_pages_say_what_the_data_are_and_have_their_colours(visit):
    tab = visit("index.html", java_script_enabled=False)
    assert tab.locator(".bd-header-announcement").is_visible()
    assert tab.locator("html").get_attribute("data-theme") == "light"
    assert tab.locator("main a").first.evaluate("e => getComputedStyle(e).color") != "rgb(0, 0, 0)"


def test_the_magnifying_glass_stands_beside_what_is_searched(visit):
    tab = visit("search.html?q=evaluate")
    icon, box = tab.locator("main form i").bounding_box(), tab.locator("main form input")
    padding = float(box.evaluate("e => parseFloat(getComputedStyle(e).paddingLeft)"))
    assert icon["x"] + icon["width"] <= box.bounding_box()["x"] + padding


def test_titles_are_found_and_code_unfolds(visit):
    tab = visit("search.html?q=evaluate")
    tab.wait_for_selector("#search-results li a")
    assert "Title of 03_evaluate" in tab.inner_text("#search-results")
    tab = visit("03_evaluate.html")
    fold = tab.locator("details.hide").last
    assert not fold.locator(".cell_input").is_visible()
    fold.locator("summary").click()
    assert fold.locator(".cell_input").is_visible()


# ------------------------------ in one file
def test_a_run_is_printed_into_one_file(full_site):
    if not shutil.which("chromium"):
        pytest.skip("chromium is missing, which prints")
    assert site.print_pdf(full_site).read_bytes().startswith(b"%PDF")
    assert not list(full_site.glob(".*.html"))


def test_without_chromium_it_is_said_that_no_file_was_printed(folder, study, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, errors = study("pdf", "small")
    assert code == 1
    assert errors.startswith("error: No PDF was made; expected chromium on the path and a finis")
    assert errors.count("\n") == 1
