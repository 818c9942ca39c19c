"""How smooth the filters of a convolution are (arXiv:2406.06158, Fig. 6b)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from learndyn.errors import InputError


def smoothness(filters: Float[Tensor, "out in height width"], centre: float = 3.0) -> Float[Tensor, " out"]:
    """‖(w/‖w‖) * Laplacian‖² of every filter, float64: lower is smoother.

    The 3x3 Laplacian has −1/4 at its corners and −1/2 at its edges; zeros around the filter, same size. All channels of
    a filter are normalised together. Of white noise on k x k pixels it is centre² + (k−1)/k + ((k−1)/k)²/4 on average.

    >>> smoothness(torch.ones(1, 1, 3, 3)).item() > 0  # the border of a constant filter is rough
    True

    Args:
        filters: Weight of a convolution.
        centre: Middle of the Laplacian: 3, with which it sums to zero and is blind to constants. The paper prints 2,
            which sums to −1.

    Raises:
        InputError: If a filter is zero or not finite.
    """
    w = filters.detach().double()
    norms = w.flatten(1).norm(dim=1)
    if not bool((norms > 0).all() and norms.isfinite().all()):
        bad = int((~((norms > 0) & norms.isfinite())).nonzero()[0])
        raise InputError(f"Filter {bad} has the norm {float(norms[bad]):g}, hence no smoothness.")
    laplacian = torch.tensor([[-0.25, -0.5, -0.25], [-0.5, centre, -0.5], [-0.25, -0.5, -0.25]]).to(w)
    channels = (w / norms[:, None, None, None]).flatten(0, 1)[:, None]
    bent = F.conv2d(channels, laplacian[None, None], padding=1)
    return bent.square().reshape(len(w), -1).sum(1).cpu()
