"""Lazy or rich: read the imbalance of every hidden unit, set it without a change of the function (arXiv:2406.06158)."""

from learndyn.regime.foresight import Foresight, Movement, foresee, movement
from learndyn.regime.overlay import Card, card, foretell
from learndyn.regime.reading import Imbalance, PairImbalance, Reading, imbalance
from learndyn.regime.setting import Changed, scaled, set_pairs, set_units
from learndyn.regime.steps import learning_rate

__all__ = [
    "Card",
    "Changed",
    "Foresight",
    "Imbalance",
    "Movement",
    "PairImbalance",
    "Reading",
    "card",
    "foresee",
    "foretell",
    "imbalance",
    "learning_rate",
    "movement",
    "scaled",
    "set_pairs",
    "set_units",
]
