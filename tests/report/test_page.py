"""The page: one file, everything escaped, redrawn from results.nc alone."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest

from learndyn.__main__ import main
from learndyn.compare import from_json
from learndyn.experiments import two_phase
from learndyn.experiments.two_phase import PRESETS
from learndyn.record import plain, read_record
from learndyn.report.page import write_report
from learndyn.run import run

TINY = replace(
    PRESETS["quick"], model="mlp(width=8, depth=1)", optimizer="sgd(lr=0.1)", steps=10, t0=(0, 2, 4, 6), t1=(5, 10),
    horizons=(2,), seeds=2, directions=1, probes=1, points=3,
    kernels=5, probe=4, switches=(0, 4),
)  # fmt: skip


class References(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    made, results = run("two-phase", TINY, tmp_path_factory.mktemp("page"), jobs=1)
    write_report(made, two_phase, results)
    return made


def test_the_page_needs_nothing_else(record):
    text = (record.folder / "report.html").read_text(encoding="utf-8")
    found = References()
    found.feed(text)
    assert found.sources and all(source.startswith("data:image/png;base64,") for source in found.sources)
    assert not found.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import", text)


def test_the_page_says_everything(record):
    text = (record.folder / "report.html").read_text(encoding="utf-8")
    claims = from_json((record.folder / "claims.json").read_text(encoding="utf-8"))
    assert len(claims) >= 8
    for claim in claims:
        assert claim.name in text and f'class="verdict {claim.verdict}"' in text
    names = ("grids", "transitions", "growth", "kernel-distances", "kernel-way", "switching")
    for name in names:
        assert (record.folder / "figures" / f"{name}.png").exists() and (
            record.folder / "figures" / f"{name}.svg"
        ).exists()
    assert text.count("<img") == len(names)
    for key in plain(TINY):
        assert f"<dt>{key}</dt>" in text


def test_redrawing_changes_no_byte(record, tmp_path, capsys):
    copy = tmp_path / record.folder.name
    shutil.copytree(record.folder, copy)
    shutil.rmtree(copy / "records")
    shutil.rmtree(copy / "states")
    shutil.rmtree(copy / "figures")
    assert main(["report", str(copy)]) == 0
    capsys.readouterr()
    for name in ("report.html", "claims.json", "figures/grids.png", "figures/growth.svg"):
        assert (copy / name).read_bytes() == (record.folder / name).read_bytes(), name
    assert plt.get_fignums() == []


def test_strings_from_outside_are_escaped(record, tmp_path):
    copy = tmp_path / record.folder.name
    shutil.copytree(record.folder, copy)
    hostile = "<script>alert(1)</script> & <img src=x>"
    settings = copy / "settings.yaml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("mlp(width=8, depth=1)", f"'{hostile}'"), encoding="utf-8"
    )
    results = record.read_results()
    results.attrs["settings"] = json.dumps({**json.loads(results.attrs["settings"]), "model": hostile, "task": hostile})
    write_report(read_record(copy), two_phase, results)
    text = (copy / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text and "<img src=x" not in text and "&lt;script&gt;" in text
