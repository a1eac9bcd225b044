"""Which notebook needs which, and the profiles, which set the parameters of the notebooks."""

import ast
import copy
import functools
import hashlib
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from ae_lib import StudyError
from ae_lib.run import MODELS, PROJECT

FOLDER = PROJECT / "notebooks"
PARAMS = FOLDER / "params"
MODEL = "MODEL"  # stands for the notebook that trains what the parameter ``model`` names

# A line for each notebook: those whose artifacts it reads.
NEEDS = {
    "01_preprocess": [],
    "02_train": [],
    "03_evaluate": [MODEL],
    "04_error_maps": [MODEL],
    "05_explore_latent_space": [MODEL],
    "06_detect_anomalies": [MODEL],
    "07_compress_images": [MODEL],
    "08_learn_from_few_labels": [MODEL],
    "09_train_convolutional": ["02_train"],
    "10_train_variational": ["02_train"],
    "11_benchmark": [],
    "12_compare_models": [
        "01_preprocess", "02_train", "03_evaluate", "05_explore_latent_space",
        "06_detect_anomalies", "09_train_convolutional", "10_train_variational",
    ],
    "13_study_latent_size": [],
}  # fmt: skip
OWN_PROFILE = {"11_benchmark": "benchmark", "13_study_latent_size": "latent_size"}  # run no others
READS_REFERENCE = {"12_compare_models"}
DATASETS = ("dataset", "other_dataset")  # parameters that name the images a notebook reads
SWEEPS = ("sweep", "bottleneck_sweep")  # parameters that name the sweeps whose tables it reads

SHARED = "all"  # the section of a profile whose parameters go to every notebook that has them
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}
RESERVED = {"reference", "sweeps"}  # folders of reports/ that are no profile's


@dataclass(frozen=True)
class Profile:
    """A profile, resolved: all that has to be known to execute it."""

    name: str  # its results are reports/<name>/
    parameters: dict  # notebook to all its parameters, in an order of execution
    needs: dict  # notebook to those of the profile's notebooks that it reads from

    def restricted_to(self, targets):
        """The same profile with some of its notebooks, and those that these need."""
        wanted = set(targets)
        for name in reversed(self.parameters):
            if name in wanted:
                wanted.update(self.needs[name])
        parameters = {name: own for name, own in self.parameters.items() if name in wanted}
        return Profile(self.name, parameters, {name: self.needs[name] for name in parameters})


def load_profile(profile):
    """Resolve a profile by its name in ``notebooks/params/``, or by its path; see `resolve`."""
    path = profile_file(profile)
    return resolve(path.stem, read_sections(path), path.name)


def resolve(name, sections, file):
    """A `Profile` from the sections of its file.

    Parameters
    ----------
    name : str
    sections : dict
        Notebook, or `SHARED`, to its parameters.
    file : str
        What errors name as the place to correct.

    Raises
    ------
    StudyError
        For an unknown section or parameter, a wrong type, or notebooks that wait for each other.
    """
    if name in RESERVED:
        raise StudyError(f"{file} would write to reports/{name}; expected another name: rename it.")
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks_of(name)}
    unknown = sorted(set(sections) - {SHARED, *declared})
    if unknown:
        raise StudyError(
            f"{file} has a section {unknown[0]!r}; expected {SHARED} or one of "
            f"{', '.join(declared)}."
        )
    shared = sections.get(SHARED, {})
    everywhere = {key: known[key] for known in declared.values() for key in known}
    check_parameters(file, SHARED, shared, everywhere)
    parameters = {}
    for notebook, known in declared.items():
        if "profile" not in known:
            raise StudyError(
                f"notebooks/{notebook}.py has no parameter profile; expected one in its cell "
                "tagged parameters, which names the run: add it."
            )
        own = sections.get(notebook, {})
        check_parameters(file, notebook, own, known)
        chosen = {**shared, **own, "profile": name}
        defaults = {key: default for key, (_, default) in known.items()}
        parameters[notebook] = {key: chosen.get(key, defaults[key]) for key in known}
    return ordered(name, parameters)


def ordered(name, parameters):
    """A `Profile` of notebooks with these parameters, put into an order of execution."""
    needs = {notebook: _needs(notebook, own) for notebook, own in parameters.items()}
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        raise StudyError(
            f"{' needs '.join(reversed(error.args[1]))}; expected notebooks that do not wait for "
            "each other: choose another model."
        ) from error
    order = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        order += ready
        sorter.done(*ready)
    missing = [notebook for notebook in order if notebook not in parameters]
    if missing:
        raise StudyError(f"{missing[0]} is needed, and {name} does not have it: add it.")
    in_order = {notebook: needs[notebook] for notebook in order}
    return Profile(name, {notebook: parameters[notebook] for notebook in order}, in_order)


def _needs(notebook, parameters):
    needed = NEEDS[notebook]
    return tuple(MODELS[parameters["model"]] if need == MODEL else need for need in needed)


def notebooks_of(profile):
    """The notebooks of a profile, by its name: those of its own, or all that are nobody's own.

    `StudyError` if a script has no line in `NEEDS`.
    """
    scripts = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
    unknown = [script for script in scripts if script not in NEEDS]
    if unknown:
        raise StudyError(
            f"notebooks/{unknown[0]}.py has no line in NEEDS of ae_lib/study/graph.py; expected "
            "one that names the notebooks it reads from: add it."
        )
    home = profile if profile in OWN_PROFILE.values() else None
    return [script for script in scripts if OWN_PROFILE.get(script) == home]


def read_notebook(name):
    """A notebook from its script, without outputs; the same script gives the same notebook."""
    return copy.deepcopy(_script(name))


def _script(name):
    return _parsed((FOLDER / f"{name}.py").read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=50)
def _parsed(script):
    import jupytext

    notebook, seen = jupytext.reads(script, "py:percent"), set()
    for cell in notebook.cells:
        # Jupytext draws ids at random.
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        while cell.id in seen:
            cell.id += "x"
        seen.add(cell.id)
    return notebook


def declared_parameters(name):
    """The parameters cell of a notebook: name to (type, default)."""
    cells = _script(name).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = [node for node in ast.parse("\n".join(tagged)).body if isinstance(node, ast.AnnAssign)]
    return {n.target.id: (n.annotation.id, ast.literal_eval(n.value)) for n in lines}


def profile_file(profile):
    """The YAML file of a profile: a name in ``notebooks/params/``, or a path."""
    return named_file(profile, PARAMS, "profile")


def named_file(name, folder, kind):
    """A YAML file by its path, or by its name in a folder; `StudyError` if there is none."""
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not FOLDER.is_dir():
        raise StudyError(
            f"{FOLDER} is missing; expected the notebooks: clone the study, and run make there."
        )
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise StudyError(
            f"There is no {kind} {name!r}; expected one of {known}, or the path of a .yaml file."
        )
    return path


def read_yaml(path):
    """The content of a YAML file; `StudyError` if it is not YAML, or gives a name twice."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    try:
        return YAML(typ="safe", pure=True).load(path)
    except MarkedYAMLError as error:
        raise StudyError(
            f"{path.name} is not valid YAML: {error.problem} in line "
            f"{error.problem_mark.line + 1}; expected each name once, and lines such as 'seed: 1'."
        ) from error


def read_sections(path):
    """What a profile's file says: section to parameters, as far as their form goes."""
    return checked_sections(read_yaml(path) or {}, path.name)


def checked_sections(sections, file):
    """Sections, an empty one as {}; `StudyError` unless they map names to parameters."""
    if not isinstance(sections, dict) or any(
        not isinstance(section, dict | None) for section in sections.values()
    ):
        raise StudyError(
            f"{file} must map notebook names to parameters; expected lines such as '02_train:'."
        )
    return {name: section or {} for name, section in sections.items()}


def check_parameters(file, section, parameters, known):
    """`check_parameter` of each."""
    for name, value in parameters.items():
        check_parameter(file, section, name, value, known)


def check_parameter(file, section, name, value, known):
    """Raise `StudyError` unless ``known``, name to (type, default), has one of this type."""
    where = f"{file} sets {name} in section {section} to {value!r}"
    if name not in known or name == "profile":
        raise StudyError(
            f"{where}, which has no such parameter; "
            f"expected one of {', '.join(sorted(set(known) - {'profile'}))}."
        )
    kind = known[name][0]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise StudyError(f"{where}, which is {type(value).__name__}; expected {kind}.")
    if name == "model" and value not in MODELS:
        raise StudyError(f"{where}; expected one of {', '.join(MODELS)}.")
    if name == "seed" and value < 0:
        raise StudyError(f"{where}; expected a whole number of at least 0.")
