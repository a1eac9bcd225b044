"""Guards that a green run means something.

Each returns the problems that it finds, as sentences; none is good.
"""

import ast
import re
import statistics

import nbformat
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

IGNORED = {"nbval-ignore-output", "nbval-skip"}
# The least share of the cells with text that nbval compares. Another processor rounds the numbers
# of trained networks otherwise: `reproduced` compares them, each within its tolerance.
COMPARED = 0.25
PEERS = "benchmark"  # the extra that is not locked: who wants its packages installs them
MACHINE_PATH = re.compile(
    r"(?<![\w.$~}/])/(?:root|home|Users|tmp|private|work|mnt|opt|var)/|[A-Z]:\\\\"
)
MOST_LINES, MEDIAN_LINES, CELLS, FIGURES = 15, 6, (10, 24), 8  # of a notebook, its code
# Words that are retired, and what is written instead. A space stands for any gap: between words,
# between lines of a comment, in an identifier.
RETIRED = {
    r"drawn? (again|badly)|draws( (an|the|each))? images? again|draws? badly": "reconstructs",
    r"(has|have|had|asked) to draw": "target",
    r"doubts?": "uncertainty",
    r"told apart|tell(s|ing)? apart": "significantly different",
    r"numbers? of (a|the|its|each|every) codes?": "latent dimension",
    r"sizes? of (a|the|its|each|every) codes?|code sizes?": "latent dimension",
    r"(?<!kl\s)(?<!kl\n#\s)(?<!leibler\s)divergences?": "KL divergence",
    r"spreads?": "standard deviation",
    r"pca cut": "pca_clipped",
    r"cells? of (a|the) sweep": "trial",
    r"kept states?|begins? anew|anew": "checkpoint, restart, reinitialized",
    r"halves": "encoder and decoder",
    r"standings|scorecards?|contenders?|stand-ins?": "comparison, evaluation, backend",
    r"could not be had": "is not available",
    r"mend(s|ed|ing)?": "fix",
    r"barely": "yes, no, no difference detected",
    r"undecided": "no difference detected",
    r"level within": "equivalent within",
}
VAGUE = {"found", "own", "some", "kept", "given", "few"}  # as a variable's name in a notebook
SHOWN = re.compile(r"\s*(-?[\d.]+)(?: ± ([\d.]+))?")  # a number in a table, and its deviation


def pair_agrees(script, notebook):
    """The script and its notebook hold the same cells."""
    if not notebook.is_file():
        return [f"{script.name} has no paired notebook"]
    if _content(script) != _content(notebook):
        return [f"{script.name} and {notebook.name} differ in content"]
    return []


def _content(path):
    import jupytext

    cells = jupytext.read(path).cells
    return [(cell.cell_type, cell.source, sorted(cell.metadata.get("tags", []))) for cell in cells]


def words_in_use(text):
    """No retired word stands in a text: prose, captions, messages, identifiers, comments."""
    problems = []
    for pattern, instead in RETIRED.items():
        spaced = pattern.replace(" ", r"[\s#_]*")
        for match in re.finditer(rf"(?<![^\W_])({spaced})(?![^\W_])", text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            problems.append(f"line {line}: {match[0]!r}; expected {instead}")
    return problems


def telling_names(script):
    """No variable, parameter or function of a notebook has a name that says nothing."""
    problems = []
    for node in ast.walk(ast.parse(script)):
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        name = node.id if stored else getattr(node, "arg", getattr(node, "name", None))
        if name in VAGUE and not isinstance(node, ast.keyword | ast.alias):
            problems.append(f"line {node.lineno}: {name}; expected what it holds")
    return problems


def within_budgets(script):
    """A notebook has neither too much code nor too many figures; the parameters do not count."""
    import jupytext

    cells = [
        cell for cell in jupytext.reads(script, "py:percent").cells if cell.cell_type == "code"
    ]
    sources = [c.source for c in cells if "parameters" not in c.metadata.get("tags", [])]
    lines = [sum(bool(line.strip()) for line in source.splitlines()) for source in sources]
    figures = sum(source.count("run.show(") for source in sources)
    problems = []
    if not CELLS[0] <= len(lines) <= CELLS[1]:
        problems.append(f"{len(lines)} code cells; expected {CELLS[0]} to {CELLS[1]}")
    if statistics.median(lines) > MEDIAN_LINES:
        problems.append(f"a median of {statistics.median(lines)} lines; expected {MEDIAN_LINES}")
    if max(lines) > MOST_LINES:
        problems.append(f"a cell of {max(lines)} lines; expected at most {MOST_LINES}")
    if figures > FIGURES:
        problems.append(f"{figures} figures; expected at most {FIGURES}")
    return problems


def is_what_the_code_makes(notebook, fingerprint):
    """The stored notebook carries the fingerprint that its code, parameters and data have now."""
    study = nbformat.read(notebook, 4).metadata.get("study", {})
    if study.get("fingerprint") != fingerprint:
        return [f"{notebook.name} is not what the code would make: execute and store it again"]
    return []


def executed_in_order(notebook):
    """Every code cell was executed, from first to last, in a fresh kernel."""
    counts = [cell.execution_count for cell in _code(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        return [f"{notebook.name} was executed as {counts}"]
    return []


def clean_outputs(notebook):
    """No error, no standard error and no path of a machine in a stored output."""
    problems = []
    for number, cell in enumerate(_code(notebook), 1):
        where = f"{notebook.name}, code cell {number}"
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(f"{where}: {output.output_type} {output.get('name', '')}")
            if MACHINE_PATH.search(_text(output)):
                problems.append(f"{where}: the path of a machine")
    return problems


def enough_is_compared(notebook):
    """nbval compares the text of enough cells, and what the run reproduces; no pictures."""
    cells = [cell for cell in _code(notebook) if any(_has_text(output) for output in cell.outputs)]
    compared = [cell for cell in cells if not IGNORED & set(cell.metadata.get("tags", []))]
    if len(compared) < COMPARED * len(cells):
        share = len(compared) / len(cells)
        return [f"{notebook.name}: only {share:.0%} of the cells with text are compared"]
    if not any(cell.source.endswith("reproduced") for cell in compared):
        return [f"{notebook.name}: what the run reproduces is not compared"]
    return []


def versions_agree(pyproject, lock, environment):
    """The lock satisfies pyproject.toml, all extras but `PEERS` included, and conda installs it."""
    return [
        *_unsatisfied(pyproject["project"], lock),
        *_unsafe(lock),
        *_conda_differs(pyproject["project"], yaml.safe_load(environment)["dependencies"]),
    ]


def _unsatisfied(project, lock):
    versions = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)[^\\\n]*\\$", lock, re.M))
    pinned = {canonicalize_name(name): version for name, version in versions.items()}
    extras = project["optional-dependencies"]
    locked = [text for extra, texts in extras.items() if extra != PEERS for text in texts]
    problems = []
    for requirement in map(Requirement, project["dependencies"] + locked):
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            problems.append(f"{requirement.name} is not in the lock")
        elif version not in requirement.specifier:
            problems.append(f"the lock's {requirement.name} {version} is not {requirement}")
    return problems


def _unsafe(lock):
    entries = re.split(r"^(?=[\w.,[\]-]+==)", lock, flags=re.M)[1:]
    without = [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    problems = [f"{name} has no hash in the lock" for name in without]
    return problems + (["the lock holds an address"] if "://" in lock else [])


def _conda_differs(project, conda):
    problems = []
    python = next(item for item in conda if isinstance(item, str) and item.startswith("python="))
    if python.split("=")[1] not in SpecifierSet(project["requires-python"]):
        problems.append(f"environment.yml's {python} is outside requires-python")
    if {"pip": ["-r requirements.lock"]} not in conda:
        problems.append("environment.yml does not install requirements.lock")
    return problems


def claims_are_published(readme, reference, claims):
    """Every row that names its metrics, in a comment in its last cell, shows what is published.

    The first name belongs to the second cell, and so on, a dash to one that shows no metric; a cell
    with a per cent sign shows a hundred times the metric. The last cell is the verdict on the first
    two names, or a name and a number, in the table of ``claims``.
    """
    rows = re.findall(r"^\|[^|]*\|(.*)<!-- ([\w. -]+) --> *\|$", readme, re.M)
    problems = [] if rows else ["the README has no table of claims"]
    for cells, names in rows:
        *shown, verdict = cells.split("|")
        for name, cell in zip(names.split(), shown, strict=False):
            if name in reference or not re.fullmatch(r"-|[\d.]+", name):
                problems += _misquoted(name, cell, reference.get(name))
        sides = [name for name in names.split() if name != "-"][:2]
        decided = claims[(claims[["measured", "baseline"]].astype(str) == sides).all(axis=1)]
        if verdict.strip() not in set(decided["verdict"]):
            published = ", ".join(decided["verdict"]) or "nothing"
            problems.append(f"{sides}: shown {verdict.strip()!r}, decided {published}")
    return problems


def _misquoted(name, cell, entry):
    shown = SHOWN.match(cell)
    if not shown or not entry:
        return [f"{name}: shown {cell.strip()!r}, published {entry}"]
    problems = []
    for text, key in zip(shown.groups(), ("mean", "std"), strict=True):
        published = entry[key] * (100 if "%" in cell else 1)
        if text and f"{published:.{len(text.partition('.')[2])}f}" != text:
            problems.append(f"{name}: shown {text}, published {key} {published:.6g}")
    return problems


def _code(notebook):
    return [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]


def _has_text(output):
    return "text" in output or not output.get("data", {}).get("text/plain", "").startswith(
        "<IPython.core.display.Image"
    )


def _text(output):
    data = {
        kind: value
        for kind, value in output.get("data", {}).items()
        if not kind.startswith("image/png")
    }
    return str([output.get("text", ""), data, output.get("traceback", "")])
