"""Lanczos against dense eigenvalues; Hessian and Gauss-Newton matrix against those formed by torch.func."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.functional import cross_entropy

from learndyn.errors import InputError
from learndyn.observables import gauss_newton_spectrum, hessian_spectrum, kernel, lanczos
from learndyn.observables.spectrum import ENDS


def sorted_by(values, end):
    return values[{"largest": -values, "smallest": values, "magnitude": -values.abs()}[end].argsort()]


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 60),
    rank=st.integers(0, 60),
    count=st.integers(1, 8),
    end=st.sampled_from(ENDS),
    basis=st.sampled_from([None, 12]),
    seed=st.integers(0, 99),
)
def test_any_symmetric_matrix(size, rank, count, end, basis, seed):
    """Also of low rank, where the Krylov space ends early, and with restarts."""
    draw = torch.Generator().manual_seed(seed)
    factor = torch.randn(size, min(rank, size), generator=draw, dtype=torch.float64)
    signs = torch.randn(factor.shape[1], generator=draw, dtype=torch.float64).sign()
    matrix = (factor * signs) @ factor.T
    start = torch.randn(size, generator=draw, dtype=torch.float64)
    found = lanczos(lambda v: matrix @ v, start, count, end, 1e-9, basis, multiple=True)
    whole = torch.linalg.eigvalsh(matrix)
    truth, scale = sorted_by(whole, end)[: min(count, size)], float(whole.abs().max()) + 1e-12
    assert found.values.shape == truth.shape
    assert (found.values - truth).abs().max() <= 1e-8 * scale
    actual = (found.vectors @ matrix - found.values[:, None] * found.vectors).norm(dim=1)
    assert (actual <= found.residuals + 1e-9 * scale).all()
    assert (found.vectors @ found.vectors.T - torch.eye(len(truth))).abs().max() < 1e-8


def test_residuals_are_error_bars_when_it_is_stopped_early():
    matrix = torch.diag(torch.linspace(0, 1, 400, dtype=torch.float64) ** 2)
    found = lanczos(lambda v: matrix @ v, torch.ones(400, dtype=torch.float64), 3, tolerance=1e-12, most=12)
    assert found.products == 12 and found.residuals[-1] > 1e-6
    nearest = (matrix.diagonal() - found.values[:, None]).abs().amin(1)
    assert (nearest <= found.residuals).all()


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4)).double()
    model[0].bias.requires_grad_(False)
    return model, torch.randn(20, 6, dtype=torch.float64), torch.randint(0, 4, (20,))


def flattened(model, inputs):
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    theta = torch.cat([p.detach().flatten() for p in free.values()])

    def outputs(theta):
        pieces = theta.split([p.numel() for p in free.values()])
        return functional_call(model, {n: v.view(p.shape) for (n, p), v in zip(free.items(), pieces)}, (inputs,))

    return theta, outputs


def test_hessian():
    model, inputs, targets = network()
    theta, outputs = flattened(model.eval(), inputs)
    truth = torch.linalg.eigvalsh(hessian(lambda t: cross_entropy(outputs(t), targets))(theta))
    model.train()
    for end in ENDS:
        found = hessian_spectrum(model, lambda m: cross_entropy(m(inputs), targets), 3, end, 1e-8)
        assert torch.allclose(found.values, sorted_by(truth, end)[:3], rtol=1e-7, atol=1e-9)
    assert model.training and model[2].training


def test_gauss_newton_and_the_kernel_have_the_same_eigenvalues():
    """Of ½ ‖f‖², whose Gauss-Newton matrix is JᵀJ and whose kernel is JJᵀ; and of the cross-entropy, against Jᵀ S J."""
    model, inputs, targets = network()
    theta, outputs = flattened(model.eval(), inputs)
    jacobian = jacrev(outputs)(theta).reshape(-1, len(theta))
    curvature = hessian(lambda f: cross_entropy(f.view(20, 4), targets))(outputs(theta).flatten())
    found = gauss_newton_spectrum(model, lambda m: m(inputs), lambda f: cross_entropy(f, targets), 3, 1e-8)
    truth = torch.linalg.eigvalsh(jacobian.T @ curvature @ jacobian).flip(0)[:3]
    assert torch.allclose(found.values, truth, rtol=1e-7)
    found = gauss_newton_spectrum(model, lambda m: m(inputs), lambda f: 0.5 * f.square().sum(), 3, 1e-8)
    kernel_values = torch.linalg.eigvalsh(kernel(model, inputs, reduction="full").matrix).flip(0)[:3]
    assert torch.allclose(found.values, kernel_values, rtol=1e-7)


def test_bad_input():
    start = torch.ones(4, dtype=torch.float64)
    with pytest.raises(InputError, match="did you mean 'largest'"):
        lanczos(lambda v: v, start, 1, "larges")
    with pytest.raises(InputError, match="at least 1"):
        lanczos(lambda v: v, start, 0)
    with pytest.raises(InputError, match="not finite"):
        lanczos(lambda v: v * torch.nan, start, 1)
    model, inputs, targets = network()
    with pytest.raises(InputError, match="parameters ask for"):
        hessian_spectrum(model, lambda m: cross_entropy(m(inputs), targets), start=torch.ones(3))
