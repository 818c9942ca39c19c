"""The type checker of the tests: beartype, with an int where a float is expected, as PEP 484 has it.

A function inside a function is made anew at every call of the outer one. jaxtyping hands over an empty function with
its signature each time; a check compiled for the same signature before does the same and saves milliseconds a call.
"""

from collections.abc import Callable

from beartype import BeartypeConf, beartype

compiled = beartype(conf=BeartypeConf(is_pep484_tower=True))
_known: dict[tuple, tuple[dict, Callable]] = {}


def checked(fn):
    code = getattr(fn, "__code__", None)
    empty = code is not None and code.co_filename == "<string>" and fn.__closure__ is None
    if not empty or "<locals>" not in fn.__qualname__ or fn.__defaults__ or fn.__kwdefaults__:
        return compiled(fn)
    key = fn.__module__, fn.__qualname__, code.co_varnames, code.co_argcount, code.co_kwonlyargcount, code.co_flags
    if key not in _known or _known[key][0] != fn.__annotations__:
        _known[key] = fn.__annotations__, compiled(fn)
    return _known[key][1]
