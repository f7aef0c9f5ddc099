"""The page of `experiments/review_rlhf.py`: answers before and after, and judges."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmjax import report
from llmjax.data import baselines, labelled
from llmjax.rl import page, reward
from llmjax.train.outputs import print_table
from llmjax.train.workdir import write_json

L2 = 1.0  # of the judge that counts words
MIN_GAIN, MAX_KL = 1.0, 10.0  # deviations, and nats an answer
BIN_WORDS = 5  # answers are of equal length where they fall into one bin

Rows = Sequence[dict[str, Any]]


def write(
    folder: Path, judge: Path, liked: Path, longer: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Writes summary.json and report.html, prints both tables; returns the summary.

    judge: the workdir of the reward model. liked, longer: those of the policies that
    followed it, and length.
    """
    model, praises = reward.load(judge), word_judge()
    rows, kept = [], {}
    for name, run in (("before", liked), ("liked", liked), ("longer", longer)):
        found = read_answers(run, "before" if name == "before" else "after")
        texts = [row["answer"] for row in found]
        scores = model.score([row["prompt"] for row in found], texts)
        kept[name] = texts, scores
        rows.append({
            "policy": name, "score": float(scores.mean()),
            "deviation": float(scores.std()),
            "words": float(np.mean([len(text.split()) for text in texts])),
            "praise, by words": praises(texts), "variety": page.distinct_pairs(texts),
            "KL": 0.0 if name == "before" else summary_of(run)["KL"],
        })  # fmt: skip
    said = verdicts(rows, kept)
    samples = [
        {"film": row["prompt"], "before": before, "after": after, "longer": long}
        for row, before, after, long in zip(
            found, *(texts for texts, _ in kept.values()), strict=True
        )
    ]  # fmt: skip
    summary = {"said": said, "policies": rows, "settings": settings}
    write_json(folder / "summary.json", summary)
    sections = [
        ("What came out", report.key_values(said)),
        ("Policies, asked about films that they never met", report.table(rows)),
        ("Answers", report.table(samples)),
        ("Settings", report.key_values(settings)),
    ]
    report.write(folder / "report.html", "Reviews that are liked", sections)
    print_table(rows)
    print_table(samples[:4])
    for name, text in said.items():
        print(f"{name}: {text}")
    print(f"report: {folder}/report.html")
    return summary


def word_judge() -> Callable[[Sequence[str]], float]:
    """(texts) -> the share that reads as praise to someone who only counts words."""
    classify = baselines.word_classifier(labelled.rotten_tomatoes(), l2=L2)
    return lambda texts: float(np.mean([one == "fresh" for one in classify(texts)]))


def read_answers(run: Path, when: str) -> list[dict[str, Any]]:
    """{prompt, answer} of the held-out prompts, "before" or "after" a run."""
    lines = (run / page.ANSWERS).read_text(encoding="utf-8").splitlines()
    return [
        {"prompt": row["prompt"], "answer": row[when]} for row in map(json.loads, lines)
    ]


def summary_of(run: Path) -> dict[str, Any]:
    """What a run of ppo.py came to."""
    return json.loads((run / "summary.json").read_text(encoding="utf-8"))


def verdicts(rows: Rows, kept: dict[str, tuple[list[str], np.ndarray]]) -> dict:
    """The gain in deviations of the scores before, its KL, and what is not of it."""
    before, liked, longer = rows
    gain, control = (
        (row["score"] - before["score"]) / before["deviation"]
        for row in (liked, longer)
    )
    equal = gain_at_equal_length(kept["before"], kept["liked"]) / before["deviation"]
    word = "met" if gain >= MIN_GAIN and liked["KL"] < MAX_KL else "MISSED"
    return {
        "reward": f"{gain:+.2f} deviations at {liked['KL']:.1f} nats; {word}: "
        f"{MIN_GAIN:+.0f} under {MAX_KL:.0f}",
        "at equal length": f"{equal:+.2f} deviations",
        "praise, by words": f"{before['praise, by words']:.0%} before, "
        f"{liked['praise, by words']:.0%} after",
        "the control": f"{longer['words']:.1f} words, {before['words']:.1f} before; "
        f"{control:+.2f} deviations of the reward that it did not follow",
    }


def gain_at_equal_length(
    before: tuple[list[str], np.ndarray], after: tuple[list[str], np.ndarray]
) -> float:
    """The gain in score among answers of as many words: the mean over bins of lengths,
    weighted by the answers after; bins without an answer before are left out."""
    old, new = (
        (np.array([len(text.split()) // BIN_WORDS for text in texts]), scores)
        for texts, scores in (before, after)
    )
    found = [
        (np.mean(new[1][new[0] == one]) - np.mean(old[1][old[0] == one]), num)
        for one, num in zip(*np.unique(new[0], return_counts=True), strict=True)
        if (old[0] == one).any()
    ]
    if not found:
        return 0.0
    gains, counts = map(np.array, zip(*found, strict=True))
    return float((gains * counts).sum() / counts.sum())
