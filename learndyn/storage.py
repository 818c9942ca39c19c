"""Files that are either whole or not there: written under a temporary name, flushed to disk, renamed.

Trees of tensors, numbers and strings become one safetensors file whose header carries a digest of everything in it, so
that a truncated or altered file is refused by name. Nothing is ever unpickled.
"""

import contextlib
import hashlib
import json
import math
import os
import pickle
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from learndyn.errors import InputError

FORMAT = "learndyn-1"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under a temporary name, force it to disk, and give it its name.

    Raises:
        InputError: If the folder cannot be written or the disk is full; a file that stood at `path` is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"Cannot write {path}: {reason}. Make room or choose another folder, then run the same command again."
        ) from error
    finally:
        if temporary.exists():
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write strict JSON atomically; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")


def finite(content: Any) -> Any:
    """The same nested lists and dicts with None in the place of nan and infinities, which strict JSON does not know."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); delete it and run again.") from error


def _pack(tree: Any, tensors: dict[str, Tensor], name: str) -> Any:
    if isinstance(tree, Tensor):
        while name in tensors:  # the keys "a/b" and "a", "b" give the same path
            name += "'"
        tensors[name] = tree.detach().cpu().contiguous().clone()  # a file of its own may not share memory
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _pack(value, tensors, f"{name}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [_pack(value, tensors, f"{name}/{i}") for i, value in enumerate(tree)]
        return {"tuple" if isinstance(tree, tuple) else "list": items}
    if tree is None or isinstance(tree, bool | int | str):
        return {"value": tree}
    if isinstance(tree, float):
        return {"float": tree.hex()}
    raise InputError(
        f"{name} is a {type(tree).__name__}, which cannot be stored; tensors, numbers, strings, lists and dicts can."
    )


def _unpack(node: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unpack(value, tensors) for key, value in content}
    if kind in ("list", "tuple"):
        items = [_unpack(value, tensors) for value in content]
        return tuple(items) if kind == "tuple" else items
    return float.fromhex(content) if kind == "float" else content


def _digest(structure: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.blake2b(structure.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return total.hexdigest()


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts and lists of tensors, numbers and strings to one safetensors file, atomically."""
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_pack(tree, tensors, ""))
    header = {"format": FORMAT, "structure": structure, "digest": _digest(structure, tensors)}
    write_atomically(path, lambda temporary: safetensors.torch.save_file(tensors, temporary, header))


def load_tree(path: Path, expected: Collection[str] = ()) -> Any:
    """Read what `save_tree` wrote.

    Args:
        path: The file.
        expected: Entries that it must have.

    Raises:
        InputError: If the file is missing, truncated or altered, or of another kind.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise InputError(
            f"State file {path} is missing or damaged ({error}); delete it to compute it again."
        ) from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path} was not written by learndyn (format {header.get('format')!r}); expected {FORMAT!r}.")
    structure = header.get("structure", "")
    if _digest(structure, tensors) != header.get("digest"):
        raise InputError(f"State file {path} was altered: its digest does not match; delete it to compute it again.")
    tree = _unpack(json.loads(structure), tensors)
    if lacking := [name for name in expected if not isinstance(tree, dict) or name not in tree]:
        raise InputError(
            f"State file {path} is of another kind, without {lacking[0]!r}; delete it to compute it again."
        )
    return tree


@dataclass(frozen=True)
class ByStep:
    """A folder with one file a step, `000500.safetensors` and so on.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    @property
    def steps(self) -> list[int]:
        """Steps whose files are there, increasing."""
        names = (re.fullmatch(r"(\d+)\.safetensors", path.name) for path in self.folder.glob("*.safetensors"))
        return sorted(int(match[1]) for match in names if match)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"{step:06d}.safetensors"

    def __len__(self) -> int:
        return len(self.steps)


WRAPPED = ("state_dict", "model_state_dict", "model", "net", "weights")  # where training scripts put their weights
PREFIXES = ("module.", "_orig_mod.")  # of networks that were trained in parallel or compiled


def read_weights(path: Path) -> dict[str, Tensor]:
    """A `state_dict` that somebody has saved: safetensors, torch format, or a state of ours. No code in it is run.

    A dictionary around it is looked into ("state_dict", "model", ...), and the prefixes of `DataParallel` and
    `torch.compile` are removed.

    Raises:
        InputError: If the file is missing or damaged, holds code instead of tensors, or no weights.
    """
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                ours = (file.metadata() or {}).get("format") == FORMAT
            content: Any = load_tree(path) if ours else safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors, numbers and strings, and nothing in it is run; save the state_dict "
            "alone, by torch.save(model.state_dict(), ...)."
        ) from error
    except InputError:
        raise
    except Exception as error:  # torch.load raises whatever it trips over in a file that is none of its own
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"The weights in {path} cannot be read: {reason or type(error).__name__}.") from error
    content = content if isinstance(content, dict) else {}
    for _ in WRAPPED:  # one may lie in another
        content = next((content[name] for name in WRAPPED if isinstance(content.get(name), dict)), content)
    weights = {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if not weights:
        raise InputError(f"{path} holds no weights by name; save model.state_dict().")
    prefix = wrapping(weights)
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def wrapping(names: Collection[str]) -> str:
    """What `DataParallel` and `torch.compile`, one around the other, have put before all names.

    >>> wrapping(["_orig_mod.module.0.weight", "_orig_mod.module.0.bias"])
    '_orig_mod.module.'
    """
    found = ""
    while more := next((p for p in PREFIXES if names and all(name.startswith(found + p) for name in names)), ""):
        found += more
    return found
