"""The table, the page and the summary of `experiments/grpo_arithmetic.py`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.data.baselines import bootstrap_interval
from llmjax.metrics import read_jsonl
from llmjax.report import Series
from llmjax.rl.verifiable import is_right, solve
from llmjax.rl.verified import NUM_DRAWS, Tried, pass_at
from llmjax.train import outputs, workdir

CONTROL = "shuffled"  # in the name of an arm
BAR_BEFORE = (0.4, 0.7)  # of the sums right
BAR_GAIN = 0.2  # by rewards, at least
BAR_CONTROL = 0.03  # by shuffled ones, at most
BAR_KL = 1.0  # nats an answer, at most
BAR_SECS = 300  # of a run of GRPO, at most
NUM_SHOWN = 12  # sums


class Arm(NamedTuple):
    """Models made alike, one a seed: their workdirs, and what they make of the sums."""

    name: str
    folders: list[Path]
    tried: list[Tried]

    def right(self, sums: Sequence[str]) -> dict[str, np.ndarray]:
        """Of each sum the chance to be answered rightly, [seeds, sums]."""
        return {
            "likeliest": np.stack([is_right(sums, one.written) for one in self.tried]),
            "drawn": self.solved(1),
            f"one of {NUM_DRAWS}": self.solved(NUM_DRAWS),
        }

    def solved(self, k: int) -> np.ndarray:
        """The chance that one of k drawn answers is right, [seeds, sums]."""
        return np.stack([pass_at(one.num_right, k) for one in self.tried])

    @property
    def kl(self) -> float:
        return float(np.mean([one.kl for one in self.tried]))

    @property
    def secs(self) -> float:
        """What the slowest run took."""
        files = (one / "summary.json" for one in self.folders)
        return max(json.loads(file.read_text())["secs"] for file in files)


def write(
    folder: Path, arms: Sequence[Arm], sums: Sequence[str], settings: dict[str, Any]
) -> None:
    """Writes summary.json, report.html and PNGs; prints what matters of them.

    arms: the adders, and what was made of them, all of the same seeds.
    """
    rows, said, drawn = table(arms, sums), verdicts(arms, sums), make_charts(arms)
    summary = {"said": said, "models": rows, "settings": settings}
    workdir.write_json(folder / "summary.json", summary)
    sections = [
        ("What came out", report.key_values(said)),
        ("Right answers to held-out sums, % (95 %)", report.table(rows)),
        *map(charts.section, drawn.values()),
        ("Likeliest answers, of the first seed", report.table(samples(arms, sums))),
        ("Settings", report.key_values(workdir.as_json(settings))),
    ]
    report.write(folder / "report.html", "Rewards that can be checked", sections)
    charts.write_pngs(folder, drawn)
    outputs.print_table(rows)
    for name, text in said.items():
        print(f"{name}: {text}")
    print(f"report: {folder}/report.html")


def table(arms: Sequence[Arm], sums: Sequence[str]) -> list[dict[str, Any]]:
    """A row an arm."""
    rows = []
    for arm in arms:
        row: dict[str, Any] = {"model": arm.name}
        for name, values in arm.right(sums).items():
            low, high = _span(values)
            row[name] = f"{100 * values.mean():.1f} ({low:.1f} to {high:.1f})"
        rows.append(row | {"KL": round(arm.kl, 3), "secs": round(arm.secs)})
    return rows


def _span(values: np.ndarray) -> tuple[float, float]:
    """95 %, in points, of [seeds, sums]: both are drawn again."""
    low, high = bootstrap_interval(values, np.random.default_rng(0))
    return 100 * low, 100 * high


def verdicts(arms: Sequence[Arm], sums: Sequence[str]) -> dict[str, str]:
    """The bars, for the likeliest answers and for drawn ones."""
    adders, *tuned = arms
    before, (low, high) = adders.right(sums), BAR_BEFORE
    share = before["drawn"].mean()  # which is what is rewarded
    word = _met(low <= share <= high)
    said = {adders.name: f"{share:.1%} right, drawn; {word}: {low:.0%} to {high:.0%}"}
    for arm in tuned:
        is_control = CONTROL in arm.name
        after = arm.right(sums)
        for name in ("likeliest", "drawn"):
            gains = after[name] - before[name]
            low, high = _span(gains)
            text = f"{100 * gains.mean():+.1f} points ({low:+.1f} to {high:+.1f})"
            if is_control:
                word = _met(gains.mean() < BAR_CONTROL)
                text += f"; {word}: under {100 * BAR_CONTROL:+.0f}"
            else:
                word = _met(gains.mean() >= BAR_GAIN)
                text += f"; {word}: {100 * BAR_GAIN:+.0f}"
            said[f"{arm.name}, {name}"] = text
        if not is_control:
            said[f"{arm.name}, KL"] = (
                f"{arm.kl:.2f} nats an answer; {_met(arm.kl < BAR_KL)}: under {BAR_KL}"
            )
            said[f"{arm.name}, time"] = (
                f"{arm.secs:.0f} s; {_met(arm.secs < BAR_SECS)}: under {BAR_SECS}"
            )
    return said


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def make_charts(arms: Sequence[Arm]) -> dict[str, Chart]:
    """By the names of their files."""
    tuned, ks = arms[1:], [2**power for power in range(NUM_DRAWS.bit_length())]
    solved = [
        Series(arm.name, ks, [float(arm.solved(k).mean()) for k in ks], "marks")
        for arm in arms
    ]
    return {
        "reward": Chart(
            "Right answers while they are rewarded", _curves(tuned, "reward"),
            "iteration", "right, of the sums of an iteration", log_x=False,
            caption="Shuffled rewards have the same mean as the rewards.",
        ),
        "kl": Chart(
            "Way from the adder", _curves(tuned, "kl"), "iteration",
            "KL, nats an answer", log_x=False,
        ),
        "solved": Chart(
            "Sharper, or taught?", solved, "answers drawn to each sum",
            "sums with a right one among them",
            caption="If only what was likely before became likelier, all would meet "
            "on the right.",
        ),
    }  # fmt: skip


def _curves(arms: Sequence[Arm], figure: str) -> list[Series]:
    """A figure of every iteration of every run."""
    drawn = []
    for arm in arms:
        for seed, folder in enumerate(arm.folders):
            found = read_jsonl(folder / "metrics.jsonl")
            xs, ys = [one["step"] for one in found], [one[figure] for one in found]
            drawn.append(Series(f"{arm.name}, seed {seed}", xs, ys))
    return drawn


def samples(arms: Sequence[Arm], sums: Sequence[str]) -> list[dict[str, str]]:
    """Some sums, and what each model of the first seed writes."""
    return [
        {"asked": sums[number], "right": solve(sums[number])}
        | {arm.name: arm.tried[0].written[number] for arm in arms}
        for number in range(min(NUM_SHOWN, len(sums)))
    ]
