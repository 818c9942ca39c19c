"""Laying predictions over measurements: agreement, transitions, and claims with intervals and verdicts."""

from learndyn.compare.agreement import agreement
from learndyn.compare.claims import Claim, at_least, at_most, from_json, to_json, within
from learndyn.compare.crossing import Crossing, Crossings, steps_to_threshold, together
from learndyn.compare.intervals import Estimate, exact, jackknife, mean_interval
from learndyn.compare.ordering import ordering
from learndyn.compare.transition import Transition, transition

__all__ = [
    "Claim",
    "Crossing",
    "Crossings",
    "Estimate",
    "Transition",
    "agreement",
    "at_least",
    "at_most",
    "exact",
    "from_json",
    "jackknife",
    "mean_interval",
    "ordering",
    "steps_to_threshold",
    "to_json",
    "together",
    "transition",
    "within",
]
