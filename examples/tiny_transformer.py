"""A stranger's networks and task: next-character prediction of little sums, by a transformer or an LSTM.

learndyn run two-phase --model examples/tiny_transformer.py:transformer --task examples/tiny_transformer.py:text \
        --optimizer "adamw(lr=3e-3)" --steps 400 --t0 0 25 50 100 200 300 --t1 200 400 --horizons 50
"""

import random

import torch
from torch import nn
from torch.nn import functional as F

from learndyn.tasks import Batch, Supervised

ALPHABET = "0123456789+=;"
LENGTH = 24


def text(sums: int = 1500, batch_size: int = 32, seed: int = 0) -> Supervised:
    """Strings such as "12+7=19;..." cut into pieces of 24 characters; the target is the next character."""
    draw = random.Random(7)  # its own generator: the data are the same in every run
    written = ""
    for _ in range(sums):
        a, b = draw.randrange(30), draw.randrange(30)
        written += f"{a}+{b}={a + b};"
    codes = torch.tensor([ALPHABET.index(c) for c in written])
    pieces = codes[: len(codes) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    inputs, targets = pieces[:, :-1], pieces[:, 1:]
    held_out = len(pieces) // 5
    train, test = Batch(inputs[held_out:], targets[held_out:]), Batch(inputs[:held_out], targets[:held_out])
    return Supervised(train, test, batch_size=batch_size, seed=seed, classes=len(ALPHABET))


class Block(nn.Module):
    """Pre-norm attention and a two-layer perceptron."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Character embeddings, learned positions, blocks, tied output weights."""

    def __init__(self, width: int, heads: int, blocks: int, dropout: float):
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.position = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        x = self.embed(characters) + self.position[: characters.shape[1]]
        return self.norm(self.blocks(x)) @ self.embed.weight.T


class Recurrent(nn.Module):
    """An LSTM with LayerNorm before the output."""

    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, len(ALPHABET))

    def forward(self, characters: torch.Tensor) -> torch.Tensor:
        return self.out(self.norm(self.lstm(self.embed(characters))[0]))


def transformer(width: int = 32, heads: int = 4, blocks: int = 2, dropout: float = 0.1) -> nn.Module:
    """A causal transformer with dropout."""
    return Transformer(width, heads, blocks, dropout)


def lstm(width: int = 32) -> nn.Module:
    """A recurrent network."""
    return Recurrent(width)
