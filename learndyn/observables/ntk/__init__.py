"""The empirical tangent kernel of any network, from the structure of its layers."""

from learndyn.observables.ntk.gram import REDUCTIONS, Kernel, kernel
from learndyn.observables.ntk.products import Sketch, gradient_gram, kernel_product, kernel_sketch, kernel_spectrum

__all__ = [
    "REDUCTIONS",
    "Kernel",
    "Sketch",
    "gradient_gram",
    "kernel",
    "kernel_product",
    "kernel_sketch",
    "kernel_spectrum",
]
