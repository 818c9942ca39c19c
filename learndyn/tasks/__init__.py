"""What is to be learnt: one file a task, each with a factory of keyword arguments that returns a `Supervised`.

To add one: write `learndyn/tasks/NAME.py` with a function `NAME(..., seed=0)`, import it here and put its name into
`BUILT_IN`. The contract tests then hold it to the one rule: a batch depends on the seed and the step, and on nothing
else. A task of your own need not live here: any object with the three methods of `Task` will do.
"""

from learndyn.tasks.arrays import npz
from learndyn.tasks.cifar10 import cifar10
from learndyn.tasks.digits import digits
from learndyn.tasks.linear_teacher import linear_teacher
from learndyn.tasks.mnist import mnist
from learndyn.tasks.mnist5000 import mnist5000
from learndyn.tasks.semantic import semantic
from learndyn.tasks.supervised import Batch, Supervised, Task, cross_entropy, half_squared_error, place
from learndyn.tasks.teacher import teacher
from learndyn.tasks.tiny_imagenet import tiny_imagenet

BUILT_IN = (
    "cifar10",
    "digits",
    "linear_teacher",
    "mnist",
    "mnist5000",
    "npz",
    "semantic",
    "teacher",
    "tiny_imagenet",
)

__all__ = [
    "BUILT_IN",
    "Batch",
    "Supervised",
    "Task",
    "cifar10",
    "cross_entropy",
    "digits",
    "half_squared_error",
    "linear_teacher",
    "mnist",
    "mnist5000",
    "npz",
    "place",
    "semantic",
    "teacher",
    "tiny_imagenet",
]
