"""What a notebook's results depend on, as one hash, and which notebooks are out of date."""

import ast
import functools
import hashlib
import io
import itertools
import json
import tokenize
from importlib.metadata import version

from ae_lib import StudyError, data
from ae_lib.run import PROJECT, REFERENCE, RESULTS, is_duration, read_json, sweep_table
from ae_lib.study import graph

LINE_STARTS = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT}
PACKAGES = (  # that results depend on
    "tensorflow", "keras", "numpy", "scipy", "pandas", "scikit-learn", "matplotlib", "constriction",
    "pillow", "adjustText", "opentsne",
)  # fmt: skip


def fingerprint(name, notebook, parameters, needed):
    """SHA-256 of all that a notebook's results depend on, but for the processor.

    File times, comments and docstrings mean nothing. ``parameters`` are all of the notebook's,
    ``needed`` the fingerprints of the notebooks that it reads from. `StudyError` if images or a
    table that the parameters name are missing, or a cell is not Python.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    try:
        cells = [_parsed(source) for source in sources]
    except (SyntaxError, tokenize.TokenError) as error:
        raise StudyError(f"{name} is not valid Python ({error}): correct it.") from error
    named = {key: value for key, value in parameters.items() if key != "profile"}
    size = named.get("image_size")
    images = {key: _images(named[key], size) for key in graph.DATASETS if key in named}
    files = [sweep_table(named[key]) for key in graph.SWEEPS if key in named]
    if name in graph.READS_REFERENCE:
        files += REFERENCE.glob(f"{parameters['profile']}.json")
    read = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    modules = _modules({"ae_lib"}.union(*(imports for _, imports in cells)))
    code = [text for text, _ in cells]
    return sha256_of([code, named, images, read, _packages(), modules, list(needed)])


def sha256_of(content):
    """SHA-256 of what JSON can hold, whatever the order of names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def fingerprints(profile):
    """The fingerprint of each notebook of a `ae_lib.study.graph.Profile`."""
    result = {}
    for name, parameters in profile.parameters.items():
        needed = [result[need] for need in profile.needs[name]]
        result[name] = fingerprint(name, graph.read_notebook(name), parameters, needed)
    return result


def out_of_date(profile, current, folder):
    """The notebooks of a profile that have to be executed in a run's folder, in order.

    Those whose executed copy has another fingerprint than the ``current`` one, or shows other
    results than the artifacts hold, because someone ran the notebook in JupyterLab since; and those
    that read from them.
    """
    stale = []
    for name, needs in profile.needs.items():
        if not is_executed(folder, name, current[name]) or any(need in stale for need in needs):
            stale.append(name)
    return stale


def is_executed(folder, name, current):
    """Whether a run's folder has a notebook as executed under its fingerprint, and its results."""
    executed = folder / f"{name}.ipynb"
    study = read_json(executed)["metadata"].get("study", {}) if executed.is_file() else {}
    shown = study.get("results") == results_of(folder, name)
    return study.get("fingerprint") == current and shown


def results_of(folder, name):
    """SHA-256 of a notebook's results in a run's folder but for durations; None without any."""
    path = folder / "artifacts" / name / RESULTS
    if not path.is_file():
        return None
    return sha256_of({k: v for k, v in read_json(path)["metrics"].items() if not is_duration(k)})


def code_of(source):
    """Python source without comments, docstrings and blank lines."""
    lines, before = source.splitlines(), tokenize.NEWLINE
    for token, after in itertools.pairwise(tokenize.generate_tokens(io.StringIO(source).readline)):
        (first, column), (last, _) = token.start, token.end
        # A string is a docstring, and has no effect, if it is all that stands on its lines.
        alone = before in LINE_STARTS and after.type == tokenize.NEWLINE
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and alone):
            lines[first - 1 : last] = [lines[first - 1][:column], *[""] * (last - first)]
        before = token.type
    return "\n".join(line.rstrip() for line in lines if line.strip())


@functools.cache
def _packages():
    return {package: version(package) for package in PACKAGES}


def _modules(waiting):
    """Code of these modules of ae_lib and of those that they import, directly or not."""
    code, waiting = {}, set(waiting)
    while waiting:
        name = waiting.pop()
        code[name], imports = _parsed(_path(name).read_text(encoding="utf-8"))
        waiting |= imports - set(code)
    return code


def _imports(source):
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in names if name.split(".")[0] == "ae_lib" and _path(name).is_file()}


def _path(module):
    path = PROJECT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.lru_cache(maxsize=1000)
def _parsed(source):
    """Code of a source, and the modules of ae_lib that it imports itself."""
    return code_of(source), _imports(source)


def _images(name, size):
    """What tells images from others of the same name; None if a notebook does without them."""
    if name == "mnist":
        return data.MNIST_MD5  # checked whenever they are loaded
    if name in ("any", "digits") or (name in data.TITLES and not data.local_file(name)):
        return None
    return _facts(name, size)[:2]


def too_few_classes(parameters):
    """Why cells tagged "classes" are left out of a notebook with these parameters, or None."""
    name = parameters.get("dataset", "any")
    if name == "any" or name in data.TITLES:
        return None
    *_, count = _facts(name, parameters.get("image_size"))
    return None if count > 1 else f"it needs two classes in every split, and there are {count}"


def _facts(name, size):
    """MD5 sums of images, what their classes are called, and how many are in every split."""
    return _loaded(name, tuple(size or ()), _stat(data.local_file(name)))


@functools.lru_cache(maxsize=10)
def _loaded(name, size, stat):
    loaded = data.load(name, image_size=size)
    return [loaded.md5, loaded.classes.tolist(), len(loaded.everywhere)]


def _stat(path):
    """What changes with a file, or with any file of a folder; to read them all takes longer."""
    if path is None:
        return None
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), file.stat()) for file in files]
    return hash(tuple((f, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for f, s in stats))
