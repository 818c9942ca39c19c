"""Two-phase, end to end on a small grid, and its claims on results made by hand."""

import copy
import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from learndyn.__main__ import documented
from learndyn.dynamics import KINDS
from learndyn.dynamics.determinism import deterministic
from learndyn.errors import InputError
from learndyn.experiments import two_phase
from learndyn.experiments.two_phase import PRESETS, Settings, grid
from learndyn.experiments.two_phase.claims import transitions
from learndyn.noise import key
from learndyn.record import silent
from learndyn.run import run

SMALL = Settings(
    task="digits(label_noise=0.2)",
    model="mlp(width=16, depth=2, batch_norm=True)",
    optimizer="sgd(lr=0.3, momentum=0.9, weight_decay=5e-4)",
    steps=40,
    t0=(0, 10, 20),
    t1=(10, 20, 40),
    horizons=(5, 10),
    seeds=1,
    directions=2,
    probes=2,
    points=3,
    kernels=9,
    probe=8,
    switches=(0, 20),
    engine="loop",
)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    return run("two-phase", SMALL, root, jobs=1)


def test_one_cell_against_a_plain_loop(small):
    """The twin of t0 = 10, direction 1, and its base, trained by torch alone: the same distance to the last bit."""
    _, results = small
    with deterministic("cpu", 1):
        state = grid.initial_state(SMALL, 0)
        base, optimizer = copy.deepcopy((state.model, state.optimizer))

        def go(model, optimizer, first, last):
            for step in range(first, last):
                for group in optimizer.param_groups:
                    group["lr"] = 0.3 * 0.5 * (1 + math.cos(math.pi * step / 40))
                inputs, targets = state.task.batch(step)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model.train()(inputs), targets).backward()
                optimizer.step()

        go(base, optimizer, 0, 10)
        trunk = replace(state, step=10, model=base, optimizer=optimizer)
        twin, survival = KINDS["gaussian"](trunk, 1e-7, key(0, "perturbation", 10, 1) % 2**63)
        go(base, optimizer, 10, 40)
        go(twin.model, twin.optimizer, 10, 40)
        apart = torch.cat([(a - b).flatten() for a, b in zip(base.parameters(), twin.model.parameters())]).norm().item()
    cell = results["measured"].to_dataset().sel(seed=0, direction=1, t0=10, t1=40)
    assert float(cell.distance) == apart
    assert float(cell.log_growth) == math.log(apart / survival.realised)


def test_shape_of_the_results(small):
    record, results = small
    measured, predicted = results["measured"].to_dataset(), results["predicted"].to_dataset()
    empty = measured.t1 <= measured.t0
    for name in ("distance", "dissimilarity", "disagreement", "log_growth", "loss_barrier"):
        assert bool((measured[name].isnull() == empty).all()), name
    assert float(measured.control_distance.max()) == 0.0
    assert measured.log_growth.attrs["units"] == predicted.log_growth.attrs["units"] == "nats"
    assert bool((measured.perturbation_realised / 1e-7 - 1 < 1e-6).all()) and bool(
        (measured.perturbation_changed == 1).all()
    )
    at = {"t0": 10, "direction": 0, "seed": 0}
    assert float(measured.log_growth_after.sel(horizon=10, **at)) == float(measured.log_growth.sel(t1=20, **at))
    assert bool((measured.loss_barrier.sel(convention="chord").fillna(0) >= 0).all())
    assert sorted(path.name for path in (record.folder / "states" / "seed-0").iterdir())[-1] == "000040.safetensors"


def test_a_finished_run_is_found(small):
    record, results = small
    before = record.results_file.stat().st_mtime_ns
    again, found = run("two-phase", SMALL, record.folder.parent, jobs=1)
    assert again.folder == record.folder and record.results_file.stat().st_mtime_ns == before
    assert found["measured"].to_dataset().identical(results["measured"].to_dataset())


def test_engines_agree_while_twins_are_close(small, tmp_path):
    _, looped = small
    _, batched = run("two-phase", replace(SMALL, engine="vmap", probes=0), tmp_path, jobs=1)
    assert float(batched["measured"].control_distance.max()) == 0.0
    a, b = (tree["measured"].to_dataset().log_growth.values for tree in (looped, batched))
    kept = np.isfinite(a)
    # The base differs by rounding, 1e-15; growth of 1e-7 perturbations agrees to that over the perturbation.
    assert np.abs(a - b)[kept].max() < 1e-4


def test_float32_says_that_rounding_drives_it(tmp_path):
    settings = replace(
        SMALL, dtype="float32", steps=4, t0=(0, 1), t1=(4,), horizons=(), probes=0, seeds=1, directions=1
    )
    _, results = run("two-phase", settings, tmp_path, jobs=1)
    assert any(note.startswith("Rounding-driven") for note in two_phase.notes(results))


def test_divergence_names_the_step(tmp_path):
    with pytest.raises(InputError, match=r"seed 0 diverged at step \d+ \(loss (nan|inf)\)"):
        run("two-phase", replace(SMALL, optimizer="sgd(lr=1e12, weight_decay=1.0)"), tmp_path, jobs=1)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_documented(name):
    two_phase.validate(replace(PRESETS[name], device="cpu"))
    assert {field.name for field in dataclasses.fields(Settings)} == set(documented(Settings))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t0": (0, 40)}, "beyond the end"),
        ({"t1": (41,)}, "beyond the end"),
        ({"t0": (20,), "t1": (10,)}, "nothing would be compared"),
        ({"t0": (5, 5)}, "increase"),
        ({"t0": ()}, "at least one"),
        ({"seeds": 0}, "seeds=0"),
        ({"directions": -1}, "directions=-1"),
        ({"epsilon": 0.0}, "positive"),
        ({"epsilon": math.nan}, "positive and finite"),
        ({"points": 2}, "inside"),
        ({"probes": -1}, "probes=-1"),
        ({"perturbation": "gausian"}, "did you mean 'gaussian'"),
        ({"device": "quantum"}, "no device"),
    ],
)
def test_settings_that_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        two_phase.validate(replace(SMALL, **change))


def made_up(barrier, disagreement, growth, predicted, seeds=3, kinks=0.0):
    """Results with given curves over t0, the same for all seeds but for a factor close to 1."""
    settings = replace(PRESETS["quick"], seeds=seeds, directions=2)
    table = two_phase.gather(settings, Path("/nowhere"))
    measured, law = table["measured"].to_dataset(), table["predicted"].to_dataset()
    t0 = measured.t0.values.astype(float)
    factor = xr.DataArray(1 + 0.02 * np.arange(seeds), dims="seed", coords={"seed": measured.seed})

    def curve(function):
        return factor * xr.DataArray([function(t) for t in t0], dims="t0", coords={"t0": measured.t0})

    filled = {name: values.copy() for name, values in measured.data_vars.items()}
    for name, function in {"disagreement": disagreement, "log_growth": growth, "kinks": lambda t: kinks}.items():
        filled[name] = (filled[name].fillna(0) + curve(function)).transpose(*filled[name].dims)
    filled["loss_barrier"] = (filled["loss_barrier"].fillna(0) + curve(barrier)).transpose(*filled["loss_barrier"].dims)
    distance = 1e-7 * np.exp(filled["log_growth"])
    filled |= {
        "relative_distance": distance / 30,
        "dissimilarity": distance**2 / 1800,
        "control_distance": filled["control_distance"].fillna(0),
    }
    filled |= {
        "perturbation_realised": filled["perturbation_realised"].fillna(1e-7),
        "base_norm": filled["base_norm"].fillna(30.0),
    }
    filled["log_growth_after"] = (filled["log_growth_after"].fillna(0) + curve(growth)).transpose(
        *filled["log_growth_after"].dims
    )
    law["log_growth"] = (law.log_growth.fillna(0) + curve(predicted)).transpose(*law.log_growth.dims)
    tree = xr.DataTree.from_dict({"/measured": measured.assign(filled), "/predicted": law})
    tree.attrs["settings"] = table.attrs["settings"]
    return tree


def falls(height, middle, steepness=6):
    return lambda t: height / (1 + (t / middle) ** steepness)


def verdicts(results):
    return {claim.name: claim.verdict for claim in two_phase.claims(results)}


def test_claims_on_a_clear_transition():
    growth = falls(19.0, 600, 8)
    results = made_up(falls(0.3, 150), falls(0.2, 400, 8), growth, growth)
    found = transitions(results)
    assert found["loss_barrier"].time == pytest.approx(150, rel=0.1) and found["disagreement"].time == pytest.approx(
        400, rel=0.1
    )
    assert set(verdicts(results).values()) == {"holds"}


def test_claims_where_the_chaos_never_ends():
    results = made_up(lambda t: 0.3, lambda t: 0.5, lambda t: 19.0, lambda t: 25.0, kinks=5.0)
    assert {str(t.verdict) for name, t in transitions(results).items()} == {"no transition: chaotic throughout"}
    found = verdicts(results)
    assert found["amplification-falls"] == found["barrier-vanishes"] == found["disagreement-vanishes"] == "fails"
    assert found["basin-before-function"] == "undecided"
    assert "chaotic throughout" in two_phase.lead(results)[1]


def test_claims_where_the_chaos_never_begins():
    results = made_up(lambda t: 0.0, lambda t: 0.0, lambda t: 0.1, lambda t: 0.1)
    assert {str(t.verdict) for t in transitions(results).values()} == {"no transition: stable from the start"}
    found = verdicts(results)
    assert found["amplification-falls"] == found["chaos-early"] == "fails" and found["prediction-meets"] == "holds"


def test_a_wrong_prediction_fails():
    growth = falls(15.0, 600, 8)
    assert (
        verdicts(made_up(falls(0.3, 150), falls(0.2, 400, 8), growth, falls(8.0, 300)))["prediction-meets"] == "fails"
    )


def test_settings_travel_with_the_results(small):
    record, results = small
    assert json.loads(results.attrs["settings"]) == record.settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "change", "verdict"),
    [
        (
            "control-stable",
            {"steps": 300, "t0": (0, 30, 60, 100, 150), "t1": (300,)},
            "no transition: stable from the start",
        ),
        (
            "control-chaotic",
            {"steps": 400, "t0": (0, 30, 60, 100, 150), "t1": (400,)},
            "no transition: chaotic throughout",
        ),
    ],
)
def test_controls(preset, change, verdict, tmp_path):
    settings = replace(
        PRESETS[preset],
        **change,
        horizons=(),
        seeds=1,
        directions=1,
        probes=0,
        points=3,
        control=False,
        kernels=0,
        switches=(),
    )
    _, results = run("two-phase", settings, tmp_path, jobs=1, progress=silent)
    assert transitions(results)["disagreement"].verdict == verdict
