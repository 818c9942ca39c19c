"""One measurement of benchmarks/kernel.py in a process of its own: a network, a method, a number of samples.

    python kernel_peers.py NET METHOD N INPUT.npz OUTPUT.npy --threads 2 --block 8

The networks are written out in plain PyTorch, with the parameter names of learndyn's, and again in JAX, because the
environments of the peers hold no learndyn (and JAX's no torch). The last line of the output is a JSON object.
"""

import argparse
import contextlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

CLASSES, POSITIONS, VOCABULARY, WIDTH, HEADS, LAYERS = 10, 64, 64, 128, 4, 4
NETS = {"mlp": (784,), "resnet20": (3, 32, 32), "vgg16": (3, 32, 32), "gpt": (POSITIONS,)}  # shape of an input
VGG = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions between poolings
EPSILON = 1e-5  # of batch and layer norm

Arrays = dict[str, np.ndarray]
Matrix = Callable[[int], Any]  # from n to the kernel of the first n inputs, (n, c, n, c) or (n c, n c)


# The networks in PyTorch ----------------------------------------------------------------------------------------------


def network(net: str) -> Any:
    """A network as a plain module, in evaluation mode."""
    import torch
    from torch import nn

    def pooled() -> Any:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.norm1, self.relu1 = nn.BatchNorm2d(outputs), nn.ReLU()
            self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
            self.shortcut: nn.Module = nn.Identity()
            if stride > 1:
                conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))
            self.relu2 = nn.ReLU()

        def forward(self, x):  # noqa: ANN001, ANN202
            residual = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
            return self.relu2(self.shortcut(x) + residual)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.norm2, self.up, self.down = (
                nn.LayerNorm(WIDTH),
                nn.Linear(WIDTH, 4 * WIDTH),
                nn.Linear(4 * WIDTH, WIDTH),
            )
            self.gelu = nn.GELU()
            self.register_buffer("mask", torch.full((POSITIONS, POSITIONS), -math.inf).triu(1), persistent=False)

        def forward(self, x):  # noqa: ANN001, ANN202
            n, length, width = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(n, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
            weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // HEADS) + self.mask, -1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width))
            return x + self.down(self.gelu(self.up(self.norm2(x))))

    class Gpt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(VOCABULARY, WIDTH)
            self.position = nn.Parameter(0.02 * torch.randn(POSITIONS, WIDTH))
            self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, tokens):  # noqa: ANN001, ANN202
            return self.head(self.norm(self.layers(self.embed(tokens) + self.position)[:, -1]))

    layers: dict[str, nn.Module] = {}
    if net == "mlp":
        hidden = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(512, CLASSES)).eval()
    if net == "gpt":
        return Gpt().eval()
    if net == "resnet20":
        layers |= {"conv": nn.Conv2d(3, 16, 3, padding=1, bias=False), "norm": nn.BatchNorm2d(16), "relu": nn.ReLU()}
        blocks = [Block(16, 16, 1) for _ in range(3)]
        for width in (32, 64):
            blocks += [Block(width // 2, width, 2), Block(width, width, 1), Block(width, width, 1)]
        layers["blocks"] = nn.Sequential(*blocks)
    else:
        features: list[nn.Module] = []
        channels = 3
        for width, repeats in VGG:
            features += [nn.MaxPool2d(2)] if features else []
            for _ in range(repeats):
                features += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
        layers["features"] = nn.Sequential(*features)
    layers |= {"mean": pooled(), "classifier": nn.Linear(64 if net == "resnet20" else 512, CLASSES)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.eval()


def load(net: str, arrays: Arrays) -> tuple[Any, Any]:
    """The network with its weights, and all inputs."""
    import torch

    model = network(net)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items() if name != "inputs"})
    return model, torch.from_numpy(arrays["inputs"])


# The networks in JAX --------------------------------------------------------------------------------------------------


def jax_network(net: str, buffers: Arrays) -> Callable[[dict, Any], Any]:
    """The same functions of (parameters by PyTorch's names, inputs), with images as (height, width, channels)."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    def linear(p: dict, x: Any, name: str) -> Any:
        return x @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def conv(p: dict, x: Any, name: str, stride: int = 1) -> Any:
        weight = p[f"{name}.weight"]
        pad = weight.shape[0] // 2
        layout = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, weight, (stride, stride), [(pad, pad)] * 2, dimension_numbers=layout)
        return y + p[f"{name}.bias"] if f"{name}.bias" in p else y

    def batch_norm(p: dict, x: Any, name: str) -> Any:
        scale = 1 / np.sqrt(buffers[f"{name}.running_var"] + EPSILON)
        return (x - buffers[f"{name}.running_mean"]) * scale * p[f"{name}.weight"] + p[f"{name}.bias"]

    def layer_norm(p: dict, x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def mlp(p: dict, x: Any) -> Any:
        return linear(p, jax.nn.relu(linear(p, jax.nn.relu(linear(p, x, "1")), "3")), "5")

    def resnet20(p: dict, x: Any) -> Any:
        x = jax.nn.relu(batch_norm(p, conv(p, x, "conv"), "norm"))
        for i in range(9):
            b, stride = f"blocks.{i}", 2 if i in (3, 6) else 1
            y = jax.nn.relu(batch_norm(p, conv(p, x, f"{b}.conv1", stride), f"{b}.norm1"))
            y = batch_norm(p, conv(p, y, f"{b}.conv2"), f"{b}.norm2")
            if stride > 1:
                x = batch_norm(p, conv(p, x, f"{b}.shortcut.0", stride), f"{b}.shortcut.1")
            x = jax.nn.relu(x + y)
        return linear(p, x.mean((1, 2)), "classifier")

    def vgg16(p: dict, x: Any) -> Any:
        at = 0
        for _, repeats in VGG:
            if at:
                x, at = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"), at + 1
            for _ in range(repeats):
                x = jax.nn.relu(batch_norm(p, conv(p, x, f"features.{at}"), f"features.{at + 1}"))
                at += 3
        return linear(p, x.mean((1, 2)), "classifier")

    def gpt(p: dict, tokens: Any) -> Any:
        x = p["embed.weight"][tokens] + p["position"]
        mask = np.triu(np.full((POSITIONS, POSITIONS), -np.inf, np.float32), 1)
        for i in range(LAYERS):
            b = f"layers.{i}"
            qkv = linear(p, layer_norm(p, x, f"{b}.norm1"), f"{b}.qkv")
            q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
            weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS) + mask)
            x = x + linear(p, (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape), f"{b}.out")
            hidden = jax.nn.gelu(linear(p, layer_norm(p, x, f"{b}.norm2"), f"{b}.up"), approximate=False)
            x = x + linear(p, hidden, f"{b}.down")
        return linear(p, layer_norm(p, x[:, -1], "norm"), "head")

    return {"mlp": mlp, "resnet20": resnet20, "vgg16": vgg16, "gpt": gpt}[net]


# The methods: (net, arrays, n, block) -> (matrix, warm); `matrix(n)` is timed, `warm` is called once before -----------


def in_blocks(pair: Callable[[Any, Any], Any], inputs: Any, n: int, block: int) -> np.ndarray:
    """The symmetric kernel from `pair(x, y)`, `(b, c, b, c)`: at once (y = None), or the lower blocks one by one."""
    if block >= n:
        return np.asarray(pair(inputs[:n], None))
    whole = np.empty((n, CLASSES, n, CLASSES), np.float32)
    for i in range(0, n, block):
        x = inputs[i : i + block]
        for j in range(0, i + 1, block):
            part = np.asarray(pair(x, x if i == j else inputs[j : j + block]))
            whole[i : i + block, :, j : j + block] = part
            whole[j : j + block, :, i : i + block] = part.transpose(2, 3, 0, 1)
    return whole


def learndyn(tuned: bool = False, double: bool = False, **options: Any) -> Any:
    def make(net: str, arrays: Arrays, n: int, block: int) -> tuple[Matrix, Callable[[], Any]]:
        from learndyn.observables.ntk.gram import kernel

        if tuned:
            from learndyn.runtime import tune

            tune()
        model, inputs = load(net, arrays)
        if double:
            model, inputs = model.double(), inputs if net == "gpt" else inputs.double()

        def matrix(n: int) -> Any:
            return kernel(model, inputs[:n], **options).matrix

        return matrix, lambda: matrix(min(n, 2))

    return make


def neural_tangents(implementation: str) -> Any:
    def make(net: str, arrays: Arrays, n: int, block: int) -> tuple[Matrix, Callable[[], Any]]:
        import jax
        import neural_tangents as nt

        def convert(name: str, array: np.ndarray) -> np.ndarray:
            if name == "position" or not name.endswith("weight") or name.startswith("embed"):
                return array
            return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T

        buffers = {name: array for name, array in arrays.items() if ".running_" in name}
        rest = {name: a for name, a in arrays.items() if name not in buffers and "num_batches" not in name}
        inputs = rest.pop("inputs")
        inputs = jax.numpy.asarray(inputs.transpose(0, 2, 3, 1) if inputs.ndim == 4 else inputs)
        weights = {name: jax.numpy.asarray(convert(name, array)) for name, array in rest.items()}
        f = jax_network(net, buffers)
        way = getattr(nt.NtkImplementation, implementation)
        ntk = nt.empirical_ntk_fn(lambda p, x: f(p, x), trace_axes=(), vmap_axes=0, implementation=way)
        jitted = jax.jit(lambda p, x, y: ntk(x, y, p).transpose(0, 2, 1, 3))
        compiled: list[Any] = []

        def warm() -> None:
            x = inputs[:block]
            compiled.append(jitted.lower(weights, x, None if block >= n else x).compile())

        return lambda n: in_blocks(lambda x, y: compiled[0](weights, x, y), inputs, n, block), warm

    return make


def torch_method(method: Callable[[Any, Any, int], Any], prepare: Callable[[Any], Any] = lambda model: model) -> Any:
    """From (prepared model, inputs, block) -> kernel."""

    def make(net: str, arrays: Arrays, n: int, block: int) -> tuple[Matrix, Callable[[], Any]]:
        model, inputs = load(net, arrays)
        model = prepare(model)
        return (lambda n: method(model, inputs[:n], min(block, n))), lambda: method(model, inputs[:2], 2)

    return make


def functional(model: Any) -> tuple[dict, Callable[[dict, Any], Any]]:
    """The weights, and the network as a function of them."""
    from torch.func import functional_call

    weights = {name: p.detach() for name, p in model.named_parameters()}
    return weights, lambda p, x: functional_call(model, p, (x,))


def func_jacrev(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from torch.func import jacrev, vmap

    weights, f = functional(model)
    rows = vmap(jacrev(lambda p, x: f(p, x[None])[0]), (None, 0))
    held: list[Any] = [None, None]  # a block of inputs and its rows

    def pair(x: Any, y: Any) -> Any:
        with torch.no_grad():
            if held[0] is not x:
                held[:] = x, None  # the old rows are freed first
                held[1] = rows(weights, x)
            left = held[1]
            right = left if y is None or y is x else rows(weights, y)
            flat = ((left[name].flatten(2), right[name].flatten(2)) for name in left)
            return sum(torch.einsum("icp,jdp->icjd", a, b) for a, b in flat)

    return in_blocks(pair, inputs, len(inputs), block)


def func_products(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from torch.func import jvp, vjp, vmap

    weights, f = functional(model)
    outputs, back = vjp(lambda p: f(p, inputs), weights)
    unit = torch.eye(outputs.numel()).view(-1, *outputs.shape)
    with torch.no_grad():
        return vmap(lambda v: jvp(lambda p: f(p, inputs), (weights,), back(v))[1], chunk_size=CLASSES)(unit)


def nngeometry_gram(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from nngeometry import GramMatrix

    examples = [inputs.clone(), torch.zeros(len(inputs))]
    return GramMatrix(model, examples).to_torch().permute(1, 0, 3, 2)


def nngeometry_jacobian(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from nngeometry import Jacobian

    rows = Jacobian(model, [inputs.clone(), torch.zeros(len(inputs))]).to_torch().transpose(0, 1).flatten(0, 1)
    return rows @ rows.T


def backpack_ready(model: Any) -> Any:
    import torch
    from backpack import extend

    plain = isinstance(model, torch.nn.Sequential) and not hasattr(model, "blocks")
    return extend(model, use_converter=not plain).eval()


def backpack(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from backpack import backpack as extended
    from backpack.extensions import BatchGrad

    parts: dict[str, list[Any]] = {name: [] for name, _ in model.named_parameters()}
    for k in range(CLASSES):
        with extended(BatchGrad()):
            model(inputs)[:, k].sum().backward()  # what the extension keeps of a forward pass is used up
        for name, parameter in model.named_parameters():
            parts[name].append(parameter.grad_batch.flatten(1))
            del parameter.grad_batch
    with torch.no_grad():
        rows = (torch.stack(part, 1).flatten(0, 1) for part in parts.values())
        return sum(part @ part.T for part in rows)


def curvlinops(model: Any, inputs: Any, block: int) -> Any:
    import torch
    from curvlinops import JacobianLinearOperator

    data = [(inputs, torch.zeros(len(inputs), CLASSES))]
    jacobian = JacobianLinearOperator(model, list(model.parameters()), data, check_deterministic=False)
    unit = torch.eye(len(inputs) * CLASSES)
    return torch.cat([jacobian @ (jacobian.adjoint() @ columns) for columns in unit.split(CLASSES, 1)], 1)


def asdl(function: str) -> Any:
    def method(model: Any, inputs: Any, block: int) -> Any:
        import asdl.kernel

        return getattr(asdl.kernel, function)(model, inputs).detach().permute(0, 2, 1, 3)

    return method


class Method(NamedTuple):
    """A way to the kernel: whose it is, where it runs, how, and whether it holds the Jacobian of a block."""

    peer: str
    environment: str
    make: Any
    blocks: bool = False


FULL = {"reduction": "full", "certificate": False}
METHODS = {
    "learndyn": Method("learndyn", "here", learndyn(**FULL)),
    "learndyn tuned": Method("learndyn", "here", learndyn(True, **FULL)),
    "learndyn certified": Method("learndyn", "here", learndyn(reduction="full")),
    "learndyn float64": Method("learndyn", "here", learndyn(double=True, **FULL)),
    "learndyn trace": Method("learndyn", "here", learndyn(reduction="trace", certificate=False)),
    "learndyn sum": Method("learndyn", "here", learndyn(reduction="sum", certificate=False)),
    "torch.func vmap(jacrev)": Method("torch.func", "here", torch_method(func_jacrev), True),
    "torch.func jvp of vjp": Method("torch.func", "here", torch_method(func_products)),
    "nt jacobian contraction": Method("neural-tangents", "jax", neural_tangents("JACOBIAN_CONTRACTION"), True),
    "nt vector products": Method("neural-tangents", "jax", neural_tangents("NTK_VECTOR_PRODUCTS"), True),
    "nt structured derivatives": Method("neural-tangents", "jax", neural_tangents("STRUCTURED_DERIVATIVES"), True),
    "nngeometry GramMatrix": Method("nngeometry", "torch", torch_method(nngeometry_gram)),
    "nngeometry Jacobian": Method("nngeometry", "torch", torch_method(nngeometry_jacobian)),
    "BackPACK BatchGrad": Method("backpack", "torch", torch_method(backpack, backpack_ready)),
    "curvlinops J @ J.T": Method("curvlinops", "torch", torch_method(curvlinops)),
    "asdl direct": Method("asdl", "torch", torch_method(asdl("empirical_direct_ntk"))),
    "asdl implicit": Method("asdl", "torch", torch_method(asdl("empirical_implicit_ntk"))),
}


# The measurement ------------------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory held now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(matrix: Matrix, warm: Callable[[], Any], n: int) -> tuple[dict[str, Any], np.ndarray]:
    """Seconds of the best of several repetitions, its CPU seconds, and by how much the peak of memory exceeds now."""
    began = time.perf_counter()
    warm()
    setup = time.perf_counter() - began
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak so far is forgotten
    before = resident()
    spent: list[tuple[float, float]] = []
    while not spent or (sum(t for t, _ in spent) < 20 and (len(spent) < 3 or sum(t for t, _ in spent) < 1)):
        wall, cpu = time.perf_counter(), time.process_time()
        found = np.asarray(matrix(n))
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as file:
        peak = int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024
    seconds, cpu = min(spent)
    found = found.reshape(math.isqrt(found.size), -1)
    result = {"seconds": seconds, "cpu": cpu, "peak": peak - before, "setup": setup, "repeats": len(spent)}
    return result, found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("net", choices=NETS)
    arguments.add_argument("method", choices=METHODS)
    arguments.add_argument("n", type=int)
    arguments.add_argument("source", help="npz file with the weights by name, and inputs")
    arguments.add_argument("target", help="npy file for the kernel")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--block", type=int, default=0, help="samples at a time, where a method has the choice")
    chosen = arguments.parse_args()
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.threads])  # XLA knows no other way
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(chosen.threads)
    try:
        with np.load(chosen.source) as file:
            arrays = dict(file)
        made = METHODS[chosen.method].make(chosen.net, arrays, chosen.n, chosen.block or chosen.n)
        result, matrix = measure(*made, chosen.n)
        np.save(chosen.target, matrix)
    except MemoryError:
        result = {"over": "out of memory"}
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), "")
        result = {"error": f"{type(error).__name__}: {line}"}
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads of some peers outlive the end


if __name__ == "__main__":
    main()
