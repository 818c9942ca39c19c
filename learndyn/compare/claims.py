"""Claims: what must come out of an experiment, as numbers with intervals and a verdict.

A claim holds if its whole interval satisfies the relation, fails if the whole interval violates it, and is undecided if
the interval straddles the bound or anything is not finite. So a number without an interval decides nothing: give an
`Estimate`, or say that it is `exact`. "It vanishes" is `at_most` with a tolerance.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, SupportsFloat, get_args

from learndyn.compare.intervals import Estimate
from learndyn.errors import InputError

Decision = Literal["holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """One sentence about a result, and whether the result bears it out.

    Attributes:
        name: Short unique name, for tables and tests.
        sentence: The claim in words.
        measured: The number it is about.
        low: Lower end of its interval; nan if none.
        high: Upper end of its interval; nan if none.
        method: How the interval was made, for example "90 % jackknife over 3 seeds".
        expected: The relation that shall hold, for example ">= 6".
        paper: The paper's number beside ours, in words; may be empty.
        unit: Unit of the numbers; empty if they have none.
        verdict: "holds", "fails" or "undecided".
    """

    name: str
    sentence: str
    measured: float
    low: float
    high: float
    method: str
    expected: str
    paper: str
    unit: str
    verdict: Decision

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        interval = "" if math.isnan(self.low) or math.isnan(self.high) else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.verdict}: {self.name} = {self.measured:.4g}{interval}{unit}, expected {self.expected}"


def at_least(
    name: str,
    sentence: str,
    measured: Estimate | SupportsFloat,
    bound: SupportsFloat,
    *,
    unit: str = "",
    paper: str = "",
) -> Claim:
    """The claim measured ≥ bound.

    >>> print(at_least("speed-up", "Twins in one batch are faster.", Estimate(8.0, 7.5, 8.5, "5 runs"), 6))
    holds: speed-up = 8 [7.5, 8.5], expected >= 6
    """
    return _claim(name, sentence, measured, float(bound), math.inf, f">= {float(bound):.4g}", unit, paper)


def at_most(
    name: str,
    sentence: str,
    measured: Estimate | SupportsFloat,
    bound: SupportsFloat,
    *,
    unit: str = "",
    paper: str = "",
) -> Claim:
    """The claim measured ≤ bound; with a tolerance as the bound, the claim that a size vanishes."""
    return _claim(name, sentence, measured, -math.inf, float(bound), f"<= {float(bound):.4g}", unit, paper)


def within(
    name: str,
    sentence: str,
    measured: Estimate | SupportsFloat,
    low: SupportsFloat,
    high: SupportsFloat,
    *,
    unit: str = "",
    paper: str = "",
) -> Claim:
    """The claim low ≤ measured ≤ high.

    Raises:
        InputError: If `low` is not below `high`.
    """
    least, most = float(low), float(high)
    if not least < most:
        raise InputError(f"Claim {name!r}: the range from {least:g} to {most:g} is empty; give low < high.")
    return _claim(name, sentence, measured, least, most, f"in [{least:.4g}, {most:.4g}]", unit, paper)


def to_json(claims: Iterable[Claim]) -> str:
    """Claims as strict JSON: nan becomes null, an infinite end the string "inf" or "-inf"."""
    rows = [{key: _to_strict(value) for key, value in asdict(claim).items()} for claim in claims]
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False)


def from_json(text: str) -> list[Claim]:
    """The claims that `to_json` wrote.

    Raises:
        InputError: If the text is not a list of claims.
    """
    try:
        claims = [Claim(**{key: _from_strict(key, value) for key, value in row.items()}) for row in json.loads(text)]
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"This is not a list of claims as `to_json` writes it: {error!r}.") from error
    for claim in claims:
        if claim.verdict not in get_args(Decision):
            raise InputError(
                f"Claim {claim.name!r} has the verdict {claim.verdict!r}; it must be holds, fails or undecided."
            )
    return claims


def _claim(
    name: str,
    sentence: str,
    measured: Estimate | SupportsFloat,
    least: float,
    most: float,
    expected: str,
    unit: str,
    paper: str,
) -> Claim:
    if not isinstance(measured, Estimate):
        measured = Estimate(float(measured), math.nan, math.nan, "no interval")
    verdict = _decide(measured, least, most)
    value, low, high, method = measured.value, measured.low, measured.high, measured.method
    return Claim(name, sentence, value, low, high, method, expected, paper, unit, verdict)


def _decide(measured: Estimate, least: float, most: float) -> Decision:
    if not all(map(math.isfinite, (measured.value, measured.low, measured.high))):
        return "undecided"
    if least <= measured.low and measured.high <= most:
        return "holds"
    return "fails" if measured.high < least or most < measured.low else "undecided"


def _to_strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _from_strict(key: str, value: Any) -> Any:
    if key in ("measured", "low", "high"):
        return math.nan if value is None else float(value)
    return value
