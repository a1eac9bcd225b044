"""Tables of sweeps over latent dimensions: reading them, what they decide, rate and distortion."""

import json

from ae_lib import StudyError
from ae_lib.metrics import Difference, numbered_name
from ae_lib.run import sweep_table

import numpy as np
import pandas as pd

VARIED = ("profile", "bottleneck", "latent_dim", "seed")  # in which two sweeps may differ


def read(sweep, columns):
    """Return a sweep's results, a row for each latent dimension and seed; a pandas.DataFrame.

    ``columns`` are metrics that are needed. `StudyError` if one is missing, a trial is not done, or
    the table is not over two or more dimensions, with as many seeds, two or more, at each.
    """
    table = pd.read_csv(sweep_table(sweep))
    if waiting := (table["status"] != "done").sum():
        raise StudyError(
            f"{waiting} of {len(table)} trials of {sweep} are not done: run make sweep "
            f"SWEEP={sweep} again."
        )
    if missing := [column for column in columns if column not in table]:
        raise StudyError(
            f"{sweep} has no {', '.join(missing)}; expected them: name the notebooks 03, 05 and 07 "
            "in its file, and run it again."
        )
    counts = table.groupby("latent_dim")["seed"].agg(["size", "nunique"]).to_numpy()
    if len(counts) < 2 or counts.min() < 2 or counts.min() < counts.max():
        raise StudyError(
            f"{sweep} is not over two latent dimensions or more with as many seeds, two or more, "
            "at each; expected that alone."
        )
    return table


def gains(sweep, measured, baseline):
    """Return the claims of a sweep that compare two metrics, one for each dimension.

    A pandas.DataFrame as of `ae_lib.metrics.judge`, but for the verdict, with ``latent_dim`` as
    its index. `StudyError` if there are none.
    """
    table = pd.read_csv(sweep_table(sweep, "claims"))
    table = table[(table["measured"] == measured) & (table["baseline"] == baseline)]
    if table.empty:
        raise StudyError(
            f"No claim of the sweep {sweep} compares {measured} with {baseline}; expected one in "
            "its notebooks: add it there, and run the sweep again."
        )
    rows = table[["gain", "low", "high", "p"]].to_numpy()
    columns = ["latent_dim", "claim", "measured", "baseline", "better"]
    differences = [Difference(*row) for row in rows.tolist()]
    return table[columns].assign(gain=differences).set_index("latent_dim")


def paired(relu, linear):
    """Return the results of two sweeps with equal latent dimension and seed side by side.

    The columns of the second end in " linear". `StudyError` if a row of the first has no partner,
    or if their networks were not trained alike but for the bottleneck, ReLU and linear.
    """
    both = relu.merge(linear, on=["latent_dim", "seed"], suffixes=("", " linear"))
    trained = [name for name in relu if name.startswith("02_train.")]
    same = [name for name in trained if name.removeprefix("02_train.") not in VARIED]
    unequal = [name for name in same if not both[name].equals(both.get(f"{name} linear"))]
    kinds = [*relu["02_train.bottleneck"].unique(), *linear["02_train.bottleneck"].unique()]
    if unequal or len(both) < len(relu) or kinds != ["relu", "linear"]:
        raise StudyError(
            f"The two sweeps differ in {', '.join(unequal) or 'dimensions, seeds or bottlenecks'}; "
            "expected the same networks, with a ReLU bottleneck and with a linear one: name "
            "another sweep."
        )
    return both


def codec_points(table, codec, parameter):
    """Return bits per image and MSE of a codec at each step, as means over the seeds.

    ``parameter`` of the notebook 07 lists the steps. A pandas.DataFrame with columns latent_dim,
    step, bits and value, the MSE, ascending in bits.
    """
    parts = []
    for step in json.loads(table[f"07_compress_images.{parameter}"].iloc[0]):
        name = f"codec.{codec}.{numbered_name('step', step)}"
        names = {f"{name}.bits_per_image": "bits", f"{name}.mse": "value"}
        means = table.groupby("latent_dim")[list(names)].mean().rename(columns=names)
        parts.append(means.assign(step=step).reset_index())
    return pd.concat(parts).sort_values("bits")


def error_at(bits, points):
    """Return the MSE of a codec at these rates; float64, NaN below its lowest rate.

    The logarithm of the error is interpolated linearly in the bits; beyond its highest rate a codec
    keeps its error.
    """
    return np.exp(np.interp(bits, points["bits"], np.log(points["value"]), left=np.nan))
