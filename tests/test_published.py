"""What git keeps of the published run: trained models, and the page in which they are tried out."""

import hashlib

from ae_lib import data, metrics, models
from ae_lib.run import REFERENCE, Reproduction, read_json, reference
from ae_lib.study import graph, site

import pytest

MODELS = REFERENCE / "models"
FILE = data.local_file("mnist")  # before the tests' own settings, which hide MNIST from the others


def published_models():
    lines = (MODELS / "SHA256SUMS").read_text().splitlines()
    return {name.removesuffix(".keras"): checksum for checksum, name in map(str.split, lines)}


def test_the_models_have_the_checksums_that_are_published():
    sums = {
        path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in MODELS.glob("*.keras")
    }
    assert sums == published_models()
    assert set(sums) == {"dense", "conv", "vae"}


@pytest.mark.skipif(FILE is None, reason="MNIST is not at hand")
def test_the_models_have_the_metrics_that_are_published(monkeypatch):
    monkeypatch.setenv("AE_DATA_DIR", str(FILE.parent))
    x, measured = data.load("mnist").x_test, {}
    for name in published_models():
        y = models.predict_in_batches(models.load(MODELS / f"{name}.keras").autoencoder, x)
        measured[f"{name}.test.sse"] = x.shape[1] * metrics.mse(x, y).mean()
    comparison = Reproduction(measured, reference("mnist"))
    assert list(comparison.table["within"]) == [True] * 3, comparison.table


def test_the_explorer_is_of_the_published_run():
    names = graph.notebooks_of("mnist")
    notebooks = {name: read_json(graph.FOLDER / f"{name}.ipynb") for name in names}
    prints = {name: note["metadata"]["study"]["fingerprint"] for name, note in notebooks.items()}
    page = (REFERENCE / site.EXPLORER).read_text(encoding="utf-8")
    assert f'<meta name="made-of" content="{site.explorer_state(prints)}">' in page
