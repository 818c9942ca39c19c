"""The two networks of arXiv:2406.06158 that are built out of balance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.models import alpha_from_delta, delta_from_alpha, grokking_transformer, two_layer
from learndyn.names import build_model, build_task
from learndyn.symmetries import units


def drawn(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return two_layer((12,), options.pop("classes", 1), **options)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
def test_alpha_and_delta_are_each_others_inverse(delta, tau):
    alpha = alpha_from_delta(delta, tau)
    x = delta / tau**2
    if abs(x) < 1e4:  # the sheet's form for the released code's symbol, 1/alpha, which cancels for large x
        other = (math.sqrt(4 + x * x) - x) / 2
        assert 1 / alpha**2 == pytest.approx(other, rel=1e-7)
    assert delta_from_alpha(alpha, tau) == pytest.approx(delta, rel=1e-12, abs=1e-13 * tau**2)


@pytest.mark.parametrize(
    "options", [{"alpha": 3.0}, {"delta": 1.0}, {"delta": -1.0}, {}, {"delta": -7.0, "classes": 5}]
)
@pytest.mark.parametrize("symmetrise", [True, False])
def test_every_unit_starts_where_it_should(options, symmetrise):
    tau = 0.3
    model = drawn(width=10, tau=tau, symmetrise=symmetrise, **options).double()
    w2, a2 = model.first.weight.square().sum(1), model.last.weight.square().sum(0)
    alpha = options.get("alpha", alpha_from_delta(options.get("delta", 0.0), tau))
    torch.testing.assert_close(w2, torch.full_like(w2, (tau / alpha) ** 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(a2, torch.full_like(a2, (tau * alpha) ** 2), rtol=1e-6, atol=0)
    delta = options.get("delta", delta_from_alpha(alpha, tau))
    torch.testing.assert_close(a2 - w2, torch.full_like(a2, delta), rtol=1e-5, atol=1e-6)
    assert len(model.last.weight.abs().unique()) == 1 and len((model.last.weight[0] > 0).unique()) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [2, 6, 46, 50])
def test_a_symmetrised_network_is_zero_exactly(width, dtype):
    """Not to rounding: twins are computed alike and summed apart, for any number of inputs."""
    model = drawn(width=width, tau=0.7, delta=0.3, classes=3).to(dtype)
    x = torch.randn(1000, 12, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for n in (1, 2, 3, 7, 100, 1000):
        assert (model(x[:n]) == 0).all()
    assert drawn(width=width, symmetrise=False)(x.float()[:5]).abs().max() > 0


def test_a_symmetrised_network_is_the_plain_formula_after_a_step():
    model = drawn(width=8, delta=0.5).double()
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, generator=torch.Generator().manual_seed(2)).double()
    x = torch.randn(9, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain = (x.flatten(1) @ model.first.weight.T).clamp(min=0) @ model.last.weight.T
    torch.testing.assert_close(model(x), plain, rtol=1e-13, atol=1e-13)


def test_odd_networks_without_symmetry_and_directions_on_the_sphere():
    model = drawn(width=2001, symmetrise=False).double()
    w = model.first.weight / model.first.weight.norm(dim=1, keepdim=True)
    assert (w.T @ w / 2001 - torch.eye(12) / 12).abs().max() < 5 * (3 / (12 * 14) / 2001) ** 0.5


def test_units_of_both_are_found():
    found = units(drawn(width=10), torch.randn(3, 12))
    assert sum(family.size for family in found) == 10
    assert all(t.parameter == "first.weight" for f in found for t in f.incoming)
    assert all(t.parameter == "last.weight" for f in found for t in f.outgoing)
    with torch.random.fork_rng(devices=[]):
        families = {str(f): f.size for f in units(grokking_transformer((4,), 9, width=16), torch.zeros(2, 4).long())}
    assert families["up.weight -> (none) -> down.weight"] == 64
    assert families["attention.value.weight -> (none) -> attention.out.weight"] == 16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 7}, "width=7 cannot be split into two halves; give an even width or symmetrise=False"),
        ({"alpha": 2.0, "delta": 1.0}, "alpha=2 and delta=1 say the same twice"),
        ({"alpha": 0.0}, "alpha=0 is no ratio of scales"),
        ({"tau": 0.0}, "tau=0 is no scale"),
        ({"delta": math.nan}, "delta=nan must be finite"),
    ],
)
def test_impossible_two_layer_networks_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        two_layer((12,), 1, **options)


# The transformer ------------------------------------------------------------------------------------------------------


def by_torch(model, x):
    """The same decoder by torch's own attention and functions."""
    h = F.embedding(x, model.tokens.weight) + model.positions.weight
    width = h.shape[-1]
    attention = nn.MultiheadAttention(width, model.attention.heads, bias=False, batch_first=True, dtype=h.dtype)
    with torch.no_grad():
        attention.in_proj_weight.copy_(
            torch.cat([getattr(model.attention, name).weight for name in ("query", "key", "value")])
        )
        attention.out_proj.weight.copy_(model.attention.out.weight)
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=h.dtype)
    h = F.layer_norm(h + attention(h, h, h, attn_mask=mask)[0], (width,), model.norm1.weight, model.norm1.bias)
    inner = F.relu(h @ model.up.weight.T) @ model.down.weight.T
    h = F.layer_norm(h + inner, (width,), model.norm2.weight, model.norm2.bias)
    return (h @ model.head.weight.T)[:, -1]


def test_the_decoder_is_the_documented_one():
    task = build_task('modular(operation="x+y", modulus=11)', 0)
    model = build_model("grokking_transformer(width=16, tau=0.5)", task, 0).double()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).double()
    outputs = model(task.train.inputs)
    torch.testing.assert_close(outputs, 0.5 * by_torch(model, task.train.inputs), rtol=1e-11, atol=1e-12)
    assert outputs.shape == (len(task.train.inputs), 13)


def test_no_token_sees_a_later_one():
    """The first norm's output at position t depends on the tokens up to t alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = grokking_transformer((4,), 9, width=16).double()
    seen = []
    model.norm2.register_forward_hook(lambda module, inputs, output: seen.append(output))
    x = torch.tensor([[1, 2, 3, 4]])
    for changed in (x, torch.tensor([[1, 2, 3, 5]])):
        model(changed)
    torch.testing.assert_close(seen[0][:, :3], seen[1][:, :3], rtol=0, atol=0)
    assert (seen[0][:, 3] - seen[1][:, 3]).abs().max() > 1e-3


def test_alpha_scales_the_embeddings_alone():
    models = []
    for alpha in (1.0, 10.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            models.append(grokking_transformer((4,), 99, alpha=alpha))
    one, ten = (dict(model.named_parameters()) for model in models)
    scaled = {name for name in one if not torch.equal(one[name], ten[name])}
    assert scaled == {"tokens.weight", "positions.weight"}
    torch.testing.assert_close(one["tokens.weight"], 10 * ten["tokens.weight"], rtol=1e-6, atol=0)
    assert one["tokens.weight"].std().item() == pytest.approx(1, abs=0.03)
    share = sum(one[name].numel() for name in scaled) / sum(p.numel() for p in one.values())
    assert 0.055 < share < 0.06  # the paper: less than 6 %
    assert not [name for name in one if "bias" in name and "norm" not in name]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (4, 3)}, r"inputs of shape \(length,\), not input_shape=\(4, 3\)"),
        ({"width": 30}, "width=30 cannot be shared by heads=4"),
        ({"alpha": 0.0}, "alpha=0 is no scale"),
        ({"tau": math.inf}, "tau=inf is no scale"),
    ],
)
def test_impossible_decoders_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        grokking_transformer(**{"input_shape": (4,), "classes": 9, **arguments})
