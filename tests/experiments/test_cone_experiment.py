"""The cone from somebody's checkpoints: end to end, against kernels in memory, and on motions that are known."""

import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from single_thread import one_thread  # noqa: F401  for every test here

from learndyn.__main__ import main
from learndyn.compare.intervals import half_width
from learndyn.errors import InputError
from learndyn.experiments import cone
from learndyn.experiments.cone import Settings
from learndyn.experiments.cone.claims import cone_claims
from learndyn.experiments.cone.kernels import GROUPS, probe_inputs
from learndyn.names import build_model, build_task
from learndyn.observables import kernel
from learndyn.record import read_record
from learndyn.run import run

MODEL, TASK = "mlp(width=8, depth=1)", "digits(batch_size=32)"
EXAMPLE = Path(__file__).parents[2] / "examples/tiny_transformer.py"
NAMES = ["kernel-keeps-moving", "reference-flattens", "cone-narrow", "kernel-confined"]
EVEN, UNEVEN = tuple(range(0, 55, 5)), (0, 1, 3, 10, 25, 30, 37, 41, 49)


def checkpoints(folder, steps=EVEN, seed=0, model=MODEL, task=TASK, lr=0.1):
    """A training of a second, by hand."""
    folder.mkdir()
    problem = build_task(task, seed)
    network = build_model(model, problem, seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    for step in range(max(steps) + 1):
        if step in steps:
            torch.save(network.state_dict(), folder / f"step-{step}.pt")
        optimizer.zero_grad()
        problem.loss(network, problem.batch(step)).backward()
        optimizer.step()
    return str(folder)


def asked(*folders, **changes):
    return replace(Settings(checkpoints=folders, model=MODEL, task=TASK, probe=16, dtype="float64"), **changes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("cone")


@pytest.fixture(scope="module")
def folder(place):
    return checkpoints(place / "first")


@pytest.fixture(scope="module")
def second(place):
    return checkpoints(place / "second", seed=1)


@pytest.fixture(scope="module")
def alone(place, folder):
    return run("cone", asked(folder), place / "runs", jobs=1)


@pytest.fixture(scope="module")
def in_memory(folder):
    """All kernels `(reduction, step, ...)` of the first run, by name of the reduction, and of a layer."""
    problem = build_task(TASK, 0)
    network = build_model(MODEL, problem, 0).double()
    inputs, _ = probe_inputs(problem, 16)
    found = {name: [] for name in ("trace", "full", "sum", "3")}
    for step in EVEN:
        network.load_state_dict(torch.load(Path(folder) / f"step-{step}.pt", weights_only=True))
        for name in ("trace", "full", "sum"):
            made = kernel(network, inputs.double(), reduction=name, layers=name == "trace")
            found[name].append(made.matrix)
            if name == "trace":
                found["3"].append(made.layers["3"])
    return {name: torch.stack(matrices) for name, matrices in found.items()}


def directions(matrices):
    flat = matrices.flatten(1)
    return flat / flat.norm(dim=1, keepdim=True)


def by_hand(matrices):
    """The four numbers of the claims, from the kernels themselves; late is from step 25 of 50 on."""
    unit = directions(matrices)
    late = unit[5:]
    mean = late.mean(0) / late.mean(0).norm()
    neighbours = float((1 - (late[1:] * late[:-1]).sum(1)).mean())
    away = 1 - late @ late[0]  # at 0, 5, ..., 25 steps: the second third are 10 and 15, the last 20 and 25
    angles = (late @ mean).clamp(-1, 1).arccos()
    lags = [1, 2, 3]
    means = [float((1 - (late[lag:] * late[:-lag]).sum(1)).mean()) for lag in lags]
    return (
        neighbours,
        float(away[4:].mean() / away[2:4].mean()),
        float(angles.mean() / (unit[0] @ mean).arccos()),
        float(np.polyfit(np.log(lags), np.log(means), 1)[0]),
    )


def test_numbers_are_those_of_kernels_in_memory(alone, in_memory):
    found = alone[1]["measured"].to_dataset()
    assert found.reduction.values.tolist() == ["trace", "full", "sum"] and found.kernel_step.values.tolist() == list(
        EVEN
    )
    for name in ("trace", "full", "sum"):
        unit = directions(in_memory[name])
        measured = found.sel(reduction=name).isel(seed=0)
        assert np.allclose(measured.kernel_cosine, unit @ unit.T, rtol=0, atol=1e-12)
        assert np.allclose(measured.kernel_norm, in_memory[name].flatten(1).norm(dim=1), rtol=1e-12)
        diagonal = in_memory[name].diagonal(dim1=1, dim2=2).mean(1)
        assert np.allclose(measured.kernel_trace, diagonal, rtol=1e-12)
        assert (measured.kernel_residual < 1e-10).all() and (abs(measured.kernel_alignment) <= 1).all()
    unit = directions(in_memory["3"])
    assert np.allclose(found.layer_cosine.sel(layer="3").isel(seed=0), unit @ unit.T, rtol=0, atol=1e-12)


def test_one_run_has_its_intervals_from_groups_of_inputs(alone, in_memory):
    claims = cone.claims(alone[1])
    assert [claim.name for claim in claims] == NAMES
    truth = by_hand(in_memory["trace"])
    groups = [torch.tensor([j for j in range(16) if j // 2 != i]) for i in range(GROUPS)]
    without = np.array([by_hand(in_memory["trace"][:, g][:, :, g]) for g in groups]).T
    for claim, value, left, ratio in zip(claims, truth, without, (True, True, True, False)):
        assert claim.measured == pytest.approx(value, rel=1e-6)
        assert all(map(math.isfinite, (claim.low, claim.high))) and claim.low < claim.measured < claim.high
        assert claim.method == f"90 % jackknife over {GROUPS} groups of probe inputs"
        half = half_width(np.log(left), 0.9) if ratio else half_width(left, 0.9)
        measured = math.log(claim.high / claim.measured) if ratio else claim.high - claim.measured
        assert measured == pytest.approx(half, rel=1e-5)


def test_two_runs_have_their_intervals_from_runs(place, folder, second, alone):
    record, results = run("cone", asked(folder, second), place / "runs", jobs=1)
    assert record.folder != alone[0].folder
    found = results["measured"].to_dataset()
    assert found.sizes["seed"] == 2
    same = found.kernel_cosine.isel(seed=0).values == alone[1]["measured"].kernel_cosine.isel(seed=0).values
    assert same.all()
    claims = cone.claims(results)
    assert [claim.name for claim in claims] == NAMES
    for claim in claims:
        assert all(map(math.isfinite, (claim.measured, claim.low, claim.high))) and "over 2 seeds" in claim.method
    assert "first" in cone.lead(results)[0] and "second" in cone.lead(results)[0]


def test_a_finished_run_is_found_and_a_killed_one_goes_on(alone, folder, place):
    record, results = alone
    stored = sorted(record.folder.glob("kernels/run-0/*/*.safetensors"))
    assert len(stored) == 3 * len(EVEN)
    times = {path: path.stat().st_mtime_ns for path in stored}
    done = []
    run("cone", asked(folder), place / "runs", jobs=1, progress=lambda what, units: done.append(units))
    assert done == []
    record.results_file.unlink()
    lost = record.folder / "kernels/run-0/trace/000020.safetensors"
    lost.unlink()
    _, again = run("cone", asked(folder), place / "runs", jobs=1, progress=lambda what, units: done.append(units))
    assert sum(done) == len(EVEN) == cone.work(asked(folder))
    assert {path: path.stat().st_mtime_ns for path in stored if path != lost} == {
        path: time for path, time in times.items() if path != lost
    }
    xr.testing.assert_identical(again["measured"].to_dataset(), results["measured"].to_dataset())


def test_the_command_line_writes_a_report(tmp_path, folder, capsys):
    words = ["run", "cone", "--checkpoints", folder, "--model", MODEL, "--task", TASK, "--probe", "8", "--jobs", "1"]
    assert main([*words, "--runs", str(tmp_path), "--no-tune"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in NAMES) and "11 checkpoints of mlp(width=8, depth=1)" in told
    (made,) = tmp_path.iterdir()
    page = (made / "report.html").read_text()
    assert "kernel-confined" in page and "kernel-way" in page
    assert [claim["name"] for claim in json.loads((made / "claims.json").read_text())] == NAMES
    assert {path.stem for path in (made / "figures").glob("*.png")} == {"kernel-distances", "kernel-way"}
    assert read_record(made).settings["checkpoints"] == [folder]


def report(results):
    """Everything that a report draws and says."""
    drawn = cone.figures(results)
    plt.close("all")
    words = [*cone.lead(results), *cone.notes(results)]
    return drawn, words, cone.tables(results)


def test_unevenly_spaced_checkpoints_leave_the_exponent_undecided(place):
    _, results = run("cone", asked(checkpoints(place / "uneven", UNEVEN)), place / "runs", jobs=1)
    claims = {claim.name: claim for claim in cone.claims(results)}
    assert list(claims) == NAMES and claims["kernel-confined"].verdict == "undecided"
    assert math.isnan(claims["kernel-confined"].measured)
    assert all(math.isfinite(claims[name].measured) for name in NAMES[:3])
    _, words, tables = report(results)
    assert "not evenly spaced" in words[1] and tables


@pytest.mark.parametrize("steps", [(0, 10, 20), (0, 1, 20)])
def test_three_checkpoints_are_too_few_for_claims_but_not_for_a_report(place, steps):
    folder = checkpoints(place / f"three{steps[1]}", steps)
    _, results = run("cone", asked(folder, probe=6), place / "runs", jobs=1)
    assert cone.claims(results) == []
    drawn, words, tables = report(results)
    assert len(drawn) == 2 and "too few late kernels" in words[1] and tables == []


@pytest.mark.parametrize("still", ["linear", "untrained"])
def test_a_kernel_that_stands_still_does_not_move(place, still, recwarn):
    """That of a linear model, and of a network that learns nothing."""
    model, lr = ("mlp(depth=0)", 0.1) if still == "linear" else (MODEL, 0.0)
    folder = checkpoints(place / still, model=model, lr=lr)
    _, results = run("cone", asked(folder, model=model, probe=6), place / "runs", jobs=1)
    claims = {claim.name: claim for claim in cone.claims(results)}
    assert claims["kernel-keeps-moving"].verdict == "fails" and claims["kernel-keeps-moving"].measured < 1e-14
    assert "holds" not in {claim.verdict for claim in claims.values()}
    if still == "linear":
        report(results)
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


def test_a_network_of_many_outputs_has_the_kernel_of_their_sum(place):
    model, task = f"{EXAMPLE}:transformer(width=8, heads=2, blocks=1)", f"{EXAMPLE}:text(sums=300)"
    folder = checkpoints(place / "transformer", tuple(range(0, 16, 2)), model=model, task=task)
    settings = asked(folder, model=model, task=task, probe=6)
    record, results = run("cone", settings, place / "runs", jobs=1)
    found = results["measured"].to_dataset()
    assert found.reduction.values.tolist() == ["sum"]
    assert [path.name for path in record.folder.glob("kernels/run-0/*") if path.is_dir()] == ["sum"]
    assert any("its kernel is that of their sum" in note for note in cone.notes(results))
    assert [claim.name for claim in cone.claims(results)] == NAMES
    assert np.isfinite(found.cosine_without).all()


def test_two_probe_inputs_have_no_groups(place, folder):
    _, results = run("cone", asked(folder, probe=2, reductions=("trace",)), place / "runs", jobs=1)
    claims = cone.claims(results)
    assert [c.verdict for c in claims] == ["undecided"] * 4 and {c.method for c in claims} == {
        "one run, too few inputs"
    }


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoints": ()}, "Say where the checkpoints lie: --checkpoints FOLDER, one folder a run"),
        ({"probe": 1}, "probe=1: a kernel between fewer than 2 inputs has no direction"),
        ({"reductions": ()}, "reductions is empty"),
        ({"reductions": ("trase",)}, "no reduction 'trase'; did you mean 'trace'"),
        ({"late": 1.0}, "late=1 is a fraction of the last step, between 0 and 1"),
        ({"late": math.nan}, "late=nan is a fraction"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"model": "mlp(width=9, depth=1)"}, r"'1.weight' is \(8, 64\) there and \(9, 64\) here"),
        ({"model": "mlp(width=8, depth=2)"}, "'5.bias' is in only one of the two"),
        ({"model": "resnet20"}, "resnet needs inputs of shape"),
        ({"task": "teacher(inputs=6, classes=3)"}, r"'1.weight' is \(8, 64\) there and \(8, 6\) here"),
        ({"task": "digts"}, "There is no task 'digts'; did you mean 'digits'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(tmp_path, folder, changes, told):
    with pytest.raises(InputError, match=told):
        run("cone", replace(asked(folder), **changes), tmp_path, jobs=1)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def test_folders_that_hold_no_run_are_refused(tmp_path, folder):
    settings = asked(str(tmp_path / "none"))
    with pytest.raises(InputError, match="^There is no folder .*none.$"):
        cone.validate(settings)
    few = tmp_path / "few"
    checkpoints(few, (0, 5))
    with pytest.raises(InputError, match="few holds 2 checkpoints whose names end with a step; .* at least three"):
        cone.validate(asked(str(few)))
    with pytest.raises(InputError, match="given twice"):
        cone.validate(asked(folder, f"{folder}/../first"))


def test_the_command_line_ends_with_status_2(tmp_path, folder, capsys):
    common = ["--runs", str(tmp_path / "runs"), "--no-tune", "--jobs", "1"]
    for words in (
        ["--checkpoints", str(tmp_path / "none")],
        ["--checkpoints", folder, "--model", "mlp(width=9, depth=1)"],
        ["--checkpoints", folder, "--model", MODEL, "--task", f"{EXAMPLE}:text"],
    ):
        assert main(["run", "cone", *words, *common]) == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith("learndyn: ") and "\n" not in told and "Traceback" not in told


STRANGE = """
import torch
from torch import nn

def words(*_, **__):
    return nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(96, 2))

def normed():
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2))
"""


@pytest.mark.parametrize(
    ("factory", "task", "told"),
    [("words", f"{EXAMPLE}:text(sums=300)", "IndexError"), ("normed", TASK, "ValueError")],
)
def test_a_model_that_does_not_take_the_inputs_is_named(tmp_path, factory, task, told):
    """Whatever it raises."""
    (tmp_path / "strange.py").write_text(STRANGE)
    model, folder = f"{tmp_path / 'strange.py'}:{factory}", tmp_path / "made"
    folder.mkdir()
    for step in (0, 1, 2):
        torch.save(build_model(model, build_task(task, 0), 0).state_dict(), folder / f"{step}.pt")
    with pytest.raises(InputError, match=f"The model .* does not take the inputs of the task .*: {told}: "):
        run("cone", asked(str(folder), model=model, task=task), tmp_path / "runs", jobs=1)


def test_a_damaged_checkpoint_does_not_cost_the_kernels_before_it(tmp_path):
    folder = checkpoints(tmp_path / "made", (0, 5, 10, 15))
    (tmp_path / "made" / "step-10.pt").write_bytes(b"")
    with pytest.raises(InputError, match="step-10.pt cannot be read"):
        run("cone", asked(folder, probe=4), tmp_path / "runs", jobs=1)
    assert len(list((tmp_path / "runs").glob("*/kernels/run-0/trace/*.safetensors"))) == 2


def test_runs_without_steps_in_common_are_refused(tmp_path, folder):
    other = checkpoints(tmp_path / "other", (1, 2, 3))
    with pytest.raises(InputError, match="The runs have 0 kernels at the same steps; a cone takes at least three"):
        run("cone", asked(folder, other, probe=4, reductions=("sum",)), tmp_path / "runs", jobs=1)


# Motions that are known.

COUNT, SIZE = 41, 4000
TIMES = np.arange(COUNT) * 10


def points(kind, seed):
    """Unit kernels `(step, size)` whose directions move as the name says; size large enough to be all but certain."""
    draw = np.random.default_rng(seed)
    axes = np.linalg.qr(draw.standard_normal((SIZE, 2)))[0].T
    noise = draw.standard_normal((COUNT, SIZE)) / math.sqrt(SIZE)
    if kind == "cone":  # a turn by 60 degrees in the first half, then jitter of 6 degrees
        angle = np.minimum(np.arange(COUNT) / (COUNT // 2), 1.0) * math.pi / 3
        found = np.cos(angle)[:, None] * axes[0] + np.sin(angle)[:, None] * axes[1] + 0.1 * noise
    elif kind == "jitter":
        found = axes[0] + 0.1 * noise
    elif kind == "walk":
        found = axes[0] + 0.06 * noise.cumsum(0)
    else:
        angle = 0.05 * np.arange(COUNT)
        found = np.cos(angle)[:, None] * axes[0] + np.sin(angle)[:, None] * axes[1]
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def synthetic(kind, seeds=3, times=TIMES):
    """What `dataset` makes of such kernels; a group is an eighth of their entries."""
    every = [points(kind, seed) for seed in range(seeds)]

    def cosines(x):
        gram = x @ x.T
        size = np.sqrt(gram.diagonal())
        return gram / size / size[:, None]

    pair = ("kernel_step", "other_step")
    without = [
        [cosines(np.delete(x, np.arange(g * SIZE // 8, (g + 1) * SIZE // 8), axis=1)) for g in range(8)] for x in every
    ]
    return xr.Dataset(
        {
            "kernel_cosine": (("seed", "reduction", *pair), np.stack([cosines(x) for x in every])[:, None]),
            "cosine_without": (("seed", "group", *pair), np.array(without)),
        },
        {"seed": range(seeds), "reduction": ["trace"], "kernel_step": times, "other_step": times},
    )


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("kind", "verdicts"),
    [
        ("cone", ["holds", "holds", "holds", "holds"]),
        ("jitter", ["holds", "holds", "fails", "holds"]),  # the first kernel lies in the cone as well
        ("walk", ["holds", "fails", "holds", "fails"]),
        ("straight", ["holds", "fails", "holds", "fails"]),
    ],
)
def test_known_motions_have_the_right_verdicts(kind, verdicts, seeds):
    claims = cone_claims(synthetic(kind, seeds), 0.5)
    assert [claim.name for claim in claims] == NAMES
    assert [claim.verdict for claim in claims] == verdicts
    exponent = {"cone": 0, "jitter": 0, "walk": 1, "straight": 2}[kind]
    assert claims[3].measured == pytest.approx(exponent, abs=0.12)
    flat = {"cone": 1, "jitter": 1, "walk": 5 / 3, "straight": 25 / 9}[kind]
    assert claims[1].measured == pytest.approx(flat, rel=0.1)


def test_scales_of_kernels_and_of_time_do_not_matter():
    plain = cone_claims(synthetic("walk"), 0.5)
    slow = cone_claims(synthetic("walk", times=TIMES * 7), 0.5)
    for one, other in zip(plain, slow):
        assert (one.measured, one.low, one.high) == pytest.approx((other.measured, other.low, other.high), rel=1e-9)


def test_too_few_late_kernels_make_no_claims():
    found = synthetic("cone", 1).isel(kernel_step=slice(0, 7), other_step=slice(0, 7))
    assert len(cone_claims(found, 0.5)) == 4 and cone_claims(found, 0.6) == []
