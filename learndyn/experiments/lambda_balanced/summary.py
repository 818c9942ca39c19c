"""The words and tables of the report."""

import json
import math

import numpy as np
import xarray as xr

from learndyn.experiments.lambda_balanced.claims import over
from learndyn.report.page import Table, number


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    s, found, law = (
        json.loads(results.attrs["settings"]),
        results["measured"].to_dataset(),
        results["predicted"].to_dataset(),
    )
    lams = ", ".join(f"{v:g}" for v in s["lams"])
    run = (
        f"Two-layer linear networks: {s['task']} with {s['hidden']} hidden units at λ = {lams}, a tree of "
        f"{2 ** s['depth']} items, {s['sequence']} tasks in sequence, {len(s['shapes'])} shapes; {s['seeds']} seeds, "
        "float64."
    )
    error, flow = float(found.error_function.max()), float(found.flow_error.max())
    answers = [
        f"The closed form is the gradient flow to {flow:.1g}, and gradient descent with η = {s['rate']:g}/(1 + |λ|) to "
        f"{100 * error:.2g} % of W₂W₁; half the step, half the error."
    ]
    held = law.stopped_loss > 0
    answers.append(
        f"At λ = 0, {int(held.sum())} of {held.size} square starts never learn the weakest mode; the sign of a "
        "determinant "
        f"knew which, in {int((held == (found.stopped_loss > law.stopped_loss.max() / 2)).sum())} of {held.size} cases."
    )
    share = over(found.residual.mean(("init", "init_shape")), "draw").value
    answers.append(
        f"Large |λ| is lazy only where the large layer spans its side. No Gaussian initialisation is λ-balanced: "
        f"{100 * share:.0f} % of W₂ᵀW₂ − W₁W₁ᵀ is not λI."
    )
    return [run, *answers]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    s, found = json.loads(results.attrs["settings"]), results["measured"].to_dataset()
    said = [
        "The loss is the mean over examples of ½|y − W₂W₁x|², and time is learning rate × steps; a loss without ½ "
        "runs at "
        "twice, a sum over P examples at P times this speed. λ > 0: the second layer is the larger one."
    ]
    integrated = found.engine.values == "integrated"
    if integrated.any():
        why = str(found.why.values[integrated].ravel()[0])
        said.append(f"The curves of the overlay are not the closed form but {why}.")
    worst = float(found.approximate_rep.sel(std=1.0).mean())
    said.append(
        f"λ* of a network of your own is a number, not a licence: with it the closed form is off by {100 * worst:.0f} "
        "% in "
        "the representations of Gaussian starts of the usual size."
    )
    if "map_data" not in found:
        said.append("The map on inputs that are not white is left out (map_steps = 0).")
    if 0.0 in s["reversal_lams"]:
        trust = float(found.trust.sel(turned_lam=0.0))
        said.append(
            f"Reversal at λ = 0: the exact answer is never. From t = {trust:.0f} on the rounding of a run may end it."
        )
    return said


def tables(results: xr.DataTree) -> list[Table]:
    """Kernel movement by shape, errors by learning rate, reversal, initialisations, conservation."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    return [
        _shapes(law),
        _halved(found),
        _reversal(found, law),
        _inits(found, law),
        _gaussian(found),
        _conserved(found),
    ]


def _shapes(law: xr.Dataset) -> Table:
    rows = [
        (f"({text})", *(_cell(float(v)) for v in law.moved.sel(shape=text).mean("task").values))
        for text in map(str, law["shape"].values)
    ]
    header = ("d, h, c", *(f"λ = {lam:g}" for lam in law.shape_lam.values))
    caption = (
        f"Mean S(0, ∞) = 1 − cos of the tangent kernels over {law.sizes['task']} random tasks, product scale 0.3, in "
        "closed form. Dash: no network of this shape has this λ. Small corners fall as λ⁻⁴; where the large layer does "
        "not span its side, large |λ| is delayed rich."
    )
    return Table("How far the kernel moves, by shape", header, rows, caption)


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"


def _halved(found: xr.Dataset) -> Table:
    rows = []
    for lam in found.lam.values:
        at = found.sel(lam=lam)
        errors = [number(float(at.gd_error.isel(halving=n).mean())) for n in range(found.sizes["halving"])]
        rows.append((f"{lam:g}", *errors, number(float(at.flow_error.max())), number(float(at.balance_drift.mean()))))
    header = ("λ", *(f"η × {v:g}" for v in found.halving.values), "flow", "drift of the balance")
    caption = (
        "Largest error of W₂W₁ along the run, relative, mean over seeds: gradient descent with the learning rate "
        "halved, "
        "the integrated flow (worst seed), and |ΔB|/|Q|² at the end of the first column, which is exactly "
        "Σ η²(g₂ᵀg₂ − g₁g₁ᵀ)."
    )
    return Table("Error of the overlay", header, rows, caption)


def _reversal(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows = []
    for lam in found.turned_lam.values:
        seen, said = found.sel(turned_lam=lam), law.sel(turned_lam=lam)
        pairs = [f"{number(float(a))} / {number(float(b))}" for a, b in zip(seen.crossing, said.crossing)]
        again = float(seen.relearned)
        rows.append(
            (f"{lam:g}", *pairs, f"{'never' if math.isnan(again) else number(again)} / {number(float(said.relearned))}")
        )
    header = ("λ", *(f"zero of s = {s:g}" for s in found.turned_mode.values), "0.1 % of the first loss")
    caption = "Times of a reversal Σ → −Σ, gradient descent / theory. Never within the run: noise alone ends it."
    return Table("Reversal", header, rows, caption)


def _inits(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for init in map(str, found.init.values):
        for text in map(str, found.init_shape.values):
            seen, said = (x.sel(init=init, init_shape=text) for x in (found, law))
            rows.append((init, f"({text})", f"{float(seen.lam_star.mean()):.3f}", f"{float(said.lam_star):.3f}",
                         f"{float(seen.residual.mean()):.3f}", f"{float(said.residual):.3f}"))  # fmt: skip
    header = ("initialisation", "d, h, c", "λ*", "expected", "not λ*I", "expected")
    caption = "Means over 20 draws of PyTorch layers. The last columns: |B − λ*I| / |B| of B = W₂ᵀW₂ − W₁W₁ᵀ."
    return Table("How balanced initialisations are", header, rows, caption)


def _gaussian(found: xr.Dataset) -> Table:
    rows = []
    for n in found["size"].values:
        at = found.sel(size=n).mean("gaussian")
        cells = [
            f"{100 * float(at.approximate_function.sel(std=s)):.2g} % / "
            f"{100 * float(at.approximate_rep.sel(std=s)):.2g} %"
            for s in found["std"].values
        ]
        rows.append((str(n), *cells))
    header = ("n", *(f"std {s:g}/√n" for s in found["std"].values))
    caption = (
        "Square Gaussian networks under the exact law with their λ*: largest error of W₂W₁ / of the representations "
        "along "
        "the flow, relative (Frobenius); singular values of the task 0.2 to 2."
    )
    return Table("What the closed form is worth at a Gaussian start", header, rows, caption)


def _conserved(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for activation in map(str, found.activation.values):
        for lam in found.balance.values:
            at = found.sel(activation=activation, balance=lam).isel(piece=-1)
            cells = []
            for name in ("trace_change", "diagonal_change", "off_diagonal_change"):
                e = over(at[name], "trial")
                half = "" if not np.isfinite(e.high) else f" ± {e.high - e.value:.1g}"
                cells.append(f"{e.value:.2g}{half}")
            rows.append((activation, f"{lam:g}", *cells))
    header = ("activation", "λ", "trace", "diagonal", "off the diagonal")
    caption = (
        "Change of B = W₂ᵀW₂ − W₁W₁ᵀ through two tasks over |Q|² at the start, mean and 90 % interval over networks."
    )
    return Table("What training conserves", header, rows, caption)
