"""What an experiment with rewards leaves: figures, answers before and after, health."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmjax import distributed, report
from llmjax.data import sources
from llmjax.data.prompts import PromptCorpus
from llmjax.data.tokenizer import Tokenizer
from llmjax.rl.health import Panel
from llmjax.train import outputs
from llmjax.train.outputs import print_table
from llmjax.train.state import TrainState
from llmjax.train.workdir import write_json, write_text

ANSWERS = "answers.jsonl"  # all of them
NUM_SHOWN = 12


def begin(
    folder: Path,
    config: dict[str, Any],
    tokenizer: Tokenizer,
    corpus: PromptCorpus,
    state: TrainState,
    mesh: Mesh,
) -> None:
    """As `outputs.begin`; and leaves what tools/chat.py needs of a workdir."""
    if distributed.is_first():
        tokenizer.save(folder / "tokenizer.json")
        if corpus.template is not None:
            write_text(folder / "chat_template.jinja", corpus.template)
        print(
            f"prompts: {len(corpus.train.ids)} to learn from, "
            f"{len(corpus.held_out.ids)} held out"
        )
    outputs.begin(folder, config, state, mesh)


def write(
    folder: Path,
    title: str,
    config: dict[str, Any],
    panel: Panel,
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    secs: float,
) -> dict[str, float]:
    """Writes answers.jsonl, summary.json and report.html, and says them in short.

    before, after: of `Asker.try_out`, in the same order.
    """
    last = panel.history[-1] if panel.history else {}
    figures = compare(before, after) | {
        "KL": last.get("kl"), "iterations": last.get("step", 0), "secs": secs,
    }  # fmt: skip
    if not distributed.is_first():
        return figures
    rows = [
        {"prompt": old["prompt"], "before": old["answer"], "score": old["score"],
         "after": new["answer"], "score after": new["score"]}
        for old, new in zip(before, after, strict=True)
    ]  # fmt: skip
    sources.write_jsonl(folder / ANSWERS, rows)
    write_json(folder / "summary.json", figures)
    plain = {
        name: dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one
        for name, one in config.items()
    }
    sections = [
        ("Held-out prompts", report.figures(figures)),
        ("Answers before and after", report.table(rows[:NUM_SHOWN])),
        *panel.sections(),
        ("Config", report.key_values(plain)),
    ]
    report.write(folder / "report.html", title, sections)
    print_table(
        [
            {
                "held out": name,
                "before": figures[name],
                "after": figures[f"{name} after"],
            }
            for name in ("score", "tokens", "variety")
        ]
    )
    print(f"gain: {figures['gain, deviations']:+.2f} deviations of the scores before")
    print(f"report: {folder}/report.html")
    print(f"next: python tools/generate.py --model={folder}")
    return figures


def compare(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Mean scores and lengths, the gain in deviations of the scores before, and how
    many different pairs of words there are: text that repeats itself has few."""
    old, new = (np.array([row["score"] for row in rows]) for rows in (before, after))
    lengths = (np.mean([row["tokens"] for row in rows]) for rows in (before, after))
    variety = (
        distinct_pairs([row["answer"] for row in rows]) for rows in (before, after)
    )
    names = "score", "score after", "tokens", "tokens after", "variety", "variety after"
    values = old.mean(), new.mean(), *lengths, *variety
    figures = dict(zip(names, map(float, values), strict=True))
    deviation = float(old.std())
    figures["gain, deviations"] = (
        float(new.mean() - old.mean()) / deviation if deviation else 0.0
    )
    return figures


def distinct_pairs(texts: Sequence[str]) -> float:
    """Distinct-2 (Li et al. 2016): the share of pairs of words that are different."""
    pairs = [
        pair
        for text in texts
        for pair in zip(text.split(), text.split()[1:], strict=False)
    ]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
