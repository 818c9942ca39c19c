"""Noether's charge of every channel, as measured and as its equation of motion (1) has it."""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.laws import inertia

CLOSE = 80  # steps at the end that are kept one by one


def noether(record: xr.Dataset, law: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """𝒬 = (m/2η)(C_{k+1} − C_k) of a scale law's charges C under SGD with heavy ball, and the left and right of (1).

    Args:
        record: With a row for every step.
        law: Its name.
        rows: Rows between which 𝒬 is averaged.

    Returns:
        `noether_charge` and `predicted_noether_charge` (from the first value and the drive δT − λ|q|² by the
        exponential integrator) over (rows, C), 0 in the first, and the last steps of both one by one (`_close`). For
        every channel `noether_error` of the means between rows and `noether_error_step` of single steps, root mean
        square, relative to 𝒬; and `residual`, `residual_equal`: left minus right of (1) by balanced and by equal
        weights, relative to the terms. Nothing where a step is missing, settings differ among parameters, or the
        optimizer has another law.
    """
    index = list(record.law.values).index(law)
    own = record.isel(charge=np.flatnonzero(record.law_of.values == index))
    settings = {n: record[n].values[1:, index] for n in ("rate", "weight_decay", "momentum", "dampening")}
    plain = all((s[:, 0] == s[:, 1]).all() for s in settings.values())
    if not plain or record.attrs["optimizer"] != "SGD" or '"nesterov": true' in record.attrs["options"]:
        return {}
    finite = np.isfinite(own.q.values).all() and np.isfinite(own.loss_current.values[1:]).all()
    if not finite or (np.diff(record.step.values) > 1).any() or (settings["rate"] <= 0).any():
        return {}
    lr, decay, beta, tau = (torch.from_numpy(s[:, 0].copy()) for s in settings.values())
    lr = lr * torch.where(beta > 0, 1 - tau, 1.0)
    c, norms = torch.from_numpy(own.q.values), torch.from_numpy(own.step_norm.values[1:])
    current = torch.from_numpy(own.loss_current.values[1:])
    terms = inertia.nld_terms(c, lr, decay, beta, norms)
    equal = inertia.nld_terms(c, lr, decay, beta, norms, balanced=False)
    measured = inertia.noether_charge(c, beta)
    predicted = inertia.nld(measured[0], terms.drive, lr, beta)
    sizes = sum(t.abs() for t in (terms.inertia, terms.friction, terms.asymmetry, terms.decay))
    assert isinstance(sizes, Tensor)
    scale = lr[1:, None].square()  # in units of the charge, lest a schedule that ends at 0 show nothing but rounding
    means = [_means(x, rows) for x in (measured, predicted)]
    made = {
        "noether_charge": means[0],
        "predicted_noether_charge": means[1],
        "noether_error": _relative(means[1] - means[0], means[0]),
        "noether_error_step": _relative(predicted - measured, measured),
        # where the loss itself breaks the symmetry, by the eps of a norm, its current is a term of (1)
        "residual": _relative(scale * (terms.residual + current[1:]), scale * sizes),
        "residual_equal": _relative(scale * (equal.residual + current[1:]), scale * sizes),
        "noether_charge_close": measured[-CLOSE:],
        "predicted_noether_charge_close": predicted[-CLOSE:],
    }
    return {name: values.numpy() for name, values in made.items()}


def _relative(error: Tensor, size: Tensor) -> Tensor:
    """Root mean square over steps, of every channel."""
    return error.square().mean(0).sqrt() / size.square().mean(0).sqrt().clamp_min(1e-300)


def _means(values: Tensor, rows: np.ndarray) -> Tensor:
    """Over the steps between rows; 0 in the first row."""
    total = torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
    at = torch.from_numpy(rows)
    made = total[at].diff(dim=0) / at.diff()[:, None]
    return torch.cat([torch.zeros_like(made[:1]), made])
