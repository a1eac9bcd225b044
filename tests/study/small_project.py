"""A project of the study's form with three small notebooks that import neither Keras nor SciPy."""

import contextlib
import json
import re
import time

from ae_lib.run import PROJECT, RESULTS, read_json, write_json
from ae_lib.study import fingerprint, graph

import nbformat
import psutil

# What a notebook does beside its work: an environment variable, so that it makes nothing stale.
ACTION = "SMALL_ACTION"
MARK = "SMALL_MARK"  # the variable that marks all processes that a test has started
HEADER = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

"""
PARAMETERS = '# %% tags=["parameters"]\nprofile: str = "mnist"  # folder\nseed: int = 0  # of all\n'
PUBLISH = """
import json, os, time
from pathlib import Path
def publish(notebook, files, metrics, claims=()):
    folder = Path(os.environ["AE_REPORTS_DIR"], profile, "artifacts", notebook)
    folder.mkdir(parents=True, exist_ok=True)
    results = {"metrics": metrics, "headline": list(metrics), "claims": list(claims)}
    for name, content in {**files, "results.json": results}.items():
        (folder / name).write_text(json.dumps(content))
action, _, argument = os.environ.get("SMALL_ACTION", "").partition(" ")
"""
BODIES = {
    "01_preprocess": f"""
# %%{PUBLISH}
if action == "read":
    from ae_lib.run import Run
    Run(profile, "01_preprocess").artifact("02_train/model.json")
facts = {{"name": "small", "title": "small (not MNIST)", "source": "a test", "shape": [8, 8]}}
facts |= {{"md5": {{"x_train": "0"}}, "training": 1, "validation": 1, "test": 1}}
files = {{"data.json": facts, "environment.json": dict(os.environ)}}
publish("01_preprocess", files, {{"data.test.entropy_floor": {{"value": 0.5}}}})
""",
    "02_train": f"""epochs: int = 3  # passes
rate: float = 0.1  # speed
sizes: list = [1]  # of layers

# %%{PUBLISH}
print("epoch 10/10  loss", rate)
if action == "fail":
    raise ZeroDivisionError("nothing to divide by")
if epochs < 1:
    from ae_lib import StudyError
    raise StudyError(f"epochs is {{epochs}}; expected a whole number of at least 1: change it.")
if action == "die":
    os.kill(os.getpid(), 9)
if action == "sleep" or (action == "sleep_after_first" and Path(argument + ".first").exists()):
    Path(argument).write_text(str(os.getpid()))
    time.sleep(600)
if action == "sleep_after_first":
    Path(argument + ".first").touch()
mse = {{"value": 0.1 + seed}}
publish("02_train", {{"model.json": epochs, "small.keras": "weights"}}, {{"dense.val.mse": mse}})
""",
    "03_evaluate": f"""model: str = "dense"  # trained

# %%
from ae_lib.run import Run
found = Run(profile, "03_evaluate").artifact("02_train/model.json").read_text()
print("epochs", found)

# %%{PUBLISH}
import numpy as np
errors = np.array([0.45, 0.5, 0.55]) + 0.01 * seed
mse = {{"value": errors.mean(), "low": 0.4, "high": 0.6}}
gain = {{"value": 0.2, "low": 0.1, "high": 0.3, "p": 0.01}}
claim = {{"claim": "It is small", "measured": "dense.test.mse", "baseline": 0.7}}
claim |= {{"better": "lower", "gain": gain, "verdict": "yes"}}
publish("03_evaluate", {{}}, {{"dense.test.mse": mse}}, [claim])
np.savez(Path(os.environ["AE_REPORTS_DIR"], profile, "artifacts/03_evaluate/values.npz"),
         **{{"dense.test.mse": errors}})
""",
}


def write_project(root):
    """The project, with the library itself and the profiles ``mnist`` and ``small``."""
    (root / "notebooks" / "params" / "sweeps").mkdir(parents=True)
    (root / "ae_lib").symlink_to(PROJECT / "ae_lib", target_is_directory=True)
    for name, body in BODIES.items():
        text = f"{HEADER}# %% [markdown]\n# # Title of {name}\n\n{PARAMETERS}{body}"
        (root / "notebooks" / f"{name}.py").write_text(text)
    (root / "notebooks" / "params" / "mnist.yaml").write_text("all:\n  seed: 0\n")
    (root / "notebooks" / "params" / "small.yaml").write_text("02_train:\n  epochs: 4\n")
    return root


def use_project(root, patch):
    """Let this process execute a project instead of the study."""
    patch.setattr(graph, "FOLDER", root / "notebooks")
    patch.setattr(graph, "PARAMS", root / "notebooks" / "params")
    patch.setenv("AE_REPORTS_DIR", str(root / "reports"))


def replace(path, old, new):
    """Change a file's text."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def pretend_finished(profile, folder, metrics=None):
    """What a run of a profile leaves, as far as the study reads it, without executing anything."""
    facts = {"name": "digits", "title": "digits (not MNIST)", "source": "a test", "shape": [8, 8]}
    for name, current in fingerprint.fingerprints(profile).items():
        artifacts = folder / "artifacts" / name
        artifacts.mkdir(parents=True, exist_ok=True)
        write_json(artifacts / "data.json", facts)
        results = {"metrics": (metrics or {}).get(name, {}), "headline": [], "claims": []}
        write_json(artifacts / RESULTS, results)
        notebook = graph.read_notebook(name)
        notebook.metadata["study"] = {
            "parameters": profile.parameters[name], "seconds": 1.0, "git_commit": None,
            "fingerprint": current, "results": fingerprint.results_of(folder, name),
        }  # fmt: skip
        nbformat.write(notebook, folder / f"{name}.ipynb")


def contents(folder):
    """The files of a run's folder but for those of failures, and hidden ones, such as locks."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    hidden = [path for path in paths if any(part.startswith(".") for part in path.parts)]
    kept = [path for path in paths if ".failed." not in path.name and path not in hidden]
    return {str(path): (folder / path).read_bytes() for path in kept}


def executed(errors):
    """The notebooks that the command line says it has executed."""
    return re.findall(r"^(\w+)  done", errors, re.M)


def metrics_of(folder):
    """A run's metrics, each as its value."""
    return {name: entry["value"] for name, entry in read_json(folder / "metrics.json").items()}


def study_of(path):
    """What the executor noted in an executed notebook."""
    return json.loads(path.read_text())["metadata"]["study"]


def alive(mark, seen=()):
    """The processes that carry a mark and run; one that waits to be collected does not.

    A process that is ending has no environment left: those that were seen before count without.
    """
    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            runs = process.status() != psutil.STATUS_ZOMBIE
            if runs and (process in seen or process.environ().get(MARK) == str(mark)):
                marked.append(process)
    return marked


def wait_until(condition, seconds=120):
    """Wait for a condition, and fail if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


def has_text(path):
    """Whether a file exists and is not empty."""
    return path.is_file() and bool(path.read_text())
