"""Which continuous symmetries a network has: found in its structure, verified in numbers."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learndyn.errors import InputError
from learndyn.noise import isolated, seed_forward
from learndyn.symmetries.families import families
from learndyn.symmetries.law import SymmetryLaw
from learndyn.symmetries.matrix import MatrixLaw
from learndyn.symmetries.rules import RULES, unknown
from learndyn.symmetries.trace import Rule, Trace, plain_attention
from learndyn.symmetries.verify import (
    TOLERANCE,
    Certificate,
    Law,
    Point,
    Probe,
    certificate,
    double,
    floats,
    holding,
    points,
    translations,
    violation,
)

HOMOGENEOUS = ("gelu", "silu", "tanh", "sigmoid", "elu", "hardtanh", "mish", "softplus", "hardswish", "hardsigmoid")


@dataclass(frozen=True)
class Rejected:
    """Units that have no law, and what took it from them.

    Attributes:
        parameter: The parameter that leads into them.
        count: How many they are.
        why: The operation, and the module where it stands.
    """

    parameter: str
    count: int
    why: str


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        laws: Symmetries that hold without the eps of norms, verified in float64 to 1e-9.
        broken: By law, the largest relative current |⟨g, X⟩| / Σ |g ⊙ X| with the eps that the norms have.
        rejected: What has no law, and why not.
        failed: Laws of the structure that the numbers refuted; a rule is wrong then: please report it.
        uncovered: Parameters in no law.
        zero_modes: Exact zero eigenvalues of the Hessian that the laws imply where the gradient vanishes.
        certificate: Whether the list of diagonal laws is complete; None for a large network.
        suggestions: What would give more laws, or better ones.
    """

    laws: list[Law]
    broken: list[float]
    rejected: list[Rejected]
    failed: list[Law]
    uncovered: list[str]
    zero_modes: int
    certificate: Certificate | None
    suggestions: list[str]

    @property
    def counted(self) -> str:
        """What the certificate says."""
        found = self.certificate
        if found is None:
            return "completeness was not counted: the network is too large for it to take seconds"
        said = f"counted in the gradients: {found.found - found.silent} diagonal symmetries, listed {found.listed}"
        if found.silent:
            said += f" ({found.silent} more where no gradient came on these data)"
        return said if found.complete else said + "; the others hold on these data only, or were not understood"

    def plain(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        laws = [
            {"kind": law.kind, "label": law.label, "charges": law.size, "where": law.place, "broken_by": size}
            | {"parameters": law.parameters}
            for law, size in zip(self.laws, self.broken)
        ]
        return {
            "laws": laws,
            "rejected": [vars(r) for r in self.rejected],
            "refuted": [str(law) for law in self.failed],
            "uncovered": self.uncovered,
            "zero_modes": self.zero_modes,
            "certificate": None if self.certificate is None else vars(self.certificate),
            "complete": None if self.certificate is None else self.certificate.complete,
            "suggestions": self.suggestions,
        }


def trace(
    model: nn.Module,
    inputs: Sequence[Any],
    training: bool = True,
    rules: dict[str, Rule] = RULES,
    unknown: Rule = unknown,
) -> Trace:
    """One pass of a copy of the network, with labels that follow all numbers; those of the outputs are fixed.

    Raises:
        InputError: If the network does not take the inputs, or has no parameter that is trained.
    """
    model = copy.deepcopy(model).cpu().double().train(training)
    follow = {name: p for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    if not follow:
        raise InputError(f"{type(model).__name__} has no parameter that is trained, hence no symmetry.")
    found = Trace(model, follow, rules, unknown)
    inputs = [double(x) for x in inputs]
    with isolated(), torch.no_grad(), plain_attention():
        seed_forward(0, 0, torch.device("cpu"))
        try:
            with found:
                outputs = model(*inputs)
        except Exception as error:
            shapes = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
            raise InputError(
                f"{type(model).__name__} does not take inputs of shape {shapes}: {type(error).__name__}: "
                f"{str(error).partition(chr(10))[0].rstrip('.')}."
            ) from error
    if not floats(outputs):
        raise InputError(f"{type(model).__name__} returned a {type(outputs).__name__} without a floating tensor in it.")
    for tensor in floats(outputs):
        found.forms.freeze(found.labels(tensor), "the output")
    return found


def find(
    model: nn.Module, *inputs: Any, softmax: int | None = -1, training: bool = True, certify: bool | None = None
) -> Report:
    """The symmetries of a network, whatever it is made of (arXiv:2012.04728, arXiv:2105.02716).

    Args:
        model: Any network; it is left as it was.
        inputs: Its arguments, a few samples first (four or more where there is batch norm).
        softmax: The dimension of the outputs along which the loss takes a softmax; None if all of the outputs count.
        training: Whether to look at the network in training mode; a batch norm has its symmetry only there.
        certify: Whether to count the symmetries in the gradients as well; by default if that takes seconds.

    Raises:
        InputError: If the network does not take the inputs, or has no parameter that is trained.
    """
    seen = trace(model, inputs, training)
    diagonal, matrices = families(seen)
    probe = Probe(copy.deepcopy(model).cpu().train(training), inputs, softmax)
    at = points(probe)
    candidates: list[Law] = [*diagonal, *matrices]
    laws = holding([law for law in candidates if violation(law, at) < TOLERANCE], probe, at)
    failed = [law for law in candidates if law not in laws]
    laws += translations(seen, probe, at)
    own = {name: p.detach() for name, p in probe.model.named_parameters()}
    true = [Point(own, [probe.gradients(own, batch, eps=True) for batch in range(2)])]
    broken = [violation(law, true) for law in laws]
    listed = [law for law in laws if isinstance(law, SymmetryLaw)]
    found = None
    if certify is not False:
        found = certificate(probe, list(seen.parts), listed, 2000 if certify else 300)
    rejected = _rejected(seen)
    covered = {name for law in laws for name in law.parameters}
    return Report(
        laws,
        broken,
        rejected,
        failed,
        [name for name in seen.parts if name not in covered],
        _zero_modes(laws),
        found,
        _suggestions(seen, model, laws, broken, rejected, training),
    )


def _rejected(seen: Trace) -> list[Rejected]:
    found: Counter[tuple[str, str]] = Counter()
    for part in seen.parts.values():
        for block in part.blocks:
            for label in block.row_labels.tolist():
                variables = [v for v, _ in seen.forms.forms[label]] if label > 0 else []
                reason = seen.forms.frozen.get(seen.forms.root(variables[0])) if len(variables) == 1 else None
                if reason is not None and reason != "the output":
                    found[part.name, reason] += 1
    return [Rejected(parameter, count, why) for (parameter, why), count in found.items()]


def _zero_modes(laws: list[Law]) -> int:
    """Independent generators: those of a matrix contain the diagonal ones of its law."""
    total = 0
    for law in laws:
        if isinstance(law, MatrixLaw):
            blocks, d = law.shape
            total += blocks * d * (d - 1)
        else:
            total += law.size
    return total


def _suggestions(
    seen: Trace, model: nn.Module, laws: list[Law], broken: list[float], rejected: list[Rejected], training: bool
) -> list[str]:
    found = []
    gain: Counter[str] = Counter()
    for r in rejected:
        gain[r.why] += r.count
    for why, count in gain.items():
        if why.split(" in ")[0] in HOMOGENEOUS:
            found.append(f"Replace {why} by ReLU to gain up to {count} laws.")
    if max(broken, default=0.0) > 1e-4:
        found.append("The eps of a norm breaks laws by more than 1e-4: what it divides by is small; lower the eps.")
    if not training and any(isinstance(m, _BatchNorm) for m in model.modules()):
        found.append("Batch norm with running statistics has no scale law; in training mode it has.")
    if not laws and not rejected:
        found.append("No parameter of this network is multiplied with anything that was understood.")
    return found
