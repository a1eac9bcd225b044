"""The notebooks in their order, their parameters, and the profiles that set these."""

import ast
import functools
import hashlib
import re
from pathlib import Path

from ae_lib import StudyError
from ae_lib import run as runs

FOLDER = runs.PROJECT / "notebooks"
PARAMS = FOLDER / "params"
SHARED = "all"  # the section of a profile whose parameters go to every notebook that has them
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}


def notebooks(profile="mnist", parameters=None):
    """The notebooks of a profile (a name) in an order in which they can be executed, each with those that it reads from.

    Taken from the scripts themselves: their names; what they say to `ae_lib.run.Run.artifact` as ``made_by``; the model that
    they ask of `ae_lib.run.Run.trained`; and their parameter ``profile``. One that is not ``"mnist"`` by default belongs to
    that profile, which has no others.

    Parameters
    ----------
    profile : str
    parameters : dict, optional
        As `load_profile` gives them: with another ``model``, a notebook needs another one before it, and the order is no
        longer that of reading. By default the notebooks' own.

    Returns
    -------
    dict
        Name to a set of names.

    Raises
    ------
    StudyError
        If a notebook needs one that there is not, or that needs it in turn.
    """
    texts, given = _scripts(), parameters or {}
    homes = _homes(texts)
    own = profile if profile in homes.values() else "mnist"
    return _in_order(
        {n: _needs(text, given.get(n, {})) for n, text in texts.items() if homes[n] == own}
    )


def own_profiles():
    """The profiles that have notebooks of their own, which no other profile executes."""
    return sorted({*_homes(_scripts()).values()} - {"mnist"})


def _scripts():
    return {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    }


def _homes(texts):
    return {
        name: re.search(r'^profile: str = "(\w+)"', text, re.M)[1] for name, text in texts.items()
    }


def _needs(script, parameters):
    needs = set(re.findall(r'made_by="(\w+)"', script))
    if "run.trained(model)" in script:
        model = parameters.get("model") or re.search(r'^model: str = "(\w+)"', script, re.M)[1]
        needs.add(runs.model_file(model)[1])
    return needs


def _in_order(needs):
    ordered = {}
    while len(ordered) < len(needs):
        left = {
            name: those - ordered.keys() for name, those in needs.items() if name not in ordered
        }
        ready = next((name for name, those in left.items() if not those), None)
        if ready is None:
            name, those = next(iter(left.items()))
            raise StudyError(
                f"{name} needs {' and '.join(sorted(those))}, which cannot be executed before it; expected notebooks that do "
                "not wait for each other: choose another model."
            )
        ordered[ready] = needs[ready]
    return ordered


def read_notebook(name):
    """A notebook from its script, without outputs.

    Jupytext draws the cells' ids at random; here they come from the cells' sources, so that the same script gives the
    same notebook.
    """
    import jupytext

    notebook, seen = jupytext.read(FOLDER / f"{name}.py"), set()
    for cell in notebook.cells:
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        while cell.id in seen:
            cell.id += "x"
        seen.add(cell.id)
    return notebook


def declared_parameters(name):
    """The parameters cell of a notebook: name to (type, default)."""
    return _declared((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


@functools.cache
def _declared(script):
    import jupytext
    from papermill.translators import PythonTranslator

    cells = [
        c
        for c in jupytext.reads(script, "py:percent").cells
        if "parameters" in c.metadata.get("tags", [])
    ]
    found = [parameter for cell in cells for parameter in PythonTranslator.inspect(cell)]
    return {p.name: (p.inferred_type_name, ast.literal_eval(p.default)) for p in found}


def profile_file(profile):
    """The YAML file of a profile, which is a name in ``notebooks/params/`` or a path; `StudyError` if there is none."""
    return named_file(profile, PARAMS, "profile", "notebooks/params")


def named_file(name, folder, kind, shown):
    """A YAML file by its path, or by its name in a folder, which errors call ``shown``; `StudyError` if there is none."""
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise StudyError(
            f"There is no {kind} {name!r}; expected one of {known}, or a file {shown}/{name}.yaml."
        )
    return path


def load_profile(profile):
    """The full parameters of every notebook under a profile, by its name or path: `complete` of what its file says."""
    path = profile_file(profile)
    return complete(read_sections(path), path.name, path.stem)


def read_yaml(path):
    """The content of a YAML file; `StudyError` for one that is not YAML, or that gives a name twice, which YAML forbids."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            names = [key.value for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise StudyError(
                    f"{path.name} gives {twice!r} twice; expected each name once: remove one of them."
                )
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)
    except yaml.YAMLError as error:
        raise StudyError(
            f"{path.name} is not valid YAML ({' '.join(str(error).split())}): mend it."
        ) from error


def read_sections(path):
    """What a profile's file says: section to parameters, as far as their form goes; `complete` checks the rest."""
    sections = read_yaml(path) or {}
    check_sections(sections, path.name)
    return {name: section or {} for name, section in sections.items()}


def check_sections(sections, file):
    """Raise `StudyError` unless ``sections`` maps names to parameters."""
    if not isinstance(sections, dict) or not all(
        isinstance(s, dict | None) for s in sections.values()
    ):
        raise StudyError(
            f"{file} must map notebook names to parameters; expected lines such as '02_train:'."
        )


def complete(sections, file, profile):
    """The full parameters of every notebook, from those of a profile's sections.

    Parameters
    ----------
    sections : dict
        Notebook, or `SHARED`, to its parameters.
    file : str
        What errors name as the place to mend.
    profile : str
        Decides which notebooks there are, and is their parameter ``profile``.

    Returns
    -------
    dict
        Notebook name to its parameters, defaults included.

    Raises
    ------
    StudyError
        For an unknown section or parameter, or a wrong type.
    """
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks(profile)}
    unknown = set(sections) - {SHARED, *declared}
    if unknown:
        raise StudyError(
            f"{file} has a section {sorted(unknown)[0]!r}; expected {SHARED} or one of {', '.join(declared)}."
        )
    shared = sections.get(SHARED, {})
    everywhere = {
        name: kind for parameters in declared.values() for name, kind in parameters.items()
    }
    for name, value in shared.items():
        check_parameter(file, SHARED, name, value, everywhere)
    result = {}
    for notebook, known in declared.items():
        own = sections.get(notebook, {})
        for name, value in own.items():
            check_parameter(file, notebook, name, value, known)
        given = {
            **{name: value for name, value in shared.items() if name in known},
            **own,
            "profile": profile,
        }
        result[notebook] = {name: given.get(name, default) for name, (_, default) in known.items()}
    return result


def with_needed(targets, needs):
    """Those notebooks of ``needs``, as `notebooks` gives it, that ``targets`` are or need, directly or not; in its order."""
    wanted = set(targets)
    for name in reversed(needs):
        if name in wanted:
            wanted |= needs[name]
    return [name for name in needs if name in wanted]


def check_parameter(file, section, name, value, known):
    """Raise `StudyError` unless ``known``, as `declared_parameters` gives it, has a parameter that takes this value."""
    if name not in known or name == "profile":
        raise StudyError(
            f"{file} sets {name!r} in section {section}, which has no such parameter; "
            f"expected one of {', '.join(sorted(set(known) - {'profile'}))}."
        )
    kind = known[name][0]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        hint = (
            " (YAML reads 1e-3 as text: write 1.0e-3)"
            if kind == "float" and isinstance(value, str)
            else ""
        )
        raise StudyError(
            f"{file} sets {name} in section {section} to {value!r}, which is {type(value).__name__}; "
            f"expected {kind}{hint}."
        )
    if name == "model" and value not in runs.MODELS:
        raise StudyError(
            f"{file} sets model in section {section} to {value!r}; expected one of {', '.join(runs.MODELS)}."
        )
    if name == "seed" and value < 0:
        raise StudyError(
            f"{file} sets seed in section {section} to {value}; expected a whole number of at least 0."
        )
