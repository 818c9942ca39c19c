"""What must come out, as numbers with intervals. Bounds come from earlier runs, not from these."""

import json
import math

import numpy as np
import xarray as xr
from scipy.special import ndtri

from learndyn.compare import Claim, Estimate, at_least, at_most, exact, mean_interval, within
from learndyn.experiments.noether_dynamics.runs import VERDICTS
from learndyn.names import parse
from learndyn.recorder.lens import EQUILIBRIUM

LEVEL = 0.9
TRAINED = 0.5  # nats below which a network counts as trained in the sweep over learning rates
ROUNDING = {"float64": 1e-9, "float32": 1e-3}  # of exact laws over thousands of steps
STEPWISE = {"float64": 1e-9, "float32": 1e-2}  # of a single step, whose change of a charge is 1e-4 of it
MANY = 3  # seeds, from which on the interval is over seeds and no longer over channels


def over(values: xr.DataArray) -> Estimate:
    """Median over channels: of every seed, with a Student-t interval; where seeds are few, of all channels together.

    The interval of the latter is between order statistics, whatever the distribution; dead channels do no harm.
    """
    known = values.where(np.isfinite(values))
    if "charge" not in values.dims or values.sizes["seed"] >= MANY:
        each = known.median([d for d in known.dims if d != "seed"]).values
        each = each[np.isfinite(each)]
        return mean_interval(each, LEVEL) if len(each) else _nothing()
    flat = np.sort(known.values.ravel())
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return _nothing()
    reach = ndtri((1 + LEVEL) / 2) * math.sqrt(len(flat)) / 2
    low, high = math.floor(len(flat) / 2 - reach), math.ceil(len(flat) / 2 + reach)
    method = f"{100 * LEVEL:g} % order statistics over {len(flat)} channels"
    inside = low >= 0 and high < len(flat)
    ends = (float(flat[low]), float(flat[high])) if inside else (math.nan, math.nan)
    return Estimate(float(np.median(flat)), *ends, method if inside else "too few channels")


def _nothing() -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, "nothing to measure")


def has(found: xr.Dataset, name: str) -> bool:
    """Whether something of this name was measured."""
    return name in found and bool(np.isfinite(found[name]).any())


def sgd_runs(found: xr.Dataset) -> dict[int, dict[str, float]]:
    """Runs by SGD that the laws are for, by number: their lr, momentum and weight_decay."""
    made = {}
    for i, (text, rule) in enumerate(zip(found.run.values, found.rule.values)):
        options = {"lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0} | parse(str(text))[1]
        if rule == "SGD":
            made[i] = {name: float(options[name]) for name in ("lr", "momentum", "weight_decay")}
    return made


def balanced(found: xr.Dataset, run: int) -> bool:
    """Whether most channels of a run have come to equilibrium."""
    return float((found.verdict.isel(run=run) == VERDICTS.index(EQUILIBRIUM)).mean()) > 0.5


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims, each with what was measured here."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = json.loads(results.attrs["settings"])
    return [
        *_equations(found, settings),
        *_adaptive(found, law),
        *_equilibria(found, law),
        *_rules(found),
        *_rates(found),
    ]


def _equations(found: xr.Dataset, settings: dict) -> list[Claim]:
    rounding = ROUNDING[settings["dtype"]]
    worst = {n: exact(found[n].max(), "largest of all") for n in ("particle_residual",)}
    euclid, product = (found.asymmetry.isel(metric=i) for i in (0, -1))
    off = [abs(float(euclid.sel(symmetry=n)) - v) for n, v in (("translation", 0), ("rotation", 0), ("scale", 1))]
    off += [float(product.sel(symmetry=n)) for n in ("scale", "rescale")]
    made = [
        at_most(
            "equation-of-motion",
            "A particle under a potential of its direction alone obeys d𝒬/dt + (μ/m)𝒬 = δT − λ⟨q, X⟩.",
            worst["particle_residual"],
            1e-5,
            paper="derived here; 2e-6 in earlier runs",
        ),
        at_most(
            "kinetic-symmetry",
            "Euclid's kinetic energy has translation and rotation (κ = 0) and not scale (κ = 1); that of "
            "multiplicative updates has scale and rescale.",
            exact(max(off), "largest deviation of κ"),
            1e-12,
            paper="derived there",
        ),
        at_most(
            "equivalent-settings",
            "(η, λ, q) and (9η, λ/9, 3q) of the weights before a norm train the same functions: largest difference of "
            "the loss in 300 steps.",
            exact(found.equivalent_loss.isel(eps=0).max(), "largest of both momenta"),
            1e-12,
            unit="nats",
            paper="not in the paper; 7e-16 in earlier runs",
        ),
    ]
    if has(found, "residual"):
        made.append(
            at_most(
                "noether-residual",
                "Every channel obeys that equation, by central differences with balanced weights, to rounding.",
                exact(found.residual.max(), "largest of all channels, relative"),
                STEPWISE[settings["dtype"]],
                paper="derived here: it is heavy ball itself",
            )
        )
        made.append(
            at_most(
                "noether-charge",
                "The Noether charge of a channel is what the equation predicts from its drive; error of means between "
                "rows, relative.",
                over(found.noether_error.max("run")),
                0.05,
                paper="no number at hand",
            )
        )
    if has(found, "exact_error"):
        worst_error = exact(found.exact_error.max(), "largest of all channels and steps")
        made.append(
            at_most(
                "exact-law",
                "The exact discrete law gives |q|² at every step; error over the largest |q|² of the channel.",
                worst_error,
                rounding,
                paper="derived here; 5e-12 in earlier runs",
            )
        )
    return made


def _adaptive(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    made = []
    for i, s in sgd_runs(found).items():
        if s["momentum"] or not s["weight_decay"]:
            continue
        at, forgotten = found.isel(run=i), 4 * s["lr"] * s["weight_decay"]  # in a step: the size of what is left out
        made.append(
            at_most(
                f"implicit-rmsprop-{i + 1}",
                f"{found.run.values[i]}: η/|q|² is the effective learning rate of RMSProp; mean relative deviation.",
                over(at.deviation_mean),
                forgotten,
                paper="no number at hand; 6e-4 (λ = 5e-3), 1.9e-3 (λ = 1e-2) in earlier runs",
            )
        )
        if has(at, "twin_loss_difference"):
            made.append(
                at_most(
                    f"rmsprop-twin-{i + 1}",
                    f"{found.run.values[i]}: RMSProp on the sphere has the same loss curve; mean relative difference.",
                    over(at.twin_loss_difference),
                    10 * forgotten,
                    paper="no number at hand; 1.1 % (λ = 5e-3), 2.7 % (λ = 1e-2) in earlier runs",
                )
            )
    return made


def _equilibria(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    made = []
    for i, s in sgd_runs(found).items():
        at, name = found.isel(run=i), f"{found.run.values[i]}"
        if not s["weight_decay"] or not balanced(found, i):
            continue
        ratio = at.late_angle / law.late_angle.isel(run=i)
        made.append(
            within(
                f"equilibrium-angle-{i + 1}",
                f"{name}: the angle of a step at equilibrium is √(2ηλ/(1+β)), measured over predicted.",
                over(ratio),
                0.9,
                1.1,
                paper="derived here; 1.007, 0.987, 1.06 in earlier runs",
            )
        )
        made.append(
            within(
                f"charge-balance-{i + 1}",
                f"{name}: decay takes what steps give, 2ηλ|q|² / ((1+β)N).",
                over(at.balance),
                0.9,
                1.1,
                paper="derived here; 0.991, 1.000, 0.999 in earlier runs",
            )
        )
        if s["momentum"] >= 0.5:
            made.append(
                within(
                    f"memory-factor-{i + 1}",
                    f"{name}: the norm at equilibrium is the predicted one with the measured memory factor; ratio.",
                    over(at.norm_ratio_measured),
                    0.9,
                    1.1,
                    paper="not in the paper",
                )
            )
            made.append(
                at_least(
                    f"smooth-gradients-fail-{i + 1}",
                    f"{name}: with ϕ = 1, as if gradients were smooth, the predicted norm is far too large; ratio.",
                    over(at.norm_ratio_smooth),
                    2.0,
                    paper="not in the paper; 4.6 (β = 0.9), 13.5 (β = 0.99) in earlier runs",
                )
            )
    for i, rule in enumerate(found.rule.values):
        if rule == "AdamW" and has(law.isel(run=i), "late_angle"):
            ratio = found.late_angle.isel(run=i) / law.late_angle.isel(run=i)
            made.append(
                within(
                    f"adamw-angle-{i + 1}",
                    f"{found.run.values[i]}: the angle of a step stays below √(2ηλ(1−β₁)/(1+β₁)); ratio.",
                    over(ratio),
                    0.5,
                    1.0,
                    paper="not in the paper; 0.7 to 0.8 in earlier runs",
                )
            )
    return made


def _rules(found: xr.Dataset) -> list[Claim]:
    table = found.law_current
    kept = table.sel(optimizer=["SGD", "SGD, clipped"]).max()
    broken = table.sel(optimizer=["sign", "Adam", "RMSprop"]).min()
    lars = table.sel(optimizer="LARS")
    share = float(lars.sel(law_kind="rescale") / lars.sel(law_kind=["scale", "translation"]).max())
    return [
        at_most(
            "sgd-keeps-all",
            "SGD, clipped or not, keeps every law: largest relative current of a step.",
            exact(kept, "largest of all laws"),
            1e-8,
            paper="no number at hand; < 1e-15 in earlier runs",
        ),
        at_least(
            "adaptive-breaks-all",
            "The sign of the gradient, Adam and RMSprop break laws of every kind: largest relative current of each.",
            exact(broken, "smallest of three optimizers and three kinds"),
            0.05,
            paper="no number at hand; 0.2, 0.3, 0.6 in earlier runs",
        ),
        at_least(
            "layer-rates-break-rescale",
            "A rate for each layer breaks rescale laws alone: their current over the largest of scale and translation.",
            exact(share, "LARS"),
            1e4,
            paper="no number at hand; 0.08 over 1e-15 in earlier runs",
        ),
    ]


def _rates(found: xr.Dataset) -> list[Claim]:
    if "rate" not in found.dims:
        return []
    trained = found.final_loss < TRAINED
    largest = np.log10(found.rate.where(trained)).max("rate")
    gain = largest.sel(network="normalised") - largest.sel(network="unnormalised")
    return [
        at_least(
            "robust-to-rates",
            f"Normalised, the network trains (loss below {TRAINED:g}) at rates at least half a decade larger.",
            over(gain),
            0.4,
            unit="decades",
            paper="no number at hand; all six up to 10 against 1 in earlier runs",
        )
    ]
