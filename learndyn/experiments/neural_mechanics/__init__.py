"""Broken conservation laws of training: neural mechanics (Kunin, Sagastuy-Brena, Ganguli, Yamins, Tanaka 2021,
arXiv:2012.04728).

Every symmetry of a network gives charges that gradient flow conserves. Decay, momentum and finite steps break them in a
way that can be calculated: thousands of numbers of a training run, predicted from their first values, the settings and
the lengths of the steps, with nothing fitted. Measured: charges of all symmetries that the network has. Predicted: the
same by the paper's continuous laws and by the exact discrete ones.
"""

from learndyn.experiments.neural_mechanics.claims import claims
from learndyn.experiments.neural_mechanics.runs import gather, measure, parts, work
from learndyn.experiments.neural_mechanics.settings import PRESETS, Settings, validate
from learndyn.experiments.neural_mechanics.summary import figures, lead, notes, tables

TITLE = "Neural mechanics: broken conservation laws"
PAPER = (
    "D. Kunin, J. Sagastuy-Brena, S. Ganguli, D. L. K. Yamins, H. Tanaka. Neural Mechanics: Symmetry and Broken "
    "Conservation Laws in Deep Learning Dynamics. ICLR 2021, arXiv:2012.04728."
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
