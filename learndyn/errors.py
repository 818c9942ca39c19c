"""The one exception that means "the input is wrong": its message is the sentence a person reads."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input: names the value, what was expected, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that does not exist, with the nearest one that does.

    >>> print(unknown("model", "resnet2O", ["mlp", "resnet20"]))
    There is no model 'resnet2O'; did you mean 'resnet20'? Known: mlp, resnet20.
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"There is no {kind} {name!r}{hint} Known: {', '.join(known)}.")
