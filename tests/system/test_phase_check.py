"""`learndyn phase-check`: the example, the forms of a factory, weights from a file, one sentence for what is wrong."""

import json
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learndyn.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "phase_check.py"

STRANGERS = """
    import functools, torch
    from torch import nn
    from torch.nn import functional as F
    from learndyn.dynamics import start, train
    from learndyn.optimizers.schedules import cosine
    from learndyn.tasks import Batch

    X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    class Task:
        def batch(self, step):
            return Batch(X[step % 4 :: 4], torch.arange(16) % 3)

        def loss(self, model, batch):
            return F.cross_entropy(model(batch.inputs), batch.targets)

        def evaluation(self, split):
            return self.batch(0)

    class Missing(Task):
        def batch(self, step):
            raise OSError("no train.bin")

    def model(width=4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3))

    sgd = functools.partial(torch.optim.SGD, lr=0.1)

    def three(lr=0.1, width=4):
        return Task(), model(width), functools.partial(torch.optim.SGD, lr=lr)

    def four():
        network = model()
        return Task(), network, torch.optim.SGD(network.parameters(), lr=0.1), cosine(60)

    def state():
        return start(*four())

    def finished():
        return train(state(), 60).state

    def lost():
        task, network, optimizer = three()
        nn.init.constant_(network[0].weight, float("nan"))
        return task, network, optimizer

    def exploding():
        network = model()
        return Task(), nn.Sequential(network[0], network[2]), functools.partial(torch.optim.SGD, lr=1e3)

    def number(): return 5
    def two(): return Task(), model()
    def swapped(): return model(), Task(), sgd
    def of_others(): return Task(), model(), sgd(model().parameters())
    def no_optimizer(): return Task(), model(), lambda parameters: 1 / 0
    def missing(): return Missing(), model(), sgd
    def wrong_shape(): return Task(), nn.Linear(5, 3), sgd
    def raising(): raise KeyError("weights")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a stranger's file and some weights."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(STRANGERS))
    (tmp_path / "text.pt").write_text("not weights")
    right = {
        "0.weight": torch.ones(4, 6),
        "0.bias": torch.ones(4),
        "2.weight": torch.ones(3, 4),
        "2.bias": torch.ones(3),
    }
    save_file(right, tmp_path / "right.safetensors")
    torch.save(right, tmp_path / "right.pt")
    torch.save({**right, "0.weight": torch.ones(4, 7)}, tmp_path / "shape.pt")
    torch.save({name: t for name, t in right.items() if name != "2.bias"}, tmp_path / "lacking.pt")
    torch.save({**right, "more": torch.ones(1)}, tmp_path / "more.pt")
    torch.save({**right, "2.bias": torch.full((3,), torch.nan)}, tmp_path / "nan.pt")
    return tmp_path


def said(capsys, *words):
    assert main(["phase-check", *words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def found(capsys, *words):
    def odd(name):
        raise AssertionError(f"{name} is not strict JSON")

    return json.loads(said(capsys, *words, "--window", "8", "--json"), parse_constant=odd)


def test_the_example(capsys):
    told = said(capsys, f"{EXAMPLE}:run(trained=20)", "--window", "8", "--probes", "1")
    for word in (
        "regime",
        "8 steps from step 20",
        "by tangent vectors",
        "/ step",
        "by step 600",
        "kernel turns",
        "merging",
        "time",
    ):
        assert word in told, told
    assert sum(told.count(regime + ": ") for regime in ("chaotic", "marginal", "stable")) == 1


def test_json_and_options(capsys, place):
    first = found(capsys, "mine.py:state")
    assert first["end"] == 60 and first["step"] == 0 and first["window"] == 8 and first["seconds"] > 0
    assert first["way"] == "tangent" and first["verdict"].startswith(first["regime"]) and not first["notes"]
    assert first["kernel_velocity"] > 0 and first["amplification"] == first["growth"]
    moved = found(capsys, "mine.py:state", "--step", "10", "--end", "40", "--probes", "3")
    assert moved["step"] == 10 and moved["end"] == 40 and moved["exponent"] != first["exponent"]


@pytest.mark.parametrize("factory, end", [("mine:three", None), ("mine.py:three(lr=0.1)", None), ("mine.py:four", 60)])
def test_forms_of_a_factory(capsys, place, factory, end):
    first, told = found(capsys, "mine.py:state"), found(capsys, factory)
    assert told["end"] == end and (told["amplification"] is None) == (end is None)
    # the cosine falls by 1 % within the window
    assert told["exponent_per_time"] == pytest.approx(first["exponent_per_time"], rel=0.2)


def test_weights_from_a_file(capsys, place):
    told = [found(capsys, "mine.py:four", "--weights", f"right.{kind}")["exponent"] for kind in ("pt", "safetensors")]
    assert told[0] == told[1] != found(capsys, "mine.py:four")["exponent"]


WRONG = {
    "": "factory phase-check --help",
    "state": "'state' file.py:factory",
    "mine.py:state(5)": "keyword",
    "nowhere.py:state": "nowhere.py",
    "nowhere:state": "'nowhere'",
    "mine.py:stat": "'stat' 'state' mine.py",
    "mine.py:three(lrr=1)": "lrr lr",
    "mine.py:raising": "mine.py:raising KeyError weights",
    "mine.py:number": "int State (task, model, optimizer)",
    "mine.py:two": "tuple Task, Sequential State",
    "mine.py:swapped": "tuple Sequential, Task, partial",
    "mine.py:of_others": "none of the model's parameters",
    "mine.py:no_optimizer": "ZeroDivisionError",
    "mine.py:missing": "OSError train.bin",
    "mine.py:wrong_shape": "mine.py RuntimeError",
    "mine.py:lost": "'0.weight' not finite",
    "mine.py:finished": "learning rate is 0",
    "mine.py:exploding": "diverges at step within the window of 40 steps",
    "mine.py:state --window 3": "window=3 4",
    "mine.py:state --window many": "--window 'many'",
    "mine.py:state --probes 0": "probes=0 1",
    "mine.py:state --end 0": "end=0 0",
    "mine.py:state --step 60 --end 60": "end=60 60",
    "mine.py:state --step -1": "step=-1",
    "mine.py:state --stepz 3": "--stepz",
    "mine.py:state --weights nowhere.pt": "nowhere.pt",
    "mine.py:state --weights text.pt": "text.pt",
    "mine.py:state --weights shape.pt": "shape.pt '0.weight' (4, 7) (4, 6)",
    "mine.py:state --weights lacking.pt": "lacking.pt '2.bias' only one of the two",
    "mine.py:state --weights more.pt": "more.pt 'more' not in the model",
    "mine.py:state --weights nan.pt": "'2.bias' not finite",
}


@pytest.mark.parametrize("command", WRONG)
def test_one_sentence(capsys, place, command):
    assert main(["phase-check", *command.split()]) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.startswith("learndyn: ") and told.err.count("\n") == 1
    assert told.err.endswith(".\n") and "--run" not in told.err, told.err
    for word in WRONG[command].split():
        assert word in told.err, told.err


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["phase-check", "mine.py:state", "--help"])
    assert ended.value.code == 0 and "--weights" in capsys.readouterr().out
