"""What the commands share: a parser whose errors are one sentence, and networks by name."""

import argparse
import typing
from typing import Any

from learndyn.errors import InputError


class Parser(argparse.ArgumentParser):
    """Bad input is one sentence."""

    def error(self, message: str) -> typing.NoReturn:  # noqa: D102
        raise InputError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def network(given: argparse.Namespace) -> tuple[Any, Any]:
    """The network, and inputs for it."""
    from types import SimpleNamespace

    import torch

    from learndyn.names import build_model, build_task

    if given.task is not None:
        task: Any = build_task(given.task, 0, given.data_dir)
        inputs = task.evaluation("train").inputs[: given.samples]
    else:
        task = SimpleNamespace(input_shape=tuple(given.input_shape), classes=given.classes)
        shape, draw = (given.samples, *given.input_shape), torch.Generator().manual_seed(0)
        if given.vocabulary is None:
            inputs = torch.randn(shape, generator=draw)
        else:
            inputs = torch.randint(max(given.vocabulary, 1), shape, generator=draw)
    try:
        return build_model(given.factory, task, 0), inputs
    except InputError as error:
        raise InputError(str(error).removeprefix("--model ")) from error
