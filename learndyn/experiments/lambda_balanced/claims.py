"""What must come out, as numbers with intervals. Bounds follow from the learning rate or from earlier runs."""

import json

import numpy as np
import xarray as xr

from learndyn.compare import Claim, Estimate, at_least, at_most, exact, finite_mean, within
from learndyn.experiments.lambda_balanced import sequences, starts
from learndyn.experiments.lambda_balanced.settings import fits, shape
from learndyn.laws.balanced.limits import spans

LEVEL = 0.9
ROUNDING = 1e-12
MANY = 10.0  # |λ| from which on a network of these tasks is lazy, where it can be


def over(values: xr.DataArray, dim: str, what: str = "") -> Estimate:
    """Mean over one dimension with a Student-t interval; values that are not finite are left out."""
    return finite_mean(values, LEVEL, what or f"{dim}s")


def largest(values: xr.DataArray, what: str = "largest of all") -> Estimate:
    """The largest, for what holds of every single one."""
    return exact(values.max(), what)


def has(values: xr.DataArray) -> bool:
    """Whether there is anything to measure."""
    return bool(np.isfinite(values).any())


def kinds(found: xr.Dataset) -> dict[str, list[tuple[str, float]]]:
    """Cells of the table of shapes with the largest |λ|, by regime: "lazy" or "delayed rich"."""
    made: dict[str, list[tuple[str, float]]] = {"lazy": [], "delayed rich": []}
    lams = found.shape_lam.values
    for text in map(str, found.shape.values):
        widths = shape(text)
        for lam in (float(lams[0]), float(lams[-1])):
            if abs(lam) >= MANY and fits(*widths, lam):
                made["lazy" if spans(*widths, lam) else "delayed rich"].append((text, lam))
    return made


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims, each with what was measured here."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    rate = json.loads(results.attrs["settings"])["rate"]
    return [
        *_overlay(found, rate),
        *_tree(found, law, rate),
        *_shapes(found, law, rate),
        *_sequences(found, law, rate),
        *_starts(found, law),
        *_saddles(found, law),
    ]


def _overlay(found: xr.Dataset, rate: float) -> list[Claim]:
    reps = xr.concat([found[f"error_{n}"] for n in ("rep_in", "rep_out", "loss", "kernel_distance")], "name")
    order = -np.log2(found.gd_error).diff("halving").mean(("lam", "halving"))
    return [
        at_most(
            "flow-is-exact",
            "The gradient flow of a real network, integrated, is the closed form: largest relative error of W₂W₁.",
            largest(found.flow_error, "largest of all λ and seeds"),
            1e-7,
            paper="identical curves, no number",
        ),
        at_most(
            "descent-follows",
            "Gradient descent follows it: largest relative error of W₂W₁ along a run, worst λ.",
            over(found.error_function.max("lam"), "seed"),
            rate,
            paper="identical curves, no number",
        ),
        at_most(
            "representations-follow",
            "So do both representations, the loss and the tangent kernel (from the network itself): worst of all.",
            over(reps.max(("name", "lam")), "seed"),
            2 * rate,
            paper="identical curves, no number",
        ),
        within(
            "error-halves",
            "Half the learning rate, half the error: −log2 of the ratio, mean over λ and halvings.",
            over(order, "seed"),
            0.9,
            1.1,
            paper="not in the paper; first order",
        ),
        at_most(
            "bookkeeping",
            "What a step does to the balance is η²(g₂ᵀg₂ − g₁g₁ᵀ), and nothing else: sum over all steps, over |Q|².",
            largest(found.books_error),
            ROUNDING,
            paper="derived here",
        ),
        at_most(
            "plain-is-torch",
            "The batched descent used below is torch's SGD on modules: largest difference of W₂W₁.",
            largest(found.plain_error),
            1e-10,
            paper="a check of this program",
        ),
    ]


def _tree(found: xr.Dataset, law: xr.Dataset, rate: float) -> list[Claim]:
    balanced = [name for name in found.begin.values if name.startswith("λ")]
    gram, said = found.gram.sel(begin=balanced), law.gram.sel(begin=balanced)
    off = np.abs(gram - said).max(("row", "column")) / np.abs(said).max(("row", "column"))
    scores = [n for n in map(str, law.data_vars) if n.startswith("score_")]
    missed = xr.concat([abs(found[n] - law[n]) for n in scores], "name")
    both = xr.concat([found.score_in_end, found.score_out_end], "side").min("side")
    made = [
        at_most(
            "tree-modes",
            "Modes of the tree are learned when predicted, from balanced and from Gaussian starts: largest relative "
            "error of a singular value.",
            over(found.modes_error.max("begin"), "seed"),
            6 * rate,
            paper="identical curves, no number",
        ),
        at_most(
            "tree-corners",
            "At the end QQᵀ is what λ and the task say, both corners: largest relative error, balanced starts.",
            over(off.max("begin"), "seed"),
            rate,
            paper="pictures",
        ),
        at_most(
            "tree-scores",
            "Cosines of both representations with the task's are the closed form, for all λ: largest difference.",
            over(missed.max(("name", "tree_lam")), "seed"),
            rate,
            paper="curves of task-specificness",
        ),
        at_least(
            "small-start-is-rich",
            "After a small Gaussian start both representations carry the task: the smaller task-specificness.",
            over(both.sel(begin="Gaussian, 0.001"), "seed"),
            0.99,
            paper="pictures",
        ),
        at_most(
            "large-gaussian-keeps-its-start",
            "After a large Gaussian start they do not: the smaller task-specificness.",
            over(both.sel(begin="Gaussian, 0.42"), "seed"),
            0.97,
            paper="pictures",
        ),
        within(
            "tree-learning-time",
            "Time to a loss of 1e-3 over its prediction, mean over λ.",
            over((found.learned_time / law.learned_time).mean("tree_lam"), "seed"),
            1 - 5 * rate,
            1 + 5 * rate,
            paper="steps fall with |λ|",
        ),
    ]
    lams = found.tree_lam.values
    large = np.abs(lams) >= 5
    if len(set(np.abs(lams[large]))) >= 2:
        x = np.log(np.abs(lams[large]))
        slopes = [np.polyfit(x, np.log(row.values[large]), 1)[0] for row in found.learned_time]
        made.append(
            within(
                "learning-time-power",
                "That time falls as a power of |λ| near −1 for |λ| ≥ 5 (and not exponentially): the power.",
                over(xr.DataArray(slopes, dims="seed"), "seed"),
                -1.1,
                -0.75,
                paper="read there as about exponential",
            )
        )
    return made


def _shapes(found: xr.Dataset, law: xr.Dataset, rate: float) -> list[Claim]:
    off = np.abs(found.moved_at_end / law.moved_at_end - 1).mean(("shape", "shape_lam"))
    made = [
        at_most(
            "kernel-moves-as-said",
            "The kernel moves as far as the closed form says, all shapes and |λ| ≤ 10: mean relative error.",
            over(off, "task"),
            3 * rate,
            paper="no number",
        )
    ]
    lams = set(found.shape_lam.values.tolist())
    cells = kinds(found)
    for text, lam in cells["lazy"]:
        if lam / 10 in lams:
            pair = [law.moved.sel(shape=text, shape_lam=one) for one in (lam, lam / 10)]
            made.append(
                within(
                    f"lazy({text}; {lam:g})",
                    f"({text}), λ = {lam:g}: the large layer spans its side, and the kernel moves as λ⁻⁴: the power.",
                    over(np.log10(pair[0] / pair[1]), "task"),
                    -4.2,
                    -3.8,
                    paper="lazy for large |λ|",
                )
            )
    for text, lam in cells["delayed rich"]:
        nearer = lam / 10 if lam / 10 in lams else lam
        if has(found.moved_late.sel(shape=text, shape_lam=nearer)):
            seen, said = (x.moved_late.sel(shape=text, shape_lam=nearer) for x in (found, law))
            made.append(
                at_most(
                    f"turns-as-said({text}; {nearer:g})",
                    f"({text}), λ = {nearer:g}: followed along the flow the kernel moves as predicted: mean relative "
                    "error.",
                    over(np.abs(seen / said - 1), "task"),
                    1e-3,
                    paper="no number",
                )
            )
        made.append(
            at_least(
                f"not-lazy({text}; {lam:g})",
                f"({text}), λ = {lam:g}: the large layer does not span its side, and the kernel moves for good: S(0, "
                "∞).",
                over(law.moved.sel(shape=text, shape_lam=lam), "task"),
                0.03,
                paper="delayed rich, no number",
            )
        )
        if lam / 10 in lams:
            times = [law.half_time.sel(shape=text, shape_lam=one) for one in (lam, lam / 10)]
            made.append(
                within(
                    f"delay({text}; {lam:g})",
                    f"({text}): half of it takes |λ| times as long: power of |λ| from {lam / 10:g} to {lam:g}.",
                    over(np.log10(times[0] / times[1]), "task"),
                    0.85,
                    1.15,
                    paper="delayed, no number",
                )
            )
    return made


def _sequences(found: xr.Dataset, law: xr.Dataset, rate: float) -> list[Claim]:
    size = float(np.abs(law.rise).max())
    other = np.abs(found.rise_first - law.rise.isel(learned_task=0)).max(("rise_lam", "turn")) / size
    made = [
        at_most(
            "tasks-in-sequence",
            f"Task after task W₂W₁ is as predicted from the very first weights, by GD with η = {sequences.RATE:g}: "
            "largest "
            "relative error.",
            over(found.sequence_error.max("stage"), "seed"),
            2 * sequences.RATE,
            paper="identical curves, no number",
        ),
        at_most(
            "forgetting",
            "What is forgotten of a task is ½(|Σ_k − Σ_i|² − |Σ_j − Σ_i|²): largest error over the largest.",
            over(np.abs(found.rise - law.rise).max(("learned_task", "turn")) / size, "seed"),
            1e-4,
            paper="an identity",
        ),
        at_most(
            "forgetting-knows-no-lambda",
            "The same at λ = −5, −1, 1, 5: what is forgotten does not depend on λ.",
            over(other, "seed"),
            1e-4,
            paper="an identity",
        ),
        at_most(
            "rebalanced-same-function",
            "A trained pair is given another λ without a change of its function.",
            largest(found.kept_function),
            ROUNDING,
            paper="by construction",
        ),
    ]
    tuned = np.abs(found.tuned_moved / law.tuned_moved - 1).where(found.tuned_lam != 0)
    made.append(
        at_most(
            "fine-tuning-as-said",
            "Fine-tuned on another task from every λ ≠ 0 the kernel moves as predicted: mean relative error.",
            over(tuned.mean("tuned_lam"), "pair"),
            2 * rate,
            paper="not seen",
        )
    )
    lams = found.turned_lam.values
    if 0.0 in lams:
        strengths = found.turned_mode.values
        never = found.late_loss.sel(turned_lam=0.0) / (0.5 * (strengths**2).sum())
        made.append(
            within(
                "reversal-never",
                "Turned round from λ = 0 the network forgets the old task and stays there: loss at t = 20 over ½|Σ|².",
                exact(never, "one run"),
                0.99,
                1.01,
                paper="reversal fails at λ = 0",
            )
        )
    positive = lams > 0
    if positive.any():
        off = np.abs(found.crossing / law.crossing - 1).isel(turned_lam=positive)
        made.append(
            at_most(
                "reversal-crossing",
                "From any other λ every mode passes zero when predicted: largest relative error.",
                largest(off, "largest of all λ and modes"),
                rate,
                paper="derived here",
            )
        )
        off = np.abs(found.relearned / law.relearned - 1).isel(turned_lam=positive)
        made.append(
            at_most(
                "reversal-relearned",
                "And 0.1 % of the first loss is reached when predicted: largest relative error.",
                largest(off, "largest of all λ"),
                2 * rate,
                paper="derived here",
            )
        )
    return made


def _starts(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    z = np.abs(found.lam_star.mean("draw") - law.lam_star) / (found.lam_spread / found.sizes["draw"] ** 0.5)
    lowest = found.residual.mean(("init", "init_shape"))
    top = {"std": starts.STDS[0], "size": int(found["size"].values[-1])}
    power = np.log10(
        found.approximate_function.sel(std=starts.STDS[0]) / found.approximate_function.sel(std=starts.STDS[1])
    )
    made = [
        at_most(
            "initial-lambda",
            "λ* of LeCun, Glorot, He and PyTorch layers is the expected one: largest deviation in standard errors.",
            largest(z, "largest of 12 means over 20 draws"),
            4,
            unit="σ",
            paper="formulas for wide layers",
        ),
        at_most(
            "initial-residual",
            "And so is the share of W₂ᵀW₂ − W₁W₁ᵀ that is not λ*I: largest difference of the mean.",
            largest(np.abs(found.residual.mean("draw") - law.residual)),
            0.02,
            paper="derived here",
        ),
        at_least(
            "gaussian-is-not-balanced",
            "None of these is λ-balanced: that share, mean over kinds and shapes.",
            over(lowest, "draw"),
            0.85,
            paper="said to hold in wide layers",
        ),
        at_least(
            "gaussian-is-not-exact",
            "With λ* the exact solution is wrong for a Gaussian start of std 1/√n: representations, relative.",
            over(found.approximate_rep.sel(top), "gaussian", "starts"),
            0.2,
            paper="not in the paper",
        ),
        within(
            "small-gaussian-is-nearly",
            "The error of the function falls as the square of the standard deviation: power from 0.1/√n to 1/√n.",
            over(power.mean("size"), "gaussian", "starts"),
            1.8,
            2.3,
            paper="not in the paper",
        ),
    ]

    def worst(name: str, activation: str, end: str) -> Estimate:
        last = found[name].sel(activation=activation).isel(piece=-1)
        means = last.mean("trial")
        balance = means.idxmax("balance") if end == "most" else means.idxmin("balance")
        return over(last.sel(balance=balance), "trial")

    for activation, name, words in (
        ("linear", "trace_change", "linear networks conserve tr(W₂ᵀW₂ − W₁W₁ᵀ)"),
        ("relu", "trace_change", "ReLU networks conserve tr(W₂ᵀW₂ − W₁W₁ᵀ)"),
        ("relu", "diagonal_change", "ReLU networks conserve the diagonal, unit by unit"),
    ):
        made.append(
            at_most(
                f"{activation}-{name.removesuffix('_change')}",
                f"Through two tasks {words}: change over |Q|², worst λ; what is left is the step's.",
                worst(name, activation, "most"),
                starts.RATE,
                paper="constant",
            )
        )
    made += [
        at_least(
            "relu-off-diagonal",
            "They do not conserve what is off the diagonal: change over |Q|², worst λ.",
            worst("off_diagonal_change", "relu", "most"),
            0.05,
            paper="moves away from λI",
        ),
        at_least(
            "tanh-trace",
            "tanh networks conserve nothing: change of the trace over |Q|², worst λ.",
            worst("trace_change", "tanh", "most"),
            0.05,
            paper="falls",
        ),
    ]
    return made


def _saddles(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    held, measured = law.stopped_loss > 0, found.stopped_loss > starts.WEAKEST**2 / 4
    slopes = [
        -np.polyfit(np.log(found.eta.values), column, 1)[0] * starts.WEAKEST
        for column in found.left.values.T
        if np.isfinite(column).all()
    ]
    return [
        at_least(
            "determinants-decide",
            "λ = 0, square: the sign of det(W₂W₁) det(Σ) says of every start whether it ever learns: share of right "
            "ones.",
            exact((held == measured).mean(), f"all {held.size} starts"),
            1,
            paper="derived here",
        ),
        within(
            "half-never-learn",
            "Half of all starts do not: the share.",
            over(measured.astype(float).rename(None), "start"),
            0.3,
            0.7,
            paper="derived here",
        ),
        at_most(
            "plateau-height",
            "They stop at a loss of ½ s_min²: mean relative deviation.",
            over(np.abs(found.stopped_loss / law.stopped_loss.where(held) - 1), "start"),
            0.02,
            paper="derived here",
        ),
        within(
            "descent-leaves",
            "Gradient descent leaves that plateau, as its steps let λ drift, after a time that grows as ln(1/η)/s_min: "
            "the factor.",
            over(xr.DataArray(slopes, dims="start"), "start"),
            0.85,
            1.15,
            paper="derived here",
        ),
    ]
