"""Replay (two-phase sheet, check 1): a stored state goes on bit for bit as the run that it was taken from."""

import pytest
import torch
from dynamics_cases import ADAMW, NESTEROV, SGD, assert_same, distance, small_cnn, teacher, teacher_mlp
from torch import nn

from learndyn.dynamics import Trajectory, adjoint_norms, displace, fork, rounding_floor, start, tangent_growth, train
from learndyn.dynamics.determinism import check_device, check_replay, deterministic
from learndyn.dynamics.exponents import kinks
from learndyn.dynamics.perturb import gradient, top_lyapunov
from learndyn.errors import InputError
from learndyn.observables import disagreement, error, loss, loss_barrier, recalibrate
from learndyn.optimizers.schedules import cosine
from learndyn.tasks import Batch, Supervised

OPTIMIZERS = {"sgd": SGD, "nesterov": NESTEROV, "adamw": ADAMW}
NETWORKS = {  # batch norm in all; dropout, augmentation, both precisions
    "mlp64": lambda **settings: teacher_mlp(dropout=0.2, **settings),
    "cnn32": lambda **settings: small_cnn(dropout=0.2, **settings),
}


@pytest.fixture(params=NETWORKS)
def build(request):
    return NETWORKS[request.param]


@pytest.fixture(params=OPTIMIZERS)
def settings(request):
    return {"optimizer": OPTIMIZERS[request.param], "schedule": cosine(40, warmup=5)}


def test_a_stored_state_in_a_fresh_model_goes_on_as_the_run(build, settings, tmp_path):
    stored = Trajectory(tmp_path, build(seed=1, **settings))  # the template has other weights
    trunk = train(build(seed=0, **settings), 20).state
    stored.save(trunk)
    trunk = train(trunk, 20).state
    again = stored[20]
    assert again.step == 20 and distance(again, trunk) > 0.01
    assert_same(train(again, 20).state, trunk)


def test_a_fork_that_changes_nothing_ends_where_its_trunk_ends(build, settings):
    trunk = train(build(**settings), 10).state
    branch = fork(trunk)
    ended = train(branch, 15).state  # before the trunk goes on: anything shared would show
    assert_same(train(trunk, 15).state, ended)
    places = [{tensor.data_ptr() for tensor in state.model.state_dict().values()} for state in (trunk, ended)]
    assert not places[0] & places[1]


def test_looking_and_branching_in_between_change_nothing(build, settings):
    quiet = train(build(**settings), 12).state

    state = build(**settings)
    for _ in range(4):
        state = train(state, 3, {"loss": loss, "error": error}).state
        twin, _ = gradient(state, 1e-2, seed=1)
        disagreement(state, twin)
        loss_barrier(state, twin, points=3)
        recalibrate(twin.model, twin.task)
        rounding_floor(state)
        kinks(state, twin)
        train(twin, 2)
        torch.rand(7)  # a caller's own randomness
    assert_same(state, quiet)


def test_tangent_dynamics_in_between_change_nothing():
    quiet = train(teacher_mlp(dropout=0.2), 8).state
    state = train(teacher_mlp(dropout=0.2), 4).state
    size = sum(p.numel() for p in state.model.parameters())
    tangent_growth(state, 3, torch.ones(1, size, dtype=torch.float64))
    adjoint_norms(lambda step: state, [4], [4], 7, probes=1)
    top_lyapunov(state, 1e-3, seed=0, window=3)
    assert_same(train(state, 4).state, quiet)


def test_a_replay_without_the_momentum_is_another_run():
    """The counterpart: what the tests above compare does depend on what they restore."""
    trunk = train(teacher_mlp(), 20).state
    forgetful = fork(trunk)
    forgetful.optimizer.state.clear()
    assert distance(train(forgetful, 20).state, train(trunk, 20).state) > 0.1  # measured: 0.66


def test_displacing_by_nothing_is_a_fork():
    state = train(teacher_mlp(), 5).state
    twin, survival = displace(state, {n: torch.zeros_like(p).detach() for n, p in state.model.named_parameters()})
    assert survival.changed == survival.realised == 0
    assert_same(twin, state)


class Forgetful:
    """A task whose batches come from the global generator."""

    seed = 0

    def batch(self, step):
        return Batch(torch.randn(4, 6, dtype=torch.float64), torch.randint(0, 3, (4,)))

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluation(self, split):
        return self.batch(0)


class Noisy(nn.Linear):
    """A layer with a generator of its own, which goes on from call to call."""

    draws = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x) + 1e-6 * torch.randn(self.out_features, generator=self.draws, dtype=x.dtype)


def test_what_cannot_be_replayed_is_refused():
    check_replay(teacher_mlp(dropout=0.2))
    with pytest.raises(InputError, match=r"Forgetful.batch\(1\) gave two different batches"):
        check_replay(teacher_mlp(task=Forgetful()))
    noisy = nn.Sequential(Noisy(6, 3)).double()
    with pytest.raises(InputError, match="Training the same state twice for 3 steps gave different weights on cpu"):
        check_replay(start(teacher(), noisy, SGD))


def test_settings_of_a_replay_are_given_back():
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), deterministic("cpu", threads + 1):
        assert torch.get_num_threads() == threads + 1
        raise KeyError
    assert torch.get_num_threads() == threads and torch.are_deterministic_algorithms_enabled() == strict
    with pytest.raises(InputError, match="threads=0 must be at least 1"), deterministic("cpu", 0):
        pass
    with pytest.raises(InputError, match="There is no device 'gpu7' here"):
        check_device("gpu7")


def test_what_cannot_be_trained_is_refused():
    frozen = nn.Linear(6, 3).requires_grad_(False)
    with pytest.raises(InputError, match="Linear has no trainable parameter"):
        start(teacher(), frozen, SGD)
    with pytest.raises(InputError, match="The optimizer holds none of the model's parameters"):
        start(teacher(), nn.Linear(6, 3), SGD(nn.Linear(6, 3).parameters()))


def test_the_batch_size_of_a_partial_batch_is_replayed_too():
    """An epoch that ends in a partial batch: 200 = 12 × 16 + 8."""
    whole = teacher()
    task = Supervised(whole.train, whole.test, 16, keep_last=True)
    assert len(task.batch(12).inputs) == 8
    trunk = train(teacher_mlp(task=task), 12).state
    branch = fork(trunk)
    assert_same(train(trunk, 3).state, train(branch, 3).state)
