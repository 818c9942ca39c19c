"""A training loop that knows nothing of learndyn, recorded: what moves the charges of its symmetries?

    python examples/recorder_in_a_foreign_loop.py

The loop has what loops have: a data loader, dropout, accumulated and clipped gradients, a schedule. The only line that
is added is the `with`. Kill it while it runs, and the record is there all the same.
"""

import shutil

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from learndyn.recorder import Recorder, read
from learndyn.symmetries import find

FOLDER = "recorded"
STEPS = 600


def network() -> nn.Module:
    """Filters in front of a batch norm, ReLU units, class weights in front of a softmax: a law for each of them."""
    features = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3)
    return nn.Sequential(
        *features, nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )


def main() -> None:
    """Train, and say what happened."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    loader = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=32, shuffle=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    laws = find(model, images[:8]).laws

    shutil.rmtree(FOLDER, ignore_errors=True)
    with Recorder(model, optimizer, laws, every=20, to=FOLDER):
        batches = 0
        while batches < 2 * STEPS:
            for inputs, targets in loader:
                (F.cross_entropy(model(inputs), targets) / 2).backward()
                batches += 1
                if batches % 2 == 0:  # a step for every two batches
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    scheduler.step()
                if batches == 2 * STEPS:
                    break

    record = read(FOLDER)
    print(f"{record.sizes['step']} rows, up to step {int(record.step[-1])}; marks: {int(record.mark.max())}\n")
    print(f"{'sum of the charges of a law':<64}{'before':>9}{'after':>9}   of which by")
    print(f"{'':<82}{'decay':>9}{'momentum':>10}{'step':>9}{'gradient':>10}")
    for i, law in enumerate(record.law.values):
        mine = record.isel(charge=(record.law_of == i).values).sum("charge")
        total = mine.sum("step")
        parts = (float(total[name]) for name in ("decay", "memory", "step_norm", "current"))
        shown = "".join(f"{part:>{width}.3f}" for part, width in zip(parts, (9, 10, 9, 10)))
        print(f"{law[:62]:<64}{float(mine.q[0]):9.3f}{float(mine.q[-1]):9.3f}{shown}")


if __name__ == "__main__":
    main()
