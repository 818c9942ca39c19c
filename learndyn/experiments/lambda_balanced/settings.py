"""What can be set, the presets, and what is refused before any time is spent."""

import math
from dataclasses import dataclass, replace

import torch

from learndyn.errors import InputError
from learndyn.laws.balanced.start import feasible
from learndyn.names import build_task

PAIR = "(d, h, c)"


@dataclass(frozen=True)
class Settings:
    """Two-layer linear networks from λ-balanced starts: do they learn as the exact solution says?

    Attributes:
        task: What the overlay learns, "linear_teacher(...)" or your own: "file.py:factory" with real targets. Inputs
            need not be white: the law is then integrated, and the report says so.
        hidden: Hidden units of the overlay.
        lams: λ of the overlay.
        scale: About the singular values of the first product W₂W₁ of the overlay.
        rate: Learning rate at λ = 0; at other λ it is rate/(1 + |λ|).
        steps: Updates of the overlay.
        halvings: How often the learning rate is halved, at the same final time, to see the error of the overlay halve.
        seeds: Independent starts of overlay, tree and sequence.
        depth: Levels of the tree of the semantic task, 2^depth items.
        tree_lams: λ at which it is learned.
        tree_steps: Updates, at rate · 2^depth/(1 + |λ|/10).
        shapes: Shapes (d, h, c) whose kernels are followed, as "d,h,c".
        shape_lams: λ of that table; infeasible ones are left empty.
        tasks: Random tasks a cell.
        sequence: Tasks learned one after the other, of size 5 at λ = 1.
        sequence_steps: Updates a task.
        reversal_lams: λ of reversal learning, and of fine-tuning after a rebalance.
        sizes: Widths of square Gaussian networks on which the exact solution is tried.
        trials: Networks of every kind whose balance is followed through training.
        trial_steps: Updates of these.
        map_shapes: Shapes of the maps over (λ, scale), as "d,h,c".
        map_points: Points along each side of a map.
        map_steps: Updates of the map by gradient descent on inputs that are not white; 0 leaves it out.
        saddles: Starts a size on which the law of the determinants is tried.
        threads: CPU threads of one process; part of the settings, because they change bits.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    task: str = "linear_teacher(examples=10, inputs=3, outputs=3)"
    hidden: int = 3
    lams: tuple[float, ...] = (-10.0, 0.01, 10.0)
    scale: float = 0.5
    rate: float = 1e-2
    steps: int = 1500
    halvings: int = 3
    seeds: int = 3
    depth: int = 3
    tree_lams: tuple[float, ...] = (-20.0, -10.0, -5.0, -2.0, -1.0, -0.3, 0.0, 0.3, 1.0, 2.0, 5.0, 10.0, 20.0)
    tree_steps: int = 1500
    shapes: tuple[str, ...] = ("5,5,5", "3,3,6", "6,3,3", "3,6,6", "3,5,6")
    shape_lams: tuple[float, ...] = (-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0)
    tasks: int = 5
    sequence: int = 4
    sequence_steps: int = 800
    reversal_lams: tuple[float, ...] = (0.0, 1e-6, 1e-3, 0.1, 1.0, 10.0)
    sizes: tuple[int, ...] = (10, 20)
    trials: int = 6
    trial_steps: int = 600
    map_shapes: tuple[str, ...] = ("5,5,5", "3,3,6", "6,3,3")
    map_points: int = 13
    map_steps: int = 0
    saddles: int = 20
    threads: int = 1
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        lams=(-10.0, -1.0, 0.01, 1.0, 10.0),
        steps=4000,
        halvings=4,
        seeds=6,
        tasks=20,
        sequence_steps=2000,
        sizes=(10, 40, 100),
        trials=40,
        trial_steps=4000,
        map_points=40,
        map_steps=4000,
        saddles=60,
    ),
    # Sizes and steps of the authors' notebooks; |λ| = 50 at a learning rate of 2e-4, 50,000 steps.
    "paper": replace(
        _QUICK,
        lams=(-50.0, 0.01, 50.0),
        scale=2.0,
        steps=50_000,
        halvings=2,
        seeds=3,
        tree_lams=(-100.0, -20.0, -10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 100.0),
        tree_steps=20_000,
        tasks=20,
        sequence_steps=6000,
        sizes=(10, 40, 100),
        trials=40,
        trial_steps=10_000,
        map_shapes=("20,20,2", "5,5,5", "3,3,6"),
        map_points=40,
        map_steps=4000,
        saddles=60,
    ),
}


def shape(text: str) -> tuple[int, int, int]:
    """Inputs, hidden units and outputs from "d,h,c".

    Raises:
        InputError: If it is no such text.
    """
    try:
        d, h, c = (int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f'A shape is written "d,h,c", such as 5,5,5, not {text!r}.') from None
    if min(d, h, c) < 1:
        raise InputError(f"The shape {text} has a width below 1.")
    return d, h, c


def fits(d: int, h: int, c: int, lam: float) -> bool:
    """Whether there are λ-balanced networks of this shape."""
    try:
        feasible(d, h, c, lam)
    except InputError:
        return False
    return True


def validate(settings: Settings) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    least = {"hidden": 1, "steps": 20, "halvings": 2, "seeds": 1, "tasks": 2, "tree_steps": 100, "sequence": 2}
    least |= {"sequence_steps": 20, "trials": 1, "trial_steps": 20, "map_points": 3, "saddles": 1, "threads": 1}
    for name, smallest in least.items():
        if getattr(s, name) < smallest:
            raise InputError(f"{name}={getattr(s, name)} must be at least {smallest}.")
    if not 1 <= s.depth <= 6:
        raise InputError(f"depth={s.depth} of the tree must lie between 1 and 6.")
    if s.map_steps < 0:
        raise InputError(f"map_steps={s.map_steps} must be at least 0.")
    for name in ("lams", "tree_lams", "shape_lams", "reversal_lams"):
        values = getattr(s, name)
        if not values or list(values) != sorted(set(values)) or not all(map(math.isfinite, values)):
            raise InputError(f"{name}={values} must be finite and increase, at least one of them.")
    if min(s.reversal_lams) < 0:
        raise InputError(f"reversal_lams={s.reversal_lams} are sizes; the sign plays no part in a square network.")
    if not 0 < s.rate <= 0.05 or not 0 < s.scale < 100:
        raise InputError(f"rate={s.rate:g} must lie in (0, 0.05], and scale={s.scale:g} in (0, 100).")
    if not s.shapes or not s.map_shapes or len({*s.shapes}) < len(s.shapes) or len({*s.map_shapes}) < len(s.map_shapes):
        raise InputError("Give at least one shape to follow and one to map, none of them twice.")
    for text in (*s.shapes, *s.map_shapes):
        shape(text)
    if not s.sizes or min(s.sizes) < 2 or list(s.sizes) != sorted(set(s.sizes)):
        raise InputError(f"sizes={s.sizes} must be at least 2 and increase.")
    inputs, targets = build_task(s.task, 0, s.data_dir).evaluation("train")
    if not torch.is_tensor(targets) or not targets.is_floating_point() or inputs.ndim != 2 or targets.ndim != 2:
        raise InputError(
            f"The overlay needs inputs (P, d) and real targets (P, c), not {tuple(inputs.shape)} and "
            f"{tuple(targets.shape)} of {targets.dtype}; take a regression such as linear_teacher."
        )
    for lam in s.lams:
        feasible(inputs.shape[1], s.hidden, targets.shape[1], lam)
