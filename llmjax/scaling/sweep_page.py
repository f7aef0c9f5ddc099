"""What a person reads of a sweep: the plan before it, and the report after it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from llmjax import report
from llmjax.charts import Chart
from llmjax.report import Series
from llmjax.scaling import folder as folders
from llmjax.scaling import isoflop, report_page
from llmjax.scaling.costs import Cost, total_secs
from llmjax.scaling.jobs import Job, Outcome
from llmjax.scaling.rates import Rule
from llmjax.scaling.sweep import Cell
from llmjax.train.workdir import write_json

MIB = 2**20


def show_plan(
    cells: Sequence[Cell], trials: Sequence[Cell], gone: Sequence[str],
    costs: dict[str, Cost], secs: float, parallel: int,
) -> None:  # fmt: skip
    """The grid as a table of minutes, its FLOPs, and what it takes in all."""
    columns = list(dict.fromkeys(cell.id.partition("_")[0] for cell in cells))
    table = Table("size", "parameters", "ms a step", "MiB", box=None)
    for name in columns:
        table.add_column(name, justify="right")
    for size in sorted(costs, key=lambda size: _params(cells, size)):
        minutes = dict.fromkeys(columns, "-")
        for cell in cells:
            if cell.size == size and cell.seed == cells[0].seed:
                spent = costs[size].secs(cell.num_steps) / 60
                minutes[cell.id.partition("_")[0]] = f"{spent:.1f}"
        cost = costs[size]
        table.add_row(
            size, f"{_params(cells, size):,}", f"{1000 * cost.step_secs:.0f}",
            f"{cost.peak_bytes / MIB:.0f}", *minutes.values(),
        )  # fmt: skip
    console = Console(highlight=False, soft_wrap=True)
    console.print("the grid, in minutes:")
    console.print(table)
    if gone:
        console.print(f"no part of it: {'; '.join(gone)}", style="dim")
    for name, some in (("learning rates", trials), ("grid", cells)):
        flops = sum(cell.flops for cell in some)
        console.print(f"{name}: {len(some)} runs, {flops:.3g} FLOPs")
    console.print(f"about {secs / 60:.0f} minutes, {parallel} at a time")


def _params(cells: Sequence[Cell], size: str) -> int:
    return next(cell.num_params for cell in cells if cell.size == size)


class Watch:
    """Tells of each run that has ended, and keeps runs.jsonl up to date."""

    def __init__(
        self, cells: Sequence[Cell], folder: Path, costs: dict[str, Cost], parallel: int
    ):
        self._cells, self._folder = {cell.id: cell for cell in cells}, folder
        self._costs, self._parallel = costs, parallel
        self._is_grid = bool(cells) and not cells[0].id.startswith("lr_")

    def __call__(self, job: Job, outcome: Outcome) -> None:
        left = [self._cells[name] for name in self._cells if not self._is_done(name)]
        done = len(self._cells) - len(left)
        text = f"FAILED: {outcome.error}"
        if outcome.error is None:
            (line,) = folders.records([self._cells[job.id]], self._folder)
            text = f"loss {line['loss']:.4f}, {outcome.secs:.0f} s"
        minutes = total_secs(left, self._costs, self._parallel) / 60
        text = f"[{done}/{len(self._cells)}] {job.id}: {text}; {minutes:.0f} min left"
        print(text, flush=True)
        if self._is_grid:
            folders.write_runs(list(self._cells.values()), self._folder)

    def _is_done(self, name: str) -> bool:
        return (self._folder / "cells" / name / "summary.json").is_file()


def tell_rule(rule: Rule, rows: Sequence[dict]) -> str:
    """How each run's learning rate was found, in a sentence."""
    if not rows:
        return f"{rule.lr:g} for all sizes, as --optim.lr says; it was tuned to none"
    ends = sum(row["at_end"] for row in rows)
    text = (
        f"{rule.lr:.3g} (N / {rule.num_params:.3g})^{rule.p:.2f} "
        f"(steps / {rule.num_steps:.0f})^{rule.q:.2f}, within {rule.low:.3g} and "
        f"{rule.high:.3g}: through the best of those tried at {len(rows)} places"
    )
    return text + (f"; {ends} of them best at an end of the rates" if ends else "")


def noise(lines: Sequence[dict[str, Any]]) -> float | None:
    """The standard deviation of ln loss over seeds, of the cell that has several."""
    groups: dict[tuple, list[float]] = {}
    for line in lines:
        groups.setdefault((line["N"], line["D"]), []).append(math.log(line["loss"]))
    most = max(groups.values(), key=len)
    return float(np.std(most, ddof=1)) if len(most) > 1 else None


def loss_curves(cells: Sequence[Cell], folder: Path) -> Chart:
    """The training loss of the longest run of each size over the FLOPs spent, and where
    all runs ended: their lower edge is the frontier."""
    done = {line["id"] for line in folders.records(cells, folder)}
    cells = [cell for cell in cells if cell.id in done]
    longest = {cell.size: cell for cell in sorted(cells, key=lambda one: one.num_steps)}
    series = []
    for size, cell in sorted(longest.items(), key=lambda item: item[1].num_params):
        steps = [line for line in folders.curve(cell, folder) if "loss" in line]
        flops = [cell.flops * line["step"] / cell.num_steps for line in steps]
        losses = report.smooth([line["loss"] for line in steps])
        skip = len(steps) // 50  # the first steps would stretch the axis
        series.append(Series(size, flops[skip:], losses[skip:]))
    ends = [(line["C"], line["loss"]) for line in folders.records(cells, folder)]
    series.append(Series("held out, at the end", *zip(*ends, strict=True), "dots"))
    return Chart("Loss curves", series, "training FLOPs", "loss")


def rate_chart(
    trials: Sequence[Cell], losses: dict[str, float], rows: Sequence[dict]
) -> Chart:
    """Loss over learning rate, at each place where rates were tried."""
    series = []
    for row in rows:
        found = sorted(
            (cell.lr, losses[cell.id])
            for cell in trials
            if (cell.size, cell.num_steps) == (row["size"], row["steps"])
            and cell.id in losses
        )
        name = f"{row['size']}, {row['steps']} steps"
        series.append(Series(name, *zip(*found, strict=True), "marks"))
    best = [(row["lr"], row["loss"]) for row in rows]
    series.append(Series("best", *zip(*best, strict=True), "dots"))
    return Chart("Learning rates", series, "learning rate", "loss")


def write(
    folder: Path, runs: dict[str, Any], fit: dict[str, Any], cells: Sequence[Cell],
    trials: Sequence[Cell], rule: Rule, tried: Sequence[dict], failed: dict[str, str],
    gone: Sequence[str],
) -> None:  # fmt: skip
    """fit.json, report.html and its charts: the fit, then how the runs were made."""
    charts = {"loss_curves": loss_curves(cells, folder)}
    if tried:
        losses = folders.losses(trials, folder)
        charts["learning_rates"] = rate_chart(trials, losses, tried)
    lines = folders.records(cells, folder)
    told = {"learning rate": tell_rule(rule, tried)}
    told |= {f"failed, {name}": reason for name, reason in failed.items()}
    told["no part of the grid"] = "; ".join(gone) or "nothing"
    if (spread := noise(lines)) is not None:
        told["noise"] = f"{spread:.2%} of the loss, from seed to seed"
    more = [("Runs", report.table(lines)), ("The sweep", report.key_values(told))]
    report_page.write(folder, runs, fit, more, charts)
    for name, text in told.items():
        print(f"{name}: {text}")


def finish(
    folder: Path, fit: dict[str, Any], cells: Sequence[Cell], failed: dict[str, str],
    secs: float,
) -> None:  # fmt: skip
    """Writes summary.json, and prints the fit and what failed."""
    lines = folders.records(cells, folder)
    summary = {
        "num_runs": len(lines), "failed": failed, "noise": noise(lines),
        "flops": sum(line["C"] for line in lines),
        "run_secs": sum(line["secs"] for line in lines), "secs": secs,
    }  # fmt: skip
    for name in ("parametric", "ci95", "holdout"):
        summary[name] = fit.get(name)
    summary["isoflop"] = {
        method: fit["isoflop"][method] for method in isoflop.METHODS
    } | {"holdout": fit["isoflop"]["holdout"]}  # fmt: skip
    write_json(folder / "summary.json", report_page.finite(summary))
    report_page.show(fit)
    for name, reason in failed.items():
        print(f"FAILED {name}: {reason}; left out of the fit; start again to retry")
    print(f"report: {folder}/report.html")
