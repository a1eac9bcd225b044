"""What workers do with trials in place of notebooks, with few imports."""

import os
import signal
from pathlib import Path


def trivial(trial, with_models):
    """What a worker does here with a trial."""
    epochs, seed = trial.point["epochs"], trial.point["seed"]
    if seed == 1 and epochs == 2:
        files = {"03_evaluate.failed.ipynb": b"{}"}
        return {"status": "failed", "metrics": {}, "error": "it is the second", "files": files}
    values = {"dense.test.mse": epochs + 0.1 * seed, "dense.test.ssim": 0.1}
    metrics = {name: {"value": value, "low": 0.0} for name, value in values.items()}
    files = {"03_evaluate.ipynb": b"good"}
    return {"status": "done", "metrics": metrics, "files": files, "error": ""}


def corrected(trial, with_models):
    """The same, without the mistake."""
    files = {"dense.keras": b"weights"} if with_models else {}
    metrics = {"dense.test.mse": {"value": 1.0}}
    return {"status": "done", "metrics": metrics, "files": files, "error": ""}


def never(trial, with_models):
    """For trials that must not be executed."""
    raise AssertionError(trial.name)


def numbered(number, trial, with_models):
    """A result that says who asked."""
    return {**corrected(trial, with_models), "metrics": {"number": {"value": number}}}


def deadly(folder, trial, with_models):
    """Kills every worker that begins the first trial, and the first that begins the last one."""
    marker = Path(folder) / "killed"
    if trial.point == {"epochs": 2, "seed": 0}:
        os.kill(os.getpid(), signal.SIGKILL)
    if trial.point == {"epochs": 3, "seed": 2} and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return corrected(trial, with_models)
