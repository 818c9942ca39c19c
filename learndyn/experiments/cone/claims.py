"""Is the kernel trapped in a cone, does it still move there, and is it confined? Numbers with intervals."""

import math
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr

from learndyn.compare import Claim, Estimate, Transition, at_least, at_most, mean_interval, transition
from learndyn.compare.intervals import half_width
from learndyn.errors import InputError
from learndyn.observables import cone

LEVEL = 0.9
FEWEST = 4  # kernels in the late window
TURNING = 1e-3  # mean distance of neighbours that counts as moving: an angle of 2.6 degrees
FLAT = 4 / 3  # of S(t, τ) in the last third of the window over the second; free diffusion gives 5/3
ROUNDING = 1e-16  # what it leaves of a distance that is 0, such as those of a linear model's kernels
NARROW = 0.5  # of the half-angle over the angle from the start
CONFINED = 0.5  # of the exponent β; 1 is free diffusion


def measured_kernels(found: xr.Dataset) -> bool:
    """Whether there are kernels among the results."""
    return "kernel_cosine" in found and bool(np.isfinite(found.kernel_cosine).all())


class Series:
    """The cosines of one run, with what is read off them; angles in degrees."""

    def __init__(self, cosines: np.ndarray, steps: np.ndarray, late: float):
        self.gram, self.steps = torch.tensor(cosines), torch.tensor(steps, dtype=torch.float64)
        self.first = int((self.steps < late * float(self.steps[-1])).sum())
        self.window = slice(self.first, None)
        gaps = self.steps[self.window].diff()
        self.lag = float(gaps.min()) if len(gaps) else math.nan

    def adjacent(self) -> float:
        """Mean distance of neighbours in the late window."""
        times, found = cone.adjacent_distances(self.gram, self.steps, self.lag)
        return float(found[times >= self.steps[self.first]].mean())

    def flatness(self) -> float:
        """Distance from the first late kernel in the last third of the window over that in the second third."""
        away = cone.kernel_distances(self.gram)[self.first, self.window]
        span = self.steps[self.window] - self.steps[self.first]
        middle, end = (span >= span[-1] / 3) & (span < 2 * span[-1] / 3), span >= 2 * span[-1] / 3
        return float(away[end].mean() / away[middle].mean()) if middle.any() else math.nan

    def half_angle(self) -> float:
        """Mean angle of the late kernels from their mean direction."""
        return math.degrees(cone.cone_angles(self.gram, self.window).mean())

    def angle_from_start(self) -> float:
        """Angle of that direction from the first kernel of all."""
        return math.degrees(cone.angle_from(self.gram, 0, self.window))

    def ratio(self) -> float:
        """Half-angle over the angle from the start."""
        start = self.angle_from_start()
        return self.half_angle() / start if start > 0 else math.nan

    def exponent(self) -> float:
        """β of the late window; nan where the kernels are not evenly spaced."""
        try:
            return float(cone.structure_exponent(self.gram, self.steps, self.window))
        except InputError:
            return math.nan

    def chance(self) -> float:
        """Share of random walks with the same steps that are as confined as the late window."""
        try:
            return cone.random_walks(self.gram, self.steps, self.window).p_exponent
        except InputError:
            return math.nan


def runs(found: xr.Dataset, late: float, **where: str | int) -> list[Series]:
    """Every run's cosines, of the first reduction unless said otherwise."""
    cosines = found.kernel_cosine.sel(where) if where else found.kernel_cosine.isel(reduction=0)
    return [Series(cosines.sel(seed=seed).values, found.kernel_step.values, late) for seed in found.seed.values]


def estimate(found: xr.Dataset, late: float, statistic: Callable[[Series], float], ratio: bool = False) -> Estimate:
    """A number of the first reduction with its interval: over runs, or for one run over groups of probe inputs.

    A ratio, or another number that cannot be negative, is averaged by its logarithm.
    """
    values = np.array([statistic(run) for run in runs(found, late)])
    values = np.log(np.maximum(values, ROUNDING)) if ratio else values
    if len(values) > 1:
        made = mean_interval(values, LEVEL)
    else:
        groups = found.cosine_without.isel(seed=0).values
        without = np.array([statistic(Series(c, found.kernel_step.values, late)) for c in groups])
        if len(without) < 2:
            made = Estimate(values[0], math.nan, math.nan, "one run, too few inputs")
        else:
            half = half_width(np.log(np.maximum(without, ROUNDING)) if ratio else without, LEVEL)
            method = f"{100 * LEVEL:g} % jackknife over {len(without)} groups of probe inputs"
            made = Estimate(values[0], values[0] - half, values[0] + half, method)
    if not ratio:
        return made
    return Estimate(float(np.exp(made.value)), float(np.exp(made.low)), float(np.exp(made.high)), made.method)


def cone_claims(found: xr.Dataset, late: float) -> list[Claim]:
    """The claims of the cone effect; none where the late window holds too few kernels to say anything."""
    window = int((found.kernel_step >= late * found.kernel_step[-1]).sum())
    if window < FEWEST:
        return []
    begin, lag = (f"{v:g}" for v in (_begin(found, late), runs(found, late)[0].lag))
    return [
        at_least(
            "kernel-keeps-moving",
            f"From step {begin} on, kernels {lag} steps apart still differ: the distance has a floor above 0, later "
            "training is not lazy.",
            estimate(found, late, Series.adjacent, ratio=True),
            TURNING,
            paper="0.05 (VGG-16), 0.02 (ResNet-20), read off Fig. 5b",
        ),
        at_most(
            "reference-flattens",
            f"The distance from the kernel of step {begin} stops rising: mean over the last third of the window, over "
            "that of the second third.",
            estimate(found, late, Series.flatness, ratio=True),
            FLAT,
            paper="flat, Fig. 5a; free diffusion gives 5/3",
        ),
        at_most(
            "cone-narrow",
            "The cone of the late kernels is narrow: their mean angle from their mean direction is far below the angle "
            "of that direction from the first kernel.",
            estimate(found, late, Series.ratio, ratio=True),
            NARROW,
            paper="drawn only, Fig. 5c; 7.5 over 20 degrees in a prototype",
        ),
        at_most(
            "kernel-confined",
            "The late kernel is confined: S(t, t + dt) rises with an exponent far below the 1 of free diffusion.",
            estimate(found, late, Series.exponent),
            CONFINED,
            paper='not given, "the same for all dt" in Fig. 5b; 0.21 in a prototype',
        ),
    ]


def _begin(found: xr.Dataset, late: float) -> float:
    return float(found.kernel_step[found.kernel_step >= late * found.kernel_step[-1]][0])


def velocity(found: xr.Dataset, lag: float | None = None) -> xr.DataArray:
    """S(t, t + lag) over (seed, kernel_step); by default for the spacing that is most common."""
    steps = found.kernel_step.values.astype(float)
    if lag is None:
        gaps, counts = np.unique(np.diff(steps), return_counts=True)
        lag = float(gaps[counts.argmax()])
    curves = [cone.adjacent_distances(run.gram, run.steps, lag) for run in runs(found, 0.5)]
    return xr.DataArray(
        np.stack([distance.numpy() for _, distance in curves]),
        {"seed": found.seed, "kernel_step": curves[0][0].numpy()},
        ("seed", "kernel_step"),
        attrs={"lag": lag},
    )


def outside(found: xr.Dataset, late: float) -> xr.DataArray:
    """1 − cos between every kernel and the mean direction of the late ones, over (seed, kernel_step)."""
    curves = []
    for run in runs(found, late):
        cosines = cone.normalised(run.gram)
        curves.append(1 - cosines[:, run.window].mean(1) / cosines[run.window, run.window].mean().sqrt())
    return xr.DataArray(
        torch.stack(curves).numpy(),
        {"seed": found.seed, "kernel_step": found.kernel_step.values},
        ("seed", "kernel_step"),
    )


def cone_transition(found: xr.Dataset, late: float) -> Transition:
    """When the kernel enters its cone: half-way of the fall of its distance from the late ones' mean direction."""
    curves = outside(found, late)
    return transition(curves.kernel_step.values, curves.values, level=LEVEL, noise=1e-6)


def turning_transition(found: xr.Dataset) -> Transition:
    """When the kernel stops turning fast: half-way of the fall of the distance of neighbours."""
    curves = velocity(found)
    return transition(curves.kernel_step.values, curves.values, level=LEVEL, noise=1e-6)
