"""From what was heard at a site to its share of the kernel, without the Jacobian of the whole network.

The Jacobian of output k of sample i at a matrix with O rows and D columns, used at T positions, is J_ik = G_ik U_iᵀ
with slopes G `(O, T)` and inputs U `(D, T)`. Its Gram matrix ⟨J_ik, J_jl⟩ can be had in three ways, whose costs in
multiply-adds for a pair of samples with R rows each are
    jacobian  form J, then J Jᵀ:                           R² O D
    inputs    M = U_iᵀ U_j, H = G_j M, then ⟨G_i, H⟩:     T² (D + R O) + R² O T
    outputs   M ∘ (G_i G_jᵀ) summed over positions:        T² (D + R² O)
The last is the product of two small Gram matrices that everybody knows for T = 1; the second contracts the outputs
only once, and the inner products M of a convolution's patches are sums of shifted inner products of pixels, which
saves the k² copies of its input. Samples meet in tiles whose parts stay in cache; of a symmetric kernel one half is
computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from learndyn.observables.ntk.taps import Site, offsets, positions, unfold

SLAB = 2**28  # bytes of Jacobian that are formed at a time
TILE = 128  # rows of the kernel in a tile of a matrix product
CACHE = 2**20  # bytes that stay near a core
PIECE = 2048  # columns of a thin product that are multiplied at a time, at least
WAYS = ("jacobian", "inputs", "outputs")


def tiles(rows: int, columns: int, symmetric: bool, size: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of a matrix; of a symmetric one those on and below the diagonal, a row of them as one."""
    for begin in range(0, rows, size):
        end = min(begin + size, rows)
        yield slice(begin, end), slice(0, end if symmetric else columns)


def mirror(kernel: Tensor) -> None:
    """Copy the lower half of a square matrix to the upper one, tile by tile: columns of a large one miss the cache."""
    for begin in range(0, len(kernel), TILE):
        rows = slice(begin, min(begin + TILE, len(kernel)))
        for start in range(0, begin, TILE):
            columns = slice(start, start + TILE)
            kernel[columns, rows] = kernel[rows, columns].T
        diagonal = kernel[rows, rows]
        diagonal.copy_(diagonal.tril() + diagonal.tril(-1).T)


def add_product(kernel: Tensor, first: Tensor, second: Tensor | None) -> None:
    """Add X Yᵀ, or the lower half of X Xᵀ."""
    symmetric, other = second is None, first if second is None else second
    for rows, columns in tiles(len(first), len(other), symmetric, TILE):
        kernel[rows, columns].addmm_(first[rows], other[columns].T)


def add_site(
    kernel: Tensor, first: Sequence[Site], second: Sequence[Site] | None, rows: int, bias: bool = False
) -> str:
    """Add the share of one weight, from all sites that use it.

    Args:
        kernel: `(n·rows, n'·rows)`, samples first; of a symmetric kernel only the lower half is meant.
        first: The sites, with what was heard of n samples.
        second: The same for n' others, None for the symmetric kernel.
        rows: Rows of the kernel for a sample: all c outputs, or 1 if ⟨J_ik, J_jk⟩ is to be summed over k.
        bias: Add the share of the bias of the one site, which `takes_bias`, as well.

    Returns:
        The way that was taken, one of `WAYS`.
    """
    site = first[0]
    if site.kind == "scale":
        vectors = [_flat(sum_of([s.weight_slopes for s in sites]), rows) for sites in (first, second) if sites]
        add_product(kernel, vectors[0], vectors[1] if second else None)
        return "jacobian"
    way = cheapest(first, len(kernel) // rows, rows)
    if way == "jacobian":
        _by_jacobian(kernel, first, second, rows)
    elif way == "inputs":
        _by_inputs(kernel, site, second[0] if second else None, rows)
    else:
        _by_outputs(kernel, site, second[0] if second else None, rows, bias)
    return way


def takes_bias(sites: Sequence[Site], samples: int, rows: int) -> bool:
    """Whether a bias comes free with its weight: a constant input of 1 in the one position of the one site."""
    site = sites[0]
    single = len(sites) == 1 and site.slopes is not None and site.slopes.shape[3] == 1
    return single and site.kind == "matrix" and cheapest(sites, samples, rows) == "outputs"


def add_bias(kernel: Tensor, first: Sequence[Site], second: Sequence[Site] | None, rows: int) -> None:
    """Add the share of one bias."""
    vectors = [_flat(sum_of([s.bias_slopes for s in sites]), rows) for sites in (first, second) if sites]
    add_product(kernel, vectors[0], vectors[1] if second else None)


def sum_of(tensors: Sequence[Tensor | None]) -> Tensor:
    """The uses of one parameter add up before they are squared."""
    total, *rest = (t for t in tensors if t is not None)
    for tensor in rest:
        total = total + tensor
    return total


def _flat(tensor: Tensor, rows: int) -> Tensor:
    return tensor.reshape(len(tensor) * rows, -1)


def shape_of(site: Site) -> tuple[int, int, int, int, int]:
    """(c, O, D, T, S): outputs, rows and columns of a group's matrix, positions, pixels."""
    assert site.slopes is not None and site.inputs is not None and site.weight is not None
    _, c, outputs, places = site.slopes.shape
    if site.kind == "index":
        return c, outputs, site.weight.shape[0], places, places
    if site.window is None:
        return c, outputs, site.inputs.shape[-1], places, places
    columns = site.inputs.shape[1] // site.window.groups * math.prod(site.window.kernel)
    return c, outputs, columns, places, site.inputs.shape[2:].numel()


def cheapest(sites: Sequence[Site], samples: int, rows: int) -> str:
    """The way with the least time by a model of costs, in nanoseconds a pair of samples on one core."""
    site = sites[0]
    if len(sites) > 1 or (site.window is not None and site.window.groups > 1):
        return "jacobian"
    c, outputs, columns, places, pixels = shape_of(site)
    wide = c * outputs // rows  # O of the formulas: with traces, the outputs count as rows of the matrix
    inner = columns if site.window is None else columns // math.prod(site.window.kernel)
    meeting = (
        0
        if site.kind == "index"
        else pixels**2 * inner / 50 + places**2 * (math.prod(site.window.kernel) if site.window else 1) / 2
    )
    samples = max(samples, 1)
    calls = 3e4 / samples
    size = max(1, TILE // rows)  # of the loop over pairs of positions, by tiles of samples, each round some 25 µs
    rounds = places**2 * -(-samples // size) * -(-samples // (4 * size))
    times = {
        "inputs": calls
        + meeting
        + places**2 * rows * wide / (45 * min(1, (places + 8) / 72))
        + rows**2 * wide * places / 30,
        "outputs": meeting + places**2 * (rows**2 * wide / 50 + rows**2 / 2) + 2.5e4 * rounds / samples**2,
    }
    if site.kind != "index":
        times["jacobian"] = rows**2 * wide * columns / 50 + 2 * rows * wide * columns * places / 50 / samples
    return min(times, key=times.__getitem__)


def _by_jacobian(kernel: Tensor, first: Sequence[Site], second: Sequence[Site] | None, rows: int) -> None:
    c, outputs, columns, _, _ = shape_of(first[0])
    samples = len(kernel) // rows + (kernel.shape[1] // rows if second else 0)
    window = first[0].window
    elements = math.prod(window.kernel) if window else 1
    channels = columns // elements
    bytes_a_channel = samples * c * outputs * elements * kernel.element_size()
    step = max(1, min(channels, SLAB // bytes_a_channel))
    for begin in range(0, channels, step):
        chosen = slice(begin, begin + step)
        slabs = [_flat(sum_of([_rows(s, chosen) for s in sites]), rows) for sites in (first, second) if sites]
        add_product(kernel, slabs[0], slabs[1] if second else None)


def _rows(site: Site, channels: slice) -> Tensor:
    """The Jacobian at some input channels of a matrix, `(n, c, O·D)`."""
    assert site.slopes is not None
    total, c, outputs, places = site.slopes.shape
    groups = site.window.groups if site.window else 1
    columns = unfold(site, slice(0, 1), channels).shape[2]
    found = site.slopes.new_empty(total, c, groups, outputs // groups, columns)
    few = max(1, CACHE * 16 // (columns * groups * places * found.element_size()))  # patches of these samples at a time
    for begin in range(0, total, few):
        where = slice(begin, begin + few)
        patches = unfold(site, where, channels)
        slopes = site.slopes[where].unflatten(2, (groups, -1))
        if groups == 1:
            torch.bmm(slopes.flatten(1, 3), patches[:, 0].mT, out=found[where].flatten(1, 3))
        else:
            found[where] = slopes @ patches[:, None].mT
    return found.flatten(2)


def _meetings(mine: Site, theirs: Site, here: slice, there: slice, pixels_last: dict[int, Tensor]) -> Tensor:
    """Inner products of what the positions of some samples see with what those of others see, `(m', T', m, T)`."""
    assert mine.inputs is not None and theirs.inputs is not None
    if mine.kind == "index":
        a, b = mine.inputs[here], theirs.inputs[there, :, None, None]
        return ((b == a) & (a >= 0)).to(theirs.slopes.dtype)  # type: ignore[union-attr]
    if mine.window is None:
        a, b = mine.inputs[here], theirs.inputs[there]
        return (b.flatten(0, 1) @ a.flatten(0, 1).T).view(*b.shape[:2], *a.shape[:2])
    for site in (mine, theirs):
        if id(site) not in pixels_last:
            pixels_last[id(site)] = site.inputs.flatten(2).mT.contiguous()  # type: ignore[union-attr]
    a, b = pixels_last[id(mine)][here], pixels_last[id(theirs)][there]
    space, after = mine.inputs.shape[2:], positions(mine.window, mine.inputs.shape[2:])
    pixels = (b.flatten(0, 1) @ a.flatten(0, 1).T).view(len(b), *space, len(a), *space)
    result = pixels.new_zeros(len(b), *after, len(a), *after)
    every = slice(None)
    for touched, reached in offsets(mine.window, space):
        result[(every, *reached, every, *reached)] += pixels[(every, *touched, every, *touched)]
    return result.view(len(b), math.prod(after), len(a), math.prod(after))


def _by_inputs(kernel: Tensor, first: Site, second: Site | None, rows: int) -> None:
    symmetric, other = second is None, first if second is None else second
    mine, theirs = first.slopes, other.slopes
    assert mine is not None and theirs is not None
    _, c, outputs, places = mine.shape
    pixels_last: dict[int, Tensor] = {}
    _, _, _, _, pixels = shape_of(first)
    size = c * outputs * places * mine.element_size()
    few = max(1, CACHE // size)  # samples that are carried in one product
    group = max(1, min(16, 8 * CACHE // size))  # samples whose slopes stay in the outer cache while others go by
    span = max(few, SLAB // 8 // (group * max(pixels, places) ** 2 * mine.element_size()))
    for outer in range(0, len(mine), group):
        mates = slice(outer, min(outer + group, len(mine)))
        last = mates.stop if symmetric else len(theirs)
        for begin in range(0, last, span):
            met = _meetings(first, other, mates, slice(begin, min(begin + span, last)), pixels_last)
            for start in range(begin, min(begin + span, last), few):
                others = slice(start, min(start + few, begin + span, last))
                slopes = theirs[others].flatten(1, 2)
                for i in range(mates.start, mates.stop):
                    if symmetric and start > i:
                        continue
                    carried = torch.bmm(slopes, met[others.start - begin : others.stop - begin, :, i - outer])
                    target = kernel[i * rows : (i + 1) * rows, others.start * rows : others.stop * rows]
                    target += _thin(mine[i].reshape(rows, -1), carried.view(len(carried) * rows, -1))


def _thin(first: Tensor, second: Tensor) -> Tensor:
    """X Yᵀ of a few long rows, cut into pieces: as one product it runs at half the speed."""
    pieces = max(1, min(first.shape[1] // PIECE, first.shape[1] & -first.shape[1]))
    if pieces == 1:
        return first @ second.T
    left, right = (x.view(len(x), pieces, -1).transpose(0, 1) for x in (first, second))
    return torch.bmm(left, right.mT).sum(0)


def _by_outputs(kernel: Tensor, first: Site, second: Site | None, rows: int, bias: bool) -> None:
    symmetric, other = second is None, first if second is None else second
    assert first.slopes is not None and other.slopes is not None
    mine, theirs = (s.permute(3, 0, 1, 2).reshape(s.shape[3], len(s) * rows, -1) for s in (first.slopes, other.slopes))
    pixels_last: dict[int, Tensor] = {}
    size = max(1, TILE // rows)
    for above, row in tiles(len(first.slopes), len(other.slopes), symmetric, size):
        for begin in range(0, row.stop, 4 * size):
            beside = slice(begin, min(begin + 4 * size, row.stop))
            met = _meetings(first, other, above, beside, pixels_last) + float(bias)
            left, right = (slice(part.start * rows, part.stop * rows) for part in (above, beside))
            shape = (above.stop - above.start, rows, beside.stop - beside.start, rows)
            block = kernel[left, right].unflatten(0, shape[:2]).unflatten(2, shape[2:])
            for t, s in itertools.product(range(len(mine)), range(len(theirs))):
                product = (mine[t, left] @ theirs[s, right].T).view(shape)
                block.addcmul_(product, met[:, s, :, t].T[:, None, :, None])
