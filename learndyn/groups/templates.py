"""Encodings x of the identity, from which those of all elements are translated: designed, random or from data.

An irrep is learnt if its part of x is not zero, the earlier the larger its score (`prediction`). `template` reads one
from text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from learndyn.errors import InputError, unknown
from learndyn.groups.families import read
from learndyn.groups.group import FiniteGroup
from learndyn.groups.representations import irreps
from learndyn.groups.transform import fourier, power, project
from learndyn.noise import generator

FLAT = 1e-6  # σ_min/σ_max of a block, below which it cannot be inverted
ABSENT = (
    1e-12  # share of the power, below which an irrep is rounding (of numbers that were once float32) or unlearnable
)
TIED = 0.05  # relative difference of scores, below which irreps are learnt together


def powers(group: FiniteGroup, values: Sequence[float]) -> Float64[Tensor, " elements"]:
    """A template with the given powers, every block a multiple of the identity: x = Σ √(P/(N⟨χ, χ⟩)) χ.

    Args:
        group: The group.
        values: P_ρ ≥ 0 in the order of `irreps`, the trivial one first (its power is the mean's).

    Raises:
        InputError: If there is not one finite power ≥ 0 for each irrep, or none is above 0.
    """
    wanted = _checked_powers(group, values)
    x = torch.zeros(group.order, dtype=torch.float64)
    for irrep, value in zip(irreps(group), wanted):
        x += math.sqrt(value / (group.order * irrep.norm)) * irrep.character
    return x


def generic(group: FiniteGroup, values: Sequence[float], seed: int = 0) -> Float64[Tensor, " elements"]:
    """A random template with the given powers: blocks in general position, so scores are not those of `powers`.

    Args:
        group: The group.
        values: P_ρ ≥ 0 in the order of `irreps`.
        seed: Of the Gaussian numbers.

    Raises:
        InputError: If there is not one finite power ≥ 0 for each irrep, or none is above 0.
    """
    wanted = _checked_powers(group, values)
    random = torch.from_numpy(generator(seed, "template").standard_normal(group.order))
    x = torch.zeros(group.order, dtype=torch.float64)
    for index, value in enumerate(wanted):
        part = project(group, random, index)
        x += math.sqrt(value) * part / part.norm()
    return x


def one_hot(group: FiniteGroup, centred: bool = True) -> Float64[Tensor, " elements"]:
    """1 at the identity, less the mean 1/N if centred."""
    x = torch.zeros(group.order, dtype=torch.float64)
    x[group.identity] = 1.0
    return x - x.mean() if centred else x


def magnitudes(
    group: FiniteGroup,
    values: Mapping[int | tuple[int, ...], float],
    phases: Mapping[int | tuple[int, ...], float] = {},
) -> Float64[Tensor, " elements"]:
    """A template on a product of cyclic groups with the given |x̂[ξ]|, x̂[ξ] = Σ_g x[g] e^{−2πi ξg/n}.

    Args:
        group: A product of cyclic groups.
        values: Magnitude by frequency, a number for a cyclic group and a tuple for a product; −ξ follows from ξ.
        phases: arg x̂[ξ] in radians, 0 where left out; for ξ = −ξ only 0 and π are real.

    Raises:
        InputError: If the group is no product of cyclic ones, a frequency is given twice or out of range, a magnitude
            is negative, or a phase makes x complex.
    """
    if group.factors is None:
        raise InputError(f"Frequencies belong to products of cyclic groups, not to {group.label}; use powers.")
    spectrum = torch.zeros(group.factors, dtype=torch.complex128)
    for frequency, magnitude in values.items():
        place = frequency if isinstance(frequency, tuple) else (frequency,)
        if len(place) != len(group.factors) or any(not 0 <= f < n for f, n in zip(place, group.factors)):
            raise InputError(f"Frequency {frequency} is not one of {group.label} with orders {group.factors}.")
        if not 0 <= magnitude < math.inf:
            raise InputError(f"Magnitude {magnitude:g} of frequency {frequency} must be finite and not negative.")
        if spectrum[place] != 0:
            raise InputError(f"Frequency {frequency} is given twice, perhaps as its negative; give it once.")
        phase = phases.get(frequency, 0.0)
        value = complex(magnitude * math.cos(phase), magnitude * math.sin(phase))
        opposite = tuple(-f % n for f, n in zip(place, group.factors))
        if opposite == place and abs(value.imag) > 1e-12 * magnitude:
            raise InputError(f"Frequency {frequency} is its own negative, so phase {phase:g} must be 0 or pi.")
        spectrum[opposite] = torch.tensor(value.conjugate(), dtype=torch.complex128)
        kept = value if opposite != place else complex(value.real)
        spectrum[place] = torch.tensor(kept, dtype=torch.complex128)
    if not (spectrum != 0).any():
        raise InputError("A template needs a frequency with a magnitude above 0.")
    return torch.fft.ifftn(spectrum).real.flatten()


def from_data(group: FiniteGroup, values: Float[Tensor, "*shape"]) -> Float64[Tensor, " elements"]:
    """Any N numbers as a template: less their mean, and scaled to ‖x‖² = N.

    Pixels of a p × q image fit cyclic(p) x cyclic(q) as they are.

    Raises:
        InputError: If there are not N finite numbers, or all are equal.
    """
    x = values.detach().to("cpu", torch.float64).flatten()
    if len(x) != group.order or not bool(torch.isfinite(x).all()):
        raise InputError(f"Data of shape {tuple(values.shape)} must be {group.order} finite numbers for {group.label}.")
    x = x - x.mean()
    if float(x.norm()) <= 1e-12 * float(values.abs().max()):
        raise InputError("Data that are all equal encode nothing; give numbers that differ.")
    return x * (math.sqrt(group.order) / x.norm())


def bumps(
    group: FiniteGroup, centres: Sequence[float], widths: Sequence[float], heights: Sequence[float]
) -> Float64[Tensor, " elements"]:
    """Gaussians on the circle of a cyclic group, summed over the windings, less the mean.

    Args:
        group: A cyclic group.
        centres: Places in units of elements, modulo n.
        widths: Standard deviations in units of elements, above 0.
        heights: Factors.

    Raises:
        InputError: If the group is not cyclic, lengths differ, or a width is not positive.
    """
    if group.factors is None or len(group.factors) != 1:
        raise InputError(f"Gaussians lie on the circle of a cyclic group, not on {group.label}.")
    if not len(centres) == len(widths) == len(heights) > 0:
        raise InputError(f"{len(centres)} centres, {len(widths)} widths and {len(heights)} heights must be as many.")
    n = group.order
    x = torch.zeros(n, dtype=torch.float64)
    for centre, width, height in zip(centres, widths, heights):
        if not (0 < width < math.inf and math.isfinite(centre) and math.isfinite(height)):
            raise InputError(f"A Gaussian of width={width:g} at {centre:g} of height {height:g} is none; width > 0.")
        turns = max(1, math.ceil(10 * width / n))
        place = torch.arange(n, dtype=torch.float64) - centre % n + n * torch.arange(-turns, turns + 1)[:, None]
        x += height * (-place.square() / (2 * width**2)).exp().sum(0)
    return x - x.mean()


def template(group: FiniteGroup, text: str, seed: int = 0) -> Float64[Tensor, " elements"]:
    """A template by its text: powers(0, 30, 3000), generic(0, 6, 40), one_hot, raw_one_hot or, for a cyclic group,
    magnitudes(12.5, 10) at frequencies 1, 2 and so on.

    Args:
        group: The group.
        text: What to build.
        seed: For the random ones.

    Raises:
        InputError: If the text cannot be read, or the template refuses its numbers.
    """
    name, numbers = read(text, "template", "powers(0, 30, 3000) or one_hot")
    if name in ("one_hot", "raw_one_hot"):
        if numbers:
            raise InputError(f"The template {text!r} takes no numbers; write {name}.")
        return one_hot(group, centred=name == "one_hot")
    if name == "powers":
        return powers(group, numbers)
    if name == "generic":
        return generic(group, numbers, seed)
    if name == "magnitudes":
        return magnitudes(group, {number: value for number, value in enumerate(numbers, start=1)})
    raise unknown("template", name, ("generic", "magnitudes", "one_hot", "powers", "raw_one_hot"))


@dataclass(frozen=True)
class Concerns:
    """What in a template is outside of the assumptions of the theory; all empty or zero is well.

    Attributes:
        mean: Of x, where it should be 0.
        unidentifiable: Irreps whose block has singular values between 0 and 1e-6 of the largest, zero included: no
            network solves the task exactly.
        tied: Pairs of irreps whose scores differ by less than 5 %; they are learnt together, in no certain order.
        sentences: The same for a reader.
    """

    mean: float
    unidentifiable: tuple[int, ...]
    tied: tuple[tuple[int, int], ...]
    sentences: tuple[str, ...]


def concerns(
    group: FiniteGroup, x: Float[Tensor, " elements"], utilities: Float[Tensor, " irreps"] | None = None
) -> Concerns:
    """What to worry about before a template is used.

    Args:
        group: The group.
        x: The template.
        utilities: Scores, as of `prediction.utilities`; ties are not looked for without.
    """
    representations = irreps(group)
    share = power(group, x)
    share = share / share.sum().clamp_min(torch.finfo(x.dtype).tiny)
    mean = float(x.mean())
    mean = mean if float(share[0]) > ABSENT else 0.0
    said = []
    if mean:
        said.append(f"The mean of the template is {mean:.3g}, not 0: the trivial irrep is learnt too, by other rules.")
    flat = []
    for index, block in enumerate(fourier(group, x)):
        if index and float(share[index]) > ABSENT:
            singular = torch.linalg.svdvals(block)
            if float(singular[-1]) < FLAT * float(singular[0]):
                flat.append(index)
                said.append(
                    f"The block of {representations[index].name} has singular values down to {float(singular[-1]):.1e} "
                    f"of {float(singular[0]):.1e}: the task cannot be solved exactly."
                )
    tied = []
    if utilities is not None:
        present = [i for i in range(1, len(representations)) if float(share[i]) > ABSENT]
        ranked = sorted(present, key=lambda i: -float(utilities[i]))
        for i, j in zip(ranked, ranked[1:]):
            if float(utilities[i]) - float(utilities[j]) < TIED * float(utilities[i]):
                tied.append((i, j))
                names = representations[i].name, representations[j].name
                said.append(f"The scores of {names[0]} and {names[1]} agree within 5 %: no order is predicted.")
    return Concerns(mean, tuple(flat), tuple(tied), tuple(said))


def _checked_powers(group: FiniteGroup, values: Sequence[float]) -> list[float]:
    representations = irreps(group)
    if len(values) != len(representations):
        sizes = ", ".join(f"{irrep.name} ({irrep.dimension})" for irrep in representations)
        raise InputError(
            f"{len(values)} powers do not fit the {len(representations)} irreps of {group.label}; give one each for "
            f"{sizes}."
        )
    if not all(0 <= value < math.inf for value in values) or not any(values):
        raise InputError(f"Powers {tuple(values)} must be finite, not negative, and one of them above 0.")
    return [float(value) for value in values]
