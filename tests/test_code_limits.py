"""The house keeps its rooms: budgets, short functions, lazy extras.

Who imports whom is import-linter's to say (pyproject.toml), but for the notebooks.
"""

import ast
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
LIBRARY = PROJECT / "ae_lib"
# Lines of a room, docstrings included. The aims are 2,000, 2,000 and 1,400.
BUDGETS = {".": 2120, "analysis": 2520, "study": 2480}
EXPLORER = "explorer.py"  # a page of its own, at most 400 lines, as any module
OWN_IMAGES = ["__main__.py", "sources.py"]  # what files of one's own need, beside the thin library
MODULES = sorted(LIBRARY.rglob("*.py"))
SCRIPTS = sorted((PROJECT / "notebooks").glob("*.py"))
EXTRAS = [
    *("jupytext", "papermill", "nbformat", "filelock", "psutil", "yaml", "ruamel"),
    *("distributed", "bokeh", "pyarrow"),
]


def room(name):
    return sorted((LIBRARY / name).glob("*.py"))


def name_of(path):
    return path.relative_to(PROJECT).as_posix()


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def docstring_of(node):
    """The statement that is a definition's or a module's docstring, or None."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and ast.get_docstring(node) is not None:
        return node.body[0]
    return None


def code_lines(function, lines):
    """Lines from ``def`` to the end without the docstring, blank lines and comments."""
    counted = set(range(function.lineno, function.end_lineno + 1))  # decorators come before lineno
    if docstring := docstring_of(function):
        counted -= set(range(docstring.lineno, docstring.end_lineno + 1))
    texts = [lines[number - 1].strip() for number in counted]
    return sum(bool(text) and not text.startswith("#") for text in texts)


def sizes(path):
    """Names of a module's functions, nested ones included, with their lines of code."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(function.name, code_lines(function, lines)) for function in functions(path)]


def imported(path):
    """Full names of the modules that a file imports, and of what it takes out of them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def is_in(name, package):
    return f"{name}.".startswith(f"{package}.")


@pytest.mark.parametrize("name", BUDGETS)
def test_a_room_keeps_its_budget(name):
    lines = {path.name: len(path.read_text().splitlines()) for path in room(name)}
    if name == ".":
        assert sum(map(lines.pop, OWN_IMAGES)) <= 570
    lines.pop(EXPLORER, None)
    assert sum(lines.values()) <= BUDGETS[name], lines


def test_no_module_is_longer_than_400_lines():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_function_is_longer_than_40_lines_of_code():
    counts = {f"{name_of(path)}: {name}": n for path in MODULES for name, n in sizes(path)}
    assert {name: count for name, count in counts.items() if count > 40} == {}


@pytest.mark.parametrize("name", BUDGETS)
def test_the_median_function_of_a_room_has_at_most_8_lines_of_code(name):
    counts = [count for path in room(name) for _, count in sizes(path)]
    assert statistics.median(counts) <= 8


def test_no_notebook_but_the_benchmark_imports_the_study():
    users = [path.stem for path in SCRIPTS if any(is_in(n, "ae_lib.study") for n in imported(path))]
    assert users == ["15_benchmark"]


def test_the_core_imports_no_other_room():
    core = [path for path in room(".") if path.name != "__main__.py"]
    names = itertools.product(core, ("ae_lib.analysis", "ae_lib.study"))
    found = [
        (path.name, package)
        for path, package in names
        if any(is_in(name, package) for name in imported(path))
    ]
    assert found == []


def test_the_library_needs_no_extra_and_reads_data_and_runs_without_tensorflow():
    modules = [name_of(path).removesuffix(".py").replace("/", ".") for path in MODULES]
    modules = [name for name in modules if "study" not in name and "__init__" not in name]
    program = f"""
import importlib, json, sys
sys.modules.update(dict.fromkeys({EXTRAS}))  # importing one fails as if it were not installed
import ae_lib.data, ae_lib.metrics, ae_lib.run
heavy = sorted({{"tensorflow", "keras", "torch"}} & set(sys.modules))
for name in {modules}:
    importlib.import_module(name)
print(json.dumps(heavy))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


SAMPLE = '''
@decorated
@twice
def outer(a):
    """A docstring

    of three lines."""
    # a comment

    def inner():
        return a
    return inner
'''


def test_lines_of_code_are_counted_without_docstring_comment_blank_and_decorator(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    assert sizes(path) == [("outer", 4), ("inner", 2)]


def test_imports_are_seen_wherever_they_stand(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text("def f():\n    from ae_lib import study\n\n\nimport ae_lib.study.graph as g\n")
    assert sorted(n for n in imported(path) if is_in(n, "ae_lib.study")) == [
        "ae_lib.study",
        "ae_lib.study.graph",
    ]
    assert not is_in("ae_lib.studying", "ae_lib.study")
