"""What is known of each symbol told of a span, by counting all texts and spans."""

import itertools

import numpy as np
import pytest

from llmjax.data import hmm as hmm_lib
from llmjax.data.hmm import HmmConfig
from llmjax.data.hmm_spans import told_posteriors
from llmjax.data.spans import draw_spans

LENGTH = 6
SETTINGS = dict(rate=0.5, mean_span=1.5)  # three of six symbols, in two spans


def everything(hmm):
    """(text, cut, probability) of each text under each shape that may be drawn."""
    shapes = {
        tuple(draw_spans(LENGTH, np.random.default_rng(seed), **SETTINGS))
        for seed in range(200)
    }
    num_symbols = hmm.emission.shape[1]
    rows = np.array(list(itertools.product(range(num_symbols), repeat=LENGTH)))
    shares = np.exp(hmm_lib.filter_log_probs(hmm, rows).sum(axis=1))
    assert shares.sum() == pytest.approx(1) and len(shapes) == 4
    return [
        (tuple(row), shape, share)
        for row, share in zip(rows.tolist(), shares, strict=True)
        for shape in shapes
    ]


def seen_until(text, cut, t):
    """The encoder's tokens, and what the targets tell before the symbol at t."""
    source, told = [], []
    for place, symbol in enumerate(text):
        begins = cut[place] and not (place and cut[place - 1])
        if begins or not cut[place]:
            source.append("span" if begins else symbol)
        if begins and place <= t:
            told.append("span")
        if cut[place] and place < t:
            told.append(symbol)
    return tuple(source), tuple(told)


@pytest.mark.parametrize("seed", [1, 2])
def test_told_posteriors(seed):
    hmm = hmm_lib.make(HmmConfig(2, 3, 0.5, 0.5, seed))
    shares = {}  # of what is seen before a symbol, by symbol
    for text, cut, share in everything(hmm):
        for t in np.flatnonzero(cut):
            known = shares.setdefault(seen_until(text, cut, t), np.zeros(3))
            known[text[t]] += share
    for text, cut, _ in everything(hmm)[::37]:
        found = told_posteriors(hmm, np.array([text]), np.array([cut]))[0]
        for t in range(LENGTH):
            if not cut[t]:
                np.testing.assert_array_equal(found[t], 0)
                continue
            expected = shares[seen_until(text, cut, t)]
            np.testing.assert_allclose(found[t], expected / expected.sum(), atol=1e-12)


def test_between_what_knows_less_and_what_knows_more():
    """Less: the symbols before alone. More: also how long the spans are."""
    hmm = hmm_lib.make(HmmConfig())
    texts = hmm_lib.sample(hmm, np.random.default_rng(0), 500, 64)
    rng = np.random.default_rng(1)
    cut = np.stack([draw_spans(64, rng) for _ in texts])
    told = told_posteriors(hmm, texts, cut)
    np.testing.assert_allclose(told.sum(axis=2), cut, atol=1e-9)
    told = np.take_along_axis(told, texts[..., None], 2)[..., 0]
    less = -hmm_lib.filter_log_probs(hmm, texts)[cut].mean()
    more = -hmm_lib.infill_log_probs(hmm, texts, cut)[cut].mean()
    assert more < -np.log(told[cut]).mean() < less
