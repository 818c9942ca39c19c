"""Two-phase learning dynamics: chaos effect and cone effect (Zhou, Yang, Sugiyama, Yan 2025, arXiv:2505.13900).

Copy a training run at step t0, perturb the copy imperceptibly, train both on with the same gradient noise, compare at
t1. If t0 is early, the twins end in different basins; after an inflection point they end the same. Measured: how far
the twins part, in parameters (C), as functions (D) and across the loss landscape (B). Predicted, without making a
twin: by how much a perturbation grows from t0 to the end, from one sweep of the adjoint tangent map. Along the same
runs: how the tangent kernel turns, whether it ends up within a cone, and what a linearised network would lose.
"""

from learndyn.experiments.two_phase.claims import claims
from learndyn.experiments.two_phase.figures import figures
from learndyn.experiments.two_phase.gather import gather
from learndyn.experiments.two_phase.grid import measure, parts, work
from learndyn.experiments.two_phase.settings import PRESETS, Settings, validate
from learndyn.experiments.two_phase.summary import lead, notes, tables

TITLE = "Two-phase learning: chaos and cone"
PAPER = (
    "Z. Zhou, Y. Yang, M. Sugiyama, J. Yan. New Evidence of the Two-Phase Learning Dynamics of Neural Networks. "
    "arXiv:2505.13900, 2025."
)

__all__ = [
    "PAPER",
    "PRESETS",
    "TITLE",
    "Settings",
    "claims",
    "figures",
    "gather",
    "lead",
    "measure",
    "notes",
    "parts",
    "tables",
    "validate",
    "work",
]
