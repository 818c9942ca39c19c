"""One look for all figures: colour-blind-safe, measured solid, predicted dashed, intervals as bands of the same
colour.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  after the backend

#: One colour per meaning (Okabe and Ito's palette).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
SEQUENTIAL = "viridis"

RC: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.labelsize": 9.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "learndyn",  # the same figure gives the same file
    "axes.prop_cycle": plt.cycler(color=COLOURS),
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the common look; matplotlib's settings are afterwards what they were."""
    with plt.rc_context(RC):
        yield
