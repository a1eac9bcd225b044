"""The report's pages, which open without network: one for each executed notebook, and a front page."""

from ae_lib import run as runs
from ae_lib.metrics import Interval
from ae_lib.study.graph import notebooks

import jinja2
import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("ae_lib", "."), autoescape=True, trim_blocks=True
)
BASELINES = ["pca", "pca_clipped", "mean"]
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
        title=heading(notebook), data=title_of_data, pages=notebooks(folder.name), here=name, body=body,
        code_style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )  # fmt: skip
    runs.write_text(folder / f"{name}.html", page)


def results_table(metrics):
    """The front page's table.

    Parameters
    ----------
    metrics : dict
        Name to number, from metrics.json.

    Returns
    -------
    list of (str, int or None, list of Interval or None)
        Each model that has a test MSE with its interval, autoencoders before baselines; the size of its code; its values in the order of
        `SCORES`.
    """
    models = [
        name.split(".")[0] for name in metrics if name.endswith(".test.mse.low")
    ]  # those measured in full
    order = [*runs.MODELS, *sorted(set(models) - {*runs.MODELS, *BASELINES}), *BASELINES]

    def value(model, score):
        key = f"{model}.test.{score}"
        return Interval.from_metrics(metrics, key) if f"{key}.low" in metrics else None

    def size(model):
        key = f"{model}.latent_dim"
        return int(metrics[key]) if key in metrics else None

    models.sort(key=order.index)
    return [(model, size(model), [value(model, score) for score in SCORES]) for model in models]


def write_front_page(folder, profile, fallback):
    """Write ``index.html`` from run.json, metrics.json, the verdicts and the notebooks' claims."""
    metrics, run = runs.read_json(folder / "metrics.json"), runs.read_json(folder / "run.json")
    reference, answers = runs.reference(profile), folder / "artifacts" / "verdicts.json"
    verdicts = runs.read_json(answers) if answers.is_file() else {}  # not every profile has them
    # A published metric that the run did not give is not reproduced.
    comparison = runs.Comparison(dict.fromkeys(reference, float("nan")) | metrics, reference)
    claims = [
        c
        for path in sorted((folder / "artifacts").glob("*.claims.json"))
        for c in runs.read_json(path)
    ]
    titles = {
        name: heading(nbformat.read(folder / f"{name}.ipynb", 4)) for name in notebooks(profile)
    }
    judged = (
        run["parameters"].get("03_evaluate", {}).get("model", "dense")
    )  # whose verdicts these are
    body = TEMPLATES.get_template("front.html.j2").render(
        profile=profile, run=run, titles=titles, scores=SCORES, rows=results_table(metrics), fallback=fallback,
        judged=judged, verdicts=verdicts, claims=claims, comparison=comparison, floor=metrics.get("data.test.entropy_floor"), total=sum(run["seconds"].values()),
    )  # fmt: skip
    page = TEMPLATES.get_template("page.html.j2").render(
        title="Autoencoders on MNIST: a reference study",
        data=run["data"]["title"],
        pages=notebooks(profile),
        here=None,
        body=body,
    )
    runs.write_text(folder / "index.html", page)
    return comparison
