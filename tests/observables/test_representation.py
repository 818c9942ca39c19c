"""What moves a kernel, how similar layers are, how smooth filters are: each against a slow form of itself."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import nn
from torch.func import functional_call, jacrev

from learndyn.dynamics import fork, start, train
from learndyn.errors import InputError
from learndyn.models import mlp, two_layer
from learndyn.observables import (
    kernel_split,
    representation,
    representational_similarity,
    similarity_matrix,
    smoothness,
)
from learndyn.tasks import Batch, Supervised

SGD = partial(torch.optim.SGD, lr=0.3)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(make, inputs, steps=40):
    """A network before and after some steps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().double()
    batch = Batch(inputs, torch.arange(len(inputs)) % 3)
    state = start(Supervised(batch, batch, len(inputs)), model, SGD)
    return state, train(fork(state), steps).state


# Kernel split ---------------------------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Two linear layers with slopes that are given, not found."""

    def __init__(self, first, last, slopes):
        super().__init__()
        self.first, self.last, self.slopes = first, last, slopes

    def forward(self, x):
        return self.last(self.slopes * self.first(x))


def by_autograd(weights, patterns, x, gamma, names):
    z = patterns.get_submodule(names[0])(x)
    slopes = torch.where(z > 0, 1.0, gamma).double() if gamma == 0 else torch.where(z > 0, z / z, gamma * z / z)
    block = Masked(*(weights.get_submodule(name) for name in names), slopes.detach())
    jacobian = jacrev(lambda p: functional_call(block, p, (x,)))(dict(block.named_parameters()))
    return sum(torch.einsum("iop,jop->ij", j.flatten(2), j.flatten(2)) for j in jacobian.values()).detach()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.01])
def test_kernel_split_against_autograd(bias, gamma):
    activation = "leaky_relu" if gamma else "relu"
    a, b = pair(lambda: mlp((5,), 3, width=7, depth=1, bias=bias, activation=activation), normal(12, 5))
    found = kernel_split(a, b)
    names = ("1", "3")
    base = by_autograd(a.model, a.model, a.task.test.inputs, gamma, names)
    for value, (of_weights, of_patterns) in (
        (found.distance, (b, b)),
        (found.weights, (b, a)),
        (found.patterns, (a, b)),
    ):
        k = by_autograd(of_weights.model, of_patterns.model, a.task.test.inputs, gamma, names)
        assert value.item() == pytest.approx(float(1 - (k * base).sum() / k.norm() / base.norm()), abs=1e-12)
        assert 1e-5 < value.item() < 1 and value.dtype == torch.float64


def test_kernel_split_of_a_block_inside_a_deeper_network():
    """On the inputs that reach the block in the first state, also for the second."""
    a, b = pair(lambda: mlp((5,), 3, width=(6, 7, 4)), normal(12, 5))
    x = a.model[:3](a.task.test.inputs).detach()
    base, k = (by_autograd(s.model, s.model, x, 0.0, ("3", "5")) for s in (a, b))
    found = kernel_split(a, b, first="3")
    assert found.distance.item() == pytest.approx(float(1 - (k * base).sum() / k.norm() / base.norm()), abs=1e-12)
    assert kernel_split(a, b, first="3", last="5").patterns == found.patterns


def test_kernel_split_of_nothing_is_zero_and_of_signs_alone_is_patterns():
    a, _ = pair(lambda: two_layer((5,), 1, width=6), normal(12, 5), 0)
    same = kernel_split(a, fork(a))
    assert (same.distance, same.weights, same.patterns) == (0, 0, 0)
    b = fork(a)
    with torch.no_grad():
        b.model.first.weight.neg_()  # M_k depends on w_k wₖᵀ and a_k² alone
    found = kernel_split(a, b)
    assert found.weights.item() < 1e-28 and found.patterns.item() > 1e-2
    assert found.distance.item() == pytest.approx(found.patterns.item(), abs=1e-14)


def test_blocks_that_are_none_are_refused():
    a, b = pair(lambda: mlp((5,), 3, width=(6, 7)), normal(12, 5), 1)
    with pytest.raises(InputError, match="'2' is no linear layer of the network; it has 1, 3, 5"):
        kernel_split(a, b, first="2")
    with pytest.raises(InputError, match="between 1 and 5 is no ReLU or leaky ReLU alone"):
        kernel_split(a, b, last="5")
    with pytest.raises(InputError, match="needs one more"):
        kernel_split(a, b, first="5")
    smooth = pair(lambda: mlp((5,), 3, width=6, depth=1, activation="tanh"), normal(12, 5), 1)
    with pytest.raises(InputError, match="no ReLU or leaky ReLU alone"):
        kernel_split(*smooth)
    at_positions = pair(
        lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Flatten()), normal(9, 2, 5), 0
    )
    with pytest.raises(InputError, match="on one vector an example"):
        kernel_split(*at_positions)
    a, dead = pair(lambda: mlp((5,), 3, width=(6, 7), bias=False), normal(12, 5), 1)
    with torch.no_grad():
        for p in dead.model.parameters():
            p.zero_()
    with pytest.raises(InputError, match="hence has no direction"):
        kernel_split(a, dead, first="3")


# Representations ------------------------------------------------------------------------------------------------------


def test_representations_are_what_the_layer_returns():
    a, _ = pair(lambda: mlp((5,), 3, width=(6, 7)), normal(12, 5), 0)
    x = a.task.test.inputs
    torch.testing.assert_close(representation(a, "2"), a.model[:3](x).detach(), rtol=0, atol=0)
    torch.testing.assert_close(representation(a), a.model(x).detach(), rtol=0, atol=0)
    assert representation(a, "4", x[:5]).shape == (5, 7)
    with pytest.raises(InputError, match="There is no layer '7'"):
        representation(a, "7")


def test_similarities_against_loops():
    x, n = normal(7, 4), 7
    cosine, centred = similarity_matrix(x), similarity_matrix(x, "centred")
    shifted = x - x.mean(0)
    for i in range(n):
        for j in range(n):
            dot = sum(p * q for p, q in zip(x[i].tolist(), x[j].tolist()))
            assert cosine[i, j].item() == pytest.approx(dot / float(x[i].norm() * x[j].norm()), abs=1e-14)
            assert centred[i, j].item() == pytest.approx(float(shifted[i] @ shifted[j]), abs=1e-13)
    x[3] = 0
    assert (similarity_matrix(x)[3] == 0).all()


def test_centred_alignment_is_blind_to_rotation_scale_and_shift_and_to_nothing_else():
    """Kornblith's form: ‖Y'X‖² / (‖X'X‖ ‖Y'Y‖) of centred features."""
    a, b = pair(lambda: mlp((5,), 3, width=(6, 7)), normal(30, 5))
    x, y = (representation(s, "4") for s in (a, b))
    x, y = x - x.mean(0), y - y.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    found = representational_similarity(a, b, "4")
    assert found.item() == pytest.approx(expected.item(), rel=1e-12) and 0 < found.item() < 0.9999
    assert representational_similarity(a, fork(a), "4").item() == pytest.approx(1, abs=1e-14)
    turned = fork(a)
    q = torch.linalg.qr(normal(3, 3, seed=1)).Q
    with torch.no_grad():
        turned.model[5].weight.copy_(2.5 * q @ a.model[5].weight)
        turned.model[5].bias += 3
    assert representational_similarity(a, turned).item() == pytest.approx(1, abs=1e-13)
    assert representational_similarity(a, turned, kind="cosine").item() < 0.999


def test_similarities_that_are_none_are_refused():
    a, b = pair(lambda: mlp((5,), 3, width=6), normal(12, 5), 1)
    with pytest.raises(InputError, match="There is no similarity 'cka'"):
        representational_similarity(a, b, kind="cka")
    with torch.no_grad():
        b.model[5].weight.zero_()
    with pytest.raises(InputError, match="is the same for all inputs"):
        representational_similarity(a, b)
    with pytest.raises(InputError, match="not finite"):
        similarity_matrix(torch.tensor([[torch.inf]]))


# Smoothness -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", [2.0, 3.0])
def test_smoothness_of_white_noise(centre):
    """Mean 5.15 with the centre 2 and 10.15 with 3: exactly centre² + (k−1)/k + ((k−1)/k)²/4 for k = 15."""
    found = smoothness(normal(4000, 1, 15, 15), centre)
    expected = centre**2 + 14 / 15 + (14 / 15) ** 2 / 4
    assert expected == pytest.approx({2.0: 5.151, 3.0: 10.151}[centre], abs=1e-3)
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / 4000**0.5)
    assert found.std().item() / 4000**0.5 < 0.02


def test_smoothness_against_scipy_and_its_limits():
    w = normal(5, 3, 7, 4)
    laplacian = np.array([[-0.25, -0.5, -0.25], [-0.5, 3.0, -0.5], [-0.25, -0.5, -0.25]])
    for one, found in zip(w, smoothness(w)):
        unit = (one / one.norm()).numpy()
        assert found.item() == pytest.approx(
            sum((convolve2d(channel, laplacian, "same") ** 2).sum() for channel in unit), rel=1e-12
        )
    torch.testing.assert_close(smoothness(1e-3 * w.float()), smoothness(w), rtol=1e-5, atol=0)
    y, x = torch.meshgrid(torch.arange(15.0), torch.arange(15.0), indexing="ij")
    waves = torch.stack([torch.cos(torch.pi * x), torch.exp(-((x - 7) ** 2 + (y - 7) ** 2) / 18)])[:, None]
    rough, smooth = smoothness(waves).tolist()
    assert rough > 10 and smooth < 0.05


def test_filters_without_smoothness_are_refused():
    w = normal(3, 1, 3, 3)
    w[1] = 0
    with pytest.raises(InputError, match="Filter 1 has the norm 0"):
        smoothness(w)
