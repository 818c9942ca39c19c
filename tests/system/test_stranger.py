"""Networks and a task that the package does not know, through the command line: a transformer and an LSTM, AdamW."""

from pathlib import Path

import numpy as np
import pytest
from no_pictures import no_pictures  # noqa: F401  for every test here

from learndyn.__main__ import main
from learndyn.record import read_record

FILE = Path(__file__).parents[2] / "examples" / "tiny_transformer.py"
OPTIONS = (
    "--optimizer adamw(lr=3e-3) --steps 24 --t0 0 6 12 18 --t1 12 24 --horizons 4 --seeds 1 --directions 2 --probes 4 "
    "--points 3 --jobs 1 --epsilon 1e-8 --kernels 5 --probe 4 --switches 0 12"
)  # fmt: skip


SHORT = (
    "--steps 2 --t0 0 --t1 2 --horizons --seeds 1 --directions 1 --probes 0 --points 3 --jobs 1 --kernels 0 --switches"
)


@pytest.fixture(params=["transformer(dropout=0.1)", "lstm"])
def stranger(request, tmp_path, capsys):
    words = [
        "run",
        "two-phase",
        "--model",
        f"{FILE}:{request.param}",
        "--task",
        f"{FILE}:text(sums=600)",
        "--runs",
        str(tmp_path),
    ]
    assert main([*words, *OPTIONS.split()]) == 0
    capsys.readouterr()
    (folder,) = tmp_path.glob("two-phase-*")
    return folder


def test_a_strangers_network_goes_through_the_whole_experiment(stranger):
    results = read_record(stranger).read_results()
    measured, predicted = results["measured"].to_dataset(), results["predicted"].to_dataset()
    assert float(measured.control_distance.max()) == 0.0
    assert predicted.attrs["why"] == ""
    # Twins of smooth networks, 1e-8 apart: the mean over directions scatters around the law by less than 0.7 nats.
    growth = measured.log_growth.isel(t1=-1, seed=0)
    law = predicted.log_growth.isel(t1=-1, seed=0)
    assert np.abs(growth.mean("direction") - law).max() < 0.7
    assert bool(measured.disagreement.isel(t1=-1).notnull().all())
    page = (stranger / "report.html").read_text(encoding="utf-8")
    assert "tiny_transformer.py" in page and "<img" in page


def test_changing_the_file_is_another_experiment(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    text = FILE.read_text(encoding="utf-8")
    words = [
        "run",
        "two-phase",
        "--model",
        f"{mine}:lstm(width=8)",
        "--task",
        f"{mine}:text(sums=200)",
        "--runs",
        str(tmp_path / "r"),
    ]
    for i in range(2):
        mine.write_text(text + f"\n# {i}\n", encoding="utf-8")
        assert main([*words, *SHORT.split(), "--optimizer", "sgd(lr=0.1)"]) == 0
    capsys.readouterr()
    assert len(list((tmp_path / "r").iterdir())) == 2
