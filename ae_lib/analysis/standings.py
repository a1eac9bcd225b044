"""Who is better, from published numbers alone: values with intervals over test images, means and spreads over seeds."""

from ae_lib.metrics import Interval, student_interval, welch_interval

import numpy as np
import pandas as pd

NOT_MEASURED = "–"
NOTHING = Interval(np.nan, np.nan, np.nan)


class Standings:
    """How models stand under one measure.

    Two doubts are kept apart: other test images (the intervals of a run) and other seeds (means and spreads of several
    trainings). Nothing is compared image by image; `ae_lib.metrics.better` does that where the images are at hand.

    Parameters
    ----------
    names : dict
        Model to the name of its metric.
    more_is_better : bool
    measured : dict
        A run's metrics, the ends of intervals under ``name.low`` and ``name.high``.
    published : dict, optional
        As `ae_lib.run.reference` gives it; entries without ``mean``, or of one seed, do not count.
    level : float
        Of the intervals over seeds.

    Attributes
    ----------
    images, seeds : dict
        Model to `ae_lib.metrics.Interval`, NaN where there is none.
    """

    def __init__(self, names, more_is_better, measured, published=(), level=0.95):
        self.names, self.sign, self.level = names, (1 if more_is_better else -1), level
        self.images = {model: measured.get(name, NOTHING) for model, name in names.items()}
        entries = {model: published[name] for model, name in names.items() if name in published}
        self._samples = {
            model: (entry["mean"], entry["std"], entry["seeds"])
            for model, entry in entries.items()
            if "mean" in entry and entry["seeds"] > 1
        }
        self.seeds = {
            m: student_interval(*self._samples[m], level) if m in self._samples else NOTHING
            for m in names
        }

    @property
    def counts(self):
        """Model to the number of its seeds; 0 if nothing is published."""
        return {
            model: self._samples[model][2] if model in self._samples else 0 for model in self.images
        }

    def beats(self, first, second):
        """Whether the first model is better over the test images.

        Returns
        -------
        "yes" or "no" if the intervals do not overlap, "undecided" if they do, a dash if one is missing or has no ends.
        """
        a, b = self.images[first], self.images[second]
        if np.isnan([a.low, b.low]).any():
            return NOT_MEASURED
        return a.above(b) if self.sign > 0 else b.above(a)

    def beats_over_seeds(self, first, second, level=None):
        """Whether the first model is better over the seeds: "undecided" if Welch's interval of the difference holds 0."""
        gain = self.gain_over_seeds(first, second, level)
        return NOT_MEASURED if np.isnan(gain.value) else gain.verdict

    def gain_over_seeds(self, first, second, level=None):
        """By how much the first model is better, above 0 if it is, as `ae_lib.metrics.welch_interval`; NaN if one is missing."""
        if not {first, second} <= set(self._samples):
            return Interval(np.nan, np.nan, np.nan)
        better, worse = (first, second) if self.sign > 0 else (second, first)
        return welch_interval(self._samples[better], self._samples[worse], level or self.level)

    def leaders(self, among=None):
        """The best model over the test images, then those whose intervals overlap with its own; empty if none is measured."""
        return self._leaders(self.images, among, self.beats)

    def leaders_over_seeds(self, among=None):
        """The best mean over the seeds, then those not shown to be worse; empty if none is published.

        The best is compared with all others because it is the best, so that each comparison is made at a level at which
        all of them hold jointly (Bonferroni).
        """
        others = sum(np.isfinite(self.seeds[model].value) for model in among or self.seeds) - 1
        joint = 1 - (1 - self.level) / max(1, others)
        return self._leaders(self.seeds, among, lambda a, b: self.beats_over_seeds(a, b, joint))

    def _leaders(self, values, among, beats):
        known = [model for model in among or values if np.isfinite(values[model].value)]
        ordered = sorted(known, key=lambda model: -self.sign * values[model].value)
        return [
            model
            for model in ordered
            if model == ordered[0] or beats(ordered[0], model) in ("no", "undecided")
        ]

    def ranks(self):
        """Model to its rank by this run's values, 1 for the best, equal ones alike; NaN if it is not measured."""
        values = pd.Series(
            {model: -self.sign * interval.value for model, interval in self.images.items()}
        )
        return values.rank(method="min")
