"""Gaps of models that know all there is to know, too much, or nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.data import hmm as hmm_lib
from llmjax.data.hmm import HmmConfig
from llmjax.data.hmm_rows import STRUCTURES, Rows, Texts, make_ids
from llmjax.evals import samples, structures, structures_page
from llmjax.types import Model, Output

CFG = HmmConfig(3, 6, 0.4, 0.4, seed=2)
IDS = make_ids(CFG.num_symbols, 64)
TESTS = Texts(CFG, 64, 256, part=1)


def exact(hmm, *, causal: bool) -> Model:
    """The best decoder of the language, or the best encoder: its logits are the
    logarithms of forward or of smoothed probabilities."""
    initial, transition, emission = (jnp.asarray(table, jnp.float32) for table in hmm)

    def messages(known_BTI, first, table):
        """What comes from the left at each position, before its own symbol."""

        def step(state, known):
            after = (state * known) @ table
            return after / after.sum(-1, keepdims=True), state

        state = jnp.broadcast_to(first, known_BTI[:, 0].shape)
        _, states = jax.lax.scan(step, state, jnp.moveaxis(known_BTI, 1, 0))
        return jnp.moveaxis(states, 0, 1)

    def apply(params, batch, **_):
        tokens = batch["tokens"]
        if causal:  # the token at t is the symbol before the one to tell
            tokens = jnp.roll(tokens, -1, axis=1)
        is_symbol = (tokens < IDS.num_symbols)[..., None]
        known = jnp.where(is_symbol, emission.T[tokens % IDS.num_symbols], 1)
        states = messages(known, initial, transition)
        if not causal:
            ones = jnp.ones_like(initial)
            states *= messages(known[:, ::-1], ones, transition.T)[:, ::-1]
        shares = states @ emission
        shares = shares / shares.sum(-1, keepdims=True)
        rest = jnp.zeros((*shares.shape[:2], IDS.size - IDS.num_symbols))
        return Output(jnp.log(jnp.concatenate([shares, rest], axis=-1)))

    return Model(None, apply, lambda params, hidden: hidden, None)


@pytest.mark.parametrize("structure", ["decoder", "encoder"])
def test_a_model_that_knows_all_has_no_gap(structure):
    tests = Rows(structure, TESTS, IDS)
    model = exact(TESTS.hmm, causal=structure == "decoder")
    gap = structures.gap(model, {}, tests)
    assert abs(gap["gap"]) < 1e-5 and gap["error"] < 1e-5
    assert gap["nats"] == pytest.approx(gap["floor"], abs=1e-5)
    for figures in structures.fill_blanks(model, {}, tests).values():
        assert figures["nats"] == pytest.approx(figures["floor_nats"], abs=1e-4)
        assert figures["right"] == pytest.approx(figures["floor_right"], abs=0.01)


def test_a_model_that_knows_nothing_has_a_gap_and_no_leak():
    for structure in STRUCTURES:
        tests = Rows(structure, TESTS, IDS)
        gap = structures.gap(uniform(), {}, tests)
        assert gap["nats"] == pytest.approx(np.log(IDS.size))
        assert gap["gap"] > 10 * gap["error"] and not gap["leaks"]
        assert gap["gap"] == pytest.approx(gap["nats"] - gap["floor"])


def uniform() -> Model:
    def apply(params, batch, **_):
        return Output(jnp.zeros((*batch["tokens"].shape, IDS.size)))

    return Model(None, apply, lambda params, hidden: hidden, None)


def test_a_decoder_that_sees_what_comes_after_is_found_out():
    """Its own symbol it does not see: only what is beyond, as a mask off by one."""
    source = Texts(HmmConfig(), 64, 256, part=1)
    tests = Rows("decoder", source, make_ids(12, 64))
    batch = tests.take(np.arange(256), 0)
    texts = batch["targets"]
    everything = np.ones(texts.shape, bool)
    floor = structures.floor_per_target(tests, batch)
    for after in (everything, np.arange(64) % 4 == 0):
        nats = -hmm_lib.log_probs(source.hmm, texts, everything, after & everything)
        assert structures.compare(nats.mean(axis=1), floor)["leaks"]
    noise = np.random.default_rng(0).normal(0, 0.1, floor.shape)
    assert not structures.compare(floor + noise - noise.mean(), floor)["leaks"]


def test_a_bar_is_met_or_missed_and_no_leak_meets_it():
    gap = {"gap": 0.025, "leaks": False}
    assert structures_page.verdict(gap, 0.03) == "met: 0.03"
    assert structures_page.verdict(gap, 0.02) == "MISSED: 0.02"
    assert structures_page.verdict(gap, None) == "-"
    assert structures_page.verdict({"gap": -0.1, "leaks": True}, 0.03) == "LEAKS"


def test_the_floor_of_spans_is_that_of_all_their_targets():
    tests = Rows("encoder-decoder", TESTS, IDS)
    batch = tests.take(np.arange(256), 0)
    texts, cut = structures.read_spans(batch, IDS)
    np.testing.assert_array_equal(texts, TESTS.take(np.arange(256), 0)["tokens"])
    assert (cut.sum(axis=1) == 10).all()
    floor = structures.floor_per_target(tests, batch)
    exact_rows = hmm_lib.spans_log_prob(TESTS.hmm, texts, cut)
    np.testing.assert_allclose(floor * 14, -exact_rows)  # 3 sentinels and the end


def test_blanks_are_read_where_the_decoder_tells_them():
    """A model that is told the answers gets all of them right."""

    def apply(params, batch, **_):
        return Output(30.0 * jax.nn.one_hot(batch["targets"], IDS.size))

    model = Model(None, apply, lambda params, hidden: hidden, None)
    found = structures.fill_blanks(model, {}, Rows("encoder-decoder", TESTS, IDS))
    for figures in found.values():
        assert figures["right"] == 1 and figures["nats"] < 1e-9
        assert 0.2 < figures["floor_right"] < 1


def test_an_exact_encoder_draws_texts_of_the_language():
    """Told one symbol at a time, each from all that was told before."""
    model = exact(TESTS.hmm, causal=False)
    drawn = samples.draw(model, {}, Rows("encoder", TESTS, IDS), 512)
    real = hmm_lib.sample(TESTS.hmm, np.random.default_rng(0), 512, 64)
    drawn, real = (samples.score(TESTS.hmm, rows) for rows in (drawn, real))
    error = np.hypot(drawn["error"], real["error"])
    assert abs(drawn["nats"] - real["nats"]) < 4 * error
    assert drawn["bigrams_off"] < 2 * real["bigrams_off"]
