"""What holds to rounding, on a network of its own: equivalent hyper-parameters; and which optimizer keeps which law."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from learndyn.dynamics import start, train
from learndyn.experiments.noether_dynamics.particle import asymmetries, residual
from learndyn.experiments.noether_dynamics.settings import NET
from learndyn.laws import inertia
from learndyn.names import build_model, build_task
from learndyn.optimizers.lars import LARS
from learndyn.optimizers.sign import SignSGD
from learndyn.record import Progress
from learndyn.recorder import kept
from learndyn.symmetries import find
from learndyn.tasks import place

MOMENTA = (0.0, 0.9)
EPS = (1e-30, 1e-5)
FACTOR = 9.0
STEPS = 300
LAWS = "mlp(width=32, depth=3, batch_norm=False)"  # has rescale laws and translations; NET has scale laws
SAMPLES = 8
#: η, λ, β -> ρ, equilibrium angle, memory: constants of everyday settings
EVERYDAY = ((0.1, 5e-4, 0.9), (0.1, 1e-4, 0.9), (0.1, 5e-4, 0.0))


def measure_exact(progress: Progress) -> xr.Dataset:
    """All of it, in float64 on handwritten digits."""
    found = [_equivalence(progress), _table(), _particle(), _constants()]
    return xr.merge(found)


def _equivalence(progress: Progress) -> xr.Dataset:
    """(η, λ, q) and (cη, λ/c, √c q) of the weights before a norm: the same functions?"""
    task = place(build_task("digits", 0), "cpu", torch.float64)
    shape = len(MOMENTA), len(EPS)
    made = {name: np.zeros(shape) for name in ("equivalent_loss", "equivalent_direction", "equivalent_norm")}
    for i, momentum in enumerate(MOMENTA):
        for j, eps in enumerate(EPS):
            lr, decay = (0.1, 5e-3) if momentum == 0 else (0.02, 5e-3)
            ends, losses = [], []
            for factor in (1.0, FACTOR):
                model = build_model(NET.replace("1e-12", f"{eps:g}"), task, 0).double()
                before = [model[1].weight, model[4].weight]  # type: ignore[index]
                others = [p for p in model.parameters() if all(p is not w for w in before)]
                rate, pull = inertia.equivalent_hparams(lr, decay, before[0], factor)[:2]
                with torch.no_grad():
                    for w in before:
                        w.copy_(inertia.equivalent_hparams(lr, decay, w, factor)[2])
                groups: list[dict[str, Any]] = [
                    {"params": before, "lr": rate, "weight_decay": pull},
                    {"params": others},
                ]
                optimizer = torch.optim.SGD(groups, lr, momentum, weight_decay=decay)
                losses.append(train(start(task, model, optimizer), STEPS).loss)
                ends.append([w.detach() for w in before])
                progress("self-tests", STEPS)
            made["equivalent_loss"][i, j] = float((losses[1] - losses[0]).abs().max())
            for one, other in zip(*ends):
                norms = [w.norm(dim=1, keepdim=True) for w in (one, other)]
                apart = float((one / norms[0] - other / norms[1]).norm(dim=1).max())
                ratio = float(((norms[1] / norms[0]).square() / FACTOR - 1).abs().max())
                for name, value in (("equivalent_direction", apart), ("equivalent_norm", ratio)):
                    made[name][i, j] = max(made[name][i, j], value)
    data = {name: (("equivalent_momentum", "eps"), values) for name, values in made.items()}
    return xr.Dataset(data, {"equivalent_momentum": list(MOMENTA), "eps": list(EPS)})


def optimizers() -> dict[str, Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]]:
    """The optimizers of the table, each as what makes it from parameters."""

    def muon(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Muon([p for p in parameters if p.ndim == 2], lr=0.02)

    made: dict[str, Any] = {
        "SGD": partial(torch.optim.SGD, lr=0.1),
        "SGD, momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
        "SGD, clipped": clipped,
        "LARS": partial(LARS, lr=0.01),
        "sign": partial(SignSGD, lr=1e-3),
        "Adam": partial(torch.optim.Adam, lr=1e-3),
        "AdamW": partial(torch.optim.AdamW, lr=1e-3),
        "RMSprop": partial(torch.optim.RMSprop, lr=1e-3),
    }
    return made | ({"Muon": muon} if hasattr(torch.optim, "Muon") else {})


def clipped(parameters: Iterable[nn.Parameter], lr: float = 0.1, largest: float = 0.01) -> torch.optim.Optimizer:
    """SGD with the norm of all gradients clipped before each step."""
    held = list(parameters)
    optimizer = torch.optim.SGD(held, lr)
    optimizer.register_step_pre_hook(lambda *_: (nn.utils.clip_grad_norm_(held, largest), None)[1])
    return optimizer


def _table() -> xr.Dataset:
    """The largest relative current of one step, by optimizer and kind of law."""
    task = place(build_task("digits", 0), "cpu", torch.float64)
    inputs, targets = task.batch(0)
    kinds: dict[str, list[np.ndarray]] = {}
    held: dict[str, list[np.ndarray]] = {}
    names: list[str] = []
    for text in (NET, LAWS):
        model = build_model(text, task, 0).double()
        laws = find(model, inputs[:SAMPLES], certify=False).laws
        found = kept(model, laws, optimizers(), lambda net: task.criterion(net(inputs), targets))  # type: ignore[attr-defined]
        names = [str(name) for name in found.optimizer.values]
        for law, kind in enumerate(found.kind.values):
            kinds.setdefault(str(kind), []).append(found.largest.values[:, law])
            held.setdefault(str(kind), []).append(found.kept.values[:, law])
    order = [kind for kind in ("translation", "rescale", "scale") if kind in kinds]
    data = {
        "law_current": (("optimizer", "law_kind"), np.stack([np.fmax.reduce(kinds[k]) for k in order], 1)),
        "law_kept": (("optimizer", "law_kind"), np.stack([np.all(held[k], 0) for k in order], 1).astype(float)),
    }
    return xr.Dataset(data, {"optimizer": names, "law_kind": order})


def _particle() -> xr.Dataset:
    found = asymmetries()
    rules, symmetries = (list(dict.fromkeys(key[i] for key in found)) for i in (0, 1))
    values = np.array([[found[rule, symmetry] for symmetry in symmetries] for rule in rules])
    data = {"asymmetry": (("metric", "symmetry"), values), "particle_residual": residual()}
    return xr.Dataset(data, {"metric": rules, "symmetry": symmetries})


def _constants() -> xr.Dataset:
    rows = [(inertia.rmsprop(*s).rho, inertia.equilibrium_angle(*s), inertia.rmsprop(*s).memory) for s in EVERYDAY]
    names = [f"η = {lr:g}, λ = {decay:g}, β = {momentum:g}" for lr, decay, momentum in EVERYDAY]
    return xr.Dataset(
        {"constant": (("everyday", "constant_name"), np.array(rows))},
        {"everyday": names, "constant_name": ["ρ", "equilibrium angle", "memory (steps)"]},
    )
