"""Staircases of the loss from vanishing starts, before anything is trained: alternating flows, arXiv:2506.06489.

A neuron is dormant while it is small: it turns towards the directions of largest utility U = E⟨f_i, residual⟩ and
grows. The first whose norm reaches 1 wakes, the awake ones minimise the loss at once, and the residual is another one.
"""

from learndyn.laws.staircase.alternating import Alternation, alternate
from learndyn.laws.staircase.dormant import Climb, climb
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing, flow_time, threshold

__all__ = [
    "Alternation",
    "Climb",
    "Event",
    "Staircase",
    "alternate",
    "check_vanishing",
    "climb",
    "flow_time",
    "threshold",
]
