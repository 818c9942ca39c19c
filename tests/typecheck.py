"""The type checker of the tests: beartype, with an int where a float is expected, as PEP 484 has it.

A function inside a function is made anew at every call of the outer one. jaxtyping hands over an empty function with
its signature each time; a check compiled for the same signature before does the same and saves milliseconds a call.

Of every function the first calls in a test are checked: a solver's right-hand side is called ten thousand times, and
checks would take half of the time of the whole suite.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

FIRST = 200  # calls of a function that are checked, in every test

compiled = beartype(conf=BeartypeConf(is_pep484_tower=True))
_known: dict[tuple, tuple[dict, Callable]] = {}
_calls: Counter[tuple[str, str]] = Counter()
_trusted: list[Any] = []


def checked(fn):
    return _counted(_checks(fn))


def forget() -> None:
    """Check all functions again."""
    _calls.clear()
    while _trusted:
        _trusted.pop().__no_type_check__ = False


def _checks(fn):
    code = getattr(fn, "__code__", None)
    empty = code is not None and code.co_filename == "<string>" and fn.__closure__ is None
    if not empty or "<locals>" not in fn.__qualname__ or fn.__defaults__ or fn.__kwdefaults__:
        return compiled(fn)
    key = fn.__module__, fn.__qualname__, code.co_varnames, code.co_argcount, code.co_kwonlyargcount, code.co_flags
    if key not in _known or _known[key][0] != fn.__annotations__:
        _known[key] = fn.__annotations__, compiled(fn)
    return _known[key][1]


def _counted(check):
    """The same check; jaxtyping is told to leave the function alone when it has passed often enough."""
    if not hasattr(check, "__qualname__"):
        return check
    name = check.__module__, check.__qualname__

    def counted(*args, **kwargs):
        _calls[name] += 1
        if _calls[name] > 2 * FIRST:  # arguments, then the answer
            # jaxtyping asks the function it has made, two frames above, whether it is to be checked
            holder = sys._getframe(2).f_locals.get("wrapped_fn_holder")
            if holder and (made := holder[0]()) is not None:
                made.__no_type_check__ = True
                _trusted.append(made)
        return check(*args, **kwargs)

    return counted
