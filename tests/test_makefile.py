"""What `make` does before a command: it installs what is missing, and only that."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
INSTALLS = "installing the locked packages"

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is missing")


@pytest.fixture
def folder(tmp_path):
    """A project of a Makefile and what it installs from, with a Python that works."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    return tmp_path


def dry_run(folder, target):
    """What a command would do; it has removed nothing."""
    ours = ("MAKE", "MFLAGS", "VENV", "PYTHON")  # of a `make test` that started this
    environment = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    before = sorted(folder.rglob("*"))
    done = subprocess.run(
        ["make", "-n", target, f"PYTHON={sys.executable}"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(folder.rglob("*")) == before
    return done.stdout


@pytest.mark.parametrize("target", ["lab", "report", "sweep", "test", "help", "clean"])
def test_a_python_that_works_is_left_alone(folder, target):
    assert INSTALLS not in dry_run(folder, target)


def test_a_python_that_has_gone_is_installed_again(folder):
    python = folder / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(folder / "gone" / "python3")
    assert INSTALLS in dry_run(folder, "report")
    assert INSTALLS not in dry_run(folder, "help")


def test_an_installation_that_was_interrupted_is_made_again(folder):
    (folder / ".venv" / ".ready").unlink()
    assert INSTALLS in dry_run(folder, "report")
    shutil.rmtree(folder / ".venv")
    assert INSTALLS in dry_run(folder, "report")


def test_a_python_without_packages_is_installed_again(folder):
    """So is one of another version, which took the former's place and does not find its folder."""
    venv.create(folder / ".venv", clear=True, symlinks=True)
    (folder / ".venv" / ".ready").touch()
    assert INSTALLS in dry_run(folder, "report")
