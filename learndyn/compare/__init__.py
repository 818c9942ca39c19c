"""Laying predictions over measurements: agreement, transitions, and claims with intervals and verdicts."""

from learndyn.compare.agreement import agreement
from learndyn.compare.claims import Claim, at_least, at_most, from_json, to_json, within
from learndyn.compare.crossing import Crossing, Crossings, steps_to_threshold, together
from learndyn.compare.intervals import Estimate, exact, finite_mean, jackknife, mean_interval
from learndyn.compare.ordering import ordering
from learndyn.compare.staircase import Drops, Plateau, drops, half_power, plateaus
from learndyn.compare.staircase_scores import Limit, StaircaseScore, staircase_score, towards_zero
from learndyn.compare.transition import Transition, transition

__all__ = [
    "Claim",
    "Crossing",
    "Crossings",
    "Drops",
    "Estimate",
    "Limit",
    "Plateau",
    "StaircaseScore",
    "Transition",
    "agreement",
    "at_least",
    "at_most",
    "drops",
    "exact",
    "finite_mean",
    "from_json",
    "half_power",
    "jackknife",
    "mean_interval",
    "ordering",
    "plateaus",
    "staircase_score",
    "steps_to_threshold",
    "to_json",
    "together",
    "towards_zero",
    "transition",
    "within",
]
