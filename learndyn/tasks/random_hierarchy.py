"""The random hierarchy model: classes that are composed of parts of parts (F. Cagnetta et al., arXiv:2307.02129).

A class becomes s symbols, each of these s symbols again, and so on for L levels, by rules drawn once: every symbol has
m synonymous tuples of s symbols of the level below, and no tuple stands for two symbols. An example is a class and a
synonym for every symbol that is rewritten, so the examples are as many as these choices, all different.
"""

import numpy as np
import torch
from jaxtyping import Int64

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised

FEW = 2**20  # choices up to which all are shuffled; beyond, they are drawn one by one


def hierarchy_sizes(
    values: int = 8, synonyms: int = 4, levels: int = 3, branching: int = 2, classes: int = 8
) -> tuple[int, int]:
    """Number of different examples P_max = n_c m^((s^L − 1)/(s − 1)), and the sample complexity P* = n_c m^L.

    `values` has no influence on either; it is here so that the arguments of `random_hierarchy` can be passed on.

    >>> hierarchy_sizes()
    (131072, 512)
    """
    return classes * synonyms ** _rewritten(levels, branching), classes * synonyms**levels


def random_hierarchy(
    examples: int = 4000,
    test_examples: int = 20_000,
    values: int = 8,
    synonyms: int = 4,
    levels: int = 3,
    branching: int = 2,
    classes: int = 8,
    batch_size: int = 128,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised:
    """Examples of the random hierarchy model: s^L symbols, one-hot, as inputs `(s^L v,)`; the label is the class.

    All examples differ, also those of the two splits from each other. More training examples keep the rules, but not
    the examples.

    >>> task = random_hierarchy(examples=200, test_examples=100)
    >>> task.input_shape, task.classes, task.train.inputs[0].sum().item()
    ((64,), 8, 8.0)

    Args:
        examples: Training examples P.
        test_examples: Held-out examples.
        values: Symbols v of every level.
        synonyms: Tuples m that stand for one symbol.
        levels: Levels L of rewriting.
        branching: Symbols s in a tuple.
        classes: Number of classes n_c.
        batch_size: Examples per step.
        seed: Order of the examples.
        data_seed: Rules, and which examples there are.

    Raises:
        InputError: If an option is out of its range, there are not enough tuples for all symbols, or more examples are
            asked for than exist.
    """
    for name, value, least in (
        ("examples", examples, 1),
        ("test_examples", test_examples, 1),
        ("values", values, 2),
        ("synonyms", synonyms, 1),
        ("levels", levels, 1),
        ("branching", branching, 1),
        ("classes", classes, 2),
    ):
        if value < least:
            raise InputError(f"{name}={value} is too small for a hierarchy; give at least {least}.")
    above = max(classes, values) if levels > 1 else classes
    if synonyms * above > values**branching:
        raise InputError(
            f"synonyms={synonyms} for each of {above} symbols need {synonyms * above} tuples, but {values} symbols "
            f"make only {values**branching} of length {branching}; give fewer synonyms or more values."
        )
    most, _ = hierarchy_sizes(values, synonyms, levels, branching, classes)
    if examples + test_examples > most:
        raise InputError(
            f"examples={examples} and test_examples={test_examples} are more than the {most} different examples of "
            "this hierarchy; give fewer."
        )
    draw = generator(data_seed, "hierarchy")
    tables = [_rules(draw, classes if level == 0 else values, values, synonyms, branching) for level in range(levels)]
    chosen = _choices(draw, examples + test_examples, classes, synonyms, _rewritten(levels, branching))
    symbols, used = chosen[:, :1], 1
    for table in tables:
        picked = chosen[:, used : used + symbols.shape[1]]
        used += symbols.shape[1]
        symbols = table[symbols, picked].reshape(len(chosen), -1)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(symbols), values).flatten(1).float()
    labels = torch.from_numpy(chosen[:, 0].copy())
    return Supervised(
        train=Batch(one_hot[:examples], labels[:examples]),
        test=Batch(one_hot[examples:], labels[examples:]),
        batch_size=batch_size,
        seed=seed,
        classes=classes,
    )


def _rewritten(levels: int, branching: int) -> int:
    """Symbols that are rewritten in one example, 1 + s + … + s^(L−1)."""
    return sum(branching**level for level in range(levels))


def _rules(
    draw: np.random.Generator, above: int, values: int, synonyms: int, branching: int
) -> Int64[np.ndarray, "above synonyms branching"]:
    """The tuples of every symbol above: different ones from a shuffle of all."""
    tuples = draw.permutation(values**branching)[: above * synonyms]
    digits = [tuples // values**place % values for place in range(branching)]
    return np.stack(digits, 1).reshape(above, synonyms, branching)


def _choices(
    draw: np.random.Generator, count: int, classes: int, synonyms: int, rewritten: int
) -> Int64[np.ndarray, "count choices"]:
    """Different rows of a class and the synonyms to take, uniform over all."""
    total = classes * synonyms**rewritten
    if total <= FEW:
        left = draw.permutation(total)[:count]
        columns = [left % classes]
        left = left // classes
        for _ in range(rewritten):
            columns.append(left % synonyms)
            left = left // synonyms
        return np.stack(columns, 1)
    limits = np.array([classes] + [synonyms] * rewritten)
    rows = np.empty((0, len(limits)), dtype=np.int64)
    while len(rows) < count:  # what came up before is left out, in the order of the draws
        rows = np.concatenate([rows, draw.integers(0, limits, (count + 64, len(limits)))])
        _, first = np.unique(rows, axis=0, return_index=True)
        rows = rows[np.sort(first)]
    return rows[:count]
