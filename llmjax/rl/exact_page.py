"""The page of `experiments/exact_rlhf.py`: policies beside the best there are."""

from pathlib import Path

import numpy as np

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.report import Series
from llmjax.rl import exact
from llmjax.rl.exact import Point
from llmjax.train.outputs import print_table
from llmjax.train.workdir import write_json

BETAS = np.geomspace(0.05, 20, 40)


def frontier(reference: np.ndarray, reward: np.ndarray) -> list[Point]:
    """The best policies, from the reference on."""
    best = [exact.optimum(reference, reward, beta) for beta in BETAS[::-1]]
    points = [exact.measure(one, reference, reward) for one in best]
    return [Point(0.0, float((np.exp(reference) * reward).sum())), *points]


def write(
    folder: Path,
    reference: np.ndarray,
    reward: np.ndarray,
    beta: float,
    found: dict[str, list[Point]],
) -> list[dict]:
    """Writes summary.json, report.html and the plot; prints and returns the table."""
    best = exact.measure(exact.optimum(reference, reward, beta), reference, reward)
    rows = [_row("best possible", [best], best, beta, reference, reward)]
    rows += [
        _row(name, points, best, beta, reference, reward)
        for name, points in found.items()
    ]
    line = frontier(reference, reward)
    series = [Series("best possible", *zip(*line, strict=True), "line")]
    series += [
        Series(name, *zip(*points, strict=True), "marks")
        for name, points in found.items()
    ]
    chart = Chart(
        "Reward at each distance", series, "KL from the reference, nats",
        "reward, standard deviations", log_x=False,
        caption="Both are sums over all answers. No policy can lie above the line.",
    )  # fmt: skip
    write_json(folder / "summary.json", {row["policy"]: row for row in rows})
    sections = [("Policies", report.table(rows)), charts.section(chart)]
    report.write(folder / "report.html", "RLHF with a known answer", sections)
    charts.write_pngs(folder, {"frontier": chart})
    print_table(rows)
    print(f"report: {folder}/report.html")
    return rows


def _row(name, points, best, beta, reference, reward) -> dict:
    last = points[-1]
    above = max(
        one.exact_reward - exact.most_reward(reference, reward, one.exact_kl)
        for one in points
        if one.exact_kl > 1e-3
    )
    return {
        "policy": name, "J": last.objective(beta), "KL": last.exact_kl,
        "reward": last.exact_reward, "above frontier": above,
        "share of best J": last.objective(beta) / best.objective(beta),
    }  # fmt: skip
