"""The page hides nothing, loads nothing and runs nothing; claims, tables and figures survive whatever was measured."""

import base64
import io
import json
import warnings
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from learndyn.experiments import two_phase
from learndyn.experiments.two_phase import Settings
from learndyn.record import open_record, plain
from learndyn.report import style
from learndyn.report.page import Table, interval, number, write_report

HOSTILE = "mine.py:net</code><script>alert(1)</script><img src=http://evil.example/x onerror=\"alert('1')\">&amp;"
SETTINGS = Settings(
    steps=400, t0=(0, 50, 100, 200, 300), t1=(100, 200, 400), horizons=(50, 100), seeds=3, directions=2, model=HOSTILE
)
VOID = {"meta", "br", "img"}


def made(tmp_path, settings=SETTINGS, seed=0) -> xr.DataTree:
    """Results that look like a transition at step 150, with noise, in the form that the experiment gives them."""
    tree, draw = two_phase.gather(settings, tmp_path / "no such folder"), np.random.default_rng(seed)
    groups = {}
    for name in ("measured", "predicted"):
        data = tree[name].to_dataset()
        for key, values in data.data_vars.items():
            here = np.abs(draw.normal(1.0, 0.1, values.shape))
            if "t0" in values.dims:
                fall = (1 / (1 + (data.t0.values / 150) ** 4)).reshape([-1 if d == "t0" else 1 for d in values.dims])
                here = here * (20 * fall if "growth" in key else 1e-9 + fall)
            if "t1" in values.dims and "t0" in values.dims:
                here = np.where((data.t1 > data.t0).broadcast_like(values).transpose(*values.dims), here, np.nan)
            data[key] = values.copy(data=here)
        groups[f"/{name}"] = data
    groups["/measured"]["control_distance"] *= 0
    groups["/measured"]["perturbation_requested"] = 0 * groups["/measured"].perturbation_requested + 1e-7
    groups["/measured"]["perturbation_floor"] = 0 * groups["/measured"].perturbation_floor + 1e-8  # says: rounding
    groups["/predicted"].attrs["why"] = ""
    found = xr.DataTree.from_dict(groups)
    found.attrs["settings"] = tree.attrs["settings"]
    return found


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Fewer pixels and no layout, which takes most of the time: what is tested does not depend on them."""
    before = dict(style.RC)
    style.RC |= {"savefig.dpi": 30, "figure.constrained_layout.use": False}
    yield
    style.RC |= before


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A record with its page, the results and the claims."""
    folder = tmp_path_factory.mktemp("page")
    results = made(folder)
    record = open_record(folder, "two-phase", plain(SETTINGS))
    record.write_results(results)
    return record, results, write_report(record, two_phase, record.read_results())


class Page(HTMLParser):
    """All tags, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


@pytest.fixture(scope="module")
def page(drawn):
    return Page((drawn[0].folder / "report.html").read_text(encoding="utf-8"))


def test_it_is_well_formed_and_loads_nothing(drawn, page):
    assert not page.open
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio", "source"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:image/png;base64,"[:5]), (tag, attributes)
    text = (drawn[0].folder / "report.html").read_text(encoding="utf-8")
    css = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in css and "@import" not in css
    assert ("meta", {"charset": "utf-8"}) in page.tags


def test_strings_from_outside_are_text(page):
    assert page.text.count(" ".join(HOSTILE.split())) >= 2  # in what was run, and among the settings
    assert not [tag for tag, attributes in page.tags if "evil" in str(attributes)]


def test_every_claim_figure_table_and_note_is_there(drawn, page):
    record, results, claims = drawn
    assert len(claims) >= 9 and len({claim.name for claim in claims}) == len(claims)
    for claim in claims:
        for words in (claim.name, claim.sentence, claim.method, claim.paper, claim.expected, number(claim.measured)):
            assert " ".join(words.split()) in page.text, words
    shown = [attributes["class"] for _, attributes in page.tags if "verdict" in attributes.get("class", "")]
    assert shown == [f"verdict {claim.verdict}" for claim in claims]
    for sentence in (*two_phase.lead(results), *two_phase.notes(results)):
        assert " ".join(sentence.split()) in page.text
    assert any(note.startswith("Rounding-driven") for note in two_phase.notes(results))
    for table in two_phase.tables(results):
        assert table.title in page.text and all(cell in page.text for row in table.rows for cell in row)
    figures = two_phase.figures(results)
    assert all(" ".join(figure.caption.split()) in page.text for figure in figures)
    pictures = [base64.b64decode(a["src"].partition(",")[2]) for tag, a in page.tags if tag == "img"]
    assert len(pictures) == len(figures) and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    assert two_phase.PAPER in page.text
    plt.close("all")


def test_settings_and_environment_are_there(drawn, page):
    record = drawn[0]
    environment = json.loads((record.folder / "environment.json").read_text())
    assert all(name in page.text for name in (*record.settings, *environment))
    assert environment["torch"] in page.text and "settings.yaml" in page.text and "results.nc" in page.text


def test_claims_in_the_file_are_those_of_the_page(drawn):
    record, _, claims = drawn
    rows = json.loads((record.folder / "claims.json").read_text())
    assert [(row["name"], row["verdict"]) for row in rows] == [(claim.name, claim.verdict) for claim in claims]
    assert "NaN" not in (record.folder / "claims.json").read_text()


def test_nothing_stays_open(drawn):
    assert plt.get_fignums() == []
    assert plt.rcParams["svg.hashsalt"] is None  # the look is not left behind


def nothing_measured(tree):
    for name in tree["measured"].data_vars:
        tree["measured"][name] = tree["measured"][name] * np.nan


def nothing_predicted(tree):
    for name in ("log_growth", "log_growth_error"):
        tree["predicted"][name] = tree["predicted"][name] * np.nan


def overflowed(tree):
    tree["predicted"]["log_growth"] = tree["predicted"].log_growth + np.inf


def zeros(tree):
    for name in ("distance", "relative_distance", "dissimilarity", "disagreement", "loss_barrier", "function_distance"):
        tree["measured"][name] = tree["measured"][name] * 0


def a_twin_lost(tree):
    for name in ("log_growth", "distance", "relative_distance", "dissimilarity", "disagreement", "loss_barrier"):
        tree["measured"][name] = tree["measured"][name].where(tree["measured"].t0 != 100)


def one_cell(tree):
    for name, values in tree["measured"].data_vars.items():
        if "t0" in values.dims:
            tree["measured"][name] = values.where(values.t0 == 0)


ODD = {
    "as it is": ({}, None),
    "one of both, no control": ({"seeds": 1, "directions": 1, "control": False}, None),
    "no probes": ({"probes": 0}, nothing_predicted),
    "one end": ({"t1": (400,)}, None),
    "end before the last start": ({"t1": (100,)}, None),
    "many starts": ({"t0": tuple(range(0, 400, 20))}, None),
    "swapped noise": ({"perturbation": "noise_swap"}, nothing_predicted),
    "nothing measured": ({}, nothing_measured),
    "nothing at all": ({"seeds": 1}, lambda tree: (nothing_measured(tree), nothing_predicted(tree))),
    "overflow": ({}, overflowed),
    "twins never part": ({}, zeros),
    "a twin lost": ({}, a_twin_lost),
    "one row": ({}, one_cell),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_results_make_a_report(tmp_path, name):
    """Claims, words, tables and figures, as far as drawn pixels, without a warning on the reader's terminal."""
    changes, change = ODD[name]
    results = made(tmp_path, replace(SETTINGS, **changes))
    if change:
        change(results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        claims, figures = two_phase.claims(results), two_phase.figures(results)
        words = [*two_phase.lead(results), *two_phase.notes(results)]
        tables = two_phase.tables(results)
        for figure in figures:
            with style.style():
                figure.drawing.savefig(io.BytesIO(), format="png", dpi=20)
            plt.close(figure.drawing)
    assert len(figures) in (3, 4) and all(words) and all(isinstance(table, Table) for table in tables)
    assert {claim.verdict for claim in claims} <= {"holds", "fails", "undecided"}
    if "nothing" in name and "predicted" not in name:
        assert {claim.verdict for claim in claims} == {"undecided"}
    assert all("nan" not in text.lower() for text in words), words
    assert all("nan" not in cell for table in tables for row in table.rows for cell in row)


def test_numbers():
    assert [number(v) for v in (0.123456, np.nan, np.inf, -np.inf, 1e-17, 0.0, 12345.6)] == [
        *("0.1235", "–", "∞", "-∞", "1e-17", "0", "1.235e+04")
    ]
    assert interval(0.1, np.nan) == "–" and interval(0.1, np.inf) == "[0.1, ∞]"
