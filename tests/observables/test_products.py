"""The kernel without its matrix, against the matrix; the Gram of gradients against autograd."""

import functools

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from learndyn.errors import InputError
from learndyn.observables import gradient_gram, kernel, kernel_product, kernel_sketch, kernel_spectrum


def network(classes=3):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))
    return nn.Sequential(*layers).double(), torch.randn(7, 1, 6, 6, dtype=torch.float64)


def test_a_product_is_the_matrix_times_the_vector():
    model, inputs = network()
    whole = kernel(model, inputs, reduction="full").matrix
    v = torch.randn(7, 3, dtype=torch.float64)
    assert torch.allclose(kernel_product(model, inputs, v).flatten(), whole @ v.flatten(), rtol=1e-11)
    some = kernel(model, inputs, reduction="full", parameters=["0.weight", "5.bias"]).matrix
    found = kernel_product(model, inputs, v, parameters=["0.weight", "5.bias"]).flatten()
    assert torch.allclose(found, some @ v.flatten(), rtol=1e-11)
    assert model.training and all(p.grad is None for p in model.parameters())


def test_a_vector_that_does_not_fit_is_refused():
    model, inputs = network()
    with pytest.raises(InputError, match=r"v has the shape \(3, 7\); the outputs ask for \(7, 3\)"):
        kernel_product(model, inputs, torch.zeros(3, 7, dtype=torch.float64))


def test_the_spectrum_is_that_of_the_matrix():
    model, inputs = network()
    whole = kernel(model, inputs, reduction="full").matrix
    found = kernel_spectrum(model, inputs, 4, 1e-9)
    values, vectors = torch.linalg.eigh(whole)
    assert torch.allclose(found.values, values.flip(0)[:4], rtol=1e-9)
    assert (found.vectors @ vectors.flip(1)[:, :4]).abs().diagonal().min() > 1 - 1e-8


def test_values_of_an_affine_network_come_as_often_as_they_are():
    """K = (X Xᵀ + 1) ⊗ I: every eigenvalue c times, of which one starting vector sees one."""
    torch.manual_seed(1)
    model, inputs = nn.Linear(4, 3).double(), torch.randn(9, 4, dtype=torch.float64)
    gram = torch.linalg.eigvalsh(inputs @ inputs.T + 1).flip(0)
    found = kernel_spectrum(model, inputs, 6, 1e-10)
    assert torch.allclose(found.values, gram[:2].repeat_interleave(3), rtol=1e-8)
    assert (found.vectors @ found.vectors.T - torch.eye(6)).abs().max() < 1e-8


def test_the_gram_of_gradients_is_that_of_single_losses():
    model, inputs = network()
    targets = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    model.eval()
    rows = []
    for x, y in zip(inputs, targets):
        gradients = torch.autograd.grad(cross_entropy(model(x[None]), y[None]), list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    rows = torch.stack(rows)
    found = gradient_gram(model, inputs, targets, functools.partial(cross_entropy, reduction="none"))
    assert torch.allclose(found.matrix, rows @ rows.T, rtol=1e-10)
    assert set(found.ways.values()) <= {"jacobian", "inputs", "outputs"}  # layers are still seen


def test_a_mean_loss_is_refused():
    model, inputs = network()
    with pytest.raises(InputError, match="one number for each"):
        gradient_gram(model, inputs, torch.zeros(7, dtype=torch.long), cross_entropy)


def test_a_sketch_is_right_on_average_and_knows_its_error():
    model, inputs = network()
    whole = kernel(model, inputs, reduction="full").matrix
    draws = [kernel_sketch(model, inputs, 50, seed=seed) for seed in range(100)]
    errors = torch.stack([(draw.matrix - whole).norm() / whole.norm() for draw in draws])
    mean = torch.stack([draw.matrix for draw in draws]).mean(0)
    assert (mean - whole).norm() / whole.norm() < 4 * errors.square().mean().sqrt() / 100**0.5
    told = torch.tensor([draw.error for draw in draws])
    assert 0.8 < float(errors.square().mean().sqrt() / told.median()) < 1.25


def test_a_wide_sketch_is_close_and_the_same_for_a_seed():
    model, inputs = network()
    whole = kernel(model, inputs, reduction="full").matrix
    first, again = (kernel_sketch(model, inputs, 20000, seed=3) for _ in range(2))
    assert torch.equal(first.features, again.features)
    assert (first.matrix - whole).norm() / whole.norm() < 0.1
    with pytest.raises(InputError, match="positive width"):
        kernel_sketch(model, inputs, 0)
