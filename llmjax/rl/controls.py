"""Rewards that nobody wants: what a policy makes of them shows what to look out for."""

from collections.abc import Sequence

import numpy as np

WORDS = 8.0  # of one unit of reward; about a deviation of the length of a sentence


def length(prompts: Sequence, answers: Sequence[str]) -> np.ndarray:
    """The longer, the better."""
    return np.array([len(answer.split()) / WORDS for answer in answers], np.float32)
