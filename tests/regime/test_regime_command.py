"""learndyn regime, as a user types it."""

import json

import pytest

from learndyn.__main__ import main


def said(capsys, *words):
    status = main(["regime", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_network_is_read(capsys):
    status, out, _ = said(capsys, "mlp(width=8,depth=2)", "--input-shape", "5", "--alpha", "3")
    assert status == 0
    assert "upstream" in out
    assert "1.weight, 1.bias against 3.weight" in out


def test_a_run_is_foretold_and_measured(capsys):
    words = ("mlp(width=16,depth=1)", "--task", "digits", "--samples", "30", "--sharpness", "1", "--seeds", "2")
    status, out, _ = said(capsys, *words, "--steps", "20")
    assert status == 0
    assert "lazy or rich was foretold in" in out
    assert "measured" in out
    status, out, _ = said(capsys, *words, "--json")
    found = json.loads(out)
    assert (status, len(found["runs"])) == (0, 2)
    assert found["runs"][0]["foretold"]["regime"] in ("lazy", "rich", "rapid rich", "delayed rich")
    assert found["runs"][0]["measured"] == {"steps": 0}


def test_a_first_layer_by_name(capsys):
    words = ("mlp(width=8,depth=1)", "--task", "digits", "--samples", "10", "--alpha", "10")
    _, out, _ = said(capsys, *words, "--first", "1.weight")
    assert "alpha has changed the function" in out
    _, out, _ = said(capsys, *words)
    assert "alpha has changed" not in out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("mlp",), "Say what goes into the network"),
        (("mlp", "--input-shape", "5", "--steps", "3"), "need something to learn"),
        (("mpl", "--task", "digits"), "There is no model 'mpl'; did you mean 'mlp'?"),
        (("mlp", "--input-shape", "5", "--alpha", "-1"), "alpha=-1 must be positive"),
        (("mlp", "--task", "digits", "--sharpness", "5"), "c=5 must lie between 0 and 2"),
        (("mlp", "--task", "digits", "--samples", "0"), "take positive numbers"),
        (("mlp", "--input-shape", "5", "--weights", "nowhere.pt"), "nowhere.pt"),
    ],
)
def test_bad_input_is_one_sentence(capsys, words, why):
    status, _, err = said(capsys, *words)
    assert (status, err.count("\n")) == (2, 1)
    assert why in err
