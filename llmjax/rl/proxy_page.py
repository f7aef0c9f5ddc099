"""What `experiments/overoptimisation.py` finds: curves over the distance, and bars."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.report import Series
from llmjax.rl import exact
from llmjax.train.outputs import print_table
from llmjax.train.workdir import write_json

BETAS = np.geomspace(10, 0.05, 20)
NUM_DRAWS = tuple(2**power for power in range(13))


class Place(NamedTuple):
    """Where a policy is: nats from the reference, what the proxy and gold say of it."""

    kl: float
    proxy: float
    gold: float


def place(
    log_probs: np.ndarray, reference: np.ndarray, proxy: np.ndarray, gold: np.ndarray
) -> Place:
    """Exact sums over all answers."""
    kl, score = exact.measure(log_probs, reference, proxy)
    return Place(
        max(kl, 0.0), score, exact.measure(log_probs, reference, gold).exact_reward
    )


def optima(reference: np.ndarray, proxy: np.ndarray, gold: np.ndarray) -> list[Place]:
    """The best policies for a proxy, from near the reference on."""
    best = (exact.optimum(reference, proxy, beta) for beta in BETAS)
    return [place(one, reference, proxy, gold) for one in best]


def best_of_n(
    reference: np.ndarray, proxy: np.ndarray, gold: np.ndarray
) -> list[Place]:
    """The best of 1, 2, 4, ... draws by a proxy."""
    drawn = (exact.best_of(num, reference, proxy) for num in NUM_DRAWS)
    return [place(one, reference, proxy, gold) for one in drawn]


def mean(curves: Sequence[Sequence[Place]]) -> list[Place]:
    """Of the same curve of several proxies, point by point."""
    return [
        Place(*map(float, np.mean(points, axis=0)))
        for points in zip(*curves, strict=True)
    ]


def row(name: str, curve: Sequence[Place]) -> dict:
    """How a curve rises and falls."""
    gold = [one.gold for one in curve]
    peak = int(np.argmax(gold))
    return {
        "policy": name, "gold at KL 1": float(np.interp(
            1.0, [one.kl for one in curve], gold)),
        "peak gold": gold[peak], "at KL": curve[peak].kl, "last gold": gold[-1],
        "last KL": curve[-1].kl, "last proxy": curve[-1].proxy,
        "fall": gold[peak] - gold[-1],
        "proxy only rises": all(
            after.proxy > before.proxy - 0.05
            for before, after in itertools.pairwise(curve)
        ),
    }  # fmt: skip


def gao(curve: Sequence[Place], *, is_drawn: bool) -> tuple[float, float]:
    """(a, b) of gold = d (a - b d), best of n, or d (a - b log d), else; d = sqrt(KL).

    Gao et al. 2022, by least squares over points of d above 0.3.
    """
    d = np.sqrt([one.kl for one in curve])
    gold = np.array([one.gold for one in curve])[d > 0.3]
    d = d[d > 0.3]
    second = d**2 if is_drawn else d * np.log(d)
    a, b = np.linalg.lstsq(np.stack([d, -second], axis=1), gold, rcond=None)[0]
    return float(a), float(b)


def write(
    folder: Path, exact_curves: dict[str, list[Place]], shown: dict[str, dict]
) -> list[dict]:
    """Writes summary.json, report.html and plots; prints and returns the table.

    exact_curves: best policies, by proxy. shown: of some proxies {kind: curve}.
    """
    rows = [row(f"best policy: {name}", one) for name, one in exact_curves.items()]
    rows += [
        row(f"{kind}: {name}", curve)
        for name, curves in shown.items()
        for kind, curve in curves.items()
        if kind != "best policy"
    ]
    figures = {"gold": _chart("Gold reward of the best policy for each proxy", {
        name: [(one.kl, one.gold) for one in curve]
        for name, curve in exact_curves.items()})}  # fmt: skip
    for number, (name, curves) in enumerate(shown.items()):
        lines = {}
        for kind, curve in curves.items():
            lines[f"gold, {kind}"] = [(one.kl, one.gold) for one in curve]
            lines[f"proxy, {kind}"] = [(one.kl, one.proxy) for one in curve]
        figures[f"proxy{number}"] = _chart(f"Proxy and gold: {name}", lines)
    fits = [
        {"curve": f"{kind}: {name}"}
        | dict(zip("ab", gao(curve, is_drawn=kind == "best of n"), strict=True))
        for name, curves in shown.items()
        for kind, curve in curves.items()
    ]
    write_json(folder / "summary.json", {one["policy"]: one for one in rows})
    sections = [
        ("How far a proxy can be trusted", report.table(rows)),
        *map(charts.section, figures.values()),
        ("d (a - b d) of best of n, d (a - b log d) of the others", report.table(fits)),
    ]
    report.write(folder / "report.html", "Over-optimisation of reward models", sections)
    charts.write_pngs(folder, figures)
    names = "policy", "peak gold", "at KL", "fall", "last KL"
    print_table([{name: one[name] for name in names} for one in rows])
    print(f"report: {folder}/report.html")
    return rows


def _chart(title: str, lines: dict[str, list[tuple[float, float]]]) -> Chart:
    series = [
        Series(
            name, [kl**0.5 for kl, _ in points], [reward for _, reward in points],
            "dashed" if name.startswith("proxy") else
            "line" if "best policy" in name else "marks",
        )
        for name, points in lines.items()
    ]  # fmt: skip
    return Chart(
        title, series, "square root of the KL from the reference, nats",
        "reward, standard deviations", log_x=False,
        caption="All are exact sums over all answers.",
    )  # fmt: skip
