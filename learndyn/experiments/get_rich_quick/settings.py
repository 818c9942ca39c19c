"""What can be set, the presets, and what is refused before any time is spent."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from learndyn.errors import InputError
from learndyn.names import build_model, build_task, parse
from learndyn.tasks import hierarchy_sizes, modular


@dataclass(frozen=True)
class Settings:
    """Which layer is larger at the start: does it decide when features are learnt, as theory says?

    Attributes:
        task: What your model (or ours) learns at several imbalances: a name or "file.py:factory".
        model: A name or "file.py:factory"; its first layer is divided by alpha and its last multiplied.
        alphas: Relative scales alpha; above 1 upstream, where the first layer learns fast.
        first: Parameters to divide by alpha instead, by name, where a norm follows the first layer.
        last: Parameters to multiply by alpha instead.
        readout: What the last layer is multiplied by before, so that a network starts from a small function.
        squared: Classes are learnt by half the squared error of one-hot targets; otherwise by the task's own loss.
        sharpness: Learning rate times the largest curvature at the start, so that all alphas are equally stable.
        steps: Updates of these runs, on `examples` examples at once.
        examples: Training examples of these runs.
        samples: Examples on which kernels and activation patterns are compared.
        seeds: Independent repetitions of these runs.
        deltas: Imbalances of the single neuron.
        rate: Learning rate of its descent at delta = 0; at other delta it is rate/(1 + |delta|/4).
        halvings: How often that is halved, to see the error halve.
        far: Sizes |delta| at which the laws far from balance are tried.
        starts: Random starts whose basins are followed.
        cell_seeds: Teachers and students of the cells of the full-size grid (100 inputs, 1000 examples, width 50).
        cell_steps: Updates of these.
        taus: Overall scales of the map.
        map_deltas: Imbalances of the map.
        inputs: Dimension of the inputs of the map.
        map_examples: Training examples of the map.
        width: Hidden units of the map.
        map_seeds: Teachers and students of the map.
        map_steps: Updates of the map, with learning rate 5e-3/tau^2.
        plane_steps: Updates of the networks in the plane.
        xor_steps: Updates of the networks on exclusive or.
        modulus: Of the additions that are grokked.
        operation: What is grokked, a name such as "x+y" or "x/y".
        fraction: Share of all pairs that is for training.
        grok_batch: Sentences a step; 0 for all.
        grok_width: Width of the transformer.
        grok_rate: Learning rate of AdamW.
        grok_alphas: What its embeddings are divided by.
        grok_seeds: Repetitions.
        grok_steps: Updates after which a run is given up: its time is then censored, and known to be longer.
        patience: The same for alpha up to 1, where grokking is slow.
        tree_sizes: Training examples of the random hierarchy.
        tree_alphas: Alphas of the networks that learn it.
        tree_epochs: Epochs.
        tree_seeds: Repetitions.
        filter_alphas: What the first filters are divided by; none leaves the filters out.
        filter_epochs: Epochs.
        filter_seeds: Repetitions.
        threads: CPU threads of one process; part of the settings, because they change bits.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    task: str = "digits"
    model: str = "mlp(width=200, depth=2)"
    alphas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    readout: float = 0.2
    squared: bool = True
    sharpness: float = 1.0
    steps: int = 300
    examples: int = 400
    samples: int = 60
    seeds: int = 2
    deltas: tuple[float, ...] = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    rate: float = 0.04
    halvings: int = 3
    far: tuple[float, ...] = (10.0, 30.0, 100.0)
    starts: int = 40
    cell_seeds: int = 3
    cell_steps: int = 1000
    taus: tuple[float, ...] = tuple(float(f"{v:.3g}") for v in np.logspace(-1, 0.3, 7))
    map_deltas: tuple[float, ...] = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
    inputs: int = 25
    map_examples: int = 250
    width: int = 50
    map_seeds: int = 2
    map_steps: int = 1000
    plane_steps: int = 50_000
    xor_steps: int = 4000
    modulus: int = 47
    operation: str = "x+y"
    fraction: float = 0.6
    grok_batch: int = 0
    grok_width: int = 64
    grok_rate: float = 2e-3
    grok_alphas: tuple[float, ...] = (1.0, 10.0, 100.0)
    grok_seeds: int = 3
    grok_steps: int = 900
    patience: int = 600
    tree_sizes: tuple[int, ...] = (2000, 4000, 8000)
    tree_alphas: tuple[float, ...] = (0.1, 1.0, 10.0)
    tree_epochs: int = 60
    tree_seeds: int = 2
    filter_alphas: tuple[float, ...] = (0.3, 10.0)
    filter_epochs: int = 5
    filter_seeds: int = 1
    threads: int = 1
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        seeds=4,
        samples=100,
        halvings=4,
        far=(10.0, 30.0, 100.0, 300.0),
        starts=200,
        cell_seeds=4,
        cell_steps=10_000,
        taus=tuple(float(f"{v:.3g}") for v in np.logspace(-1, 0.3, 9)),
        inputs=50,
        map_examples=400,
        map_steps=10_000,
        plane_steps=200_000,
        xor_steps=20_000,
        grok_alphas=(0.3, 1.0, 10.0, 100.0),
        grok_steps=2000,
        patience=1500,
        tree_sizes=(1000, 2000, 4000, 8000),
        tree_alphas=(0.1, 0.3, 1.0, 3.0, 10.0),
        tree_seeds=4,
        filter_alphas=(0.1, 0.3, 1.0, 3.0, 10.0),
        filter_epochs=6,
        filter_seeds=3,
    ),
    # The paper's sizes: 17 x 17 cells, 16 seeds, a million steps (90 minutes on 360 cores there).
    "paper": replace(
        _QUICK,
        seeds=8,
        samples=100,
        halvings=4,
        far=(10.0, 30.0, 100.0, 300.0),
        starts=1000,
        cell_seeds=4,
        cell_steps=10_000,
        taus=tuple(float(f"{v:.4g}") for v in np.logspace(-1, 0.3, 17)),
        map_deltas=tuple(float(v) for v in np.linspace(-1, 1, 17)),
        inputs=100,
        map_examples=1000,
        map_seeds=16,
        map_steps=1_000_000,
        plane_steps=500_000,
        xor_steps=20_000,
        modulus=97,
        operation="x/y",
        fraction=0.5,
        grok_batch=512,
        grok_width=128,
        grok_rate=1e-3,
        grok_alphas=(0.1, 0.3, 1.0, 3.0, 10.0),
        grok_seeds=5,
        grok_steps=30_000,
        patience=30_000,
        tree_sizes=(500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000),
        tree_alphas=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        tree_epochs=250,
        tree_seeds=6,
        filter_alphas=(0.1, 0.3, 1.0, 3.0, 10.0),
        filter_epochs=12,
        filter_seeds=5,
    ),
}

LEAST = {
    "steps": 20,
    "examples": 4,
    "samples": 2,
    "seeds": 1,
    "halvings": 2,
    "starts": 1,
    "cell_seeds": 1,
    "cell_steps": 100,
    "inputs": 2,
    "map_examples": 4,
    "width": 2,
    "map_seeds": 1,
    "map_steps": 100,
    "plane_steps": 1000,
    "xor_steps": 100,
    "modulus": 3,
    "grok_batch": 0,
    "grok_width": 4,
    "grok_seeds": 1,
    "grok_steps": 20,
    "patience": 20,
    "tree_epochs": 1,
    "tree_seeds": 1,
    "filter_epochs": 1,
    "filter_seeds": 1,
    "threads": 1,
}
TEST = 5000  # held-out examples of the hierarchy


def stored(text: str) -> Settings:
    """The settings that results were made with, from their JSON."""
    plain: dict[str, Any] = json.loads(text)
    made: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return Settings(**made)


def validate(settings: Settings) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    for name, least in LEAST.items():
        if getattr(s, name) < least:
            raise InputError(f"{name}={getattr(s, name)} must be at least {least}.")
    lists = {"deltas": 1, "map_deltas": 2, "alphas": 2, "far": 2, "taus": 2}
    lists |= {"grok_alphas": 2, "tree_sizes": 1, "tree_alphas": 2, "filter_alphas": 0}
    for name, least in lists.items():
        values = getattr(s, name)
        if len(values) < least or list(values) != sorted(set(values)) or not all(map(math.isfinite, values)):
            raise InputError(f"{name}={values} must be finite and increase, at least {least} of them.")
        if "deltas" not in name and values and values[0] <= 0:
            raise InputError(f"{name}={values} must be positive.")
    if len(s.filter_alphas) == 1:
        raise InputError(f"filter_alphas={s.filter_alphas} has nothing to compare; give two, or none.")
    if s.far[0] < 10:
        raise InputError(f"far={s.far} must begin at 10 or above: the laws are for the limit.")
    if not 0 < s.rate <= 0.05 or not 0 < s.sharpness < 2 or not 0 < s.readout < math.inf:
        raise InputError(
            f"rate={s.rate:g} must lie in (0, 0.05], sharpness={s.sharpness:g} in (0, 2) and readout={s.readout:g} "
            "above 0."
        )
    if not 0 < s.grok_rate < 1:
        raise InputError(f"grok_rate={s.grok_rate:g} must lie between 0 and 1.")
    if s.width % 2 or s.grok_width % 4:
        raise InputError(f"width={s.width} must be even, and grok_width={s.grok_width} a multiple of its 4 heads.")
    most, _ = hierarchy_sizes()
    if max(s.tree_sizes) + TEST > most:
        raise InputError(f"tree_sizes={s.tree_sizes} and {TEST} test examples are more than the {most} that exist.")
    modular(s.operation, s.modulus, s.fraction)
    parse(s.task)
    task = build_task(s.task, 0, s.data_dir)
    model = build_model(s.model, task, 0)
    known = dict(model.named_parameters())
    for name in (*s.first, *s.last):
        if name not in known:
            raise InputError(f"The model {s.model} has no parameter {name!r}; it has {', '.join(known)}.")
