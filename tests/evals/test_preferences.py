"""The report on a reward model, against figures worked out by hand."""

import numpy as np
import pytest

from llmjax.data.baselines import wilson_interval
from llmjax.data.comparison_rows import Answer, ComparisonRows, Example
from llmjax.data.comparisons import from_texts
from llmjax.evals import preferences, preferences_page
from llmjax.evals.preferences import Pairs


def rows_of(*examples):
    """Examples of (prompt, {answer: (rank, tokens)}, ...), each token a letter."""
    found = []
    for number, (prompt, answers, *gold) in enumerate(examples):
        ranks = list(answers.values())
        more = {"gold": gold[0]} if gold else {}
        one = from_texts(f"a:{number}", prompt, list(answers), ranks, **more)
        written = [Answer([1] * (2 + len(text)), 2) for text in answers]
        found.append(Example(one, written))
    return ComparisonRows(found, 3, 8)


def test_pairs_of_rankings():
    rows = rows_of(
        ("p", {"long": 2, "no": 1, "mid": 3}, [0.5, 1.0, 0.5]),
        ("q", {"a": 1, "b": 1}),  # tied: no pair
        ("p", {"yes": 1, "x": 2}),
    )
    scores = np.array([0.3, 0.1, -0.2, 9.0, 9.0, 1.0, 3.0])
    pairs = preferences.pair_up(rows, scores)
    # no > long, no > mid, long > mid; yes > x.
    order = np.lexsort((pairs.worse, pairs.better, pairs.row))
    pairs = pairs.take(order)
    np.testing.assert_array_equal(pairs.row, [0, 0, 0, 2])
    np.testing.assert_array_equal(pairs.better, [0, 1, 1, 0])
    np.testing.assert_array_equal(pairs.worse, [2, 0, 2, 1])
    np.testing.assert_allclose(pairs.gap, [0.5, -0.2, 0.3, -2.0])
    np.testing.assert_array_equal(pairs.tokens, [1, -2, -1, 2])
    np.testing.assert_array_equal(pairs.prompt, [0, 0, 0, 0])
    np.testing.assert_allclose(pairs.weight, [1 / 3, 1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(pairs.gold, [0, 0.5, 0.5, np.nan])
    figures = preferences.measure(pairs)
    assert figures["accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    assert figures["accuracy_longer_better"] == pytest.approx((1 / 3) / (4 / 3))
    assert figures["accuracy_shorter_better"] == pytest.approx(1 / 2)
    assert figures["accuracy_always_longer"] == pytest.approx((1 / 3 + 1) / 2)
    # Of the two pairs that differ in gold, one is scored in gold's order.
    assert figures["gold_agreement"] == figures["gold_agreement_of_labels"] / 2 == 0.5
    # The only wrong pair of each example, the surest first.
    worst = preferences_page.mistakes(pairs, rows)
    assert [one["the model prefers"] for one in worst] == ["x", "long"]
    assert worst[0]["its probability"] == pytest.approx(0.881, abs=1e-3)
    with pytest.raises(ValueError, match="all tied"):
        preferences.pair_up(rows_of(("q", {"a": 1, "b": 1})), np.zeros(2))


def pairs_of(gap, tokens=None, prompt=None, margin=None, gold=None):
    num = len(gap)
    columns = dict(
        row=np.arange(num), better=np.zeros(num, int), worse=np.ones(num, int),
        prompt=np.arange(num) if prompt is None else prompt, gap=np.asarray(gap),
        tokens=np.zeros(num) if tokens is None else tokens,
        margin=np.zeros(num) if margin is None else margin,
        gold=np.full(num, np.nan) if gold is None else gold, weight=np.ones(num),
    )  # fmt: skip
    return Pairs(**columns)


@pytest.mark.parametrize(("scale", "is_off"), [(1.0, False), (4.0, True), (0.2, True)])
def test_calibration_tells_a_model_that_is_too_sure(scale, is_off):
    rng = np.random.default_rng(0)
    true = rng.normal(scale=1.5, size=20_000)
    is_right = rng.random(20_000) < 1 / (1 + np.exp(-np.abs(true)))
    gap = scale * np.where(is_right, np.abs(true), -np.abs(true))
    pairs = pairs_of(gap)
    bins = preferences.calibration(pairs)
    assert sum(one.pairs for one in bins) == 20_000 and len(bins) == 10
    assert all(0.5 <= one.predicted <= 1 for one in bins)
    assert (preferences.calibration_error(pairs) > 0.05) == is_off
    if not is_off:
        assert preferences.calibration_error(pairs) < 0.015
        for one in bins:
            assert one.low - 0.02 < one.predicted < one.high + 0.02


def test_the_interval_knows_that_pairs_of_a_prompt_are_not_independent():
    rng = np.random.default_rng(1)
    gap = np.where(rng.random(400) < 0.7, 1.0, -1.0)
    low, high = preferences.interval(pairs_of(gap))
    expected = wilson_interval(int((gap > 0).sum()), 400)
    assert (low, high) == pytest.approx(expected, abs=2e-3)
    # Each answered ten times over says no more than once.
    prompt = np.repeat(np.arange(400), 10)
    again = preferences.interval(pairs_of(np.repeat(gap, 10), prompt=prompt))
    assert again == pytest.approx((low, high), abs=3e-3)
    assert preferences.interval(pairs_of(np.ones(50)))[1] == pytest.approx(1)
    # It covers: 95 % of intervals hold the true share, of clusters that differ.
    num_held = 0
    for _ in range(300):
        share = rng.beta(4, 2, size=60)
        right = rng.random((60, 8)) < share[:, None]
        found = pairs_of(np.where(right, 1.0, -1.0).ravel(), prompt=np.arange(480) // 8)
        low, high = preferences.interval(found)
        num_held += low <= 2 / 3 <= high
    assert 0.9 < num_held / 300 < 0.99


def test_length_bias():
    rng = np.random.default_rng(2)
    tokens = rng.integers(-9, 10, 5000)
    by_length = preferences.measure(pairs_of(0.1 * tokens, tokens))
    assert by_length["length_correlation"] == pytest.approx(1)
    assert by_length["accuracy_longer_better"] == 1
    assert by_length["accuracy_shorter_better"] == 0
    fair = preferences.measure(pairs_of(rng.normal(1, 1, 5000), tokens))
    assert abs(fair["length_correlation"]) < 0.05
    gap = fair["accuracy_longer_better"] - fair["accuracy_shorter_better"]
    assert abs(gap) < 0.05
    assert fair["accuracy_always_longer"] == pytest.approx(0.5, abs=0.03)
    nothing = preferences.measure(pairs_of(np.ones(9)))
    assert nothing["accuracy_longer_better"] is None


def test_accuracy_by_distance():
    gap = np.array([0.1, -0.2, 0.3, 0.4, 2, 3, 4, 5])
    gold = np.array([1, 1, 1, 1, 2, 2, 2, 2.0])
    rows = preferences.by_size(pairs_of(gap, gold=gold))
    assert [(one["apart in"], one["pairs"], one["accuracy"]) for one in rows] == [
        ("score", 2, 0.5), ("score", 2, 1), ("score", 2, 1), ("score", 2, 1),
        ("gold", 4, 0.75), ("gold", 4, 1),
    ]  # fmt: skip
    margin = np.array([0, 0, 1, 1, 1, 1, 1, 1.0])
    rows = preferences.by_size(pairs_of(gap, margin=margin))
    apart = [one["pairs"] for one in rows if one["apart in"] == "margin"]
    assert apart == [2, 6]  # those of one margin stay together
