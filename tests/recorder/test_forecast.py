"""Charges of real training runs against their predictions from the first charge and the lengths of the steps."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.recorder import MARKS, Recorder, read
from learndyn.recorder.forecast import CURVES, forecast, score, segments
from learndyn.symmetries import find


def network(dtype=torch.float64, eps=1e-5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, eps=eps), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 5)),
        ).to(dtype)


def images(step, dtype=torch.float64):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(32, 1, 6, 6, generator=draw).to(dtype), torch.randint(0, 5, (32,), generator=draw)


def loop(model, optimizer, begin, end, scheduler=None):
    for step in range(begin, end):
        x, y = images(step, next(model.parameters()).dtype)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


@functools.cache
def laws_of(dtype):
    return find(network(dtype), images(0, dtype)[0][:8], certify=False).laws


def recorded(to, every, steps=60, dtype=torch.float64, eps=1e-5, schedule=None, **options):
    model = network(dtype, eps)
    optimizer = torch.optim.SGD(model.parameters(), **options)
    scheduler = schedule and torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    with Recorder(model, optimizer, laws_of(dtype), every=every, to=to):
        loop(model, optimizer, 0, steps, scheduler)
    return read(to)


def errors(record, curve="exact"):
    """By kind, the worst."""
    found = score(record, forecast(record)).sel(curve=curve)
    kinds = found.kind.values
    return {kind: float(np.nanmax(found.change_error.values[kinds == kind])) for kind in set(kinds)}


RUNS = {
    "plain": {"lr": 0.1, "weight_decay": 1e-2},
    "heavy": {"lr": 0.02, "momentum": 0.9, "weight_decay": 1e-2},
    "heavier": {"lr": 0.01, "momentum": 0.99, "weight_decay": 5e-2},
    "dampened": {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 1e-2},
    "scheduled": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "schedule": lambda k: math.cos(k / 50) ** 2},
    "warmed up": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "schedule": lambda k: min(1.0, k / 10)},
}


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize("name", RUNS)
def test_the_exact_law_is_exact_at_any_distance_of_rows(name, every, tmp_path):
    """Neural mechanics, rows 7, 10, 12 and 13: rescale and translation; and row 8, scale with the current of eps."""
    record = recorded(tmp_path, every, **RUNS[name])
    exact = errors(record)
    assert exact["rescale"] < 1e-11 and exact["translation"] < 1e-11 and exact["dead"] < 1e-11
    assert 1e-8 < exact["scale"] < 1e-2
    with_current = errors(record, "with_current")
    assert with_current["scale"] < (1e-11 if every == 1 else exact["scale"])


def test_without_eps_scale_is_exact_too(tmp_path):
    assert errors(recorded(tmp_path, 5, eps=1e-30, **RUNS["heavy"]))["scale"] < 1e-11


@pytest.mark.parametrize("every", [1, 6])
def test_the_laws_of_the_paper_err_by_what_they_leave_out(every, tmp_path):
    """Rows 9 and 11: the order of the errors, and that decay alone is far off."""
    plain = recorded(tmp_path / "plain", every, **RUNS["plain"])
    assert 1e-5 < errors(plain, "continuous")["rescale"] < 5e-3
    assert errors(plain, "decay_only")["rescale"] > 0.05 and errors(plain, "gradient_flow")["rescale"] == 1
    heavy = recorded(tmp_path / "heavy", every, **RUNS["heavy"])
    rest, started = errors(heavy, "continuous")["rescale"], errors(heavy, "started")["rescale"]
    assert 1e-5 < rest < 2e-2 and started < rest / 5


def test_sums_in_single_precision_lose_seven_digits(tmp_path):
    """Row 14: 3e-6 to 7e-6 after 800 steps."""
    found = errors(recorded(tmp_path, 4, dtype=torch.float32, **RUNS["heavy"]))
    assert found["rescale"] < 2e-5 and found["translation"] < 2e-4


def test_a_prediction_begins_anew_where_training_was_interfered_with(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **RUNS["heavy"])
    with Recorder(model, optimizer, laws_of(torch.float64), every=1, to=tmp_path):
        loop(model, optimizer, 0, 20)
        with torch.no_grad():
            model[4].weight.mul_(1.5)
        loop(model, optimizer, 20, 50)
    record = read(tmp_path)
    (first, second) = segments(record)
    assert first == (0, 20, False) and second == (21, 50, True)
    assert (record.mark.values > 0).nonzero()[0].tolist() == [21]
    found = score(record, forecast(record)).sel(curve="exact")
    assert float(found.change_error[found.kind.values == "rescale"].max()) < 1e-10


def test_a_run_that_goes_on_from_a_checkpoint_with_its_momentum(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **RUNS["heavy"])
    loop(model, optimizer, 0, 20)
    with Recorder(model, optimizer, laws_of(torch.float64), every=1, to=tmp_path, step=20):
        loop(model, optimizer, 20, 50)
    assert errors(read(tmp_path))["rescale"] < 1e-10


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda m: torch.optim.AdamW(m.parameters(), 1e-2), "AdamW is not SGD"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.1, 0.9, nesterov=True), "Nesterov"),
        (lambda m: torch.optim.SGD(m.parameters(), 0.01, maximize=True), "maximised"),
        (
            lambda m: torch.optim.SGD(
                [
                    {"params": [p for p in m.parameters() if p.ndim == 1], "weight_decay": 0.0},
                    {"params": [p for p in m.parameters() if p.ndim > 1], "weight_decay": 0.1},
                ],
                0.1,
            ),
            "differ in weight_decay",
        ),
    ],
)
def test_what_no_recursion_holds_for_is_said(make, why, tmp_path):
    model = network()
    optimizer = make(model)
    with Recorder(model, optimizer, laws_of(torch.float64), every=2, to=tmp_path):
        loop(model, optimizer, 0, 6)
    predicted = forecast(read(tmp_path))
    refused = predicted.why.values != ""
    assert why in str(predicted.why.values[0]) and refused[:3].all()
    owner = predicted.law_of.values
    assert all(np.isnan(predicted[name].values[:, refused[owner]]).all() for name in CURVES)
    assert np.isfinite(predicted.exact.values[:, ~refused[owner]]).all()


def test_charges_that_stand_still_are_not_scored(tmp_path):
    record = recorded(tmp_path, 3, steps=9, lr=0.1)
    found = score(record, forecast(record))
    still = found.kind.values == "translation"
    assert (found.moved.values[still] < 1e-12).all() and np.isnan(found.change_error.values[still]).all()


def test_a_record_without_laws_or_rows(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Recorder(model, optimizer, (), {"size": lambda state: 1.0}, to=tmp_path / "none"):
        loop(model, optimizer, 0, 2)
    with pytest.raises(InputError, match="There is no law in this record"):
        forecast(read(tmp_path / "none"))
    record = recorded(tmp_path / "short", 1, steps=3, lr=0.1)
    record.mark[1:] = MARKS["weights_changed_between_steps"]
    with pytest.raises(InputError, match="no two rows without a break"):
        score(record, forecast(record))
