"""The best of n draws has the score, and the KL, that its distribution is known to."""

import math

import numpy as np
import pytest

from llmjax.rl import best_of, exact

SHARES = np.array([0.4, 0.05, 0.25, 0.1, 0.2])
SCORES = {"a": 0.5, "b": 3.0, "c": -1.0, "d": 2.0, "e": 0.5}  # two alike
NUM_TRIALS = 4000


@pytest.mark.parametrize("num", [2, 4, 16])
def test_scores_are_those_of_the_known_distribution(num):
    rng, names = np.random.default_rng(num), list(SCORES)

    def reward(prompts, answers):
        assert prompts == ["p"] * num
        return [SCORES[answer] for answer in answers]

    found = []
    for drawn in rng.choice(names, size=(NUM_TRIALS, num), p=SHARES).tolist():
        ranked = best_of.rank(reward, "p", drawn)
        assert sorted(one.place for one in ranked) == list(range(num))
        assert [one.score for one in ranked] == [SCORES[drawn[i]] for i, _ in ranked]
        found.append(ranked[0].score)
    # By enumeration: of a score s, P(the best is s) = P(all <= s) - P(all < s).
    values = np.array(list(SCORES.values()))
    upto = [(SHARES[values <= v].sum(), SHARES[values < v].sum()) for v in set(values)]
    want = sum(
        v * (most**num - less**num)
        for v, (most, less) in zip(set(values), upto, strict=True)
    )
    error = np.std(found) / math.sqrt(NUM_TRIALS)
    assert abs(np.mean(found) - want) < 4 * error
    point = exact.measure(
        exact.best_of(num, np.log(SHARES), values), np.log(SHARES), values
    )
    np.testing.assert_allclose(point.exact_reward, want, rtol=1e-6)
    assert 0 < point.exact_kl < best_of.most_kl(num)


def test_the_most_kl_is_that_of_many_unlikely_answers():
    even, values = np.full(100_000, -math.log(100_000)), np.arange(100_000.0)
    for num in (2, 16):
        point = exact.measure(exact.best_of(num, even, values), even, values)
        np.testing.assert_allclose(best_of.most_kl(num), point.exact_kl, atol=1e-3)


def test_of_equal_scores_the_first_drawn_comes_first():
    ranked = best_of.rank(lambda prompts, answers: [1, 2, 2], "p", ["x", "y", "z"])
    assert [one.place for one in ranked] == [1, 2, 0]
