"""Is a series of kernels trapped in a cone? Statistics of directions in time (arXiv:2505.13900, Figs. 4 and 5).

Everything is computed from the Gram matrix ⟨H_s, H_t⟩ of the series, in which only the directions Ĥ = H/‖H‖ count; the
papers draw pictures, the numbers are ours. A window is a slice of the series. Angles in radians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.optimize import least_squares
from torch import Tensor

from learndyn.errors import InputError
from learndyn.noise import generator

Gram = Float[Tensor, "steps steps"]


def normalised(gram: Gram) -> Gram:
    """Cosines between the members of a series.

    Raises:
        InputError: If one of them has no direction: its norm is zero or not finite.
    """
    size = gram.diagonal().double()
    odd = ~(size.isfinite() & (size > 0))
    if odd.any():
        place = int(odd.nonzero()[0])
        raise InputError(
            f"Kernel {place} of the series has the norm {float(size[place].sqrt()):g}, hence no direction."
        )
    return gram.double() / (size.sqrt()[:, None] * size.sqrt())


def kernel_distances(gram: Gram) -> Gram:
    """S = 1 − cos between all members: 0 where they point alike, 1 where they are orthogonal; blind to their scale."""
    found = (1 - normalised(gram)).clamp(min=0.0)
    return found.fill_diagonal_(0.0)


def adjacent_distances(
    gram: Gram, steps: Float[Tensor, " steps"] | list[int], lag: float
) -> tuple[Float[Tensor, " pairs"], Float[Tensor, " pairs"]]:
    """S(t, t + lag) for every t at which both kernels are there (Fig. 5b); over the lag, the velocity of the kernel.

    Returns:
        The steps t, and the distances.
    """
    times = torch.as_tensor(steps, dtype=torch.float64)
    first, second = ((times - times[:, None] - lag).abs() < 1e-9 * max(lag, 1.0)).nonzero(as_tuple=True)
    return times[first], kernel_distances(gram)[first, second]


def _window(gram: Gram, window: slice, least: int = 3) -> Tensor:
    inside = normalised(gram[window, window])
    if len(inside) < least:
        raise InputError(f"A window of {len(inside)} kernels says nothing of a cone; it takes at least {least}.")
    return inside


def cone_angles(gram: Gram, window: slice = slice(None)) -> Float[Tensor, " window"]:
    """Angle of every member of a window from their mean direction; a cone's half-angle is their mean or maximum."""
    inside = _window(gram, window)
    onto = inside.mean(1) / inside.mean().sqrt()
    return onto.clamp(-1.0, 1.0).arccos()


def angle_from(gram: Gram, origin: int = 0, window: slice = slice(None)) -> Float[Tensor, ""]:
    """Angle of the mean direction of a window from one member, such as the kernel at initialisation."""
    every = normalised(gram)
    inside = _window(gram, window)
    return (every[origin, window].mean() / inside.mean().sqrt()).clamp(-1.0, 1.0).arccos()


def effective_dimension(gram: Gram, window: slice = slice(None)) -> Float[Tensor, ""]:
    """Participation ratio (tr C)² / tr C² of the centred directions: 1 along a line, more the more ways they go."""
    inside = _window(gram, window)
    centred = inside - inside.mean(0) - inside.mean(1)[:, None] + inside.mean()
    return centred.trace().square() / centred.square().sum()


def structure_function(
    gram: Gram, steps: Float[Tensor, " steps"] | list[int], window: slice = slice(None)
) -> tuple[Float[Tensor, " lags"], Float[Tensor, " lags"]]:
    """Mean distance S(t, t + dt) over a window by lag dt; lags of at most half the window, in steps.

    Raises:
        InputError: If the window holds fewer than three kernels, or they are not evenly spaced.
    """
    _window(gram, window)
    return _structure(kernel_distances(gram[window, window]), steps, window)


def _structure(distances: Tensor, steps: Tensor | list[int], window: slice) -> tuple[Tensor, Tensor]:
    times = torch.as_tensor(steps, dtype=torch.float64)[window]
    gaps = times.diff()
    if (gaps - gaps[0]).abs().max() > 1e-9 * gaps[0]:
        raise InputError(f"The structure function needs evenly spaced kernels; the gaps are {gaps.unique().tolist()}.")
    lags = range(1, max(2, len(times) // 2) + 1 if len(times) > 3 else 3)
    return gaps[0] * torch.tensor(list(lags)), torch.stack([distances.diagonal(lag).mean() for lag in lags])


def structure_exponent(
    gram: Gram, steps: Float[Tensor, " steps"] | list[int], window: slice = slice(None)
) -> Float[Tensor, ""]:
    """β, the slope of ln⟨S(t, t + dt)⟩ against ln dt: 0 for jitter about a fixed direction, below 1 if confined, 1 for
    diffusion, 2 for straight motion.
    """
    return _slope(*structure_function(gram, steps, window))


def _slope(lags: Tensor, means: Tensor) -> Tensor:
    x, y = lags.log(), means.log()
    x = x - x.mean()
    return (x * (y - y.mean())).sum() / x.square().sum()


@dataclass(frozen=True)
class Saturation:
    """S(dt) = limit · (1 − exp(−dt / time)).

    Attributes:
        limit: Distance at long lags; inf where the curve does not bend.
        time: Lag at which it bends, in steps.
    """

    limit: float
    time: float


def saturation(lags: Float[Tensor, " lags"], means: Float[Tensor, " lags"]) -> Saturation:
    """The curve of confined motion fitted to a structure function, by least squares of the logarithm."""
    x, y = lags.double().numpy(), means.double().log().numpy()

    def misfit(p):  # noqa: ANN001, ANN202
        return p[0] + torch.from_numpy(-x / math.e ** p[1]).expm1().neg().log().numpy() - y

    best = min(
        (least_squares(misfit, (y.max(), math.log(t))) for t in (x[0] / 2, x[len(x) // 2], x[-1] * 2)),
        key=lambda found: found.cost,
    )
    limit, time = math.exp(min(best.x[0], 700.0)), math.exp(min(best.x[1], 700.0))
    return Saturation(limit, time) if time < 100 * x[-1] else Saturation(math.inf, math.inf)


@dataclass(frozen=True)
class Null:
    """What free motion with the same steps would give.

    Attributes:
        exponents: β of the surrogates `(count,)`.
        angles: Their mean angles from the mean direction `(count,)`.
        p_exponent: Share of surrogates, with the series itself, whose β is no larger than the measured one.
        p_angle: The same for the angle.
    """

    exponents: Tensor
    angles: Tensor
    p_exponent: float
    p_angle: float


def random_walks(
    gram: Gram, steps: Float[Tensor, " steps"] | list[int], window: slice = slice(None), count: int = 199, seed: int = 0
) -> Null:
    """The null of the cone: walks made of the same steps in random order and with random signs.

    What is confined takes back its steps; a walk does not. Surrogates start where the window starts and are compared as
    directions, like the series.
    """
    exponents, angles = [], []
    for walk in _walks(gram, window, count, seed):
        exponents.append(_slope(*_structure(kernel_distances(walk), steps, window)))
        angles.append(cone_angles(walk).mean())
    betas, means = torch.stack(exponents), torch.stack(angles)
    beta, mean = structure_exponent(gram, steps, window), cone_angles(gram, window).mean()
    shares = [(1 + int((null <= value).sum())) / (1 + count) for null, value in ((betas, beta), (means, mean))]
    return Null(betas, means, *shares)


def walk_distances(
    gram: Gram, steps: Float[Tensor, " steps"] | list[int], window: slice = slice(None), count: int = 199, seed: int = 0
) -> Float[Tensor, "count lags"]:
    """The structure functions of those walks, at the lags of `structure_function`."""
    walks = _walks(gram, window, count, seed)
    return torch.stack([_structure(kernel_distances(walk), steps, window)[1] for walk in walks])


def _walks(gram: Gram, window: slice, count: int, seed: int) -> Iterator[Tensor]:
    """Gram matrices of walks made of the steps of a window."""
    inside = _window(gram, window)
    moves = inside.diff(dim=0).diff(dim=1)  # ⟨Ĥ_{s+1} − Ĥ_s, Ĥ_{t+1} − Ĥ_t⟩
    onto = inside[0].diff()  # ⟨Ĥ_0, Ĥ_{t+1} − Ĥ_t⟩
    draw = generator(seed, "random walks")
    for _ in range(count):
        order = torch.from_numpy(draw.permutation(len(moves)))
        signs = torch.from_numpy(draw.choice([-1.0, 1.0], len(moves)))
        path = torch.zeros_like(inside)
        path[1:, 1:] = (moves[order][:, order] * signs[:, None] * signs).cumsum(0).cumsum(1)
        along = torch.cat([torch.zeros(1, dtype=torch.float64), (onto[order] * signs).cumsum(0)])
        yield 1 + along[:, None] + along + path


def embedding(gram: Gram, dimensions: int = 3) -> tuple[Float[Tensor, "steps dimensions"], float]:
    """Coordinates in which the origin and hence angles survive: leading axes of the uncentred Gram matrix of the
    directions, turned so that the first kernel lies on the first axis.

    Returns:
        Coordinates, and the share of the trace that they hold.
    """
    values, vectors = torch.linalg.eigh(normalised(gram))
    values, vectors = values.flip(0)[:dimensions].clamp(min=0.0), vectors.flip(1)[:, :dimensions]
    points = vectors * values.sqrt()
    target = torch.zeros_like(points[0])
    target[0] = points[0].norm()
    mirror = points[0] - target
    if mirror.norm() > 1e-12:  # a reflection that carries the first point to the first axis
        points = points - 2 * (points @ mirror)[:, None] * mirror / mirror.square().sum()
    for axis in range(1, points.shape[1]):  # signs are free: let the series end on the positive side
        if points[-1, axis] < 0:
            points[:, axis] = -points[:, axis]
    return points, float(values.sum() / len(gram))


def polar(gram: Gram) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Polar angle from the first kernel, and azimuth from the two principal axes of what is orthogonal to it."""
    cosines = normalised(gram)
    rest = cosines - cosines[:, :1] * cosines[:1]
    values, vectors = torch.linalg.eigh(rest)
    plane = vectors[:, -2:] * values[-2:].clamp(min=0.0).sqrt()
    return cosines[0].clamp(-1.0, 1.0).arccos(), torch.atan2(plane[:, 0], plane[:, 1])
