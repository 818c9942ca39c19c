"""Sequences of elements of a finite group, encoded; the target is the encoding of their product (arXiv:2602.03655)."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learndyn import groups
from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks.supervised import Batch, Supervised, half_squared_error


@dataclass(frozen=True, eq=False)
class FreshCompositions:
    """The task with new sequences at every step, drawn uniformly by (seed, step).

    Attributes:
        group: The group.
        template: Encoding of the identity, `(N,)`.
        length: Elements in a sequence.
        padding: Identities after them.
        held_out: A fixed sample, what `evaluation` gives for both splits.
        batch_size: Sequences per step.
        seed: Which sequences.
    """

    group: groups.FiniteGroup
    template: Tensor
    length: int
    padding: int
    held_out: Batch
    batch_size: int
    seed: int = 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, (length with padding, N)."""
        return tuple(self.held_out.inputs.shape[1:])

    @property
    def classes(self) -> int:
        """Number of outputs, N."""
        return self.group.order

    def batch(self, step: int) -> Batch:
        """The sequences of `step`."""
        elements = _drawn(self.group, self.length, self.batch_size, self.seed, f"sequences, {step}")
        return Batch(*groups.encode(self.group, self.template, _padded(self.group, elements, self.padding)))

    def loss(self, model: Callable[..., Tensor], batch: Batch) -> Tensor:
        """½ of the squared error, summed over outputs, mean over the batch."""
        return half_squared_error(model(batch.inputs), batch.targets)

    def evaluation(self, split: str) -> Batch:
        """The fixed sample."""
        if split not in ("train", "test"):
            raise InputError(f"There is no split {split!r}; ask for 'train' or 'test'.")
        return self.held_out

    def reseed(self, seed: int) -> "FreshCompositions":
        """Other sequences of the same task."""
        return dataclasses.replace(self, seed=seed)


def group_composition(
    group: str | groups.FiniteGroup = "dihedral(3)",
    length: int = 2,
    template: str | Tensor = "generic(0, 6, 40)",
    examples: int | None = None,
    test_examples: int = 1000,
    online: bool = False,
    padded: bool = False,
    batch_size: int | None = None,
    seed: int = 0,
    data_seed: int = 0,
) -> Supervised | FreshCompositions:
    """Inputs (x_{g_1}, …, x_{g_k}) of shape `(k, N)`, targets x_{g_1 g_2 … g_k}, loss ½ Σ (f − y)².

    The loss is a sum over outputs and a mean over sequences, so that the learning rate is flow time and levels are
    those of `learndyn.groups.predict`. Numbers are float32 like those of all tasks; `learndyn.groups.encode` gives
    them in float64.

    >>> task = group_composition(group="cyclic(5)", length=3, template="one_hot")
    >>> task.input_shape, task.classes, len(task.train.inputs)
    ((3, 5), 5, 125)

    Args:
        group: As text, "dihedral(3)", "icosahedral", "cyclic(5) x cyclic(5)", or any group.
        length: k, elements in a sequence.
        template: Encoding of the identity: "powers(0, 30, 3000)" in the order of `groups.irreps`, "generic(...)" with
            random blocks of these powers, "one_hot" (mean removed), "raw_one_hot", "magnitudes(12, 10)"; or N numbers.
        examples: Training sequences, drawn uniformly; all N^k when left out, which are then the test set too.
        test_examples: Held-out sequences, drawn uniformly, if not all are there.
        online: New sequences at every step in place of a training set.
        padded: Follow the sequences by the identity until their length is a power of two.
        batch_size: Sequences per step; all training sequences when left out, 128 online.
        seed: Order of the sequences; online, which.
        data_seed: Random template, and which sequences are drawn.

    Raises:
        InputError: If a text cannot be read, an option is out of its range, or more than a million sequences would be
            enumerated.
    """
    if length < 1:
        raise InputError(f"length={length} is no length of a sequence; give at least 1.")
    if online and examples is not None:
        raise InputError(f"examples={examples} and online=True exclude each other; give one of them.")
    for name, value in (("examples", examples), ("test_examples", test_examples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value} is too small for a task; give at least 1.")
    elements = groups.named(group) if isinstance(group, str) else group
    x = groups.template(elements, template, data_seed) if isinstance(template, str) else template
    padding = (1 << (length - 1).bit_length()) - length if padded else 0

    def encoded(sequences: Tensor) -> Batch:
        return Batch(*(t.float() for t in groups.encode(elements, x, _padded(elements, sequences, padding))))

    def drawn(split: str, count: int) -> Batch:
        return encoded(_drawn(elements, length, count, data_seed, split))

    if online:
        size = 128 if batch_size is None else batch_size
        return FreshCompositions(elements, x.float(), length, padding, drawn("test", test_examples), size, seed)
    if examples is None:
        train = test = encoded(groups.all_sequences(elements, length))
    else:
        train, test = drawn("train", examples), drawn("test", test_examples)
    return Supervised(
        train,
        test,
        batch_size=len(train.inputs) if batch_size is None else batch_size,
        seed=seed,
        criterion=half_squared_error,
        keep_last=True,
        classes=elements.order,
    )


def _drawn(group: groups.FiniteGroup, length: int, count: int, seed: int, purpose: str) -> Tensor:
    return torch.from_numpy(generator(seed, purpose).integers(0, group.order, (count, length)))


def _padded(group: groups.FiniteGroup, elements: Tensor, padding: int) -> Tensor:
    return torch.nn.functional.pad(elements, (0, padding), value=group.identity)
