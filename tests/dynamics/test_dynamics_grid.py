"""The grid against networks trained one at a time by torch, tangent kernels by autograd, and its own claims."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from learndyn.dynamics import (
    Nets,
    advance_grid,
    diverging,
    grid,
    grid_checkpoints,
    grid_curvature,
    grid_metrics,
    grid_outputs,
    normalised_lr,
    refuse_divergence,
    two_layer_kernel,
)
from learndyn.errors import InputError
from learndyn.tasks import relu_teacher, teacher

TAU, DELTA = [0.1, 0.1, 0.5, 1.0], [1.0, -0.25, 0.0, 0.3]


def small(seeds=(0, 1), width=6, tau=TAU, delta=DELTA, examples=30, dimension=5, **options):
    tasks = [relu_teacher(examples, 20, dimension, dtype="float64", data_seed=seed) for seed in seeds]
    return grid(tau, delta, seeds, tasks, width, **options)


def module(nets, seed, cell):
    first, last = nets.first[seed, cell].double(), nets.last[seed, cell].double()
    model = nn.Sequential(nn.Linear(first.shape[1], len(first), bias=False), nn.ReLU(), nn.Linear(len(first), 1, False))
    model = model.double()
    with torch.no_grad():
        model[0].weight.copy_(first)
        model[2].weight.copy_(last[None])
    return model


def features(model, x):
    """The gradient of every output by autograd, `(n, parameters)`."""
    rows = []
    for one in x:
        model.zero_grad()
        model(one).backward()
        rows.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
    return torch.stack(rows)


def one_minus_cosine(k, other):
    return float(1 - (k * other).sum() / (k.norm() * other.norm()))


def test_descent_is_torchs():
    """120 steps of torch.optim.SGD with autograd, network by network."""
    g = small(width=8)
    nets, step = advance_grid(g, g.start, 0, 120)
    assert step == 120
    for seed in range(2):
        for cell in range(4):
            model = module(g.start, seed, cell)
            optimizer = torch.optim.SGD(model.parameters(), lr=float(g.lr[seed, cell]))
            for _ in range(120):
                optimizer.zero_grad()
                (model(g.inputs[seed])[:, 0] - g.targets[seed]).square().mean().backward()
                optimizer.step()
            torch.testing.assert_close(nets.first[seed, cell], model[0].weight, rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(nets.last[seed, cell], model[2].weight[0], rtol=1e-9, atol=1e-11)
            assert (nets.first[seed, cell] - g.start.first[seed, cell]).norm() > 0.01


def test_starts_have_the_scales_of_their_cells_and_the_function_zero():
    g = small()
    w2, a2 = g.start.first.square().sum(-1), g.start.last.square()
    delta, tau = (torch.tensor(v, dtype=torch.float64)[:, None] for v in (DELTA, TAU))
    torch.testing.assert_close(a2 - w2, delta.expand(2, 4, 6), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(a2 * w2, tau.pow(4).expand(2, 4, 6), rtol=1e-12, atol=0)
    assert (grid_outputs(g.start, g.inputs) == 0).all()
    for dtype in (torch.float32, torch.float64):  # at the paper's size, too
        full = grid(TAU, DELTA, dtype=dtype)
        assert (grid_outputs(full.start, full.test_inputs) == 0).all()
    plain = small(symmetrise=False, width=7)
    assert grid_outputs(plain.start, plain.inputs).abs().max() > 0
    units = g.start.first / w2.sqrt()[..., None]
    torch.testing.assert_close(units[0, 0], units[0, 3])  # cells of a seed share their directions, seeds do not
    assert (units[0, 0] - units[1, 0]).abs().max() > 0.1
    assert g.lr[0].tolist() == pytest.approx([0.5, 0.5, 0.02, 0.005])


def test_outputs_are_those_of_modules():
    g = small(symmetrise=False, width=7)
    found = grid_outputs(g.start, g.test_inputs)
    for seed in range(2):
        for cell in range(4):
            expected = module(g.start, seed, cell)(g.test_inputs[seed])[:, 0]
            torch.testing.assert_close(found[seed, cell], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.2}, {"bias": True}, {"bias": True, "gamma": 0.2, "outputs": 3}])
def test_the_kernel_is_that_of_autograd(options):
    gamma, outputs = options.get("gamma", 0.0), options.get("outputs", 1)
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        biased = "bias" in options
        block = nn.Sequential(nn.Linear(4, 6, biased), nn.LeakyReLU(gamma), nn.Linear(6, outputs, biased)).double()
    x = torch.randn(9, 4, generator=draw, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda p: torch.func.functional_call(block, p, (x,)))(dict(block.named_parameters()))
    expected = sum(torch.einsum("iop,jop->ij", j.flatten(2), j.flatten(2)) for j in jacobian.values())
    first, last = block[0].weight.detach(), block[2].weight.detach()
    bias = block[0].bias.detach() if biased else None
    found = two_layer_kernel(x, first, last, bias=bias, last_bias=biased, gamma=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_learning_rates_of_the_layers_weigh_their_shares():
    g = small(seeds=(0,))
    x, net = g.inputs[0], (g.start.first[0, 2], g.start.last[0, 2])
    f = features(module(g.start, 0, 2), x)
    parts = f[:, :30] @ f[:, :30].T, f[:, 30:] @ f[:, 30:].T
    torch.testing.assert_close(
        two_layer_kernel(x, *net, rates=(0.3, 2.0)), 0.3 * parts[0] + 2 * parts[1], rtol=1e-12, atol=1e-13
    )


def test_metrics_against_loops():
    g = small()
    nets, _ = advance_grid(g, g.start, 0, 200)
    found = grid_metrics(g, nets)
    for seed in range(2):
        for cell in range(4):
            old, new = (module(n, seed, cell) for n in (g.start, nets))
            x = g.inputs[seed]
            f0, f1 = features(old, x), features(new, x)
            row = {name: float(value[seed, cell]) for name, value in found.items()}
            assert row["kernel_distance"] == pytest.approx(one_minus_cosine(f0 @ f0.T, f1 @ f1.T), abs=1e-12)
            flips = sum(
                (float(w0 @ xi) > 0) != (float(w1 @ xi) > 0)
                for w0, w1 in zip(old[0].weight.detach(), new[0].weight.detach())
                for xi in x
            )
            assert row["hamming"] == pytest.approx(flips / len(x), abs=1e-12)
            assert row["hamming_fraction"] == pytest.approx(flips / len(x) / 6, abs=1e-12)
            moved = [(p - q).detach().square().sum() for p, q in zip(new.parameters(), old.parameters())]
            size = sum(float(p.detach().square().sum()) for p in old.parameters())
            assert row["distance"] == pytest.approx(float(sum(moved)) ** 0.5, rel=1e-12)
            assert row["relative_distance"] == pytest.approx(float(sum(moved) / size) ** 0.5, rel=1e-12)
            for split, inputs, targets in (
                ("train", x, g.targets[seed]),
                ("test", g.test_inputs[seed], g.test_targets[seed]),
            ):
                loss = (new(inputs)[:, 0] - targets).square().mean()
                assert row[f"{split}_loss"] == pytest.approx(float(loss.detach()), rel=1e-12)
            deltas = [(m[2].weight[0].square() - m[0].weight.square().sum(1)).detach() for m in (old, new)]
            assert row["delta_drift"] == pytest.approx(float((deltas[1] - deltas[0]).abs().max()), rel=1e-9)


def test_the_split_freezes_what_it_says():
    """Patterns frozen: the kernel of a network with fixed masks by autograd; weights frozen: with moved masks."""
    g = small(seeds=(0,))
    nets, _ = advance_grid(g, g.start, 0, 300)
    found = grid_metrics(g, nets)
    x = g.inputs[0]
    for cell in range(4):

        def kernel(of_weights, of_patterns, cell=cell):
            first = of_weights.first[0, cell].clone().requires_grad_()
            last = of_weights.last[0, cell].clone().requires_grad_()
            mask = (x @ of_patterns.first[0, cell].T > 0).double()
            f = (mask * (x @ first.T)) @ last
            rows = [
                torch.cat([t.flatten() for t in torch.autograd.grad(y, (first, last), retain_graph=True)]) for y in f
            ]
            return torch.stack(rows) @ torch.stack(rows).T

        base = kernel(g.start, g.start)
        weights, patterns = kernel(nets, g.start), kernel(g.start, nets)
        assert float(found["kernel_distance_weights"][0, cell]) == pytest.approx(
            one_minus_cosine(base, weights), abs=1e-12
        )
        assert float(found["kernel_distance_patterns"][0, cell]) == pytest.approx(
            one_minus_cosine(base, patterns), abs=1e-12
        )


def test_nothing_has_moved_at_the_start():
    found = grid_metrics(small(), small().start)
    for name in found.keys() - {"train_loss", "test_loss"}:
        assert (found[name] == 0).all(), name
    assert (found["train_loss"] == small().targets.square().mean(1)[:, None]).all()


def test_stopping_in_between_changes_no_bit_and_old_weights_stay():
    g = small()
    kept = g.start.first.clone()
    direct = dict(grid_checkpoints(g, [1, 10, 100]))
    assert torch.equal(g.start.first, kept)
    middle = Nets(*(part.clone() for part in direct[10]))  # as from a file
    [(step, again)] = grid_checkpoints(g, [1, 10, 100][2:], middle, 10)
    assert step == 100 and all(torch.equal(a, b) for a, b in zip(again, direct[100]))
    assert [step for step, _ in grid_checkpoints(g, [1, 10, 100], middle, 10)] == [10, 100]
    assert torch.equal(advance_grid(g, middle, 10, 10)[0].first, middle.first)


def test_pieces_and_precisions_agree():
    g = small(dtype=torch.float64)
    whole, pieces = (advance_grid(g, g.start, 0, 100, piece)[0] for piece in (4, 3))
    torch.testing.assert_close(whole.first, pieces.first, rtol=1e-11, atol=1e-13)
    single = small(dtype=torch.float32)
    rough = advance_grid(single, single.start, 0, 100)[0]
    assert rough.first.dtype == torch.float32
    torch.testing.assert_close(rough.first.double(), whole.first, rtol=1e-3, atol=1e-5)
    assert grid_metrics(single, rough)["kernel_distance"].dtype == torch.float64


def test_charges_move_by_the_exact_bookkeeping_of_descent():
    """δ_{k+1} − δ_k = η²((∂L/∂a)² − |∂L/∂w|²) at every step, so the drift over a fixed time halves with the step."""
    g = small(seeds=(0,), lr=0.05)
    one, _ = advance_grid(g, g.start, 0, 1)
    for cell in range(4):
        model = module(g.start, 0, cell)
        (model(g.inputs[0])[:, 0] - g.targets[0]).square().mean().backward()
        gain = 0.05**2 * (model[2].weight.grad[0].square() - model[0].weight.grad.square().sum(1))
        delta = [n.last[0, cell].square() - n.first[0, cell].square().sum(1) for n in (g.start, one)]
        torch.testing.assert_close(delta[1] - delta[0], gain, rtol=1e-6, atol=1e-15)
    drifts = []
    for lr, steps in ((0.02, 200), (0.01, 400), (0.005, 800)):
        g = small(seeds=(0,), lr=lr)
        drifts.append(grid_metrics(g, advance_grid(g, g.start, 0, steps)[0])["delta_drift"])
    for coarse, fine in zip(drifts, drifts[1:]):
        ratio = coarse / fine
        assert ratio.min() > 1.7 and ratio.max() < 2.4


def test_curvature_is_the_largest_eigenvalue_of_the_hessian_of_the_linearised_loss():
    g = small()
    found = grid_curvature(g, tolerance=1e-12, most=20_000)
    for seed in range(2):
        for cell in range(4):
            f = features(module(g.start, seed, cell), g.inputs[seed])
            hessian = 2 / len(f) * f.T @ f
            assert float(found[seed, cell]) == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-6)


def test_steps_beyond_two_over_the_curvature_diverge_and_below_do_not():
    """Lazy networks, whose kernel stays: beyond, the loss grows until the kernel does move."""
    lazy = {"tau": [5.0, 8.0], "delta": [3.0, 0.0], "seeds": (0, 1)}
    g = small(**lazy)
    sharp = grid_curvature(g)
    for factor, grows in ((1.9, False), (2.2, True)):
        moved = small(**lazy, lr=factor / sharp)
        assert bool(diverging(moved).all()) is grows and bool(diverging(moved).any()) is grows
        losses = [grid_metrics(moved, nets)["train_loss"] for _, nets in grid_checkpoints(moved, [0, 10, 20, 30, 40])]
        assert bool((torch.stack(losses[1:]).amax(0) > 1.5 * losses[0]).all()) is grows
    torch.testing.assert_close(normalised_lr(g) * sharp, torch.ones(2, 2, dtype=torch.float64))
    refuse_divergence(small(lr=normalised_lr(small(), 1.5)))
    with pytest.raises(InputError, match=r"4 of 4 networks will diverge, first tau=5, delta=3 with lr="):
        refuse_divergence(moved)


def test_a_network_that_diverged_is_nan_and_its_neighbours_are_not():
    g = small(seeds=(0,), tau=[0.1, 1.0], delta=[0.0, 0.0], lr=torch.tensor([[1e4, 1e-3]]))
    found = grid_metrics(g, advance_grid(g, g.start, 0, 200)[0])
    for name, value in found.items():
        assert value[0, 0].isnan() and value[0, 1].isfinite(), name


def test_rapid_rich_lazy_and_delayed_networks_at_a_quarter_of_the_papers_size():
    """The grid of Fig. 1b, smaller: d = 40, n = 300, 20 units in place of d = 100, n = 1000, 50 units.

    At t = 100: upstream has flipped two units in five or so, downstream hardly any; tau = 1 is lazy.
    """
    cells = [(0.1, 1.0), (0.1, 0.0), (0.1, -1.0), (1.0, 0.0)]
    seeds = (0, 1, 2)
    tasks = [relu_teacher(300, 1000, 40, dtype="float64", data_seed=seed) for seed in seeds]
    g = grid([c[0] for c in cells], [c[1] for c in cells], seeds, tasks, 20)
    early, late = (grid_metrics(g, nets) for _, nets in grid_checkpoints(g, [100, 1000]))
    up, balanced, down, lazy = early["hamming_fraction"].mean(0)
    assert 0.35 < up < 0.5 and 8 * down < up and lazy < 0.01 and down < balanced < up
    assert (early["test_loss"][:, 0] < early["test_loss"][:, 1:].amin(1)).all()
    assert (late["distance"][:, 0] < late["distance"][:, 1]).all()  # rich with a small move
    assert (early["kernel_distance"][:, 0] > 0.1).all() and (late["kernel_distance"][:, 3] < 0.02).all()
    # Upstream the kernel moves by its patterns; downstream, while it moves at all, by its weights.
    assert (early["kernel_distance_patterns"][:, 0] > 100 * early["kernel_distance_weights"][:, 0]).all()
    assert (early["kernel_distance_weights"][:, 2] > 10 * early["kernel_distance_patterns"][:, 2]).all()
    for metrics in (early, late):
        assert ((metrics["hamming"] >= 0) & (metrics["hamming"] <= 20)).all()
        assert ((metrics["kernel_distance"] >= 0) & (metrics["kernel_distance"] <= 1)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_grid_on_a_gpu_is_the_grid():
    here, there = small(), small(device="cuda")
    a, b = (advance_grid(g, g.start, 0, 100)[0] for g in (here, there))
    torch.testing.assert_close(a.first, b.first.cpu(), rtol=1e-9, atol=1e-11)
    for name, value in grid_metrics(there, b).items():
        torch.testing.assert_close(value, grid_metrics(here, a)[name], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: small(width=5), "width=5 must be positive, and even to be symmetrised"),
        (lambda: small(tau=[1.0]), "are no list of cells"),
        (lambda: small(tau=[0.0] * 4), "Every tau must be a finite number above 0"),
        (lambda: small(delta=[math.nan] * 4), "every delta finite"),
        (lambda: grid([1.0], [0.0], ()), "seeds is empty"),
        (lambda: grid([1.0], [0.0], (0, 1), [relu_teacher()]), "1 tasks do not fit 2 seeds"),
        (lambda: grid([1.0], [0.0], (0,), [teacher()]), "must be one real number an example"),
        (lambda: small(lr=-1.0), "Every learning rate must be a finite number above 0"),
        (lambda: advance_grid(small(), small().start, 3, 2), "step=3 and until=2"),
        (lambda: advance_grid(small(), small(width=8).start, 0, 2), "are not of this grid"),
        (lambda: advance_grid(small(), small().start, 0, 2, 0), "piece=0 cells"),
        (lambda: list(grid_checkpoints(small(), [1, 1])), "must increase"),
        (lambda: normalised_lr(small(), 2.0), "factor=2 must lie between 0 and 2"),
    ],
)
def test_impossible_grids_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_hidden_numbers_are_not_in_the_seed_of_the_data():
    """Another width keeps the data of a seed, another seed changes them."""
    a, b = small(width=4), small(width=8)
    assert torch.equal(a.inputs, b.inputs) and not np.allclose(a.inputs[0], a.inputs[1])


#: The sheet's numbers at t = 100 and 1000 for (tau, delta), one seed of the authors' draws: S, Hamming of 50, parameter
#: distance, test loss.
PAPER = {
    (0.1, 1.0): ((0.185, 19.7, 0.54, 0.00235), (0.146, 20.5, 0.74, 0.00171)),
    (0.1, 0.0): ((0.068, 7.4, 0.66, 0.0164), (0.175, 12.0, 1.90, 0.0022)),
    (0.1, -0.25): ((0.132, 1.0, 0.76, 0.0095), (0.437, 6.1, 1.86, 0.0026)),
    (0.1, -1.0): ((0.003, 0.38, 0.48, 0.0097), (0.073, 2.8, 1.83, 0.0037)),
    (1.0, 0.0): ((0.0002, 0.08, 0.056, 0.0187), (0.0009, 0.41, 0.29, 0.0055)),
}


@pytest.mark.parametrize("step, cells", [(100, list(PAPER)), (1000, [(0.1, 1.0), (0.1, -0.25)])])
def test_the_papers_size_gives_the_papers_numbers(step, cells):
    """Of a teacher with three equal signs, as the sheet's seed must have by its loss; mixed signs differ by factors.

    Measured over the seeds 107, 110, 114: S scatters by 20 % around its mean, Hamming by 10 %, distance by 4 % and the
    loss by 17 %, except for numbers that the sheet gives with one digit.
    """
    g = grid([c[0] for c in cells], [c[1] for c in cells], (107,))
    assert (g.targets >= 0).all() or (g.targets <= 0).all()
    found = grid_metrics(g, advance_grid(g, g.start, 0, step)[0])
    for i, (name, tolerance) in enumerate(
        {"kernel_distance": 0.3, "hamming": 0.2, "distance": 0.1, "test_loss": 0.2}.items()
    ):
        expected = [PAPER[cell][step == 1000][i] for cell in cells]
        assert found[name][0].tolist() == pytest.approx(expected, rel=tolerance), name
