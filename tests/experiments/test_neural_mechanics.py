"""Neural mechanics end to end: measured and predicted charges, claims, figures, a run that is killed, and a record."""

import json
import math
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from single_thread import one_thread  # noqa: F401  for every test here
from torch import nn
from torch.nn import functional as F

from learndyn import Recorder
from learndyn.__main__ import main
from learndyn.errors import InputError
from learndyn.experiments import neural_mechanics
from learndyn.experiments.neural_mechanics import Settings, recording
from learndyn.experiments.neural_mechanics.claims import overlays_of
from learndyn.experiments.neural_mechanics.toys import TOYS, field
from learndyn.laws import charges
from learndyn.recorder import recorder, training
from learndyn.run import run
from learndyn.symmetries import find

SMALL = Settings(
    optimizers=("sgd(lr=0.1)", "sgd(lr=0.02, momentum=0.9, weight_decay=1e-2)", "adamw(lr=2e-3, weight_decay=0.1)"),
    models=("small_cnn(widths=(4, 6), hidden=8)",),
    steps=60,
)
NAMES = [
    "budget-closes",
    "rescale-exact",
    "translation-exact",
    "scale-exact",
    "epsilon-shows",
    "continuous-first-order",
    "continuous-oscillator",
    "decay-is-not-enough",
    "norms-only-grow",
    "count-complete",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    record, results = run("neural-mechanics", SMALL, tmp_path_factory.mktemp("runs"), jobs=1)
    return record, results


def test_all_claims_hold_at_a_small_size(finished):
    found = {claim.name: claim for claim in neural_mechanics.claims(finished[1])}
    assert list(found) == NAMES
    assert {claim.verdict for claim in found.values()} == {"holds"}
    assert found["rescale-exact"].measured < 1e-11 and found["budget-closes"].measured < 1e-12


def test_claims_fail_where_a_prediction_is_wrong(finished):
    results = finished[1].copy(deep=True)
    wrong = results["predicted/run-1"].to_dataset()
    wrong["change_error"] = wrong.change_error * 0 + 0.2
    results["predicted/run-1"] = type(results)(wrong)
    verdicts = {claim.name: claim.verdict for claim in neural_mechanics.claims(results)}
    assert verdicts["rescale-exact"] == verdicts["translation-exact"] == verdicts["scale-exact"] == "fails"


def test_laws_that_an_eps_breaks_are_not_expected_to_be_exact(finished):
    """In a transformer the eps of layer norms breaks the law of the residual stream, which is none of scale."""
    results = finished[1].copy(deep=True)
    measured, predicted = results["measured/run-1"].to_dataset(), results["predicted/run-1"].to_dataset()
    law = int(np.flatnonzero(measured.kind.values == "rescale")[0])
    predicted.change_error.loc[{"curve": "exact"}][law] = 1e-5
    results["predicted/run-1"] = type(results)(predicted)
    assert {c.name: c.verdict for c in neural_mechanics.claims(results)}["rescale-exact"] == "fails"
    broken = json.loads(measured.attrs["broken"])
    broken[law] = 1e-6
    results["measured/run-1"] = type(results)(measured.assign_attrs(broken=json.dumps(broken)))
    found = {c.name: c for c in neural_mechanics.claims(results)}
    assert found["rescale-exact"].verdict == "holds" and found["epsilon-shows"].measured >= 1e-5


def test_figures_and_words(finished):
    results = finished[1]
    figures = neural_mechanics.figures(results)
    names = ["charges", "residuals", "portraits", "budgets", "toy-symmetries", "modified-equations"]
    assert [figure.name for figure in figures] == names
    solid, dashed = (
        [line for line in figures[0].drawing.axes[0].lines if line.get_linestyle() == style] for style in ("-", "--")
    )
    assert len(solid) == len(dashed) == 4  # one of each for every filter
    for one, other in zip(solid, dashed):
        np.testing.assert_allclose(one.get_ydata(), other.get_ydata(), rtol=2e-3)
        assert np.ptp(one.get_ydata()) > 1e-3
    for figure in figures:
        assert len(figure.caption) > 80
        plt.close(figure.drawing)
    assert "predicted from their first value" in neural_mechanics.lead(results)[1]
    assert neural_mechanics.notes(results) == [
        "adamw(lr=2e-3, weight_decay=0.1): no prediction, since AdamW is not SGD: the budget is exact, but no "
        "recursion in the charge holds."
    ]
    errors, regimes = neural_mechanics.tables(results)
    assert len(errors.rows) == 3 * 7 and [row[1] for row in regimes.rows] == ["first order", "overdamped"]


def test_a_run_that_is_interrupted_gives_the_same_numbers(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(training, "PIECE", 7)
    count = iter(range(10**6))

    def stop(what, units):
        if next(count) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("neural-mechanics", SMALL, tmp_path, jobs=1, progress=stop)
    _, results = run("neural-mechanics", SMALL, tmp_path, jobs=1)
    for i in range(3):
        one, other = (tree[f"measured/run-{i}"].to_dataset() for tree in (results, finished[1]))
        np.testing.assert_allclose(one.q, other.q, rtol=1e-13)
    assert {claim.verdict for claim in neural_mechanics.claims(results)} == {"holds"}


def test_a_run_whose_record_cannot_be_written_ends_and_does_not_go_on_unseen(tmp_path, monkeypatch):
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(data)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(recorder.os, "write", full)
    one = replace(SMALL, optimizers=SMALL.optimizers[:1])
    with pytest.warns(UserWarning, match="No space left"), pytest.raises(InputError, match="Cannot write .*record"):
        neural_mechanics.measure(neural_mechanics.parts(one)[0], one, tmp_path, lambda what, units: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "steps=1: a charge that moves once is no curve"),
        ({"every": 0}, "every=0 must be at least 1"),
        ({"every": 200}, "every=200 is longer than the run"),
        ({"optimizers": ()}, "optimizers=.* must name at least one"),
        ({"optimizers": ("sgd(lr=0.1)",) * 2}, "each of them once"),
        ({"device": "cuda:9"}, "cuda"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        neural_mechanics.validate(replace(SMALL, **changes))


def test_a_network_without_symmetries_is_refused_with_what_took_them(tmp_path):
    frozen = replace(SMALL, models=('mlp(activation="tanh", width=4)',), softmax=None)
    with pytest.raises(InputError, match="has no symmetry whose charge could be followed .*tanh"):
        run("neural-mechanics", frozen, tmp_path, jobs=1)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy[0])
def test_arrows_of_the_toys_run_along_their_level_lines(toy):
    _, _, loss, charge = toy
    points = torch.tensor([[0.3, -0.7], [0.9, 0.2], [-0.4, -0.5]], dtype=torch.float64, requires_grad=True)
    uphill = torch.autograd.grad(charge(points).sum(), points)[0]
    flow = field(loss, points.detach())
    along = (flow * uphill).sum(-1).abs() / (flow.norm(dim=-1) * uphill.norm(dim=-1))
    assert float(along.max()) < 1e-12 and float(flow.norm(dim=-1).min()) > 1e-3


def test_steps_of_the_drawn_spiral_leave_as_the_law_says():
    """The radius of Euler's steps around a centre, against e^(ηt/2)."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    point = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for _ in range(100):
        point = point - 0.1 * turn @ point
    times = torch.tensor([10.0], dtype=torch.float64)
    assert math.isclose(float(point.norm()), float(charges.rotation_radius(times, 0.1)[0]), rel_tol=5e-3)


# Records --------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A stranger's pre-norm block with packed attention and a gated MLP."""

    def __init__(self, width=16, heads=2):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.gate, self.down = nn.Linear(width, 24), nn.Linear(width, 24), nn.Linear(24, width)

    def forward(self, x):
        h = self.first(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        h = self.second(x)
        return x + self.down(self.up(h) * F.silu(self.gate(h)))


class Tiny(nn.Module):
    """A stranger's transformer."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 16), nn.Parameter(0.1 * torch.randn(6, 16))
        self.blocks, self.norm, self.head = nn.Sequential(Block(), Block()), nn.LayerNorm(16), nn.Linear(16, 11)

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.embed(tokens) + self.place)))


def script(folder):
    """Adam with decay on matrices only, clipping, accumulation, warm-up; the recorder in three lines."""
    torch.manual_seed(0)
    model = Tiny()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, 3e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / 10))
    draw = torch.Generator().manual_seed(1)
    with Recorder(model, optimizer, laws=find(model, torch.arange(6)[None]).laws, every=4, to=folder):
        for batch in range(60):
            tokens = torch.randint(0, 11, (8, 6), generator=draw)
            (F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten()) / 2).backward()
            if batch % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()


def test_a_strangers_record_becomes_a_page(tmp_path, capsys):
    script(tmp_path / "record")
    assert main(["report", str(tmp_path / "record")]) == 0
    page = (tmp_path / "record" / "report.html").read_text()
    assert "AdamW is not SGD" in page and "budgets" in page and "charges of" in page
    claims = {c["name"]: c for c in json.loads((tmp_path / "record" / "claims.json").read_text())}
    assert claims["budget-closes"]["verdict"] == "holds" and claims["budget-closes"]["measured"] < 1e-6
    assert "budget-closes" in capsys.readouterr().out


def test_a_record_of_sgd_is_predicted(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-2)
    with Recorder(model, optimizer, laws=find(model, torch.randn(4, 5)).laws, every=5, to=tmp_path):
        for step in range(40):
            optimizer.zero_grad()
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
            F.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            optimizer.step()
    results = recording.results_of(tmp_path)
    claims = {claim.name: claim for claim in recording.claims(results)}
    assert claims["rescale-exact"].verdict == "holds" and claims["rescale-exact"].measured < 1e-4
    (one,) = overlays_of(results)
    assert one.name == "sgd(lr=0.1, momentum=0.9, weight_decay=0.01)"
