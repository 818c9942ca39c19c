"""Staircases of the loss from vanishing starts, predicted before training (Kunin et al., arXiv:2506.06489).

Alternating gradient flows say in which order features are learned, when the loss drops and on which levels it stays.
Measured: gradient flow of diagonal, linear, attention, quadratic and ReLU networks from starts down to 1e-300, and
gradient descent with momentum on plain modules, its steps converted to flow time.
"""

from learndyn.experiments.agf.claims import claims
from learndyn.experiments.agf.figures import figures
from learndyn.experiments.agf.gather import gather, measure, parts, work
from learndyn.experiments.agf.settings import PRESETS, Settings, validate
from learndyn.experiments.agf.summary import lead, notes, tables

TITLE = "Alternating gradient flows: staircases of the loss from vanishing starts"
PAPER = (
    "D. Kunin, G. L. Marchetti, F. Chen, D. Karkada, J. B. Simon, M. R. DeWeese, S. Ganguli, N. Miolane. Alternating "
    "Gradient Flows: A Theory of Feature Learning in Two-layer Neural Networks. NeurIPS 2025. arXiv:2506.06489."
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
