"""Somebody's own networks, tasks, optimizers and schedules, named in every way that a name can be written."""

import random
from pathlib import Path

import numpy as np
from runs import assert_same, only, words

from learndyn.record import read_record

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_transformer.py"

PACKAGE = '''
import torch
from torch import nn
from neighbours import WIDTH


def network(input_shape, classes, width=WIDTH, tail=()):
    """Takes what the task offers, and options of its own."""
    layers = [nn.Linear(*input_shape, width), nn.Tanh(), nn.Linear(width, classes)]
    return nn.Sequential(*layers, *(nn.Identity() for _ in tail))


def optimizer(parameters, rate=0.1):
    return torch.optim.Adam(parameters, lr=rate)


class halved:
    def __init__(self, steps, after=0.5):
        self.when = after * steps

    def __call__(self, step):
        return 1.0 if step < self.when else 0.5
'''

FILE = """
from pathlib import Path
from torch import nn
from beside import SEED
from learndyn.tasks import teacher


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 3))


def task(seed, examples=90):
    assert SEED == 5
    return teacher(examples=examples, test_examples=30, inputs=6, classes=3, batch_size=16, data_seed=SEED, seed=seed)
"""


def test_every_way_to_write_a_name(nursery, tmp_path):
    """package.module:factory, folder/file.py:factory, the same without .py; with and without arguments; a class."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "parts.py").write_text(PACKAGE)
    (tmp_path / "neighbours.py").write_text("WIDTH = 4\n")  # found because the working directory is on the path
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.py").write_text(FILE)
    (tmp_path / "folder" / "beside.py").write_text("SEED = 5\n")  # found because it lies beside the file
    small = {"steps": 8, "t0": (0, 2), "t1": (8,), "horizons": (2,), "probes": 1}
    own = {"optimizer": "package.parts:optimizer(rate=0.01)", "schedule": "package.parts:halved(after=0.25)"}
    lives = [
        nursery.run(*words(task=task, model=model, **small, **more), cwd=tmp_path)
        for task, model, more in (
            ("folder/mine:task", "package.parts:network", own),
            ("folder/mine.py:task(examples=60)", "folder/mine.py:Network()", {}),
            (f"{tmp_path}/folder/mine.py:task", "package.parts:network(width=3, tail=(1, 2))", {}),
        )
    ]
    assert [life.status for life in lives] == [0, 0, 0], [life.err[-500:] for life in lives]
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 3
    sizes = {
        tree["predicted"].log_growth.notnull().values.all() for tree in (read_record(f).read_results() for f in folders)
    }
    assert sizes == {np.True_}  # Adam and SGD both have a tangent


def test_a_changed_file_is_another_run_and_the_same_is_found(nursery, tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("SEED = 5\n")
    command = words(task="mine.py:task", model="mine.py:Network", steps=2, t0=(0, 1), t1=(2,), horizons=(), probes=0)
    assert nursery.run(*command, cwd=tmp_path).status == 0
    first = only(tmp_path)
    before = (first / "results.nc").stat()
    assert nursery.run(*command, cwd=tmp_path).status == 0
    after = (first / "results.nc").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)  # found, not made again
    (tmp_path / "mine.py").write_text(FILE + "\n# changed\n")
    assert nursery.run(*command, cwd=tmp_path).status == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert nursery.run(*command, "--fresh", cwd=tmp_path).status == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_transformer_with_dropout_is_killed_and_goes_on(nursery, reference, tmp_path):
    """Dropout, LayerNorm, embeddings, tied weights, AdamW: the same bits, and growth as predicted through attention."""
    settings = {
        "task": f"{EXAMPLE}:text(sums=200, batch_size=16)",
        "model": f"{EXAMPLE}:transformer(width=16, blocks=1, heads=2)",
        "optimizer": "adamw(lr=3e-3)",
        "epsilon": "1e-8",
        "steps": 14,
        "t0": (0, 6, 12),
        "t1": (14,),
        "horizons": (),
        "directions": 2,
        "probes": 4,
        "engine": "auto",
    }
    draw = random.Random(1)
    for k in range(3):
        process = nursery.start(*words(**settings), cwd=tmp_path, snapshots=2)
        if process.wait(draw.uniform(0.5, 1.5) * (k + 1)) is None:
            process.signal()
            process.wait()
    life = nursery.run(*words(**settings), cwd=tmp_path, snapshots=2)
    assert life.status == 0, life.err
    assert_same(only(tmp_path), reference(**settings))
    results = read_record(only(tmp_path)).read_results()
    assert float(results["measured"].control_distance.max()) == 0.0
    growth = results["measured"].log_growth.isel(seed=0, t1=-1)
    law = results["predicted"].log_growth.isel(seed=0, t1=-1)
    measured = 0.5 * np.log(np.exp(2 * growth).mean("direction"))
    assert float(np.abs(law).max()) > 0.05  # something grew
    # Two directions of some thousand: measured with 4 directions and 4 probes the two differ by less than 0.01.
    assert float(np.abs(measured - law).max()) < 0.05
