"""What moves the charges of a network: the exact budget of every training step (arXiv:2012.04728, sections 3 and 5).

For a law with the quadratic charge q = N(θ) = B(θ, θ), and for any step Δ, whoever made it,

    q' − q = 2 B(θ, Δ) + N(Δ);                    for a linear charge q = S(θ):  q' − q = S(Δ).

SGD, Adam and AdamW make their step of three parts, Δ = decay + current + memory: weight decay, this step's gradient
behind the preconditioner, and what the momentum remembers; 2 B(θ, ·) of each is what it does to the charge. The current
of SGD vanishes where the law holds: so momentum, preconditioner, decay and the length of the step break conservation
laws, each by a number. The split, and that of Adam and AdamW, is derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW

from learndyn.errors import InputError, unknown

#: What is known of each charge, with its unit. The first is the charge; the others are sums over steps.
QUANTITIES = {
    "q": ("charge", "weight^2 (linear laws: weight)"),
    "jump": ("change of q that no step has made: of weights written between steps; else rounding", "as q"),
    "loss_current": ("B(θ, g), g as the optimizer gets it; linear laws: S(g); 0 where the law holds", "loss"),
    "gradient_norm": ("N(g); 0 for linear laws", "(loss / weight)^2"),
    "step_current": ("2 B(θ, Δ); linear laws: S(Δ)", "as q"),
    "step_norm": ("N(Δ); 0 for linear laws", "as q"),
    "velocity_norm": ("N(Δ / rate), for heavy-ball SGD N(b); 0 for linear laws and where the rate is 0", "weight^2"),
    "decay": ("part of step_current by weight decay", "as q"),
    "current": ("part of step_current by the gradient of the step, preconditioned", "as q"),
    "memory": ("part of step_current by momentum: what is left of earlier steps", "as q"),
}
#: Of the parameter groups that a law's parameters are in; those that do not move have rate 0.
SETTINGS = ("rate", "weight_decay", "momentum", "dampening")
#: What happened in the steps of a window: a sum of these.
MARKS = {"weights_changed_between_steps": 1, "resumed": 2, "not_finite": 4, "split_fails": 8, "gradients_not_seen": 16}
BROKEN, RESUMED, NOT_FINITE, UNEXPLAINED, UNSEEN = MARKS.values()
TINY = 1e-30  # of a charge: near the smallest numbers rounding is no longer relative
CHUNK = 2**18  # numbers that are looked at together: in the cache of a processor
SMALL = 2**14  # parameters up to this size are looked at together, if it is element by element

_Key = tuple[bool, str, int, int]  # whether linear, side, first row, row after the last
TG, GG, TM, TD, DD, TC, TW = range(7)  # sums of θg, gg, θ·momentum, θΔ, ΔΔ; for Adam θ·current, θ·decay


@dataclass(frozen=True)
class Window:
    """What happened since the last window.

    Attributes:
        values: The charges now, and the sums over all steps since, `(QUANTITIES, C)`.
        settings: Smallest and largest over the parameters of a law and these steps, `(SETTINGS, 2, laws)`.
        uniform: Whether they were the same for all parameters of a law at every step, `(laws,)`. Else no recursion in
            the charge alone holds, but the budget does.
        transfer: Heavy ball takes a charge and its overlap form(θ, b) from window to window linearly, if only decay
            and momentum act: `(2, 2, laws)`; nan for other optimizers.
        response: What the lengths N(Δ) of the steps add to these two, `(2, C)`; so that the exact law needs no record
            of every step (`learndyn.laws.charges.discrete`).
        mark: A sum of MARKS.
    """

    values: np.ndarray
    settings: np.ndarray
    uniform: np.ndarray
    transfer: np.ndarray
    response: np.ndarray
    mark: int


@dataclass
class _Part:
    """A parameter as a matrix, rows × width; or some small ones in one column."""

    names: list[str]
    sizes: list[int]
    old: Tensor  # (rows, width), in the parameter's precision
    begin: int  # of its features
    end: int = 0
    sums: list[tuple[_Key, int]] = field(default_factory=list)  # and the feature where they begin

    def has(self, tensors: Mapping[str, Any]) -> bool:
        """Whether there is something to read."""
        return any(name in tensors for name in self.names)

    def read(self, tensors: Mapping[str, Tensor], begin: int, out: Tensor, own: bool = False) -> Tensor:
        """As many rows as `out` has from `begin` on, zeros for what is missing.

        In `out` or, unless it must be one's own, where it lies.
        """
        found = [tensors[name].detach() if name in tensors else None for name in self.names]
        if len(found) == 1 and found[0] is not None:
            rows = (found[0] if found[0].ndim else found[0][None])[begin : begin + len(out)].reshape(out.shape)
        else:
            zero = self.old.new_zeros(1)
            rows = torch.cat([zero.expand(n) if t is None else t.flatten() for t, n in zip(found, self.sizes)])[:, None]
        return out.copy_(rows) if own or rows.dtype != out.dtype or rows.device != out.device else rows


class _Sums:
    """Sums of products over rows, columns and elements of parameters (features), and the charges made of them.

    Laws share features, and all laws are computed at once; parameters go through the cache in pieces.
    """

    def __init__(self, parameters: Mapping[str, Tensor], laws: Iterable[Any], device: torch.device, exact: bool):
        self.device, self.exact, self.size = device, exact, 0
        wanted: dict[str, dict[_Key, int]] = {name: {} for name in parameters}  # and how many
        uses = []
        for law in laws:
            for term in getattr(law, "terms", ()):
                p = parameters[term.parameter]
                rows = len(p) if p.ndim else 1
                key, index, length = (law.linear, "columns", term.begin, term.end), term.index, p.numel() // rows
                if term.side == "rows":
                    key, index, length = (law.linear, "rows", 0, rows), term.index + term.begin, rows
                if term.side == "elements" or (term.side == "rows" and p.numel() == rows):
                    key, length = (law.linear, "elements", 0, p.numel()), p.numel()
                if not -1 < int(index.min()) <= int(index.max()) < length or term.end > max(rows, length):
                    raise InputError(f"A law does not fit {term.parameter} of shape {tuple(p.shape)}: {law}.")
                wanted[term.parameter][key] = length
                uses.append((term.parameter, key, index, term.charge + self.size, term.weight))
            self.size += law.size
        used = [name for name, keys in wanted.items() if keys]
        small = {n for n in used if {k[1] for k in wanted[n]} == {"elements"} and parameters[n].numel() <= SMALL}
        kinds = {name: f"{parameters[name].dtype} {parameters[name].device}" for name in used}
        groups = [
            list(g) for _, g in groupby(sorted(small, key=lambda n: (kinds[n], used.index(n))), kinds.__getitem__)
        ]
        at: dict[tuple[str, _Key], int] = {}
        owner: list[int] = []  # of features: the parameter
        linear: list[bool] = []
        self.parts: list[_Part] = []
        for names in groups + [[name] for name in used if name not in small]:
            p, sizes = parameters[names[0]].detach(), [parameters[name].numel() for name in names]
            rows = sum(sizes) if names[0] in small else len(p) if p.ndim else 1
            shape = rows, sum(sizes) // rows
            part = _Part(names, sizes, p.new_empty(shape), len(owner))
            for key in dict.fromkeys((*k[:3], 0) if names[0] in small else k for n in names for k in wanted[n]):
                part.sums.append((key, len(owner)))
                for name, size in zip(names, sizes):
                    own: _Key = (*key[:3], size) if names[0] in small else key
                    at[name, own] = len(owner)
                    owner += [list(parameters).index(name)] * wanted[name].get(own, size)
                linear += [key[0]] * (len(owner) - len(linear))
            part.end = len(owner)
            self.parts.append(part)
        none = torch.zeros(0, dtype=torch.int64)
        self.owner = torch.tensor(owner, dtype=torch.int64, device=device)
        self.linear = torch.tensor(linear, dtype=torch.bool, device=device)
        self.feature = torch.cat([none, *(index + at[name, key] for name, key, index, _, _ in uses)]).to(device)
        self.charge = torch.cat([none, *(charge for *_, charge, _ in uses)]).to(device)
        self.weight = torch.cat([none.double(), *(weight for *_, weight in uses)]).to(device)
        largest = max(
            (part.old.numel() if len(part.names) > 1 else part.old.shape[1] for part in self.parts), default=0
        )
        self.buffers = self.new(6, max(largest, CHUNK if device.type == "cpu" else 32 * CHUNK))

    def new(self, *shape: int) -> Tensor:
        """Zeros."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def chunks(self, part: _Part, count: int, exact: bool = False) -> Iterator[tuple[int, list[Tensor]]]:
        """Some rows at a time: the first of them, and buffers for them."""
        double = self.exact or exact or part.old.dtype == torch.float64
        buffers, (length, width) = self.buffers.view(torch.float64 if double else torch.float32), part.old.shape
        rows = min(length, buffers.shape[1] // width)
        for begin in range(0, length, rows):
            number = min(rows, length - begin)
            yield begin, [b[: number * width].view(number, width) for b in buffers[:count]]

    def note(self, out: Tensor, part: _Part, begin: int, x: Tensor, y: Tensor, product: Tensor) -> None:
        """Sum x y, and for linear laws y, of which there are no norms (x is y)."""
        if any(not key[0] for key, _ in part.sums):
            self.add(out, part, begin, torch.mul(x, y, out=product), False)
        if x is not y:
            self.add(out, part, begin, y, True)

    def add(self, out: Tensor, part: _Part, begin: int, values: Tensor, linear: bool) -> None:
        """Add up values of rows from `begin` on, for one kind of laws."""
        for (own, side, low, high), at in part.sums:
            if own != linear:
                continue
            if side == "columns":
                low, high = max(low - begin, 0), min(high - begin, len(values))
                if low < high:
                    out[at : at + values.shape[1]] += values[low:high].sum(0)
            elif side == "rows":
                out[at + begin : at + begin + len(values)] = values.sum(1)
            else:
                first = at + begin * values.shape[1]
                out[first : first + values.numel()] = values.flatten()

    def measure(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """θθ, for linear laws θ, and the absolute values of it that are added up, `(F,)` each."""
        squares, sizes = self.new(2, len(self.owner))
        for part in self.parts:
            for begin, (x, product) in self.chunks(part, 2, exact=True):
                x = part.read(parameters, begin, x)
                self.note(squares, part, begin, x.view(x.shape), x, product)
                self.add(sizes, part, begin, torch.abs(x, out=product), True)
        return squares, torch.where(self.linear, sizes, squares)

    def charges(self, features: Tensor, weight: Tensor) -> Tensor:
        """`(n, C)` from `(n, F)`."""
        values = features.index_select(1, self.feature).mul_(weight)
        return self.new(len(features), self.size).index_add_(1, self.charge, values)


class Ledger:
    """The budget of charges: call `before` and `after` at every step, and `take` now and then what was summed up.

    Nothing of the model or the optimizer is changed. The charges are measured when they are taken, and at once where
    torch has counted a change of the weights; between, they are carried on by what the steps do.

    Args:
        model: Any module.
        optimizer: The steps of torch's SGD, Adam and AdamW are split into decay, current and memory. Of any other only
            the step is seen: `split` is then False, and the parts are nan.
        laws: Laws of this model. Those with terms are cheap; of others `form` is called.
        exact: Take all products and all sums in float64. By default those of parameters in float32 or less are taken in
            float32 for up to 262,144 numbers, and sums of these in float64: half the cost, and seven digits of what
            moves the charges. The charges themselves, and models in float64, are in float64 from the first to the last.

    Raises:
        InputError: If a law is about a parameter that the model does not have, or about one of another shape.
    """

    def __init__(self, model: nn.Module, optimizer: Any, laws: Iterable[Any], exact: bool = False) -> None:
        self.optimizer, self.laws = optimizer, list(laws)
        self.adam = type(optimizer) in (Adam, AdamW)
        self.split = self.adam or type(optimizer) is SGD
        known = dict(model.named_parameters(remove_duplicate=False))
        self.names = list(dict.fromkeys(name for law in self.laws for name in law.parameters))
        for name in self.names:
            if name not in known:
                raise unknown("parameter", name, known)
            if not known[name].is_floating_point():
                raise InputError(f"Parameter {name} is {known[name].dtype}; charges are made of real numbers.")
        paths = [name.rpartition(".") for name in self.names]
        self.places = [(model.get_submodule(path), attribute) for path, _, attribute in paths]
        self.parameters: dict[str, Any] = {name: known[name] for name in self.names}
        self.shapes = [known[name].shape for name in self.names]
        device = known[self.names[0]].device if self.names else torch.device("cpu")
        self.device = device if device.type != "mps" else torch.device("cpu")  # mps has no float64
        eps = max((torch.finfo(p.dtype).eps for p in self.parameters.values()), default=0.0)
        self.half = eps > 1e-4
        self.rounding = 1e-12 if exact or eps < 1e-12 else 1e-6  # of a charge, by its absolute values
        self.tolerance = max(self.rounding, 100 * eps)  # of the split: the optimizer rounds
        self.all = _Sums(self.parameters, self.laws, self.device, exact)
        self.sums = self.all.new(7, len(self.all.owner))
        ends = np.cumsum([0] + [law.size for law in self.laws]).tolist()
        spans = [slice(*span) for span in zip(ends, ends[1:])]
        self.plain = [(law, span) for law, span in zip(self.laws, spans) if not hasattr(law, "terms")]
        members = [[self.names.index(name) for name in law.parameters] for law in self.laws]
        self.members = np.array([i for m in members for i in m], dtype=int)
        self.begins = np.cumsum([0] + [len(m) for m in members])[:-1]
        self.law_of = np.repeat(np.arange(len(self.laws)), [law.size for law in self.laws])
        self.degree = np.array([1.0 if law.linear else 2.0 for law in self.laws])
        self.recursion: tuple[Any, Tensor] = (None, self.sums)
        self.spread: tuple[Any, Tensor] = (None, self.sums)
        self.versions: list[tuple[int, int]] = []
        self.averages: tuple[Mapping[str, Tensor], ...] = ()
        self.restart()

    def restart(self) -> None:
        """Begin with the weights as they are now, whatever was before."""
        self.under_way, self.stopped = False, 0
        self.charges, self.scale = self.all.new(2, self.all.size)
        self.carried: dict[str, tuple[int, int]] = {}
        self.sums.zero_()
        self._forget()
        self._measure()
        self._forget()

    def _forget(self) -> None:
        self.total, self.wrong, self.mark = self.all.new(len(QUANTITIES), self.all.size), self.all.new(2), 0
        self.low, self.high = (np.full((len(SETTINGS), len(self.laws)), x) for x in (np.inf, -np.inf))
        self.uniform = np.ones(len(self.laws), bool)
        self.transfer, self.response = np.eye(2)[:, :, None].repeat(len(self.laws), 2), self.all.new(2, self.all.size)

    @torch.no_grad()
    def before(self, gradients: bool = True) -> None:
        """Look at the weights, momenta and gradients before a step.

        Args:
            gradients: Whether the gradients of the step are there already.
        """
        self.under_way = not self.stopped and self._find_parameters()
        if not self.under_way:
            return
        if self.versions != self._versions():
            self._measure()
            self.carried = {}
        groups = getattr(self.optimizer, "param_groups", None)
        by_parameter = {id(p): g for g in groups or () for p in g["params"]}
        other: Any = {} if groups is None else None  # an optimizer without groups has all parameters
        self.groups = {n: by_parameter.get(id(p), other) for n, p in self.parameters.items()}
        options = {id(g): _options(g) for g in self.groups.values() if g is not None}
        self.options = {n: options.get(id(g), {}) for n, g in self.groups.items()}
        self.gradients = self._find_gradients() if gradients else None
        self.momenta = self._find_momenta()
        unread = {n: b for n, b in self.momenta.items() if self.carried.get(n) != _identity(b)}
        self.sums[[s for s in range(7) if s != TM or self.adam]] = 0.0
        for part in self.all.parts:
            if part.has(unread):
                self.sums[TM, part.begin : part.end] = 0.0
            for begin, (x, y, product) in self.all.chunks(part, 3):
                theta = part.read(self.parameters, begin, x)
                part.old[begin : begin + len(x)] = theta
                self._note_gradients(part, begin, theta, y, product)
                if part.has(unread):
                    momentum = part.read(self.momenta, begin, y)
                    self.all.note(self.sums[TM], part, begin, theta, momentum, product)
        names = {name for law, _ in self.plain for name in law.parameters}
        now = (self.parameters, self.gradients or {}, self.momenta)
        self.kept = [{n: _double(t[n]) for n in names & t.keys()} for t in now]

    @torch.no_grad()
    def after(self, gradients: bool = False) -> None:
        """Look at the weights after the step that `before` has announced.

        Args:
            gradients: Whether the gradients of the step are there now, where they were not before.
        """
        if not self.under_way:
            return
        self.under_way, late = False, gradients and self.gradients is None
        if late:
            self.gradients = self._find_gradients()
            self.kept[1] = {n: _double(self.gradients[n]) for n in self.kept[0].keys() & self.gradients.keys()}
        scalars = self._adam_scalars() if self.adam and self.gradients is not None else {}
        for part in self.all.parts:
            for begin, (x, y, product, *more) in self.all.chunks(part, 6):
                old = part.old[begin : begin + len(x)]
                old = x.copy_(old) if old.dtype != x.dtype or old.device != x.device else old
                if late:
                    self._note_gradients(part, begin, old, y, product)
                step = torch.sub(part.read(self.parameters, begin, y), old, out=y)
                self.all.note(self.sums[TD], part, begin, old, step, product)
                self.all.note(self.sums[DD], part, begin, step, step, product)
                if part.has(scalars):
                    for tensors, out in zip(self.averages, more):
                        part.read(tensors, begin, out, own=True)
                    _adam(self._spread_out(part, scalars), old, *more)
                    for slot, vector in zip((TC, TM, TW), more):
                        self.all.note(self.sums[slot], part, begin, old, vector, product)
        self._book(scalars)
        self.versions = self._versions()

    def take(self) -> Window:
        """The charges and what happened since the last time; begins a new window.

        Where something is not finite, or a parameter has been replaced by one of another shape, all charges are nan,
        the mark says so, and the ledger stops for good.
        """
        if not self.stopped and self._find_parameters():
            self._measure()
        values = self.total.cpu().numpy()
        values[0] = self.charges.cpu().numpy()
        unseen = [2, 3] if self.mark & UNSEEN else []
        if not self.stopped and not np.isfinite(np.delete(values, [6, *unseen], 0)).all():
            self.stopped = NOT_FINITE
        values[7:] = np.nan if unseen or not self.split else values[7:]
        values[slice(None) if self.stopped else unseen] = np.nan
        wrong = BROKEN if self.wrong[1] else UNEXPLAINED if self.wrong[0] else 0
        mark = self.mark | self.stopped | wrong
        settings, uniform = np.stack([self.low, self.high], 1), self.uniform & np.isfinite(self.low[0])
        transfer, response = self.transfer, self.response.cpu().numpy()
        self._forget()
        return Window(values, np.where(np.isinf(settings), np.nan, settings), uniform, transfer, response, mark)

    @torch.no_grad()
    def _measure(self) -> None:
        """Measure the charges; what they are not by the steps they are by something else."""
        self.squares, sizes = self.all.measure(self.parameters)
        before, self.charges = self.charges, self.all.charges(self.squares[None], self.all.weight)[0]
        scale = self.all.charges(sizes[None], self.all.weight.abs())[0]
        for law, span in self.plain:
            now = {n: _double(self.parameters[n]) for n in law.parameters}
            self.charges[span] = law.charge(now).to(self.device)
            scale[span] = sum(p.square().sum().to(self.device) for p in now.values())
        self.versions, largest = self._versions(), torch.maximum(scale, self.scale)  # of what was rounded since
        self.scale = scale
        self.total[1] += self.charges - before
        self.wrong[1] += ((self.charges - before).abs() > self.rounding * largest + TINY).any()

    def _versions(self) -> list[tuple[int, int]]:
        return [_identity(p) for p in self.parameters.values()]

    def _find_parameters(self) -> bool:
        """The parameters now, should they have been replaced; False if they cannot be what the laws are about."""
        found = [module._parameters.get(attribute) for module, attribute in self.places]
        if any(p is None or p.shape != shape for p, shape in zip(found, self.shapes)):
            self.stopped = BROKEN
        else:
            self.parameters = dict(zip(self.names, found))
        return not self.stopped

    def _find_gradients(self) -> dict[str, Tensor]:
        """As the optimizer gets them: of its parameters only, and without the scale of a fused optimizer under AMP."""
        scale = getattr(self.optimizer, "grad_scale", None)
        found = {n: p.grad for n, p in self.parameters.items() if p.grad is not None and self.groups[n] is not None}
        found = {n: g.to_dense() if g.is_sparse else g for n, g in found.items()}
        return found if scale is None else {n: g / scale for n, g in found.items()}

    def _find_momenta(self) -> dict[str, Tensor]:
        """Of heavy-ball and Nesterov SGD."""
        if not self.split or self.adam:
            return {}
        moving = [n for n, o in self.options.items() if o.get("momentum", 0) != 0]
        found = {n: self.optimizer.state.get(self.parameters[n], {}).get("momentum_buffer") for n in moving}
        return {n: b for n, b in found.items() if b is not None}

    def _note_gradients(self, part: _Part, begin: int, x: Tensor, y: Tensor, product: Tensor) -> None:
        if self.gradients and part.has(self.gradients):
            gradient = part.read(self.gradients, begin, y)
            self.all.note(self.sums[TG], part, begin, x, gradient, product)
            self.all.note(self.sums[GG], part, begin, gradient, gradient, product)

    def _adam_scalars(self) -> dict[str, tuple[float, ...]]:
        """1/(1−β1^t), 1/√(1−β2^t), ε, coupled decay and sign of the gradient; and finds what the optimizer averages."""
        assert self.gradients is not None
        states = {n: self.optimizer.state[self.parameters[n]] for n in self.gradients}
        squares = {n: s["max_exp_avg_sq"] if self.options[n]["amsgrad"] else s["exp_avg_sq"] for n, s in states.items()}
        self.averages = self.gradients, {n: s["exp_avg"] for n, s in states.items()}, squares
        steps = torch.stack([torch.as_tensor(s["step"]) for s in states.values()]).tolist() if states else []
        found: dict[str, tuple[float, ...]] = {}
        for (n, o), t in zip(((n, self.options[n]) for n in states), steps):
            first, second = 1 / (1 - o["momentum"] ** t), (1 - o["beta2"] ** t) ** -0.5
            coupled = 0.0 if self._decoupled(o) else o["weight_decay"]
            found[n] = first, second, o["eps"], coupled, 1 - 2 * o["maximize"]
        return found

    def _spread_out(self, part: _Part, scalars: Mapping[str, tuple[float, ...]]) -> Any:
        """The scalars of a parameter, or of each element of several."""
        factors = [scalars.get(name, (1.0, 1.0, 1.0, 0.0, 1.0)) for name in part.names]
        if len(factors) == 1:
            return factors[0]
        each = torch.tensor(factors, dtype=torch.float64, device=self.device)
        return each.repeat_interleave(torch.tensor(part.sizes, device=self.device), 0).T[..., None]

    def _decoupled(self, options: Mapping[str, float]) -> bool:
        return bool(options.get("decoupled_weight_decay", type(self.optimizer) is AdamW))

    def _moves(self, name: str) -> bool:
        return self.groups[name] is not None and (self.gradients is None or name in self.gradients)

    def _coefficients(self, name: str) -> tuple[float, ...]:
        """Of N(Δ) in N(Δ/rate); of θθ, θ·decay, θ·current, θ·memory in B(θ, Δ); and 1/rate where Δ = −rate · b."""
        o = self.options[name]
        if not self._moves(name):
            return (0.0,) * 6
        rate, decay = o.get("lr", np.nan), o.get("weight_decay", 0.0)
        speed = rate**-2 if rate != 0 else 0.0
        if not self.split:
            return speed, 0.0, 0.0, 0.0, 0.0, 0.0
        if self.adam:
            decoupled = self._decoupled(o)
            return speed, -rate * decay * decoupled, -rate * decay * (not decoupled), -rate, -rate, 0.0
        first = name not in self.momenta  # torch begins with the whole gradient
        new, old = (1.0, 0.0) if first else (1 - o["dampening"], o["momentum"])
        if o["nesterov"]:
            new, old = 1 + o["momentum"] * new, o["momentum"] * old
        heavy = o["momentum"] != 0 and rate != 0 and not o["nesterov"] and not self.half
        current = -rate * new * (1 - 2 * o["maximize"])
        return speed, -rate * new * decay, 0.0, current, -rate * old, 1 / rate if heavy else 0.0

    def _book(self, scalars: dict[str, tuple[float, ...]]) -> None:
        """From sums to charges, and into the window."""
        coefficients = [self._coefficients(name) for name in self.names]
        if coefficients != self.spread[0]:
            each = torch.tensor(coefficients, dtype=torch.float64, device=self.device).view(-1, 6)
            self.spread = coefficients, each[self.all.owner].T.contiguous()
        speed, of_weights, of_decay, of_current, of_memory, heavy = self.spread[1]
        s, twice = self.sums, torch.where(self.all.linear, 1.0, 2.0).double()
        rows = [s[TG], s[GG], twice * s[TD], s[DD], speed * s[DD]]
        if self.split:
            rows += [twice * (of_weights * self.squares + of_decay * s[TW])]
            rows += [twice * of_current * s[TC if self.adam else TG], twice * of_memory * s[TM]]
        found = self.all.charges(torch.stack(rows), self.all.weight)
        for law, span in self.plain:
            found[:, span] = self._form(law, scalars, self.charges[span])[: len(rows)]
        self.total[2 : 2 + len(rows)] += found
        self.charges = self.charges + found[2] + found[3]
        self.squares = self.squares + twice * s[TD] + s[DD]
        if self.gradients is None:
            self.mark |= UNSEEN
        elif self.split:
            self.wrong[0] += ((found[2] - found[5:].sum(0)).abs() > self.tolerance * self.scale).any()
        s[TM] = torch.where(heavy != 0, -heavy * (s[TD] + s[DD]), s[TM])
        still = {n for n, c in zip(self.names, coefficients) if c[5] != 0 or not self._moves(n)}
        self.carried = {n: _identity(b) for n, b in self._find_momenta().items() if n in still}
        settings = [[o.get(k, np.nan) for k in ("lr", *SETTINGS[1:])] for o in self.options.values()]
        settings = [[s[0] if self._moves(n) else 0.0, *s[1:]] for n, s in zip(self.names, settings)]
        if self.laws:
            each_law = np.array(settings)[self.members]
            low, high = (f.reduceat(each_law, self.begins).T for f in (np.fmin, np.fmax))
            self.low, self.high = np.fmin(self.low, low), np.fmax(self.high, high)
            self.uniform &= ((low == high) | np.isnan(low)).all(0)
            self._respond(low, found[3])

    def _respond(self, settings: np.ndarray, squares: Tensor) -> None:
        """One step of `learndyn.laws.charges.discrete`, from the same settings for all parameters of a law."""
        if self.adam or not self.split or any(o.get("nesterov") for o in self.options.values()):
            self.transfer[:], self.response[:] = np.nan, np.nan
            return
        rate, decay, momentum, dampening = settings
        begun = np.array([n in self.momenta for n in self.names])[
            self.members[self.begins]
        ]  # torch dampens not at first
        kick = np.where(begun, 1 - dampening, 1.0) * decay
        pace = self.degree * rate
        step = np.array([[1 - pace * kick, -pace * momentum], [kick, momentum]])
        self.transfer = np.einsum("ijl,jkl->ikl", step, self.transfer)
        key = step.tobytes(), rate.tobytes()
        if key != self.recursion[0]:
            inverse = np.divide(1.0, rate, out=np.zeros_like(rate), where=rate > 0)
            each = np.concatenate([step.reshape(4, -1), inverse[None]])[:, self.law_of]
            self.recursion = key, torch.from_numpy(each).to(self.device)
        qq, qs, sq, ss, inverse_rate = self.recursion[1]
        charge, overlap = self.response
        self.response = torch.stack(
            [qq * charge + qs * overlap + squares, sq * charge + ss * overlap - inverse_rate * squares]
        )

    def _form(self, law: Any, scalars: Mapping[str, tuple[float, ...]], charges: Tensor) -> Tensor:
        """The rows of `_book` for a law without terms, by its own form."""
        theta, gradient, momentum = ({n: t.get(n, 0 * self.kept[0][n]) for n in law.parameters} for t in self.kept)
        step, speed, decay, current, memory = ({} for _ in range(5))  # type: ignore[var-annotated]
        for n, x in theta.items():
            fast, of_weights, of_decay, of_current, of_memory, _ = self.spread[0][self.names.index(n)]
            parts = [gradient[n], momentum[n], x]
            if n in scalars:
                parts = [_double(t[n]) for t in self.averages]
                _adam(scalars[n], x, *parts)
            step[n] = _double(self.parameters[n]) - x
            speed[n], current[n], memory[n] = fast**0.5 * step[n], of_current * parts[0], of_memory * parts[1]
            decay[n] = of_weights * x + of_decay * parts[2]
        form = (lambda _, v: law.total(v)) if law.linear else law.form
        rows = [form(theta, gradient), form(gradient, gradient), form(theta, step), form(step, step)]
        first = self.spread[0][self.names.index(law.parameters[0])]
        if not scalars and all(self.spread[0][self.names.index(n)] == first for n in law.parameters):  # saves forms
            rows += [first[0] * rows[3], first[1] * charges, first[3] * rows[0], form(theta, memory)]
        else:
            rows += [form(speed, speed), *(form(theta, part) for part in (decay, current, memory))]
        twice = [1, 0, 1, 0, 0, 1, 1, 1] if law.linear else [1, 1, 2, 1, 1, 2, 2, 2]
        return torch.stack([row.to(self.device) for row in rows]) * torch.tensor(twice, device=self.device)[:, None]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)


def _identity(tensor: Tensor) -> tuple[int, int]:
    """Changes when torch writes into the tensor, or another takes its place."""
    return tensor.data_ptr(), tensor._version


def _options(group: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the options of a parameter group; Adam's first β as momentum."""
    scalars = {
        k: v for k, v in group.items() if isinstance(v, (int, float)) or (isinstance(v, Tensor) and v.numel() == 1)
    }
    numbers = {k: float(v) for k, v in scalars.items()}
    betas = group.get("betas", ())
    return numbers | ({"momentum": float(betas[0]), "beta2": float(betas[1])} if len(betas) == 2 else {})


def _adam(scalars: Any, x: Tensor, gradient: Tensor, average: Tensor, square: Tensor) -> None:
    """In place: D⁻¹ĝ, D⁻¹(m̂ − ĝ − λθ) and D⁻¹θ of Adam's step −η D⁻¹m̂, with D = √v̂ + ε."""
    first, second, eps, decay, sign = scalars
    square.sqrt_().mul_(second).add_(eps).reciprocal_()
    gradient.mul_(sign)
    average.mul_(first).sub_(gradient).sub_(x * decay).mul_(square)
    gradient.mul_(square)
    square.mul_(x)
