"""The RMSProp twin: the same network, batches and other parameters, with the normalised weights on the unit sphere."""

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.dynamics import State, start, train
from learndyn.experiments.noether_dynamics.settings import Settings
from learndyn.laws import inertia
from learndyn.names import parse
from learndyn.observables import evaluate
from learndyn.optimizers.sphere import SphereRMSProp


def twin(
    settings: Settings, first: State, last: State, laws: list[Any], losses: Tensor, bins: np.ndarray, found: xr.Dataset
) -> dict[str, Any]:
    """Train the twin of a run by SGD with decay and without momentum, and compare.

    Args:
        settings: Of the experiment.
        first: The run before its first step; it is trained.
        last: The run after its last step.
        laws: Scale laws, each channel of which must be a row of a weight.
        losses: Loss of the run at every step.
        bins: Steps between which losses are averaged.
        found: With `effective_lr` over (step, charge).

    Returns:
        `twin_loss`, `twin_effective_lr` over (step, ...); `twin_loss_difference`, the mean |difference| of averaged
        losses over their mean; `twin_logit_difference`, root mean square on the test set, relative; `twin_test_error`.
        Nothing for a run that has no such twin.
    """
    group = first.optimizer.param_groups[0]
    sgd = type(first.optimizer) is torch.optim.SGD and not group["momentum"] and group["weight_decay"] > 0
    weights = [_rows(law, first) for law in laws]
    if not sgd or len(first.optimizer.param_groups) > 1 or parse(settings.schedule)[0] != "constant" or None in weights:
        return {}
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    constants = inertia.rmsprop(lr, decay)
    own = dict(first.model.named_parameters())
    sphere = [own[name] for name in weights if name is not None]
    moments = [
        inertia.second_moment(p.detach().double().flatten(1).square().sum(1).square(), lr, decay) for p in sphere
    ]
    others = [p for p in own.values() if p.requires_grad and all(p is not w for w in sphere)]
    optimizer = SphereRMSProp(
        [
            {"params": sphere, "lr": constants.lr, "rho": constants.rho, "second_moment": moments},
            {"params": others, "lr": lr, "weight_decay": decay},
        ]
    )
    state = start(first.task, first.model, optimizer)

    def effective(state: State) -> Tensor:
        moments = torch.cat([state.optimizer.state[p]["second_moment"] for p in sphere]).double()
        return constants.lr / moments.sqrt()

    steps = found.step.values
    run = train(state, settings.steps, {"effective_lr": effective}, every=steps.tolist())
    if run.diverged is not None:
        return {"twin_test_error": np.nan}
    loss, theirs = (_means(x, bins) for x in (losses, run.loss))
    ends = [evaluate(s.model, s.task, "test") for s in (last, run.state)]
    logits = [end.outputs.double() for end in ends]
    return {
        "twin_loss": ("step", np.concatenate([[np.nan], theirs])),
        "twin_effective_lr": (("step", "charge"), run.series.effective_lr.values),
        "twin_loss_difference": float(np.abs(theirs - loss).mean() / loss.mean()),
        "twin_logit_difference": float((logits[1] - logits[0]).norm() / logits[0].norm()),
        "twin_test_error": float(ends[1].error),
    }


def _rows(law: Any, state: State) -> str | None:
    """The weight whose rows are the channels of a law, one by one."""
    own = dict(state.model.named_parameters())
    found = [t for t in law.terms if own[t.parameter].ndim > 1]
    if len(found) != 1 or found[0].side != "rows" or len(own[found[0].parameter]) != law.size:
        return None
    one = torch.equal(found[0].index, found[0].charge) and bool((found[0].weight == 1).all())
    return found[0].parameter if one else None


def _means(losses: Tensor, bins: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], losses.double().cumsum(0).numpy()])
    return np.diff(total[bins]) / np.diff(bins)
