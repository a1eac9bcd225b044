"""Guards that a green run means something. Each returns the problems it finds, as sentences; none is good."""

import re

import nbformat
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

IGNORED = {"nbval-ignore-output", "nbval-skip"}
COMPARED = 0.5  # the least share of the cells with text that nbval compares
MACHINE_PATH = re.compile(
    r"(?<![\w.$~}/])/(?:root|home|Users|tmp|private|work|mnt|opt|var)/|[A-Z]:\\\\"
)


def pair_agrees(script, notebook):
    """The script and its notebook hold the same cells."""
    import jupytext

    def content(path):
        cells = jupytext.read(path).cells
        return [
            (cell.cell_type, cell.source, sorted(cell.metadata.get("tags", []))) for cell in cells
        ]

    if not notebook.is_file():
        return [f"{script.name} has no paired notebook"]
    return (
        []
        if content(script) == content(notebook)
        else [f"{script.name} and {notebook.name} differ in content"]
    )


def executed_in_order(notebook):
    """Every code cell was executed, from first to last, in a fresh kernel."""
    counts = [cell.execution_count for cell in _code(notebook)]
    return (
        []
        if counts == list(range(1, len(counts) + 1))
        else [f"{notebook.name} was executed as {counts}"]
    )


def clean_outputs(notebook):
    """No error, no standard error and no path of a machine in a stored output."""
    problems = []
    for number, cell in enumerate(_code(notebook), 1):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                problems.append(
                    f"{notebook.name}, code cell {number}: {output.output_type} {output.get('name', '')}"
                )
            if MACHINE_PATH.search(_text(output)):
                problems.append(f"{notebook.name}, code cell {number}: the path of a machine")
    return problems


def mostly_compared(notebook):
    """nbval compares the text of most cells that have any; pictures are not compared."""
    cells = [cell for cell in _code(notebook) if any(_has_text(output) for output in cell.outputs)]
    share = sum(not IGNORED & set(cell.metadata.get("tags", [])) for cell in cells) / len(cells)
    return (
        []
        if share >= COMPARED
        else [f"{notebook.name}: only {share:.0%} of the cells with text are compared"]
    )


def versions_agree(pyproject, lock, environment):
    """The lock satisfies pyproject.toml, carries hashes and no address; environment.yml installs that lock."""
    problems = []
    names = re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.]+)[^\\\n]*\\$", lock, re.M)
    pinned = dict(names)
    # The benchmark's peers are nobody's dependency: they are pinned where they are named, and installed by who wants them.
    extras = pyproject["project"]["optional-dependencies"]["test"]
    for text in pyproject["project"]["dependencies"] + extras:
        requirement = Requirement(text)
        if requirement.name not in pinned:
            problems.append(f"{requirement.name} is not in the lock")
        elif pinned[requirement.name] not in requirement.specifier:
            problems.append(
                f"the lock's {requirement.name} {pinned[requirement.name]} is not {requirement.specifier}"
            )
    entries = re.split(r"^(?=[\w.,[\]-]+==)", lock, flags=re.M)[1:]
    problems += [
        f"{e.split()[0]} has no hash in the lock" for e in entries if "--hash=sha256:" not in e
    ]
    if "://" in lock:
        problems.append("the lock holds an address")
    conda = yaml.safe_load(environment)["dependencies"]
    python = next(item for item in conda if isinstance(item, str) and item.startswith("python="))
    if python.split("=")[1] not in SpecifierSet(pyproject["project"]["requires-python"]):
        problems.append(f"environment.yml's {python} is outside requires-python")
    if {"pip": ["-r requirements.lock"]} not in conda:
        problems.append("environment.yml does not install requirements.lock")
    return problems


def table_is_published(readme, reference):
    """Every row of the README's results table is what the reference says, to the digits shown."""
    problems = []
    rows = re.findall(r"^\| [^|]*`(\w+)`[^|]*\|(.*)\|$", readme, re.M)
    header = re.search(r"^\| *score *\|(.*)\|$", readme, re.M)
    if not rows or not header:
        return ["the README has no results table"]
    models = re.findall(r"`(\w+)`", header.group(1))
    for metric, cells in rows:
        for model, cell in zip(models, cells.split("|"), strict=True):
            entry = reference.get(f"{model}.test.{metric}")
            shown = re.match(r"\s*(-?[\d.]+)(?: ± ([\d.]+))?", cell)
            if (entry is None) != (shown is None):
                problems.append(f"{model} {metric}: shown {cell.strip()!r}, published {entry}")
                continue
            if shown:
                problems += _misquoted(f"{model} {metric}", entry, *shown.groups())
    return problems


def claims_are_published(readme, reference):
    """Every row that names its metrics, in a comment in its last cell, shows what the reference says of them.

    The first name belongs to the second cell, and so on, a dash to one that shows no metric; a cell with a per cent sign shows a
    hundred times the metric.
    """
    rows = re.findall(r"^\|[^|]*\|(.*)<!-- ([\w. -]+) --> *\|$", readme, re.M)
    problems = [] if rows else ["the README has no table of claims"]
    for cells, names in rows:
        for name, cell in zip(names.split(), cells.split("|"), strict=False):
            if name == "-":
                continue
            shown, entry = re.match(r"\s*(-?[\d.]+)(?: ± ([\d.]+))?", cell), reference.get(name)
            if not shown or not entry:
                problems.append(f"{name}: shown {cell.strip()!r}, published {entry}")
                continue
            problems += _misquoted(name, entry, *shown.groups(), factor=100 if "%" in cell else 1)
    return problems


def by_size(table):
    """The table of a sweep over latent sizes in a reference's form: ``size_<size>.<metric>`` to mean and spread over seeds."""
    groups = table.groupby("latent_dim")
    means, spreads = groups.mean(numeric_only=True), groups.std(numeric_only=True)
    return {
        f"size_{size}.{name}": {"value": means.at[size, name], "spread": spreads.at[size, name]}
        for size in means.index
        for name in means
    }


def _misquoted(name, entry, value, spread, factor=1):
    pairs = [
        (text, factor * entry[key]) for text, key in ((value, "value"), (spread, "spread")) if text
    ]
    return [
        f"{name}: shown {text}, published {number:.6g}"
        for text, number in pairs
        if f"{number:.{len(text.partition('.')[2])}f}" != text
    ]


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
