"""The table, the page and the summary of `experiments/lora_ranks.py`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmjax import charts, report
from llmjax.charts import Chart
from llmjax.data.instructions import Example
from llmjax.evals.instructions import Said, Share, share
from llmjax.report import Series
from llmjax.train import outputs, workdir

FULL, BASE = "all weights", "the base"
MAX_BEHIND = 0.02  # of LoRA's right answers behind full fine-tuning's, at most
MAX_WORSE = 0.02  # of a base in 4 bits: its loss over that of one in 32

Sets = Mapping[str, Sequence[Example]]


def name(rank: int, base: str) -> str:
    """What the run with adapters of that rank is called."""
    return f"rank {rank}" + ("" if base == "float32" else f" {base}")


def write(
    folder: Path,
    sets: Sets,
    said: Mapping[str, Said],
    tuned: Mapping[str, Path],
    middle: int,
    settings: dict[str, Any],
    failed: dict[str, str],
) -> None:
    """Writes summary.json, report.html and a PNG; prints the table and the bars.

    said: what each model answered, by name. tuned: the workdirs of those with runs.
    middle: the rank that the bars are about. failed: {run: why}.
    """
    right = {
        model: {one: share(sets[one], [answers[one]["told"]]) for one in sets}
        for model, answers in said.items()
    }
    rows = [row(model, right[model], tuned.get(model)) for model in said]
    gone = {f"FAILED {model}": why for model, why in failed.items()}
    verdict = verdicts(right, {one["model"]: one for one in rows}, middle) | gone
    chart = Chart(
        "Right answers by rank", curves(right), "rank", "right",
        caption="Bars: 95 %, for other tasks of this sort. Dashed: all weights.",
    )  # fmt: skip
    summary = {"said": verdict, "models": rows, "right": right, "settings": settings}
    workdir.write_json(folder / "summary.json", summary)
    sections = [
        ("What came out", report.key_values(verdict)),
        ("Models", report.table(rows)),
        charts.section(chart),
        ("Settings", report.key_values(settings)),
    ]
    report.write(folder / "report.html", "LoRA by rank", sections)
    charts.write_pngs(folder, {"ranks": chart})
    outputs.print_table(rows)
    for key, text in verdict.items():
        print(f"{key}: {text}")
    print(f"report: {folder}/report.html")


def row(model: str, right: Mapping[str, Share], folder: Path | None) -> dict[str, Any]:
    """A line of the table."""
    told = {one: f"{100 * found.mean:.1f} %" for one, found in right.items()}
    if folder is None:
        return {"model": model} | told
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    files = (folder / "checkpoints").rglob("*")
    num_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return {
        "model": model,
        "trained": summary["num_trained"],
        "checkpoints, MB": round(num_bytes / 1e6, 2),
        "held-out loss": summary["val_loss"],
    } | told


def verdicts(
    right: Mapping[str, Mapping[str, Share]], rows: Mapping[str, dict], middle: int
) -> dict[str, str]:
    """The bars: LoRA beside full fine-tuning, and a base in fewer bits beside LoRA."""
    own, found = name(middle, "float32"), {}
    if FULL in rows and own in rows:
        for one in right[own]:
            behind = right[FULL][one].mean - right[own][one].mean
            word = "met" if behind <= MAX_BEHIND else "MISSED"
            found[f"{own}, {one}"] = (
                f"{100 * behind:.1f} points behind {FULL}; {word}: "
                f"{100 * MAX_BEHIND:.0f} at most"
            )
    for model in rows:
        if own in rows and model.startswith(f"{own} "):
            worse = rows[model]["held-out loss"] / rows[own]["held-out loss"] - 1
            word = "met" if worse <= MAX_WORSE else "MISSED"
            found[model] = (
                f"held-out loss {100 * worse:+.2f} % beside {own}; {word}: "
                f"{100 * MAX_WORSE:.0f} % at most"
            )
    return found


def curves(right: Mapping[str, Mapping[str, Share]]) -> list[Series]:
    """Right answers of each set over the rank, beside those of full fine-tuning."""
    words = {model: model.split() for model in right if model.startswith("rank")}
    plain = [model for model, parts in words.items() if len(parts) == 2]
    ranks = [int(words[model][1]) for model in plain]
    drawn = []
    for one in next(iter(right.values())):
        shares = [right[model][one] for model in plain]
        spans = [(found.low, found.high) for found in shares]
        drawn.append(Series(one, ranks, [s.mean for s in shares], "marks", spans))
        if FULL in right:
            level = [right[FULL][one].mean] * len(ranks)
            drawn.append(Series(f"{one}, {FULL}", ranks, level, "dashed"))
    return drawn
