"""What can be set, the presets, and what is refused before any time is spent."""

import math
from dataclasses import dataclass, replace

import torch

from learndyn import groups
from learndyn.errors import InputError
from learndyn.laws import staircase as law

SMALLEST = 1e-300  # α of a float
MOST = 1437  # digits to train on


@dataclass(frozen=True)
class Settings:
    """Networks from vanishing starts: does the loss fall in the steps that alternating gradient flows predict?

    Attributes:
        alphas: Starts of the diagonal networks, decreasing.
        values: Singular values of Σyx of the white linear problem, decreasing.
        size: Inputs and outputs of the linear problem whose variances fall as a power law.
        hidden: Hidden units of the linear networks.
        linear_alphas: Their starts, decreasing.
        directions: D of in-context regression; Σ has eigenvalues 1, 1/2, ..., 1/D, scaled to a trace of 2.
        examples: N, pairs in a prompt.
        heads: H; `few_heads` are tried as well.
        few_heads: Fewer heads than directions.
        attention_alphas: Standard deviations of their first weights, decreasing.
        modulus: p of modular addition.
        template: |x̂| by frequency, "frequency:magnitude, ...".
        neurons: Quadratic neurons that learn it.
        modular_alpha: Norm of their start.
        samples: Digits that the ReLU networks learn.
        features: Principal components of these, whitened.
        widths: ReLU neurons, one network each.
        relu_alpha: Norm of their start.
        module_steps: Updates of the plain linear module; the quadratic one has as many.
        momentum: Heavy-ball momentum of both modules.
        seeds: Independent starts of every network.
        threads: CPU threads of one process; part of the settings, because they change bits.
    """

    alphas: tuple[float, ...] = (1e-4, 1e-8, 1e-16, 1e-50, 1e-300)
    values: tuple[float, ...] = (4.0, 2.5, 1.5, 0.8)
    size: int = 4
    hidden: int = 20
    linear_alphas: tuple[float, ...] = (1e-4, 1e-8, 1e-50)
    directions: int = 4
    examples: int = 32
    heads: int = 5
    few_heads: int = 2
    attention_alphas: tuple[float, ...] = (1e-2, 1e-3, 1e-6)
    modulus: int = 9
    template: str = "1:6, 2:3"
    neurons: int = 12
    modular_alpha: float = 1e-2
    samples: int = 600
    features: int = 24
    widths: tuple[int, ...] = (1, 2, 3)
    relu_alpha: float = 1e-20
    module_steps: int = 2500
    momentum: float = 0.5
    seeds: int = 3
    threads: int = 1


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        size=10,
        linear_alphas=(1e-4, 1e-8, 1e-15, 1e-50),
        modulus=20,
        template="1:10, 3:5, 5:2.5",
        neurons=18,
        samples=1000,
        features=40,
        widths=(1, 2, 3, 5, 10),
        module_steps=20_000,
    ),
    # Section 4's sizes; ReLU on digits, not CIFAR-10, and attention by its population flow, not by fresh prompts.
    "paper": replace(
        _QUICK,
        size=10,
        linear_alphas=(1e-4, 1e-8, 1e-15, 1e-50),
        modulus=20,
        template="1:10, 3:5, 5:2.5",
        neurons=18,
        samples=MOST,
        features=60,
        widths=(1, 2, 3, 10, 30),
        module_steps=40_000,
        momentum=0.9,
        seeds=10,
    ),
}


def magnitudes(text: str) -> dict[int | tuple[int, ...], float]:
    """|x̂| by frequency from "1:6, 2:3".

    Raises:
        InputError: If it is no such text.
    """
    found = dict[int | tuple[int, ...], float]()
    for word in text.split(","):
        try:
            frequency, magnitude = word.split(":")
            found[int(frequency)] = float(magnitude)
        except ValueError:
            raise InputError(f'A template is "frequency:magnitude, ...", such as 1:6, 2:3, not {text!r}.') from None
    return found


def template(settings: Settings) -> torch.Tensor:
    """X of modular addition, phases of about one radian a frequency so that nothing is symmetric."""
    wanted, p = magnitudes(settings.template), settings.modulus
    group = groups.cyclic(p)
    phases = {k: 0.0 if isinstance(k, tuple) or 2 * k % p == 0 else 0.4 + 0.9 * k for k in wanted}
    return groups.magnitudes(group, wanted, phases)


def validate(settings: Settings) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    least = {"size": 2, "hidden": 1, "directions": 2, "examples": 1, "heads": 1, "few_heads": 1, "neurons": 1}
    least |= {"samples": 20, "features": 2, "module_steps": 100, "seeds": 1, "threads": 1}
    for name, smallest in least.items():
        if getattr(s, name) < smallest:
            raise InputError(f"{name}={getattr(s, name)} must be at least {smallest}.")
    for name in ("alphas", "linear_alphas", "attention_alphas"):
        values = getattr(s, name)
        if len(values) < 2 or list(values) != sorted(set(values), reverse=True):
            raise InputError(f"{name}={values} must be at least two and decrease, towards the limit.")
        if values[-1] < SMALLEST:
            raise InputError(f"{name}={values} must not go below {SMALLEST:g}, the least that a float holds safely.")
        law.check_vanishing(values[0], name)
    for name in ("modular_alpha", "relu_alpha"):
        law.check_vanishing(getattr(s, name), name)
    if not s.values or list(s.values) != sorted(set(s.values), reverse=True) or not 0 < s.values[-1] < math.inf:
        raise InputError(f"values={s.values} must be above 0 and decrease: equal ones would be learned together.")
    if s.hidden < max(len(s.values), s.size, 3):
        raise InputError(f"hidden={s.hidden} is fewer than the modes, {max(len(s.values), s.size, 3)}; give more.")
    if s.heads < s.directions or s.few_heads >= s.directions:
        raise InputError(
            f"heads={s.heads} must be at least the {s.directions} directions, and few_heads={s.few_heads} fewer."
        )
    if s.samples > MOST or s.features >= min(s.samples, 61):
        raise InputError(f"samples={s.samples} must be at most {MOST}, and features={s.features} at most 60 and fewer.")
    if not s.widths or min(s.widths) < 1 or list(s.widths) != sorted(set(s.widths)):
        raise InputError(f"widths={s.widths} must be at least 1 and increase.")
    if not 0 <= s.momentum < 1:
        raise InputError(f"momentum={s.momentum:g} is none; give a number from 0 up to below 1.")
    if s.modulus < 3:
        raise InputError(f"modulus={s.modulus} must be at least 3.")
    modes = law.modular_staircase(template(s), neurons=s.neurons)
    if s.neurons < 4 * len(modes.frequencies):
        raise InputError(f"neurons={s.neurons} cannot learn {len(modes.frequencies)} frequencies; give 6 for each.")
