"""Series of kernels on disk: inner products against whole matrices, what a killed series leaves, what is refused."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learndyn.errors import InputError
from learndyn.observables import KernelSeries, alignment, kernel, kernel_distance, kernel_series
from learndyn.observables.ntk import Kernel
from learndyn.storage import load_tree, save_tree

N, C, STEPS = 5, 3, (0, 10, 20, 30)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(step=0, outputs=C, width=4):
    """A small tanh network whose weights are a function of the step."""
    model = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, outputs)).double()
    for i, p in enumerate(model.parameters()):
        p.data = draw(*p.shape, seed=i) + 0.05 * draw(*p.shape, seed=1000 + 10 * step + i)
    return model


def psd(count, size, seed=0):
    roots = draw(count, size, size + 1, seed=seed)
    return roots @ roots.mT


def stored(folder, matrices, reduction="trace", outputs=1, layers=()):
    series = KernelSeries(folder)
    for step, matrix in enumerate(matrices):
        shares = {name: matrix * (k + 1) + torch.eye(len(matrix)) for k, name in enumerate(layers)}
        series.add(10 * step, Kernel(matrix, reduction, layers=shares, outputs=outputs))
    return series


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def same(first, second):
    """Bit for bit; the bytes of a file also depend on the order of its headers, which is free."""
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def brute(matrices):
    flat = torch.stack([m.double().flatten() for m in matrices])
    return flat @ flat.T


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 7), st.integers(1, 6), st.sampled_from([1.0, 300.0, 1e3, 1e9]), st.integers(0, 9))
def test_gram_is_that_of_the_whole_matrices(tmp_path_factory, count, size, memory, seed):
    """However few kernels are held at a time."""
    matrices = psd(count, size, seed)
    series = stored(tmp_path_factory.mktemp("series"), matrices)
    gram = series.gram(memory=memory)
    assert gram.dtype == torch.float64 and torch.equal(gram, gram.T)
    assert torch.allclose(gram, brute(matrices), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_stored_kernel_comes_back_with_the_same_bits(tmp_path, dtype):
    matrices = psd(3, 6).to(dtype)
    series = stored(tmp_path, matrices, layers=("a", "b.c"))
    for step, matrix in zip(series.steps, matrices):
        assert torch.equal(series.get(step), matrix.double())
        assert torch.equal(series.get(step, "b.c"), (matrix * 2 + torch.eye(6)).double())
    assert series.layers == ["a", "b.c"] and series.inputs == 6 and len(series) == 3
    shares = [series.get(step, "a") for step in series.steps]
    assert torch.allclose(series.gram("a", memory=1), brute(shares), rtol=1e-12, atol=0)
    assert torch.equal(series.numbers("norm"), torch.stack([m.double().norm() for m in matrices]))
    assert torch.equal(series.numbers("trace"), torch.stack([m.diagonal().double().mean() for m in matrices]))


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, N - 1), max_size=N - 1), st.sampled_from(["full", "trace"]), st.booleans())
def test_gram_without_some_inputs_is_that_of_submatrices(tmp_path_factory, dropped, reduction, mask):
    """All c rows and columns of an input go."""
    c = C if reduction == "full" else 1
    matrices = psd(4, N * c)
    series = stored(tmp_path_factory.mktemp("series"), matrices, reduction, C)
    assert series.inputs == N
    without = (
        torch.tensor([i in dropped for i in range(N)]) if mask else torch.tensor(sorted(dropped), dtype=torch.long)
    )
    rows = torch.tensor([i * c + k for i in range(N) if i not in dropped for k in range(c)])
    truth = brute(matrices[:, rows][:, :, rows])
    for memory in (1, 1e9):
        assert torch.allclose(series.gram(without=without, memory=memory), truth, rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [1, C])
@pytest.mark.parametrize("reduction", ["trace", "sum"])
def test_other_reductions_follow_from_full(reduction, c):
    model, inputs = network(outputs=c), draw(N, 2)
    full = kernel(model, inputs, reduction="full", layers=True)
    true, found = kernel(model, inputs, reduction=reduction, layers=True), full.reduced(reduction)
    assert found.reduction == reduction and found.matrix.shape == (N, N) and found.ways == full.ways
    assert torch.allclose(found.matrix, true.matrix, rtol=1e-12, atol=1e-12)
    assert found.layers.keys() == true.layers.keys() == {"0", "2"}
    for name, share in true.layers.items():
        assert torch.allclose(found.layers[name], share, rtol=1e-12, atol=1e-12)
    assert full.reduced("full") is full and found.reduced(reduction) is found


def test_reductions_between_two_sets_follow_from_full():
    model, inputs, others = network(), draw(N, 2), draw(2, 2, seed=1)
    full = kernel(model, inputs, others, reduction="full")
    for reduction in ("trace", "sum"):
        true = kernel(model, inputs, others, reduction=reduction).matrix
        assert torch.allclose(full.reduced(reduction).matrix, true, rtol=1e-12, atol=1e-12)


def test_what_a_reduction_has_lost_is_refused():
    trace = kernel(network(), draw(N, 2), reduction="trace")
    with pytest.raises(InputError, match="'full' does not follow from 'trace'; compute the full kernel"):
        trace.reduced("full")
    with pytest.raises(InputError, match="'sum' does not follow from 'trace'"):
        trace.reduced("sum")
    with pytest.raises(InputError, match="no reduction 'trase'; did you mean 'trace'"):
        kernel(network(), draw(N, 2), reduction="full").reduced("trase")


@pytest.mark.parametrize("reductions", [("trace",), ("full", "trace", "sum"), ("sum", "trace")])
def test_a_killed_series_goes_on(tmp_path, reductions):
    """Only the file that is missing is made again, with the same bits; its neighbours are not touched."""
    built = []

    def models(step):
        built.append(step)
        return network(step)

    inputs, targets, done = draw(N, 2), torch.arange(N) % C, []
    arguments = (models, STEPS, inputs, tmp_path, targets, reductions, done.append)
    series = kernel_series(*arguments, layers=True)
    assert list(series) == list(reductions) and all(one.steps == list(STEPS) for one in series.values())
    assert built == done == list(STEPS)
    before = contents(tmp_path)
    kernel_series(*arguments, layers=True)
    assert contents(tmp_path) == before and built == list(STEPS)
    for name in reductions:
        lost = series[name].path(20)
        kept = load_tree(lost)
        lost.unlink()
        built.clear()
        kernel_series(*arguments, layers=True)
        after, key = contents(tmp_path), str(lost.relative_to(tmp_path))
        assert built == [20]
        assert same(load_tree(lost), kept)
        after.pop(key)
        assert after == {other: content for other, content in before.items() if other != key}
        before = contents(tmp_path)
    assert all(math.isfinite(x) for name in reductions for x in series[name].numbers("alignment"))


def test_shares_of_layers_are_kept_where_they_fit(tmp_path):
    """Not those of a full kernel among others; their sum is the kernel."""
    series = kernel_series(network, STEPS, draw(N, 2), tmp_path / "a", reductions=("full", "trace"), layers=True)
    assert series["full"].layers == [] and series["trace"].layers == ["0", "2"]
    shares = sum(series["trace"].get(0, name) for name in ("0", "2"))
    assert torch.allclose(shares, series["trace"].get(0), rtol=1e-12)
    assert torch.allclose(series["trace"].get(10), kernel(network(10), draw(N, 2)).matrix, rtol=1e-12)
    alone = kernel_series(network, STEPS, draw(N, 2), tmp_path / "b", reductions=("full",), layers=True)
    assert alone["full"].layers == ["0", "2"] and alone["full"].inputs == N


@pytest.mark.parametrize(
    ("odd", "inputs", "options"),
    [
        ("inputs", draw(N, 2, seed=1), {}),
        ("inputs", draw(N, 2).float(), {}),
        ("inputs", draw(N + 1, 2), {}),
        ("reductions", draw(N, 2), {"reductions": ("sum",)}),
        ("parameters", draw(N, 2), {"parameters": ["0.weight"]}),
        ("layers", draw(N, 2), {"layers": True}),
    ],
)
def test_another_series_in_the_same_folder_is_refused(tmp_path, odd, inputs, options):
    kernel_series(network, STEPS, draw(N, 2), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"holds kernels with other {odd}; choose another folder, or delete it"):
        kernel_series(network, STEPS, inputs, tmp_path, **options)
    assert contents(tmp_path) == before


def test_memory_is_no_property_of_a_kernel(tmp_path):
    kernel_series(network, STEPS[:2], draw(N, 2), tmp_path)
    assert len(kernel_series(network, STEPS, draw(N, 2), tmp_path, memory=2**31)["trace"]) == 4


def test_a_series_with_a_test_of_names_goes_on(tmp_path):
    """A function has another address in another process."""

    def chosen(address):
        def weights(name):
            return name.endswith("weight")

        return weights

    kernel_series(network, STEPS[:2], draw(N, 2), tmp_path, parameters=chosen(1))
    assert len(kernel_series(network, STEPS, draw(N, 2), tmp_path, parameters=chosen(2))["trace"]) == 4


def test_a_first_attempt_that_failed_leaves_no_claim_on_the_folder(tmp_path):
    with pytest.raises(InputError, match="^Step 0: A kernel of no inputs is empty; give at least one.$"):
        kernel_series(network, STEPS, draw(0, 2), tmp_path)
    with pytest.raises(InputError, match="^Step 0: There is no reduction 'trac'; did you mean 'trace'"):
        kernel_series(network, STEPS, draw(N, 2), tmp_path, reductions=("trac",))
    assert len(kernel_series(network, STEPS, draw(N, 2), tmp_path)["trace"]) == 4


class Deaf(nn.Module):
    """Its outputs do not depend on its parameters."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def forward(self, x):
        return x + 0 * self.w


def test_a_kernel_without_direction_is_refused(tmp_path):
    with pytest.raises(InputError, match="^The kernel of step 0 has the norm 0, hence no direction.$"):
        kernel_series(lambda step: Deaf(), STEPS, draw(N, 2), tmp_path)
    assert KernelSeries(tmp_path / "trace").steps == []
    with pytest.raises(InputError, match="The kernel of step 3 has the norm nan"):
        KernelSeries(tmp_path).add(3, Kernel(torch.full((2, 2), math.nan), "trace"))
    with pytest.raises(InputError, match=r"one set of inputs with itself, not \(2, 3\)"):
        KernelSeries(tmp_path).add(3, Kernel(torch.ones(2, 3), "trace"))


def test_weights_that_are_not_finite_are_named(tmp_path):
    def models(step):
        model = network(step)
        if step == 20:
            model[2].bias.data[0] = math.nan
        return model

    with pytest.raises(InputError, match="^Step 20: The parameter '2.bias' holds values that are not finite"):
        kernel_series(models, STEPS, draw(N, 2), tmp_path)
    assert KernelSeries(tmp_path / "trace").steps == [0, 10]


def test_fewer_than_three_kernels_are_no_series(tmp_path):
    series = stored(tmp_path / "two", psd(2, 3))
    with pytest.raises(InputError, match="two holds 2 kernels; a series takes at least three"):
        series.gram()
    for ask in (lambda s: s.inputs, lambda s: s.layers):
        with pytest.raises(InputError, match="none holds no kernels"):
            ask(KernelSeries(tmp_path / "none"))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_a_damaged_kernel_is_named(tmp_path, damage):
    series = stored(tmp_path, psd(3, 4))
    path = series.path(10)
    path.write_bytes(damage(path.read_bytes()))
    for ask in (series.gram, lambda: series.get(10), lambda: series.numbers("norm")):
        with pytest.raises(InputError, match=r"State file .*000010.safetensors .*; delete it to compute it again"):
            ask()


def test_strange_files_are_refused_or_passed_over(tmp_path):
    series = stored(tmp_path, psd(3, 4), layers=("a",))
    (tmp_path / ".000040.safetensors.7.tmp").write_bytes(b"half")
    (tmp_path / "best.safetensors").write_bytes(b"no step")
    assert series.steps == [0, 10, 20]
    with pytest.raises(InputError, match="no layer in .* 'b'"):
        series.gram("b")
    with pytest.raises(InputError, match="000099.safetensors is missing"):
        series.get(99)
    series.add(30, Kernel(psd(1, 5)[0], "trace"))
    with pytest.raises(InputError, match="000030.safetensors does not belong to the other kernels"):
        series.gram()
    save_tree(series.path(30), {"step": 30})
    with pytest.raises(InputError, match="of another kind, without 'kernels'"):
        series.gram()


@pytest.mark.parametrize("reduction", ["full", "trace", "sum"])
def test_a_rescaled_network_keeps_its_kernel_s_direction(reduction):
    """A positively homogeneous network of three layers: θ → cθ gives H → c⁴H."""
    model = nn.Sequential(
        nn.Linear(4, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 3, bias=False)
    ).double()
    for i, p in enumerate(model.parameters()):
        p.data = draw(*p.shape, seed=i) / p.shape[1] ** 0.5
    inputs = draw(12, 4, seed=9)
    before = kernel(model, inputs, reduction=reduction).matrix
    for p in model.parameters():
        p.data *= 1.7
    after = kernel(model, inputs, reduction=reduction).matrix
    assert float(after.norm() / before.norm()) == pytest.approx(8.3521, rel=1e-12)
    assert float(kernel_distance(before, after)) < 1e-30


def test_an_affine_model_has_one_kernel_for_ever(tmp_path):
    """f = Wx + b: trace kernel X Xᵀ + 1, whatever the weights."""
    model, inputs = nn.Linear(3, 2).double(), draw(8, 3)
    targets, states = draw(8, 2, seed=1), {}
    for step in range(20):
        states[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
        model.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad

    def models(step):
        model.load_state_dict(states[step])
        return model

    series = kernel_series(models, range(0, 20, 5), inputs, tmp_path)["trace"]
    assert torch.allclose(series.get(0), inputs @ inputs.T + 1, rtol=1e-14, atol=1e-14)
    assert max(float(kernel_distance(series.get(0), series.get(step))) for step in series.steps) < 1e-30


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.floats(1e-6, 1e6), st.floats(1e-9, 1e-3))
def test_distance_is_one_minus_the_cosine_of_directions(seed, scale, small):
    first, second = psd(2, 4, seed)
    cosine = float((first * second).sum() / (first.norm() * second.norm()))
    assert float(kernel_distance(first, scale * second)) == pytest.approx(1 - cosine, abs=1e-14)
    assert float(kernel_distance(first, -first)) == pytest.approx(2)
    aside = second - (second * first).sum() / first.square().sum() * first  # a small turn by a known angle
    turned = first + small * first.norm() / aside.norm() * aside
    truth = 2 * math.sin(math.atan(small) / 2) ** 2
    assert float(kernel_distance(first, turned)) == pytest.approx(truth, rel=1e-6)


def test_what_has_no_distance_is_refused():
    one = torch.eye(3)
    for other, told in (
        (0 * one, "norm 0, hence"),
        (math.nan * one, "norm nan"),
        (math.inf * one, "norm inf|norm nan"),
    ):
        with pytest.raises(InputError, match=f"A kernel has the {told}"):
            kernel_distance(one, other)
    with pytest.raises(InputError, match=r"shapes \(3, 3\) and \(2, 2\) have no distance"):
        kernel_distance(one, torch.eye(2))


@pytest.mark.parametrize("centred", [False, True])
def test_a_kernel_of_its_targets_is_aligned(centred):
    numbers, classes = draw(7, 3), torch.tensor([0, 1, 2, 2, 1, 0, 2])
    hot = nn.functional.one_hot(classes).double()
    for scale in (1.0, 1e-9, 1e9):
        assert float(alignment(scale * numbers @ numbers.T, numbers, centred)) == pytest.approx(1, abs=1e-12)
        assert float(alignment(scale * hot @ hot.T, classes, centred)) == pytest.approx(1, abs=1e-12)
        assert float(alignment(-scale * hot @ hot.T, classes, centred)) == pytest.approx(-1, abs=1e-12)
    for targets, y in ((numbers, numbers.flatten()), (classes, hot.flatten()), (classes.int(), hot.flatten())):
        assert float(alignment(torch.outer(y, y), targets, centred)) == pytest.approx(1, abs=1e-12)
    line = numbers[:, 0]
    assert float(alignment(torch.outer(line, line), line, centred)) == pytest.approx(1, abs=1e-12)


def test_centring_takes_means_over_samples_only():
    numbers, h = draw(6, 2), psd(1, 12)[0]
    middle = torch.kron(torch.eye(6).double() - 1 / 6, torch.eye(2).double())
    y = middle @ numbers.flatten()
    truth = y @ h @ y / ((middle @ h @ middle).norm() * y.square().sum())
    assert float(alignment(h, numbers)) == pytest.approx(float(truth), rel=1e-12)
    assert abs(float(alignment(torch.ones(6, 6) + 1e-9 * psd(1, 6)[0], numbers))) <= 1
    shifted = alignment(numbers @ numbers.T, numbers + 5)
    assert float(shifted) == pytest.approx(float(alignment(numbers @ numbers.T, numbers)), rel=1e-9)


def test_targets_of_another_network_are_refused():
    with pytest.raises(InputError, match="7 rows of a kernel do not fit 6 targets of 2 numbers each"):
        alignment(torch.eye(7), draw(6, 2))
    with pytest.raises(InputError, match="Classes 0 to 5 do not fit a kernel of 3 outputs"):
        alignment(torch.eye(18), torch.arange(6))
    with pytest.raises(InputError, match="Classes -100 to 1 do not fit"):
        alignment(torch.eye(3), torch.tensor([0, 1, -100]))
