"""Growth at a finite size and the kinks behind it (two-phase sheet, check 6).

MLP 64x3 on digits with 20 % label noise, momentum 0.9, window of 60 steps from step 100 on; λ(δ) in 1/step:

    δ                1e-9       1e-6       1e-3       1e-2       tangent
    GELU, lr 0.2     0.0163                           0.0163     0.0163
    ReLU, lr 0.1     -0.0001    -0.0001    0.321                 -0.0001

In a window of 100 steps: GELU 0.0233 for all of 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2 and the tangent, 0.0229 at 0.1;
ReLU 0.0000 up to 1e-4 and 0.305, 0.218 at 1e-3 and 1e-2. The sheet, at lr 0.1 from step 200 to 600, has 0.0383 for
GELU, and for ReLU 0.0127 (up to 1e-6) and 0.34 (at 1e-3).
"""

from functools import partial

import pytest
import torch
from dynamics_cases import SGD, digits_mlp, distance, seeded, small_cnn, teacher, teacher_mlp
from torch import nn
from torch.nn import functional as F

from learndyn.dynamics import fork, start, tangent_growth, train, train_together, vector
from learndyn.dynamics.exponents import finite_size_exponents, first_kink, kinks
from learndyn.dynamics.perturb import gaussian
from learndyn.errors import InputError
from learndyn.tasks import Batch, Supervised

WINDOW = 60


def tangent_exponent(state, seed=0):
    """Of the direction that `finite_size_exponents` starts from."""
    twin, _ = gaussian(state, 1e-6, seed)
    direction = vector(twin.model) - vector(state.model)
    return tangent_growth(state, WINDOW, (direction / direction.norm())[None])[0, -1].item() / WINDOW


def test_smooth_chaos_does_not_depend_on_the_distance():
    optimizer = partial(torch.optim.SGD, lr=0.2, momentum=0.9)
    state = train(digits_mlp("gelu", width=64, depth=3, optimizer=optimizer), 100).state
    tangent = tangent_exponent(state)
    assert 0.01 < tangent < 0.03
    found = finite_size_exponents(state, WINDOW, (1e-9, 1e-6, 1e-2))
    assert found.tolist() == pytest.approx([tangent] * 3, rel=5e-3)  # measured: rounding 1e-4, curvature 1e-3


def test_kinks_make_chaos_at_a_finite_distance():
    state = train(digits_mlp("relu", width=64, depth=3), 100).state
    tangent = tangent_exponent(state)
    tiny, small, large = finite_size_exponents(state, WINDOW, (1e-9, 1e-6, 1e-3)).tolist()
    assert abs(tangent) < 0.01
    assert tiny == pytest.approx(tangent, abs=1e-5) and small == pytest.approx(tangent, abs=1e-5)
    assert 0.2 < large < 0.45 and large > 10 * abs(tangent)


def test_the_window_leaves_the_state_alone_and_its_cut_does_not_matter():
    state = train(teacher_mlp(), 5).state
    before = vector(state.model).clone()
    one = finite_size_exponents(state, 20, (1e-7,), every=20)
    assert torch.equal(vector(state.model), before) and state.step == 5
    # Momentum is rescaled with the parameters: otherwise cutting the window would change the growth at order 1.
    for every in (1, 4, 10):
        torch.testing.assert_close(finite_size_exponents(state, 20, (1e-7,), every=every), one, rtol=0, atol=1e-7)
    twin, _ = gaussian(state, 1e-7, 0)
    first = distance(state, twin)
    ended, _ = train_together([fork(state), twin], 20, "loop")
    growth = torch.tensor(distance(*ended) / first, dtype=torch.float64).log() / 20
    assert one.item() == pytest.approx(growth.item(), rel=1e-12)
    assert abs(one.item()) > 1e-4


def test_bad_windows_and_distances_are_refused():
    state = teacher_mlp()
    for steps, every in ((20, 0), (5, 10), (25, 10)):
        with pytest.raises(InputError, match=f"The window of {steps} steps must be a positive multiple"):
            finite_size_exponents(state, steps, (1e-7,), every=every)
    with pytest.raises(InputError, match=r"The distances \(1e-07, 0.0\) must be positive"):
        finite_size_exponents(state, 10, (1e-7, 0.0))
    with pytest.raises(InputError, match="Twins at distance 1e-30 became the same in rounding"):
        finite_size_exponents(teacher_mlp(dtype=torch.float32), 10, (1e-30,))


def heard(state, batch, kinds):
    """Brute force: outputs of every layer of some kinds on the step's batch in train mode, by forward hooks."""
    seen, scratch = [], fork(state)
    for layer in scratch.model.modules():
        if isinstance(layer, kinds):
            layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0].detach())))
    scratch.model.train()(batch.inputs)
    return seen


def winner(layer, x):
    """Which pixel of each window is largest, without torch's own indices."""
    windows = F.unfold(x.flatten(0, 1)[:, None], layer.kernel_size, stride=layer.stride)
    return windows.argmax(1)


@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.3])
def test_kinks_against_brute_force(size):
    state = train(small_cnn(dtype=torch.float64), 10).state
    twin, _ = gaussian(state, size, seed=1)
    batch = state.task.batch(state.step)
    counts = {nn.ReLU: 0, nn.MaxPool2d: 0}
    total = 0
    for (layer, x), (_, y) in zip(*(heard(s, batch, (nn.ReLU, nn.MaxPool2d)) for s in (state, twin))):
        pieces = [z > 0 if isinstance(layer, nn.ReLU) else winner(layer, z) for z in (x, y)]
        counts[type(layer)] += int((pieces[0] != pieces[1]).sum())
        total += pieces[0].numel()
    found = kinks(state, twin)
    assert found.signs == counts[nn.ReLU] and found.total == total == 32 * (4 * 64 + 4 * 16 + 8 * 16 + 8 * 4)
    # Windows in which all is 0 after ReLU have no single largest entry; here both ways take the first.
    assert found.switches == counts[nn.MaxPool2d]
    assert found.signs + found.switches > 0


def test_twins_and_smooth_networks_have_no_kinks():
    state = train(small_cnn(), 2).state
    none = kinks(state, fork(state))
    assert none.signs == none.switches == 0 < none.total
    smooth = digits_mlp("gelu", width=16, depth=2)
    other, _ = gaussian(smooth, 10.0, seed=0)
    found = kinks(smooth, other)
    assert (found.signs, found.switches, found.total) == (0, 0, 0)
    assert first_kink(smooth, other, 3) is None


class Functional(nn.Module):
    """One unit with a kink at 0, written as a plain function."""

    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, dtype=torch.float64))
        self.function = function

    def forward(self, x):
        return self.function(x * self.weight)


@pytest.mark.parametrize(
    ("function", "crossed"),
    [
        (F.relu, 3),
        (torch.abs, 3),
        (F.leaky_relu, 3),
        (lambda x: F.relu_(x.clone()), 3),
        (nn.LeakyReLU(0.3), 3),
        (nn.PReLU(dtype=torch.float64), 3),
        (lambda x: x.clamp(min=0), 3),
        (lambda x: x.clamp(max=2.5), 1),  # between 3 and -3 only
        (lambda x: F.threshold(x, 1.5, 0.0), 2),
        (F.relu6, 3),
        (F.hardtanh, 2),  # -0.9 and 0.9 lie on the middle piece
        (F.gelu, 0),
    ],
)
def test_plain_functions_have_kinks_too(function, crossed):
    """At -0.9, -2 and 3, and for the twin at 0.9, 2 and -3."""
    data = Batch(torch.tensor([[-0.9], [-2.0], [3.0]]).double(), torch.zeros(3, 1).double())
    task = Supervised(data, data, 3, criterion=F.mse_loss)
    state = start(task, Functional(function), SGD)
    twin = fork(state)
    with torch.no_grad():
        twin.model.weight.neg_()
    found = kinks(state, twin)
    assert (found.signs, found.switches, found.total) == (crossed, 0, 0 if function is F.gelu else 3)


def test_adaptive_pooling_has_kinks_too():
    data = Batch(torch.tensor([[[1.0, 2.0, 4.0, 3.0]]]).double(), torch.zeros(1, 1, 2).double())
    state = start(Supervised(data, data, 1, criterion=F.mse_loss), Functional(nn.AdaptiveMaxPool1d(2)), SGD)
    twin = fork(state)
    with torch.no_grad():
        twin.model.weight.neg_()
    found = kinks(state, twin)
    assert (found.signs, found.switches, found.total) == (0, 2, 2)


def test_the_first_kink_is_the_first():
    """Compared with counting along the two runs; nothing moves in the states that were handed in."""
    state = digits_mlp("relu", width=16, depth=1)
    twin, _ = gaussian(state, 0.01, seed=3)
    before = vector(state.model).clone(), vector(twin.model).clone()
    first = first_kink(state, twin, 40)
    assert torch.equal(vector(state.model), before[0]) and torch.equal(vector(twin.model), before[1])
    states, counted = [fork(state), fork(twin)], []
    for _ in range(40):
        counted.append(kinks(*states).signs > 0)
        states, _ = train_together(states, 1, "loop")
    assert first == counted.index(True) > 0
    assert first_kink(state, twin, first) is None


def test_dropout_masks_are_those_of_the_step():
    """Units that dropout switches off are the same for both twins: identical twins have no kinks."""
    layers = lambda: nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 3))  # noqa: E731
    state = start(teacher(), seeded(0, layers).double(), SGD)
    torch.rand(3)
    assert kinks(state, fork(state)).signs == 0
