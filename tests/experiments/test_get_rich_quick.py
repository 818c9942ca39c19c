"""Get rich quick, end to end at small sizes: claims, broken laws, bad settings, runs that are killed, own models."""

import math
from dataclasses import fields, replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from no_pictures import no_pictures  # noqa: F401  for every test here
from single_thread import one_thread  # noqa: F401  for every test here

from learndyn.compare import Crossing
from learndyn.errors import InputError
from learndyn.experiments import get_rich_quick
from learndyn.experiments.get_rich_quick import PRESETS, Settings, grids, grokking, neuron, overlay, trees
from learndyn.experiments.get_rich_quick.claims import _grokking as claims_of_grokking
from learndyn.experiments.get_rich_quick.claims import crossings, half_way, medians
from learndyn.experiments.get_rich_quick.gather import measure, read_part
from learndyn.experiments.get_rich_quick.planar import REACH, regions
from learndyn.laws import neuron as law
from learndyn.laws.linear.bias import implicit_bias
from learndyn.models.grokking_transformer import grokking_transformer
from learndyn.names import build_model
from learndyn.record import silent
from learndyn.report.page import write_report
from learndyn.run import run

SMALL = Settings(
    model="mlp(width=24, depth=1)",
    alphas=(0.1, 10.0),
    steps=60,
    examples=40,
    samples=12,
    seeds=1,
    deltas=(-1.0, 1.0),
    rate=0.05,
    halvings=2,
    far=(10.0, 20.0),
    starts=10,
    cell_seeds=2,
    cell_steps=300,
    taus=(0.1, 2.0),
    map_deltas=(-1.0, -0.25, 1.0),
    inputs=20,
    map_examples=100,
    map_steps=100,
    plane_steps=1000,
    xor_steps=3000,
    modulus=7,
    grok_width=8,
    grok_seeds=2,
    grok_alphas=(1.0, 100.0),
    grok_steps=20,
    patience=20,
    tree_sizes=(300,),
    tree_alphas=(0.1, 10.0),
    tree_epochs=2,
    filter_alphas=(),
)
HOLD = [
    "neuron-flow-is-exact",
    "neuron-descent-follows",
    "neuron-books",
    "delay-law",
    "upstream-is-lazy",
    "alignment-has-no-scale",
    "onset-waits",
    "basins",
    "separatrix",
    "implicit-bias",
    "upstream-flips-early",
    "downstream-waits",
    "upstream-by-patterns",
    "downstream-by-weights",
    "large-is-lazy",
    "xor-rearranges-first",
    "xor-lazy-keeps-its-partition",
    "regime-foretold",
    "same-function",
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neuron, "UNTIL", 4.0)
        patch.setattr(neuron, "SEEN", 8)
        patch.setattr(neuron, "SMALL", (1e-2, 1e-3))
        patch.setattr(neuron, "STEPS", ((0.0025, 400), (0.05, 800)))
        patch.setattr(grids, "KERNELS", 100)
        patch.setattr(overlay, "LOOKS", 4)
        return run("get-rich-quick", SMALL, tmp_path_factory.mktemp("small"), jobs=1)


def named(results):
    return {claim.name: claim for claim in get_rich_quick.claims(results)}


def test_claims_hold_at_small_sizes(small):
    found = named(small[1])
    assert len(found) == len(get_rich_quick.claims(small[1]))
    assert {name: str(found[name]) for name in HOLD if found[name].verdict != "holds"} == {}
    assert found["neuron-error-halves"].measured == pytest.approx(1, abs=0.2)
    assert found["upstream-moves-little"].measured < 0.9
    assert found["neuron-flow-is-exact"].measured < 1e-8 and found["implicit-bias"].measured < 1e-8


BROKEN = {
    "neuron-descent-follows": ("mu", lambda v: 1.2 * v),
    "delay-law": ("delay", lambda v: 1.05 * v),
    "alignment-has-no-scale": ("aligned_time", lambda v: v + 0.01),
    "basins": ("basin", lambda v: -v),
    "separatrix": ("edge_a", lambda v: -v),
    "implicit-bias": ("end", lambda v: v + 1e-3),
    "regime-foretold": ("regime", lambda v: 1 - np.minimum(v, 1)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_claim_fails_where_its_law_is_wrong(small, name):
    variable, change = BROKEN[name]
    law_ = small[1]["predicted"].to_dataset()
    broken = xr.DataTree.from_dict(
        {"/measured": small[1]["measured"].to_dataset(), "/predicted": law_.assign({variable: change(law_[variable])})}
    )
    broken.attrs = small[1].attrs
    assert named(broken)[name].verdict == "fails"


def test_a_wrong_solution_is_noticed(monkeypatch):
    """The law that is laid over the flow is the one that is tested: without its sign of delta it is far off."""
    right = law.exact
    monkeypatch.setattr(law, "exact", lambda a, w, target, times: right(w.norm(), a * w / w.norm(), target, times))
    monkeypatch.setattr(neuron, "UNTIL", 0.5)
    found = neuron._curves(replace(SMALL, deltas=(1.0,)), silent)
    assert float(found.flow_error.max()) > 1e-2


def test_the_report_is_written_with_all_figures(small, tmp_path):
    assert write_report(small[0], get_rich_quick, small[1])
    page = (small[0].folder / "report.html").read_text(encoding="utf-8")
    assert "given up at N" in page and "not measured here" in page
    figures = get_rich_quick.figures(small[1])
    assert len({figure.name for figure in figures}) == len(figures) == 12
    plt.close("all")


def test_numbers_of_the_figures_of_the_paper():
    """Checks 2 and 4 of the paper's facts: Fig. 3 at t = 1, 5, 20, and where Fig. 4b ends."""
    times = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    said = {
        -4.0: ((0.07592, 0.16018, 0.98447), (0.06593, 0.16936, 0.98607), (0.00548, 0.02840, 0.87131)),
        0.0: ((0.62440, 0.99900, 1.0), (0.76159, 0.99991, 1.0), (0.11601, 0.19996, 0.20000)),
        4.0: ((0.98669, 1.0, 1.0), (0.99988, 1.0, 1.0), (0.00144, 0.00147, 0.00147)),
    }
    for delta, rows in said.items():
        found = law.exact(*law.factors(neuron.BETA, delta), neuron.TARGET, times)
        for values, row in zip((found.mu, found.phi, found.kernel_distance), rows):
            assert values.tolist() == pytest.approx(row, abs=1e-5)
    across = torch.tensor([-0.88, 0.44], dtype=torch.float64)
    ends = {-4: -1.242222, -2: -1.033560, -1: -0.836485, 0: -0.562376, 1: -0.406290, 2: -0.364131, 4: -0.344223}
    for delta, end in ends.items():
        found = implicit_bias(neuron.LINE, neuron.SUM, *law.factors(neuron.LINE_BETA, float(delta)))
        assert float(found.beta @ across / across.norm()) == pytest.approx(end, abs=1e-5)


def test_the_separatrix_is_one():
    for delta in neuron.BASIN_DELTAS:
        a, w = neuron.separatrix(delta)
        assert float(law.imbalance(a, w)) == pytest.approx(delta, abs=1e-12)
        assert float(law.separatrix_distance(a, w, neuron.BASIN_TARGET)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"steps": 3}, "steps=3"),
        ({"deltas": (1.0, 0.0)}, "deltas"),
        ({"alphas": (0.0, 1.0)}, "positive"),
        ({"taus": (0.1,)}, "at least 2"),
        ({"rate": 0.3}, "rate=0.3"),
        ({"sharpness": 2.0}, "sharpness=2"),
        ({"width": 5}, "even"),
        ({"far": (1.0, 30.0)}, "far"),
        ({"filter_alphas": (1.0,)}, "filter_alphas"),
        ({"tree_sizes": (200_000,)}, "131072"),
        ({"operation": "x%y"}, "x%y"),
        ({"modulus": 48, "operation": "x/y"}, "prime"),
        ({"task": "digit"}, "digits"),
        ({"model": "mlp(widht=3)"}, "widht"),
        ({"first": ("0.weight",)}, "1.weight"),
        ({"grok_rate": 0.0}, "grok_rate"),
    ],
)
def test_bad_settings_of_get_rich_quick_are_refused(change, word):
    with pytest.raises(InputError) as error:
        get_rich_quick.validate(replace(SMALL, **change))
    assert word in str(error.value) and str(error.value).count("\n") == 0


def test_presets_of_get_rich_quick_are_documented_and_valid():
    words = Settings.__doc__
    assert all(f"        {field.name}: " in words for field in fields(Settings))
    for preset in PRESETS.values():
        get_rich_quick.validate(preset)
    assert len(PRESETS["paper"].taus) == len(PRESETS["paper"].map_deltas) == 17


def test_the_last_position_alone_says_the_same():
    torch.default_generator.manual_seed(0)
    decoder = grokking_transformer((4,), 9, width=16, alpha=3.0, tau=0.7).double()
    x = torch.randint(9, (20, 4))
    assert torch.allclose(grokking.LastPosition(decoder)(x), decoder(x), atol=1e-14)


def test_alpha_leaves_the_mean_field_network_as_it_was():
    shapes = SimpleNamespace(input_shape=(12,), classes=3)
    nets = [build_model(f"{trees.__name__}:mean_field(alpha={a})", shapes, 0).double() for a in (1.0, 10.0)]
    x = torch.linspace(-1, 1, 60, dtype=torch.float64).view(5, 12)
    assert torch.allclose(nets[0](x), nets[1](x), rtol=1e-5, atol=1e-8)
    assert float(nets[1].weights[0].detach().norm() / nets[0].weights[0].detach().norm()) == pytest.approx(0.1)


class Killed(Exception):
    """As if the process had died."""


def killed_after(count):
    calls = []

    def progress(what, units):
        calls.append(what)
        if len(calls) > count:
            raise Killed

    return progress


def test_a_killed_grid_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "PIECE", 40)
    monkeypatch.setattr(grids, "BUDGET", 1.0)
    whole = grids.measure_map(SMALL, 7, tmp_path / "whole", silent)
    with pytest.raises(Killed):
        grids.measure_map(SMALL, 7, tmp_path / "killed", killed_after(5))
    assert list((tmp_path / "killed" / "states").iterdir())
    again = grids.measure_map(SMALL, 7, tmp_path / "killed", silent)
    assert whole.identical(again)
    assert not list((tmp_path / "killed" / "states").iterdir())


def test_killed_grokking_goes_on_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(grokking, "SAVED", 0.0)
    settings = replace(SMALL, grok_steps=50, grok_batch=10)
    whole = grokking.measure_grokking(settings, 1, 0, tmp_path / "whole", silent)
    with pytest.raises(Killed):
        grokking.measure_grokking(settings, 1, 0, tmp_path / "killed", killed_after(3))
    assert list((tmp_path / "killed" / "states").iterdir())
    assert whole.identical(grokking.measure_grokking(settings, 1, 0, tmp_path / "killed", silent))


def made_up(grokked):
    """Runs with these steps, (alpha, seed)."""
    values = np.array(grokked, dtype=float)
    ends = np.where(np.isnan(values), 20, values)
    coords = {"grok_alpha": [1.0, 100.0], "grok_step": [10, 20]}
    seen = np.full((*values.shape, 2), 0.5)
    data = {"grokked": (("grok_alpha", "grok_seed"), values), "grok_end": (("grok_alpha", "grok_seed"), ends)}
    return xr.Dataset(data | {"validation_accuracy": (("grok_alpha", "grok_seed", "grok_step"), seen)}, coords)


def test_runs_given_up_are_later_than_their_last_step_and_no_more():
    found = made_up([[math.nan, 20], [10, math.nan]])
    assert crossings(found, 1.0, SMALL) == [Crossing(None, 20), Crossing(20, 20)]
    assert [str(told) for told in medians(found, SMALL).values()] == [
        "median not within 20, reached by 1 of 2",
        "median not within 20, reached by 1 of 2",
    ]
    claim = claims_of_grokking(found, SMALL)[0]
    assert claim.measured == 0.5 and claim.verdict == "fails"  # 10 is before both; a run given up is before none
    sooner = claims_of_grokking(made_up([[math.nan, 20], [10, 10]]), SMALL)[0]
    assert sooner.measured == 1 and sooner.verdict == "holds"


def test_regions_change_colour_across_every_line():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5, 3))
    side = np.linspace(-REACH, REACH, len(regions(first)))
    x, y = np.meshgrid(side, side)
    active = np.stack([x, y, np.ones_like(x)], -1) @ first.T > 0
    crossed = (active[:, 1:] != active[:, :-1]).sum(-1)
    picture = regions(first)
    assert ((picture[:, 1:] != picture[:, :-1]) == (crossed % 2 == 1)).all() and (crossed == 1).any()


def test_half_way_of_flips():
    dims = ("case", "xor_step")
    data = {"xor_loss": (dims, [[1.0, 0.4, 0.0]] * 2), "xor_flipped": (dims, [[0.0, 0.3, 0.3], [0.0, 0.1, 0.4]])}
    assert half_way(xr.Dataset(data)).tolist() == pytest.approx([1.0, 0.25])


def test_your_own_model_and_task(tmp_path):
    """Classes by the task's own loss, and numbers as targets; a model without a partner says what to name."""
    few = replace(SMALL, alphas=(0.3, 3.0), steps=20, examples=40, samples=20)
    found = overlay.measure_overlay(replace(few, task="xor", model="mlp(width=8, depth=1)", squared=False), 0, silent)
    assert found.kernel_end.shape == (2,) and float(found.function_change.max()) < 1e-12
    assert float(found.rho[0]) < float(found.rho[1])
    numbers = replace(few, task="relu_teacher(examples=60, inputs=6)", model="two_layer(width=8)", readout=1.0)
    assert float(overlay.measure_overlay(numbers, 0, silent).overlay_loss[:, -1].max()) < 1
    smooth = replace(few, model="mlp(width=8, depth=1, activation='tanh')")
    with pytest.raises(InputError, match=r"tanh|Tanh"):
        overlay.measure_overlay(smooth, 0, silent)


def test_parts_are_found_again(small):
    calls = []
    measure("xor", SMALL, small[0].folder, lambda what, units: calls.append(what))
    assert calls == ["found"]
    with pytest.raises(InputError, match="missing or damaged"):
        read_part(small[0].folder, "xor-3")
