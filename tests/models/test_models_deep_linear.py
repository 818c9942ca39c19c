"""Deep linear networks start as asked: balanced at every hidden layer, or Gaussian."""

import pytest
import torch

from learndyn.errors import InputError
from learndyn.models import deep_linear
from learndyn.models.balanced import balance_defects
from learndyn.names import build_model
from learndyn.tasks import linear_teacher


def of(model):
    return [layer.weight.detach() for layer in list(model)[1:]]


@pytest.mark.parametrize(
    ("inputs", "outputs", "options", "lams"),
    [
        (4, 3, {}, (0.0,)),
        (4, 6, {"width": 4, "lam": 2.0}, (2.0,)),
        (6, 4, {"width": (4, 4), "lam": (-0.2, -1.0)}, (-0.2, -1.0)),
        (5, 5, {"width": 5, "depth": 3, "lam": 0.0}, (0.0, 0.0, 0.0)),
    ],
)
def test_it_starts_balanced_and_is_linear(inputs, outputs, options, lams):
    torch.manual_seed(3)
    model = deep_linear((inputs,), outputs, dtype="float64", **options)
    weights = of(model)
    assert max(balance_defects(weights, lams)) < 1e-14
    x = torch.randn(7, inputs, dtype=torch.float64)
    product = torch.linalg.multi_dot(weights[::-1]) if len(weights) > 1 else weights[0]
    assert torch.allclose(model(x), x @ product.T, atol=1e-13)
    assert all(p.ndim == 2 for p in model.parameters())


def test_float32_is_balanced_to_its_rounding_only():
    torch.manual_seed(0)
    weights = of(deep_linear((8,), 8, lam=0.5))
    assert weights[0].dtype == torch.float32 and 1e-10 < balance_defects(weights, (0.5,))[0] < 1e-6


def test_gaussian_layers_have_the_asked_deviation():
    torch.manual_seed(0)
    first, second = of(deep_linear((100,), 400, width=200, lam=None, scale=0.5))
    assert float(first.std()) == pytest.approx(0.05, rel=0.03)
    assert float(second.std()) == pytest.approx(0.5 / 200**0.5, rel=0.03)


def test_by_name_and_for_images():
    model = build_model("deep_linear(width=3, lam=-0.5, dtype='float64')", linear_teacher(inputs=5, outputs=4), 0)
    assert [tuple(w.shape) for w in of(model)] == [(3, 5), (4, 3)]
    assert deep_linear((2, 3, 4), 10, width=7)(torch.zeros(5, 2, 3, 4)).shape == (5, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 6, "lam": 1.0}, "lambda > 0 needs h <= c"),
        ({"width": (2, 2), "lam": (0.0,)}, "a finite number for each hidden layer"),
        ({"depth": 0}, "depth=0 is too small"),
        ({"width": 0}, "width=0 is too small"),
        ({"scale": -1.0}, "scale=-1 must be at least 0"),
        ({"dtype": "float16"}, "must be 'float32' or 'float64'"),
    ],
)
def test_impossible_deep_linear_networks_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        deep_linear((5,), 4, **options)
