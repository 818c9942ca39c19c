"""Staircases of the loss from vanishing starts, before anything is trained: alternating flows, arXiv:2506.06489.

A neuron is dormant while it is small: it turns towards the directions of largest utility U = E⟨f_i, residual⟩ and
grows. The first whose norm reaches 1 wakes, the awake ones minimise the loss at once, and the residual is another one.
"""

from learndyn.laws.staircase.alternating import Alternation, alternate
from learndyn.laws.staircase.attention import AttentionModes, attention_staircase
from learndyn.laws.staircase.bounds import lower_bounds
from learndyn.laws.staircase.diagonal import DiagonalPath, diagonal_staircase, diagonal_time
from learndyn.laws.staircase.dormant import Climb, climb
from learndyn.laws.staircase.linear import LinearModes, linear_curves, linear_seed, linear_staircase, linear_times
from learndyn.laws.staircase.modular import FEW, GROUP, ModularModes, modular_staircase
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing, flow_time, threshold

__all__ = [
    "Alternation",
    "AttentionModes",
    "Climb",
    "DiagonalPath",
    "Event",
    "FEW",
    "GROUP",
    "LinearModes",
    "ModularModes",
    "Staircase",
    "alternate",
    "attention_staircase",
    "check_vanishing",
    "climb",
    "diagonal_staircase",
    "diagonal_time",
    "flow_time",
    "linear_curves",
    "linear_seed",
    "linear_staircase",
    "linear_times",
    "lower_bounds",
    "modular_staircase",
    "threshold",
]
