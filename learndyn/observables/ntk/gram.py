"""The empirical neural tangent kernel of any network, H = ⟨∂f_k(x_i)/∂θ, ∂f_l(x_j)/∂θ⟩ (arXiv:2505.13900)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learndyn.errors import InputError, unknown
from learndyn.observables.evaluate import looking
from learndyn.observables.ntk import contract, jacobian, taps
from learndyn.observables.ntk.jacobian import Function

REDUCTIONS = ("full", "trace", "sum")
CHUNK = 32
SPOT = 8  # samples, at most, on which a kernel is certified; of a trace, which takes a product an output, half
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.1}  # of the certificate


@dataclass(frozen=True)
class Kernel:
    """A tangent kernel, and how it came about.

    Attributes:
        matrix: `(n·c, n'·c)` with the outputs of a sample side by side for "full", `(n, n')` for "trace" and "sum".
        reduction: How the c outputs of a sample were treated.
        ways: How each parameter was done: "jacobian", "inputs" or "outputs" through the sites where it is used,
            "autograd" in the general way.
        why: Why the latter, by parameter.
        residual: ‖K v − J Jᵀ v‖ / ‖J Jᵀ v‖ for one random v, found by the certificate; nan where there is none.
        layers: The share of each weight with its bias, by name of the module; empty unless asked for.
        outputs: The number c.
    """

    matrix: Tensor
    reduction: str
    ways: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    residual: float = math.nan
    layers: dict[str, Tensor] = field(default_factory=dict)
    outputs: int = 1

    def reduced(self, reduction: str) -> Kernel:
        """The same kernel in another reduction: all three follow from "full" without another pass.

        Raises:
            InputError: If this one has lost what the other needs.
        """
        if reduction == self.reduction:
            return self
        if reduction not in REDUCTIONS:
            raise unknown("reduction", reduction, REDUCTIONS)
        if self.reduction != "full":
            raise InputError(f"{reduction!r} does not follow from {self.reduction!r}; compute the full kernel.")
        layers = {name: _reduce(share, self.outputs, reduction) for name, share in self.layers.items()}
        return replace(self, matrix=_reduce(self.matrix, self.outputs, reduction), reduction=reduction, layers=layers)


def _reduce(full: Tensor, c: int, reduction: str) -> Tensor:
    blocks = full.unflatten(0, (-1, c)).unflatten(2, (-1, c))
    return (blocks.diagonal(dim1=1, dim2=3).sum(-1) if reduction == "trace" else blocks.sum((1, 3))) / c


def call(model: Callable[..., Tensor], inputs: Tensor) -> Tensor:
    """The outputs of a network, as they are."""
    return model(inputs)


def kernel(
    model: nn.Module,
    inputs: Tensor,
    others: Tensor | None = None,
    *,
    reduction: str = "trace",
    parameters: Sequence[str] | Callable[[str], bool] | None = None,
    function: Function = call,
    batch_norm: str = "eval",
    structured: bool = True,
    certificate: bool = True,
    layers: bool = False,
    memory: float | None = None,
    after: Callable[[float], None] | None = None,
) -> Kernel:
    """The tangent kernel between inputs.

    Args:
        model: Any network; it is left as it was.
        inputs: `(n, ...)`, on the device and in the precision of the network (or indices).
        others: n' other inputs; None for the symmetric kernel of the first.
        reduction: "full": all pairs of outputs. "trace": (1/c) Σ_k ⟨J_ik, J_jk⟩. "sum": that of (Σ_k f_k)/√c. The three
            differ, also in how far they turn during training.
        parameters: Names of the parameters that count, or a test of names; by default all that are trained.
        function: (model, inputs) -> outputs `(n, ...)`, c in all dimensions after the first; by default the call.
        batch_norm: "eval": with running statistics, sample by sample. "train": with those of the batch of all inputs,
            in which every output depends on every input; n·c backward passes.
        structured: Whether to use the structure of the layers; else autograd for everything, as a check.
        certificate: Compare K v with J (Jᵀ v) for a random v, and raise if they differ.
        layers: Keep the share of every layer as well.
        memory: Bytes to use; by default a quarter of what is free.
        after: Called with the fraction that was done.

    Raises:
        InputError: If there is nothing to compute, a weight is not finite, the memory is too small, or the
            certificate fails.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    if batch_norm not in ("eval", "train"):
        raise unknown("batch-norm mode", batch_norm, ("eval", "train"))
    if len(inputs) == 0 or (others is not None and len(others) == 0):
        raise InputError("A kernel of no inputs is empty; give at least one.")
    names = chosen_names(model, parameters)
    if batch_norm == "train":
        mode = copy.deepcopy(model)  # batch statistics move running ones
    else:
        mode = _channels_last(model, inputs.device) if structured else model
    with looking(mode, inputs.device):
        if batch_norm == "train":
            for module in mode.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        return _Work(mode, function, names, inputs, others, reduction, after or (lambda fraction: None)).done(
            structured and batch_norm == "eval", batch_norm == "train", certificate, layers, memory
        )


def chosen_names(model: nn.Module, parameters: Sequence[str] | Callable[[str], bool] | None) -> list[str]:
    """Names of the parameters that count.

    Raises:
        InputError: If there is none, one is unknown, or one holds values that are not finite.
    """
    own = dict(model.named_parameters())
    if parameters is None:
        names = [name for name, p in own.items() if p.requires_grad]
    elif callable(parameters):
        names = [name for name in own if parameters(name)]
    else:
        names = list(dict.fromkeys(parameters))
        for name in names:
            if name not in own:
                raise unknown("parameter", name, own)
    if not names:
        raise InputError(f"No parameter of {type(model).__name__} was chosen; a kernel needs at least one.")
    for name in names:
        if not own[name].isfinite().all():
            raise InputError(
                f"The parameter {name!r} holds values that are not finite; the kernel would hold nothing else."
            )
    return names


def _channels_last(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a network of images whose layout makes convolutions on a CPU 1.3 times faster; others as they are."""
    if device.type != "cpu" or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return model
    try:
        return copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    except (RuntimeError, TypeError, AttributeError):  # what cannot be copied is used as it is
        return model


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
        return found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return 4 * 2**30


class _Heard(NamedTuple):
    """What was heard of some samples, by weight and by bias, and the rows of the general way `(n, r, P)`."""

    weights: dict[tuple[str, int], list[taps.Site]]
    biases: dict[tuple[str, int], list[taps.Site]]
    general: Tensor | None


class _Work:
    """One kernel in the making."""

    def __init__(
        self,
        model: nn.Module,
        function: Function,
        names: list[str],
        inputs: Tensor,
        others: Tensor | None,
        reduction: str,
        after: Callable[[float], None],
    ):
        self.model, self.function, self.names, self.after = model, function, names, after
        self.inputs, self.others, self.reduction = inputs, others, reduction
        with torch.no_grad():
            try:
                outputs = function(model, inputs[:1]).flatten(1)
            except Exception as error:
                raise InputError(
                    f"{type(model).__name__} does not take inputs of shape {tuple(inputs[:1].shape)}: "
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}."
                ) from error
        self.outputs, self.like = outputs.shape[1], outputs
        eye = torch.eye(self.outputs, dtype=outputs.dtype, device=outputs.device)
        self.directions = eye if reduction != "sum" else eye.sum(0, keepdim=True) / math.sqrt(self.outputs)
        self.rows = self.outputs if reduction == "full" else 1  # of the kernel, for a sample
        self.ways: dict[str, str] = {}
        self.why: dict[str, str] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self.model, inputs)

    def done(self, structured: bool, coupled: bool, certificate: bool, layers: bool, memory: float | None) -> Kernel:
        """The kernel."""
        if structured:
            plan = taps.plan(self.model, self.forward, self.inputs, self.names)
        else:
            reason = "batch statistics couple the samples" if coupled else "the structure was not to be used"
            plan = taps.Plan([], frozenset(), dict.fromkeys(self.names, reason), self.outputs)
        rest = [name for name in self.names if name not in plan.covered]
        self.why |= plan.why
        n, m = len(self.inputs), len(self.inputs if self.others is None else self.others)
        total = self.like.new_zeros(n * self.rows, m * self.rows)
        shares: dict[str, Tensor] = {}

        def target(name: str) -> Tensor:
            if not layers:
                return total
            return shares.setdefault(name.rpartition(".")[0] or name, torch.zeros_like(total))

        if coupled:
            self._coupled(target, rest)
        else:
            block = self._block(plan, rest, memory, total.nbytes)
            self._blocks(plan, rest, block, target)
        for part in shares.values():
            total += part
        found = [total, *shares.values()]
        for matrix in found:
            if self.others is None:
                contract.mirror(matrix)
            if self.reduction == "trace":
                matrix /= self.outputs
        residual = math.nan
        if certificate:
            residual = self._certificate(total, coupled)
        ways = {n: self.ways.get(n, "unused") for n in self.names}
        return Kernel(total, self.reduction, ways, self.why, residual, shares, self.outputs)

    def _block(self, plan: taps.Plan, rest: list[str], memory: float | None, taken: int) -> int:
        """Samples whose inputs and slopes are held at a time."""
        budget = (free_memory(self.inputs.device) / 4 if memory is None else memory) - taken
        one = (
            self.like.element_size()
            * sum(p.numel() for name, p in self.model.named_parameters() if name in rest)
            * len(self.directions)
        )
        if plan.covered:
            one += plan.slope_bytes * len(self.directions) + 2 * plan.input_bytes
        n, m = len(self.inputs), 0 if self.others is None else len(self.others)
        spare = max(0.0, budget - 2 * contract.SLAB)
        fitting = int(spare // max(one, 1))
        if n + m <= fitting:
            return max(n, m)
        if fitting < 2:
            raise InputError(
                f"The kernel needs {taken / 2**30:.2g} GiB for itself, {2 * contract.SLAB / 2**30:.2g} GiB to work in "
                f"and {2 * one / 2**30:.2g} GiB for two samples, and may use {(budget + taken) / 2**30:.2g} GiB; give "
                "fewer inputs or more memory."
            )
        return fitting // 2

    def _hear(self, plan: taps.Plan, rest: list[str], inputs: Tensor) -> _Heard:
        sites = taps.tap(self.forward, self.model, plan, self.names, inputs, self.directions) if plan.covered else []
        heard = _Heard({}, {}, None)
        for site in sites:
            if site.weight is not None and (site.slopes is not None or site.weight_slopes is not None):
                heard.weights.setdefault((site.weight.name, site.weight.offset), []).append(site)
            if site.bias is not None and site.bias_slopes is not None:
                heard.biases.setdefault((site.bias.name, site.bias.offset), []).append(site)
        if rest:
            rows = jacobian.jacobian(self.model, self.function, rest, inputs, self.directions)
            heard = heard._replace(general=rows)
        return heard

    def _blocks(self, plan: taps.Plan, rest: list[str], block: int, target: Callable[[str], Tensor]) -> None:
        columns = self.inputs if self.others is None else self.others
        pairs = [
            (i, j)
            for i in range(0, len(self.inputs), block)
            for j in range(0, i + 1 if self.others is None else len(columns), block)
        ]
        held, mine = -1, _Heard({}, {}, None)
        for count, (i, j) in enumerate(pairs, 1):
            if held != i:
                held, mine = i, self._hear(plan, rest, self.inputs[i : i + block])
            same = self.others is None and i == j
            theirs = None if same else self._hear(plan, rest, columns[j : j + block])
            shape = slice(i * self.rows, (i + block) * self.rows), slice(j * self.rows, (j + block) * self.rows)
            free = set()
            for place, sites in mine.weights.items():
                own = sites[0].bias
                bias = own is not None and mine.biases.get((own.name, own.offset)) == sites
                if bias := bias and contract.takes_bias(sites, min(block, len(self.inputs) - i), self.rows):
                    free.add((own.name, own.offset))  # type: ignore[union-attr]
                others = None if theirs is None else theirs.weights[place]
                self.ways[place[0]] = contract.add_site(target(place[0])[shape], sites, others, self.rows, bias)
            for place, sites in mine.biases.items():
                if place not in free:
                    contract.add_bias(target(place[0])[shape], sites, theirs and theirs.biases[place], self.rows)
                self.ways[place[0]] = "outputs" if place in free else "jacobian"
            if mine.general is not None:
                self._add_general(target, shape, rest, mine.general, theirs and theirs.general)
            self.after(count / len(pairs))

    def _coupled(self, target: Callable[[str], Tensor], names: list[str]) -> None:
        if self.others is not None:
            raise InputError("With batch statistics the kernel between two sets has no meaning; give one set.")
        rows = torch.stack(
            list(jacobian.batch_jacobian(self.model, self.function, names, self.inputs, self.directions))
        )
        self._add_general(target, (slice(None), slice(None)), names, rows, None)

    def _add_general(
        self,
        target: Callable[[str], Tensor],
        shape: tuple[slice, slice],
        names: list[str],
        first: Tensor,
        second: Tensor | None,
    ) -> None:
        """Add what the rows of the general way `(n, r, P)` amount to, parameter by parameter."""
        own, begin = dict(self.model.named_parameters()), 0
        for name in names:
            part = slice(begin, begin + own[name].numel())
            left = first[..., part].reshape(len(first) * self.rows, -1)
            right = None if second is None else second[..., part].reshape(len(second) * self.rows, -1)
            contract.add_product(target(name)[shape], left, right)
            self.ways[name], begin = "autograd", part.stop

    def _certificate(self, total: Tensor, coupled: bool) -> float:
        """Relative difference of K v and J Jᵀ v.

        Raises:
            InputError: If it is larger than rounding explains.
        """
        columns = self.inputs if self.others is None else self.others
        draw = torch.Generator().manual_seed(0)
        above, beside = torch.arange(len(self.inputs)), torch.arange(len(columns))
        if not coupled:
            some = SPOT // 2 if self.reduction == "trace" else SPOT
            above, beside = (torch.randperm(len(x), generator=draw)[:some] for x in (above, beside))
        inputs, others = self.inputs[above.to(self.inputs.device)], columns[beside.to(columns.device)]
        weights = torch.randn(len(beside), self.rows, generator=draw, dtype=torch.float64).to(self.like)
        if self.reduction == "trace":
            pairs = [(weights * row, row / self.outputs) for row in self.directions]
        elif self.reduction == "sum":
            pairs = [(weights * self.directions, self.directions[0])]
        else:
            pairs = [(weights, None)]
        true = torch.zeros(len(above) * self.rows, dtype=torch.float64)
        arguments = (self.model, self.function, self.names)
        chunk = len(self.inputs) if coupled else 2 * CHUNK
        try:
            for back, onto in pairs:
                gradient = jacobian.transposed_product(*arguments, others, back, chunk)
                found = jacobian.product(*arguments, inputs, gradient, chunk).double().cpu()
                true += found.flatten() if onto is None else found @ onto.double().cpu()
        except RuntimeError as error:  # a kernel of torch without a second derivative
            self.why["certificate"] = str(error).partition(chr(10))[0]
            return math.nan
        rows, columns_of = (
            (index[:, None] * self.rows + torch.arange(self.rows)).flatten().to(total.device)
            for index in (above, beside)
        )
        made = (total[rows][:, columns_of].double() @ weights.double().flatten().to(total.device)).cpu()
        residual = float((made - true).norm() / true.norm()) if true.any() else float(made.norm() > 0)
        if not residual <= TOLERANCE[total.dtype]:
            raise InputError(
                f"The kernel fails its certificate: K v and J Jᵀ v differ by {residual:.2g} of their size. "
                "Samples may see each other, or the outputs be random; if neither, give structured=False and report it."
            )
        return residual
