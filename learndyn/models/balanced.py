"""Weights of linear layers that are λ-balanced, W_{l+1}ᵀW_{l+1} − W_lW_lᵀ = λ_l I (arXiv:2409.14623).

One number for each hidden layer moves a linear network from lazy to rich without a change of its function. How to build
it at any depth, and which shapes allow it, is derived here: every layer is W_l = R_l diag(x_l) R_{l−1}ᵀ with rotations
R, and strand i of the numbers x lives in the layers that are wider than i on both sides. Along a strand x²_{l+1} =
x²_l + λ_l. One that goes from input to output carries a singular value of the product; one that begins at a hidden
layer p has x²_{p+1} = λ_p, and one that ends at a hidden layer q has x²_q = −λ_q: nothing is free there, and a negative
square means that no such network exists.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from learndyn.errors import InputError


def sample_balanced(
    widths: Sequence[int],
    lams: Sequence[float],
    rng: np.random.Generator,
    product: Tensor | None = None,
    scale: float = 1.0,
    align: Tensor | None = None,
) -> list[Tensor]:
    """Draw weights of a λ-balanced linear network.

    >>> w1, w2 = sample_balanced((3, 4, 5), (0.5,), np.random.default_rng(0))
    >>> bool(torch.allclose(w2.T @ w2 - w1 @ w1.T, 0.5 * torch.eye(4, dtype=torch.float64)))
    True

    Args:
        widths: Inputs, hidden layers, outputs: n_0, ..., n_L with L ≥ 2.
        lams: λ_l of every hidden layer, L − 1 numbers.
        rng: Source of the rotations, and of the product if none is given (see `learndyn.noise.generator`).
        product: W_L···W_1, `(n_L, n_0)`, of rank at most the smallest width. By default `scale` times a Gaussian matrix
            with entries of variance 1/max(n_0, n_L), cut to that rank.
        scale: About the singular values of the default product, which are at most twice as large in the mean.
        align: A task `(n_L, n_0)` whose singular vectors the default product is given, strongest with strongest.

    Returns:
        W_1, ..., W_L in float64, W_l of shape `(n_l, n_{l−1})`.

    Raises:
        InputError: If a shape does not fit, the rank is too high, or no balanced network of these widths exists.
    """
    sizes, balances = [int(n) for n in widths], [float(v) for v in lams]
    if len(sizes) < 3 or min(sizes) < 1 or len(balances) != len(sizes) - 2 or not np.isfinite(balances).all():
        raise InputError(
            f"widths={tuple(sizes)} and lams={tuple(balances)}: expected at least three widths >= 1, and a finite "
            "number for each hidden layer."
        )
    if not 0 <= scale < math.inf:
        raise InputError(f"scale={scale:g} must be at least 0 and finite.")
    least = min(sizes)
    shape = (sizes[-1], sizes[0])
    if product is None:
        u, s, vt = np.linalg.svd(scale / math.sqrt(max(shape)) * rng.standard_normal(shape))
        s[least:] = 0
        if align is not None:
            u, _, vt = np.linalg.svd(_matrix("align", align, shape))
    elif align is not None:
        raise InputError("A given product has singular vectors of its own: give product or align, not both.")
    else:
        u, s, vt = np.linalg.svd(_matrix("product", product, shape))
    if len(s) > least and s[least] > 1e-12 * s[0]:
        raise InputError(
            f"The product has a rank above {least}, the smallest width of {tuple(sizes)}; give one of lower rank."
        )
    turns = [vt.T, *(_rotation(n, rng) for n in sizes[1:-1]), u]
    made = []
    for turn, before, x in zip(turns[1:], turns, _strands(sizes, balances, s)):
        made.append(torch.from_numpy(turn @ _diagonal(x, (len(turn), len(before))) @ before.T))
    return made


def rebalance(w1: Tensor, w2: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """Two layers with the same product W₂W₁, hence the same function, and another λ.

    Of all such pairs, which differ by a rotation of the hidden units, the one nearest to the given weights.

    Args:
        w1: First layer, `(h, d)`.
        w2: Second layer, `(c, h)`.
        lam: λ wanted.

    Raises:
        InputError: If the shapes do not fit, a weight is not finite, or λ is infeasible for the shape.
    """
    if w1.ndim != 2 or w2.ndim != 2 or w2.shape[1] != len(w1):
        raise InputError(f"Layers {tuple(w1.shape)} and {tuple(w2.shape)}: expected (h, d) and (c, h).")
    first, second = _matrix("w1", w1, tuple(w1.shape)), _matrix("w2", w2, tuple(w2.shape))
    sizes = [first.shape[1], len(first), len(second)]
    u, s, vt = np.linalg.svd(second @ first)
    x1, x2 = _strands(sizes, [float(lam)], s)
    inner1, inner2 = _diagonal(x1, first.shape), _diagonal(x2, second.shape)
    left, _, right = np.linalg.svd(first @ vt.T @ inner1.T + second.T @ u @ inner2)
    turn = left @ right
    return torch.from_numpy(turn @ inner1 @ vt), torch.from_numpy(u @ inner2 @ turn.T)


def balance_defects(weights: Sequence[Tensor], lams: Sequence[float]) -> list[float]:
    """|W_{l+1}ᵀW_{l+1} − W_lW_lᵀ − λ_l I| (Frobenius) at every hidden layer, relative to |W_l|² + |W_{l+1}|².

    Args:
        weights: W_1, ..., W_L, `(n_l, n_{l−1})` each.
        lams: λ_l of every hidden layer.

    Raises:
        InputError: If the weights do not follow each other, or there is no λ for each hidden layer.
    """
    if len(lams) != len(weights) - 1 or any(b.shape[1] != a.shape[0] for a, b in zip(weights, weights[1:])):
        raise InputError(
            f"{len(weights)} weights that follow each other need {len(weights) - 1} lams, not {len(lams)}."
        )
    found = []
    for before, after, lam in zip(weights, weights[1:], lams):
        first, second = before.detach().double(), after.detach().double()
        off = second.mT @ second - first @ first.mT - lam * torch.eye(len(first), dtype=torch.float64)
        size = float(first.square().sum() + second.square().sum())
        found.append(float(off.norm()) / size if size else float(off.norm()))
    return found


def _strands(sizes: list[int], lams: list[float], values: np.ndarray) -> np.ndarray:
    """The x of every layer and strand, `(L, strands)`."""
    if len(lams) == 1 and lams[0]:  # the general reasons below, in the words of two layers
        side, letter, sign = (sizes[2], "c", ">") if lams[0] > 0 else (sizes[0], "d", "<")
        if sizes[1] > side:
            raise InputError(f"lambda {sign} 0 needs h <= {letter} (h={sizes[1]}, {letter}={side}).")
    count = min(sizes)
    return np.stack([_strand(i, sizes, lams, float(values[i]) if i < count else 0.0) for i in range(max(sizes))], 1)


def _strand(i: int, sizes: list[int], lams: list[float], value: float) -> np.ndarray:
    """Strand i: x of every layer, `(L,)`, 0 where it has none."""
    depth = len(sizes) - 1
    x = np.zeros(depth)
    for start, end in _runs([n > i for n in sizes]):
        inside = np.cumsum([0.0, *lams[start : max(start, end - 1)]])  # x² relative to the first of the run
        if (start, end) == (0, depth):
            x[:] = _through(inside, value)
        elif start == 0:
            if end:
                squares = -lams[end - 1] - (inside[-1] - inside)
                x[:end] = _roots(i, squares, sizes, lams, range(1, end + 1), ends=end)
        elif start < depth:
            if end < depth and abs(total := math.fsum(lams[start - 1 : end])) > 1e-12 * max(map(abs, lams)):
                where = f"hidden layer {start}" if start == end else f"hidden layers {start} to {end}"
                raise InputError(
                    f"No balanced network of widths {tuple(sizes)}: unit {i + 1} of {where} has no neighbour before or "
                    f"after, so the lambdas there must sum to 0, not {total:g}."
                )
            squares = lams[start - 1] + inside[: end - start]
            x[start:end] = _roots(i, squares, sizes, lams, range(start + 1, end + 1), begins=start)
    return x


def _runs(alive: list[bool]) -> list[tuple[int, int]]:
    """First and last of every stretch of True."""
    edges = np.flatnonzero(np.diff([False, *alive, False]))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def _roots(
    i: int, squares: np.ndarray, sizes: list[int], lams: list[float], layers: range, begins: int = 0, ends: int = 0
) -> np.ndarray:
    """√ of x², or an error that names the layer where it is most negative; rounding of the sums is 0."""
    if not (squares < -1e-12 * max(map(abs, lams))).any():
        return np.sqrt(np.maximum(squares, 0.0))
    worst = int(np.argmin(squares))
    layer = layers[worst]
    if begins:
        terms, sum_of = f"begins at hidden layer {begins}", range(begins, layer)
    else:
        terms, sum_of = f"ends at hidden layer {ends}", range(layer, ends + 1)
    wanted = " + ".join(f"lambda_{at}" for at in sum_of)
    raise InputError(
        f"No balanced network of widths {tuple(sizes)}: unit {i + 1} {terms}, so W_{layer} needs {wanted} "
        f"{'>= 0' if begins else '<= 0'}, not {math.fsum(lams[at - 1] for at in sum_of):g}."
    )


def _through(steps: np.ndarray, value: float) -> np.ndarray:
    """x_l > 0 with x²_{l} − x²_1 = steps_l and the product `value` ≥ 0: Newton in the logarithm of the weakest."""
    gaps = steps - steps.min()
    if value == 0:
        return np.sqrt(gaps)
    weakest = math.log(value) / len(gaps)  # an upper bound; the logarithm of the product is convex in it
    for _ in range(200):
        squares = math.exp(2 * weakest) + gaps
        step = (0.5 * np.log(squares).sum() - math.log(value)) / (math.exp(2 * weakest) / squares).sum()
        weakest -= step
        if abs(step) < 1e-16 * max(1.0, abs(weakest)):
            break
    return np.sqrt(math.exp(2 * weakest) + gaps)


def _diagonal(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    made = np.zeros(shape)
    both = min(shape)
    made[range(both), range(both)] = values[:both]
    return made


def _rotation(n: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform on O(n): QR of a Gaussian matrix with the signs of R's diagonal."""
    q, r = np.linalg.qr(rng.standard_normal((n, n)))
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def _matrix(name: str, values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    made = values.detach().cpu().double().numpy()
    if made.shape != shape:
        raise InputError(f"{name} has shape {made.shape}; expected {shape}.")
    if not np.isfinite(made).all():
        raise InputError(f"{name} is not finite at {tuple(int(v) for v in np.argwhere(~np.isfinite(made))[0])}.")
    return made
