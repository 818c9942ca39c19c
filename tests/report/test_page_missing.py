"""Pages of runs in which something was not measured."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from no_pictures import no_pictures  # noqa: F401  for every test here
from test_page import TINY

from learndyn.experiments import two_phase
from learndyn.report.page import write_report
from learndyn.run import run


@pytest.mark.parametrize("change", [{"probes": 0, "horizons": ()}, {"seeds": 1}, {"t0": (3,), "t1": (10,)}])
def test_figures_survive_what_is_missing(change, tmp_path):
    made, results = run("two-phase", replace(TINY, **change, engine="loop"), tmp_path, jobs=1)
    write_report(made, two_phase, results)
    blank = results.copy(deep=True)
    for name in ("measured", "predicted"):
        data = blank[name].to_dataset()
        blank[name] = data.map(lambda values: values * np.nan).assign_attrs(data.attrs)
    assert {claim.verdict for claim in write_report(made, two_phase, blank)} <= {"undecided", "fails"}
    assert Path(made.folder / "report.html").exists() and plt.get_fignums() == []
