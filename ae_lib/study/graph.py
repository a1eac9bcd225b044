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

# A line for each notebook: those whose artifacts it reads. Of those that are ready, the first here
# starts first: 03 and 04 for their results, the others so that two cores end nearly at one time,
# and 09 and 11, which take most memory at their end, do not.
NEEDS = {
    "01_preprocess": [],
    "02_train": [],
    "03_evaluate": [MODEL, "02_train"],
    "04_error_maps": [MODEL],
    "09_train_convolutional": ["02_train"],
    "06_detect_anomalies": [MODEL],
    "11_train_variational": [],
    "08_learn_from_few_labels": [MODEL],
    "07_compress_images": [MODEL],
    "10_denoise": ["02_train", "09_train_convolutional"],
    "05_explore_latent_space": [MODEL],
    "15_benchmark": [],
    "12_compare_models": [
        "01_preprocess", "02_train", "03_evaluate", "05_explore_latent_space",
        "06_detect_anomalies", "09_train_convolutional", "10_denoise", "11_train_variational",
    ],
    "13_study_latent_size": [],
    "14_use_your_own_images": [],
}  # fmt: skip
OWN_PROFILE = {  # run no others
    "15_benchmark": "benchmark",
    "13_study_latent_size": "latent_size",
    "14_use_your_own_images": "own_images",
}
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

    @functools.cached_property
    def needs(self):
        """Notebook to those of the profile's notebooks that it reads from."""
        needs = {}
        for notebook, own in self.parameters.items():
            makers = (MODELS[own["model"]] if need == MODEL else need for need in NEEDS[notebook])
            needs[notebook] = tuple(dict.fromkeys(makers))
        return needs

    def restricted_to(self, targets):
        """The same profile with some of its notebooks, and those that these need."""
        wanted = set(targets)
        for name, needs in reversed(self.needs.items()):
            wanted.update(needs if name in wanted else ())
        return Profile(self.name, {n: own for n, own in self.parameters.items() if n in wanted})


def load_profile(profile):
    """Resolve a profile by its name in ``notebooks/params/``, or by its path; see `resolve`."""
    path = named_file(profile, PARAMS, "profile")
    return resolve(path.stem, read_sections(path), path.name)


def resolve(name, sections, file):
    """A `Profile` from the sections of its file: notebook, or `SHARED`, to its parameters.

    ``file`` is what errors name as the place to correct. `StudyError` for an unknown section or
    parameter, a wrong type, or notebooks that wait for each other.
    """
    if name in RESERVED:
        raise StudyError(f"{file} would write to reports/{name}; expected another name: rename it.")
    declared = {notebook: declared_parameters(notebook) for notebook in notebooks_of(name)}
    everywhere = {key: known[key] for known in declared.values() for key in known}
    known_sections = {SHARED: everywhere, **declared}
    for section, own in sections.items():
        if section not in known_sections:
            raise StudyError(
                f"{file} has a section {section!r}; expected {SHARED} or one of "
                f"{', '.join(declared)}."
            )
        check_parameters(file, section, own, known_sections[section])
    parameters = {}
    for notebook, known in declared.items():
        chosen = {**sections.get(SHARED, {}), **sections.get(notebook, {}), "profile": name}
        parameters[notebook] = {key: chosen.get(key, value) for key, (_, value) in known.items()}
    return ordered(name, parameters)


def ordered(name, parameters):
    """A `Profile` of notebooks with these parameters, put into an order of execution."""
    try:
        order = list(TopologicalSorter(Profile(name, parameters).needs).static_order())
    except CycleError as error:
        raise StudyError(
            f"{' needs '.join(reversed(error.args[1]))}; expected notebooks that do not wait for "
            "each other: choose another model."
        ) from error
    if missing := [notebook for notebook in order if notebook not in parameters]:
        raise StudyError(f"{missing[0]} is needed, and {name} does not have it: add it.")
    return Profile(name, {notebook: parameters[notebook] for notebook in order})


def notebooks_of(profile):
    """The notebooks of a profile, by its name: those of its own, or all that are nobody's own.

    `StudyError` if a script has no line in `NEEDS`.
    """
    scripts = sorted(path.stem for path in FOLDER.glob("[0-9][0-9]_*.py"))
    if unknown := [script for script in scripts if script not in NEEDS]:
        raise StudyError(
            f"notebooks/{unknown[0]}.py has no line in NEEDS of ae_lib/study/graph.py; expected "
            "one that names the notebooks it reads from: add it."
        )
    home = profile if profile in OWN_PROFILE.values() else None
    return [script for script in scripts if OWN_PROFILE.get(script) == home]


def read_notebook(name):
    """A notebook from its script, without outputs; the same script gives the same notebook."""
    return copy.deepcopy(_parsed((FOLDER / f"{name}.py").read_text(encoding="utf-8")))


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
    """The parameters cell of a notebook: name to (type, default); `StudyError` without profile."""
    cells = read_notebook(name).cells
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    lines = [node for node in ast.parse("\n".join(tagged)).body if isinstance(node, ast.AnnAssign)]
    declared = {n.target.id: (n.annotation.id, ast.literal_eval(n.value)) for n in lines}
    if "profile" not in declared:
        raise StudyError(
            f"notebooks/{name}.py has no parameter profile; expected one in its cell tagged "
            "parameters, which names the run: add it."
        )
    return declared


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
    """What a profile's file says: section to parameters, an empty one as {}."""
    sections = read_yaml(path) or {}
    own = sections.values() if isinstance(sections, dict) else [sections]
    if not all(isinstance(section, dict | None) for section in own):
        raise StudyError(
            f"{path.name} must map notebook names to parameters; expected lines such as "
            "'02_train:'."
        )
    return {name: section or {} for name, section in sections.items()}


def check_parameters(file, section, parameters, known):
    """Raise `StudyError` unless ``known``, name to (type, default), has all, and of these types."""
    allowed = sorted(set(known) - {"profile"})
    for name, value in parameters.items():
        where = f"{file} sets {name} in section {section} to {value!r}"
        if name not in allowed:
            raise StudyError(
                f"{where}, which has no such parameter; expected one of {', '.join(allowed)}."
            )
        kind = known[name][0]
        if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
            raise StudyError(f"{where}, which is {type(value).__name__}; expected {kind}.")
        if name == "model" and value not in MODELS:
            raise StudyError(f"{where}; expected one of {', '.join(MODELS)}.")
        if name == "seed" and not 0 <= value < 2**31:
            raise StudyError(f"{where}; expected a whole number from 0 to 2³¹ − 1.")
