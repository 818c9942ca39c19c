"""The empirical tangent kernel of any network, from the structure of its layers."""

from learndyn.observables.ntk.gram import REDUCTIONS, Kernel, kernel

__all__ = ["REDUCTIONS", "Kernel", "kernel"]
