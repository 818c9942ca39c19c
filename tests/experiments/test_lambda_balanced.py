"""From lazy to rich, end to end on short runs: claims hold, and fail with a broken law."""

import dataclasses
import math
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from single_thread import one_thread  # noqa: F401

from learndyn.__main__ import documented
from learndyn.errors import InputError
from learndyn.experiments import lambda_balanced
from learndyn.experiments.lambda_balanced import PRESETS, Settings, nets, overlay, sequences, shapes, starts, tree
from learndyn.experiments.lambda_balanced.gather import read_part
from learndyn.laws import balanced as law
from learndyn.models.balanced import sample_balanced
from learndyn.record import silent
from learndyn.report import page
from learndyn.run import run

TINY = Settings(
    lams=(-2.0, 0.5),
    rate=0.03,
    steps=80,
    halvings=2,
    seeds=2,
    tree_lams=(-20.0, -10.0, 0.0, 10.0, 20.0),
    tree_steps=280,
    shapes=("3,3,3", "2,2,4", "4,5,5"),
    shape_lams=(-100.0, -10.0, 0.0, 10.0, 100.0),
    tasks=4,
    sequence=2,
    sequence_steps=150,
    reversal_lams=(0.0, 1e-3, 1.0),
    sizes=(6,),
    trials=2,
    trial_steps=50,
    map_shapes=("4,6,2", "3,3,3"),
    map_points=3,
    map_steps=20,
    saddles=6,
)


def patched(patch):
    patch.setattr(starts, "RATE", 0.06)
    patch.setattr(starts, "DRAWS", 6)
    patch.setattr(starts, "ETAS", (0.08, 0.04))
    patch.setattr(starts, "SIZES", (2, 3))
    patch.setattr(shapes, "STEPS", 100)
    patch.setattr(shapes, "LATE_STEPS", 300)
    patch.setattr(starts, "STAGES", 4)
    patch.setattr(starts, "STEP", 0.04)
    patch.setattr(tree, "STARTS", {name: s for name, s in tree.STARTS.items() if name != "λ = 10" and s[0] != -10})
    patch.setattr(sequences, "RATE", 0.1)
    patch.setattr(sequences, "SEEN", 10)
    patch.setattr(tree, "SEEN", 8)
    patch.setattr(overlay, "SEEN", 10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        return run("lambda-balanced", TINY, tmp_path_factory.mktemp("tiny"), jobs=1)


@pytest.fixture(scope="module")
def claims(tiny):
    return by_name(tiny[1])


def by_name(results):
    with pytest.MonkeyPatch.context() as patch:
        patched(patch)
        return {claim.name: claim for claim in lambda_balanced.claims(results)}


#: Too few replicates here for an interval that decides.
FEW = {"half-never-learn", "large-gaussian-keeps-its-start", "gaussian-is-not-exact", "small-gaussian-is-nearly"}
FEW |= {"relu-off-diagonal", "tanh-trace", "descent-leaves"}


def test_the_claims_hold(claims):
    decided = {name: claim for name, claim in claims.items() if name not in FEW and claim.verdict != "undecided"}
    assert [str(c) for c in claims.values() if c.verdict == "fails"] == []
    assert len(decided) > 30
    open_ = [n for n, c in claims.items() if c.verdict == "undecided" and n not in FEW]
    assert all(n.startswith(("lazy", "not-lazy", "delay", "tree-modes")) for n in open_), (
        open_
    )  # of two seeds or four tasks
    assert {"lazy(3,3,3; -100)", "lazy(2,2,4; -100)", "not-lazy(2,2,4; 100)", "delay(2,2,4; 100)"} <= set(claims)
    assert "lazy(4,5,5; -100)" not in claims  # there is no such network


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("error-halves", 0.95, 1.05),
        ("lazy(3,3,3; 100)", -4.1, -3.8),
        ("tree-learning-time", 0.9, 1.0),
        ("reversal-never", 0.999, 1.001),
        ("tanh-trace", 0.05, 2.0),
        ("gaussian-is-not-exact", 0.1, 1.0),
        ("small-gaussian-is-nearly", 1.7, 2.4),
        ("descent-leaves", 0.8, 1.2),
    ],
)
def test_numbers_come_out_as_known(claims, name, low, high):
    assert low < claims[name].measured < high


def replaced(results, part):
    """The results with what one part measured and predicted put in place."""
    said = {n: n.removeprefix("predicted_") for n in part.data_vars if n.startswith("predicted_")}
    groups = {"measured": part.drop_vars(list(said)), "predicted": part[list(said)].rename(said)}
    made = {
        f"/{name}": results[name].to_dataset().drop_vars(list(new.data_vars)).merge(new, compat="override")
        for name, new in groups.items()
    }
    tree = xr.DataTree.from_dict(made)
    tree.attrs.update(results.attrs)
    return tree


@pytest.mark.filterwarnings("ignore:The start")
def test_a_broken_exact_solution_is_found_out(tiny, monkeypatch):
    right = law.exact

    def late(w1, w2, sigma, times, *rest):
        return right(w1, w2, sigma, 1.2 * times, *rest)

    patched(monkeypatch)
    monkeypatch.setattr(law, "exact", late)
    moved = by_name(replaced(tiny[1], shapes.measure_shapes(TINY, silent)))["kernel-moves-as-said"]
    assert moved.verdict != "holds" and moved.measured > 0.09
    reversed_ = by_name(replaced(tiny[1], sequences.measure_reversal(TINY, silent)))
    assert reversed_["reversal-relearned"].verdict == "fails" and reversed_["reversal-crossing"].verdict == "holds"


def test_a_broken_curve_is_found_out(tiny, monkeypatch):
    right = law.curves
    patched(monkeypatch)
    monkeypatch.setattr(law, "curves", lambda w1, w2, x, y, times: right(w1, 1.1 * w2, x, y, times))
    one = overlay.measure_overlay(replace(TINY, steps=40), 0, silent)
    claims = by_name(replaced(tiny[1], xr.concat([one, one], "seed").assign_coords(seed=[0, 1])))
    assert claims["flow-is-exact"].verdict == "fails" and claims["bookkeeping"].verdict == "holds"
    for name in ("descent-follows", "representations-follow"):
        assert claims[name].verdict != "holds" and claims[name].measured > 0.05


@pytest.mark.filterwarnings("ignore:The start")
def test_broken_laws_of_reversal_and_of_determinants_are_found_out(tiny, monkeypatch):
    monkeypatch.setattr(law, "reversal_time", lambda s, lam: 1.0 / s)
    assert by_name(replaced(tiny[1], sequences.measure_reversal(TINY, silent)))["reversal-crossing"].verdict == "fails"
    patched(monkeypatch)
    monkeypatch.setattr(starts, "SIZES", (3,))
    monkeypatch.setattr(law, "plateau", lambda product, sigma: 0.125 * float(torch.linalg.det(product) > 0))
    part = starts.measure_saddles(replace(TINY, saddles=8), silent)
    old = tiny[1]["measured"].to_dataset().drop_dims(["saddle", "width", "leaving"])
    rest = tiny[1]["predicted"].to_dataset().drop_dims(["saddle", "width"])
    said = part[["predicted_stopped_loss"]].rename(predicted_stopped_loss="stopped_loss")
    whole = {"/measured": old.merge(part[["stopped_loss", "left"]])}
    made = xr.DataTree.from_dict(whole | {"/predicted": rest.merge(said)})
    made.attrs.update(tiny[1].attrs)
    assert by_name(made)["determinants-decide"].verdict == "fails"


def test_infeasible_cells_are_empty_and_all_others_are_there(tiny):
    moved = tiny[1]["predicted"].moved
    assert np.isnan(moved.sel(shape="4,5,5", shape_lam=[-100.0, -10.0])).all()
    assert np.isfinite(moved.sel(shape=["3,3,3", "2,2,4"])).all()
    assert np.isfinite(tiny[1]["predicted"].map_moved).all() and np.isfinite(tiny[1]["measured"].map_data).all()


def test_inputs_that_are_not_white_are_integrated_and_the_report_says_so(tiny, monkeypatch):
    task = "linear_teacher(examples=9, inputs=3, outputs=2, white=False, spread=3.0, noise=0.1)"
    settings = replace(TINY, task=task, hidden=2, steps=60, rate=0.01)
    patched(monkeypatch)
    lambda_balanced.validate(settings)
    found = overlay.measure_overlay(settings, 0, silent)
    assert set(found.engine.values) == {"integrated"} and float(found.error_function.max()) < 0.03
    assert float(found.flow_error.max()) < 1e-7 and float(found.books_error.max()) < 1e-12
    assert float(found.error_loss.max()) < 0.03 and float(found.error_kernel_distance.max()) < 0.03
    made = tiny[1].copy()
    both = xr.concat([found, found], "seed")
    made["measured"] = xr.DataTree(
        tiny[1]["measured"].to_dataset().assign(engine=both.engine.astype(str), why=both.why.astype(str))
    )
    assert any("not the closed form but integrated: E[xx'] differs" in note for note in lambda_balanced.notes(made))


def test_a_finished_part_is_found_and_a_damaged_one_named(tiny, tmp_path):
    target = tiny[0].folder / "records" / "saddles.nc"
    stamp, reported = target.stat().st_mtime_ns, []
    lambda_balanced.measure("saddles", TINY, tiny[0].folder, lambda what, units: reported.append(what))
    assert target.stat().st_mtime_ns == stamp and reported == ["found"]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "tree-0.nc").write_bytes(b"torn")
    with pytest.raises(InputError, match="tree-0.nc is missing or damaged .* delete it and run again"):
        lambda_balanced.gather(TINY, tmp_path)


def test_a_part_comes_out_the_same_again(tiny, tmp_path, monkeypatch):
    patched(monkeypatch)
    lambda_balanced.measure("sequence-1", replace(TINY, seeds=3), tmp_path, silent)
    xr.testing.assert_identical(read_part(tmp_path, "sequence-1"), read_part(tiny[0].folder, "sequence-1"))


def test_the_report_of_lambda_balanced(tiny, monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "_save", lambda figure, folder: (drawn.append(figure.name), plt.close("all"), "")[2])
    claims = page.write_report(tiny[0], lambda_balanced, tiny[1])
    text = (tiny[0].folder / "report.html").read_text()
    assert len({claim.name for claim in claims}) == len(claims) > 40
    for words in ("How far the kernel moves, by shape", "Reversal", "What training conserves", "delayed rich", "never"):
        assert words in text
    names = "overlay errors tree tree-scores shapes map map-data sequence reversal starts saddles"
    assert drawn == names.split()


# The batched networks


def test_runge_kutta_is_of_fourth_order_and_descent_of_first():
    rng = np.random.default_rng(0)
    w1, w2 = (m[None] for m in sample_balanced((3, 3, 3), (0.5,), rng))
    sigma = torch.from_numpy(rng.standard_normal((3, 3)))
    said = law.exact(w1[0], w2[0], sigma, torch.tensor([2.0])).function[0]

    def off(go, steps):
        path = go(w1, w2, nets.field(sigma), torch.tensor([2.0 / steps], dtype=torch.float64), steps, [steps])
        return float((path[1][0, 0] @ path[0][0, 0] - said).abs().max())

    assert off(nets.follow, 20) / off(nets.follow, 40) == pytest.approx(16, rel=0.2)
    assert off(nets.descend, 400) / off(nets.descend, 800) == pytest.approx(2, rel=0.1)


def test_looks_begin_and_end_with_the_run():
    at = nets.looks(1000, 50)
    assert at[0] == 0 and at[-1] == 1000 and at == sorted(set(at)) and 40 <= len(at) <= 50


def test_when_a_loss_is_learned_is_interpolated():
    times = torch.linspace(0, 10, 21, dtype=torch.float64)
    assert tree.learned(times, (-times).exp(), 1e-3) == pytest.approx(math.log(1e3), rel=1e-12)
    assert math.isnan(tree.learned(times, torch.ones(21), 1e-3)) and tree.learned(times, torch.zeros(21), 1e-3) == 0


def test_crossings_are_interpolated():
    times = torch.tensor([0.0, 1.0, 2.0])
    assert sequences._crossing(times, torch.tensor([3.0, 1.0, -1.0])) == pytest.approx(1.5)
    assert sequences._crossing(times, torch.ones(3)) == math.inf


# Settings


def test_options_of_lambda_balanced_are_documented():
    assert set(documented(Settings)) == {field.name for field in dataclasses.fields(Settings)}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_of_lambda_balanced_are_valid(preset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lambda_balanced.validate(PRESETS[preset])
    assert len(set(lambda_balanced.parts(PRESETS[preset]))) == 3 * PRESETS[preset].seeds + 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"halvings": 1}, "halvings=1 must be at least 2"),
        ({"depth": 9}, "depth=9 of the tree"),
        ({"lams": (1.0, -1.0)}, r"lams=\(1.0, -1.0\) must be finite and increase"),
        ({"reversal_lams": (-1.0, 1.0)}, "are sizes"),
        ({"rate": 0.5}, "rate=0.5 must lie in"),
        ({"shapes": ("5,5",)}, 'written "d,h,c"'),
        ({"shapes": ("5,0,5",)}, "has a width below 1"),
        ({"map_shapes": ("5,5,5", "5,5,5")}, "none of them twice"),
        ({"sizes": (40, 10)}, r"sizes=\(40, 10\) must be at least 2 and increase"),
        ({"hidden": 4}, "lambda < 0 needs h <= d"),
        ({"task": "digits"}, "needs inputs .* and real targets"),
        ({"task": "linear_techer"}, "There is no task 'linear_techer'"),
    ],
)
def test_wrong_settings_of_lambda_balanced_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        lambda_balanced.validate(replace(TINY, **change))
