"""Which symmetries are found: counts that are known, gradients that know better, networks that others wrote."""

import copy
import math

import pytest
import strangers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learndyn import models
from learndyn.errors import InputError
from learndyn.symmetries import MatrixLaw, SymmetryLaw, find


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def words(below, *shape):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


def mlp(*activations, sizes=(5, 7, 6, 4)):
    layers = []
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layers += [nn.Linear(a, b), *([activations[i]] if i < len(activations) else [])]
    return nn.Sequential(*layers)


def convolutional(batch_norm=True):
    norm = [nn.BatchNorm2d(4)] if batch_norm else []
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 9), nn.ReLU(), nn.Linear(9, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Stem, two blocks, a linear map; 4 channels."""

    def __init__(self, batch_norm):
        super().__init__()
        norm = nn.BatchNorm2d if batch_norm else (lambda channels: nn.Identity())
        convolution = lambda first=4: nn.Conv2d(first, 4, 3, padding=1, bias=not batch_norm)  # noqa: E731
        self.stem, self.norm = convolution(3), norm(4)
        self.blocks = nn.ModuleList(
            nn.Sequential(convolution(), norm(4), nn.ReLU(), convolution(), norm(4)) for _ in range(2)
        )
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.out(x.mean((2, 3)))


def count(report, *kinds):
    return sum(law.size for law in report.laws if law.kind in kinds)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("model", "scale", "rescale"),
    [
        (mlp(nn.ReLU(), nn.ReLU()), 0, 13),
        (mlp(nn.LeakyReLU(), nn.PReLU(6)), 0, 13),
        (mlp(nn.GELU(), nn.ReLU()), 0, 6),
        (mlp(nn.Tanh(), nn.SiLU()), 0, 0),
        (mlp(nn.ReLU6(), nn.Hardtanh()), 0, 0),
        (mlp(nn.ReLU(), nn.Dropout(0.5)), 0, 13),
        (convolutional(), 4, 19),
        (convolutional(False), 0, 19),
        (Residual(True), 20, 12),
        (Residual(False), 0, 12),
    ],
)
def test_counts_that_are_known(model, scale, rescale):
    """Row 16 of the check table: the residual network with batch norm has 32, without 12."""
    first = next(p for p in model.parameters())
    inputs = draw(8, 5) if first.ndim == 2 else draw(8, first.shape[1], 8, 8)
    found = find(model, inputs, certify=False)
    assert (count(found, "scale"), count(found, "rescale")) == (scale, rescale)
    assert not found.failed


NETWORKS = {
    "Pre": (words(11, 6, 5), -1),
    "Llama": (words(9, 6, 6), -1),
    "GPT": (words(9, 6, 6), -1),
    "Depth": (draw(6, 3, 6, 6), -1),
    "SqReLU": (draw(16, 5), None),
    "TiedTwice": (draw(16, 5), None),
    "DeepLinear": (draw(16, 5), None),
    "WN": (draw(16, 5), None),
    "QKNorm": (draw(4, 5, 8), None),
    "LSTM": (draw(6, 5, 4), None),
    "Einsum": (draw(16, 4), None),
    "ViT": (draw(4, 3, 8, 8), -1),
    "ConvNeXtBlock": (draw(4, 3, 8, 8), -1),
    "UNet": (draw(4, 3, 8, 8), None),
    "SE": (draw(4, 3, 6, 6), -1),
    "Dense": (draw(4, 3, 6, 6), -1),
    "Mixer": (draw(4, 5, 4), -1),
    "Complex": (draw(4, 5, 8), None),
    "InPlace": (draw(8, 5), None),
    "Maxout": (draw(8, 5), None),
    "Functional": (draw(8, 5), None),
    "PostMean": (draw(8, 5), None),
    "GRU": (words(7, 6, 4), -1),
    "RNNReLU": (draw(6, 3, 4), -1),
    "MoE": (draw(8, 5), -1),
}


#: The count takes time with the square of the size.
SMALLER = {"Pre": {"d": 6}, "GPT": {"d": 6}, "ConvNeXtBlock": {"d": 4}}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_list_is_as_long_as_the_null_space_of_the_gradients(name):
    """Packed and grouped projections, rotary positions, gates, norms by hand, tied weights, work in place."""
    inputs, softmax = NETWORKS[name]
    model = getattr(strangers, name)(**SMALLER.get(name, {}))
    before = copy.deepcopy(model.state_dict())
    found = find(model, inputs, softmax=softmax, certify=name != "ViT")
    assert not found.failed
    if found.certificate is not None:
        assert found.certificate.complete, found.counted
        assert found.certificate.smallest > 1e-4 and found.certificate.largest < 1e-12
    assert name == "ViT" or found.certificate is not None
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items()) and model.training


def test_the_laws_of_a_pre_norm_transformer():
    """Row 6: one law for the residual stream, all-ones translations of all that writes into it, norms against readers;
    rows 5 and 17: GL(6) for queries and keys, and for values and outputs, of each of two heads; dead key biases."""
    found = find(strangers.Pre(), words(11, 6, 5))
    laws = {str(law): law for law in found.laws}
    assert laws["scale at p, e.weight, a.out_proj.weight, a.out_proj.bias, f2.weight, f2.bias"].size == 1
    for writer, size in {
        "p": 5,
        "e.weight": 11,
        "a.out_proj.weight": 12,
        "a.out_proj.bias": 1,
        "f2.weight": 24,
    }.items():
        assert laws[f"translation at {writer}"].size == size
    assert laws["translation at o.weight"].size == 12 and laws["dead at a.in_proj_bias"].size == 12
    assert laws["rescale at l1.weight, l1.bias against a.in_proj_weight"].size == 12
    matrices = [law for law in found.laws if isinstance(law, MatrixLaw)]
    assert [law.shape for law in matrices] == [(2, 6), (2, 6)] and [law.size for law in matrices] == [42, 42]
    dead = next(law for law in found.laws if law.kind == "dead")
    assert dead.terms[0].index.tolist() == list(range(12, 24))  # the keys' share of the packed bias


def test_dropout_on_the_stream_breaks_the_translations_and_nothing_else():
    kept, dropped = (find(strangers.GPT(tied=False, dropout=p), words(9, 6, 6), certify=False) for p in (0.0, 0.1))
    assert count(kept, "scale", "rescale", "matrix", "dead") == count(dropped, "scale", "rescale", "matrix", "dead")
    streams = {"e.weight", "p.weight", "o.weight", "o.bias", "f2.weight", "f2.bias"}
    there = {law.place for law in kept.laws if law.kind == "translation"}
    assert streams <= there and not streams & {law.place for law in dropped.laws if law.kind == "translation"}


def test_tied_embeddings_lose_the_translation_of_the_logits():
    tied, untied = (find(strangers.GPT(tied=tied), words(9, 6, 6)) for tied in (True, False))
    assert "translation at out.weight" in map(str, untied.laws)
    assert not any("e.weight" in law.place for law in tied.laws if law.kind == "translation")


def test_what_a_softmax_does_not_see_counts_only_with_a_softmax():
    model = mlp(nn.ReLU(), nn.ReLU())
    assert count(find(model, draw(8, 5)), "translation") == 7
    assert count(find(model, draw(8, 5), softmax=None), "translation") == 0


def test_batch_norm_has_its_symmetry_in_training_only():
    model = convolutional()
    model(draw(8, 1, 8, 8))
    found = find(model, draw(8, 1, 8, 8), training=False)
    assert count(found, "scale", "dead") == 0 and count(found, "rescale") == 19
    assert any("training mode" in line for line in found.suggestions)


def test_what_holds_on_these_data_only_is_no_law():
    """A ReLU6 that never saturates: the gradients show a symmetry that the structure denies."""
    model = mlp(nn.ReLU6(), sizes=(3, 4, 2))
    found = find(model, 0.01 * draw(8, 3))
    assert not [law for law in found.laws if law.kind != "translation"]
    assert [(r.parameter, r.count, r.why) for r in found.rejected] == [("0.weight", 4, "hardtanh in 1")]
    assert "ReLU" in found.suggestions[0]


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["relu", "tanh", "gelu", "none"])), min_size=1, max_size=3)
)
def test_random_networks(layers):
    """Every hidden unit behind a ReLU, or behind nothing, has one law; the others have none."""
    made = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "none": nn.Identity}
    sizes = (3, *(size for size, _ in layers), 2)
    model = mlp(*(made[kind]() for _, kind in layers), sizes=sizes)
    found = find(model, draw(12, 3), softmax=None, certify=False)
    assert count(found, "rescale") == sum(size for size, kind in layers if kind in ("relu", "none"))
    assert count(found, "scale", "translation") == 0 and not found.failed


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_how_much_eps_breaks(eps):
    """Row 2: linear in eps."""
    model = convolutional()
    model[1].eps = eps
    found = find(model, draw(64, 1, 8, 8), certify=False)
    (broken,) = (size for law, size in zip(found.laws, found.broken) if law.kind == "scale")
    assert 0.02 * eps < broken < 20 * eps
    assert all(size < 1e-12 for law, size in zip(found.laws, found.broken) if law.kind == "rescale")


def test_frozen_parameters_do_not_take_part():
    model = mlp(nn.ReLU(), nn.ReLU())
    model[2].weight.requires_grad_(False)  # is read by the first hidden layer and leads into the second
    (law,) = find(model, draw(8, 5), softmax=None).laws  # all units together still can: W₂ α h + α b₂ = α (W₂ h + b₂)
    assert (law.size, law.place) == (1, "0.weight, 0.bias, 2.bias against 4.weight")
    model[2].weight.requires_grad_(True)
    model[0].bias.requires_grad_(False)
    assert count(find(model, draw(8, 5), softmax=None), "rescale") == 6


def test_built_in_networks():
    found = find(models.resnet8((3, 8, 8), 4), draw(6, 3, 8, 8))
    assert not found.failed and not found.uncovered
    assert count(found, "scale") == 120 and count(found, "rescale") == 88


class Gated(nn.Module):
    """Comparisons with 0 keep a symmetry, with 1 they do not."""

    def __init__(self, level):
        super().__init__()
        self.first, self.second, self.level = nn.Linear(4, 5), nn.Linear(5, 3), level

    def forward(self, x):
        h = self.first(x)
        return self.second(torch.where(h > self.level, h, torch.zeros_like(h)))


@pytest.mark.parametrize(("level", "laws"), [(0.0, 5), (1.0, 0), (100.0, 0)])
def test_a_comparison(level, laws):
    """At 100 no unit is ever awake: the gradients do not know, the structure does."""
    found = find(Gated(level), draw(8, 4), softmax=None)
    assert count(found, "rescale") == laws and not found.failed
    assert count(found, "scale", "translation") == 0


class Grabbed(nn.Module):
    """An operation of its own, without a rule anywhere."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.second(torch.special.erfcx(self.first(x)))


def test_an_operation_without_a_rule_is_named():
    found = find(Grabbed(), draw(8, 4), softmax=None)
    assert not found.laws and [(r.count, r.why) for r in found.rejected] == [(5, "special_erfcx")]


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (nn.ReLU(), draw(4, 3), "ReLU has no parameter that is trained"),
        (mlp(nn.ReLU()), draw(4, 3), r"Sequential does not take inputs of shape \(4, 3\)"),
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), draw(1, 3), "more than 1 value"),
    ],
)
def test_bad_input(model, inputs, expected):
    with pytest.raises(InputError, match=expected):
        find(model, inputs)


def test_nothing_of_the_machine_changes():
    model = strangers.GPT(dropout=0.1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    find(model, words(9, 6, 6))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


def gradient(model, inputs, weights):
    """Of a random function of the outputs, as a graph that can be differentiated again."""
    leaves = dict(model.named_parameters())
    value = (weights * model(inputs)).mean() + model(inputs).square().mean()
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), create_graph=True)))


@pytest.mark.parametrize("kind", ["scale", "rescale", "translation"])
def test_the_identity_of_the_hessian(kind):
    """Mᵀ g + H X = 0, hence Xᵀ H X = −⟨g, M X⟩ (arXiv:2012.04728, section 3; rows 1 and 3)."""
    model = convolutional().double()
    model[1].eps = 1e-30
    model = model if kind != "translation" else nn.Sequential(model, nn.LogSoftmax(-1))
    inputs, weights = draw(12, 1, 8, 8).double(), draw(12, 10).double()
    for law in find(model, inputs, softmax=None, certify=False).laws:
        if law.kind != kind or not isinstance(law, SymmetryLaw):
            continue
        values = torch.randn(law.size, dtype=torch.float64)
        parameters = dict(model.named_parameters())
        x = law.generator(parameters, values)
        g = gradient(model, inputs, weights)
        along = sum((g[name] * part.detach()).sum() for name, part in x.items())
        assert abs(float(along)) < 1e-14 * sum(float((g[n] * p).abs().sum()) for n, p in x.items()) + 1e-18
        product = torch.autograd.grad(along, list(parameters.values()), allow_unused=True)
        for (name, p), h in zip(parameters.items(), product):
            expected = torch.zeros_like(p)
            if name in x and not law.linear:  # M g, and M is symmetric
                expected = -law.generator({n: g[n].detach() for n in law.parameters}, values)[name]
            size = max(float(t.detach().abs().max()) for t in g.values()) * float(values.abs().max())
            assert (
                (0 if h is None else h - expected).abs().max() < 1e-12 * size if h is not None else not expected.any()
            )


def test_attention_by_hand():
    """Row 5: W_Q G_Qᵀ = G_K W_Kᵀ with the bias as a column, head by head, all entries."""
    model = strangers.Pre().double()
    g = gradient(model, words(11, 6, 5), draw(6, 5, 11).double())
    w = torch.cat([model.a.in_proj_weight, model.a.in_proj_bias[:, None]], 1).detach()
    dw = torch.cat([g["a.in_proj_weight"], g["a.in_proj_bias"][:, None]], 1).detach()
    for head in range(2):
        q, k = (slice(start + 6 * head, start + 6 * head + 6) for start in (0, 12))
        left, right = w[q] @ dw[q].T, dw[k] @ w[k].T
        assert (left - right).norm() < 1e-12 * left.norm() and left.norm() > 1e-6
    law = next(law for law in find(model, words(11, 6, 5)).laws if isinstance(law, MatrixLaw))
    plain = {name: p.detach() for name, p in model.named_parameters()}
    assert float(law.violation(plain, {n: t.detach() for n, t in g.items()}).max()) < 1e-10
    assert float(law.rotation(plain, {n: t.detach() for n, t in g.items()}).abs().max()) < 1e-12


def test_charges_against_sums_by_hand():
    model = mlp(nn.ReLU(), nn.ReLU()).double()
    first = find(model, draw(8, 5)).laws[0]
    p = {name: t.detach() for name, t in model.named_parameters()}
    expected = p["0.weight"].square().sum(1) + p["0.bias"].square() - p["2.weight"].square().sum(0)
    torch.testing.assert_close(first.charge(p), expected, rtol=0, atol=1e-14)
    x = first.generator(p, torch.ones(7).double())
    moved = first.apply(p, torch.full((7,), math.log(2.0), dtype=torch.float64))
    torch.testing.assert_close(moved["0.weight"], 2 * p["0.weight"])
    torch.testing.assert_close(moved["2.weight"], p["2.weight"] / 2)
    torch.testing.assert_close(x["2.weight"], -p["2.weight"])
