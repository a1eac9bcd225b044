"""A small project, and the same after one good run."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial

from ae_lib.run import PROJECT
from ae_lib.study.__main__ import main
from tests.study import small_project as small

import pytest

# Of the machine that starts a run: what a notebook must not find changed.
STARTED_WITH = {"CUDA_VISIBLE_DEVICES": "7", "AE_MAY_READ": "nothing"}


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory):
    """A project after one good run of the profile ``small``; not to be changed."""
    root = small.write_project(tmp_path_factory.mktemp("finished") / "project")
    with pytest.MonkeyPatch.context() as patch:
        small.use_project(root, patch)
        for name, value in STARTED_WITH.items():
            patch.setenv(name, value)
        assert main(["report", "small", "--jobs", "2"]) == 0
    return root


@pytest.fixture
def project(finished_project, tmp_path, monkeypatch):
    """A copy of the finished project, which this process executes instead of the study."""
    root = shutil.copytree(finished_project, tmp_path / "project", symlinks=True)
    small.use_project(root, monkeypatch)
    return root


@pytest.fixture
def new_project(tmp_path, monkeypatch):
    """A project that was never executed, which this process executes instead of the study."""
    root = small.write_project(tmp_path / "project")
    small.use_project(root, monkeypatch)
    return root


@pytest.fixture
def folder(project):
    """The folder of the finished run."""
    return project / "reports" / "small"


@pytest.fixture(scope="module")  # its event loop would stop other modules from running one
def browser():
    """An installed Chromium, in which tests open pages; without one they are skipped."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def study(monkeypatch, capfd):
    """Run a command of the study in this process; its exit code and standard error."""

    def run(*arguments, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        code = main(list(arguments))
        errors = capfd.readouterr().err
        for name in environment:
            monkeypatch.delenv(name)
        assert "Traceback" not in errors
        return code, errors

    return run


def _prepare(limit):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored, if the tests run in the background
    if limit:
        limit()


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a command of the study as a process of its own, with all that it starts marked."""
    started = []

    def start(root, *arguments, limit=None, module="ae_lib.study", **environment):
        path = os.pathsep.join([str(root), str(PROJECT)])  # the latter for these tests' own modules
        variables = {**os.environ, "PYTHONPATH": path, small.MARK: str(tmp_path)}
        variables |= {"AE_REPORTS_DIR": "reports", "TMPDIR": str(tmp_path), **environment}
        if limit:  # coverage could not write either
            variables = {name: text for name, text in variables.items() if "COV" not in name}
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=root, env={name: str(text) for name, text in variables.items()}, text=True,
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=partial(_prepare, limit),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()
    for process in small.alive(str(tmp_path)):
        process.kill()
