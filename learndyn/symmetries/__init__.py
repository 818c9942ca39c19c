"""Which symmetries a network has, and the charges that they conserve (arXiv:2012.04728, arXiv:2105.02716)."""

from learndyn.symmetries.finder import Rejected, Report, find
from learndyn.symmetries.law import SymmetryLaw, Term
from learndyn.symmetries.matrix import MatrixLaw, Side
from learndyn.symmetries.units import Units, units
from learndyn.symmetries.verify import Certificate

__all__ = ["Certificate", "MatrixLaw", "Rejected", "Report", "Side", "SymmetryLaw", "Term", "Units", "find", "units"]
