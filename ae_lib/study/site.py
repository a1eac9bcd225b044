"""The report's pages, which open without network: one for each notebook, and a front page."""

import json

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
    "bce": "BCE / nats per pixel",
    "excess_bce": "excess BCE / nats per pixel",
    "mse": "MSE per pixel",
    "sse": "SSE per image",
    "psnr": "PSNR / dB",
    "ssim": "SSIM",
}


def write(profile, folder, notice, changed=()):
    """Write what a run has so far: metrics.json, run.json, a page for each notebook, front page.

    Parameters
    ----------
    profile : ae_lib.study.graph.Profile
    folder : Path
        The run's folder.
    notice : str or None
        Why this profile was taken instead of ``mnist``.
    changed : collection of str
        Notebooks whose pages are made again; those of others only if they are missing.

    Returns
    -------
    ae_lib.run.Reproduction or None
        None if no notebook is finished yet that says what the data are.
    """
    executed = [name for name in profile.parameters if (folder / f"{name}.ipynb").is_file()]
    facts = [folder / "artifacts" / name / "data.json" for name in executed]
    facts = next((read_json(path) for path in facts if path.is_file()), None)
    if facts is None:
        return None
    results = collect(folder, executed)
    run = _describe(profile, folder, executed, facts)
    with explained_write_errors(folder):
        write_json(folder / "metrics.json", results["metrics"])
        write_json(folder / "run.json", run)
        for name in executed:
            if name in changed or not (folder / f"{name}.html").is_file():
                _write_page(profile, folder, name, facts["title"])
        return _write_front_page(profile, folder, run, results, notice)


def collect(folder, notebooks):
    """The results of some notebooks of a run together, a dict.

    ``metrics``: name to ``{"value": …, "low": …, "high": …}``; ``headline``: names of those in
    a table of results, the front page's included, or a claim; ``claims``.
    """
    metrics, headline, claims = {}, set(), []
    for name in notebooks:
        results = read_json(folder / "artifacts" / name / RESULTS)
        metrics |= results["metrics"]
        headline.update(results["headline"])
        claims += results["claims"]
    headline.update(part for row in claims for part in row[1:3] if part in metrics)
    complete = [name.split(".")[0] for name in metrics if name.endswith(".test.ssim")]
    table = [f"{model}.test.{score}" for model in complete for score in SCORES]
    headline.update(name for name in table if name in metrics)
    return {"metrics": metrics, "headline": sorted(headline), "claims": claims}


def _describe(profile, folder, executed, facts):
    """What the results depend on: parameters, data, commit, versions, machine; and the time."""
    studies = {n: read_json(folder / f"{n}.ipynb")["metadata"]["study"] for n in executed}
    parts = {
        part: {name: study[part] for name, study in studies.items() if part in study}
        for part in studies[executed[0]]
    }
    return {"profile": profile.name, "data": facts, **parts, **provenance()}


def _templates():
    import jinja2

    loader = jinja2.PackageLoader("ae_lib.study", ".")
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True)


def heading(path):
    """The title of a notebook, from its file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).splitlines()[0].lstrip("# ")


def _write_page(profile, folder, name, data):
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = nbformat.read(folder / f"{name}.ipynb", 4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    style = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    page = _templates().get_template("page.html.j2").render(
        title=heading(folder / f"{name}.ipynb"), data=data, pages=list(profile.parameters),
        here=name, body=body, code_style=style,
    )  # fmt: skip
    write_bytes(folder / f"{name}.html", page.encode())


def results_table(metrics):
    """The front page's table: a row for each model that was measured in full.

    From metrics, name to `ae_lib.metrics.Interval`: the model, autoencoders before baselines; its
    latent dimension or None; its values in the order of `SCORES`.
    """
    models = {name.split(".")[0] for name in metrics if name.endswith(".test.mse")}
    complete = [model for model in models if f"{model}.test.ssim" in metrics]
    known = [*MODELS, *sorted(set(complete) - {*MODELS, *BASELINES}), *BASELINES]
    rows = []
    for model in sorted(complete, key=known.index):
        size = metrics.get(f"{model}.latent_dim")
        values = [metrics.get(f"{model}.test.{score}") for score in SCORES]
        rows.append((model, int(size.value) if size else None, values))
    return rows


def _write_front_page(profile, folder, run, results, notice):
    metrics = {name: from_json(entry) for name, entry in results["metrics"].items()}
    published = reference(profile.name)
    # A published metric that the run did not give is not reproduced.
    measured = {
        name: metrics[name].value if name in metrics else float("nan") for name in published
    }
    comparison = Reproduction(measured, published)
    claims = [[metrics.get(part, part) for part in row] for row in results["claims"]]
    answers = [folder / "artifacts" / name / "verdicts.json" for name in run["parameters"]]
    titles = {n: heading(folder / f"{n}.ipynb") for n in run["parameters"]}
    body = _templates().get_template("front.html.j2").render(
        profile=profile.name, run=run, titles=titles, scores=SCORES, rows=results_table(metrics),
        notice=notice, claims=claims, comparison=comparison, total=sum(run["seconds"].values()),
        verdicts=next((read_json(path) for path in answers if path.is_file()), {}),
        judged=run["parameters"].get("03_evaluate", {}).get("model", "dense"),
        waiting=[name for name in profile.parameters if name not in titles],
        floor=metrics.get("data.test.entropy_floor"),
        figure=(folder / "figures" / "03_reconstructions.png").is_file(),
    )  # fmt: skip
    page = _templates().get_template("page.html.j2").render(
        title="Autoencoders on MNIST: a reference study", data=run["data"]["title"],
        pages=list(profile.parameters), here=None, body=body,
    )  # fmt: skip
    write_bytes(folder / "index.html", page.encode())
    return comparison
