"""pytest plugin for replaying notebooks with nbval: ``pytest -p tests.replay --nbval …``.

Other tests may run beside them, and begin before. A notebook may read from those that the graph
names, and waits for them where it is replayed beside them: ``-n auto --dist loadscope
--no-loadscope-reorder``.
"""

import os
import tempfile
import time
from pathlib import Path

from ae_lib import StudyError, data
from ae_lib.run import MAY_READ, reports_folder
from ae_lib.study import graph

import pytest


def pytest_configure(config):
    """Replay into a folder of its own, so that reports/ stays as it is."""
    if hasattr(config, "workerinput"):
        return  # of pytest-xdist: it shares the folder of the process that started it
    config.replay_folder = tempfile.TemporaryDirectory()
    os.environ["AE_REPORTS_DIR"] = config.replay_folder.name
    if os.environ.get("AE_DATA_DIR"):  # kernels run in another folder
        os.environ["AE_DATA_DIR"] = str(Path(os.environ["AE_DATA_DIR"]).absolute())
    paths = [Path(argument) for argument in config.args]
    if any(_profile(path) == "mnist" for path in paths if "tests" not in path.parts):
        try:
            data.load("mnist")
        except StudyError as error:
            raise pytest.UsageError(f"The notebooks' stored results are MNIST's. {error}") from None


def pytest_collectstart(collector):
    """Leave out what a kernel's libraries say on standard error; guards see that none is stored."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items):
    """Replay what waits for nothing first, then in the study's order, evenly among other tests.

    So there is something else to do while a notebook waits. Of the others the largest come first,
    and no worker is left with a long one at the end.
    """
    order = sorted(graph.NEEDS, key=lambda name: bool(graph.NEEDS[name]))
    notebooks = {item.path for item in items if _is_notebook(item)}
    others = {item.path for item in items} - notebooks
    places = {}
    for group in (
        sorted(notebooks, key=lambda path: order.index(path.stem)),
        sorted(others, key=lambda path: (-path.stat().st_size, path)),
    ):
        places |= {path: i / len(group) for i, path in enumerate(group)}
    items.sort(key=lambda item: places[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before the kernel starts: say what it may read, and wait until that is replayed."""
    if not _is_notebook(item):
        return
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)  # kernels are slow enough
    needs = graph.load_profile(_profile(item.path)).needs[item.path.stem]
    os.environ[MAY_READ] = ",".join(needs)
    replayed = {other.path for other in item.session.items}
    for need in needs:
        path = item.path.with_stem(need)
        while path in replayed and not _ended(path).exists():
            time.sleep(0.1)


def pytest_runtest_teardown(item, nextitem):
    """Note, after its last cell, that a notebook has ended, well or not."""
    if _is_notebook(item) and (nextitem is None or nextitem.path != item.path):
        _ended(item.path).touch()


def pytest_unconfigure(config):
    """Remove what was replayed."""
    if hasattr(config, "replay_folder"):
        config.replay_folder.cleanup()


def _is_notebook(item):
    return item.path.suffix == ".ipynb"


def _profile(path):
    if "golden" in path.parts:
        return "digits"
    return graph.OWN_PROFILE.get(path.stem, "mnist")


def _ended(path):
    return reports_folder() / f".{path.stem}.ended"
