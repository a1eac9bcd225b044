"""The report's site: Sphinx makes it of the executed notebooks, the guide and a front page.

It opens from the disk, without network. Sphinx writes into the hidden folder `WORK` of the run,
and a page moves into place when it is whole, so that no failure loses one.
"""

import html
import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import (
    Reproduction,
    explained_write_errors,
    from_json,
    model_file,
    read_json,
    reference,
    write_bytes,
    write_json,
)
from ae_lib.study import graph
from ae_lib.study.execute import provenance
from ae_lib.study.fingerprint import sha256_of
from ae_lib.study.results import collect, measured_in_full

SCORES = {
    "bce": "BCE / nats per pixel", "excess_bce": "excess BCE / nats per pixel",
    "mse": "MSE per pixel", "sse": "SSE per image", "psnr": "PSNR / dB", "ssim": "SSIM",
}  # fmt: skip
WORK = ".site"  # what Sphinx reads, what it remembers, and its pages before they move
EXPLORER = "explorer.html"  # of a finished run
EXPLORED = [
    "14_use_your_own_images", "02_train", "07_compress_images", "09_train_convolutional",
    "11_train_variational",
]  # fmt: skip
STYLE = Path(__file__).with_name("site.css")
SPHINX = {
    "extensions": ["myst_nb"],
    "nb_execution_mode": "off",
    "nb_custom_formats": {".ipynb": "ae_lib.study.site.read_notebook"},
    "nb_code_prompt_show": "Show code",
    "nb_code_prompt_hide": "Hide code",
    "suppress_warnings": ["myst.xref_missing"],  # links to notebooks that a run does not have
    "html_theme": "sphinx_book_theme",
    "html_static_path": [str(STYLE)],
    "html_css_files": [STYLE.name],
    "html_show_search_summary": False,  # it fetches pages, which a browser refuses on the disk
    "html_use_index": False,
    "html_show_copyright": False,
    "author": "",
}


def write(profile, folder, notice, changed=(), explorer=False):
    """Write what a run has so far: metrics.json, run.json, and the site.

    ``notice`` says why this profile was taken instead of ``mnist``, or is None. After a notebook
    has ``changed``, its page, the front page and those that are missing are made, and the explorer
    if asked; without, all are, unless nothing has changed since that was done. Returns the run's
    `ae_lib.run.Reproduction`, or None if no notebook is finished yet that says what the data are.
    """
    executed = [name for name in profile.parameters if (folder / f"{name}.ipynb").is_file()]
    paths = [folder / "artifacts" / name / "data.json" for name in executed]
    facts = next((read_json(path) for path in paths if path.is_file()), None)
    if facts is None:
        return None
    results = collect(folder, executed)
    notebooks = {name: read_json(folder / f"{name}.ipynb") for name in executed}
    run = _describe(profile, notebooks, facts)
    comparison = _compare(profile, results["metrics"])
    with explained_write_errors(folder):
        write_json(folder / "metrics.json", results["metrics"])
        write_json(folder / "run.json", run)
        if explorer or not changed and len(executed) == len(profile.parameters):
            _write_explorer(profile, folder, run["fingerprint"])
        front = _front_page(profile, folder, run, notebooks, results, comparison, notice)
        _write_sources(folder, executed, front)
        _build(folder, _options(facts["title"]), changed)
    return comparison


def _describe(profile, notebooks, facts):
    """What the results depend on: parameters, data, commit, versions, machine; and the time."""
    studies = {name: notebook["metadata"]["study"] for name, notebook in notebooks.items()}
    parts = {
        part: {name: study[part] for name, study in studies.items() if part in study}
        for part in dict.fromkeys(part for study in studies.values() for part in study)
    }
    return {"profile": profile.name, "data": facts, **parts, **provenance()}


def _compare(profile, metrics):
    published = reference(profile.name)
    # A published metric that the run did not give is not reproduced.
    measured = {name: from_json(metrics.get(name, {"value": None})).value for name in published}
    return Reproduction(measured, published)


def _front_page(profile, folder, run, notebooks, results, comparison, notice):
    import jinja2

    about = {name: _about(notebook) for name, notebook in notebooks.items()}
    claims = [
        {**row, "gain": from_json(row["gain"]), "cell": _cell_of(notebooks[row["notebook"]], row)}
        for row in results["claims"]
    ]
    titles = [f"{name[:2]} {about[name]['title']} <{name}>" for name in sorted(about)]
    if explorer := (folder / EXPLORER).is_file():
        titles.insert(0, "explorer")
    loader = jinja2.PackageLoader("ae_lib.study", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["code"] = _with_code
    metrics = {name: from_json(entry) for name, entry in results["metrics"].items()}
    measured = {name.rpartition(".test.")[2] for name in metrics}
    return environment.get_template("front.md.j2").render(
        run=run, notice=notice, claims=claims, about=about, comparison=comparison, metrics=metrics,
        scores={score: label for score, label in SCORES.items() if score in measured},
        models=measured_in_full(results["metrics"]), explorer=explorer,
        waiting=[name for name in profile.parameters if name not in notebooks],
        figure=(folder / "figures" / "03_reconstructions.png").is_file(),
        toctrees={"The study": titles, "Guide": [f"guide/{path.stem}" for path in _guide()]},
    )  # fmt: skip


def _with_code(text):
    """Text as HTML, with what stands between backticks as code."""
    from markupsafe import Markup

    return Markup(re.sub("`(.+?)`", r"<code>\1</code>", html.escape(text)))


def _about(notebook):
    """The title of a notebook, and the question that it asks or, without one, its title again."""
    paragraphs = "".join(notebook["cells"][0]["source"]).split("\n\n")
    title, mark = paragraphs[0].splitlines()[0].lstrip("# "), "**Question.** "
    asked = [text.removeprefix(mark) for text in paragraphs if text.startswith(mark)]
    return {"title": title, "question": (asked or [title])[0]}


def _cell_of(notebook, claim):
    """The anchor of the last cell that names a claim, or of the last one: it was decided before."""
    words = json.dumps(claim["claim"], ensure_ascii=False)[1:-1]
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    naming = [cell for cell in cells if words in json.dumps(cell, ensure_ascii=False)]
    return f"cell-{(naming or cells)[-1]['id']}"


def _guide():
    return sorted((graph.FOLDER / "guide").glob("*.md"))


def read_notebook(text):
    """A notebook as Sphinx gets it: anchors, folded code, described figures, linked names."""
    import nbformat

    notebook, cells = nbformat.reads(text, 4), []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            anchor = f'<span id="cell-{cell.id}"></span>'
            cells.append(nbformat.v4.new_markdown_cell(anchor))
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-input"]
            pictures = [output.get("metadata", {}).get("image/png", {}) for output in cell.outputs]
            captions = [picture["alt"] for picture in pictures if "alt" in picture]
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(captions)}} if captions else {}
        else:
            cell.source = re.sub(r"`(\d\d_\w+)`", r"[`\1`](\1.ipynb)", cell.source)
        cells.append(cell)
    notebook.cells = cells
    return notebook


def explorer_state(fingerprints, model="dense"):
    """What a run's explorer depends on, as one hash: what trained its models, and its own code."""
    own = Path(__file__).parent
    sources = [own / "explorer.py", *sorted((own / "explorer").iterdir())]
    code = [path.read_text("utf-8") for path in sources]
    return sha256_of([model, code, [fingerprints.get(name) for name in EXPLORED]])


def _write_explorer(profile, folder, fingerprints):
    """Write `EXPLORER` unless it shows what the run has now; none if the run has no model."""
    model = profile.parameters.get("05_explore_latent_space", {}).get("model", "dense")
    files = model_file(model), f"{EXPLORED[0]}/autoencoder.keras"
    trained = [file for file in files if (folder / "artifacts" / file).is_file()]
    page, state = folder / EXPLORER, explorer_state(fingerprints, model)
    if not trained or (page.is_file() and state in page.read_text("utf-8")[:1000]):
        return
    from ae_lib import data  # TensorFlow takes seconds to import
    from ae_lib.study import explorer

    parameters = profile.parameters[trained[0].split("/")[0]]
    images = data.load(parameters["dataset"], image_size=parameters["image_size"])
    explorer.write(folder, images, model=model, state=state)


def _write_sources(folder, executed, front):
    source = folder / WORK / "source"
    (source / "guide").mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.ipynb": (folder / f"{name}.ipynb").read_bytes() for name in executed}
    pages |= {f"guide/{path.name}": path.read_bytes() for path in _guide()}
    pages["index.md"] = front.encode()
    if (folder / EXPLORER).is_file():  # for the table of contents; its page is not published
        pages["explorer.md"] = b"# Interactive explorer\n"
    for path in [path for path in source.rglob("*.*") if path.is_file()]:
        if path.relative_to(source).as_posix() not in pages:
            path.unlink()
    for name, content in pages.items():
        path = source / name
        if not path.is_file() or path.read_bytes() != content:  # Sphinx reads what is newer
            write_bytes(path, content)


def _options(data):
    """What Sphinx is told: `SPHINX`, and what says on each page of a run which data these are."""
    title, theme = "Autoencoders on MNIST", {
        "home_page_in_toc": True, "use_fullscreen_button": False,
        "search_bar_text": "Search the titles", "navbar_persistent": [],
    }  # fmt: skip
    if "not MNIST" in data:
        title = f"Not MNIST's results: {data}"
        theme["announcement"] = (
            f"<b>These are not MNIST's results.</b> This run is on {html.escape(data)}. Every "
            "number, table and figure is about these images only."
        )
    mode = {"default_mode": "auto"}  # light or dark, as the reader's system is
    return SPHINX | {"html_title": title, "html_theme_options": theme, "html_context": mode}


def _build(folder, options, changed):
    """Make the pages that are missing or changed, or all; nothing if that was done before."""
    source, made = folder / WORK / "source", folder / WORK / "made"
    pages = sorted(path.relative_to(source) for path in source.rglob("*.*") if path.is_file())
    code = [Path(__file__).with_name(name) for name in ("site.py", "front.md.j2", STYLE.name)]
    texts = [path.read_text("utf-8") for path in [*(source / page for page in pages), *code]]
    tools = [version(package) for package in ("sphinx", "myst-nb", "sphinx-book-theme")]
    state = sha256_of([[str(page) for page in pages], texts, tools, options])
    missing = [page for page in pages if not (folder / page).with_suffix(".html").is_file()]
    if changed:
        made.unlink(missing_ok=True)
        only = [Path("index.md"), *(Path(f"{name}.ipynb") for name in changed), *missing]
        _run_sphinx(folder, "html", options, [source / page for page in only])
    elif missing or not made.is_file() or made.read_text() != state:
        _run_sphinx(folder, "html", options)
        write_bytes(made, state.encode())


def _run_sphinx(folder, builder, options, only=()):
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    work, pages, index = folder / WORK, folder / WORK / "html", folder / "searchindex.js"
    shutil.rmtree(pages, ignore_errors=True)
    pages.mkdir()
    if only and index.is_file():  # to which Sphinx adds the new pages
        shutil.copy(index, pages)
    try:
        with (work / "warnings.txt").open("w") as log, patch_docutils(), docutils_namespace():
            folders = work / "source", None, pages, work / "doctrees"
            every = not only  # with nothing remembered: `read_notebook` may have changed
            sphinx = Sphinx(*folders, builder, options, None, log, freshenv=every)
            sphinx.build(force_all=every, filenames=only)
    except SphinxError as error:
        raise StudyError(
            f"Sphinx could not make the pages of {folder}: {error}; expected what a run has "
            f"written: remove {work}, and start again."
        ) from error
    if builder == "html":
        _publish(pages, folder)


def _publish(pages, folder):
    """Move what Sphinx has written into the run's folder, the front page last."""
    paths = sorted(pages.rglob("*"), key=lambda path: (path.name == "index.html", path))
    written = [path for path in paths if path.suffix == ".html" and "_static" not in path.parts]
    for page in written:
        if not (text := page.read_text("utf-8")).rstrip().endswith("</html>"):
            error = f"{page.name} was not written to its end; expected some 50 MB free: make room."
            raise StudyError(error)
        page.write_text(text.replace('"auto">', '"light">', 1), "utf-8")  # for no JavaScript
    # 1.5 MB of drawn icons: the pages use a dozen, all of which are in the theme's fonts as well.
    for script in pages.rglob("fontawesome.js"):
        script.write_bytes(b"")
    for path in paths:
        target = folder / path.relative_to(pages)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.suffix != ".map" and path.name not in (EXPLORER, ".buildinfo", "objects.inv"):
            path.replace(target)
    shutil.rmtree(pages)


def print_pdf(folder):
    """Print all pages of a run into ``report.pdf`` with Chromium, and return its path.

    `StudyError` says that none was made where Chromium or the pages are missing.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium or not (folder / WORK / "made").is_file():
        raise StudyError(
            f"No PDF was made; expected chromium on the path and a finished report in {folder}: "
            "install it, run make report, or print the pages from a browser."
        )
    page, part = folder / ".print.html", folder / ".report.pdf.tmp"
    _run_sphinx(folder, "singlehtml", _options(read_json(folder / "run.json")["data"]["title"]))
    text = (folder / WORK / "html" / "index.html").read_text("utf-8")
    # Links between pages become links within the one page.
    write_bytes(page, re.sub(r'href="([\w/]+)\.html[^"]*"', r'href="#document-\1"', text).encode())
    # Chromium has no sandbox for root, and prints a file that we have written.
    options = ["--headless", "--no-sandbox", "--no-pdf-header-footer", f"--print-to-pdf={part}"]
    done = subprocess.run([chromium, *options, page.as_uri()], capture_output=True, text=True)
    page.unlink()
    if not part.is_file():
        raise StudyError(f"No PDF was made; Chromium says: {' '.join(done.stderr.split())[-300:]}")
    return part.replace(folder / "report.pdf")
