"""A single neuron f(x) = a wᵀx: gradient descent and flow of a real module, laid under the closed form."""

from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.interpolate import PchipInterpolator
from torch import Tensor, nn

from learndyn import observables
from learndyn.dynamics import State, descent, flow, start, train
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.laws import neuron as law
from learndyn.laws.linear.bias import implicit_bias
from learndyn.noise import generator
from learndyn.record import Progress
from learndyn.tasks import Batch, Supervised

TARGET = torch.tensor([0.0, 1.0], dtype=torch.float64)  # β* of Figs. 2 to 4a
BETA = torch.tensor([-1.0, 0.0], dtype=torch.float64)
UNTIL, HALVED_AT, SEEN = 20.0, 3.0, 45
TURN, SIZE = (0.3, 0.9), 0.5  # φ and |β₀| at which laws for large |δ| are tried
SMALL = (1e-2, 1e-3, 1e-4)  # |β₀| at δ = 0
BASIN_TARGET = torch.tensor([1.0, 0.25], dtype=torch.float64)  # App. fig. 7
BASIN_DELTAS, NEXT_TO, ABOVE = (0.0, -2.0, -10.0), 1e-3, -4.0
STEPS = ((0.0025, 400), (0.02, 950), (0.05, 3600))  # of the integration of many starts, to t = 200: size, number
LINE, SUM = torch.tensor([[0.5, 1.0]], dtype=torch.float64), torch.tensor([1.1], dtype=torch.float64)  # Fig. 4b
LINE_BETA = torch.tensor([0.4, 0.05], dtype=torch.float64)


def sum_of_squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """½ Σ (f − y)², the loss of the laws."""
    return (outputs - targets).square().sum() / 2


def module(a: Tensor, w: Tensor) -> nn.Sequential:
    """The neuron as a network: two linear layers without biases."""
    first, last = nn.Linear(len(w), 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(w[None])
        last.weight.copy_(a.reshape(1, 1))
    return nn.Sequential(first, last)


def weights(net: nn.Module) -> tuple[Tensor, Tensor]:
    """The weights a and w of such a network, detached copies."""
    w, a = (p.detach().clone() for p in net.parameters())
    return a.squeeze(), w[0]


def coordinates(a: Tensor, w: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """μ = a|w| and φ, the cosine of w with β*."""
    size = w.norm(dim=-1)
    return a * size, w @ target / (size * target.norm())


def measure_neuron(settings: Settings, progress: Progress) -> xr.Dataset:
    """All that is known of one neuron, by gradient descent, by the flow, and in closed form."""
    made = [_curves(settings, progress), _far(settings), _small(), _basins(settings), _ends(settings)]
    progress("neuron", 1000)
    return xr.merge(made, combine_attrs="drop")


def _curves(settings: Settings, progress: Progress) -> xr.Dataset:
    """Fig. 3: μ, φ and S(0, t) for every δ, and the books of δ.

    Returns:
        Over (delta, look): `neuron_time`, `mu`, `phi`, `moved` with `predicted_`; over delta: `flow_error` of a and w,
        `books_error` (the bookkeeping η²(g_a² − |g_w|²)), `delta_drift`; over (delta, halving): `gd_error` of β at
        t = 3.
    """
    found = []
    data = Batch(torch.eye(2, dtype=torch.float64), TARGET[:, None])
    task = Supervised(data, data, 2, criterion=sum_of_squares, classes=1)
    loss = partial(_loss, data=data)
    for delta in settings.deltas:
        a, w = law.factors(BETA, delta)
        rate = settings.rate / (1 + abs(delta) / 4)
        steps = round(UNTIL / rate)
        looks = sorted({*np.geomspace(1, steps, SEEN).round().astype(int).tolist(), 0})
        times = rate * torch.tensor(looks, dtype=torch.float64)
        said = law.exact(a, w, TARGET, times)
        net = module(a, w)
        first = observables.kernel(net, data.inputs, reduction="full", certificate=False).matrix
        added = torch.zeros((), dtype=torch.float64)

        def after(state: State, added: Tensor = added) -> None:
            g_w, g_a = (p.grad for p in state.model.parameters())
            assert g_w is not None and g_a is not None
            added += state.lr() ** 2 * (g_a.square().sum() - g_w.square().sum())

        def moved(state: State, first: Tensor = first) -> Tensor:
            now = observables.kernel(state.model, data.inputs, reduction="full", certificate=False).matrix
            return observables.kernel_distance(first, now)

        def seen(state: State) -> Tensor:
            return torch.stack(coordinates(*weights(state.model), TARGET))

        run = train(
            start(task, net, partial(torch.optim.SGD, lr=rate)), steps, {"seen": seen, "moved": moved}, looks, after
        )
        values = {"mu": run.series.seen.values[:, 0], "phi": run.series.seen.values[:, 1], "moved": run.series.moved}
        laid = {"mu": said.mu, "phi": said.phi, "moved": said.kernel_distance}
        each: dict[str, Any] = {"neuron_time": ("look", times.numpy())}
        for name in values:
            each[name] = ("look", np.asarray(values[name]))
            each[f"predicted_{name}"] = ("look", laid[name].numpy())
        last, drift = weights(run.state.model), float(added)
        change = float(law.imbalance(*last)) - float(law.imbalance(a, w))
        size = float(a.square() + w.square().sum())
        each |= {"books_error": abs(change - drift) / size, "delta_drift": abs(change) / size}
        flowed = flow(
            module(a, w),
            loss,
            times[1:],
            {"all": lambda s: torch.cat([p.flatten() for p in weights(s.model)])},
        )
        true = torch.cat([said.a[1:, None], said.w[1:]], 1)
        off = torch.from_numpy(flowed.series["all"].values) - true
        each["flow_error"] = float(off.abs().max() / true.abs().max())
        each["gd_error"] = ("halving", _halved(a, w, loss, rate, settings.halvings))
        found.append(xr.Dataset(each, {"look": range(len(looks))}))
        progress("neuron", steps / 10)
    made = xr.concat(found, "delta", join="outer")
    factors = [2.0**-n for n in range(settings.halvings)]
    return made.assign_coords(delta=list(settings.deltas), halving=factors)


def _loss(net: Any, data: Batch) -> Tensor:
    return sum_of_squares(net(data.inputs), data.targets)


def _halved(a: Tensor, w: Tensor, loss: Any, rate: float, halvings: int) -> np.ndarray:
    true = law.exact(a, w, TARGET, torch.tensor([HALVED_AT], dtype=torch.float64)).beta[0]
    errors = []
    for n in range(halvings):
        last, first = weights(descent(module(a, w), loss, HALVED_AT, round(HALVED_AT / rate) * 2**n))
        errors.append(float((last * first - true).norm()))
    return np.array(errors)


def _far(settings: Settings) -> xr.Dataset:
    """Delays far downstream, and exponentials far upstream, by the flow of a module.

    Returns:
        Over far: `delay`, `predicted_delay`; `upstream_error`, the largest |β − law|.
    """
    data = Batch(torch.eye(2, dtype=torch.float64), TARGET[:, None])
    loss = partial(_loss, data=data)
    begin, end = TURN
    beta = SIZE * torch.tensor([(1 - begin**2) ** 0.5, begin], dtype=torch.float64)
    delays, said, errors = [], [], []
    for far in settings.far:
        said.append(float(law.delay(begin, end, 1.0, -far)))
        delays.append(_reached(law.factors(beta, -far), 1, end, said[-1], "LSODA"))
        times = torch.linspace(0, 10 / far, 41, dtype=torch.float64)[1:]
        flowed = flow(module(*law.factors(beta, far)), loss, times, {"beta": lambda s: torch.mul(*weights(s.model))})
        off = torch.from_numpy(flowed.series.beta.values) - law.upstream(beta, TARGET, far, times)
        errors.append(float(off.norm(dim=1).max()))
    data_ = {"delay": ("far", delays), "predicted_delay": ("far", said), "upstream_error": ("far", errors)}
    return xr.Dataset(data_, {"far": list(settings.far)})


def _reached(first: tuple[Tensor, Tensor], which: int, level: float, guess: float, method: str = "DOP853") -> float:
    """When μ (0) or φ (1) comes to a level along the flow of a module, nan unless near the guess."""
    data = Batch(torch.eye(2, dtype=torch.float64), TARGET[:, None])
    times = guess * torch.linspace(0.8, 1.25, 91, dtype=torch.float64)
    seen = {"seen": lambda s: coordinates(*weights(s.model), TARGET)[which]}
    ran = flow(module(*first), partial(_loss, data=data), times, seen, method=method, rtol=1e-9, atol=1e-11)
    values = ran.series.seen.values
    above = np.flatnonzero(values >= level)
    if not len(above) or above[0] < 3:
        return np.nan
    near = slice(above[0] - 3, above[0] + 3)
    return float(PchipInterpolator(values[near], times.numpy()[near])(level))


def _small() -> xr.Dataset:
    """δ = 0 from smaller and smaller starts: alignment does not wait, the fit does.

    Returns:
        Over small: `aligned_time`, when φ is 0.99, and `onset_time`, when μ is ½, with `predicted_`.
    """
    phi = TURN[0]
    direction = torch.tensor([(1 - phi**2) ** 0.5, phi], dtype=torch.float64)
    aligned = float(np.arctanh(0.99) - np.arctanh(phi))  # of `law.alignment`, r = 1
    onset = law.onset(torch.tensor(SMALL, dtype=torch.float64), phi, 1.0)
    found: dict[str, list[float]] = {"aligned_time": [], "onset_time": []}
    for small, guess in zip(SMALL, onset.tolist()):
        weights_ = law.factors(small * direction, 0.0)
        found["aligned_time"].append(_reached(weights_, 1, 0.99, aligned))
        found["onset_time"].append(_reached(weights_, 0, 0.5, guess))
    made: dict[str, Any] = {name: ("small", values) for name, values in found.items()}
    made |= {"predicted_aligned_time": ("small", [aligned] * len(SMALL)), "predicted_onset_time": ("small", onset)}
    return xr.Dataset(made, {"small": list(SMALL)})


def _basins(settings: Settings) -> xr.Dataset:
    """Many starts at three δ, integrated, and where they end; and starts next to the separatrix (App. fig. 7).

    Returns:
        Over (level, start): `basin` and `predicted_basin`; over (level, shown, moment): `portrait_along`, `portrait_a`
        of a dozen of them; over (edge_delta, edge, moment): `edge_a` with `predicted_`.
    """
    levels = (-2.0, 0.0, 2.0)
    rng = generator(0, "basins")
    starts, shown = [], min(16, settings.starts)
    for level in levels:
        beta = torch.from_numpy(rng.normal(0, 0.8, (settings.starts, 2)))
        a, w = law.factors(beta, level)
        sign = torch.from_numpy(rng.choice([-1.0, 1.0], settings.starts))
        starts.append((sign * a, sign[:, None] * w))
    a, w = (torch.stack(parts) for parts in zip(*starts))
    times, path_a, path_w = follow(a, w, BASIN_TARGET)
    unit = BASIN_TARGET / BASIN_TARGET.norm()
    edges = [separatrix(delta) for delta in BASIN_DELTAS]
    edge_a = torch.stack([torch.stack([one + NEXT_TO, one - NEXT_TO]) for one, _ in edges])
    edge_w = torch.stack([torch.stack([one, one]) for _, one in edges])
    _, gone, _ = follow(edge_a, edge_w, BASIN_TARGET)
    said = law.exact(edge_a, edge_w, BASIN_TARGET, times).a
    dims = ("level", "shown", "moment")
    data = {
        "basin": (("level", "start"), path_a[-1].sign().numpy()),
        "predicted_basin": (("level", "start"), law.basin(a, w, BASIN_TARGET).numpy()),
        "portrait_along": (dims, (path_w @ unit).permute(1, 2, 0)[:, :shown].numpy()),
        "portrait_a": (dims, path_a.permute(1, 2, 0)[:, :shown].numpy()),
        "edge_a": (("edge_delta", "edge", "moment"), gone.permute(1, 2, 0).numpy()),
        "predicted_edge_a": (("edge_delta", "edge", "moment"), said.numpy()),
    }
    coords = {"level": list(levels), "edge_delta": list(BASIN_DELTAS), "edge": [NEXT_TO, -NEXT_TO]}
    return xr.Dataset(data, coords | {"moment": times.numpy()})


def separatrix(delta: float) -> tuple[Tensor, Tensor]:
    """The start a = −4, w that flows into the saddle: 2r x + (K + δ)a = 0 for the part x of w along the task."""
    r = float(BASIN_TARGET.norm())
    a = torch.tensor(ABOVE, dtype=torch.float64)
    x = -(float(np.hypot(delta, 2 * r)) + delta) * ABOVE / (2 * r)
    across = max(0.0, ABOVE**2 - delta - x**2) ** 0.5
    unit = BASIN_TARGET / r
    return a, x * unit + across * torch.stack([-unit[1], unit[0]])


def follow(a: Tensor, w: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The flow of many neurons at once by the classical Runge-Kutta method: times `(T,)`, a `(T, ...)`, w."""

    def slope(a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        g = target - a[..., None] * w
        return (w * g).sum(-1), a[..., None] * g

    times, seen, t = [0.0], [(a, w)], 0.0
    for n, h in enumerate((h for h, count in STEPS for _ in range(count)), 1):
        k1 = slope(a, w)
        k2 = slope(a + h / 2 * k1[0], w + h / 2 * k1[1])
        k3 = slope(a + h / 2 * k2[0], w + h / 2 * k2[1])
        k4 = slope(a + h * k3[0], w + h * k3[1])
        a, w = (v + h / 6 * (p + 2 * q + 2 * r + s) for v, p, q, r, s in zip((a, w), k1, k2, k3, k4))
        t += h
        if n % (10 if t < 20 else 60) == 0:
            times.append(t)
            seen.append((a, w))
    return (
        torch.tensor(times, dtype=torch.float64),
        torch.stack([s[0] for s in seen]),
        torch.stack([s[1] for s in seen]),
    )


def _ends(settings: Settings) -> xr.Dataset:
    """Fig. 4b: one equation for two weights; which of its solutions a run ends in.

    Returns:
        Over (delta, end_time, axis): `end_path`; over (delta, axis): `end`, `predicted_end`.
    """
    data = Batch(LINE, SUM[:, None])
    times = torch.cat([torch.logspace(-2, 2, 40, dtype=torch.float64), torch.tensor([1000.0], dtype=torch.float64)])
    paths, said = [], []
    for delta in settings.deltas:
        a, w = law.factors(LINE_BETA, delta)
        flowed = flow(
            module(a, w),
            partial(_loss, data=data),
            times,
            {"beta": lambda s: torch.mul(*weights(s.model))},
            method="LSODA",
        )
        paths.append(flowed.series.beta.values)
        said.append(implicit_bias(LINE, SUM, a, w).beta.numpy())
    path = np.stack(paths)
    made = {
        "end_path": (("delta", "end_time", "axis"), path),
        "end": (("delta", "axis"), path[:, -1]),
        "predicted_end": (("delta", "axis"), np.stack(said)),
    }
    return xr.Dataset(made, {"delta": list(settings.deltas), "end_time": times.numpy()})
