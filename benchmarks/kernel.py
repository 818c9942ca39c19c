"""What the tangent kernel costs next to other libraries' and next to the arithmetic that it needs.

    python benchmarks/kernel.py [--nets mlp resnet20] [--n 8 32] [--peers neural-tangents] [--out FILE]

The full kernel of all logits (n c x n c, float32, batch norm with running statistics, all weights, biases and scales
count). Every measurement has a process of its own (kernel_peers.py). learndyn is measured before and after every
peer, and the ratio is to the mean of the two: above 1, the peer takes longer. Peers live in two virtual environments,
made on the first run below --venv. Where a method holds the Jacobian, it gets blocks of samples that fit the memory.

A difference is ||K - K'|| / ||K'|| with learndyn's float32 kernel as K'. A ReLU whose input is zero up to rounding goes
either way, and one such unit turns 1e-7 into 1e-4 to 1e-3; the row "learndyn float64" tells how much rounding does.

The bound is the arithmetic: a forward pass and c passes backward to the activations, and for every layer the cheaper
of the product of Jacobian rows and the product of Gram matrices of inputs and slopes (half of it, by symmetry), at the
rate of this machine's fastest float32 product.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import kernel_peers
import numpy as np
import torch
from kernel_peers import CLASSES, METHODS, NETS
from torch import Tensor, nn
from torch.nn import functional as F

import learndyn
from learndyn.models import mlp, resnet20, vgg16
from learndyn.observables import kernel
from learndyn.observables.ntk import contract, taps
from learndyn.record import _processor

TORCH = "torch==2.13.0"
# Environment: steps of (name for the report, arguments of pip). curvlinops and BackPACK ask for a torchvision of which
# no build fits, and use it only in examples: they come without their dependencies, which are listed instead.
STEPS = {
    "torch": [
        ("torch", [TORCH]),
        ("what the peers need", ["numpy", "scipy", "einops<1", "einconv", "unfoldNd<1", "opt-einsum", "tqdm"]),
        ("curvlinops' linear_operator", ["linear_operator"]),
        ("nngeometry", ["--no-deps", "nngeometry==0.4"]),
        ("BackPACK", ["--no-deps", "backpack-for-pytorch==1.7.1"]),
        ("curvlinops", ["--no-deps", "curvlinops-for-pytorch==3.0.1"]),
        ("asdl", ["--no-deps", "asdfghjkl==0.1a5"]),
    ],
    "jax": [
        (
            "neural-tangents",
            ["jax==0.4.23", "jaxlib==0.4.23", "neural-tangents==0.6.5", "numpy<2", "scipy<1.13"],
        )
    ],
}
INFORMATION = ("learndyn tuned", "learndyn certified", "learndyn float64", "learndyn trace", "learndyn sum")
HEADER = f"{'method':<27}{'seconds':>9}{'learndyn':>10}{'ratio':>8}{'CPU s':>9}{'GiB':>7}{'ratio':>7}{'difference':>12}"
Say = Callable[[str], None]


# Environments ---------------------------------------------------------------------------------------------------------


def environment(name: str, folder: Path, say: Say) -> Path:
    """The Python of a virtual environment with the peers; made if it is not there."""
    here, python = folder / name, folder / name / "bin" / "python"
    ready = here / "installed.json"
    if not ready.exists():
        print(f"Making {here} ...", file=sys.stderr, flush=True)
        venv.create(here, with_pip=True, clear=True)
        (here / "constraints.txt").write_text(TORCH + "\n")
        failed = {}
        for step, packages in STEPS[name]:
            limits = [] if name == "jax" or step == "torch" else ["-c", str(here / "constraints.txt")]
            asked = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *limits, *packages]
            found = subprocess.run(asked, capture_output=True, text=True)
            if found.returncode:
                errors = [line for line in found.stderr.splitlines() if line.startswith("ERROR")]
                failed[step] = (errors or found.stderr.splitlines() or ["no reason given"])[-1]
        ready.write_text(json.dumps(failed))
    for step, reason in json.loads(ready.read_text()).items():
        say(f"not installed: {step}: {reason}")
    return python


# Networks and measurements --------------------------------------------------------------------------------------------


def write(net: str, samples: int, file: Path) -> nn.Module:
    """Keep weights and inputs in `file`; the network, as plain PyTorch."""
    torch.manual_seed(0)
    shape = NETS[net]
    inputs = torch.randint(kernel_peers.VOCABULARY, (samples, *shape)) if net == "gpt" else torch.randn(samples, *shape)
    model = {
        "mlp": lambda: mlp(shape, CLASSES, width=512),
        "resnet20": lambda: resnet20(shape, CLASSES, shortcut="conv"),
        "vgg16": lambda: vgg16(shape, CLASSES, variant="linear"),
        "gpt": lambda: kernel_peers.network("gpt"),
    }[net]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.cat([inputs[:32]] * (1 + 8 // samples)))  # running statistics of real signals
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()} | {"inputs": inputs.numpy()}
    np.savez(file, **arrays)
    return kernel_peers.load(net, arrays)[0]


class Bench:
    """The measurements of one network."""

    def __init__(self, net: str, folder: Path, pythons: dict[str, Path], chosen: argparse.Namespace) -> None:
        self.net, self.folder, self.pythons, self.chosen = net, folder, pythons, chosen
        self.model = write(net, max(chosen.n), folder / "input.npz")
        self.size = sum(parameter.numel() for parameter in self.model.parameters())

    def measure(self, method: str, n: int) -> dict[str, Any]:
        """What a worker reports, with its kernel, or {"error"} or {"over"}; blocks shrink until they fit."""
        block, row = n, CLASSES * self.size * 4  # bytes of one sample's rows of the Jacobian
        if METHODS[method].blocks:  # one set of rows if all fit, else two
            while block % 2 == 0 and (1.3 if block == n else 2.5) * block * row > 0.8 * self.chosen.memory * 2**30:
                block //= 2
        while True:
            result = self._worker(method, n, block)
            again = METHODS[method].blocks and block % 2 == 0 and "memory" in result.get("over", "")
            if not again:
                return result | {"block": block}
            block //= 2

    def _worker(self, method: str, n: int, block: int) -> dict[str, Any]:
        threads, target = str(self.chosen.threads), self.folder / "kernel.npy"
        target.unlink(missing_ok=True)
        script = str(Path(kernel_peers.__file__))
        asked = [str(self.pythons[METHODS[method].environment]), script, self.net, method, str(n)]
        asked += [str(self.folder / "input.npz"), str(target), "--threads", threads, "--block", str(block)]
        variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3"}
        with open(self.folder / "stdout", "w+") as out, open(self.folder / "stderr", "w+") as errors:
            process = subprocess.Popen(asked, stdout=out, stderr=errors, env=os.environ | variables)
            began = time.perf_counter()
            try:
                while process.poll() is None:
                    if time.perf_counter() - began > self.chosen.limit:
                        return {"over": f"over {self.chosen.limit:g} s"}
                    if _resident(process.pid) > self.chosen.memory * 2**30:
                        return {"over": f"over {self.chosen.memory:g} GiB of memory"}
                    time.sleep(0.02)
            finally:
                process.kill()
                process.wait()
            lines = [(file.seek(0), file.read().strip().splitlines())[1] for file in (out, errors)]
        try:
            result = json.loads(lines[0][-1])
        except (IndexError, ValueError):
            if process.returncode == -9:
                return {"over": "out of memory (killed by the system)"}
            return {"error": f"ended with {process.returncode}: {(lines[1] or ['nothing said'])[-1]}"}
        return result | {"kernel": np.load(target).astype(np.float64)} if "seconds" in result else result


def _resident(process: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


# The bound ------------------------------------------------------------------------------------------------------------


def rates(threads: int) -> tuple[float, list[str]]:
    """Operations per second of the fastest float32 product, and what was measured."""
    torch.set_num_threads(threads)
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2048, 2048, generator=draw) for _ in range(2))
    x, w = torch.randn(32, 64, 32, 32, generator=draw), torch.randn(64, 64, 3, 3, generator=draw)
    exact, convolving = a.double() @ b.double(), 2 * 32 * 32 * 32 * 64 * 64 * 9

    def rate(work: Callable[[], Tensor], operations: int) -> float:
        spent = []
        for _ in range(10):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
        return operations / min(spent)

    found = {"mm 2048^3": rate(lambda: a @ b, 2 * 2048**3)}
    torch.set_float32_matmul_precision("medium")
    error = float((a @ b - exact).norm() / exact.norm())
    medium = rate(lambda: a @ b, 2 * 2048**3)
    torch.set_float32_matmul_precision("highest")
    found["conv2d 64x64x3x3, 32 x 32x32"] = rate(lambda: F.conv2d(x, w, padding=1), convolving)
    y, v = (t.to(memory_format=torch.channels_last) for t in (x, w))
    found["the same, channels last"] = rate(lambda: F.conv2d(y, v, padding=1), convolving)
    lines = [f"{name}: {value / 1e9:.0f} GFLOP/s" for name, value in found.items()]
    used = "counts" if error < 1e-6 else "does not count"
    lines.append(f"mm with 'medium' precision: {medium / 1e9:.0f} GFLOP/s, error {error:.1e}, {used}")
    return max([*found.values(), *([medium] if error < 1e-6 else [])]), lines


def least_operations(model: nn.Module, sample: Tensor, n: int) -> tuple[float, float]:
    """Operations of the passes and of the contractions, for n samples; attention's own products are left out."""
    c, passes, contractions = CLASSES, 0.0, 0.0
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        seen.append((module, args[0], output))

    kinds = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm)
    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, kinds)]
    model(sample).sum().backward()
    for handle in handles:
        handle.remove()
    for module, x, y in seen:
        assert y.grad is not None
        image = y.ndim == 4
        outputs, every = y.shape[1 if image else -1], y.numel() // y.shape[1 if image else -1]
        # positions with a slope: of the last block of a transformer, only the last one
        positions = int(y.grad.abs().amax(1 if image else -1).count_nonzero()) or 1
        if isinstance(module, nn.Linear | nn.Conv2d):
            fan_in = module.weight[0].numel()
            passes += n * 2 * fan_in * outputs * (every + (c * positions if x.requires_grad else 0))
            if positions == 1:
                grams = 2.0 * (fan_in + c * c * outputs)
            else:
                inner = 2.0 * positions**2 * fan_in
                if isinstance(module, nn.Conv2d):
                    padded = (x.shape[-2] + 2 * module.padding[0]) * (x.shape[-1] + 2 * module.padding[1])  # type: ignore
                    inner = min(inner, 2.0 * padded**2 * x.shape[1])
                grams = 2.0 * (positions**2 * c * outputs + c * c * positions * outputs) + inner
            rows = n * 2 * positions * c * outputs * fan_in + n * n * c * c * outputs * fan_in
            contractions += min(n * n / 2 * grams, rows)
            own = 0 if module.bias is None else 1
        else:
            own = 2
        contractions += own * (n * n * c * c * outputs + n * c * positions * outputs)
    return passes, contractions


def anatomy(net: str, model: nn.Module, inputs: Tensor, rate: float, say: Say) -> None:
    """Where learndyn's time goes: passes and every kind of layer, with the rate that each of them reaches."""
    spent: dict[tuple[str, ...], list[float]] = {}

    def timed(owner: Any, name: str, label: Callable[[tuple[Any, ...], Any], tuple[str, ...]]) -> Any:
        work = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = work(*args, **kwargs)
            seconds = time.perf_counter() - began
            spent.setdefault(label(args, result), []).append(seconds)
            return result

        return mock.patch.object(owner, name, watched)

    def layer(args: tuple[Any, ...], way: str) -> tuple[str, ...]:
        site = args[1][0]
        if site.kind == "scale":
            return ("scale of a norm", "", "", way)
        c, outputs, columns, places, _ = contract.shape_of(site)
        kind = "convolution" if site.window is not None else "linear map" if site.kind == "matrix" else "embedding"
        return (kind, f"{outputs} x {columns}", f"{places} positions", way)

    n = len(inputs)
    kernel(model, inputs, reduction="full", certificate=False)  # warm
    with (
        timed(taps, "plan", lambda *_: ("trial", "", "", "")),
        timed(taps, "tap", lambda *_: ("passes", "", "", "")),
        timed(contract, "add_site", layer),
        timed(contract, "add_bias", lambda *_: ("biases", "", "", "")),
        timed(contract, "mirror", lambda *_: ("mirror", "", "", "")),
    ):
        began = time.perf_counter()
        kernel(model, inputs, reduction="full", certificate=False)
        total = time.perf_counter() - began
    passes, _ = least_operations(model, inputs[:1], n)
    say(f"\n{net}, n = {n}: {total:.3g} s; of the bound's rate ({rate / 1e9:.0f} GFLOP/s) each part reaches")
    for what, seconds in sorted(spent.items(), key=lambda item: -sum(item[1])):
        kind, size, places, way = what
        least = passes if kind == "passes" else len(seconds) * _least(size, places, n) if size else 0.0
        reached = f"{least / rate / sum(seconds):>6.0%}" if least else "     -"
        say(f"{kind:<18}{size:>12}{places:>16}  {way:<9}{len(seconds):>3} times{sum(seconds):>9.3g} s{reached}")


def _least(size: str, places: str, n: int) -> float:
    """The bound's operations of one layer of a kind, without a convolution's overlapping patches."""
    (outputs, fan_in), positions, c = map(int, size.split(" x ")), int(places.split()[0]), CLASSES
    if positions == 1:
        grams = 2.0 * (fan_in + c * c * outputs)
    else:
        inner = 2.0 * positions**2 * (fan_in / 9 if fan_in % 9 == 0 else fan_in)
        grams = 2.0 * (positions**2 * c * outputs + c * c * positions * outputs) + inner
    rows = n * 2 * positions * c * outputs * fan_in + n * n * c * c * outputs * fan_in
    return min(n * n / 2 * grams, rows)


# The table ------------------------------------------------------------------------------------------------------------


def expected(method: str, full: np.ndarray) -> np.ndarray:
    """What a method should give, from the full kernel."""
    blocks = full.reshape(len(full) // CLASSES, CLASSES, -1, CLASSES)
    if method == "learndyn trace":
        return np.trace(blocks, axis1=1, axis2=3) / CLASSES
    return blocks.sum((1, 3)) / CLASSES if method == "learndyn sum" else full


def table(bench: Bench, methods: list[str], n: int, rate: float, say: Say) -> list[str]:
    """The rows of one network and n; what was not measured."""
    say(f"\n{bench.net}, {bench.size:,} parameters, n = {n}\n{HEADER}")
    missing = []
    before = bench.measure("learndyn", n)
    own = [before] if "seconds" in before else []
    for method in methods:
        found = bench.measure(method, n)
        if "seconds" not in found:
            why = found.get("over") or found["error"]
            say(f"{method:<27}  {why[:110]}")
            missing.append(f"{bench.net}, n = {n}, {method}: {why}")
            continue
        after = bench.measure("learndyn", n)
        beside = [r for r in (before, after) if "seconds" in r]
        own, before = own + [after] * ("seconds" in after), after
        remarks = [f"blocks of {found['block']}"] if found["block"] < n else []
        remarks += [f"compiled in {found['setup']:.0f} s"] if METHODS[method].environment == "jax" else []
        line = f"{method:<27}{found['seconds']:>9.3g}"
        if beside:
            seconds, peak = (float(np.mean([r[key] for r in beside])) for key in ("seconds", "peak"))
            true = expected(method, beside[0]["kernel"])
            difference = np.linalg.norm(found["kernel"] - true) / np.linalg.norm(true)
            line += (
                f"{seconds:>10.3g}{found['seconds'] / seconds:>8.2f}{found['cpu']:>9.3g}{found['peak'] / 2**30:>7.2f}"
            )
            line += f"{found['peak'] / max(peak, 1):>7.1f}{difference:>12.1e}"
        else:
            line += f"{'-':>10}{'-':>8}{found['cpu']:>9.3g}{found['peak'] / 2**30:>7.2f}{'-':>7}{'-':>12}"
        say("  ".join([line, *remarks]))
    if not own:
        why = before.get("over") or before["error"]
        say(f"{'learndyn':<27}  {why[:110]}")
        return [*missing, f"{bench.net}, n = {n}, learndyn: {why}"]
    spent = [r["seconds"] for r in own]
    seconds = float(np.mean(spent))
    peak, cpu = (max(r[key] for r in own) for key in ("peak", "cpu"))
    say(
        f"{'learndyn':<27}{seconds:>9.3g}{'':>18}{cpu:>9.3g}{peak / 2**30:>7.2f}"
        f"  {len(spent)} times, {min(spent):.3g} to {max(spent):.3g} s"
    )
    with np.load(bench.folder / "input.npz") as file:
        sample = torch.from_numpy(file["inputs"][:1])
    passes, contractions = least_operations(bench.model, sample, n)
    bound = (passes + contractions) / rate
    say(
        f"{'bound':<27}{bound:>9.3g}   passes {passes / 1e9:.3g} and contractions {contractions / 1e9:.3g} GFLOP; "
        f"learndyn reaches {bound / seconds:.0%}, at its best {bound / min(spent):.0%}"
    )
    return missing


def main() -> None:
    """Print the tables, and keep them if asked to."""
    peers = sorted({method.peer for method in METHODS.values()} - {"learndyn"})
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "learndyn-kernel-peers"
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    arguments.add_argument("--n", nargs="+", type=int, default=[8, 32, 128])
    arguments.add_argument("--peers", nargs="*", choices=peers, default=peers)
    arguments.add_argument("--methods", nargs="+", choices=[*INFORMATION, *METHODS], help="only these rows")
    arguments.add_argument("--venv", type=Path, default=cache, help="folder of the peers' environments")
    arguments.add_argument("--limit", type=float, default=300, help="seconds of one measurement with its warm-up")
    arguments.add_argument("--memory", type=float, default=round(0.75 * physical), help="GiB of one measurement")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--anatomy", action="store_true", help="where learndyn's own time goes")
    arguments.add_argument("--tuned", action="store_true", help="learndyn after learndyn.runtime.tune() as well")
    arguments.add_argument("--out", type=Path, help="file to keep the tables in")
    chosen = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker is ended too
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if chosen.out:
            chosen.out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *lines]) + "\n")

    methods = [m for m in INFORMATION if m != "learndyn tuned" or chosen.tuned]
    methods += [name for name, method in METHODS.items() if method.peer in chosen.peers]
    methods = [name for name in methods if name in (chosen.methods or methods)]
    say(
        f"{_processor()}, {os.cpu_count()} cores, {physical:.0f} GiB, {chosen.threads} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}, learndyn {learndyn.__version__}, "
        f"{datetime.date.today()}"
    )
    pythons = {"here": Path(sys.executable)}
    for name in sorted({METHODS[m].environment for m in methods} - {"here"}):
        pythons[name] = environment(name, chosen.venv, say)
    rate, measured = rates(chosen.threads)
    say("\n".join(measured))
    say(f"limits of a measurement: {chosen.limit:g} s, {chosen.memory:g} GiB; best of repetitions (3 in 20 s, or 1 s)")
    missing = []
    for net in chosen.nets:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(net, Path(folder), pythons, chosen)
            for n in chosen.n:
                missing += table(bench, methods, n, rate, say)
                if chosen.anatomy:
                    with np.load(bench.folder / "input.npz") as file:
                        inputs = torch.from_numpy(file["inputs"][:n])
                    anatomy(net, bench.model, inputs, rate, say)
    say("\n".join(["\nnot measured", *(missing or ["nothing"])]))


if __name__ == "__main__":
    main()
