"""Staircases: loss and output power per irrep on the way, beside order, levels and times known before training.

Three kinds: of any groups and templates; from smaller and smaller starts; and where an irrep has hardly a neuron in its
basin, from random and from stratified starts.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn import groups
from learndyn.compare import drops, half_power
from learndyn.experiments.group_composition.nets import Descent, descend, first_weights, largest_norm
from learndyn.experiments.group_composition.settings import Case, Settings, cases, lone_case, warnings_before
from learndyn.groups import Prediction
from learndyn.record import Progress

LOOKS = 150  # in each phase of a run
SETTLED = 1.5  # predicted times after which an irrep is taken to be learnt, so that steps may be longer
LONGER = 8  # than at first may steps become when the fast irreps are learnt, which would else be unstable
STARTS = ("random", "stratified")


def foretold(case: Case, weights: Sequence[tuple[Tensor, Tensor]]) -> list[Prediction]:
    """The prediction for every start, before training, with the neurons in every basin."""
    return [groups.predict(case.group, case.x, case.length, u=u, w=w) for u, w in weights]


def awaited(case: Case, weights: Sequence[tuple[Tensor, Tensor]], told: Sequence[Prediction]) -> Tensor:
    """Half-power times of these very weights, `(starts, stages)`, before training; nan where none is expected."""
    whens = torch.stack([groups.arrivals(case.group, case.x, u, w) for u, w in weights])
    return whens[:, [s.index for s in told[0].stages]]


def clock(predictions: Sequence[Prediction], dues: Tensor, step: float, reach: float) -> tuple[Tensor, set[int]]:
    """Lengths of all steps, and at which to look: shorter while the early irreps are learnt, which are the fast ones.

    Args:
        predictions: Of all starts that run together.
        dues: Half-power times, `(starts, stages)`, nan for what is not learnt.
        step: Flow time of a step in units of 1/U* of the irrep that is being learnt.
        reach: Length of the run in units of the time of the last irrep that a start may learn.
    """
    fastest = max(s.utility for p in predictions for s in p.stages)
    rates: list[float] = []
    looks, now, end, rate = {0}, 0.0, 0.0, 0.0
    stages = predictions[0].stages
    for place, stage in enumerate(stages):
        if math.isnan(stage.time) or (place and not bool(dues[:, place].isfinite().any())):
            continue  # the trivial irrep, or one that no start is going to learn
        lawful = max(p.stages[place].time for p in predictions)
        slowest = max(lawful, float(dues[:, place].nan_to_num(0.0).max()))
        rate = min(step / stage.utility, LONGER * step / fastest)
        count = max(0, math.ceil((SETTLED * slowest - now) / rate))
        rates, now = [*rates, *[rate] * count], now + count * rate
        end = lawful
        looks |= {len(rates) - count + round(i * count / LOOKS) for i in range(1, LOOKS + 1)}
    count = math.ceil(max(0.0, reach * end - now) / rate)
    looks |= {len(rates) + round(i * count / LOOKS) for i in range(LOOKS + 1)}
    return torch.tensor([*rates, *[rate] * count], dtype=torch.float64), looks


def measure_stair(settings: Settings, number: int, progress: Progress) -> xr.Dataset:
    """One group and template, all seeds together.

    Returns:
        Over (seed, look): `stair_loss`; over (seed, look, rank): `stair_power`, ranks being irreps in the order
        foretold; over (seed, rank): `drop_time` with `predicted_`, the law's, `half_time` with `predicted_`, of these
        very weights, and `starters`; over (seed, plateau): `level` with `predicted_`; over rank: `template_power`,
        `needed`, `utility`.
    """
    case = cases(settings)[number]
    weights = [first_weights(case.group, case.length, case.width, case.alpha, seed) for seed in range(settings.seeds)]
    told = foretold(case, weights)
    dues = awaited(case, weights, told)
    rates, looks = clock(told, dues, settings.step, settings.reach)
    u, w = (torch.stack(parts) for parts in zip(*weights))
    seen = descend(case.group, case.x, u, w, rates, looks, lambda: progress("staircases", 1))
    data = laid(told, seen)
    stages = told[0].stages
    data |= {
        "stair_time": ("look", seen.time.numpy()),
        "stair_loss": (("seed", "look"), seen.loss.numpy()),
        "stair_power": (("seed", "look", "rank"), seen.power[..., [s.index for s in stages]].numpy()),
        "template_power": ("rank", [s.power for s in stages]),
        "needed": ("rank", [s.neurons for s in stages]),
        "utility": ("rank", [s.utility for s in stages]),
        "predicted_half_time": (("seed", "rank"), dues.numpy()),
        "stair_facts": json.dumps(
            {
                "name": case.name,
                "width": case.width,
                "alpha": case.alpha,
                "irreps": [s.irrep for s in stages],
                "kinds": [s.kind for s in stages],
                "tied": [list(pair) for pair in told[0].concerns.tied],
                "index": [s.index for s in stages],
                "said": _of_starts([warnings_before(case, p) for p in told]),
            }
        ),
    }
    return _numbered(data)


def laid(told: Sequence[Prediction], seen: Descent) -> dict[str, Any]:
    """Times, levels and starters of every run beside their predictions, as variables over (seed, rank or plateau)."""
    found: dict[str, list] = {name: [] for name in ("drop_time", "half_time", "level")}
    said: dict[str, list] = {name: [] for name in ("drop_time", "level")}
    time = seen.time.numpy()
    for n, prediction in enumerate(told):
        levels = [prediction.level, *(s.level for s in prediction.stages)]
        fallen = drops(time, seen.loss[n].numpy(), levels, log=False)
        found["drop_time"].append(fallen.times)
        found["level"].append(fallen.levels)
        halves = []
        for s in prediction.stages:
            reached = half_power(time, seen.power[n, :, s.index].sqrt().numpy(), math.sqrt(s.power), log=False)
            halves.append(math.nan if reached.step is None else reached.step)
        found["half_time"].append(halves)
        said["drop_time"].append([s.time for s in prediction.stages])
        said["level"].append(levels)
    dims = {"drop_time": "rank", "half_time": "rank", "level": "plateau"}
    data: dict[str, Any] = {name: (("seed", dims[name]), np.array(rows)) for name, rows in found.items()}
    data |= {f"predicted_{name}": (("seed", dims[name]), np.array(rows)) for name, rows in said.items()}
    data["starters"] = (("seed", "rank"), np.array([[s.starters for s in p.stages] for p in told]))
    return data


def measure_small(settings: Settings, progress: Progress) -> xr.Dataset:
    """One template from smaller and smaller starts in the same directions.

    Returns:
        Over (small, seed, rank): `small_drop` with `predicted_`; over (small, seed): `small_norm`; over (small,
        small_look): `small_loss` of the first seed; over rank: `small_utility`, `small_starters` by seed.
    """
    shape = len(settings.small_alphas), settings.seeds
    tasks = [lone_case(settings, "small", alpha) for alpha in settings.small_alphas]
    case = tasks[-1]
    starts = [first_weights(case.group, 2, case.width, one.alpha, seed) for one in tasks for seed in range(shape[1])]
    norms = [largest_norm(u, w) for u, w in starts]
    counted = foretold(case, starts[-shape[1] :])
    told = [groups.predict(case.group, case.x, 2, start=norm) for norm in norms]
    rate = settings.small_step / told[0].stages[0].utility
    last = [settings.reach * p.stages[-1].time for p in told]
    looks = {round(i * end / rate / LOOKS / 2) for end in last for i in range(2 * LOOKS + 1)}
    u, w = (torch.stack(parts) for parts in zip(*starts))
    rates = torch.full((max(looks),), rate, dtype=torch.float64)
    seen = descend(case.group, case.x, u, w, rates, looks, lambda: progress("small starts", 1))
    made = laid(told, seen)
    data: dict[str, Any] = {
        "small_norm": (("small", "seed"), np.array(norms).reshape(shape)),
        "small_utility": ("rank", [s.utility for s in told[0].stages]),
        "small_starters": (("seed", "rank"), [[s.starters for s in p.stages] for p in counted]),
        "small_time": ("small_look", seen.time.numpy()),
        "small_loss": (("small", "small_look"), seen.loss.numpy().reshape(*shape, -1)[:, 0]),
    }
    for name in ("drop_time", "predicted_drop_time"):
        rows = made[name][1].reshape(*shape, -1)
        data[name.replace("drop_time", "small_drop")] = (("small", "seed", "rank"), rows)
    return _numbered(data).assign_coords(small=list(settings.small_alphas))


def measure_starved(settings: Settings, progress: Progress) -> xr.Dataset:
    """A template whose weak irrep has hardly a neuron in its basin, and the same with neurons placed in every irrep.

    Returns:
        Over (start, seed, rank): `starved_half` with `predicted_`, `starved_starters`; over (start, starved_look):
        `starved_loss` of the first seed.
    """
    case, seeds = lone_case(settings, "starved", settings.starved_alpha), settings.seeds
    weights = [first_weights(case.group, 2, case.width, case.alpha, seed) for seed in range(seeds)]
    irreps = [s.index for s in groups.predict(case.group, case.x, 2).stages]
    counts = torch.zeros(len(groups.irreps(case.group)), dtype=torch.int64)
    for place, index in enumerate(irreps):
        counts[index] = (case.width + place) // len(irreps)
    scale = float(np.mean([largest_norm(u, w) for u, w in weights]))
    weights += [groups.stratified(case.group, counts, 2, scale, seed) for seed in range(seeds)]
    told = foretold(case, weights)
    rates, looks = clock(told, awaited(case, weights, told), settings.step, settings.starved_reach)
    u, w = (torch.stack(parts) for parts in zip(*weights))
    seen = descend(case.group, case.x, u, w, rates, looks, lambda: progress("starvation", 1))
    made = laid(told, seen)
    dims = ("start", "seed", "rank")
    by = {
        "starved_half": "half_time",
        "predicted_starved_half": "predicted_drop_time",
        "starved_starters": "starters",
    }
    data: dict[str, Any] = {new: (dims, made[old][1].reshape(2, seeds, -1)) for new, old in by.items()}
    data |= {
        "starved_time": ("starved_look", seen.time.numpy()),
        "starved_loss": (("start", "starved_look"), seen.loss[::seeds].numpy()),
        "starved_needed": ("rank", [s.neurons for s in told[0].stages]),
        "starved_level": ("plateau", made["predicted_level"][1][0]),
        "starved_power": (
            ("start", "starved_look", "rank"),
            seen.power[::seeds][..., irreps].numpy() / np.array([s.power for s in told[0].stages]),
        ),
        "starved_facts": json.dumps(
            {
                "name": case.name,
                "irreps": [s.irrep for s in told[0].stages],
                "said": list(told[0].sentences),
            }
        ),
    }
    return _numbered(data).assign_coords(start=list(STARTS))


def _of_starts(said: Sequence[Sequence[str]]) -> list[str]:
    """What is said of all starts, and of some, with their numbers."""
    by = {text: [n for n, texts in enumerate(said) if text in texts] for text in sum(map(list, said), list[str]())}
    some = {text: f" (start {', '.join(map(str, which))})" for text, which in by.items() if len(which) < len(said)}
    return [text + some.get(text, "") for text in by]


def _numbered(data: dict[str, Any]) -> xr.Dataset:
    """With numbers for ranks and so on, so that cases of different sizes can lie side by side."""
    made = xr.Dataset(data)
    made = made.assign(
        {n: made[n].astype(float) for n in made.data_vars if made[n].dtype.kind == "i"}
    )  # nan is to come
    return made.assign_coords({d: range(made.sizes[d]) for d in ("look", "rank", "plateau") if d in made.sizes})
