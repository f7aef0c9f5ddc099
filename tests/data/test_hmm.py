"""The floors of a hidden Markov language, against sums over everything it can say."""

import itertools

import numpy as np
import pytest

from llmjax.data import hmm as hmm_lib
from llmjax.data.hmm import Hmm, HmmConfig
from llmjax.data.spans import draw_spans, span_corruption

LENGTH = 5
CONFIGS = [HmmConfig(2, 3, 0.5, 0.5, 1), HmmConfig(3, 3, 0.4, 0.6, 2)]


def joint(hmm: Hmm, length: int) -> np.ndarray:
    """p(symbols), one axis a position: the sum over every path of hidden states."""
    total = np.zeros((hmm.emission.shape[1],) * length)
    for path in itertools.product(range(len(hmm.initial)), repeat=length):
        probability = hmm.initial[path[0]]
        for before, after in itertools.pairwise(path):
            probability = probability * hmm.transition[before, after]
        for state in path:
            probability = np.multiply.outer(probability, hmm.emission[state])
        total += probability
    return total


def every_row(num_symbols: int, length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(num_symbols), repeat=length)))


def marginal(table, symbols, known) -> float:
    """The probability of the known symbols alone."""
    unknown = tuple(t for t in range(table.ndim) if t not in known)
    return table.sum(axis=unknown)[tuple(symbols[t] for t in sorted(known))]


def conditional(table, symbols, t, known) -> float:
    known = set(known) - {t}
    return np.log(
        marginal(table, symbols, known | {t}) / marginal(table, symbols, known)
    )


@pytest.fixture(params=CONFIGS, ids=["2 states", "3 states"])
def language(request):
    hmm = hmm_lib.make(request.param)
    table = joint(hmm, LENGTH)
    assert table.sum() == pytest.approx(1, abs=1e-12)
    return hmm, table, every_row(request.param.num_symbols, LENGTH)


def test_filter(language):
    hmm, table, rows = language
    expected = [
        [conditional(table, row, t, range(t)) for t in range(LENGTH)] for row in rows
    ]
    np.testing.assert_allclose(
        hmm_lib.filter_log_probs(hmm, rows), expected, atol=1e-12
    )


@pytest.mark.parametrize("masked", [(2,), (0, 4), (1, 2, 4), (0, 1, 2, 3, 4)])
def test_masked_and_infilled(language, masked):
    hmm, table, rows = language
    masked_BT = np.isin(np.arange(LENGTH), masked) & np.ones_like(rows, bool)
    unmasked = set(range(LENGTH)) - set(masked)
    alone = [
        [conditional(table, row, t, unmasked) for t in range(LENGTH)] for row in rows
    ]
    found = hmm_lib.masked_log_probs(hmm, rows, masked_BT)
    np.testing.assert_allclose(found, alone, atol=1e-12)

    found = hmm_lib.infill_log_probs(hmm, rows, masked_BT)[:, list(masked)]
    in_turn = [
        [conditional(table, row, t, unmasked | set(range(t))) for t in masked]
        for row in rows
    ]
    np.testing.assert_allclose(found, in_turn, atol=1e-12)
    together = [np.log(table[tuple(r)] / marginal(table, r, unmasked)) for r in rows]
    np.testing.assert_allclose(found.sum(axis=1), together, atol=1e-12)


def test_each_row_has_a_mask_of_its_own(language):
    hmm, table, rows = language
    before, after = np.random.default_rng(0).random((2, *rows.shape)) < 0.5
    found = hmm_lib.log_probs(hmm, rows, before, after)
    for row, symbols in enumerate(rows):
        for t in range(LENGTH):
            known = {s for s in range(t) if before[row, s]}
            known |= {s for s in range(t + 1, LENGTH) if after[row, s]}
            expected = conditional(table, symbols, t, known)
            assert found[row, t] == pytest.approx(expected, abs=1e-12)


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many numbers from 1 on, in order."""
    numbers = itertools.product(range(1, total + 1), repeat=parts)
    return [way for way in numbers if sum(way) == total]


def test_span_corruption_is_scored_with_the_lengths_of_its_spans(language):
    """By counting: every text with every choice of spans, as the corruption makes them.

    Six symbols, half of them cut in two spans: 1 + 2 or 2 + 1 are kept, which the
    encoder shows, and 1 + 2 or 2 + 1 are cut, which is for the targets to tell.
    """
    hmm, _, _ = language
    length, num_symbols = 6, hmm.emission.shape[1]
    settings = dict(rate=0.5, mean_span=1.5)
    ids = dict(vocab_size=num_symbols + 4, eos_id=num_symbols, start_id=num_symbols + 1)
    table, rows = joint(hmm, length), every_row(num_symbols, length)
    shapes, seen = set(), {}
    for seed in range(200):  # all the shapes that are drawn, found by drawing
        shapes.add(tuple(draw_spans(length, np.random.default_rng(seed), **settings)))
    ways = len(compositions(3, 2))
    assert len(shapes) == ways**2
    cases = {}
    for row, shape in itertools.product(rows, shapes):
        source, answer = hide(row, shape, ids["vocab_size"])
        cases[source, answer] = table[tuple(row)]
        seen[source] = seen.get(source, 0) + table[tuple(row)]
    for shape in shapes:
        cut = np.tile(np.array(shape), (len(rows), 1))
        found = hmm_lib.spans_log_prob(hmm, rows, cut)
        keys = [hide(row, shape, ids["vocab_size"]) for row in rows]
        expected = [np.log(cases[key] / seen[key[0]]) for key in keys]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    # And that is how span_corruption writes them.
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    batch = span_corruption(
        rows[:1], np.ones_like(rows[:1]), rng, **ids, **settings, num_sentinels=2
    )
    shape = draw_spans(length, again, **settings)
    source, answer = hide(rows[0], shape, ids["vocab_size"])
    assert batch["encoder_tokens"][0].tolist() == [*source, ids["eos_id"]]
    assert batch["targets"][0].tolist() == [*answer, ids["eos_id"]]


def hide(row, shape, vocab_size):
    """(source, answer), symbol by symbol."""
    source, answer, sentinel = [], [], vocab_size
    for t, symbol in enumerate(row):
        if shape[t]:
            if t == 0 or not shape[t - 1]:
                sentinel -= 1
                source.append(sentinel)
                answer.append(sentinel)
            answer.append(int(symbol))
        else:
            source.append(int(symbol))
    return tuple(source), tuple(answer)


def test_rows_of_other_spans_are_refused():
    hmm = hmm_lib.make(CONFIGS[0])
    cut = np.array([[0, 1, 0, 1], [0, 0, 1, 1]], bool)
    with pytest.raises(ValueError, match="score them apart"):
        hmm_lib.spans_log_prob(hmm, np.zeros((2, 4), int), cut)


def test_samples_have_the_exact_probabilities_and_entropies(language):
    hmm, table, _ = language
    num_rows = 40_000
    rows = hmm_lib.sample(hmm, np.random.default_rng(3), num_rows, LENGTH)
    counts = np.zeros(table.shape)
    np.add.at(counts, tuple(rows.T), 1)
    error = np.sqrt(table * (1 - table) / num_rows)
    # 5 standard errors: once in 7,000 tries of 243 cells, but for rare ones, skewed.
    assert (np.abs(counts / num_rows - table) <= 5 * error + 5 / num_rows).all()

    exact = -(table * np.log(table)).sum()
    found = -hmm_lib.filter_log_probs(hmm, rows).sum(axis=1)
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(num_rows)

    masked = {1, 2}  # H(x1 | rest) + H(x2 | rest), the rest being x0, x3 and x4
    rest = table.sum(axis=(1, 2))
    exact = sum(
        entropy(table.sum(axis=tuple(masked - {t}))) - entropy(rest) for t in masked
    )
    masked_BT = np.isin(np.arange(LENGTH), list(masked)) & np.ones_like(rows, bool)
    found = -(hmm_lib.masked_log_probs(hmm, rows, masked_BT) * masked_BT).sum(axis=1)
    assert abs(found.mean() - exact) < 4 * found.std() / np.sqrt(num_rows)


def entropy(table) -> float:
    return -(table * np.log(table)).sum()


def test_the_chain_begins_stationary():
    for seed in range(5):
        hmm = hmm_lib.make(HmmConfig(16, 64, seed=seed))
        for rows in (hmm.transition, hmm.emission):
            np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(hmm.initial @ hmm.transition, hmm.initial, atol=1e-9)
        assert hmm.initial.min() >= 0
        assert hmm.initial.sum() == pytest.approx(1, abs=1e-12)


def test_long_rows_do_not_underflow():
    hmm = hmm_lib.make(HmmConfig())
    rows = hmm_lib.sample(hmm, np.random.default_rng(0), 4, 500)
    masked_BT = np.random.default_rng(1).random(rows.shape) < 0.15
    for found in (
        hmm_lib.filter_log_probs(hmm, rows),
        hmm_lib.infill_log_probs(hmm, rows, masked_BT),
    ):
        assert np.isfinite(found).all() and (found <= 1e-12).all()
    cut = np.tile(draw_spans(500, np.random.default_rng(2)), (4, 1))
    assert np.isfinite(hmm_lib.spans_log_prob(hmm, rows, cut)).all()


def test_the_default_language_tells_the_structures_apart():
    """The entropies that HmmConfig's docstring gives, each to 4 standard errors."""
    hmm = hmm_lib.make(HmmConfig())
    rows = hmm_lib.sample(hmm, np.random.default_rng(0), 1000, 64)
    rng = np.random.default_rng(1)
    masked_BT = rng.random(rows.shape).argsort(axis=1) < round(0.15 * 64)
    unigram = entropy(hmm.initial @ hmm.emission)
    decoder = -hmm_lib.filter_log_probs(hmm, rows)
    encoder = -hmm_lib.masked_log_probs(hmm, rows, masked_BT)[masked_BT]
    infill = -hmm_lib.infill_log_probs(hmm, rows, masked_BT)[masked_BT]
    assert unigram == pytest.approx(1.9749, abs=5e-4)
    for found, expected in (
        (decoder, 1.3415),
        (encoder, 1.018),
        (infill, 0.984),
    ):
        by_row = found.reshape(len(rows), -1).mean(axis=1)
        assert abs(by_row.mean() - expected) < 4 * by_row.std() / np.sqrt(len(rows))


def test_the_same_config_gives_the_same_language():
    for left, right in zip(
        hmm_lib.make(HmmConfig()), hmm_lib.make(HmmConfig()), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    other = hmm_lib.make(HmmConfig(seed=1))
    assert (other.emission != hmm_lib.make(HmmConfig()).emission).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_states", 1), ("num_symbols", 0), ("emission_concentration", 0.0)],
)
def test_a_bad_config_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: give"):
        HmmConfig(**{name: value})
