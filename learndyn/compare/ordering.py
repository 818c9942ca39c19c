"""Which of two curves falls first? Paired over seeds, since a seed that is late in one metric is late in the other."""

import numpy as np

from learndyn.compare.claims import Claim, at_least
from learndyn.compare.intervals import Estimate, half_width
from learndyn.compare.transition import Transition
from learndyn.errors import InputError


def ordering(
    first: Transition, second: Transition, *, name: str = "ordering", sentence: str = "", paper: str = ""
) -> Claim:
    """The claim that one metric falls before another, on the same seeds.

    Measured is d = ln(t*_second / t*_first). Its interval is the delete-one-seed jackknife of the difference, so that
    what a seed does to both times cancels, and never narrower than half a step of the times to either side. The claim
    holds if the interval lies above 0, fails if below, and is undecided otherwise, with one seed, or if either metric
    has no transition.

    Args:
        first: Transition of the metric that shall fall first.
        second: Transition of the other, from curves of the same seeds in the same order.
        name: Short name of the claim.
        sentence: The claim in words; made from the times if empty.
        paper: The number it is compared with, in words.

    Raises:
        InputError: If the two come from different numbers of seeds or have different levels.

    >>> from learndyn.compare import transition
    >>> times = [0, 50, 100, 150, 200, 300, 400, 600, 800]
    >>> curve = lambda middle: [1 / (1 + (t / middle) ** 4) for t in times]
    >>> early, late = (transition(times, [curve(m), curve(1.1 * m), curve(1.2 * m)]) for m in (100, 300))
    >>> ordering(early, late).verdict, ordering(late, early).verdict, ordering(early, early).verdict
    ('holds', 'fails', 'undecided')
    """
    if (first.seeds, first.level) != (second.seeds, second.level):
        one, other = (f"{each.seeds} seeds at level {each.level:g}" for each in (first, second))
        raise InputError(f"The order of two times needs the same seeds and level; these have {one} and {other}.")
    sentence = sentence or f"The first falls ({first}) before the second ({second})."
    difference = float(np.log(second.time) - np.log(first.time))
    low, high = float("nan"), float("nan")
    if first.seeds > 1 and first.verdict == second.verdict == "transition":
        paired = np.log(second.without) - np.log(first.without)
        half = max(half_width(paired, first.level), first.resolution, second.resolution)
        low, high = difference - half, difference + half
    method = f"{100 * first.level:g} % paired jackknife over {first.seeds} seeds"
    return at_least(name, sentence, Estimate(difference, low, high, method), 0, unit="ln(time/time)", paper=paper)
