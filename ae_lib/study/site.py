"""The report's pages, which open without network: one for each notebook, and a front page."""

from ae_lib.run import (
    MODELS,
    RESULTS,
    Reproduction,
    explained_write_errors,
    from_json,
    read_json,
    reference,
    write_bytes,
    write_json,
)
from ae_lib.study.execute import provenance

BASELINES = ["pca", "pca_clipped", "mean"]
SCORES = {
    "bce": "BCE / nats per pixel", "excess_bce": "excess BCE / nats per pixel",
    "mse": "MSE per pixel", "sse": "SSE per image", "psnr": "PSNR / dB", "ssim": "SSIM",
}  # fmt: skip


def write(profile, folder, notice, changed=()):
    """Write what a run has so far: metrics.json, run.json, a page for each notebook, front page.

    ``notice`` says why this profile was taken instead of ``mnist``, or is None. Pages of notebooks
    that are not ``changed`` are made only if they are missing. Returns the run's
    `ae_lib.run.Reproduction`, or None if no notebook is finished yet that says what the data are.
    """
    executed = [name for name in profile.parameters if (folder / f"{name}.ipynb").is_file()]
    facts = _first_artifact(folder, executed, "data.json")
    if facts is None:
        return None
    results = collect(folder, executed)
    run = _describe(profile, folder, executed, facts)
    with explained_write_errors(folder):
        write_json(folder / "metrics.json", results["metrics"])
        write_json(folder / "run.json", run)
        for name in executed:
            if name in changed or not (folder / f"{name}.html").is_file():
                _write_notebook_page(profile, folder, name, facts["title"])
        return _write_front_page(profile, folder, run, results, notice)


def _first_artifact(folder, notebooks, file):
    paths = [folder / "artifacts" / name / file for name in notebooks]
    return next((read_json(path) for path in paths if path.is_file()), None)


def collect(folder, notebooks):
    """The results of some notebooks of a run together, a dict.

    ``metrics``: name to ``{"value": …, "low": …, "high": …}``; ``headline``: names of those in
    a table of results or a claim, and those of the front page's table but MSE and PSNR, which
    are functions of an image's SSE; ``claims``, as dicts of what `ae_lib.metrics.judge` gives,
    and their ``notebook``.
    """
    metrics, headline, claims = {}, set(), []
    for name in notebooks:
        results = read_json(folder / "artifacts" / name / RESULTS)
        metrics |= results["metrics"]
        headline.update(results["headline"])
        claims += [{**row, "notebook": name} for row in results["claims"]]
    scores = [score for score in SCORES if score not in ("mse", "psnr")]
    table = [f"{model}.test.{score}" for model in _measured_in_full(metrics) for score in scores]
    headline.update(name for name in table if name in metrics)
    return {"metrics": metrics, "headline": sorted(headline), "claims": claims}


def _measured_in_full(metrics):
    """The models of the front page's table, autoencoders before baselines."""
    models = {name.split(".")[0] for name in metrics if name.endswith(".test.ssim")}
    order = [*MODELS, *sorted(models - {*MODELS, *BASELINES}), *BASELINES]
    return [model for model in order if model in models]


def _describe(profile, folder, executed, facts):
    """What the results depend on: parameters, data, commit, versions, machine; and the time."""
    studies = {n: read_json(folder / f"{n}.ipynb")["metadata"]["study"] for n in executed}
    parts = {
        part: {name: study[part] for name, study in studies.items() if part in study}
        for part in dict.fromkeys(part for study in studies.values() for part in study)
    }
    return {"profile": profile.name, "data": facts, **parts, **provenance()}


def _title(folder, name):
    first = read_json(folder / f"{name}.ipynb")["cells"][0]
    return "".join(first["source"]).splitlines()[0].lstrip("# ")


def _write_notebook_page(profile, folder, name, data):
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = nbformat.read(folder / f"{name}.ipynb", 4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    style = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    page = _rendered(
        "page", title=_title(folder, name), data=data, here=name, body=body, code_style=style,
        pages=profile.parameters,
    )  # fmt: skip
    write_bytes(folder / f"{name}.html", page.encode())


def _rendered(template, **content):
    import jinja2

    loader = jinja2.PackageLoader("ae_lib.study", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template(f"{template}.html.j2").render(**content)


def _write_front_page(profile, folder, run, results, notice):
    metrics = {name: from_json(entry) for name, entry in results["metrics"].items()}
    published = reference(profile.name)
    # A published metric that the run did not give is not reproduced.
    measured = {
        name: metrics[name].value if name in metrics else float("nan") for name in published
    }
    comparison = Reproduction(measured, published)
    titles = {name: _title(folder, name) for name in run["parameters"]}
    body = _rendered(
        "front", profile=profile.name, run=run, titles=titles, scores=SCORES, notice=notice,
        metrics=metrics, models=_measured_in_full(metrics),
        claims=[{**row, "gain": from_json(row["gain"])} for row in results["claims"]],
        waiting=[name for name in profile.parameters if name not in titles],
        figure=(folder / "figures" / "03_reconstructions.png").is_file(), comparison=comparison,
    )  # fmt: skip
    page = _rendered(
        "page", title="Autoencoders on MNIST: a reference study", data=run["data"]["title"],
        here=None, body=body, pages=profile.parameters,
    )  # fmt: skip
    write_bytes(folder / "index.html", page.encode())
    return comparison
