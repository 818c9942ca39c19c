"""Noether's learning dynamics: normalisation as an adaptive optimizer (Tanaka & Kunin 2021, arXiv:2105.02716).

SGD with momentum is a particle with mass and friction. Its kinetic energy lacks the scale symmetry that normalisation
gives the loss, and so drives the norms of weights: SGD in front of a normalisation is RMSProp on the sphere. Measured:
norms, effective learning rates, angles and Noether charges of every channel. Predicted: all of them, from gradients and
settings; beside the run its RMSProp twin; and which optimizer keeps which symmetry.
"""

from learndyn.experiments.noether_dynamics.claims import claims
from learndyn.experiments.noether_dynamics.figures import figures
from learndyn.experiments.noether_dynamics.gather import gather, measure, parts, work
from learndyn.experiments.noether_dynamics.settings import PRESETS, Settings, validate
from learndyn.experiments.noether_dynamics.summary import lead, notes, tables

TITLE = "Noether's learning dynamics: normalisation as an adaptive optimizer"
PAPER = (
    "H. Tanaka, D. Kunin. Noether's Learning Dynamics: Role of Symmetry Breaking in Neural Networks. "
    "NeurIPS 2021. arXiv:2105.02716."
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
