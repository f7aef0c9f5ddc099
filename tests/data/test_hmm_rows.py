"""Texts of a language as rows: one pure function, whatever the host or the pass."""

import numpy as np
import pytest

from llmjax.data import hmm as hmm_lib
from llmjax.data.batches import Batches
from llmjax.data.hmm import HmmConfig
from llmjax.data.hmm_rows import BLOCK, STRUCTURES, Rows, Texts, make_ids

CFG = HmmConfig(3, 5, 0.5, 0.5)
LENGTH = 40
IDS = make_ids(CFG.num_symbols, LENGTH)


def test_ids_do_not_overlap():
    first_sentinel = IDS.size - IDS.num_sentinels
    assert (IDS.num_symbols, IDS.mask, IDS.end, first_sentinel) == (5, 5, 6, 7)
    assert IDS.num_sentinels == 2  # 6 of 40 symbols are cut, in spans of 3


def test_texts_come_again_after_the_last():
    texts = Texts(CFG, LENGTH, 100)
    once = texts.take(np.arange(100), 7)["tokens"]
    np.testing.assert_array_equal(texts.take([105, 3], 7)["tokens"], once[[5, 3]])
    assert len(np.unique(once, axis=0)) > 90
    other = Texts(CFG, LENGTH, 100, part=1)
    for unlike in (texts.take(np.arange(100), 8), other.take(np.arange(100), 7)):
        assert len(np.unique([*once, *unlike["tokens"]], axis=0)) > 180
    assert other.fingerprint != texts.fingerprint


def test_texts_are_of_the_language():
    texts = Texts(CFG, LENGTH, 40 * BLOCK)
    tokens = texts.take(np.arange(40 * BLOCK), 0)["tokens"]
    shares = np.bincount(tokens.ravel(), minlength=5) / tokens.size
    exact = texts.hmm.initial @ texts.hmm.emission
    np.testing.assert_allclose(shares, exact, atol=0.02)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_hosts_share_the_batch(structure):
    rows = Rows(structure, Texts(CFG, LENGTH, 100), IDS)
    whole = Batches(rows, 8, 1).batch(3)
    parts = [
        Batches(rows, 8, 1, process_index=i, process_count=2).batch(3) for i in (0, 1)
    ]
    for name, array in whole.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, array)
    lengths = [whole["tokens"].shape[1]]
    lengths += [whole[k].shape[1] for k in whole if k == "encoder_tokens"]
    assert tuple(lengths) == rows.lengths


def test_each_structure_sees_what_its_floor_allows():
    texts = Texts(CFG, LENGTH, 64)
    tokens = texts.take(np.arange(64), 0)["tokens"]
    decoder = Rows("decoder", texts, IDS).take(np.arange(64), 0)
    np.testing.assert_array_equal(decoder["targets"], tokens)
    np.testing.assert_array_equal(decoder["tokens"][:, 1:], tokens[:, :-1])
    assert (decoder["tokens"][:, 0] == IDS.end).all() and decoder["weights"].all()

    encoder = Rows("encoder", texts, IDS).take(np.arange(64), 0)
    asked = encoder["weights"] > 0
    assert (asked.sum(axis=1) == 6).all()
    assert (encoder["tokens"][asked] == IDS.mask).all()  # not one stays or is another
    np.testing.assert_array_equal(encoder["tokens"][~asked], tokens[~asked])

    rows = Rows("encoder-decoder", texts, IDS)
    first, again = (rows.take(np.arange(64) + start, 0) for start in (0, 64))
    assert (first["encoder_tokens"] != again["encoder_tokens"]).any(axis=1).sum() > 40
    assert first["weights"].sum() == 64 * 9  # 6 symbols, 2 sentinels, the end


def test_no_text_is_impossible():
    texts = Texts(HmmConfig(), 64, 64)
    nats = hmm_lib.filter_log_probs(texts.hmm, texts.take(np.arange(64), 0)["tokens"])
    assert np.isfinite(nats).all()
