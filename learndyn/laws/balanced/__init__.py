"""Exact learning curves of balanced linear networks, from lazy to rich (arXiv:2409.14623).

`exact` is the solution of two layers; the rest are laws that follow from it. Time, loss and Σ are stated there.
`curves` takes any start and data: exactly where that is possible, else integrated, and says which and why.
"""

from learndyn.laws.balanced.curves import Curves, curves
from learndyn.laws.balanced.inits import Expected, expected_lambda
from learndyn.laws.balanced.kernel import Regime, kernel_distance, regime
from learndyn.laws.balanced.limits import lazy_function, plateau, steady_state
from learndyn.laws.balanced.modes import aligned_modes, chain_modes, reversal_time
from learndyn.laws.balanced.scores import Scores, representation_scores, steady_scores
from learndyn.laws.balanced.sequence import Tasks, chain_tasks, forgetting
from learndyn.laws.balanced.start import Balance, Moments, balance, moments
from learndyn.laws.balanced.two_layer import Exact, exact

__all__ = [
    "Balance",
    "Curves",
    "Exact",
    "Expected",
    "Moments",
    "Regime",
    "Scores",
    "Tasks",
    "aligned_modes",
    "balance",
    "chain_modes",
    "chain_tasks",
    "curves",
    "exact",
    "expected_lambda",
    "forgetting",
    "kernel_distance",
    "lazy_function",
    "moments",
    "plateau",
    "regime",
    "representation_scores",
    "reversal_time",
    "steady_scores",
    "steady_state",
]
