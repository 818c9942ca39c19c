"""Staircases of the loss from vanishing starts, before training (Alternating Gradient Flows, arXiv:2506.06489).

A neuron is dormant while it is small: it turns towards the directions of largest utility U = E⟨f_i, residual⟩ and
grows. The first whose norm reaches 1 wakes, the awake ones minimise the loss at once, and the residual is another one.
"""

from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing, flow_time, threshold

__all__ = ["Event", "Staircase", "check_vanishing", "flow_time", "threshold"]
