"""What is to be learnt: one file a task, each with a factory of keyword arguments that returns a `Supervised`.

To add one: write `learndyn/tasks/NAME.py` with a function `NAME(..., seed=0)`, import it here and put its name into
`BUILT_IN`. The contract tests then hold it to the one rule: a batch depends on the seed and the step, and on nothing
else. A task of your own need not live here: any object with the three methods of `Task` will do.
"""

from learndyn.tasks.arrays import npz
from learndyn.tasks.cifar10 import cifar10
from learndyn.tasks.digits import digits
from learndyn.tasks.gratings import gratings
from learndyn.tasks.group_composition import FreshCompositions, group_composition
from learndyn.tasks.linear_teacher import linear_teacher
from learndyn.tasks.mnist import mnist
from learndyn.tasks.mnist5000 import mnist5000
from learndyn.tasks.modular import modular
from learndyn.tasks.random_hierarchy import hierarchy_sizes, random_hierarchy
from learndyn.tasks.relu_teacher import relu_teacher
from learndyn.tasks.semantic import semantic
from learndyn.tasks.supervised import (
    Batch,
    Supervised,
    Task,
    cross_entropy,
    half_squared_error,
    mean_squared_error,
    place,
)
from learndyn.tasks.teacher import teacher
from learndyn.tasks.tiny_imagenet import tiny_imagenet
from learndyn.tasks.xor import xor

BUILT_IN = (
    "cifar10",
    "digits",
    "gratings",
    "group_composition",
    "linear_teacher",
    "mnist",
    "mnist5000",
    "modular",
    "npz",
    "random_hierarchy",
    "relu_teacher",
    "semantic",
    "teacher",
    "tiny_imagenet",
    "xor",
)

__all__ = [
    "BUILT_IN",
    "Batch",
    "FreshCompositions",
    "Supervised",
    "Task",
    "cifar10",
    "cross_entropy",
    "digits",
    "gratings",
    "group_composition",
    "half_squared_error",
    "hierarchy_sizes",
    "linear_teacher",
    "mean_squared_error",
    "mnist",
    "mnist5000",
    "modular",
    "npz",
    "place",
    "random_hierarchy",
    "relu_teacher",
    "semantic",
    "teacher",
    "tiny_imagenet",
    "xor",
]
