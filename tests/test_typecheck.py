"""The tests' own type checks: the first calls are checked, and all again when the next test begins."""

import pytest
import torch
import typecheck
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor


def make():
    @jaxtyped(typechecker=typecheck.checked)
    def half(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return x[: len(x) // 2] if x.sum() < 0 else x

    return half


def test_the_first_calls_are_checked_and_all_again_when_forgotten():
    half, right, wrong = make(), torch.ones(4), -torch.ones(4)
    for _ in range(typecheck.FIRST - 1):
        half(right)
    with pytest.raises(TypeCheckError):
        half(wrong)
    with pytest.raises(TypeCheckError):
        half(torch.ones(2, 2))
    for _ in range(5):
        half(right)
    half(torch.ones(2, 2))
    half(wrong)
    typecheck.forget()
    with pytest.raises(TypeCheckError):
        half(wrong)


def test_functions_made_anew_are_one_function():
    for _ in range(typecheck.FIRST + 5):
        make()(torch.ones(3))
    function = make()
    function(torch.ones(3))
    function(torch.ones(2, 2))
    typecheck.forget()
    with pytest.raises(TypeCheckError):
        make()(torch.ones(2, 2))
