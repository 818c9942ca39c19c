"""Weights that somebody else has saved: every common wrapping is read, no code is run, what does not fit is named."""

import copy
import math
import os
import pickle
import warnings

import pytest
import safetensors.torch
import torch
from dynamics_cases import teacher_mlp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learndyn.dynamics import Checkpoints, Trajectory, load_weights, train
from learndyn.dynamics.trajectory import must_fit
from learndyn.errors import InputError
from learndyn.storage import read_weights, save_tree, wrapping


def network(seed=0):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * seed + i)))
    return model


def assert_holds(model, state):
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[name], state[name].to(own[name].dtype)) for name in own)


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


WAYS = {
    "plain": lambda s: s,
    "state_dict": lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"state": {}, "lr": 0.1}},
    "model": lambda s: {"model": s, "args": "resnet", "best": torch.ones(2)},
    "model_state_dict": lambda s: {"step": torch.tensor(3), "model_state_dict": s},
    "net": lambda s: {"net": s, "acc": 0.9},
    "weights": lambda s: {"weights": s},
    "parallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled and then parallel": lambda s: prefixed("module._orig_mod.", s),
    "parallel and then compiled": lambda s: {"state_dict": prefixed("_orig_mod.module.", s)},
    "one in the other": lambda s: {"model": {"state_dict": s}},
    "the other in the one": lambda s: {"state_dict": {"model": prefixed("module.", s)}},
    "with what is no tensor": lambda s: s | {"version": 3, "note": "best"},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_every_common_wrapping_is_read(tmp_path, way, zipped):
    state = dict(network().state_dict())
    path = tmp_path / "3.pt"
    torch.save(WAYS[way](state), path, _use_new_zipfile_serialization=zipped)
    found = read_weights(path)
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    model = network(1)
    load_weights(model, path)
    assert_holds(model, state)


def test_a_file_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "1.pt")
    with pytest.raises(InputError, match="holds no weights by name; save model.state_dict"):
        read_weights(tmp_path / "1.pt")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_safetensors_are_read(tmp_path, prefix):
    state = network().state_dict()
    safetensors.torch.save_file(prefixed(prefix, state), tmp_path / "1.safetensors", {"format": "pt"})
    model = network(1)
    load_weights(model, tmp_path / "1.safetensors")
    assert_holds(model, state)


class Wrapper(nn.Module):
    """A network whose own child has the name that a wrapper would give it."""

    def __init__(self, seed=0):
        super().__init__()
        self.module = network(seed)


@pytest.mark.parametrize("build", [Wrapper, lambda seed: nn.DataParallel(Wrapper(seed))])
def test_a_network_with_a_module_called_module_reads_its_own_weights(tmp_path, build):
    state = build(0).state_dict()
    torch.save(state, tmp_path / "1.pt")
    model = build(1)
    load_weights(model, tmp_path / "1.pt")
    assert_holds(model, state)


def test_prefixes_are_those_of_all_names():
    assert wrapping(["module.a", "b"]) == wrapping([]) == wrapping(["modules.a"]) == ""
    assert wrapping(["module.a", "module._orig_mod.b"]) == "module."


def test_stored_states_are_checkpoints(tmp_path):
    state = teacher_mlp(dtype=torch.float32)
    trajectory = Trajectory(tmp_path, state)
    run = train(state, 4, after=lambda s: trajectory.save(s) if s.step % 2 == 0 else None)
    checkpoints = Checkpoints(tmp_path, teacher_mlp(seed=1, dtype=torch.float32).model)
    assert checkpoints.steps == trajectory.steps == [2, 4]
    assert_holds(checkpoints[4], run.state.model.state_dict())
    damaged = trajectory.path(2).read_bytes()
    trajectory.path(2).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    with pytest.raises(InputError, match="000002.safetensors was altered: its digest does not match"):
        checkpoints[2]


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("where", [lambda bad: bad, lambda bad: {"state_dict": {}, "extra": bad}])
@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
def test_code_in_a_file_is_not_run(tmp_path, save, where):
    content, path, trap = where(Harmful(tmp_path / "trap")), tmp_path / "1.pt", tmp_path / "trap"
    if save == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    with warnings.catch_warnings(), pytest.raises(InputError, match="nothing in it is run; save the state_dict alone"):
        warnings.simplefilter("ignore")
        load_weights(network(), path)
    assert not trap.exists()
    torch.load(path, weights_only=False) if save != "pickle" else pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap was set


def test_a_whole_module_is_refused(tmp_path):
    torch.save(network(), tmp_path / "1.pt")
    with pytest.raises(InputError, match="holds more than tensors, numbers and strings"):
        read_weights(tmp_path / "1.pt")


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 700
    return True


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_files_are_named(tmp_path, kind):
    path = tmp_path / ("1.safetensors" if kind == "safetensors" else "1.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(network().state_dict(), path)
    else:
        torch.save(network().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for length in {0, 1, 2, 4, 8, 18, *range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=path.name) as error:
            read_weights(path)
        assert one_sentence(error)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_other_file_gives_one_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for name in ("1.pt", "1.safetensors"):
        (folder / name).write_bytes(content)
        with warnings.catch_warnings(), pytest.raises(InputError, match=name):
            warnings.simplefilter("ignore")
            read_weights(folder / name)


@pytest.mark.parametrize("text", ["a", "step,loss\n1,2\n", "epoch 1\n", "weights", "# notes\n", '{"a": 1}', "K", ""])
def test_a_text_file_is_no_checkpoint(tmp_path, text):
    (tmp_path / "1.pt").write_text(text)
    with pytest.raises(InputError, match="1.pt"):
        read_weights(tmp_path / "1.pt")


@pytest.mark.parametrize("content", [{}, [1], torch.ones(3), {0: torch.ones(2)}, {"lr": 0.1}, None, {"state_dict": {}}])
def test_a_file_without_names_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "1.pt")
    with pytest.raises(InputError, match="1.pt holds no weights by name; save model.state_dict"):
        read_weights(tmp_path / "1.pt")
    save_tree(tmp_path / "2.safetensors", [1, 2])
    with pytest.raises(InputError, match="2.safetensors holds no weights by name"):
        read_weights(tmp_path / "2.safetensors")


def test_what_is_missing_or_a_folder_is_named(tmp_path):
    (tmp_path / "2.pt").mkdir()
    (tmp_path / "2.safetensors").mkdir()
    for name in ("1.pt", "1.safetensors", "2.pt", "2.safetensors"):
        with pytest.raises(InputError, match=f"The weights in .*{name} cannot be read"):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("2.bias"), "'2.bias' is in only one of the two; give the model it was made with"),
        (lambda s: s.update(extra=torch.ones(1)), "'extra' is in only one of the two"),
        (lambda s: s.update({"0.weight": torch.ones(5, 3)}), r"'0.weight' is \(5, 3\) there and \(4, 3\) here"),
        (lambda s: s.update({"0.weight": torch.ones(3, 4)}), r"'0.weight' is \(3, 4\) there and \(4, 3\) here"),
        (lambda s: s["2.bias"].fill_(math.nan), "not finite in '2.bias'; take an earlier checkpoint"),
        (lambda s: s["1.running_var"].fill_(math.inf), "not finite in '1.running_var'"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_is_left_alone(tmp_path, change, told):
    state = copy.deepcopy(network().state_dict())
    change(state)
    torch.save(state, tmp_path / "7.pt")
    model = network(1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=f"7.pt .*{told}"):
        load_weights(model, tmp_path / "7.pt")
    assert_holds(model, before)


def test_weights_come_in_the_precision_of_the_model(tmp_path):
    for there, here in (
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
    ):
        state = network().to(there).state_dict()
        torch.save(state, tmp_path / "1.pt")
        model = network(1).to(here)
        load_weights(model, tmp_path / "1.pt")
        assert model[0].weight.dtype == here and model[1].num_batches_tracked.dtype == torch.int64
        assert_holds(model, state)


def test_must_fit_takes_equal_names_and_shapes():
    own = network().state_dict()
    must_fit(own, network(1).state_dict(), "x")
    with pytest.raises(InputError, match="^The state is from another model: '0.bias' is in only one of the two"):
        must_fit(own, {}, "The state")


def save(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = network(seed).state_dict()
    safetensors.torch.save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)


@pytest.mark.parametrize(
    ("names", "steps"),
    [
        (["10.pt", "9.pth", "0.ckpt", "100.bin"], [0, 9, 10, 100]),
        (["model-v2-step-0500.pt", "epoch=3-step=70.ckpt"], [70, 500]),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.safetensors"], [500, 1000]),
        (["checkpoint-500/pytorch_model.bin", "checkpoint-20/pytorch_model.bin"], [20, 500]),
        (["a/3.pt", "b/4.pt"], [3, 4]),
        (["best.pt", "last.pt", "5.pt"], [5]),
        ([".hidden-4.pt", "6.pt.tmp", "7.txt", "deep/er/8.pt", "5.pt"], [5]),
        ([], []),
        (["best.pt"], []),
    ],
)
def test_steps_are_read_off_names(tmp_path, names, steps):
    folder = tmp_path / "vgg16"  # its number is none of a step
    folder.mkdir()
    for name in names:
        save(folder / name)
    checkpoints = Checkpoints(folder, network())
    assert checkpoints.steps == steps and len(checkpoints) == len(steps)


def test_what_a_trainer_puts_beside_the_weights_is_passed_over(tmp_path):
    beside = ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "rng_state_0.pth", "training_args.bin")
    for i, step in enumerate((500, 1000, 1500)):
        save(tmp_path / f"checkpoint-{step}" / "model.safetensors", seed=i)
        for name in beside:
            (tmp_path / f"checkpoint-{step}" / name).write_bytes(b"no weights")
    checkpoints = Checkpoints(tmp_path, network(9))
    assert checkpoints.steps == [500, 1000, 1500]
    for i, step in enumerate(checkpoints.steps):
        assert_holds(checkpoints[step], network(i).state_dict())


@pytest.mark.parametrize("names", [["5.pt", "005.pth"], ["a-5.pt", "b-5.pt"], ["run0/5.pt", "run1/5.pt"]])
def test_two_files_of_one_step_are_refused(tmp_path, names):
    for name in names:
        save(tmp_path / name)
    with pytest.raises(InputError, match="both seem to be of step 0*5; the last number of a name is taken"):
        _ = Checkpoints(tmp_path, network()).steps


def test_every_read_is_a_network_of_its_own(tmp_path):
    for step in (1, 2):
        save(tmp_path / f"{step}.pt", seed=step)
    template = network(9)
    before = copy.deepcopy(template.state_dict())
    checkpoints = Checkpoints(tmp_path, template)
    first, second = checkpoints[1], checkpoints[1]
    with torch.no_grad():
        first[0].weight.zero_()
    assert_holds(second, network(1).state_dict())
    assert_holds(template, before)


def test_a_missing_folder_holds_nothing(tmp_path):
    assert Checkpoints(tmp_path / "none", network()).steps == []


def test_tied_weights_may_be_saved_once(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
    model[1].weight = model[0].weight
    whole = {"0.weight": torch.randn(3, 3, dtype=torch.float64)}
    torch.save(whole, tmp_path / "step_1.pt")
    load_weights(model, tmp_path / "step_1.pt")
    assert torch.equal(model[1].weight, whole["0.weight"]) and model[1].weight is model[0].weight
