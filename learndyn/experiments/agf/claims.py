"""What must come out, as numbers with intervals. Bounds follow from theory, or from runs with other seeds."""

import json
import math

import numpy as np
import xarray as xr

from learndyn.compare import Claim, Estimate, at_least, at_most, exact, finite_mean, within
from learndyn.experiments.agf.diagonal import DEEP, RANDOM_SIZES

LEVEL = 0.9
LASTING = 1.05  # times of two ReLU drops, over each other, that have a plateau between them


def over(values: xr.DataArray, dim: str = "seed", what: str = "") -> Estimate:
    """Mean over one dimension with a Student-t interval; values that are not finite are left out."""
    return finite_mean(values, LEVEL, what or f"{dim}s")


def worst(values: xr.DataArray, what: str = "largest of all") -> Estimate:
    """The largest, for what holds of every single one; nan, which decides nothing, if one of them is missing."""
    return exact(values.max(skipna=False), what)


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims, each with what was measured here."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = json.loads(results.attrs["settings"])
    return [
        *_diagonal(found, law),
        *_linear(found, law),
        *_attention(found, law),
        *_modular(found, law),
        *_relu(found, law),
        *_modules(found, law, settings),
    ]


def _diagonal(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    decades = -np.log(found.alpha)
    made = []
    for name, text, times in (
        ("plane", "The two-dimensional example", "0.1930, 0.6002, 3.4574"),
        ("five", "Five dimensions", "0.1201, 0.6007, 0.9817, 1.1123, 4.2193"),
    ):
        limit, shift = found[f"{name}_limit"], found[f"{name}_shift"]
        shifts = ((found[f"{name}_jumps"] - law[f"{name}_times"]) * decades).isel(alpha=slice(-DEEP, None))
        plateau, said = found[f"{name}_plateau_loss"], law[f"{name}_plateau_loss"]
        size = abs(shift).max()
        levels = abs(plateau / said - 1).isel({f"{name}_plateau": slice(0, -1)})
        made += [
            at_most(
                f"{name}-times",
                f"{text}: the times of all drops, extrapolated to a start of 0, are the predicted ones: largest "
                "relative error.",
                worst(abs(limit / law[f"{name}_times"] - 1), "largest of all drops"),
                1e-3,
                paper=f"{times} ln(1/α)",
            ),
            at_most(
                f"{name}-shift",
                f"{text}: they come there as C/ln(1/α): by how much C differs between small starts, over its size.",
                worst((shifts.max("alpha") - shifts.min("alpha")) / size, "largest of all drops"),
                0.05,
                paper="not in the paper",
            ),
            at_most(
                f"{name}-levels",
                f"{text}: the loss on every plateau at the smallest start: largest relative error.",
                worst(levels.isel(alpha=-1), "largest of all plateaus"),
                1e-3,
                paper="pictures",
            ),
            at_most(
                f"{name}-path",
                f"{text}: β in the middle of every plateau, also where it has fallen asleep again, at the smallest "
                "start: largest error over the largest β.",
                worst(found[f"{name}_off_plateau"].isel(alpha=-1), "largest of all plateaus"),
                1e-3,
                paper="pictures",
            ),
        ]
        gap = np.log(found[f"{name}_gap"])
        made.append(
            within(
                f"{name}-rate",
                f"{text}: the accumulated utility comes to its limit as a power of ln(1/α): the power.",
                exact(np.polyfit(np.log(decades), gap, 1)[0], "fit over all starts"),
                -1.05,
                -0.95,
                paper="tends to it",
            )
        )
    order = law.five_drop.values.astype(int)
    learned = found.five_learned.values[:, order]
    made.append(
        at_most(
            "five-order",
            "Five dimensions: coordinates are learned in the predicted order: pairs in the other order, all starts.",
            exact((np.diff(learned, axis=1) <= 0).sum() if np.isfinite(learned).all() else math.nan, "count"),
            0,
            paper="same order",
        )
    )
    gaps = found.random_gap
    slope = np.log(gaps.isel(random_alpha=1) / gaps.isel(random_alpha=0)) / math.log(
        math.log(RANDOM_SIZES[1]) / math.log(RANDOM_SIZES[0])
    )
    made.append(
        within(
            "random-rate",
            f"{found.sizes['random']} random problems, with {int(found.random_sleeps.sum())} deactivations: the same "
            "power.",
            over(slope, "random", "problems"),
            -1.1,
            -0.9,
            paper="tends to it",
        )
    )
    return made


def _linear(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    small = found.linear_alpha <= 1e-8
    made = []
    for name, text, loose in (
        ("white", "White inputs", 1e-3),
        ("trap", "Modes that grow in another order than that of their gains", 2e-3),
        ("falling", "Variances that fall as a power law", 2e-3),
    ):
        off = abs(found[f"{name}_jumps"] / law[f"{name}_jumps"] - 1)
        made += [
            at_most(
                f"{name}-times",
                f"{text}: every mode is learned when predicted from its own first weights, all α: largest relative "
                "error.",
                over(off.max(("linear_alpha", f"{name}_drop"), skipna=False)),
                loose,
                paper="leading order only",
            ),
            at_most(
                f"{name}-limit",
                f"{text}: extrapolated to a start of 0 that is 1/σ: largest relative error.",
                over(abs(found[f"{name}_limit"] / law[f"{name}_limit"] - 1).max(f"{name}_drop", skipna=False)),
                loose,
                paper="1/σ",
            ),
            at_most(
                f"{name}-curves",
                f"{text}: the whole loss from α = 1e-8 down is the sum of the modes' sigmoids: largest error over the "
                "first loss.",
                over(found[f"{name}_loss_error"].isel(linear_alpha=small).max("linear_alpha")),
                1e-3,
                paper="not in the paper",
            ),
        ]
    for name in ("white", "trap"):
        said = law[f"{name}_levels"].isel({f"{name}_plateau": slice(0, -1)})
        if "seed" in said.dims:
            said = said.isel(seed=0, drop=True)
        seen = found[f"{name}_levels"].isel({f"{name}_plateau": slice(0, -1)}).isel(linear_alpha=-1)
        made.append(
            at_most(
                f"{name}-levels",
                f"Levels of the plateaus, {'white inputs' if name == 'white' else 'in the order of growth'}, at the "
                "smallest start: largest relative error.",
                over(abs(seen / said - 1).max(f"{name}_plateau", skipna=False)),
                1e-3,
                paper="½ Σ μ of what is not learned",
            )
        )
    mixed, said = found.mixed_limit, law.mixed_limit
    made += [
        at_most(
            "mixed-times",
            "Modes that mix: times extrapolated from two starts are those of the conjectured recursion: largest "
            "relative error.",
            over(abs(mixed / said - 1).max("mixed_drop", skipna=False)),
            1e-3,
            paper="conjecture",
        ),
        at_least(
            "mixed-are-not-naive",
            "And not 1/σ_k: by how much that is off at least at one mode.",
            over(abs(mixed / found.mixed_naive - 1).max("mixed_drop", skipna=False)),
            0.01,
            paper="conjecture",
        ),
    ]
    return made


def _attention(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    ratio = abs(found.attention_jumps / law.attention_jumps - 1).max("attention_drop", skipna=False)
    early = found.attention_jumps / law.attention_bound
    made = [
        at_most(
            f"attention-times({alpha:g})",
            f"Heads of standard deviation {alpha:g}: every drop comes when the algorithm says: largest relative error.",
            over(ratio.sel(attention_alpha=alpha)),
            max(2e-3, 20 * alpha),
            paper="within some percent",
        )
        for alpha in found.attention_alpha.values
    ]
    plateaus = law.attention_levels
    if "seed" in plateaus.dims:
        plateaus = plateaus.isel(seed=0, drop=True)
    last = {"attention_alpha": -1}
    off = abs(found.attention_levels.isel(last) / plateaus - 1)
    return [
        *made,
        at_least(
            "attention-bound",
            "No drop comes before the earliest time of its largest dormant head: smallest time over its bound.",
            exact(early.min(skipna=False), "smallest of all"),
            1,
            paper="a bound",
        ),
        at_most(
            "attention-levels",
            "Levels of the flow at the smallest start against the closed form: largest relative error.",
            over(off.max("attention_plateau", skipna=False)),
            2e-3,
            paper="1, 0.5622, 0.3555, 0.2251, 0.1322",
        ),
        at_most(
            "attention-algorithm-levels",
            "Levels of the algorithm against the closed form: largest relative error.",
            worst(abs(found.alternated_attention_levels / plateaus - 1)),
            1e-4,
            paper="1, 0.5622, 0.3555, 0.2251, 0.1322",
        ),
        at_most(
            "attention-weights",
            "What a direction ends with is 1/(tr Σ + (N + 1)λ): largest relative error.",
            over(abs(found.attention_weights / law.attention_weights - 1).max("attention_mode")),
            1e-2,
            paper="0.0297, 0.0561, 0.0796, 0.1008",
        ),
        at_most(
            "few-heads",
            "With fewer heads than directions there are as many drops as heads: error of the last level.",
            over(abs(found.few_loss / law.few_loss - 1)),
            1e-2,
            paper="one drop a head",
        ),
    ]


def _modular(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    half, first, last = found.modular_half, law.modular_first, law.modular_last
    outside = np.maximum(np.maximum(first / half, half / last), 1) - 1
    order = half.diff("frequency")
    levels = abs(found.modular_levels / law.modular_levels - 1)
    share = -law.modular_levels.diff("modular_plateau").isel(modular_plateau=0)
    steps = law.modular_step_levels.isel(activation=[0, 1]).rename(activation="few")
    made = [
        at_most(
            "frequencies-in-order",
            "Frequencies are learned in the order of their magnitude: pairs in the other order, all seeds.",
            exact(math.nan if order.isnull().any() else (order <= 0).sum(), "count"),
            0,
            paper="same order",
        ),
        at_most(
            "frequencies-in-time",
            "Half of a frequency's power is there between the first and the last activation of its neurons: by how "
            "much, relative, it is outside at most.",
            over(outside.max("frequency", skipna=False)),
            0.15,
            paper="drops where predicted",
        ),
        at_least(
            "frequencies-bound",
            "No frequency comes before its earliest time: smallest half-power time over the bound.",
            exact((half / law.modular_bound).min(skipna=False), "smallest of all"),
            1,
            paper="a bound",
        ),
        at_most(
            "modular-levels",
            "The loss on the plateaus between frequencies: largest relative error.",
            over(levels.isel(modular_plateau=slice(0, -1)).max("modular_plateau", skipna=False)),
            0.15,
            paper="5 and 1 at p = 9 in these units",
        ),
        at_most(
            "modular-steps",
            "The algorithm's first two neurons leave what one and two neurons of the first frequency leave at their "
            "best, by quasi-Newton steps: largest error over its share.",
            worst(abs(steps - law.modular_best) / share),
            0.002,
            paper="0.5996 and 0.4094 of MSE at p = 20; alone, a frequency keeps 8/9 and 5/9",
        ),
        at_most(
            "modular-phases",
            "Where a frequency begins, φ_u + φ_v = φ_w + φ_x: largest mismatch of the first frequency.",
            over(found.modular_mismatch.isel(frequency=0)),
            0.1,
            unit="rad",
            paper="aligned at activation",
        ),
        at_most(
            "modular-curve",
            "The loss of the flow under the steps: mean |ln| of their ratio over ln t.",
            over(found.modular_log_ratio),
            0.6,
            paper="pictures",
        ),
    ]
    return made


def own_drops(found: xr.Dataset) -> xr.DataArray:
    """Drops of ReLU networks before the first neuron that is to wake at an acute angle to an awake one."""
    return xr.DataArray(np.arange(found.sizes["relu_drop"]), dims="relu_drop") < found.relu_own


def relu_errors(found: xr.Dataset, law: xr.Dataset) -> xr.DataArray:
    """|t/predicted − 1| of these."""
    return abs(found.relu_jumps / law.relu_jumps - 1).where(own_drops(found))


def _relu(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    off = relu_errors(found, law)
    missed = (own_drops(found) & off.isnull()).any(("width", "relu_drop"))
    level = abs(found.relu_levels / law.relu_levels - 1).isel(relu_plateau=slice(1, None))
    level = level.rename(relu_plateau="relu_drop")  # the plateau after each drop
    lasting = ~(law.relu_jumps.shift(relu_drop=-1) < LASTING * law.relu_jumps)
    level = level.where(own_drops(found) & lasting).max(("width", "relu_drop"))
    few = found.relu_end.isel(width=0) - found.relu_end.isel(width=-1)
    return [
        at_most(
            "relu-times",
            "ReLU neurons wake when predicted, up to the first that is to wake at an acute angle to an awake one: "
            "largest relative error of a drop.",
            over(off.max(("width", "relu_drop")).where(~missed)),
            0.02,
            paper="drops where predicted",
        ),
        at_most(
            "relu-levels",
            "And the loss stays on the level after them, unless the next drop is less than 5 % later: largest relative "
            "error, all widths.",
            over(level),
            0.02,
            paper="pictures",
        ),
        at_least(
            "relu-wider-is-lower",
            f"{int(found.width[-1])} neurons end lower than {int(found.width[0])}: the difference.",
            over(few),
            0.02,
            paper="0.0900, then 0.0865, 0.0808, 0.0760 for widths 1, 2, 3 on CIFAR-10",
        ),
    ]


def _modules(found: xr.Dataset, law: xr.Dataset, settings: dict) -> list[Claim]:
    lag = found.linear_module_jumps - law.linear_module_jumps
    late = (lag / law.linear_module_lag).isel(module_mode=0)
    told = law.linear_module_jumps + law.linear_module_lag
    curve = abs(found.quadratic_module_loss - law.quadratic_module_loss).max("module_look")
    first = law.quadratic_module_loss.isel(module_look=0)
    momentum = settings["momentum"]
    second = float(np.square(law.linear_module_lag / law.linear_module_jumps).max())  # order that the lag leaves out
    return [
        at_most(
            "module-times",
            f"A linear module under SGD with momentum {momentum:g} and torch's MSELoss: drops are where its first "
            "weights say, in flow time, less the lag of finite steps: largest relative error.",
            over(abs(found.linear_module_jumps / told - 1).max("module_mode", skipna=False)),
            1e-3 + second,
            paper="steps × η/(1 − μ) × s",
        ),
        within(
            "module-lag",
            "That lag, hσt(½ + μ/(1 − μ)), over what it should be, first mode.",
            over(late),
            0.7,
            1.3,
            paper="derived here",
        ),
        at_most(
            "quadratic-module-time",
            "A quadratic module on modular addition, the same way: half of the loss is gone when its flow says: "
            "relative error.",
            over(abs(found.quadratic_module_jump / law.quadratic_module_jump - 1)),
            0.02,
            paper="steps × η/(1 − μ) × s",
        ),
        at_most(
            "quadratic-module-curve",
            "And its whole loss is that of the flow: largest difference over the first loss.",
            over(curve / first),
            0.2,
            paper="not in the paper",
        ),
    ]
