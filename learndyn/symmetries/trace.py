"""One forward pass in which labels travel with the numbers.

Every number of the pass has a label (`forms`), kept in a shadow of the memory where the number lies: views, transposes,
slices and changes in place need no rule. What writes new memory does: it says what its result's labels are and which
equations its inputs must obey. An operation without a rule fixes all that goes into it, and says so: a missing rule
costs laws, and never makes a false one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from learndyn.symmetries.forms import ANY, FIXED, Forms

Rule = Callable[..., Any]  # (trace, operation, args, kwargs, result) -> labels of the result or of its tensors
COMPLEX = ("view_as_complex", "view_as_real")
ELEMENTS = 2_000_000  # of a parameter that is followed element by element, at most
EPS = 1e-3  # what is added to numbers that are nowhere negative, at most, if it is to be the eps of a norm


@dataclass
class Block:
    """A use of some rows of a matrix: W_ij is multiplied by exp(R_i − C_j)."""

    rows: slice
    row_labels: np.ndarray
    column_labels: np.ndarray


@dataclass
class Part:
    """A parameter in the trace.

    Attributes:
        blocks: Its uses as a matrix, dimension 0 against all others.
        elements: Labels of its elements, where it was used otherwise.
    """

    name: str
    tensor: Tensor
    blocks: list[Block] = field(default_factory=list)
    elements: np.ndarray | None = None

    @property
    def size(self) -> int:
        """Its elements."""
        return self.tensor.numel()


class Trace(TorchDispatchMode):
    """Listens to a pass."""

    def __init__(self, model: nn.Module, follow: Mapping[str, Tensor], rules: dict[str, Rule], unknown: Rule):
        super().__init__()
        self.rules, self.unknown = rules, unknown
        self.forms = Forms()
        self.parts = {name: Part(name, tensor) for name, tensor in follow.items()}
        self.owners: dict[int, list[tuple[int, Part]]] = {}
        for part in self.parts.values():
            key = part.tensor.untyped_storage().data_ptr()
            self.owners.setdefault(key, []).append((int(part.tensor.storage_offset()), part))
        self.shadows: dict[int, Tensor] = {}
        self.kept: list[Any] = []  # alive, so that no address is used twice
        self.modules: list[str] = [""]
        self.model = model
        self.events: list[list[np.ndarray]] = []  # contractions, each with the sets of labels that meet
        self.rigid: list[np.ndarray] = []  # labels that were looked at one by one
        self.alone: set[str] = set()  # parameters that act on units one by one
        self.handles: list[Any] = []

    def __enter__(self):  # noqa: ANN204
        for name, module in self.model.named_modules():
            self.handles.append(module.register_forward_pre_hook(lambda m, a, name=name: self.modules.append(name)))
            self.handles.append(module.register_forward_hook(self._leave))
        return super().__enter__()

    def _leave(self, *_: Any) -> None:
        self.modules.pop()

    def __exit__(self, *args):  # noqa: ANN002, ANN204
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*args)

    # Labels -----------------------------------------------------------------------------------------------------------

    def part_of(self, tensor: Tensor) -> tuple[Part, int] | None:
        """The parameter that a tensor is a view of, and where in it the view begins."""
        for begin, part in self.owners.get(tensor.untyped_storage().data_ptr(), ()):
            if begin <= tensor.storage_offset() < begin + max(part.size, 1):
                return part, int(tensor.storage_offset()) - begin
        return None

    def labels(self, tensor: Any) -> np.ndarray:
        """The labels of a tensor, of its shape; of a number likewise."""
        if not isinstance(tensor, Tensor):
            return np.array(ANY if tensor == 0 or math.isinf(tensor) else FIXED)
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return np.full(tuple(tensor.shape), FIXED, dtype=np.int64)
        if self.part_of(tensor) is not None:
            return self._elements(tensor)
        shadow = self.shadows.get(tensor.untyped_storage().data_ptr())
        if shadow is None:
            values = tensor.detach()
            flat = ((values == 0) | values.isinf()).cpu().numpy()
            return np.where(flat, ANY, FIXED)
        return _strided(shadow, tensor).cpu().numpy()

    def _elements(self, tensor: Tensor) -> np.ndarray:
        found = self.part_of(tensor)
        assert found is not None
        part, offset = found
        if part.elements is None:
            if part.size > ELEMENTS:
                part.elements = np.full(part.size, FIXED, dtype=np.int64)
            else:
                part.elements = self.forms.new(part.size)
        whole = torch.from_numpy(part.elements)
        return whole.as_strided(tensor.shape, tensor.stride(), offset).numpy()

    def put(self, tensor: Tensor, labels: np.ndarray) -> None:
        """Write labels into the shadow of a tensor."""
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return
        key = tensor.untyped_storage().data_ptr()
        if key not in self.shadows:
            self.shadows[key] = self._blank(tensor)
        view = _strided(self.shadows[key], tensor)
        view.copy_(torch.from_numpy(np.broadcast_to(labels, tuple(tensor.shape)).copy()))

    def _blank(self, tensor: Tensor) -> Tensor:
        size = tensor.untyped_storage().nbytes() // (tensor.element_size() // (2 if tensor.is_complex() else 1))
        return torch.zeros(size, dtype=torch.int64)

    def remember(self, tensor: Tensor) -> None:
        """Give a constant a shadow before it is changed in place."""
        key = tensor.untyped_storage().data_ptr()
        if key in self.shadows or not tensor.is_floating_point():
            return
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())
        zero = ((whole == 0) | whole.isinf()).cpu()
        self.shadows[key] = torch.where(zero, ANY, FIXED)

    def followed(self, tensor: Any) -> bool:
        """Whether something depends on parameters."""
        if not isinstance(tensor, Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
            return False
        key = tensor.untyped_storage().data_ptr()
        return key in self.shadows or self.part_of(tensor) is not None

    def touch(self, tensor: Any) -> None:
        """Note that the numbers of a tensor are looked at one by one: no matrix mixes them any more."""
        if self.followed(tensor):
            self.rigid.append(np.unique(self.labels(tensor)))

    def where(self) -> str:
        """The innermost module at work."""
        return self.modules[-1]

    def reason(self, operation: str) -> str:
        """What to tell about an operation."""
        where = self.where()
        return f"{operation} in {where}" if where else operation

    # Uses of matrices -------------------------------------------------------------------------------------------------

    def matrix(self, tensor: Tensor) -> tuple[Part, slice, bool] | None:
        """The rows of a parameter (dimension 0 against the others) that a tensor is; and whether it is transposed."""
        found = self.part_of(tensor)
        if found is None:
            return None
        part, offset = found
        if part.elements is not None or part.tensor.ndim < 2 or not part.tensor.is_contiguous():
            return None
        rest = part.size // len(part.tensor)
        if tensor.ndim == 2 and tensor.stride() == (1, rest) and tensor.shape[0] == rest and rest > 1:
            count, transposed = tensor.shape[1], True
        elif tensor.is_contiguous() and tensor[0].numel() == rest:
            count, transposed = len(tensor), False
        elif tensor.ndim == 2 and rest == 1 and 1 in tensor.shape:
            count, transposed = tensor.numel(), tensor.shape[0] == 1
        else:
            return None
        if offset % rest:
            return None
        return part, slice(offset // rest, offset // rest + count), transposed

    # The pass ---------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  torch's signature
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        touched = any(self.followed(x) for x in _flat((args, kwargs)))
        rule = None
        if touched and (not func.is_view or name in COMPLEX):
            rule = self.rules.get(name.removesuffix("_"), self.unknown)
        changed = [x for x in _mutated(func, args, kwargs) if isinstance(x, Tensor)] if rule else []
        for tensor in changed:
            self.remember(tensor)
        # A rule looks at the inputs as they were: before they are changed, and else after, with the result at hand.
        found = rule(self, func, args, kwargs, None) if rule and changed else None
        result = func(*args, **kwargs)
        self.kept.append((result, args))
        if rule is not None:
            found = found if changed else rule(self, func, args, kwargs, result)
            targets = [x for x in _flat(result) if isinstance(x, Tensor)]
            for tensor, labels in zip(targets, found if isinstance(found, list) else [found]):
                if labels is not None:
                    self.put(tensor, labels)
        return result


def _strided(shadow: Tensor, tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return shadow.as_strided(tensor.shape, [2 * s for s in tensor.stride()], 2 * tensor.storage_offset())
    return shadow.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _flat(tree: Any) -> Iterator[Any]:
    if isinstance(tree, list | tuple):
        for item in tree:
            yield from _flat(item)
    elif isinstance(tree, dict):
        yield from _flat(list(tree.values()))
    else:
        yield tree


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    found = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[position] if position < len(args) else None)
            found += list(_flat(value))
    return found


def is_eps(tensor: Any, value: float) -> bool:
    """Whether adding this number looks like the eps of a norm; the laws then hold without it."""
    seen = isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel() > 0
    return seen and 0 < value <= EPS and bool((tensor.detach() >= 0).all())


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention in steps that have rules."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
