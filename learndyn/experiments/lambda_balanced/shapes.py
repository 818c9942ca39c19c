"""How far the tangent kernel moves, by shape, λ and scale."""

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.experiments.lambda_balanced.nets import descend, field, follow
from learndyn.experiments.lambda_balanced.settings import Settings, fits, shape
from learndyn.laws import balanced as law
from learndyn.laws.balanced.limits import spans
from learndyn.models.balanced import sample_balanced
from learndyn.noise import generator
from learndyn.record import Progress

PRODUCT = 0.3  # scale of W₂W₁ at the start, relative to the task
FOLLOWED = 10.0  # largest |λ| that gradient descent follows; beyond it takes too many steps
STEPS = 1000
LATE_STEPS = 1500  # of the flow that delayed rich networks are followed along, 1/(2 + |λ|) each
TIMES = torch.logspace(-3, 5, 65, dtype=torch.float64)
EXAMPLES_PER_INPUT = 2  # of the map on inputs that are not white: fewer examples than inputs by this factor


def start(widths: tuple[int, int, int], lam: float, rng: np.random.Generator, scale: float) -> tuple[Tensor, ...]:
    """Both layers and a task, both products Gaussian with entries of variance 1/max(d, c), the first times `scale`."""
    d, h, c = widths
    sigma, product = (torch.from_numpy(rng.standard_normal((c, d)) / math.sqrt(max(c, d))) for _ in range(2))
    if h < min(d, c):
        u, s, vh = torch.linalg.svd(product, full_matrices=False)
        product = (u[:, :h] * s[:h]) @ vh[:h]
    return *sample_balanced(widths, (lam,), rng, scale * product), sigma


def moved(first: tuple[Tensor, Tensor], last: tuple[Tensor, Tensor], inputs: Tensor | None = None) -> Tensor:
    """Kernel distance between two pairs of layers, leading dimensions together."""
    (a1, c1), (a2, c2) = ((w1.mT @ w1, w2 @ w2.mT) for w1, w2 in (first, last))
    return law.kernel_distance(a1, c1, a2, c2, inputs)


def measure_shapes(settings: Settings, progress: Progress) -> xr.Dataset:
    """All cells of the table: shapes, λ and random tasks.

    Returns:
        Over (shape, shape_lam, task): `moved_at_end` by gradient descent, and `moved_late` along the integrated flow
        where the large layer has to turn, both with `predicted_`;
        `predicted_moved` from t = 0 to ∞; `predicted_half_time` at which half of that has happened; over (shape,
        shape_lam, kernel_time): `predicted_moving`, means over tasks.
    """
    sizes = len(settings.shapes), len(settings.shape_lams), settings.tasks
    seen, at_end, late, said_late, whole, half = (np.full(sizes, np.nan) for _ in range(6))
    moving = np.full((*sizes[:2], len(TIMES)), np.nan)
    for i, text in enumerate(settings.shapes):
        widths = shape(text)
        cells = [(j, lam) for j, lam in enumerate(settings.shape_lams) if fits(*widths, lam)]
        draws = {}
        for j, lam in cells:
            curves = []
            for task in range(settings.tasks):
                w1, w2, sigma = draws[j, task] = start(widths, lam, generator(task, "shapes"), PRODUCT)
                ends = STEPS * settings.rate / (1 + abs(lam)), LATE_STEPS / (2 + abs(lam))
                times = torch.cat([torch.tensor([0.0, *ends, math.inf], dtype=torch.float64), TIMES])
                said = law.exact(w1, w2, sigma, times, lam)
                distance = moved((said.w1[0], said.w2[0]), (said.w1, said.w2))
                at_end[i, j, task], said_late[i, j, task], whole[i, j, task] = distance[1:4].tolist()
                curves.append(distance[4:])
                half[i, j, task] = _half(curves[-1], whole[i, j, task])
            moving[i, j] = torch.stack(curves).mean(0).numpy()
        chosen = [(j, task) for j, lam in cells if abs(lam) <= FOLLOWED for task in range(settings.tasks)]
        turning = [(j, task) for j, task in chosen if (lam := settings.shape_lams[j]) and not spans(*widths, lam)]
        for cells_, made, go, width, steps in (
            (chosen, seen, descend, lambda lam: settings.rate / (1 + abs(lam)), STEPS),
            (turning, late, follow, lambda lam: 1 / (2 + abs(lam)), LATE_STEPS),
        ):
            if cells_:
                w1, w2, sigma = (torch.stack([draws[key][n] for key in cells_]) for n in range(3))
                each = torch.tensor([width(settings.shape_lams[j]) for j, _ in cells_], dtype=torch.float64)
                path = go(w1, w2, field(sigma), each, steps, [0, steps])
                found = moved((path[0][0], path[1][0]), (path[0][1], path[1][1]))
                for place, value in zip(cells_, found.tolist()):
                    made[(i, *place)] = value
            progress("shapes", STEPS)
    dims = ("shape", "shape_lam", "task")
    data: dict[str, Any] = {
        "moved_at_end": (dims, seen),
        "predicted_moved_at_end": (dims, at_end),
        "moved_late": (dims, late),
        "predicted_moved_late": (dims, said_late),
        "predicted_moved": (dims, whole),
        "predicted_half_time": (dims, half),
        "predicted_moving": ((*dims[:2], "kernel_time"), moving),
    }
    coords = {"shape": list(settings.shapes), "shape_lam": list(settings.shape_lams), "kernel_time": TIMES.numpy()}
    return xr.Dataset(data, coords)


def _half(distances: Tensor, whole: float) -> float:
    """When the distance first exceeds half of its last value, interpolated in the logarithm of time."""
    over = (distances > whole / 2).nonzero()
    if not len(over) or int(over[0]) == 0:
        return math.nan
    n = int(over[0])
    before, after = (float(distances[i]) for i in (n - 1, n))
    share = (whole / 2 - before) / (after - before)
    return math.exp(math.log(TIMES[n - 1]) + share * (math.log(TIMES[n]) - math.log(TIMES[n - 1])))


def measure_map(settings: Settings, progress: Progress) -> xr.Dataset:
    """S(0, ∞) over λ and the scale of the first product in closed form, and by gradient descent where there is none.

    Where a shape has no network of this λ, it is given as many hidden units as have one: of the others, both layers
    would be zero for ever.

    Returns:
        Over (map_shape, map_scale, map_lam): `predicted_map_moved`; with `map_steps`, over (data_scale, data_lam):
        `map_data` of the first shape on fewer examples than inputs.
    """
    side = settings.map_points // 2
    sizes = np.geomspace(1e-2, 1e2, side)
    lams, scales = np.concatenate([-sizes[::-1], [0.0], sizes]), np.geomspace(0.03, 30, settings.map_points)
    found = np.full((len(settings.map_shapes), len(scales), len(lams)), np.nan)
    for i, text in enumerate(settings.map_shapes):
        for j, scale in enumerate(scales):
            for n, lam in enumerate(lams):
                widths = _room(shape(text), lam)
                w1, w2, sigma = start(widths, float(lam), generator(0, "map"), float(scale))
                said = law.exact(w1, w2, sigma, torch.tensor([0.0, math.inf], dtype=torch.float64), float(lam))
                found[i, j, n] = float(moved((said.w1[0], said.w2[0]), (said.w1[1], said.w2[1])))
            progress("map", 20)
    coords = {"map_shape": list(settings.map_shapes), "map_scale": scales, "map_lam": lams}
    made = xr.Dataset({"predicted_map_moved": (("map_shape", "map_scale", "map_lam"), found)}, coords)
    return made.merge(_data_map(settings, progress)) if settings.map_steps else made


def _room(widths: tuple[int, int, int], lam: float) -> tuple[int, int, int]:
    d, h, c = widths
    return d, min(h, c) if lam > 0 else min(h, d) if lam < 0 else h, c


def _data_map(settings: Settings, progress: Progress) -> xr.Dataset:
    """Fewer examples than inputs, λ of both signs up to one half, targets from 0.1 to 50 times as large."""
    points = settings.map_points
    lams, scales = np.linspace(-0.5, 0.5, points), np.geomspace(0.1, 50, points)
    d, h, c = shape(settings.map_shapes[0])
    draw = generator(0, "map, data")
    x = torch.from_numpy(draw.standard_normal((max(2, d // EXAMPLES_PER_INPUT), d)))
    second, teacher = x.T @ x / len(x), torch.from_numpy(draw.standard_normal((c, d)) / math.sqrt(max(c, d)))
    largest = float(torch.linalg.eigvalsh(second)[-1])
    found = np.full((points, points), np.nan)
    for n, lam in enumerate(lams):
        widths = _room((d, h, c), float(lam))
        w1, w2, _ = start(widths, float(lam), generator(0, "map"), PRODUCT)
        sigmas = torch.stack([float(s) * teacher @ second for s in scales])
        # the sharpest direction of the loss has λ and twice the task's largest strength in it
        rates = torch.tensor([settings.rate / (1 + largest * (abs(lam) + s) / 5) for s in scales]).double()
        pair = w1.expand(points, *w1.shape), w2.expand(points, *w2.shape)
        path = descend(*pair, field(sigmas, second), rates, settings.map_steps, [0, settings.map_steps])
        found[:, n] = moved((path[0][0], path[1][0]), (path[0][1], path[1][1]), x).numpy()
        progress("map, data", settings.map_steps / 5)
    return xr.Dataset({"map_data": (("data_scale", "data_lam"), found)}, {"data_scale": scales, "data_lam": lams})
