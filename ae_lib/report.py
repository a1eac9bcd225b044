"""From a profile to a report: which notebooks are out of date, their execution, the pages. Knows that notebooks exist.

``python -m ae_lib.report [PROFILE] [--jobs N]``; ``make report`` calls it.
"""

import argparse
import ast
import contextlib
import os
import shutil
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from ae_lib import StudyError, data, runs

FOLDER = runs.PROJECT / "notebooks"
PARAMS = FOLDER / "params"
NOTEBOOKS = {  # each with those whose results it reads
    "01_preprocess": (),
    "02_train": (),
    "03_evaluate": ("02_train",),
    "04_error_maps": ("02_train",),
}
SHARED = "all"  # the section of a profile whose parameters go to every notebook that has them
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list}
NOT_FOR_NOTEBOOKS = {"report.py", "reference.py"}  # right of the notebooks: a change there changes no result
NO_MNIST = ".mnist-unavailable"  # in reports/: why the last run without a profile fell back to digits


# ------------------------------------------------------------------------------------------------------- profiles
def read_notebook(name):
    """A notebook from its script, without outputs."""
    import jupytext

    return jupytext.read(FOLDER / f"{name}.py")


def declared_parameters(name):
    """The parameters cell of a notebook: name to (type, default)."""
    from papermill.translators import PythonTranslator

    cells = [cell for cell in read_notebook(name).cells if "parameters" in cell.metadata.get("tags", [])]
    found = [parameter for cell in cells for parameter in PythonTranslator.inspect(cell)]
    return {p.name: (p.inferred_type_name, ast.literal_eval(p.default)) for p in found}


def profile_file(profile):
    """The YAML file of a profile, which is a name in ``notebooks/params/`` or a path; `StudyError` if there is none."""
    path = Path(profile) if profile.endswith(".yaml") else PARAMS / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in PARAMS.glob("*.yaml")))
        raise StudyError(f"There is no profile {profile!r}; expected one of {known}, or a file notebooks/params/{profile}.yaml.")
    return path


def load_profile(profile):
    """The full parameters of every notebook under a profile.

    Parameters
    ----------
    profile : str
        As for `profile_file`.

    Returns
    -------
    dict
        Notebook name to its parameters, defaults included.

    Raises
    ------
    StudyError
        For an unknown profile, section or parameter, a wrong type, or a file that is not YAML.
    """
    import yaml

    path = profile_file(profile)
    try:
        sections = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise StudyError(f"{path.name} is not valid YAML ({' '.join(str(error).split())}): mend it.") from error
    if not isinstance(sections, dict) or not all(isinstance(s, dict | None) for s in sections.values()):
        raise StudyError(f"{path.name} must map notebook names to parameters; expected lines such as '02_train:'.")
    unknown = set(sections) - {SHARED, *NOTEBOOKS}
    if unknown:
        raise StudyError(
            f"{path.name} has a section {sorted(unknown)[0]!r}; expected {SHARED} or one of {', '.join(NOTEBOOKS)}."
        )
    declared = {notebook: declared_parameters(notebook) for notebook in NOTEBOOKS}
    shared = sections.get(SHARED) or {}
    everywhere = {name: kind for parameters in declared.values() for name, kind in parameters.items()}
    for name, value in shared.items():
        _check_parameter(path.name, SHARED, name, value, everywhere)
    result = {}
    for notebook, known in declared.items():
        own = sections.get(notebook) or {}
        for name, value in own.items():
            _check_parameter(path.name, notebook, name, value, known)
        given = {**{name: value for name, value in shared.items() if name in known}, **own, "profile": path.stem}
        result[notebook] = {name: given.get(name, default) for name, (_, default) in known.items()}
    return result


def _check_parameter(file, section, name, value, known):
    if name not in known or name == "profile":
        raise StudyError(
            f"{file} sets {name!r} in section {section}, which has no such parameter; "
            f"expected one of {', '.join(sorted(set(known) - {'profile'}))}."
        )
    kind = known[name][0]
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "bool"):
        hint = " (YAML reads 1e-3 as text: write 1.0e-3)" if kind == "float" and isinstance(value, str) else ""
        raise StudyError(
            f"{file} sets {name} in section {section} to {value!r}, which is {type(value).__name__}; "
            f"expected {kind}{hint}."
        )


def choose_profile():
    """``mnist`` if MNIST can be had, else ``digits``; with the reason for the latter, or None."""
    noted = runs.reports_folder() / NO_MNIST
    if data.local_file("mnist"):
        return "mnist", None
    if noted.is_file():
        return "digits", noted.read_text(encoding="utf-8")
    try:
        data.download("mnist")
    except StudyError as error:
        with runs.explained_write_errors(noted.parent):
            noted.parent.mkdir(parents=True, exist_ok=True)
            runs.write_text(noted, str(error))
        return "digits", str(error)
    return "mnist", None


# ------------------------------------------------------------------------------------------------------ execution
def is_newer(target, sources):
    """Whether a file exists and is at least as new as all of ``sources``."""
    return target.is_file() and target.stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def out_of_date(profile, folder):
    """The notebooks to be executed, in order: those older than what they are made from, and those that follow them."""
    library = [p for p in Path(__file__).parent.glob("*.py") if p.name not in NOT_FOR_NOTEBOOKS]
    stale = []
    for name, needs in NOTEBOOKS.items():
        sources = [FOLDER / f"{name}.py", profile_file(profile), *library]
        earlier = [folder / f"{need}.ipynb" for need in needs]
        if any(need in stale for need in needs) or not is_newer(folder / f"{name}.ipynb", [*sources, *earlier]):
            stale.append(name)
    return stale


def execute(name, parameters, target, watched=False):
    """Execute a notebook's script with papermill; call it in a process of its own, since papermill changes directory.

    Parameters
    ----------
    name : str
    parameters : dict
        All of them, as `load_profile` gives them.
    target : Path
        The executed notebook. A failed one is left beside it as ``<name>.failed.ipynb``.
    watched : bool
        Whether a person sees standard error, for the progress line.

    Returns
    -------
    float
        Seconds it took.

    Raises
    ------
    StudyError
        In one sentence, what failed in the notebook.
    """
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    begun = time.monotonic()
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    try:
        notebook = papermill.execute_notebook(
            read_notebook(name),
            temporary,
            parameters,
            kernel_name="python3",
            cwd=FOLDER,
            progress_bar=False,
            stdout_file=_ProgressLines(name, watched),
        )
    except PapermillExecutionError as error:
        temporary.replace(failed)
        message = error.evalue if error.ename == "StudyError" else f"{error.ename}: {error.evalue}"
        raise StudyError(f"{name} failed. {message} (Its executed copy: {failed.name})") from None
    except OSError as error:
        raise StudyError(f"{name}: {target.parent} cannot be written ({error}): make room or permit writing.") from error
    finally:
        temporary.unlink(missing_ok=True)
    seconds = time.monotonic() - begun
    with runs.explained_write_errors(target.parent):
        runs.write_text(target, nbformat.writes(without_traces(notebook, parameters, seconds)))
    failed.unlink(missing_ok=True)
    return seconds


def without_traces(notebook, parameters, seconds):
    """An executed notebook less papermill's paths and times; parameters and seconds are kept for run.json."""
    notebook.metadata["study"] = {"parameters": parameters, "seconds": round(seconds, 1)}
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    return notebook


class _ProgressLines:
    """Shows a notebook's epochs while it runs: one changing line for a person, every tenth epoch for a log."""

    def __init__(self, name, watched):
        self.name, self.watched = name, watched

    def write(self, text):
        for line in text.splitlines():
            if line.startswith("epoch "):
                epoch = int(line.split()[1].split("/")[0])
                if self.watched:
                    print(f"\r\x1b[K{self.name}  {line}", end="", file=sys.stderr, flush=True)
                elif epoch % 10 == 0:
                    print(f"{self.name}  {line}", file=sys.stderr, flush=True)

    def flush(self):
        pass


def _die_with_parent():
    """Worker processes end when the run is killed, and their kernels, which watch them, do too."""
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def execute_all(names, parameters, folder, jobs):
    """Execute notebooks in order of their needs, at most ``jobs`` at once; stop starting new ones after a failure."""
    watched = sys.stderr.isatty() and jobs == 1
    waiting, running, failures = list(names), {}, []
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_die_with_parent, max_tasks_per_child=1
    ) as pool:
        while running or (waiting and not failures):
            busy = [*waiting, *running.values()]
            for name in [n for n in waiting if not failures and not set(NOTEBOOKS[n]) & set(busy)][: jobs - len(running)]:
                say(f"{name}  running")
                waiting.remove(name)
                running[pool.submit(execute, name, parameters[name], folder / f"{name}.ipynb", watched)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                if isinstance(future.exception(), StudyError):
                    failures.append(str(future.exception()))
                else:
                    say(f"{name}  done in {future.result():.0f} s")
    if failures:
        raise StudyError("\n".join(failures))


def say(text):
    """A line on standard error, over a progress line if there is one."""
    print("\r\x1b[K" * sys.stderr.isatty() + text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------- pages
def write_run_json(folder, profile):
    """Write what the run's results depend on: parameters, seeds, data, commit, versions, machine, time per notebook."""
    import nbformat

    studies = {name: nbformat.read(folder / f"{name}.ipynb", 4).metadata["study"] for name in NOTEBOOKS}
    parameters = {name: study["parameters"] for name, study in studies.items()}
    content = {
        "profile": profile,
        "parameters": parameters,
        "seeds": {name: p["seed"] for name, p in parameters.items() if "seed" in p},
        "data": runs.read_json(folder / "artifacts" / "data.json"),
        "seconds": {name: study["seconds"] for name, study in studies.items()},
        **runs.provenance(),
    }
    runs.write_json(folder / "run.json", content)


def _templates():
    import jinja2

    return jinja2.Environment(loader=jinja2.PackageLoader("ae_lib", "."), autoescape=True, trim_blocks=True)


def heading(notebook):
    """The title of a notebook."""
    return notebook.cells[0].source.splitlines()[0].lstrip("# ")


def write_page(folder, name, title_of_data):
    """Write the HTML page of an executed notebook; it loads nothing from the network."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = nbformat.read(folder / f"{name}.ipynb", 4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    page = _templates().get_template("page.html.j2").render(
        title=heading(notebook), data=title_of_data, pages=NOTEBOOKS, here=name, body=body,
        code_style=HtmlFormatter(style="friendly").get_style_defs(".highlight"),
    )  # fmt: skip
    runs.write_text(folder / f"{name}.html", page)


def results_table(metrics):
    """Rows of the front page's table: a score, its unit, and a formatted value per model, in the models' order."""
    models = [name.split(".")[0] for name in metrics if name.endswith(".test.mse")]
    models.sort(key=lambda model: (model != "dense", model != "pca", model))
    scores = {
        "bce": "BCE / nats per pixel", "excess_bce": "excess BCE / nats per pixel", "mse": "MSE per pixel",
        "sse": "SSE per image", "psnr": "PSNR / dB", "ssim": "SSIM",
    }  # fmt: skip

    def cell(key):
        if key not in metrics:
            return "–"
        low, high = (metrics[f"{key}.{end}"] for end in ("low", "high"))
        return f"{metrics[key]:.4g} [{low:.4g}, {high:.4g}]"

    return models, [(label, [cell(f"{model}.test.{name}") for model in models]) for name, label in scores.items()]


def write_front_page(folder, profile, fallback):
    """Write ``index.html`` from run.json and metrics.json."""
    import nbformat

    metrics, run = runs.read_json(folder / "metrics.json"), runs.read_json(folder / "run.json")
    comparison = runs.Comparison(metrics, runs.reference(profile))
    titles = {name: heading(nbformat.read(folder / f"{name}.ipynb", 4)) for name in NOTEBOOKS}
    models, rows = results_table(metrics)
    body = _templates().get_template("front.html.j2").render(
        profile=profile, run=run, titles=titles, models=models, rows=rows, fallback=fallback,
        comparison=comparison, total=sum(run["seconds"].values()),
    )  # fmt: skip
    page = _templates().get_template("page.html.j2").render(
        title="Autoencoders on MNIST: a reference study", data=run["data"]["title"], pages=NOTEBOOKS, here=None, body=body
    )
    runs.write_text(folder / "index.html", page)
    return comparison


# -------------------------------------------------------------------------------------------------------- the run
def run(profile, jobs=1, fallback=None):
    """Bring ``reports/<profile>/`` up to date and return its front page.

    Parameters
    ----------
    profile : str
        As for `profile_file`.
    jobs : int
        How many notebooks may run side by side.
    fallback : str, optional
        Why this profile was taken instead of ``mnist``; stands on the front page.

    Returns
    -------
    Path

    Raises
    ------
    StudyError
        Before anything runs, for a mistake in the profile or a folder in use; afterwards, for a notebook that failed.
    """
    parameters, name = load_profile(profile), profile_file(profile).stem
    with runs.only_run(name) as folder, runs.explained_write_errors(folder):
        _remove_leftovers(folder)
        stale = out_of_date(profile, folder)
        if stale:
            execute_all(stale, parameters, folder, jobs)
        frame = [Path(__file__), *Path(__file__).parent.glob("*.j2")]
        notebooks = [folder / f"{notebook}.ipynb" for notebook in NOTEBOOKS]
        if stale or not is_newer(folder / "run.json", notebooks):
            write_run_json(folder, name)
        title = runs.read_json(folder / "run.json")["data"]["title"]
        pages = [nb for nb in notebooks if not is_newer(nb.with_suffix(".html"), [nb, *frame])]
        for notebook in pages:
            write_page(folder, notebook.stem, title)
        front, reference = folder / "index.html", runs.REFERENCE / f"{name}.json"
        sources = [folder / "run.json", folder / "metrics.json", *frame, *([reference] if reference.is_file() else [])]
        if pages or not is_newer(front, sources):
            comparison = write_front_page(folder, name, fallback)
            say(f"{title}: {comparison.summary}")
        elif not stale:
            say(f"reports/{name} is up to date")
    return front


def _remove_leftovers(folder):
    """Remove what killed processes left; a stage whose process lives belongs to an open notebook."""
    for path in [*folder.glob(".*.stage"), *folder.glob(".*.tmp"), *folder.glob(".*.ipynb")]:
        process = path.name.split(".")[-2]
        if not _is_alive(int(process)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def main(arguments=None):
    """Command line; returns the exit code. A user's mistake is one sentence, without traceback."""
    parser = argparse.ArgumentParser(prog="python -m ae_lib.report", description="Execute the study and write its report.")
    parser.add_argument("profile", nargs="?", help="a name in notebooks/params/; by default mnist if it can be had")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that may run side by side")
    options = parser.parse_args(arguments)
    for variable in ("AE_DATA_DIR", "AE_REPORTS_DIR"):  # kernels run in another folder
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())
    try:
        profile, fallback = (options.profile, None) if options.profile else choose_profile()
        if fallback:
            say(_notice(fallback))
        front = run(profile, max(1, options.jobs), fallback)
        if fallback:
            say(_notice(fallback))
    except StudyError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted: finished notebooks are kept, and the next run goes on from there")
        return 130
    with contextlib.suppress(ValueError):
        front = front.relative_to(Path.cwd())
    say(f"open {front}")
    return 0


def _notice(reason):
    rule = "=" * 100
    return (
        f"{rule}\nTHESE ARE NOT MNIST'S RESULTS: this run uses scikit-learn's 1,797 small digits instead.\n{reason}\n"
        f"Then run `make report PROFILE=mnist`.\n{rule}"
    )


if __name__ == "__main__":
    sys.exit(main())
