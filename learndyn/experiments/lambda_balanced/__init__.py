"""From lazy to rich: exact learning dynamics of two-layer linear networks (Dominé et al., arXiv:2409.14623).

One number, λ of W₂ᵀW₂ − W₁W₁ᵀ = λI, and the shape decide how a linear network learns. Predicted, with nothing fitted:
loss, function, representations and tangent kernel at all times, for any task and any sequence of tasks. Measured:
gradient descent on real networks, its error as the step shrinks, what the kernel does by shape, reversal and transfer,
which starts never learn, and how far a Gaussian initialisation is from the theory's.
"""

from learndyn.experiments.lambda_balanced.claims import claims
from learndyn.experiments.lambda_balanced.figures import figures
from learndyn.experiments.lambda_balanced.gather import gather, measure, parts, work
from learndyn.experiments.lambda_balanced.settings import PRESETS, Settings, validate
from learndyn.experiments.lambda_balanced.summary import lead, notes, tables

TITLE = "From lazy to rich: exact dynamics of λ-balanced linear networks"
PAPER = (
    "C. C. J. Dominé, N. Anguita, A. M. Proca, L. Braun, D. Kunin, P. A. M. Mediano, A. M. Saxe. From Lazy to Rich: "
    "Exact Learning Dynamics in Deep Linear Networks. ICLR 2025. arXiv:2409.14623."
)

__all__ = [
    "PAPER",
    "PRESETS",
    "TITLE",
    "Settings",
    "claims",
    "figures",
    "gather",
    "lead",
    "measure",
    "notes",
    "parts",
    "tables",
    "validate",
    "work",
]
