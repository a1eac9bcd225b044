"""pytest plugin for replaying notebooks with nbval: ``pytest -p tests.replay --nbval …``."""

import os
import tempfile
from pathlib import Path

from ae_lib import StudyError, data
from ae_lib.study import graph
from ae_lib.study.report import make_folders_absolute

import pytest


def pytest_configure(config):
    """Replay into a folder of its own, so that reports/ stays as it is."""
    make_folders_absolute()
    config.replay_folder = tempfile.TemporaryDirectory()
    os.environ["AE_REPORTS_DIR"] = config.replay_folder.name
    of_tables = set(graph.notebooks("latent_size"))  # what these read is published
    if any(
        "golden" not in argument and Path(argument).stem not in of_tables
        for argument in config.args
    ):
        try:
            data.load("mnist")
        except StudyError as error:
            raise pytest.UsageError(f"The notebooks' stored results are MNIST's. {error}") from None


def pytest_collectstart(collector):
    """Leave out what a kernel's libraries say on standard error; the guards see to it that none is stored."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_unconfigure(config):
    """Remove what was replayed."""
    config.replay_folder.cleanup()
