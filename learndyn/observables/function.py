"""How far apart two networks are as functions (arXiv:2505.13900, eq. 6)."""

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.dynamics.state import State
from learndyn.observables.evaluate import Evaluation, decisions, evaluate


def disagreement(a: State, b: State, split: str = "test") -> Float[Tensor, ""]:
    """D: fraction of a split on which the two decide for different classes, in evaluation mode; nan without class
    labels.
    """
    return disagreement_of(evaluate(a.model, a.task, split), evaluate(b.model, b.task, split))


def function_distance(a: State, b: State, split: str = "test") -> Float[Tensor, ""]:
    """Root mean square over examples of ‖softmax f − softmax f′‖₂, in evaluation mode; of the outputs without class
    labels.
    """
    return function_distance_of(evaluate(a.model, a.task, split), evaluate(b.model, b.task, split))


def disagreement_of(a: Evaluation, b: Evaluation) -> Float[Tensor, ""]:
    """`disagreement` of two networks that were evaluated already."""
    if a.targets.is_floating_point():
        return torch.tensor(torch.nan, dtype=torch.float64)
    counted = a.targets >= 0 if a.targets.shape == a.outputs.shape[:-1] else ...
    return (decisions(a.outputs) != decisions(b.outputs))[counted].double().mean()


def function_distance_of(a: Evaluation, b: Evaluation) -> Float[Tensor, ""]:
    """`function_distance` of two networks that were evaluated already."""
    first, second = a.outputs.double(), b.outputs.double()
    if not a.targets.is_floating_point() and first.shape[-1] > 1:
        first, second = first.softmax(-1), second.softmax(-1)
    return (first - second).square().sum(-1).mean().sqrt()
