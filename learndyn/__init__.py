"""A laboratory for the learning dynamics of neural networks."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Recorder":  # imported when asked for: torch takes seconds
        from learndyn.recorder import Recorder

        return Recorder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
