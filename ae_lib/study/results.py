"""What a run has measured, and the claims of several runs decided over seeds and images."""

import itertools
import json

from ae_lib import metrics
from ae_lib.run import MODELS, RESULTS, from_json, read_json

import numpy as np
import pandas as pd

BASELINES = ["pca", "pca_clipped", "mean"]
CLAIM = ["claim", "measured", "baseline", "better"]
JUDGED = ["notebook", "seeds", *CLAIM, "gain", "low", "high", "p", "verdict"]  # of `judge`


def collect(folder, notebooks):
    """The results of some notebooks of a run together, a dict.

    ``metrics``: name to ``{"value": …, "low": …, "high": …}``; ``headline``: names of those in
    a table of results or a claim, and those of the front page's table but MSE and PSNR, which
    are functions of an image's SSE; ``claims``, as dicts of what `ae_lib.metrics.judge` gives,
    and their ``notebook``.
    """
    measured, headline, claims = {}, set(), []
    for name in notebooks:
        results = read_json(folder / "artifacts" / name / RESULTS)
        measured |= results["metrics"]
        headline.update(results["headline"])
        claims += [{**row, "notebook": name} for row in results["claims"]]
    scores = [score for score in metrics.SCORES if score not in ("mse", "psnr")]
    table = [f"{model}.test.{score}" for model in measured_in_full(measured) for score in scores]
    headline.update(name for name in table if name in measured)
    return {"metrics": measured, "headline": sorted(headline), "claims": claims}


def measured_in_full(names):
    """The models whose SSIM is among these metrics, in order: autoencoders before baselines."""
    models = {name.split(".")[0] for name in names if name.endswith(".test.ssim")}
    order = [*MODELS, *sorted(models - {*MODELS, *BASELINES}), *BASELINES]
    return [model for model in order if model in models]


def judge(trials):
    """Decide the claims of several trials over all seeds and images; a pandas.DataFrame.

    ``trials`` are (point, record, paths): what is varied, what `collect` gave,
    and the files that came with it; a trial without a record is left out. Those that differ in
    their seed alone are replicates. Columns: what else is varied; `JUDGED`, where ``seeds`` is the
    number of replicates that make the claim, and ``gain``, ``low``, ``high`` and ``p`` are of
    `ae_lib.metrics.gain`. The claims of a notebook are decided together.
    """
    groups = {}
    for point, record, paths in trials:
        if record:
            # Lists, which a point may have, are no keys.
            varied = {key: as_cell(value) for key, value in point.items() if key != "seed"}
            groups.setdefault(tuple(varied.items()), []).append(_claims_of(record, paths))
    rows = []
    for varied, replicates in groups.items():
        for notebook in dict.fromkeys(itertools.chain.from_iterable(replicates)):
            makers = [own[notebook] for own in replicates if notebook in own]
            judged = _judged_together(makers)
            rows += [{**dict(varied), "notebook": notebook, **row} for row in judged]
    return pd.DataFrame(rows, columns=None if rows else JUDGED)


def as_cell(value):
    """What is varied, as it stands in a table: lists as JSON."""
    return json.dumps(value) if isinstance(value, list) else value


def _claims_of(record, paths):
    """Of a trial, notebook to the claims it makes, each with the values of its two sides."""
    values = {name: from_json(entry).value for name, entry in record["metrics"].items()}
    sides = {row[side] for row in record.get("claims", []) for side in ("measured", "baseline")}
    for path in paths:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                values |= {name: arrays[name] for name in sides & set(arrays)}
    claims = {}
    for row in record.get("claims", []):
        claim = tuple(row[key] for key in CLAIM)
        values_of_claim = [values.get(side, side) for side in claim[1:3]]
        claims.setdefault(row["notebook"], {})[claim] = values_of_claim
    return claims


def _judged_together(replicates):
    """Rows of `judge`, for the claims that replicates of one notebook make."""
    rows, gains = [], []
    for claim in dict.fromkeys(itertools.chain.from_iterable(replicates)):
        made = [own[claim] for own in replicates if claim in own]
        measured, baseline = (_stacked(side) for side in zip(*made, strict=True))
        if isinstance(claim[2], str) and measured.shape != baseline.shape:  # not of the same images
            measured, baseline = (side.mean(axis=1, keepdims=True) for side in (measured, baseline))
        gains.append(metrics.gain(measured, baseline, claim[-1]))
        rows.append({"seeds": len(made), **dict(zip(CLAIM, claim, strict=True))})
    return [
        {**row, "gain": gain.value, "low": gain.low, "high": gain.high, "p": gain.p,
         "verdict": verdict}
        for row, gain, verdict in zip(rows, gains, metrics.verdicts(gains), strict=True)
    ]  # fmt: skip


def _stacked(replicates):
    """Values of several trials, (trials, images), or of their means if they have other images.

    Where each seed draws images of its own, as many of them, the variance between images that all
    trials share is estimated as about 0, and the interval is that of the trials' means.
    """
    values = [np.atleast_2d(own).mean(axis=0) for own in replicates]  # over replicates of a trial
    if len({len(own) for own in values}) > 1:
        values = [own.mean(keepdims=True) for own in values]
    return np.array(values)
