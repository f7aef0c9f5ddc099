"""Best of n: draw n answers, and keep the one that a reward likes most.

It needs no training, and is what a tuned policy is to be held against (Stiennon et al.
2020; Gao et al. 2022). `exact.best_of` has the probabilities that it comes to.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.rl import scores


class Ranked(NamedTuple):
    """Which answer, and its score."""

    place: int
    score: float


def rank(reward: scores.Reward, prompt: Any, answers: Sequence[str]) -> list[Ranked]:
    """The answers to one prompt, the best first; of equal ones, the one drawn first."""
    score_B = scores.call(reward, [prompt] * len(answers), answers)
    order = np.argsort(-score_B, kind="stable")
    return [Ranked(int(place), float(score_B[place])) for place in order]


def most_kl(num: int) -> float:
    """Nats from what the answers are drawn from to the best of `num`, at most.

    log n - (n - 1) / n: it is just that where no two answers score the same, and each
    is unlikely; and less otherwise (Beirami et al. 2024).
    """
    return math.log(num) - (num - 1) / num
