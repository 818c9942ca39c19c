"""Exact learning curves of balanced linear networks, from lazy to rich (arXiv:2409.14623).

`exact` is the solution of two layers; the rest are laws that follow from it. Time, loss and Σ are stated there.
"""

from learndyn.laws.balanced.kernel import Regime, kernel_distance, regime
from learndyn.laws.balanced.limits import lazy_function, plateau, steady_state
from learndyn.laws.balanced.modes import aligned_modes, chain_modes, reversal_time
from learndyn.laws.balanced.sequence import Tasks, chain_tasks, forgetting
from learndyn.laws.balanced.start import Balance, Moments, balance, moments
from learndyn.laws.balanced.two_layer import Exact, exact

__all__ = [
    "Balance",
    "Exact",
    "Moments",
    "Regime",
    "Tasks",
    "aligned_modes",
    "balance",
    "chain_modes",
    "chain_tasks",
    "exact",
    "forgetting",
    "kernel_distance",
    "lazy_function",
    "moments",
    "plateau",
    "regime",
    "reversal_time",
    "steady_state",
]
