"""The report's pages, which open without network: one for each executed notebook, and a front page."""

from ae_lib import runs
from ae_lib.profiles import notebooks

import jinja2
import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

TEMPLATES = jinja2.Environment(loader=jinja2.PackageLoader("ae_lib", "."), autoescape=True, trim_blocks=True)
SCORES = {
    "bce": "BCE / nats per pixel",
    "excess_bce": "excess BCE / nats per pixel",
    "mse": "MSE per pixel",
    "sse": "SSE per image",
    "psnr": "PSNR / dB",
    "ssim": "SSIM",
}


def heading(notebook):
    """The title of a notebook."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def write_page(folder, name, title_of_data):
    """Write the HTML page of an executed notebook; it loads nothing from the network."""
    notebook = nbformat.read(folder / f"{name}.ipynb", 4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    page = TEMPLATES.get_template("page.html.j2").render(
        title=heading(notebook), data=title_of_data, pages=notebooks(), here=name, body=body,
        code_style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )  # fmt: skip
    runs.write_text(folder / f"{name}.html", page)


def results_table(metrics):
    """Rows of the front page's table: a score, its unit, and a formatted value per model, in the models' order."""
    models = [name.split(".")[0] for name in metrics if name.endswith(".test.mse")]
    models.sort(key=lambda model: (model != "dense", model != "pca", model))

    def cell(key):
        if key not in metrics:
            return "–"
        low, high = (metrics[f"{key}.{end}"] for end in ("low", "high"))
        return f"{metrics[key]:.4g} [{low:.4g}, {high:.4g}]"

    return models, [(label, [cell(f"{model}.test.{name}") for model in models]) for name, label in SCORES.items()]


def write_front_page(folder, profile, fallback):
    """Write ``index.html`` from run.json and metrics.json."""
    metrics, run = runs.read_json(folder / "metrics.json"), runs.read_json(folder / "run.json")
    comparison = runs.Comparison(metrics, runs.reference(profile))
    titles = {name: heading(nbformat.read(folder / f"{name}.ipynb", 4)) for name in notebooks()}
    models, rows = results_table(metrics)
    body = TEMPLATES.get_template("front.html.j2").render(
        profile=profile, run=run, titles=titles, models=models, rows=rows, fallback=fallback,
        comparison=comparison, total=sum(run["seconds"].values()),
    )  # fmt: skip
    page = TEMPLATES.get_template("page.html.j2").render(
        title="Autoencoders on MNIST: a reference study",
        data=run["data"]["title"],
        pages=notebooks(),
        here=None,
        body=body,
    )
    runs.write_text(folder / "index.html", page)
    return comparison
