"""How well texts are told apart: shares of classes, accuracy, the worst mistakes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from llmjax import report
from llmjax.data.baselines import (
    classification_baselines,
    softmax,
    wilson_interval,
)
from llmjax.data.held_out import Splits
from llmjax.data.label_corpus import LabelledRows
from llmjax.types import Params


def predict(
    logits_fn: Callable, params: Params, texts: LabelledRows, *, batch_size: int = 64
) -> np.ndarray:
    """[texts, classes]: how likely each class is, in the order of `texts`."""
    logits_fn, found = jax.jit(logits_fn), []
    for first in range(0, len(texts), batch_size):
        numbers = np.arange(first, first + batch_size)
        batch = texts.rows(np.minimum(numbers, len(texts) - 1))  # all of one shape
        found.append(np.asarray(logits_fn(params, batch)))
    return softmax(np.concatenate(found)[: len(texts)])


def baselines(sides: Splits) -> dict[str, dict[str, float]]:
    """What is reached without a language model, by name, each as `score` has it."""
    return {
        name: _with_interval(accuracy, len(sides.test))
        for name, accuracy in classification_baselines(*sides).items()
    }


def score(shares: np.ndarray, texts: LabelledRows) -> dict[str, float]:
    """accuracy of the likeliest classes, and low and high, its 95 % interval."""
    is_right = shares.argmax(axis=1) == texts.classes
    return _with_interval(float(is_right.mean()), len(texts))


def _with_interval(accuracy: float, num_texts: int) -> dict[str, float]:
    low, high = wilson_interval(round(accuracy * num_texts), num_texts)
    return {"accuracy": accuracy, "low": low, "high": high}


def mistakes(
    shares: Mapping[str, np.ndarray], texts: LabelledRows, num: int = 20
) -> list[dict[str, str]]:
    """The texts about which the last model is wrong, and surest.

    shares: what `predict` finds, by model. A row has the text, its label, and what each
    model takes it for.
    """
    *_, last = shares.values()
    wrong = np.flatnonzero(last.argmax(axis=1) != texts.classes)
    worst = wrong[np.argsort(-last[wrong].max(axis=1), kind="stable")][:num]
    rows = []
    for index in worst:
        text, label, _ = texts.examples[index]
        guesses = {
            name: f"{texts.labels[one[index].argmax()]} ({one[index].max():.0%})"
            for name, one in shares.items()
        }
        rows.append({"text": text, "label": label} | guesses)
    return rows


def write_report(
    folder: Path,
    rows: Sequence[Mapping],
    curves: Sequence[report.Series],
    shares: Mapping[str, np.ndarray],
    texts: LabelledRows,
) -> None:
    """The scores, the losses by step, and the worst mistakes, as a page."""
    sections = [
        (f"{len(texts)} texts that were not learned", report.table(rows)),
        ("Loss", report.line_chart(curves, x_label="step", y_label="nats")),
        ("Wrong, and sure", report.table(mistakes(shares, texts))),
    ]
    report.write(folder / "report.html", "Texts told apart", sections)
