"""Reading a pickle that may contain NumPy arrays and plain containers, and nothing else.

A pickle is a program: it can name any importable function and call it. The Python form of CIFAR-10 is one, and may
come from anywhere, so every name it asks for is looked up in a list of five instead of being imported.
"""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from learndyn.errors import InputError
from learndyn.tasks.images import reason

# NumPy's own function for an empty array to be filled in, without naming the module that keeps it: 2.0 renamed that.
_reconstruct: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment, index]


def _known(module: str, name: str) -> Callable[..., Any] | None:
    def frombuffer(buffer: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
        return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)

    match module.replace("numpy._core.", "numpy.core."), name:
        case "numpy.core.multiarray", "_reconstruct":
            return _reconstruct
        case "numpy", "ndarray":
            return np.ndarray
        case "numpy", "dtype":
            return np.dtype
        case "numpy.core.numeric", "_frombuffer":  # protocol 5; made anew each time, so that no file can tamper with it
            return frombuffer
        # Protocols 0 to 2 write bytes as encode(text, "latin1"); bytes(text, "latin1") does the same and nothing else.
        case "_codecs", "encode":
            return bytes
    return None


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _known(module, name)
        if known is None:
            raise InputError(
                f"it asks for {module}.{name}, and only NumPy arrays, lists, dicts, text and numbers are admitted"
            )
        return known


def read_arrays(path: Path) -> Any:
    """The object in a pickle file, strings of Python 2 as bytes; no code of the file is run.

    Raises:
        InputError: If the file asks for anything but NumPy arrays and plain containers (the name is in the message),
            or is damaged.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # The files of 2009 write dtype flags as numbers, which NumPy 2.4 deprecates.
            warnings.simplefilter("ignore")
            return _ArraysOnly(file, encoding="bytes").load()
    except InputError as error:
        raise InputError(f"{path} is refused: {error}. Use the binary form of the data instead.") from None
    except Exception as error:  # a damaged pickle can raise nearly anything, as the documentation of pickle says
        raise InputError(f"{path} cannot be read as a pickle ({reason(error)}); fetch it again.") from error
