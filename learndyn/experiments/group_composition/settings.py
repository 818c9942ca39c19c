"""What can be set, the presets, and what is refused before any time is spent."""

import json
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from learndyn import groups
from learndyn.errors import InputError
from learndyn.groups import FiniteGroup
from learndyn.groups.families import read
from learndyn.groups.templates import ABSENT
from learndyn.laws.staircase.steps import VANISHING


@dataclass(frozen=True)
class Settings:
    """Composition of the elements of a group: one irreducible representation after the other, as foretold?

    A list of one value is for all groups.

    Attributes:
        groups: Groups to compose in, such as "dihedral(5)", "cyclic(5) x cyclic(5)", or "table(0, 1, 1, 0)", the
            products of all pairs of elements, row by row.
        templates: Their encodings: "powers(0, 10, 40)" in the order of `groups.irreps`, "generic(0, 10, 40)",
            "one_hot", "magnitudes(12, 10)", or "values(2, -1, ...)", one number for each element.
        lengths: Elements in a sequence.
        widths: Hidden units.
        alphas: Standard deviations of the weights at the start.
        seeds: Starts of each.
        step: Flow time of a step, in units of 1/U* of the first irrep.
        reach: Flow time of a run, in units of the predicted time of the last irrep.
        small_group: Group of the runs from smaller and smaller starts.
        small_template: Its encoding.
        small_width: Hidden units.
        small_alphas: The starts, down to where rounding seeds an irrep in the neurons of another (1e-16).
        small_step: Flow time of a step there.
        starved_group: Group of the runs in which an irrep has hardly a neuron in its basin.
        starved_template: Its encoding.
        starved_width: Hidden units.
        starved_alpha: Standard deviation of the weights at the start.
        starved_reach: Flow time of these runs, in units of the predicted time of the last irrep.
        exact_groups: Groups whose exact solutions are built and tried.
        exact_lengths: Elements in a sequence there; trees are for powers of two.
        exact_most: Neurons beyond which a two-layer solution is not built.
        sequence_group: Group on which two-layer, recurrent and tree networks are trained by Adam, one-hot.
        sequence_lengths: Elements in a sequence there.
        width_groups: More groups for two-layer networks, one-hot.
        width_lengths: Elements in a sequence, for each.
        factors: Widths of these networks, in units of those of the exact solution.
        width_seeds: Starts of each; the best counts.
        width_steps: Updates.
        width_rate: Learning rate of Adam, which a cosine takes to zero.
        width_scale: Standard deviation of their weights, relative to 1/sqrt(fan-in).
        threads: CPU threads of one process; part of the settings, because they change bits.
    """

    groups: tuple[str, ...] = (
        "dihedral(3)",
        "dihedral(3)",
        "cyclic(8)",
        "cyclic(7)",
        "dihedral(5)",
        "quaternion",
        "cyclic(5)",
    )
    templates: tuple[str, ...] = (
        "powers(0, 10, 40)",
        "powers(0, 6, 40)",
        "powers(0, 4, 6, 0, 0)",
        "powers(0, 8, 6, 4.5)",
        "powers(0, 3050, 2000, 1000)",
        "powers(0, 0, 1, 2, 8)",
        "powers(0, 8, 6)",
    )
    lengths: tuple[int, ...] = (2, 2, 2, 2, 2, 2, 3)
    widths: tuple[int, ...] = (100, 100, 100, 100, 200, 200, 200)
    alphas: tuple[float, ...] = (1e-4, 1e-4, 1e-4, 1e-4, 1e-3, 1e-4, 1e-4)
    seeds: int = 3
    step: float = 0.005
    reach: float = 1.8
    small_group: str = "cyclic(5)"
    small_template: str = "powers(0, 8, 5)"
    small_width: int = 60
    small_alphas: tuple[float, ...] = (1e-2, 1e-4, 1e-8, 1e-12)
    small_step: float = 0.0025
    starved_group: str = "alternating(4)"
    starved_template: str = "powers(0, 10, 60)"
    starved_width: int = 150
    starved_alpha: float = 1e-4
    starved_reach: float = 4.0
    exact_groups: tuple[str, ...] = ("cyclic(7)", "cyclic(10)", "dihedral(3)", "quaternion", "alternating(4)")
    exact_lengths: tuple[int, ...] = (2, 3, 4, 8)
    exact_most: int = 2000
    sequence_group: str = "cyclic(4)"
    sequence_lengths: tuple[int, ...] = (2, 3, 4)
    width_groups: tuple[str, ...] = ("cyclic(6)", "cyclic(10)", "dihedral(3)", "cyclic(5)")
    width_lengths: tuple[int, ...] = (2, 2, 2, 3)
    factors: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 2.0)
    width_seeds: int = 3
    width_steps: int = 1000
    width_rate: float = 1e-2
    width_scale: float = 0.3
    threads: int = 1


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        groups=(
            *_QUICK.groups,
            "cyclic(10)",
            "cyclic(4) x cyclic(4)",
            "symmetric(4)",
            "octahedral",
            "icosahedral",
            "cyclic(11)",
        ),
        templates=(
            *_QUICK.templates,
            "powers(0, 2, 8, 5, 0, 0)",
            "powers(0, 0, 0, 0, 8, 5, 0, 0, 0, 0)",
            "powers(0, 1000, 0, 0, 1800)",
            "powers(0, 4, 13, 21, 13)",
            "powers(0, 52, 33, 40, 43)",
            "magnitudes(12.5, 7.5, 10, 5, 2.5)",
        ),
        lengths=(*_QUICK.lengths, 3, 2, 2, 2, 2, 2),
        widths=(*_QUICK.widths, 300, 200, 300, 400, 600, 200),
        alphas=(*_QUICK.alphas, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3, 1e-4),
        seeds=2,
        exact_groups=(*_QUICK.exact_groups, "symmetric(4)", "icosahedral", "special_linear(3)", "heisenberg(3)"),
        sequence_group="cyclic(5)",
        width_groups=("cyclic(6)", "cyclic(10)", "dihedral(3)", "cyclic(15)", "cyclic(20)", "cyclic(25)", "cyclic(5)",
                      "cyclic(8)", "cyclic(10)"),
        width_lengths=(2, 2, 2, 2, 2, 2, 3, 3, 3),
        factors=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
        width_steps=2500,
    ),
    # The figure of five groups, with the spectra read off it, and the stored configurations of the authors.
    "paper": replace(
        _QUICK,
        groups=("cyclic(11)", "cyclic(5) x cyclic(5)", "dihedral(5)", "octahedral", "icosahedral", "dihedral(3)",
                "cyclic(10)", "octahedral", "icosahedral"),
        templates=("magnitudes(12.5, 7.5, 10, 5, 2.5)", "powers(0, 10.58, 0.627, 5.12, 0, 2, 0, 0, 0.135, 0, 0, 0, 0)",
                   "powers(0, 3050, 2000, 1000)", "powers(0, 1000, 900, 400, 100)", "powers(0, 2000, 1300, 600, 100)",
                   "powers(0, 30, 3000)", "one_hot", "powers(0, 500, 300, 0, 0)", "powers(0, 2000, 1300, 0, 0)"),
        lengths=(2, 2, 2, 2, 2, 2, 3, 2, 2),
        widths=(200, 200, 300, 400, 600, 180, 300, 1200, 1200),
        alphas=(1e-5, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-2, 1e-3, 1e-3),
        seeds=1,
    ),
}  # fmt: skip

LEAST = {
    "seeds": 1, "small_width": 1, "starved_width": 1, "exact_most": 1, "width_seeds": 1, "width_steps": 20,
    "threads": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One staircase to be trained.

    Attributes:
        name: For tables and figures.
        group: The group.
        x: The template.
        length: k.
        width: Hidden units.
        alpha: Standard deviation of the weights at the start.
    """

    name: str
    group: FiniteGroup
    x: Tensor
    length: int
    width: int
    alpha: float


@lru_cache(maxsize=32)
def group_of(text: str) -> FiniteGroup:
    """A group by its text, which may be its whole table.

    Raises:
        InputError: If the text cannot be read or the table is not that of a group.
    """
    if not text.strip().startswith("table("):
        return groups.named(text)
    _, numbers = read(text, "group", "table(0, 1, 1, 0)")
    size = math.isqrt(len(numbers))
    if size**2 != len(numbers) or not all(isinstance(number, int) for number in numbers):
        raise InputError(f"A table has N x N whole numbers, not {len(numbers)}; give the products row by row.")
    return FiniteGroup(torch.tensor(numbers).reshape(size, size), label=f"a table of {size}")


def encoding(group: FiniteGroup, text: str) -> Tensor:
    """A template by its text, which may be its numbers.

    Raises:
        InputError: If the text cannot be read or does not fit the group.
    """
    if not text.strip().startswith("values("):
        return groups.template(group, text)
    _, numbers = read(text, "template", "values(2, -1, -1)")
    if len(numbers) != group.order or not all(map(math.isfinite, numbers)) or len(set(numbers)) < 2:
        raise InputError(
            f"An encoding of {len(numbers)} numbers does not fit {group.label}; give {group.order} finite ones, one "
            "for each element, that are not all equal."
        )
    return torch.tensor(numbers, dtype=torch.float64)


def cases(settings: Settings) -> list[Case]:
    """The staircases, lists of one value being for all.

    Raises:
        InputError: If lists do not fit each other, or a group or a template cannot be read.
    """
    count = len(settings.groups)
    rows = {}
    for name in ("templates", "lengths", "widths", "alphas"):
        values = getattr(settings, name)
        if len(values) not in (1, count) or not values:
            raise InputError(f"{name} has {len(values)} entries for {count} groups; give one for all or one for each.")
        rows[name] = values * count if len(values) == 1 else values
    made = []
    for i, text in enumerate(settings.groups):
        group = group_of(text)
        template = rows["templates"][i]
        k = rows["lengths"][i]
        name = group.label if text.startswith("table(") else text
        made.append(
            Case(
                f"{name}, {template if len(template) < 50 else 'values'}, k = {k}",
                group,
                encoding(group, template),
                k,
                rows["widths"][i],
                rows["alphas"][i],
            )
        )
    return made


def lone_case(settings: Settings, kind: str, alpha: float) -> Case:
    """The case of the runs called "small" or "starved"."""
    text = getattr(settings, f"{kind}_group")
    group, template = group_of(text), getattr(settings, f"{kind}_template")
    return Case(
        f"{text}, {template}, k = 2", group, encoding(group, template), 2, getattr(settings, f"{kind}_width"), alpha
    )


def stored(text: str) -> Settings:
    """The settings that results were made with, from their JSON."""
    plain: dict[str, Any] = json.loads(text)
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return Settings(**made)


def validate(settings: Settings) -> None:
    """Refuse what cannot be run; what can be run and will not be learnt gets a sentence in the report.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    for name, least in LEAST.items():
        if getattr(s, name) < least:
            raise InputError(f"{name}={getattr(s, name)} must be at least {least}.")
    for name in ("step", "small_step"):
        if not 0 < getattr(s, name) <= 0.05:
            raise InputError(f"{name}={getattr(s, name):g} must lie in (0, 0.05], or gradient descent is not the flow.")
    for name in ("reach", "starved_reach"):
        if not 1 < getattr(s, name) < math.inf:
            raise InputError(f"{name}={getattr(s, name):g} must be above 1, or the last irrep is not seen.")
    for name, least in (("small_alphas", 2), ("factors", 2), ("exact_lengths", 1), ("sequence_lengths", 2)):
        values = getattr(s, name)
        if len(set(values)) != len(values) or len(values) < least:
            raise InputError(f"{name}={values} must be different numbers, at least {least} of them.")
    if list(s.factors) != sorted(s.factors) or not 0 < s.factors[0] < 1 <= s.factors[-1] < math.inf:
        raise InputError(f"factors={s.factors} must increase from below 1 to 1 or above.")
    if list(s.small_alphas) != sorted(s.small_alphas, reverse=True):
        raise InputError(f"small_alphas={s.small_alphas} must fall.")
    for name in ("lengths", "exact_lengths", "sequence_lengths", "width_lengths"):
        if min(getattr(s, name)) < 2:
            raise InputError(
                f"{name}={getattr(s, name)} must be 2 or more: there is nothing to compose in one element."
            )
    if len(s.width_lengths) != len(s.width_groups):
        raise InputError(
            f"width_lengths={s.width_lengths} must have one entry for each of {len(s.width_groups)} groups."
        )
    if not 0 < s.width_rate < 1 or not 0 < s.width_scale < math.inf:
        raise InputError(f"width_rate={s.width_rate:g} must lie in (0, 1), and width_scale={s.width_scale:g} above 0.")
    for text in (*s.exact_groups, *s.width_groups, s.sequence_group):
        group_of(text)
    for group, k in ((s.sequence_group, max(s.sequence_lengths)), *zip(s.width_groups, s.width_lengths)):
        groups.all_sequences(group_of(group), k)  # refuses what is too long
    for case in cases(s):
        _check(case)
    for alpha in s.small_alphas:
        _check(lone_case(s, "small", alpha))
    _check(lone_case(s, "starved", s.starved_alpha))


def _check(case: Case) -> None:
    if case.width < 1:
        raise InputError(f"width={case.width} of {case.name} is no network; give at least 1.")
    typical = case.alpha * math.sqrt((case.length + 1) * case.group.order)
    if not 0 < typical < VANISHING:
        most = VANISHING * case.alpha / typical if case.alpha > 0 else VANISHING
        raise InputError(
            f"alpha={case.alpha:g} gives the neurons of {case.name} norms of about {typical:.2g}, which do not vanish, "
            f"so no staircase is to be expected; give an alpha above 0 and below {most:.2g}."
        )
    share = groups.power(case.group, case.x)
    if not float(share[1:].sum()) > ABSENT * float(share.sum()):
        raise InputError(f"The encoding of {case.name} has no irrep but the trivial one, so there is nothing to learn.")


def warnings_before(case: Case, prediction: groups.Prediction) -> list[str]:
    """Sentences before anything is trained: what is outside the theory, starved, or too narrow."""
    said = list(prediction.sentences)
    if case.width < prediction.neurons:
        said.append(
            f"The width {case.width} is below the {prediction.neurons} neurons of the exact solution: the loss may "
            "stop above 0."
        )
    return said
