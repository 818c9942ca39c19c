"""Agreement of predictions and measurements, against sums written out."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.compare import agreement, mean_interval
from learndyn.errors import InputError

TIME = np.arange(5.0)


def law(values=TIME**2, units="nats", **coords) -> xr.Dataset:
    coords = coords or {"time": TIME}
    return xr.Dataset({"loss": (tuple(coords), values, {"units": units})}, coords)


def run(seeds=3, directions=2, units="nats") -> xr.Dataset:
    noise = np.random.default_rng(0).normal(0, 0.1, (seeds, directions, 5))
    coords = {"seed": range(seeds), "direction": range(directions), "time": TIME}
    return xr.Dataset({"loss": (tuple(coords), TIME**2 + 0.2 + noise, {"units": units})}, coords)


def test_against_sums_written_out():
    measured = run().loss.values
    row = agreement(law(), run()).sel(name="loss")
    d = measured.mean(axis=(0, 1)) - TIME**2
    assert float(row.mean_difference) == pytest.approx(d.mean(), rel=1e-12)
    assert float(row.rms) == pytest.approx(np.sqrt((d**2).mean()), rel=1e-12)
    assert float(row.max_abs) == pytest.approx(abs(d).max(), rel=1e-12)
    assert float(row.correlation) == pytest.approx(np.corrcoef(TIME**2, TIME**2 + d)[0, 1], rel=1e-12)
    assert row.n == 5 and str(row.units.values) == "nats"
    per_seed = mean_interval((measured - TIME**2).mean(axis=(1, 2)))
    assert (float(row.low), float(row.high)) == pytest.approx((per_seed.low, per_seed.high), rel=1e-9)


def test_a_prediction_for_each_seed_is_compared_seed_by_seed():
    each = run(directions=1).isel(direction=0, drop=True)
    shifted = each.copy(deep=True)
    shifted["loss"] = each.loss.copy(data=each.loss.values + np.array([[1.0], [-1.0], [0.0]]))
    row = agreement(each, shifted).sel(name="loss")
    assert row.n == 15
    assert float(row.mean_difference) == pytest.approx(0, abs=1e-12)
    assert float(row.rms) == pytest.approx(np.sqrt(2 / 3), rel=1e-12)


def test_directions_are_left_out_where_there_are_no_seeds():
    measured = run(directions=4).isel(seed=0, drop=True)
    row = agreement(law(), measured).sel(name="loss")
    per_direction = mean_interval((measured.loss.values - TIME**2).mean(axis=1))
    assert float(row.low) == pytest.approx(per_direction.low, rel=1e-9)


def test_no_replicates_no_interval():
    row = agreement(law(), run().mean(("seed", "direction"), keep_attrs=True)).sel(name="loss")
    assert np.isnan(row.low) and np.isnan(row.high) and np.isfinite(row.rms)


def test_only_shared_coordinates_and_unmasked_known_points_count():
    measured = run(1, 1).isel(seed=0, direction=0, drop=True)
    measured["loss"][1] = np.nan
    predicted = law(np.array([4.0, 9.0, 16.0, 25.0, 1.0]), time=np.array([2.0, 3.0, 4.0, 5.0, 1.0]))
    row = agreement(predicted, measured).sel(name="loss")
    assert row.n == 3
    row = agreement(predicted, measured, where=measured.time > 2).sel(name="loss")
    assert row.n == 2
    assert float(row.mean_difference) == pytest.approx(float((measured.loss - TIME**2)[3:].mean()), rel=1e-9)


def test_nothing_left_is_nan_not_an_error():
    row = agreement(law(), run(), where=run().time > 99).sel(name="loss")
    assert row.n == 0 and np.isnan(row.rms) and np.isnan(row.mean_difference)


def test_a_row_for_each_common_name():
    predicted = law().assign(rate=law().loss, only=law().loss)
    table = agreement(predicted, run().assign(rate=run().loss))
    assert list(table.name.values) == ["loss", "rate"]
    assert set(table.data_vars) == {"mean_difference", "low", "high", "rms", "max_abs", "correlation", "n"}


@settings(max_examples=20, deadline=None)
@given(st.floats(-10, 10), st.floats(0.1, 10))
def test_shift_and_scale(shift, scale):
    measured = run()
    measured["loss"] = measured.loss.copy(data=scale * measured.loss.values + shift)
    before, after = agreement(law(), run()), agreement(law(scale * TIME**2 + shift), measured)
    for key in ("mean_difference", "low", "high", "rms", "max_abs"):
        assert float(after[key][0]) == pytest.approx(scale * float(before[key][0]), rel=1e-6, abs=1e-9)
    assert float(after.correlation[0]) == pytest.approx(float(before.correlation[0]), rel=1e-9)


@pytest.mark.parametrize(
    "predicted, words",
    [
        (law().rename(loss="error"), "Nothing to compare: predicted has error; measured has loss"),
        (law(units="bits"), "'loss' is predicted in bits but measured in nats"),
        (law(units=""), "predicted in no unit"),
        (law(np.zeros((5, 2)), time=TIME, mode=[0, 1]), "predicted over mode, but measured only over"),
        (law().isel(time=0, drop=True), "measured over time"),
        (law(time=TIME + 0.5), "no value of 'time' in common"),
        (law(np.zeros(4), time=TIME[:4]).drop_vars("time"), "do not align"),
    ],
)
def test_what_cannot_be_compared(predicted, words):
    with pytest.raises(InputError, match=words):
        agreement(predicted, run())


def test_coordinates_have_units_too():
    predicted = law()
    predicted.time.attrs["units"] = "step"
    with pytest.raises(InputError, match="coordinate 'time' of 'loss' is predicted in step but measured in no unit"):
        agreement(predicted, run())


def test_a_mask_over_unknown_dimensions():
    with pytest.raises(InputError, match="mask has the dimensions mode"):
        agreement(law(), run(), where=xr.DataArray([True, False], dims="mode"))
