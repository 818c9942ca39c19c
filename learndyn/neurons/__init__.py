"""Networks as sums of homogeneous neurons: kinds, what they are to learn, and vanishing starts.

Functions of weights `(neurons, D)`, read by the law of their staircases and by the flow that it is compared with.
"""

from learndyn.neurons.gradients import with_slope
from learndyn.neurons.kinds import Neuron, activated, diagonal, head, linear, of_hidden, power, relu
from learndyn.neurons.problems import Composition, InContext, Problem, Sampled, compressed, sampled
from learndyn.neurons.starts import Start, gaussian, polar

__all__ = [
    "Composition",
    "InContext",
    "Neuron",
    "Problem",
    "Sampled",
    "Start",
    "activated",
    "compressed",
    "diagonal",
    "gaussian",
    "head",
    "linear",
    "of_hidden",
    "polar",
    "power",
    "relu",
    "sampled",
    "with_slope",
]
