"""Linear networks in function space: any data, any shape, and what they end in (arXiv:2406.06158).

`function_flow` and `implicit_bias` are of one neuron a wᵀx, `isotropic_flow` and the preconditioners of two wide
layers, `deep_bias` of any depth. Losses are sums, L = ½ Σ (f − y)²; each module states the sign of δ and the time.
"""

from learndyn.laws.linear.bias import Interpolant, downstream_end, implicit_bias, mirror, potential, upstream_end
from learndyn.laws.linear.deep import deep_bias, deep_velocity
from learndyn.laws.linear.single import Path, function_flow, metric, parameter_flow
from learndyn.laws.linear.wide import (
    Limits,
    Preconditioner,
    hyperbolic_entropy,
    isotropic,
    isotropic_flow,
    limit_regimes,
    of_units,
    self_consistent,
)

__all__ = [
    "Interpolant",
    "Limits",
    "Path",
    "Preconditioner",
    "deep_bias",
    "deep_velocity",
    "downstream_end",
    "function_flow",
    "hyperbolic_entropy",
    "implicit_bias",
    "isotropic",
    "isotropic_flow",
    "limit_regimes",
    "metric",
    "mirror",
    "of_units",
    "parameter_flow",
    "potential",
    "self_consistent",
    "upstream_end",
]
