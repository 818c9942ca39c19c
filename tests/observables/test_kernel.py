"""The structured tangent kernel against explicit Jacobians, and the identities of sheet two-phase, 5.9."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learndyn import models
from learndyn.errors import InputError
from learndyn.observables import kernel
from learndyn.observables.ntk import REDUCTIONS, contract, gram

TIGHT = 1e-10


def explicit(model, inputs, others=None, reduction="full", function=lambda m, x: m(x)):
    """The kernel from the whole Jacobian, one backward pass a row."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def rows(x):
        outputs = function(model, x).flatten(1)
        found = []
        for value in outputs.flatten():
            gradients = torch.autograd.grad(
                value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            found.append(torch.cat([g.flatten() for g in gradients]))
        return torch.stack(found).view(*outputs.shape, -1)

    first = rows(inputs)
    second = first if others is None else rows(others)
    full = torch.einsum("ikp,jlp->ikjl", first, second)
    c = first.shape[1]
    if reduction == "full":
        return full.reshape(len(inputs) * c, -1)
    return torch.einsum("ikjk->ij", full) / c if reduction == "trace" else full.sum((1, 3)) / c


def off(found, truth):
    return float((found - truth).norm() / truth.norm())


class Attention(nn.Module):
    """Tokens, a position embedding used functionally, packed projections, a norm."""

    def __init__(self, batch_first):
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, 8), nn.Parameter(torch.randn(5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.norm, self.out, self.batch_first = nn.LayerNorm(8), nn.Linear(8, 3), batch_first

    def forward(self, x):
        h = self.tokens(x) + self.places
        h = h if self.batch_first else h.transpose(0, 1)
        seen = self.norm(h)
        h = h + self.attention(seen, seen, seen, need_weights=False)[0]
        h = h if self.batch_first else h.transpose(0, 1)
        return self.out(h).mean(1)


class Tied(nn.Module):
    """One matrix embeds and reads out; padding gets no gradient; dropout sleeps."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 8, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.norm = nn.RMSNorm(8)

    def forward(self, x):
        return F.linear(self.norm(self.layer(self.tokens(x))).mean(1), self.tokens.weight)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.recurrent(x)[0][:, -1])


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.out = nn.Parameter(torch.randn(6, 4)), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(torch.einsum("od,nd->no", self.weight, x).tanh())


class Twice(nn.Module):
    """A layer used twice, and one whose weight is used a second time where nobody listens."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.both = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        h = self.again(self.again(self.first(x).tanh()).tanh()).tanh()
        return self.out((self.both(h) + h @ self.both.weight.square()).tanh())


def convolutions():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, stride=2, padding=1, groups=2),
        nn.GroupNorm(2, 6),
        nn.GELU(),
        nn.Conv2d(6, 6, 3, padding="same", groups=6, dilation=2),
        nn.Conv2d(6, 8, 1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with torch.no_grad():
        for tensor in (net[1].running_mean, net[1].weight, net[1].bias):
            tensor.normal_()
        net[1].running_var.uniform_(0.5, 2.0)
    return net


def one_dimensional():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.Conv1d(4, 3, 5, stride=2),
        nn.Flatten(),
        nn.Linear(9, 2),
    )


def three_dimensional():
    return nn.Sequential(
        nn.Conv3d(1, 2, (1, 2, 3), padding=(0, 1, 1)), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 3 * 4 * 3, 2)
    )


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), (7, 4)),
    "convolutions": (convolutions, (5, 3, 8, 8)),
    "1-d": (one_dimensional, (5, 2, 10)),
    "3-d": (three_dimensional, (4, 1, 3, 3, 3)),
    "attention": (lambda: Attention(True), None),
    "attention, positions first": (lambda: Attention(False), None),
    "tied": (Tied, None),
    "recurrent": (Recurrent, (4, 6, 4)),
    "einsum": (Einsum, (5, 4)),
    "twice": (Twice, (5, 4)),
    "one of one": (lambda: nn.Linear(4, 1), (1, 4)),
}


def build(name, dtype=torch.float64):
    torch.manual_seed(0)
    factory, shape = NETWORKS[name]
    inputs = torch.randint(0, 7, (6, 5)) if shape is None else torch.randn(shape, dtype=dtype)
    return factory().to(dtype).eval(), inputs


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_explicit_jacobian(name, reduction):
    model, inputs = build(name)
    for others in (None, inputs.flip(0)[:3].clone()):
        found = kernel(model, inputs, others, reduction=reduction)
        assert off(found.matrix, explicit(model, inputs, others, reduction)) < TIGHT
        assert found.residual < TIGHT


@pytest.mark.parametrize("name", ["mlp", "convolutions", "attention", "tied", "recurrent"])
def test_single_precision(name):
    model, inputs = build(name, torch.float32)
    truth = explicit(copy.deepcopy(model).double(), inputs.double() if inputs.is_floating_point() else inputs)
    found = kernel(model, inputs, reduction="full")
    assert found.matrix.dtype == torch.float32 and off(found.matrix, truth) < 1e-5


GENERAL = {
    "attention": {"places"},
    "tied": {"tokens.weight"},
    "recurrent": {f"recurrent.{n}_l0" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    "einsum": {"weight"},
    "twice": {"both.weight"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_only_what_has_no_structure_goes_the_general_way(name):
    found = kernel(*build(name))
    general = {parameter for parameter, way in found.ways.items() if way == "autograd"}
    assert general == GENERAL.get(name.partition(",")[0], set()) == set(found.why)


@pytest.mark.parametrize("way", contract.WAYS)
@pytest.mark.parametrize("name", ["mlp", "convolutions", "1-d", "attention", "3-d"])
def test_every_way_gives_the_same(name, way, monkeypatch):
    model, inputs = build(name)
    choose = contract.cheapest

    def forced(sites, samples, rows):
        grouped = sites[0].window is not None and sites[0].window.groups > 1
        possible = way != "jacobian" if sites[0].kind == "index" else way == "jacobian" or not grouped
        return way if possible else choose(sites, samples, rows)

    monkeypatch.setattr(contract, "cheapest", forced)
    for reduction, others in (("full", None), ("trace", None), ("full", inputs[:2]), ("sum", inputs[:2])):
        found = kernel(model, inputs, others, reduction=reduction)
        assert off(found.matrix, explicit(model, inputs, others, reduction)) < TIGHT


@pytest.mark.parametrize("name", ["convolutions", "tied", "recurrent"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_blocks_of_samples(name, block, monkeypatch):
    model, inputs = build(name)
    monkeypatch.setattr(gram._Work, "_block", lambda *_: block)
    for others in (None, inputs[:3]):
        found = kernel(model, inputs, others, reduction="full")
        assert off(found.matrix, explicit(model, inputs, others)) < TIGHT


def test_batch_norm_in_train_mode():
    torch.manual_seed(0)
    model = convolutions().double()
    inputs = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    for reduction in REDUCTIONS:
        found = kernel(model.eval(), inputs, reduction=reduction, batch_norm="train")
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert off(found.matrix, explicit(copy.deepcopy(model).train(), inputs, None, reduction)) < TIGHT
        assert found.residual < TIGHT


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_networks(data):
    """Convolutions and linear maps in any geometry that fits, with frozen parameters."""
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 999)))
    channels, side = draw(st.integers(1, 3)), draw(st.integers(4, 7))
    layers, now, shape = [], channels, side
    for _ in range(draw(st.integers(0, 2))):
        groups = draw(st.sampled_from([g for g in (1, 2, 3) if now % g == 0]))
        size, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        padding, dilation = draw(st.integers(0, 2)), draw(st.integers(1, 2))
        after = (shape + 2 * padding - dilation * (size - 1) - 1) // stride + 1
        if after < 1:
            break
        out = groups * draw(st.integers(1, 3))
        bias = draw(st.booleans())
        layers.append(nn.Conv2d(now, out, size, stride, padding, dilation, groups, bias))
        layers.append(draw(st.sampled_from([nn.Tanh(), nn.ReLU(inplace=True), nn.BatchNorm2d(out), nn.Identity()])))
        now, shape = out, after
    layers += [nn.Flatten(), nn.Linear(now * shape**2, draw(st.integers(1, 4)))]
    model = nn.Sequential(*layers).double().eval()
    for index, p in enumerate(model.parameters()):
        p.requires_grad_(index == 0 or draw(st.booleans()))
    inputs = torch.randn(draw(st.integers(1, 5)), channels, side, side, dtype=torch.float64)
    reduction = draw(st.sampled_from(REDUCTIONS))
    found = kernel(model, inputs, reduction=reduction)
    truth = explicit(model, inputs, None, reduction)
    assert (found.matrix - truth).norm() <= TIGHT * truth.norm()


def test_leaves_no_trace():
    model, inputs = build("convolutions")
    model.train()
    model[3].eval()
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    next(model.parameters()).requires_grad_(False)
    kept = copy.deepcopy(model)
    random, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    kernel(model, inputs)
    assert torch.equal(torch.get_rng_state(), random) and torch.backends.mha.get_fastpath_enabled() == fast
    for (name, p), q in zip(model.named_parameters(), kept.parameters()):
        assert torch.equal(p, q) and p.requires_grad == q.requires_grad, name
    assert torch.equal(next(model.parameters()).grad, torch.ones_like(next(model.parameters())))
    assert [m.training for m in model.modules()] == [m.training for m in kept.modules()]
    assert all(not m._forward_hooks and not m._backward_hooks for m in model.modules())


def test_affine_model():
    """f = W x + b: full = (X Xᵀ + 1) ⊗ 1, trace = sum = X Xᵀ + 1."""
    inputs = torch.randn(6, 4, dtype=torch.float64)
    model, expected = nn.Linear(4, 3).double(), inputs @ inputs.T + 1
    assert off(kernel(model, inputs, reduction="full").matrix, torch.kron(expected, torch.eye(3))) < 1e-13
    for reduction in ("trace", "sum"):
        assert off(kernel(model, inputs, reduction=reduction).matrix, expected) < 1e-13


def test_homogeneous_network():
    """Depth L, θ → c θ: H → c^(2(L−1)) H."""
    model, inputs = (
        nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
        ).double(),
        torch.randn(6, 4).double(),
    )
    before = kernel(model, inputs).matrix
    with torch.no_grad():
        for p in model.parameters():
            p *= 1.7
    assert off(kernel(model, inputs).matrix, 1.7**4 * before) < 1e-13


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
def test_layers_of_what_goes_the_general_way(batch_norm):
    model, inputs = build("recurrent")
    found = kernel(model, inputs, layers=True, batch_norm=batch_norm)
    assert set(found.layers) == {"recurrent", "out"}
    assert off(sum(found.layers.values()), found.matrix) < TIGHT
    alone = kernel(model, inputs, parameters=lambda name: name.startswith("recurrent."))
    assert off(found.layers["recurrent"], alone.matrix) < TIGHT


def test_layers_add_up_and_are_those_of_their_parameters():
    model, inputs = build("convolutions")
    found = kernel(model, inputs, layers=True)
    assert off(sum(found.layers.values()), found.matrix) < TIGHT
    alone = kernel(model, inputs, parameters=lambda name: name.startswith("3."))
    assert off(found.layers["3"], alone.matrix) < TIGHT and set(alone.ways) == {"3.weight", "3.bias"}


def test_a_function_of_the_network():
    model, inputs = build("mlp")
    function = lambda m, x: m(x).logsumexp(1, keepdim=True)  # noqa: E731
    found = kernel(model, inputs, function=function, reduction="full")
    assert off(found.matrix, explicit(model, inputs, function=function)) < TIGHT


class Coupled(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(x) - self.out(x).mean(0)


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        return self.out(x * torch.rand_like(x))


@pytest.mark.parametrize("model", [Coupled(), Random()])
def test_the_certificate_catches_what_is_no_kernel(model):
    with pytest.raises(InputError, match="certificate"):
        kernel(model, torch.randn(5, 4))


def nan_weight():
    model = nn.Linear(4, 3)
    model.weight.data[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inputs": torch.randn(0, 4)}, "no inputs"),
        ({"others": torch.randn(0, 4)}, "no inputs"),
        ({"inputs": torch.randn(5, 3)}, "does not take inputs of shape"),
        ({"reduction": "tracee"}, "did you mean 'trace'"),
        ({"batch_norm": "trian"}, "did you mean 'train'"),
        ({"parameters": ["wieght"]}, "did you mean 'weight'"),
        ({"parameters": []}, "No parameter"),
        ({"model": nan_weight()}, "'weight' holds values that are not finite"),
        ({"memory": 1000.0}, "more memory"),
        ({"others": torch.randn(2, 4), "batch_norm": "train"}, "two sets"),
    ],
)
def test_bad_input_gets_one_sentence(change, words):
    arguments = {"model": nn.Linear(4, 3), "inputs": torch.randn(5, 4)} | change
    with pytest.raises(InputError, match=words) as error:
        kernel(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet8", "tiny_vgg"])
def test_built_in_networks(name):
    model = getattr(models, name)(input_shape=(1, 8, 8), classes=10).double().eval()
    inputs = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    found = kernel(model, inputs, reduction="full")
    assert "autograd" not in found.ways.values()
    assert off(found.matrix, explicit(model, inputs)) < TIGHT
