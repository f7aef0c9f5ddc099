"""How rows that a model drew are judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data import hmm as hmm_lib
from llmjax.data.codebooks import Codebooks
from llmjax.data.hmm import HmmConfig
from llmjax.data.hmm_rows import make_ids
from llmjax.evals import samples
from llmjax.types import Model, Output

IDS = make_ids(12, 64)


def test_the_languages_own_rows_cost_its_entropy():
    hmm = hmm_lib.make(HmmConfig())
    rows = hmm_lib.sample(hmm, np.random.default_rng(0), 2000, 64)
    score = samples.score(hmm, rows)
    # 1.3415 is HmmConfig's own figure; what may be any symbol costs 1e-4 or so.
    assert abs(score["nats"] - 1.3415) < 4 * score["error"] + 1e-3
    assert score["bigrams_off"] < 0.01


def test_neither_noise_nor_one_likely_word_passes():
    hmm = hmm_lib.make(HmmConfig())
    noise = np.random.default_rng(0).integers(12, size=(256, 64))
    score = samples.score(hmm, noise)
    assert np.isfinite(score["nats"]) and score["nats"] > 3
    # Of all pairs of symbols, the cheapest to repeat.
    pairs = [np.tile([a, b], (2, 32)) for a in range(12) for b in range(12)]
    cheapest = min(
        (samples.score(hmm, rows) for rows in pairs), key=lambda s: s["nats"]
    )
    assert cheapest["nats"] < 1.3415 and cheapest["bigrams_off"] > 0.7


@pytest.mark.parametrize("consistent", [False, True])
def test_two_right_translations_mixed_are_wrong(consistent):
    """An encoder that knows both codebooks, or one, which others would agree on."""
    pairs = Codebooks("encoder", IDS, 10)
    books = jnp.asarray(pairs.books[:1] if consistent else pairs.books)

    def apply(params, batch, **_):
        sources = batch["tokens"][:, 9::-1]
        is_right = jax.nn.one_hot(books[:, sources], IDS.size).any(axis=0)
        logits = jnp.where(is_right, 0.0, -50.0)
        return Output(jnp.concatenate([jnp.zeros_like(logits), logits], axis=1))

    model = Model(None, apply, lambda params, hidden: hidden, None)
    found = samples.translations(model, {}, pairs, 500)
    assert found["symbols"] == 1
    # All ten agree once in 2^9 draws.
    assert found["exact"] == 1 if consistent else found["exact"] < 0.015
    row = found["rows"][0]
    for book, name in zip(pairs.books, "AB", strict=True):
        told = np.array(list(row.books)) == name
        np.testing.assert_array_equal(book[row.source[::-1]][told], row.target[told])
