"""What holds for every built-in task, found by its name in `learndyn.tasks.BUILT_IN`."""

import inspect

import numpy as np
import pytest
import torch

from learndyn import tasks
from learndyn.errors import InputError

# Options that bring every kind of randomness into play, where a task has them.
RICH = {"batch_size": 16, "pixel_noise": 0.3, "label_noise": 0.2, "augment": True, "shift": 1}


def build(name, required, **options):
    factory = getattr(tasks, name)
    parameters = inspect.signature(factory).parameters
    needed = {p: required[p] for p, parameter in parameters.items() if parameter.default is parameter.empty}
    options = {p: value for p, value in options.items() if p in parameters}
    if options.get("augment") and options.get("shift"):
        del options["shift"]
    if name == "semantic" and options.get("batch_size", 0) > 8:
        options["depth"] = 5  # the eight items of the default are fewer
    return factory(**needed, **options)


@pytest.fixture(params=tasks.BUILT_IN)
def name(request):
    return request.param


def same(one, other):
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


def test_every_factory_is_exported_with_documented_options(name):
    factory = getattr(tasks, name)
    assert name in tasks.__all__
    parameters = inspect.signature(factory).parameters
    assert parameters["seed"].default == 0
    undocumented = [p for p in parameters if f"\n        {p}: " not in factory.__doc__]
    assert not undocumented


def test_inputs_and_targets_have_the_promised_types(name, required):
    task = build(name, required, **RICH)
    assert isinstance(task, tasks.Task)
    for batch in (task.batch(0), task.evaluation("train"), task.evaluation("test")):
        assert batch.inputs.shape[1:] == task.input_shape
        if batch.inputs.dtype == torch.int64:  # tokens, of the same vocabulary as the classes
            assert batch.inputs.min() >= 0 and batch.inputs.max() < task.classes
        else:
            assert torch.isfinite(batch.inputs).all()
        if batch.targets.is_floating_point():  # a regression, in the precision that its exact laws need
            assert batch.inputs.dtype == batch.targets.dtype and torch.isfinite(batch.targets).all()
            assert (
                batch.targets.shape == (len(batch.inputs), task.classes) and task.criterion is not tasks.cross_entropy
            )
            continue
        assert batch.inputs.dtype in (torch.float32, torch.int64) and batch.targets.dtype == torch.int64
        assert task.classes >= 2 and batch.targets.min() >= 0 and batch.targets.max() < task.classes


def test_a_batch_depends_on_the_step_alone(name, required):
    task = build(name, required, **RICH)
    steps = [0, 1, 2, 3 * task.steps_per_epoch - 1, 3 * task.steps_per_epoch]
    first = [task.batch(step) for step in steps]
    kept = [(b.inputs.clone(), b.targets.clone()) for b in first]
    train = task.evaluation("train").inputs.clone()
    torch.manual_seed(99)
    np.random.seed(99)
    again = {step: task.batch(step) for step in reversed(steps)}
    fresh = build(name, required, **RICH)
    for step, batch, (inputs, targets) in zip(steps, first, kept):
        assert torch.equal(batch.inputs, inputs) and torch.equal(batch.targets, targets)  # not overwritten later
        assert same(batch, again[step])
        assert same(batch, fresh.batch(step))
    assert torch.equal(task.evaluation("train").inputs, train)  # augmentation works on copies


def test_a_batch_leaves_the_global_generators_alone(name, required):
    task = build(name, required, **RICH)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    task.batch(0)
    task.evaluation("test")
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_an_epoch_shows_every_example_once(name, required):
    task = build(name, required, batch_size=10, augment=False)
    train = task.evaluation("train")
    seen = torch.cat([task.batch(step).inputs for step in range(task.steps_per_epoch)]).flatten(1)
    shown = {row.numpy().tobytes() for row in seen}
    there = {row.numpy().tobytes() for row in train.inputs.flatten(1)}
    left_out = 0 if task.keep_last else len(train.inputs) % 10
    assert len(there) == len(train.inputs), "the examples must differ for this test"
    assert shown <= there and len(shown) == len(seen) == len(train.inputs) - left_out


def test_two_epochs_differ_and_two_seeds_differ(name, required):
    task = build(name, required, batch_size=10)
    other = build(name, required, batch_size=10, seed=1)
    assert not torch.equal(task.batch(0).inputs, task.batch(task.steps_per_epoch).inputs)
    assert not torch.equal(task.batch(0).inputs, other.batch(0).inputs)
    assert same(other.batch(3), task.reseed(1).batch(3))


def test_the_tape_seed_leaves_the_data_alone_and_the_data_seed_the_tape(name, required):
    task = build(name, required, **RICH)
    other_tape = build(name, required, **RICH, seed=7)
    assert same(task.evaluation("train"), other_tape.evaluation("train"))
    assert same(task.evaluation("test"), other_tape.evaluation("test"))
    if "data_seed" not in inspect.signature(getattr(tasks, name)).parameters:
        return  # nothing about the data is drawn
    other_data = build(name, required, **RICH, data_seed=7)
    assert not same(task.evaluation("train"), other_data.evaluation("train"))


def test_augmentation_depends_on_seed_and_step_alone(name, required):
    task = build(name, required, batch_size=10, augment=True, shift=1)
    if task.augment is None:
        pytest.skip(f"{name} has no augmentation")
    plain = build(name, required, batch_size=10, augment=False, shift=0)
    steps = range(2 * task.steps_per_epoch)
    moved = [not torch.equal(task.batch(step).inputs, plain.batch(step).inputs) for step in steps]
    assert all(moved)
    assert all(torch.equal(task.batch(step).targets, plain.batch(step).targets) for step in steps)
    assert torch.equal(task.evaluation("train").inputs, plain.evaluation("train").inputs)


@pytest.mark.parametrize(
    "option, value", [("label_noise", 1.5), ("pixel_noise", -1.0), ("batch_size", 0), ("shift", 99)]
)
def test_nonsense_options_are_refused_by_name(name, required, option, value):
    if option not in inspect.signature(getattr(tasks, name)).parameters:
        pytest.skip(f"{name} has no {option}")
    with pytest.raises(InputError, match=f"{option}={value:g}"):
        build(name, required, **{option: value})
