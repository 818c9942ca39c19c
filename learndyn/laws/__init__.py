"""What theory predicts, from settings, first weights and plain time series; laws never look at a run.

A law bears the name, dimensions and units of the observable that it predicts: comparing is joining by name.
"""

from learndyn.laws import balanced, charges, inertia, linear, neuron, piecewise, staircase
from learndyn.laws.growth import log_growth, transition_time

#: Laws by the name of the observable they predict.
LAWS = ("log_growth",)

__all__ = [
    "LAWS",
    "balanced",
    "charges",
    "inertia",
    "linear",
    "log_growth",
    "neuron",
    "piecewise",
    "staircase",
    "transition_time",
]
