"""Get rich quick: unbalanced initialisations promote rapid feature learning (Kunin et al. 2024, arXiv:2406.06158).

Which layer starts larger decides, together with the overall scale, whether features are learnt, and when. Predicted: a
single neuron at all times, in closed form, its delays, basins and end; and from the first weights of any network,
whether it is going to be lazy or rich. Measured: the neuron as a module; grids of two-layer ReLU networks; networks in
the plane; grokking; the random hierarchy; your own model and task at several imbalances; filters.
"""

from learndyn.experiments.get_rich_quick.claims import claims
from learndyn.experiments.get_rich_quick.figures import figures
from learndyn.experiments.get_rich_quick.gather import gather, measure, parts, work
from learndyn.experiments.get_rich_quick.settings import PRESETS, Settings, validate
from learndyn.experiments.get_rich_quick.summary import lead, notes, tables

TITLE = "Get rich quick: unbalanced initialisations and rapid feature learning"
PAPER = (
    "D. Kunin, A. Raventós, C. C. J. Dominé, F. Chen, D. Klindt, A. M. Saxe, S. Ganguli. Get rich quick: exact "
    "solutions reveal how unbalanced initializations promote rapid feature learning. NeurIPS 2024. arXiv:2406.06158."
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
