"""How well a prediction meets a measurement: joined by variable name, aligned by coordinate, averaged over a mask.

For each quantity that both have, with d = measured − predicted over all n points where both are known (and `where` is
true): mean difference ⟨d⟩ with an interval over replicates, √⟨d²⟩, max |d|, and the linear correlation.
"""

from collections.abc import Hashable, Iterable

import numpy as np
import xarray as xr

from learndyn.compare.intervals import Estimate, jackknife
from learndyn.errors import InputError

REPLICATES = ("seed", "direction")  # the first one present is what the jackknife leaves out: seeds are independent


def agreement(
    predicted: xr.Dataset, measured: xr.Dataset, where: xr.DataArray | None = None, level: float = 0.9
) -> xr.Dataset:
    """Compare every variable that both datasets have.

    A prediction without the dimension `seed` or `direction` speaks of the mean: the measurement is averaged over them
    first. One that has them is compared replicate by replicate.

    Args:
        predicted: Variables over some dimensions.
        measured: The same, perhaps with further dimensions `seed`, `direction`. Only coordinates that occur in both are
            compared; missing values (nan) are left out.
        where: Which points count, over any of the dimensions; all if None.
        level: Probability of the interval of the mean difference.

    Returns:
        One row per variable along `name`: `mean_difference` with `low` and `high` (nan with fewer than two replicates),
        `rms`, `max_abs` in the variable's own `units`; `correlation` (nan if either is constant) and `n` without unit.

    Raises:
        InputError: If no name is common, or if units, dimensions or coordinates of a common variable do not fit.

    >>> time = {"time": [0.0, 1.0, 2.0]}
    >>> law = xr.Dataset({"loss": ("time", [1.0, 0.5, 0.25])}, time)
    >>> run = xr.Dataset({"loss": (("seed", "time"), [[1.0, 0.6, 0.35], [1.0, 0.6, 0.25]])}, time)
    >>> row = agreement(law, run).sel(name="loss")
    >>> [round(float(row[key]), 3) for key in ("mean_difference", "rms", "max_abs", "n")]
    [0.05, 0.065, 0.1, 3.0]
    """
    names = [name for name in predicted.data_vars if name in measured.data_vars]
    if not names:
        theirs, ours = (", ".join(map(str, d.data_vars)) or "nothing" for d in (predicted, measured))
        raise InputError(f"Nothing to compare: predicted has {theirs}; measured has {ours}. Give them common names.")
    rows = [_row(name, predicted[name], measured[name], where, level) for name in names]
    table = {key: ("name", np.array([row[key] for row in rows])) for key in rows[0]}
    units = [str(measured[name].attrs.get("units", "")) for name in names]
    return xr.Dataset(table, {"name": [str(name) for name in names], "units": ("name", units)}, {"level": level})


def _row(
    name: Hashable, predicted: xr.DataArray, measured: xr.DataArray, where: xr.DataArray | None, level: float
) -> dict[str, float]:
    theirs, ours = _aligned(name, predicted, measured)
    known = theirs.notnull()
    if where is not None:
        if extra := set(where.dims) - set(ours.dims):
            raise InputError(
                f"The mask has the dimensions {_list(extra)} that {name!r} lacks; it has {_list(ours.dims)}."
            )
        known = known & where
    theirs, ours = xr.broadcast(theirs, ours.where(known))
    averaged = [dim for dim in REPLICATES if dim in ours.dims and dim not in predicted.dims]
    interval = _mean_difference(ours - theirs, averaged, level)

    mean = ours.mean(averaged)
    there = mean.notnull().values
    m, p = mean.values[there], theirs.mean(averaged).values[there]
    varies = len(m) > 1 and np.ptp(p) > 0 and np.ptp(m) > 0
    return {
        "mean_difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "rms": float(np.sqrt(np.mean((m - p) ** 2))) if len(m) else np.nan,
        "max_abs": float(np.abs(m - p).max()) if len(m) else np.nan,
        "correlation": float(np.corrcoef(p, m)[0, 1]) if varies else np.nan,
        "n": float(len(m)),
    }


def _mean_difference(difference: xr.DataArray, averaged: list[str], level: float) -> Estimate:
    """Mean over the replicates and then over the points; the jackknife leaves out whole seeds (or directions)."""

    def mean(kept: xr.DataArray) -> float:
        return float(kept.mean(averaged).mean())

    dim = next((dim for dim in REPLICATES if dim in difference.dims), None)
    if dim is None:
        return Estimate(mean(difference), np.nan, np.nan, "no replicates")
    every = np.arange(difference.sizes[dim])
    return jackknife(lambda kept: mean(difference.isel({dim: kept.astype(int)})), every, level, over=f"{dim}s")


def _aligned(name: Hashable, predicted: xr.DataArray, measured: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Both at the coordinates that they share, after checking that the comparison means something."""
    if extra := set(predicted.dims) - set(measured.dims):
        raise InputError(f"{name!r} is predicted over {_list(extra)}, but measured only over {_list(measured.dims)}.")
    if extra := set(measured.dims) - set(predicted.dims) - set(REPLICATES):
        raise InputError(f"{name!r} is measured over {_list(extra)}, but predicted only over {_list(predicted.dims)}.")
    _same_units(f"{name!r}", predicted, measured)
    shared = [dim for dim in predicted.dims if dim in predicted.coords and dim in measured.coords]
    for dim in shared:
        _same_units(f"The coordinate {dim!r} of {name!r}", predicted[dim], measured[dim])
    try:
        theirs, ours = xr.align(predicted, measured, join="inner")
    except ValueError as error:
        raise InputError(f"The prediction and measurement of {name!r} do not align: {error}") from error
    for dim in shared:
        if ours.sizes[dim] == 0:
            raise InputError(f"The prediction and measurement of {name!r} have no value of {dim!r} in common.")
    return theirs, ours


def _same_units(what: str, predicted: xr.DataArray, measured: xr.DataArray) -> None:
    theirs, ours = (str(each.attrs.get("units", "")) for each in (predicted, measured))
    if theirs != ours:
        raise InputError(f"{what} is predicted in {theirs or 'no unit'} but measured in {ours or 'no unit'}.")


def _list(dims: Iterable[Hashable]) -> str:
    return ", ".join(sorted(map(str, dims))) or "none"
