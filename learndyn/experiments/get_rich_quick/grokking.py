"""How many steps until a transformer groks additions, against what its embeddings are divided by (Fig. 6d)."""

import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from learndyn.dynamics import State, start, train
from learndyn.dynamics.trajectory import pack, unpack
from learndyn.errors import InputError
from learndyn.experiments.get_rich_quick.settings import Settings
from learndyn.models.grokking_transformer import Decoder
from learndyn.names import build_model, build_task
from learndyn.observables import evaluate
from learndyn.record import Progress
from learndyn.storage import load_tree, save_tree

LEVEL, EVERY, WARM = 0.99, 10, 10
SAVED = 10.0  # seconds between two files


class LastPosition(nn.Module):
    """The same weights and the same logits of the last position, without what the others would say: far less work.

    In a decoder of one layer the other positions are keys and values of the last one, and nothing else.
    """

    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        net, attention = self.decoder, self.decoder.attention
        x = net.tokens(x) + net.positions.weight[: x.shape[-1]]
        size = x.shape[-1] // attention.heads
        q, k, v = (
            layer(y).unflatten(-1, (attention.heads, size)).transpose(-3, -2)
            for layer, y in ((attention.query, x[..., -1:, :]), (attention.key, x), (attention.value, x))
        )  # (..., heads, 1 or length, size)
        mixed = (q @ k.transpose(-1, -2) / size**0.5).softmax(-1) @ v
        x = x[..., -1, :] + attention.out(mixed.transpose(-3, -2).flatten(-2))[..., 0, :]
        x = net.norm1(x)
        x = net.norm2(x + net.down(net.relu(net.up(x))))
        return net.tau * net.head(x)


def budget(settings: Settings, alpha: float) -> int:
    """Updates after which a run of this alpha is given up."""
    return settings.patience if alpha <= 1 else settings.grok_steps


def first_state(settings: Settings, alpha: float, seed: int) -> State:
    """A run before its first step: AdamW with weight decay 1, ten steps of warm-up."""
    s = settings
    batch = f", batch_size={s.grok_batch}" if s.grok_batch else ""
    text = f"modular(operation={s.operation!r}, modulus={s.modulus}, fraction={s.fraction}, data_seed={seed}{batch})"
    task = build_task(text, seed)
    decoder = build_model(f"grokking_transformer(width={s.grok_width}, heads=4, alpha={alpha!r})", task, seed)
    assert isinstance(decoder, Decoder)
    adamw = partial(torch.optim.AdamW, lr=s.grok_rate, betas=(0.9, 0.98), weight_decay=1.0)
    return start(task, LastPosition(decoder), adamw, _warm)


def _warm(step: int) -> float:
    return min(1.0, 0.1 + 0.9 * step / WARM)


def measure_grokking(settings: Settings, number: int, seed: int, folder: Path, progress: Progress) -> xr.Dataset:
    """One run, ended when its validation accuracy has come to 99 %, or given up.

    Returns:
        Over grok_step: `train_accuracy` and `validation_accuracy`, nan after the end; `grok_end`, the last step looked
        at, and `grokked`, the first with 99 %, nan if there was none.
    """
    alpha = settings.grok_alphas[number]
    last = budget(settings, alpha)
    state, rows = first_state(settings, alpha, seed), []
    kept, saved = folder / "states" / f"grokking-{number}-{seed}.safetensors", time.monotonic()
    if kept.exists():
        tree = load_tree(kept, ("state", "rows"))
        state, rows = unpack(tree["state"], state, str(kept)), tree["rows"]
    while state.step < last and not (rows and rows[-1][1] >= LEVEL):
        number_of = min(EVERY, last - state.step)
        run = train(state, number_of)
        if run.diverged is not None:
            raise InputError(f"Grokking at alpha={alpha:g} diverged at step {run.diverged}; lower grok_rate.")
        state = run.state
        progress("grokking", number_of * 10)
        rows.append([1 - float(evaluate(state.model, state.task, split).error) for split in ("train", "test")])
        if time.monotonic() - saved > SAVED:
            save_tree(kept, {"state": pack(state), "rows": rows})
            saved = time.monotonic()
    kept.unlink(missing_ok=True)
    steps = shared_steps(settings)
    seen = np.full((2, len(steps)), np.nan)
    for i, row in enumerate(rows):
        seen[:, i] = row
    data = {
        "train_accuracy": ("grok_step", seen[0]),
        "validation_accuracy": ("grok_step", seen[1]),
        "grok_end": float(state.step),
        "grokked": float(state.step) if rows[-1][1] >= LEVEL else np.nan,
    }
    return xr.Dataset(data, {"grok_step": steps})


def shared_steps(settings: Settings) -> np.ndarray:
    """Steps at which all runs of these settings are looked at."""
    return np.arange(EVERY, max(settings.grok_steps, settings.patience) + EVERY, EVERY)
