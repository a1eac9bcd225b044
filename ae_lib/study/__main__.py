"""The command line of the study: ``python -m ae_lib.study COMMAND``; the Makefile calls it."""

import os
import sys
import threading
import time
from pathlib import Path

from ae_lib import StudyError, data
from ae_lib.run import read_json, reports_folder
from ae_lib.study import execute, graph, site
from ae_lib.study.execute import say

from tqdm import tqdm

try:
    import click
except ModuleNotFoundError:  # the library alone is installed
    sys.exit("error: The package click is missing; expected the extra: pip install 'ae-lib[study]'")

RULE = "=" * 100
CORES = os.cpu_count() or 1
SCHEDULER = click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler; else one here.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--end-with-parent", is_flag=True, hidden=True)
def study(end_with_parent):
    """Execute the study's notebooks and publish their results."""
    if end_with_parent:
        threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    for variable in ("AE_DATA_DIR", "AE_REPORTS_DIR"):  # kernels run in another folder
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())


@study.command()
@click.argument("profile", required=False)
@click.option("--jobs", type=click.IntRange(1), default=CORES, help="Notebooks side by side.")
def report(profile, jobs):
    """Execute what is out of date, and write reports/PROFILE/; by default mnist, if available."""
    notice = None
    if profile is None:
        profile, notice = _choose_profile()
    comparison, folder = _bring_up_to_date(graph.load_profile(profile), jobs, notice)
    say(f"{folder.name}: {comparison.summary}")
    if notice:
        say(_warning(notice))
    front, here = folder / "index.html", Path.cwd()
    say(f"open {front.relative_to(here) if front.is_relative_to(here) else front}")


@study.command()
@click.argument("profile")
def pdf(profile):
    """Print the pages of a run into one file, reports/PROFILE/report.pdf, with Chromium."""
    with execute.locked_folder(graph.named_file(profile, graph.PARAMS, "profile").stem) as folder:
        say(f"wrote {site.print_pdf(folder)}")


@study.command()
@click.argument("name")
@click.option("--workers", type=click.IntRange(1), help="Processes here; by default the cores.")
@click.option("--models", is_flag=True, help="Keep the trained models as well.")
@SCHEDULER
def sweep(name, workers, models, scheduler):
    """Execute the trials of a sweep that are not done, and write reports/sweeps/NAME/."""
    from ae_lib.study import sweep

    trials, name = sweep.load_sweep(name), Path(name.removesuffix(".yaml")).name
    with execute.locked_folder(f"sweeps/{name}") as folder:
        results = sweep.collect(trials, folder, scheduler, workers, models)
    counts = results["status"].value_counts()
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    say(f"{told} of {len(trials)}: reports/sweeps/{name}/results.csv")
    return int(set(counts.index) != {"done"})


@study.command()
@click.argument("profile")
def times(profile):
    """Say where the seconds of a run went: by notebook, then by notebook and section."""
    import pandas as pd

    path = reports_folder() / graph.named_file(profile, graph.PARAMS, "profile").stem / "run.json"
    if not path.is_file():
        raise StudyError(f"{path} is missing; expected a run: make report PROFILE={profile} first.")
    run = read_json(path)
    sections = run.get("sections", {})  # which copies of a former version do not have
    parts = {(n, part): s for n, own in sections.items() for part, s in own.items()}
    for seconds in filter(None, (run["seconds"], parts)):
        click.echo(pd.Series(seconds).sort_values(ascending=False).to_string() + "\n")


@study.command()
@click.argument("profile")
@SCHEDULER
def measure(profile, scheduler):
    """Measure reports/reference/PROFILE.json over several seeds, as a sweep."""
    from ae_lib.study import reference

    say(f"wrote {reference.measure(profile, scheduler)}")


@study.command()
@click.argument("profile")
def store(profile):
    """Store the executed notebooks of a profile where git keeps them."""
    from ae_lib.study import reference

    resolved = graph.load_profile(profile)
    reference.home_of(resolved)  # refused before anything is executed
    _, folder = _bring_up_to_date(resolved, CORES)
    reference.store(resolved, folder)
    say(f"stored {len(resolved.parameters)} notebooks")


@study.command()
@click.argument("name")
def publish(name):
    """Publish the table of a finished sweep, for the notebooks that read it."""
    from ae_lib.study import reference

    say(f"wrote {reference.publish_sweep(name)}")


def _bring_up_to_date(profile, jobs, notice=None):
    """Execute what is out of date, and write the pages after each notebook.

    Returns the comparison of the headline metrics with the published ones, and the run's folder.
    """
    with execute.locked_folder(profile.name) as folder:
        execute.remove_leftovers(folder)
        with tqdm(file=sys.stderr, disable=None, bar_format="{desc}") as bar:

            def tell(name, text):
                if line := text.strip():
                    bar.set_description_str(f"{name}  {line.splitlines()[-1]}"[:110])

            def done(name, seconds, left, idle):
                say(f"{name}  done in {seconds:.0f} s")
                if left:  # else all pages are written below
                    explorer = idle and left.isdisjoint(site.EXPLORED)  # while a core waits
                    site.write(profile, folder, notice, changed=[name], explorer=explorer)

            executed = execute.bring_up_to_date(profile, folder, jobs, done, tell)
        if not executed:
            say(f"reports/{profile.name} is up to date")
        return site.write(profile, folder, notice), folder


def _choose_profile():
    """``mnist`` if MNIST is available, else ``digits``; with the reason for the latter, or None."""
    if not data.local_file("mnist"):
        try:
            data.download("mnist")
        except StudyError as error:
            say(_warning(str(error)))
            return "digits", str(error)
    return "mnist", None


def _warning(reason):
    return (
        f"{RULE}\nTHESE ARE NOT MNIST'S RESULTS: this run uses scikit-learn's 1,797 small digits "
        f"instead.\n{reason}\nThen run `make report PROFILE=mnist`.\n{RULE}"
    )


def _end_with_parent(parent):
    """End with the process that started this one; what this one has started ends with it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def main(arguments=None):
    """Run a command; returns the exit code. A user's mistake is one sentence, without traceback."""
    try:
        code = study.main(arguments, prog_name="python -m ae_lib.study", standalone_mode=False)
    except StudyError as error:
        say(f"error: {error}")
    except click.ClickException as error:
        say(f"error: {error.format_message()}")
    except ModuleNotFoundError as error:
        if error.name.startswith("ae_lib"):
            raise
        say(
            f"error: The package {error.name} is missing; expected the extras: run make, or pip "
            "install 'ae-lib[study,site,sweep]'."
        )
    except (KeyboardInterrupt, click.Abort):
        say("interrupted: what is finished is kept, and the next start resumes from there")
        return 130
    else:
        return code or 0  # what the command has returned
    return 1


if __name__ == "__main__":
    sys.exit(main())
