"""What the recorder costs: a training step with the ledger at every step against the bare loop, taking turns.

    python benchmarks/recorder.py [--cases resnet20 vgg16-linear ...] [--steps 15] [--threads 2] [--optimizer sgd]
                                  [--out benchmarks/results/recorder.txt]

"hooks" is the time in the recorder's two hooks over that of a bare step, and the number to look at: it does not suffer
from other work on the machine as the difference of two loops ("loop") does. "exact" is `Recorder(..., exact=True)`.
Rows are written every 10 steps, as by default; "row" is the time of one. Where the system takes memory back at every
step the loop suffers more than the hooks take: `--keep` says by how much (`learndyn.runtime.keep_memory`).
"""

import argparse
import contextlib
import copy
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn import runtime
from learndyn.models import resnet20, vgg16
from learndyn.record import _processor
from learndyn.recorder import Recorder
from learndyn.recorder.file import FILE
from learndyn.symmetries import find

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from tiny_transformer import ALPHABET, LENGTH, Transformer  # noqa: E402

Loss = Callable[[nn.Module], Tensor]


def images(model: nn.Module, batch: int = 128) -> tuple[nn.Module, Loss, Tensor]:
    x, y = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    return model, lambda m: F.cross_entropy(m(x), y), x[:4]


def text(batch: int = 256) -> tuple[nn.Module, Loss, Tensor]:
    x, y = (torch.randint(0, len(ALPHABET), (batch, LENGTH)) for _ in range(2))
    return Transformer(128, 4, 4, 0.1), lambda m: F.cross_entropy(m(x).flatten(0, 1), y.flatten()), x[:4]


CASES: dict[str, tuple[str, Callable[[], tuple[nn.Module, Loss, Tensor]]]] = {
    "resnet20": ("ResNet-20, batch 128", lambda: images(resnet20((3, 32, 32), 10))),
    "vgg16-linear": ("VGG-16-BN (linear head), batch 128", lambda: images(vgg16((3, 32, 32), 10, "linear"))),
    "vgg16": ("VGG-16-BN (4096, 4096), batch 128", lambda: images(vgg16((3, 32, 32), 10))),
    "transformer": ("Transformer 4 x 128, batch 256 x 24", text),
}
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=5e-4),
    "plain": lambda p: torch.optim.SGD(p, 0.01, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-4),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-5),
}


class Side:
    """A network that is trained in turns with others, and what it has spent."""

    def __init__(self, model: nn.Module, loss: Loss, optimizer: str):
        self.model, self.loss = copy.deepcopy(model), loss
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        self.steps: list[float] = []
        self.hooks: list[float] = []

    def step(self) -> None:
        """One training step."""
        self.hooks.append(0.0)
        began = time.perf_counter()
        self.optimizer.zero_grad()
        self.loss(self.model).backward()
        self.optimizer.step()
        self.steps.append(time.perf_counter() - began)

    @contextlib.contextmanager
    def recorded(self, laws: list, exact: bool) -> Iterator[Path]:
        """Record meanwhile, with the time in the hooks added to that of the step; the file."""
        side = self

        def timed(hook: Callable[..., None]) -> Callable[..., None]:
            def around(*arguments: object) -> None:
                began = time.perf_counter()
                hook(*arguments)
                side.hooks[-1] += time.perf_counter() - began

            return around

        class Timed(Recorder):
            _before, _after = timed(Recorder._before), timed(Recorder._after)

        with tempfile.TemporaryDirectory() as folder:
            with Timed(self.model, self.optimizer, laws, every=10, to=folder, exact=exact):
                yield Path(folder) / FILE


def compare(name: str, optimizer: str, steps: int) -> str:
    """One line of the table."""
    title, make = CASES[name]
    torch.manual_seed(0)
    model, loss, inputs = make()
    began = time.perf_counter()
    laws = find(model, inputs, certify=False).laws
    found = time.perf_counter() - began
    bare, usual, exact = (Side(model, loss, optimizer) for _ in range(3))
    with usual.recorded(laws, False) as file, exact.recorded(laws, True):
        for _ in range(steps + 2):
            for side in (bare, usual, exact):
                side.step()
        size = file.stat().st_size
    plain = statistics.median(bare.steps[2:])
    cells = []
    for side in (usual, exact):
        often = [h for i, h in enumerate(side.hooks) if i > 1 and (i + 1) % 10]
        rows = [h for i, h in enumerate(side.hooks) if i > 1 and not (i + 1) % 10]
        row = f"{1e3 * (statistics.median(rows) - statistics.median(often)):6.1f}" if rows else "     -"
        loop = statistics.median(s / b - 1 for s, b in zip(side.steps[2:], bare.steps[2:]))
        cells.append(f"{1e3 * statistics.median(often):8.1f} {statistics.median(often) / plain:7.2%} {loop:7.2%} {row}")
    charges = sum(law.size for law in laws)
    return f"{title:<36}{1e3 * plain:9.1f} {charges:8d}  {'   '.join(cells)}  {size / 1e6:6.1f}   {found:5.1f}"


def main() -> None:
    """Print the table, and keep it if asked to."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd")
    arguments.add_argument("--steps", type=int, default=15)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--keep", action="store_true", help="keep large blocks of memory, as learndyn's own runs do")
    arguments.add_argument("--out", type=Path, help="file to keep the table in")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.keep:
        runtime.keep_memory()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(f"{_processor()}, threads: {chosen.threads}, torch {torch.__version__}, Python {platform.python_version()}")
    side = f"{'hooks ms':>8} {'hooks':>7} {'loop':>7} {'row ms':>6}"
    title = f"{chosen.optimizer}, float32{', memory kept' if chosen.keep else ''}"
    say(f"{title:<36}{'bare ms':>9} {'charges':>8}  {side}   {side}  {'MB':>6}   laws s")
    say(f"{'':<56}{'default':>31}{'exact':>34}")
    for name in chosen.cases:
        say(compare(name, chosen.optimizer, chosen.steps))
    if chosen.out:
        chosen.out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *lines]) + "\n")


if __name__ == "__main__":
    main()
