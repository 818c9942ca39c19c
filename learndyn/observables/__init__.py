"""What can be measured of a network between two steps; every observable leaves the state as it found it.

An observable is a function of a state, of two states, or of a trajectory, that returns a tensor. To add one, write it
into a file of this folder and export it here.
"""

from learndyn.observables.barrier import barrier, error_barrier, loss_barrier, profiles, recalibrate
from learndyn.observables.distance import dissimilarity, distance, log_growth, relative_distance
from learndyn.observables.evaluate import Evaluation, decisions, error, evaluate, loss
from learndyn.observables.function import disagreement, function_distance
from learndyn.observables.irreps_learnt import (
    Mixing,
    carried,
    composition_accuracy,
    irrep_output_power,
    mixing,
    neuron_irreps,
    neuron_weights,
    rank_one_alignment,
)
from learndyn.observables.kernel_split import KernelSplit, kernel_split
from learndyn.observables.ntk import (
    Kernel,
    Sketch,
    gradient_gram,
    kernel,
    kernel_product,
    kernel_sketch,
    kernel_spectrum,
)
from learndyn.observables.patterns import Changes, activation_patterns, hamming, hamming_fraction, pattern_changes
from learndyn.observables.phase import Phase, phase
from learndyn.observables.representation import representation, representational_similarity, similarity_matrix
from learndyn.observables.series import KernelSeries, alignment, kernel_distance, kernel_series
from learndyn.observables.smoothness import smoothness
from learndyn.observables.spectrum import Spectrum, gauss_newton_spectrum, hessian_spectrum, lanczos

#: Observables of one state, which `train(observe=...)` takes by name.
OF_ONE = ("loss", "error")
#: Observables of two states.
OF_TWO = (
    "dissimilarity",
    "distance",
    "relative_distance",
    "log_growth",
    "disagreement",
    "function_distance",
    "loss_barrier",
    "error_barrier",
    "hamming",
    "hamming_fraction",
    "representational_similarity",
)

__all__ = [
    "OF_ONE",
    "OF_TWO",
    "Changes",
    "Evaluation",
    "Kernel",
    "KernelSeries",
    "KernelSplit",
    "Mixing",
    "Phase",
    "Sketch",
    "Spectrum",
    "activation_patterns",
    "alignment",
    "barrier",
    "carried",
    "composition_accuracy",
    "decisions",
    "disagreement",
    "dissimilarity",
    "distance",
    "error",
    "error_barrier",
    "evaluate",
    "function_distance",
    "gauss_newton_spectrum",
    "gradient_gram",
    "hamming",
    "hamming_fraction",
    "hessian_spectrum",
    "irrep_output_power",
    "kernel",
    "kernel_distance",
    "kernel_product",
    "kernel_series",
    "kernel_sketch",
    "kernel_spectrum",
    "kernel_split",
    "lanczos",
    "log_growth",
    "loss",
    "loss_barrier",
    "mixing",
    "neuron_irreps",
    "neuron_weights",
    "pattern_changes",
    "phase",
    "profiles",
    "rank_one_alignment",
    "recalibrate",
    "relative_distance",
    "representation",
    "representational_similarity",
    "similarity_matrix",
    "smoothness",
]
