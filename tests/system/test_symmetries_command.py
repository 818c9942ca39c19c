"""`learndyn symmetries`: the table, JSON, inputs of all kinds, one sentence for what is wrong."""

import json
from pathlib import Path

import pytest

from learndyn.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "tiny_transformer.py"


def test_the_table(capsys):
    assert main(["symmetries", "mlp(width=8, depth=2, activation='gelu')", "--input-shape", "5", "--classes", "3"]) == 0
    out = capsys.readouterr().out
    assert "translation" in out and "no law for 8 outputs" in out and "gelu in" in out and "Replace gelu" in out
    assert "zero eigenvalues of the Hessian at a critical point: at least 9" in out
    assert "listed 0" in out  # all are translations, which are counted in another way


def test_json_of_a_strangers_transformer(capsys):
    words = ["symmetries", f"{EXAMPLE}:transformer(dropout=0.0)", "--task", f"{EXAMPLE}:text(sums=200)", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["refuted"] and found["zero_modes"] > 100 and found["seconds"] > 0
    kinds = {law["kind"] for law in found["laws"]}
    assert kinds == {"rescale", "matrix", "translation", "dead"}
    assert {law["label"] for law in found["laws"] if law["kind"] == "matrix"} == {"GL(8) x 4"}
    assert all(0 <= law["broken_by"] < 1e-4 for law in found["laws"])


def test_inputs_from_options(capsys):
    words = ["symmetries", f"{EXAMPLE}:lstm(width=4)", "--input-shape", "6", "--vocabulary", "5", "--no-softmax"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "embed.weight against" in out and "rescale" in out


def test_which_laws_an_optimizer_keeps(capsys):
    words = ["symmetries", "mlp(width=4, depth=1)", "--input-shape", "3", "--classes", "3"]
    words += ["--optimizer", "sgd(lr=0.1)", "adam(lr=0.01)"]
    assert main(words) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if " at " in line and "zero" not in line]
    assert len(rows) == 3 and all(row[-2] == "kept" and float(row[-1]) > 0.01 for row in rows)
    assert main([*words, "--json"]) == 0
    sgd, adam = json.loads(capsys.readouterr().out)["kept"]
    assert sgd["optimizer"] == "sgd(lr=0.1)" and sgd["kept"] == [True] * 3 and max(sgd["largest"]) < 1e-4
    assert adam["kept"] == [False] * 3 and min(adam["largest"]) > 0.01
    assert main([*words[:-2], "muon(lr=0.01)"]) == 2
    assert "--optimizer muon(lr=0.01) raised ValueError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, expected",
    [
        (["mlp"], "Say what goes into the network: --input-shape 3 32 32, or --task digits."),
        (["mlpp", "--input-shape", "5"], "There is no model 'mlpp'"),
        (["mlp", "--input-shape", "0"], "--samples and --input-shape take positive numbers."),
        (
            ["torch.nn:Linear(in_features=3, out_features=2)", "--input-shape", "4"],
            "Linear does not take inputs of shape",
        ),
        (["torch.nn:ReLU", "--input-shape", "4"], "ReLU has no parameter that is trained"),
        (["mlp(batch_norm=True)", "--input-shape", "4", "--samples", "1"], "more than 1 value"),
        (["mlp", "--input-shape", "4", "--sofmax", "1"], "see learndyn symmetries --help."),
        ([], "see learndyn symmetries --help."),
    ],
)
def test_one_sentence(words, expected, capsys):
    assert main(["symmetries", *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("learndyn: ") and said.err.count("\n") == 1 and not said.out
    assert expected.lower() in said.err.lower(), said.err
