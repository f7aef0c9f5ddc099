"""Reward models of the language of `exact`, fitted to comparisons: proxies of the gold.

A proxy's score is linear in counts of an answer's symbols ("bag"), or of these and of
its pairs of neighbours ("bigram"), so that Newton's method finds the best there is.
"""

import dataclasses
from typing import Literal

import numpy as np

from llmjax.rl import exact

STRENGTH = 2.0  # the better of two answers wins with sigmoid(STRENGTH * difference)
RIDGE = 1.0  # weight of half the squared norm: a prior of variance 1
NUM_NEWTON = 25


@dataclasses.dataclass(frozen=True)
class Proxy:
    """What a reward model sees, from how many pairs, how many of them mislabelled."""

    features: Literal["bag", "bigram"]
    num_pairs: int
    flips: float = 0.0

    def __str__(self) -> str:
        noise = f", {self.flips:.0%} flipped" if self.flips else ""
        return f"{self.features}, {self.num_pairs:,} pairs{noise}"


def count(cfg: exact.LanguageConfig, ids: np.ndarray, features: str) -> np.ndarray:
    """[N, number of features] of answers [N, T]."""
    one_hot = np.eye(cfg.num_symbols)
    bag = one_hot[ids].sum(axis=1)
    if features == "bag":
        return bag
    pairs = ids[:, :-1] * cfg.num_symbols + ids[:, 1:]
    counts = np.zeros((len(ids), cfg.num_symbols**2))
    for column in pairs.T:
        counts[np.arange(len(ids)), column] += 1
    return np.concatenate([bag, counts], axis=1)


def learn(
    cfg: exact.LanguageConfig,
    proxy: Proxy,
    reference: np.ndarray,
    gold: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Its scores of all answers, standardised under the reference.

    The pairs are drawn from the reference, and judged by their gold rewards.
    """
    ids = exact.all_answers(cfg)
    drawn = rng.choice(len(ids), size=(proxy.num_pairs, 2), p=np.exp(reference))
    odds = STRENGTH * (gold[drawn[:, 0]] - gold[drawn[:, 1]])
    is_first = rng.random(proxy.num_pairs) < 1 / (1 + np.exp(-odds))
    is_first ^= rng.random(proxy.num_pairs) < proxy.flips
    sides = (count(cfg, ids[side], proxy.features) for side in drawn.T)
    difference = np.subtract(*sides)
    weights = fit(difference * np.where(is_first, 1.0, -1.0)[:, None])
    scores = count(cfg, ids, proxy.features) @ weights
    return exact.standardised(scores, reference)


def fit(differences: np.ndarray) -> np.ndarray:
    """The weights of Bradley and Terry's model, of features better minus worse."""
    weights = np.zeros(differences.shape[1])
    for _ in range(NUM_NEWTON):
        shares = 1 / (1 + np.exp(-differences @ weights))
        gradient = differences.T @ (1 - shares) - RIDGE * weights
        curvature = (differences * (shares * (1 - shares))[:, None]).T @ differences
        weights += np.linalg.solve(curvature + RIDGE * np.eye(len(weights)), gradient)
    return weights
