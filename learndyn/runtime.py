"""Settings of the machine that make the same arithmetic faster: looked at before use, reported, and easily left off.

Two things. **Memory**: glibc gives large blocks back to the system and fetches them anew, page by page, each time; told
to keep them, it is several times faster. No bit of a result changes. **Float32 products**: some processors multiply
matrices faster through oneDNN, which torch uses when it is allowed "medium" precision; on those without bfloat16 units
the result is as exact as before. Whether that is so here is probed; it changes the last bits, so it is decided once for
a run, recorded with it, and used again when the run goes on.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

FASTER = 1.2  # that a product must be to change its bits
EXACT = 1e-6  # relative error that a product may have, as that of plain float32
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h


@dataclass(frozen=True)
class Tuning:
    """What was found and done.

    Attributes:
        memory: Whether the allocator was told to keep what it has.
        precision: Of float32 products, as `torch.set_float32_matmul_precision` names it.
        speed: Of "medium" over "highest"; nan if it was not probed.
        error: Relative error of "medium" against float64; nan if it was not probed.
    """

    memory: bool
    precision: str
    speed: float = float("nan")
    error: float = float("nan")

    def __str__(self) -> str:
        memory = "large blocks of memory are kept" if self.memory else "the allocator is as it was"
        if self.speed != self.speed:
            return f"{memory}; float32 products: {self.precision}, not probed"
        found = f"medium is {self.speed:.2f} times as fast with an error of {self.error:.1e}"
        return f"{memory}; float32 products: {self.precision} ({found})"


def tune(memory: bool = True, products: bool = True) -> Tuning:
    """Set up this process: for scripts; `learndyn run` does it by itself.

    Args:
        memory: Keep large blocks of memory (Linux with glibc only).
        products: Probe float32 products, and use the faster kind if it is exact.
    """
    kept = memory and keep_memory()
    if not products:
        return Tuning(kept, torch.get_float32_matmul_precision())
    speed, error = probe()
    chosen = choose(speed, error)
    torch.set_float32_matmul_precision(chosen)
    return Tuning(kept, chosen, speed, error)


def keep_memory() -> bool:
    """Tell glibc's allocator to keep large blocks for this process; False where there is no glibc."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    asked = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 * 2**20))
    return all([mallopt(name, value) == 1 for name, value in asked])


def probe(size: int = 1024, repeats: int = 5) -> tuple[float, float]:
    """Speed of "medium" float32 products over "highest" on this machine, and their relative error."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=draw) for _ in range(2))
    taken = {"highest": float("inf"), "medium": float("inf")}
    for _ in range(repeats):
        for name in taken:
            with precision(name):
                begin = time.perf_counter()
                a @ b
                taken[name] = min(taken[name], time.perf_counter() - begin)
    true = a.double() @ b.double()
    with precision("medium"):
        error = float(((a @ b).double() - true).norm() / true.norm())
    return taken["highest"] / taken["medium"], error


def choose(speed: float, error: float) -> str:
    """The precision to use after a probe."""
    return "medium" if speed > FASTER and error < EXACT else "highest"


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Float32 products of a kind; afterwards as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
