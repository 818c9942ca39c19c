"""The ends of a spectrum, with error bars: Hessian and Gauss-Newton matrix of a loss, and the tangent kernel.

Only products with vectors are needed. Lanczos with full reorthogonalisation, restarted with the best vectors when the
basis is full; it stops on the Ritz residual ‖A v − λ v‖, within which an eigenvalue of A must lie, and not when the
numbers stop changing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.dynamics.tangent import split, twice_differentiable
from learndyn.errors import InputError, unknown
from learndyn.noise import generator
from learndyn.observables.evaluate import looking

Product = Callable[[Tensor], Tensor]
ENDS = ("largest", "smallest", "magnitude")


@dataclass(frozen=True)
class Spectrum:
    """Some eigenpairs of a symmetric matrix.

    Attributes:
        values: `(k,)`, float64, in the order that was asked for.
        residuals: ‖A v − λ v‖ of each: an eigenvalue of A lies within this distance of λ.
        vectors: Unit vectors `(k, P)`, in the precision of the products.
        products: Products with A that were made.
    """

    values: Float[Tensor, " modes"]
    residuals: Float[Tensor, " modes"]
    vectors: Float[Tensor, "modes parameters"]
    products: int


def lanczos(
    product: Product,
    start: Tensor,
    count: int,
    end: str = "largest",
    tolerance: float = 1e-5,
    basis: int | None = None,
    most: int = 1000,
    multiple: bool = False,
) -> Spectrum:
    """The `count` eigenpairs at an end of a symmetric matrix of which only products with vectors are known.

    Args:
        product: A·v for a vector `(P,)`.
        start: Where to begin `(P,)`: random, or the sum of the eigenvectors of a matrix nearby.
        count: Eigenpairs asked for; all there are if P is smaller.
        end: "largest" and "smallest" values, or those of largest "magnitude".
        tolerance: Residuals to reach, relative to the largest |λ|.
        basis: Vectors kept before a restart: 2·count + 20 by default, more memory and fewer products with more.
        most: Products after which to stop; the residuals tell how far it came.
        multiple: Look again across what was found until nothing larger is there. One vector meets a value that occurs
            several times only once; this finds it as often as it occurs, for about twice the products.

    Raises:
        InputError: If `count` is not positive, or a product is not finite.
    """
    if end not in ENDS:
        raise unknown("end of the spectrum", end, ENDS)
    if count < 1:
        raise InputError(f"count={count} eigenpairs were asked for; give at least 1.")
    count, empty = min(count, len(start)), start.new_zeros(0, len(start))
    found = _from_one_vector(product, start, count, end, tolerance, basis, most, empty)
    while multiple and len(found.values) < len(start) and found.products < most:
        draw = generator(found.products, "look again").standard_normal(len(start))
        begin = torch.from_numpy(draw).to(start)
        left = most - found.products
        more = _from_one_vector(product, begin, 1, end, tolerance, basis, left, found.vectors)
        values, vectors = torch.cat([found.values, more.values]), torch.cat([found.vectors, more.vectors])
        key = -values if end == "smallest" else values.abs() if end == "magnitude" else values
        news = float(key[-1]) > float(key[:-1].min()) + tolerance * float(values.abs().max())
        order = _order(values, end)[:count]
        residuals = torch.cat([found.residuals, more.residuals])[order]
        found = Spectrum(values[order], residuals, vectors[order], found.products + more.products)
        if not news:
            break
    return found


def _from_one_vector(
    product: Product,
    start: Tensor,
    count: int,
    end: str,
    tolerance: float,
    basis: int | None,
    most: int,
    across: Tensor,
) -> Spectrum:
    """Eigenpairs orthogonal to those known already, `across` `(j, P)`."""
    size, device = len(start), start.device
    room = size - len(across)
    width = min(room, max(basis or 2 * count + 20, count + 2))
    vectors = start.new_zeros(width + 1, size)
    matrix = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=device)
    start = start - (across @ start) @ across
    vectors[0] = start / start.norm()
    filled, done, seen = 0, 0, None
    while True:
        after = product(vectors[filled]).to(vectors.dtype)
        done += 1
        if not after.isfinite().all():
            raise InputError(
                f"Product {done} of the matrix with a vector is not finite; the network or its loss is not."
            )
        for _ in range(2):  # once leaves rounding errors that grow
            after = after - (across @ after) @ across
            overlap = (
                vectors[: filled + 1].double() @ after.double()
                if size < 10**6
                else (vectors[: filled + 1] @ after).double()
            )
            matrix[: filled + 1, filled] += overlap
            after = after - overlap.to(after.dtype) @ vectors[: filled + 1]
        matrix[filled, : filled + 1] = matrix[: filled + 1, filled].clone()
        filled += 1
        left = float(after.double().norm())
        values, parts = torch.linalg.eigh(matrix[:filled, :filled])
        ended = left <= 1e-10 * float(values.abs().max())  # the space that the start reaches, up to rounding
        order = _order(values, end)
        chosen = order[:count]
        residuals = torch.zeros(len(chosen)) if ended else (left * parts[filled - 1, chosen]).abs()
        if ended and seen is not None and len(chosen) == len(seen):
            complete = bool(
                torch.allclose(values[chosen], seen, rtol=tolerance, atol=1e-12 * float(values.abs().max()))
            )
        else:
            complete = not ended and seen is None and bool((residuals <= tolerance * values.abs().max()).all())
        if done >= most or filled == room or (len(chosen) == count and complete):
            found = parts[:, chosen].T.to(vectors.dtype) @ vectors[:filled]
            return Spectrum(
                values[chosen].cpu(), residuals.double().cpu(), found / found.norm(dim=1, keepdim=True), done
            )
        if filled == width:
            kept = order[: (width + count) // 2]
            vectors[: len(kept)] = parts[:, kept].T.to(vectors.dtype) @ vectors[:filled]
            matrix.zero_()
            matrix[range(len(kept)), range(len(kept))] = values[kept]
            filled = len(kept)
        if ended:  # a value that occurs several times shows itself once: look again from elsewhere
            seen = values[chosen]
            after = torch.from_numpy(generator(done, "lanczos").standard_normal(size)).to(vectors)
            for _ in range(2):
                after = after - (across @ after) @ across
                after = after - (vectors[:filled] @ after) @ vectors[:filled]
            left = float(after.norm())
        vectors[filled] = after / left


def _order(values: Tensor, end: str) -> Tensor:
    key = {"largest": -values, "smallest": values, "magnitude": -values.abs()}[end]
    return key.argsort()


def hessian_spectrum(
    model: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    count: int = 5,
    end: str = "largest",
    tolerance: float = 1e-5,
    start: Tensor | None = None,
    seed: int = 0,
) -> Spectrum:
    """Eigenpairs of the Hessian of a loss with respect to the trained parameters, in eval mode.

    Args:
        model: The network; it is left as it was.
        loss: The loss as a function of the network, such as `lambda model: task.loss(model, batch)`.
        count: Eigenpairs.
        end: Which end of the spectrum.
        tolerance: Residuals to reach, relative to the largest |λ|.
        start: First vector `(P,)`, for instance the sum of the eigenvectors of the last checkpoint.
        seed: Decides the first vector otherwise.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    with looking(model, parameters[0].device), twice_differentiable(), torch.enable_grad():
        slopes = torch.autograd.grad(loss(model), parameters, create_graph=True, materialize_grads=True)
        bent = [(g, i) for i, g in enumerate(slopes) if g.requires_grad]

        def product(vector: Tensor) -> Tensor:
            pieces = split(vector, parameters)
            found = torch.autograd.grad(
                [g for g, _ in bent],
                parameters,
                [pieces[i] for _, i in bent],
                retain_graph=True,
                materialize_grads=True,
            )
            return torch.cat([g.detach().flatten() for g in found])

        return lanczos(product if bent else torch.zeros_like, _begin(parameters, start, seed), count, end, tolerance)


def gauss_newton_spectrum(
    model: nn.Module,
    outputs: Callable[[nn.Module], Tensor],
    loss: Callable[[Tensor], Tensor],
    count: int = 5,
    tolerance: float = 1e-5,
    start: Tensor | None = None,
    seed: int = 0,
) -> Spectrum:
    """The largest eigenpairs of the Gauss-Newton matrix Jᵀ (∇²_f L) J of a loss L(f), in eval mode.

    Args:
        model: The network; it is left as it was.
        outputs: The outputs f as a function of the network, such as `lambda model: model(batch.inputs)`.
        loss: The loss as a function of the outputs.
        count: Eigenpairs.
        tolerance: Residuals to reach, relative to the largest eigenvalue.
        start: First vector `(P,)`.
        seed: Decides the first vector otherwise.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    with looking(model, parameters[0].device), twice_differentiable(), torch.enable_grad():
        found = outputs(model)
        ends = found.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(ends), ends, create_graph=True)
        v = torch.zeros_like(found, requires_grad=True)
        back = torch.autograd.grad(found, parameters, v, create_graph=True, materialize_grads=True)
        bent = [(b, i) for i, b in enumerate(back) if b.requires_grad]

        def product(vector: Tensor) -> Tensor:
            pieces = split(vector, parameters)
            (moved,) = torch.autograd.grad([b for b, _ in bent], v, [pieces[i] for _, i in bent], retain_graph=True)
            (curved,) = torch.autograd.grad(slope, ends, moved, retain_graph=True)
            pulled = torch.autograd.grad(found, parameters, curved, retain_graph=True, materialize_grads=True)
            return torch.cat([g.detach().flatten() for g in pulled])

        return lanczos(product, _begin(parameters, start, seed), count, "largest", tolerance)


def _begin(parameters: Sequence[Tensor], start: Tensor | None, seed: int) -> Tensor:
    size = sum(p.numel() for p in parameters)
    if start is None:
        start = torch.from_numpy(generator(seed, "lanczos").standard_normal(size))
    if start.shape != (size,):
        raise InputError(f"The first vector has the shape {tuple(start.shape)}; the parameters ask for ({size},).")
    return start.to(parameters[0])
