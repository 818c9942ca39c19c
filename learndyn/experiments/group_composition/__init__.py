"""Sequential group composition, one irreducible representation at a time (Marchetti et al., arXiv:2602.03655).

A network sees encodings of k elements of a finite group and is to give that of their product. Predicted from the group
and the encoding alone: which irrep is learnt when, on which levels the loss waits, and how wide an exact solution is.
Measured: any groups and encodings under preconditioned descent; smaller and smaller starts; starved irreps; what
recurrent networks and trees save.
"""

from learndyn.experiments.group_composition.claims import claims
from learndyn.experiments.group_composition.figures import figures
from learndyn.experiments.group_composition.gather import gather, measure, parts, work
from learndyn.experiments.group_composition.settings import PRESETS, Settings, validate
from learndyn.experiments.group_composition.summary import lead, notes, tables

TITLE = "Sequential group composition: one irreducible representation at a time"
PAPER = (
    "G. L. Marchetti, D. Kunin, A. Myers, F. Acosta, N. Miolane. Sequential Group Composition: A Window into the "
    "Mechanics of Deep Learning. ICML 2026. arXiv:2602.03655."
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
