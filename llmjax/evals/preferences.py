"""What a reward model is worth, told before anything is trained against it.

All of it is of held-out comparisons: how often the better answer is scored higher,
whether the sure are right more often, and whether length is what is liked.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from llmjax.data.baselines import wilson_interval
from llmjax.data.comparison_rows import ComparisonRows

NUM_BINS = 10  # of the calibration curve, each with as many pairs
NUM_GAPS = 4


class Pairs(NamedTuple):
    """Two answers each, of which people like the first better; arrays over the pairs.

    row, better, worse: the example, and which of its answers.
    prompt: equal where the prompt is. gap: the better one's score minus the other's.
    tokens: how many more tokens the better answer has. margin, gold: likewise, or nan.
    weight: the pairs of an example count once together.
    """

    row: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    prompt: np.ndarray
    gap: np.ndarray
    tokens: np.ndarray
    margin: np.ndarray
    gold: np.ndarray
    weight: np.ndarray

    def take(self, where: np.ndarray) -> "Pairs":
        """Some of the pairs."""
        return Pairs(*(part[where] for part in self))


def pair_up(rows: ComparisonRows, scores: np.ndarray) -> Pairs:
    """All pairs of answers that are not tied; scores: of all answers, in order."""
    found, prompts, first = [], {}, 0
    for row, (comparison, answers) in enumerate(rows.examples):
        scored = scores[first : first + len(answers)]
        first += len(answers)
        prompt = prompts.setdefault(comparison.key, len(prompts))
        pairs = list(comparison.pairs())
        for one, other in pairs:
            gold = comparison.gold
            found.append(
                (
                    row, one, other, prompt, scored[one] - scored[other],
                    answers[one].num_tokens - answers[other].num_tokens,
                    comparison.margin,
                    math.nan if gold is None else gold[one] - gold[other],
                    1 / len(pairs),
                )
            )  # fmt: skip
    if not found:
        raise ValueError("the comparisons held out are all tied; there is no better")
    columns = map(np.array, zip(*found, strict=True))
    return Pairs(*columns)


def measure(pairs: Pairs) -> dict[str, float | None]:
    """The figures of the report, by name; None where there is no such pair."""
    low, high = interval(pairs)
    is_longer, is_shorter = pairs.tokens > 0, pairs.tokens < 0
    figures = {
        "accuracy": accuracy(pairs),
        "accuracy_low": low,
        "accuracy_high": high,
        "pairs": len(pairs.gap),
        "prompts": len(np.unique(pairs.prompt)),
        "calibration_error": calibration_error(pairs),
        "length_correlation": _correlation(pairs.gap, pairs.tokens),
        "accuracy_longer_better": accuracy(pairs.take(is_longer)),
        "accuracy_shorter_better": accuracy(pairs.take(is_shorter)),
        "accuracy_always_longer": always_longer(pairs),
    }
    has_gold = ~np.isnan(pairs.gold) & (pairs.gold != 0)
    if has_gold.any():
        known = pairs.take(has_gold)
        agrees = (known.gap > 0) == (known.gold > 0)
        figures["gold_agreement"] = float(np.average(agrees, weights=known.weight))
        judge = np.average(known.gold > 0, weights=known.weight)
        figures["gold_agreement_of_labels"] = float(judge)
        figures["gold_correlation"] = _correlation(known.gap, known.gold)
    return figures


def accuracy(pairs: Pairs) -> float | None:
    """How often the better answer has the higher score; each example counts once."""
    if not len(pairs.gap):
        return None
    return float(np.average(pairs.gap > 0, weights=pairs.weight))


def always_longer(pairs: Pairs) -> float:
    """How often the better answer is the longer one, which needs no model; of those as
    long a coin takes half."""
    right = (np.sign(pairs.tokens) + 1) / 2
    return float(np.average(right, weights=pairs.weight))


def interval(pairs: Pairs) -> tuple[float, float]:
    """The 95 % interval of the accuracy: Wilson's, of as many pairs as are independent.

    Pairs of one prompt are not. How many they are worth tells the spread of the
    prompts' sums (Kish 1965: the design effect), which is never taken for more.
    """
    num, share = len(pairs.gap), accuracy(pairs)
    off = pairs.weight * ((pairs.gap > 0) - share)
    spread = np.square(np.bincount(pairs.prompt, off)).sum() / pairs.weight.sum() ** 2
    if spread:
        num = min(num, share * (1 - share) / spread)
    num = max(1, round(num))
    return wilson_interval(round(share * num), num)


class Bin(NamedTuple):
    """Pairs that a model is about as sure of: its probability, and what is so."""

    predicted: float
    observed: float
    low: float
    high: float
    pairs: int


def calibration(pairs: Pairs, num_bins: int = NUM_BINS) -> list[Bin]:
    """The shares of right answers, by how sure the model was: from 1/2 to 1.

    predicted: sigmoid(|gap|), the probability of the order that the model takes.
    """
    sure, found = sigmoid(np.abs(pairs.gap)), []
    order = np.argsort(sure, kind="stable")
    for part in np.array_split(order, min(num_bins, len(order))):
        is_right = pairs.gap[part] > 0
        low, high = wilson_interval(int(is_right.sum()), len(part))
        predicted, observed = float(sure[part].mean()), float(is_right.mean())
        found.append(Bin(predicted, observed, low, high, len(part)))
    return found


def calibration_error(pairs: Pairs) -> float:
    """How far the probabilities are off on average (expected calibration error)."""
    bins = calibration(pairs)
    off = sum(abs(one.predicted - one.observed) * one.pairs for one in bins)
    return off / len(pairs.gap)


def by_size(pairs: Pairs) -> list[dict[str, Any]]:
    """The accuracy by how far the answers are apart: in score, in the margin that the
    comparisons have, in gold."""
    rows = []
    for name, sizes in (
        ("score", np.abs(pairs.gap)),
        ("margin", pairs.margin),
        ("gold", np.abs(pairs.gold)),
    ):
        known = np.flatnonzero(~np.isnan(sizes))
        if not len(known) or (name == "margin" and not sizes.any()):
            continue
        for part in _groups(sizes, known):
            some = pairs.take(part)
            low, high = interval(some)
            span = f"{sizes[part].min():.2f} to {sizes[part].max():.2f}"
            rows.append(
                {
                    "apart in": name, "by": span, "pairs": len(part),
                    "accuracy": accuracy(some), "low": low, "high": high,
                }
            )  # fmt: skip
    return rows


def _groups(sizes: np.ndarray, known: np.ndarray) -> list[np.ndarray]:
    """The known places, by size: a group for each of a few sizes, or for quarters."""
    starts = np.unique(sizes[known])
    if len(starts) > NUM_GAPS:
        shares = np.arange(NUM_GAPS) / NUM_GAPS
        starts = np.unique(np.quantile(sizes[known], shares))
    group = np.searchsorted(starts, sizes[known], side="right")
    return [known[group == number] for number in np.unique(group)]


def by_length(figures: Mapping[str, float], pairs: Pairs) -> list[dict[str, Any]]:
    """The accuracy by which of the answers is longer, beside the rule that it wins."""
    is_longer, is_shorter = pairs.tokens > 0, pairs.tokens < 0
    names = {
        "the better one is longer": (is_longer, "accuracy_longer_better", 1.0),
        "the better one is shorter": (is_shorter, "accuracy_shorter_better", 0.0),
        "all": (np.full(len(is_longer), True), "accuracy", None),
    }
    return [
        {
            "": name, "pairs": int(where.sum()), "accuracy": figures[key],
            "always the longer": (
                figures["accuracy_always_longer"] if rule is None else rule
            ),
        }
        for name, (where, key, rule) in names.items()
    ]  # fmt: skip


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of differences, whose sign is a matter of order: about zero, not their means."""
    size = math.sqrt(float((one**2).sum()) * float((other**2).sum()))
    return float((one * other).sum()) / size if size else 0.0


def sigmoid(x: np.ndarray) -> np.ndarray:
    """The probability that belongs to a difference of scores."""
    return 1 / (1 + np.exp(-x))
