"""What holds for every built-in model, found by its name in `learndyn.models.BUILT_IN`."""

import inspect

import pytest
import torch
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn import functional as F

from learndyn import models
from learndyn.errors import InputError

SMALL = tuple(name for name in models.BUILT_IN if name != "vgg16")  # 34 million weights take seconds each time
TOKENS = ("grokking_transformer",)  # read sentences of tokens
SEQUENCES = ("quadratic_rnn", "tree_net", "two_layer_power")  # read sequences of vectors
SHAPES = {"vgg16": (3, 32, 32), "grokking_transformer": (4,), **dict.fromkeys(SEQUENCES, (4, 6))}
FLAT = ("deep_linear", "mlp", "two_layer", *TOKENS, *SEQUENCES)  # need no images


def build(name, seed=0, shape=None, **options):
    torch.manual_seed(seed)
    return getattr(models, name)(input_shape=shape or SHAPES.get(name, (1, 8, 8)), classes=10, **options)


def sample(name, count, shape=None, dtype=torch.float32):
    """Inputs of a model, for 10 classes."""
    shape = shape or SHAPES.get(name, (1, 8, 8))
    return torch.randint(0, 10, (count, *shape)) if name in TOKENS else torch.randn(count, *shape, dtype=dtype)


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_options_are_documented(name):
    factory = getattr(models, name)
    assert name in models.__all__
    parameters = list(inspect.signature(factory).parameters)
    assert parameters[:2] == ["input_shape", "classes"]
    assert not [p for p in parameters if f"\n        {p}: " not in factory.__doc__]


def test_the_seed_decides_the_weights(name):
    one, same, other = (torch.cat([p.flatten() for p in build(name, seed).parameters()]) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_and_gradients_in_both_precisions(name, dtype):
    model = build(name).to(dtype)
    inputs = sample(name, 5, dtype=dtype)
    outputs = model(inputs)
    assert outputs.shape == (5, 10) and outputs.dtype == dtype
    F.cross_entropy(outputs, torch.arange(5)).backward()
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 8), (2, 13, 11)])
def test_odd_sizes_and_other_channels(name, shape):
    shape = shape[1:2] if name in TOKENS else (4, *shape[1:2]) if name in SEQUENCES else shape
    assert build(name, shape=shape)(sample(name, 2, shape)).shape == (2, 10)


def test_twins_in_one_pass_equal_twins_one_by_one(name):
    """Training mode, one shared batch: gradients and running statistics of stacked replicas."""
    twins = [build(name, seed).double() for seed in (0, 1)]
    inputs, targets = sample(name, 6, dtype=torch.float64), torch.arange(6)
    params, buffers = stack_module_state(twins)

    def loss(p, b):
        return F.cross_entropy(functional_call(twins[0], (p, b), (inputs,)), targets)

    together = vmap(grad(loss))(params, buffers)
    for i, twin in enumerate(twins):
        twin.zero_grad()
        F.cross_entropy(twin(inputs), targets).backward()
        for key, p in twin.named_parameters():
            torch.testing.assert_close(together[key][i], p.grad, rtol=1e-9, atol=1e-11)
        for key, b in twin.named_buffers():
            torch.testing.assert_close(buffers[key][i], b, rtol=1e-9, atol=1e-11)


def test_gradients_of_single_examples_in_evaluation_mode(name):
    model = build(name).double().eval()
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    inputs, targets = sample(name, 3, dtype=torch.float64), torch.arange(3)

    def loss(p, x, y):
        return F.cross_entropy(functional_call(model, (p, buffers), (x[None],)), y[None])

    single = vmap(grad(loss), in_dims=(None, 0, 0))(params, inputs, targets)
    F.cross_entropy(model(inputs), targets).backward()
    for key, p in model.named_parameters():
        torch.testing.assert_close(single[key].mean(0), p.grad, rtol=1e-9, atol=1e-11)


def test_forward_and_double_backward_derivatives_agree(name):
    """Hessian times a vector, once by jvp of grad and once by grad of grad."""
    model = build(name).double().eval()
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    inputs, targets = sample(name, 4, dtype=torch.float64), torch.arange(4)
    direction = {key: torch.randn_like(p) for key, p in params.items()}

    def loss(p):
        return F.cross_entropy(functional_call(model, (p, buffers), (inputs,)), targets)

    def along(p):
        return sum((g * direction[key]).sum() for key, g in grad(loss)(p).items())

    _, forward = jvp(grad(loss), (params,), (direction,))
    backward = grad(along)(params)
    for key in params:
        torch.testing.assert_close(forward[key], backward[key], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", models.BUILT_IN)
def test_no_classes_and_no_images_are_refused(name):
    with pytest.raises(InputError, match="classes=0 is too small for a network; give at least 1"):
        getattr(models, name)(input_shape=(3, 32, 32), classes=0)
    with pytest.raises(InputError, match="input_shape"):
        getattr(models, name)(input_shape=(0,), classes=10)


@pytest.mark.parametrize("name", [name for name in models.BUILT_IN if name not in FLAT])
def test_flat_inputs_are_no_images(name):
    with pytest.raises(InputError, match=r"not input_shape=\(64,\); many tasks give them with image=True"):
        getattr(models, name)(input_shape=(64,), classes=10)
