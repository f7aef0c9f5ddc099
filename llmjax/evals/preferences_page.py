"""The report on a reward model as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import report
from llmjax.data.comparison_corpus import ComparisonCorpus
from llmjax.data.comparison_rows import ComparisonRows
from llmjax.data.comparisons import text_of
from llmjax.evals import preferences
from llmjax.evals.preferences import Pairs
from llmjax.train import outputs
from llmjax.train.record import Recorder

NUM_MISTAKES = 12
CALIBRATED = """<p>The line is a model that is right exactly as often as it says. Each
mark is as many held-out pairs, with its 95 % interval.</p>"""


def write(
    folder: Path,
    config: dict[str, Any],
    record: Recorder,
    corpus: ComparisonCorpus,
    pairs: Pairs,
    warnings: Sequence[str],
    figures: Mapping[str, Any],
) -> None:
    """summary.json and report.html: what one should know before a policy is trained
    against the model, and its training.

    figures: of `preferences.measure`, with others that the summary should have.
    """
    said = warnings or ["None of the usual faults were found."]
    sections = [
        ("Fit to be trained against?", report.table([{"finding": w} for w in said])),
        ("Calibration", calibration_chart(pairs) + CALIBRATED),
        ("Accuracy by distance", report.table(preferences.by_size(pairs))),
        ("Length", report.table(preferences.by_length(figures, pairs))),
        ("Worst mistakes", "".join(map(_block, mistakes(pairs, corpus.validation)))),
        ("Comparisons", report.table(corpus.tally.rows())),
    ]
    summary = record.summary() | figures
    outputs.write(folder, "Reward model", config, record, summary, sections)
    outputs.print_table([{"": k, "held out": v} for k, v in figures.items()])
    for line in warnings:
        print(f"warning: {line}")
    print(f"report: {folder}/report.html")


def calibration_chart(pairs: Pairs) -> str:
    """The share of pairs that are right, by the probability that the model gives."""
    bins = preferences.calibration(pairs)
    found = report.Series(
        "held-out pairs",
        [one.predicted for one in bins],
        [one.observed for one in bins],
        "marks",
        [(one.low, one.high) for one in bins],
    )
    ideal = report.Series("as sure as right", [0.5, 1.0], [0.5, 1.0], "dashed")
    return report.line_chart(
        [found, ideal], x_label="predicted probability", y_label="share that is right"
    )


def mistakes(
    pairs: Pairs, rows: ComparisonRows, num: int = NUM_MISTAKES
) -> list[dict[str, Any]]:
    """The pairs about which the model is wrong, and surest; one of each example."""
    found, seen = [], set()
    for index in np.argsort(pairs.gap, kind="stable"):
        row = int(pairs.row[index])
        if pairs.gap[index] > 0 or len(found) == num:
            break
        if row in seen:
            continue
        seen.add(row)
        comparison = rows.examples[row].comparison
        better, worse = (
            text_of(comparison.answers[which[index]])
            for which in (pairs.better, pairs.worse)
        )
        sure = float(preferences.sigmoid(-pairs.gap[index]))
        found.append(
            {
                "prompt": text_of(comparison.prompt), "people prefer": better,
                "the model prefers": worse, "its probability": round(sure, 3),
                "where": comparison.where,
            }
        )  # fmt: skip
    return found


def _block(mistake: Mapping[str, Any]) -> str:
    sure = f"the model prefers, with probability {mistake['its probability']}:"
    text = f"people prefer:\n{mistake['people prefer']}\n\n"
    text += f"{sure}\n{mistake['the model prefers']}"
    return report.text_block(text, f"{mistake['prompt']}  ({mistake['where']})")
