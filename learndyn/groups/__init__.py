"""Finite groups, their real irreducible representations, and what theory says of learning to compose their elements.

Mathematics alone: no network, no training. `named("dihedral(3)")` and `template(group, "powers(0, 30, 3000)")` read
text, `irreps` finds the representations of any group, `predict` says which is learnt when.
"""

from learndyn.groups.basins import Census, census, stratified
from learndyn.groups.constructions import recurrent_state, tree_state, two_layer_solution, two_layer_state
from learndyn.groups.families import (
    alternating,
    cyclic,
    dicyclic,
    dihedral,
    direct_product,
    frobenius,
    heisenberg,
    icosahedral,
    named,
    octahedral,
    quaternion,
    semidirect_product,
    special_linear,
    symmetric,
)
from learndyn.groups.generated import from_matrices, from_permutations
from learndyn.groups.group import FiniteGroup
from learndyn.groups.loss import correlation, population_loss
from learndyn.groups.prediction import (
    Prediction,
    Stage,
    learning_order,
    levels,
    neurons_needed,
    predict,
    times,
    utilities,
)
from learndyn.groups.representations import Irrep, defect, irreps
from learndyn.groups.sequences import Encoded, all_sequences, compose, encode
from learndyn.groups.templates import (
    Concerns,
    bumps,
    concerns,
    from_data,
    generic,
    magnitudes,
    one_hot,
    powers,
    template,
)
from learndyn.groups.transform import convolve, fourier, inverse, power, project, translates
from learndyn.groups.waking import arrivals

__all__ = [
    "Census",
    "Concerns",
    "Encoded",
    "FiniteGroup",
    "Irrep",
    "Prediction",
    "Stage",
    "all_sequences",
    "alternating",
    "arrivals",
    "bumps",
    "census",
    "compose",
    "concerns",
    "convolve",
    "correlation",
    "cyclic",
    "defect",
    "dicyclic",
    "dihedral",
    "direct_product",
    "encode",
    "fourier",
    "frobenius",
    "from_data",
    "from_matrices",
    "from_permutations",
    "generic",
    "heisenberg",
    "icosahedral",
    "inverse",
    "irreps",
    "learning_order",
    "levels",
    "magnitudes",
    "named",
    "neurons_needed",
    "octahedral",
    "one_hot",
    "population_loss",
    "power",
    "powers",
    "predict",
    "project",
    "quaternion",
    "recurrent_state",
    "semidirect_product",
    "special_linear",
    "stratified",
    "symmetric",
    "template",
    "times",
    "translates",
    "tree_state",
    "two_layer_solution",
    "two_layer_state",
    "utilities",
]
