"""The command line of the study: ``python -m ae_lib.study COMMAND``; the Makefile calls it."""

import argparse
import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from ae_lib import StudyError, data
from ae_lib.run import explained_write_errors, reports_folder, write_bytes
from ae_lib.study import execute, graph, site

from tqdm import tqdm

NO_MNIST = ".mnist-unavailable"  # in reports/: why the last run without a profile took the digits
RULE = "=" * 100


def main(arguments=None):
    """Run a command; returns the exit code. A user's mistake is one sentence, without traceback."""
    options = _parser().parse_args(arguments)
    if options.end_with_parent:
        threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    for variable in ("AE_DATA_DIR", "AE_REPORTS_DIR"):  # kernels run in another folder
        if os.environ.get(variable):
            os.environ[variable] = str(Path(os.environ[variable]).expanduser().absolute())
    try:
        return options.command(options) or 0
    except StudyError as error:
        say(f"error: {error}")
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("ae_lib"):
            raise
        say(f"error: The package {error.name} is missing; expected what `make` installs: run this "
            "command through make, or pip install 'ae-lib[study,sweep]'.")  # fmt: skip
        return 1
    except KeyboardInterrupt:
        say("interrupted: what is finished is kept, and the next start resumes from there")
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="python -m ae_lib.study", description=__doc__)
    parser.add_argument("--end-with-parent", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command, text, **positional):
        added = commands.add_parser(command.__name__, help=text, description=text)
        added.set_defaults(command=command)
        for name, more in positional.items():
            added.add_argument(name, **more)
        return added

    named = {"help": "a name in notebooks/params/, or a file"}
    cores = {"type": _positive, "default": os.cpu_count() or 1}
    one = add(
        report, "execute what is out of date, and write the report", profile={"nargs": "?", **named}
    )
    one.add_argument("--jobs", help="notebooks side by side; by default one for each core", **cores)
    one = add(sweep, "execute a grid of runs", name={"help": "a name in notebooks/params/sweeps/"})
    one.add_argument("--workers", type=_positive, help="processes here; by default the cores")
    one.add_argument("--models", action="store_true", help="keep the trained models as well")
    two = add(measure, "measure the published values, as a sweep", profile=named)
    for command in (one, two):
        command.add_argument(
            "--scheduler", metavar="ADDRESS", help="a Dask scheduler; else one here"
        )
    add(
        store,
        "store the executed notebooks of a profile's last run in git's folders",
        profile=named,
    )
    add(publish, "publish the table of a finished sweep", name={"help": "a name"})
    return parser


def _positive(text):
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is given; expected a whole number of at least 1")
    return int(text)


def report(options):
    """Bring ``reports/<profile>/`` up to date and write its pages."""
    name, notice = (options.profile, None) if options.profile else choose_profile()
    if notice:
        say(_warning(notice))
    comparison, folder = bring_up_to_date(graph.load_profile(name), options.jobs, notice)
    say(f"{folder.name}: {comparison.summary}")
    if notice:
        say(_warning(notice))
    front = folder / "index.html"
    with contextlib.suppress(ValueError):
        front = front.relative_to(Path.cwd())
    say(f"open {front}")


def bring_up_to_date(profile, jobs, notice=None):
    """Execute what is out of date and write the pages after each notebook.

    Returns
    -------
    ae_lib.run.Comparison, Path
        Of the headline metrics with the published ones; the run's folder.
    """
    with execute.only_run(profile.name) as folder:
        execute.remove_leftovers(folder)
        begun = time.monotonic()
        with tqdm(unit="notebook", file=sys.stderr, disable=None, bar_format="{desc}") as bar:

            def tell(name, text):
                if line := text.strip():
                    bar.set_description_str(f"{name}  {line.splitlines()[-1]}"[:110])

            def done(name, seconds):
                say(f"{name}  done in {seconds:.0f} s")
                site.write(profile, folder, notice, changed=[name])

            executed = execute.bring_up_to_date(profile, folder, jobs, done, tell)
        comparison = site.write(profile, folder, notice)
        minutes = (time.monotonic() - begun) / 60
        say(f"{len(executed)} of {len(profile.parameters)} notebooks executed in {minutes:.1f} min"
            if executed else f"reports/{profile.name} is up to date")  # fmt: skip
    return comparison, folder


def choose_profile():
    """``mnist`` if MNIST is available, else ``digits``; with the reason for the latter, or None."""
    noted = reports_folder() / NO_MNIST
    if data.local_file("mnist"):
        return "mnist", None
    if noted.is_file():
        looked = os.environ.get("AE_DATA_DIR")
        more = f" It is not in AE_DATA_DIR ({looked})." if looked else ""
        return "digits", noted.read_text(encoding="utf-8") + more
    try:
        data.download("mnist")
    except StudyError as error:
        with explained_write_errors(noted.parent):
            noted.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(noted, str(error).encode())
        return "digits", str(error)
    return "mnist", None


def _warning(reason):
    return (
        f"{RULE}\nTHESE ARE NOT MNIST'S RESULTS: this run uses scikit-learn's 1,797 small digits "
        f"instead.\n{reason}\nThen run `make report PROFILE=mnist`.\n{RULE}"
    )


def sweep(options):
    """Execute the trials of a sweep that are not finished, and write its table."""
    from ae_lib.study import sweep

    trials, name = sweep.load_sweep(options.name), sweep.sweep_file(options.name).stem
    with execute.only_run(f"sweeps/{name}") as folder:
        chosen = {"workers": options.workers, "with_models": options.models}
        results = sweep.collect(trials, folder, options.scheduler, **chosen)
    counts = results["status"].value_counts()
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    say(f"{told} of {len(trials)}: reports/sweeps/{name}/results.csv")
    return 0 if set(counts.index) == {"done"} else 1


def measure(options):
    """Measure ``reports/reference/<profile>.json`` over several seeds."""
    from ae_lib.study import reference

    say(f"wrote {reference.measure(options.profile, options.scheduler)}")


def store(options):
    """Store the executed notebooks of a profile where git keeps them."""
    from ae_lib.study import reference

    profile = graph.load_profile(options.profile)
    _, folder = bring_up_to_date(profile, os.cpu_count() or 1)
    say(f"stored {len(reference.store(profile, folder))} notebooks")


def publish(options):
    """Publish the table of a sweep, for the notebooks that read it."""
    from ae_lib.study import reference

    say(f"wrote {reference.publish_sweep(options.name)}")


def say(text):
    """Lines on standard error, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def _end_with_parent(parent):
    """End with the process that started this one; what this one has started ends with it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
