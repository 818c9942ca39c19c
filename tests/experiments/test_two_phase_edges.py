"""Grids at the edge of what is allowed: late first starts, a comparison before the end, one start, missing files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from learndyn.errors import InputError
from learndyn.experiments import two_phase
from learndyn.experiments.two_phase import Settings
from learndyn.record import open_record, plain
from learndyn.run import run, with_sources

SMALL = Settings(
    task="teacher(examples=160, test_examples=60, inputs=6, classes=3, label_noise=0.2, batch_size=16)",
    model='mlp(width=8, depth=1, activation="tanh")',
    optimizer="sgd(lr=0.2, momentum=0.9)",
    steps=40,
    t0=(0, 20),
    t1=(24,),
    horizons=(),
    seeds=1,
    directions=6,
    probes=6,
    points=3,
    engine="loop",
)


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Twins are compared at step 24 of 40, and some are made after that."""
    return run("two-phase", replace(SMALL, t0=(0, 12, 20, 30)), tmp_path_factory.mktemp("early"), jobs=1)


def test_the_prediction_is_for_the_step_at_which_it_is_compared(early):
    _, results = early
    measured, predicted = results["measured"].to_dataset(), results["predicted"].to_dataset()
    assert predicted.t1.values.tolist() == measured.t1.values.tolist() == [24]
    growth = 0.5 * np.log(np.exp(2 * measured.log_growth).mean("direction"))
    law, error = predicted.log_growth.isel(t1=0, seed=0), predicted.log_growth_error.isel(t1=0, seed=0)
    assert np.isnan(law.values).tolist() == [False, False, False, True]  # made at 30, never compared
    # Six directions and six probes of a network of 83 weights: the scatter of both, five times over.
    assert (np.abs(growth.isel(t1=0, seed=0) - law)[:3] < 5 * np.hypot(error[:3], 0.05)).all()
    assert {claim.name for claim in two_phase.claims(results)} >= {"prediction-meets", "control", "barrier-vanishes"}


def test_twins_made_after_the_last_comparison_are_empty(early):
    _, results = early
    late = results["measured"].to_dataset().sel(t0=30)
    assert all(late[name].isnull().all() for name in ("distance", "log_growth", "loss_barrier", "disagreement"))
    assert late.perturbation_realised.notnull().all()


def test_one_late_start(tmp_path):
    """The control is made with the first twin, and nothing is stored before."""
    record, results = run("two-phase", replace(SMALL, t0=(10,), directions=1, probes=1, switches=()), tmp_path, jobs=1)
    assert sorted(path.stem for path in record.folder.glob("states/*/*")) == ["000010", "000040"]
    assert float(results["measured"].control_distance.max()) == 0.0
    assert two_phase.claims(results) and two_phase.tables(results) and all(two_phase.lead(results))


def test_a_missing_row_is_empty_and_an_alien_one_refused(early, tmp_path):
    record, _ = early
    settings = replace(SMALL, t0=(0, 12, 20, 30))
    folder = tmp_path / "records" / "seed-0"
    folder.mkdir(parents=True)
    content = json.loads((record.folder / "records/seed-0/000024.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["t0"] != 12]
    (folder / "000024.json").write_text(json.dumps(content))
    gathered = two_phase.gather(settings, tmp_path)["measured"].to_dataset()
    assert gathered.log_growth.sel(t0=12).isnull().all() and gathered.log_growth.sel(t0=20).notnull().all()
    content["rows"][-1]["t0"] = 13
    (folder / "000024.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="000024.json is damaged"):
        two_phase.gather(settings, tmp_path)


def test_folders_are_named_by_every_setting(tmp_path):
    """And by nothing else: the digests of built-in names are empty."""
    changes = {
        "steps": 41, "t0": (0, 19), "t1": (23,), "horizons": (3,), "epsilon": 1e-8, "seeds": 2, "directions": 1,
        "probes": 1, "points": 5, "threads": 2, "control": False, "engine": "auto", "dtype": "float32",
        "perturbation": "relative", "task": "digits", "model": "mlp", "optimizer": "sgd", "schedule": "constant",
        "kernels": 7, "probe": 7, "reductions": ("sum",), "late": 0.4, "switches": (3,),
        "data_dir": "data", "device": "cpu:0", "sources": ("abc",),
    }  # fmt: skip
    assert changes.keys() == plain(SMALL).keys()
    names = {
        open_record(tmp_path, "two-phase", plain(replace(SMALL, **{k: v}))).folder.name for k, v in changes.items()
    }
    names |= {open_record(tmp_path, experiment, plain(SMALL)).folder.name for experiment in ("two-phase", "other")}
    assert len(names) == len(changes) + 2
    assert with_sources(SMALL) == SMALL
