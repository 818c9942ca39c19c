"""One neuron f(x) = a wᵀx at any time, in closed form, and the laws of its regimes (arXiv:2406.06158).

`exact` is the solution; loss L = ½ Σ (f − y)² (a sum), time and the sign of δ are stated there.
"""

from learndyn.laws.neuron.coordinates import balanced_curves, hyperbolic_angle, on_hyperbola, ratio, slopes
from learndyn.laws.neuron.kernel import kernel_distance
from learndyn.laws.neuron.regimes import (
    alignment,
    basin,
    delay,
    fast_fit,
    onset,
    separatrix_distance,
    slow_turn,
    upstream,
)
from learndyn.laws.neuron.solution import Neuron, exact
from learndyn.laws.neuron.start import White, factors, imbalance, whitened

__all__ = [
    "Neuron",
    "White",
    "alignment",
    "balanced_curves",
    "basin",
    "delay",
    "exact",
    "factors",
    "fast_fit",
    "hyperbolic_angle",
    "imbalance",
    "kernel_distance",
    "on_hyperbola",
    "onset",
    "ratio",
    "separatrix_distance",
    "slopes",
    "slow_turn",
    "upstream",
    "whitened",
]
