"""What a person reads of a fit: the table, report.html and the same charts as PNGs."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llmjax import report
from llmjax.charts import Chart, section, write_pngs
from llmjax.report import Series
from llmjax.scaling import compute, isoflop
from llmjax.scaling import law as laws
from llmjax.scaling.law import Cost
from llmjax.train import workdir

MAX_VALLEYS = 5
MAX_NAMED = 4  # budgets left out, in a sentence
PARAMETERS = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")


def table(fit: dict[str, Any]) -> list[dict[str, str]]:
    """The figures that matter, with intervals; beside them, without flagged rows."""
    rows, without = [], fit["flags"]["without"]
    both = [fit] + ([without] if without else [])

    def add(name: str, value, ci95) -> None:
        row = {"": name}
        for index, one in enumerate(both):
            row["unflagged" if index else "fit"] = number(value(one))
            row["its 95 %" if index else "95 %"] = span(ci95(one))
        rows.append(row)

    if "ci95" in fit:
        for name in PARAMETERS:
            if name in fit["parametric"]:
                add(name, lambda f, n=name: f["parametric"][n],
                    lambda f, n=name: f["ci95"].get(n))  # fmt: skip
        add("N* ~ C^", lambda f: f["parametric"]["exponents"]["a"],
            lambda f: f["ci95"]["a"])  # fmt: skip
        names = {"N": "N*", "D": "D*", "tokens_per_param": "D*/N*", "loss": "loss"}
        for index, one in enumerate(fit["predict"]):
            for key, name in names.items():
                add(f"{name} at {number(one['flops'])}",
                    lambda f, i=index, k=key: f["predict"][i][k],
                    lambda f, i=index, k=key: f["ci95"]["predict"][i][k])  # fmt: skip
    for method in isoflop.METHODS:
        line = fit["isoflop"][method]
        if "a" in line:
            rows.append({"": f"N* ~ C^, {method.removesuffix('_parabola')}",
                         "fit": number(line["a"]["exponent"]),
                         "95 %": span(line["a"]["ci95"])})  # fmt: skip
    line = fit["isoflop"].get("optima")
    if line:
        rows.append({"": "N* ~ C^, each row an optimum",
                     "fit": number(line["a"]["exponent"]),
                     "95 %": span(line["a"]["ci95"])})  # fmt: skip
    for name in ("with_E", "without_E"):
        for of, value in zip(fit["method"]["targets"],
                             fit["loss_vs_compute"].get(name, {}).get("predict", []),
                             strict=False):  # fmt: skip
            label = f"L(C) {name.replace('_', ' ')}, {number(of)}"
            rows.append({"": label, "fit": number(value)})
    return rows


def sentences(fit: dict[str, Any]) -> dict[str, str]:
    """Status, warnings and the held-out budget, a line each."""
    told, flags, held = {}, fit["flags"], fit.get("holdout")
    parametric = fit["parametric"]
    if "num_starts" in parametric:
        told["status"] = (
            f"{parametric['status']}; {parametric['starts_at_optimum']:.0%} of "
            f"{parametric['num_starts']} starts reach the optimum, objective "
            f"{parametric['objective']:.6g}, condition number "
            f"{parametric['condition_number']:.3g}"
        )
        if parametric["bounds_hit"]:
            told["at a bound"] = ", ".join(parametric["bounds_hit"])
    for refused in flags["refused"]:
        told["refused"] = f"{refused['parameters']}: {refused['reason']}"
    if flags["rows"]:
        told["flagged"] = "; ".join(f"{r['row']}: {r['reason']}" for r in flags["rows"])
    if flags["notes"]:
        told["notes"] = "; ".join(flags["notes"])
    if held and "left_out" in held:
        told["held out"] = held["left_out"]
    elif held:
        told["held out"] = (
            f"{held['num_runs']} runs of {held['flops']:.3g} FLOPs predicted from the "
            f"rest: off by {held['mean_error_percent']:+.2f} % on average, "
            f"{held['worst_error_percent']:+.2f} % at worst"
        )
    for name, one in fit["loss_vs_compute"].get("holdout", {}).items():
        told[f"held out, L(C) {name.replace('_', ' ')}"] = (
            f"{one['error_percent']:+.2f} %"
        )
    gone = fit["isoflop"]["left_out"]
    if gone:
        more = [f"and {len(gone) - MAX_NAMED} more, in fit.json"] * (
            len(gone) > MAX_NAMED
        )
        told["budgets left out"] = "; ".join(gone[:MAX_NAMED] + more)
    for one in fit.get("predict", []):
        low, high = one["N_within_0.1_percent_of_loss"]
        wrong = one["wrong_by_2x"]
        told[f"around N* at {one['flops']:.3g}"] = (
            f"within 0.1 % of the least loss from {low:.3g} to {high:.3g} parameters; "
            f"half the size wastes {wrong['too_small']['flops_percent']:.0f} % of the "
            f"compute, twice the size {wrong['too_large']['flops_percent']:.0f} %"
        )
    biases = fit["isoflop"]["bias"]
    if biases:
        told["known bias of a"] = ", ".join(
            f"{name.replace('_', ' ')} {one['a']:+.4f}" for name, one in biases.items()
        ) + ": on noise-free losses of the fitted law at these very runs"  # fmt: skip
    return told


def charts(runs: dict[str, Any], fit: dict[str, Any]) -> dict[str, Chart]:
    """By file name."""
    drawn = {"valleys": valleys(runs, fit), "frontier": frontier(runs, fit),
             "loss_vs_compute": loss_vs_compute(fit)}  # fmt: skip
    if "ci95" in fit:
        drawn["errors"] = errors(runs, fit)
    return {name: chart for name, chart in drawn.items() if chart.series}


def valleys(runs: dict[str, Any], fit: dict[str, Any]) -> Chart:
    """Loss over N, of the budgets with most sizes."""
    sizes = [
        (len(np.unique(runs["N"][runs["budget"] == one])), one)
        for one in np.unique(runs["budget"])
    ]
    chosen = sorted(one for size, one in sorted(sizes)[-MAX_VALLEYS:] if size > 2)
    series = []
    for one in chosen:
        of = runs["budget"] == one
        n, loss = runs["N"][of], runs["loss"][of]
        order = np.argsort(n)
        flops = float(np.exp(np.mean(np.log(runs["C"][of]))))
        series.append(Series(f"{flops:.3g} FLOPs", n[order], loss[order], "marks"))
    return Chart("Valleys of equal compute", series, "parameters", "loss")


def frontier(runs: dict[str, Any], fit: dict[str, Any]) -> Chart:
    """N* over FLOPs of every method, and of the law."""
    series = []
    for method in isoflop.METHODS:
        points = [(one["flops"], one[method]["N"]) for one in fit["isoflop"]["budgets"]
                  if "N" in one[method]]  # fmt: skip
        if points:
            series.append(
                Series(method.replace("_", " "), *zip(*points, strict=True), "dots")
            )
    if "ci95" in fit:
        flops = np.geomspace(runs["C"].min(), max(fit["method"]["targets"]), 60)
        cost = Cost(**fit["method"]["cost"])
        best = laws.optimum(fit["parametric"], flops, cost)["N"]
        series.append(Series("the law", flops, best))
        for index, end in enumerate(("low", "high")):
            ends = [(one["flops"], one["N"][index]) for one in fit["ci95"]["predict"]]
            ends = [(flops, n) for flops, n in ends if n is not None]
            if ends:
                series.append(Series(f"95 %, {end}", *zip(*ends, strict=True), "dots"))
    return Chart("Best size", series, "training FLOPs", "parameters", True)


def loss_vs_compute(fit: dict[str, Any]) -> Chart:
    """The frontier of losses, and the laws through it."""
    section, series = fit["loss_vs_compute"], []
    found = section["frontier"]
    series.append(
        Series(f"frontier, {found['of']}", found["flops"], found["loss"], "dots")
    )
    flops = np.geomspace(min(found["flops"]), max(fit["method"]["targets"]), 60)
    for name in ("with_E", "without_E"):
        if name in section:
            curve = compute.at(section[name], flops)
            series.append(Series(name.replace("_", " "), flops, curve))
    if "ci95" in fit:
        cost = Cost(**fit["method"]["cost"])
        best = laws.optimum(fit["parametric"], flops, cost)["loss"]
        series.append(Series("the law at its optimum", flops, best, "dashed"))
    return Chart("Loss and compute", series, "training FLOPs", "loss")


def errors(runs: dict[str, Any], fit: dict[str, Any]) -> Chart:
    """What the law misses, over tokens per parameter; flagged rows apart."""
    predicted = laws.loss(fit["parametric"], runs["N"], runs["D"], runs["unique"])
    percent, ratio = 100 * (runs["loss"] / predicted - 1), runs["D"] / runs["N"]
    names = [row["row"] for row in fit["flags"]["rows"]]
    flagged = np.isin(runs["row"], names)
    series = [Series("runs", ratio[~flagged], percent[~flagged], "dots")]
    if flagged.any():
        series.append(Series("flagged", ratio[flagged], percent[flagged], "dots"))
    return Chart("Errors of the fit", series, "tokens per parameter", "percent")


def write(
    folder: pathlib.Path,
    runs: dict[str, Any],
    fit: dict[str, Any],
    more: Sequence[tuple[str, str]] = (),
    more_charts: Mapping[str, Chart] = {},
) -> list[str]:
    """Writes fit.json, report.html and the PNGs; returns the names of the files.

    more: sections (heading, HTML) at the end; more_charts: by the name of their PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(folder / "fit.json", finite(fit))
    drawn = charts(runs, fit) | dict(more_charts)
    sections = [("Fit", report.table(table(fit)) + report.key_values(sentences(fit)))]
    sections += map(section, drawn.values())
    if fit.get("plan"):
        target = fit["plan"]["target_flops"]
        for name, aim in (("loss", "the loss"), ("N", "N*")):
            title = f"Next runs, to tell {aim} at {target:.3g} FLOPs"
            sections.append((title, report.table(fit["plan"][name])))
    if fit["conventions"]:
        sections.append(("Under each count", report.table(fit["conventions"])))
    held = fit.get("holdout")
    if held and "rows" in held:
        shown = [row | {"ci95": span(row["ci95"])} for row in held["rows"]]
        sections.append(("The top budget, predicted", report.table(shown)))
    sections.append(("Method", report.key_values(fit["method"])))
    report.write(folder / "report.html", "Scaling law", [*sections, *more])
    return ["fit.json", "report.html", *write_pngs(folder, drawn)]


def finite(value: Any) -> Any:
    """The same, with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    is_float = isinstance(value, float)
    return None if is_float and not math.isfinite(value) else value


def show(fit: dict[str, Any]) -> None:
    """Prints the table, and a line on each thing to know about it."""
    rows = table(fit)
    console = Console(highlight=False, soft_wrap=True)
    shown = Table(*dict.fromkeys(key for row in rows for key in row), box=None)
    for row in rows:
        shown.add_row(*(row.get(column.header, "") for column in shown.columns))
    for name, text in sentences(fit).items():
        console.print(f"{name}: {text}", markup=False)
    if rows:  # none of a design that identifies nothing
        shown.columns[0].no_wrap = True
        console.print(shown)


def number(value: float | None) -> str:
    """Four digits; large ones three, with a power of ten: 2.74e9."""
    if value is None:
        return "-"
    if abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}".replace("e+0", "e").replace("e+", "e").replace(".00e", "e")


def span(ci95: list[float | None] | None) -> str:
    return "-" if ci95 is None else f"{number(ci95[0])} to {number(ci95[1])}"
