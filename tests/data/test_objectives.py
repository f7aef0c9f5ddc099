"""Masked LM and prefix LM hide what they say, and nothing depends on the hosts."""

from functools import partial

import numpy as np
import pytest

from llmjax.data.batches import Batches, eval_batches
from llmjax.data.objectives import Corrupted, masked_lm, positions, prefix_lm
from llmjax.data.pack import Packed

VOCAB, MASK, SPECIAL = 50, 3, (0, 1, 2, 49)
mask_50 = partial(masked_lm, mask_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL)


def rows_of_text(num_rows=400, length=100, seed=0):
    """60 to 100 tokens, 4 .. 48 with a special one at either end; 5 in the padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 49, (num_rows, length))
    num_real = rng.integers(60, length + 1, num_rows)
    real = np.arange(length) < num_real[:, None]
    tokens[:, 0] = 1
    tokens[np.arange(num_rows), num_real - 1] = 2
    return np.where(real, tokens, 5), real.astype(np.int32)


def within(count, number, share):
    """A binomial count: 5 standard deviations are passed once in 1.7 million times."""
    return abs(count - number * share) <= 5 * np.sqrt(number * share * (1 - share))


def test_masked_lm_by_hand():
    tokens = np.array([[1, 10, 11, 12, 13, 2, 0], [1, 20, 21, 1, 22, 23, 2]])
    segments = np.array([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 2, 2, 2, 2]])
    batch = mask_50(
        tokens, segments, np.random.default_rng(0), rate=0.5, shares=(1, 0, 0)
    )
    np.testing.assert_array_equal(batch["targets"], tokens)
    np.testing.assert_array_equal(batch["segment_ids"], segments)
    np.testing.assert_array_equal(
        batch["positions"], [[0, 1, 2, 3, 4, 5, 0], [0, 1, 2, 0, 1, 2, 3]]
    )
    picked = batch["weights"] > 0
    np.testing.assert_array_equal(picked.sum(axis=1), [2, 2])  # of four ordinary tokens
    np.testing.assert_array_equal(batch["tokens"], np.where(picked, MASK, tokens))
    for name, array in batch.items():
        assert array.dtype == (np.float32 if name == "weights" else np.int32)


def test_each_row_has_its_share_of_picks():
    tokens, segments = rows_of_text()
    batch = mask_50(tokens, segments, np.random.default_rng(1))
    picked = batch["weights"] > 0
    ordinary = (tokens >= 4) & (tokens < 49) & (segments > 0)
    assert not (picked & ~ordinary).any()
    np.testing.assert_array_equal(picked.sum(1), np.round(0.15 * ordinary.sum(1)))
    # Any ordinary place is as likely as another: columns 1 .. 58 are real in all rows.
    by_column = picked[:, 1:59].sum(axis=0)
    assert all(within(count, len(tokens), 0.15) for count in by_column)


def test_of_the_picks_80_10_10():
    tokens, segments = rows_of_text(num_rows=2000)
    batch = mask_50(tokens, segments, np.random.default_rng(2))
    picked = batch["weights"] > 0
    seen, target = batch["tokens"][picked], tokens[picked]
    np.testing.assert_array_equal(batch["tokens"][~picked], tokens[~picked])
    number, num_ordinary = len(seen), 45
    assert within((seen == MASK).sum(), number, 0.8)
    # One random token in 45 is the one that was there.
    assert within((seen == target).sum(), number, 0.1 + 0.1 / num_ordinary)
    drawn = seen[(seen != MASK) & (seen != target)]
    assert within(len(drawn), number, 0.1 - 0.1 / num_ordinary)
    counts = np.bincount(drawn, minlength=VOCAB)
    assert counts[[*SPECIAL, MASK]].sum() == 0
    assert all(within(count, len(drawn), 1 / num_ordinary) for count in counts[4:49])


def test_short_and_empty_rows():
    tokens = np.array([[1, 7, 2, 0], [1, 2, 0, 0], [0, 0, 0, 0]])
    segments = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    batch = mask_50(tokens, segments, np.random.default_rng(0))
    np.testing.assert_array_equal(batch["weights"].sum(axis=1), [1, 0, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(rate=0.0), "rate 0.0: give a share"),
        (dict(rate=1.0), "rate 1.0: give a share"),
        (dict(mask_id=50), "not all in the vocabulary of 50"),
        (dict(special_ids=[-1]), "not all in the vocabulary of 50"),
        (dict(special_ids=range(50)), "all 50 ids are special"),
        (dict(shares=(0.8, 0.1, 0.2)), "shares .* sum 1"),
        (dict(shares=(1.1, -0.1, 0.0)), "shares"),
        (dict(shares=(0.8, 0.2)), "give three"),
    ],
)
def test_masking_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mask_50(*rows_of_text(2), np.random.default_rng(0), **change)


def test_positions_restart_in_each_segment():
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 0, 0], [0, 0, 0, 0, 0, 0]])
    expected = [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(positions(segments), expected)


def test_a_prefix_is_not_asked_for_what_it_shows(make_store):
    # A row to each document, of 12 tokens or 7; tokens are their own indices.
    packed = Packed(make_store([13] * 600 + [8] * 600), context=12)
    batch = prefix_lm(packed.rows(np.arange(len(packed))), np.random.default_rng(0))
    plain = packed.rows(np.arange(len(packed)))
    for name in ("tokens", "targets", "segment_ids", "positions"):
        np.testing.assert_array_equal(batch[name], plain[name])
    for row, prefix in enumerate(batch["prefix_B"]):
        shown = set(batch["tokens"][row, :prefix].tolist())
        told = batch["targets"][row][batch["weights"][row] > 0].tolist()
        assert not shown & set(told)
        # And all that is not shown is told, the first token after the prefix too.
        real = plain["weights"][row] > 0
        expected = set(plain["targets"][row][real].tolist()) - shown
        assert told == sorted(expected) and told
    num_tokens = plain["weights"].sum(axis=1)
    full = batch["prefix_B"][num_tokens == 12]
    counts = np.bincount(full, minlength=13)
    assert counts[0] == 0 and len(counts) == 13
    assert all(within(count, len(full), 1 / 12) for count in counts[1:])
    assert (batch["prefix_B"] <= num_tokens).all() and batch[
        "prefix_B"
    ].dtype == np.int32


def masked(batch, rng):
    return masked_lm(
        batch["tokens"], batch["segment_ids"], rng, mask_id=999, vocab_size=1000,
        special_ids=(),
    )  # fmt: skip


@pytest.mark.parametrize("objective", [masked, prefix_lm])
def test_any_number_of_hosts_corrupts_the_same(make_store, objective):
    packed = Packed(make_store([30, 7, 50, 12, 90, 3] * 5), context=16)
    dataset = Corrupted(packed, objective, "an objective")
    whole = Batches(dataset, 8, seed=-1)
    hosts = [
        Batches(dataset, 8, seed=-1, process_index=index, process_count=2)
        for index in range(2)
    ]
    for step in (0, 30):
        batch = whole.batch(step)
        parts = [host.batch(step) for host in hosts]
        for name, array in batch.items():
            joined = np.concatenate([part[name] for part in parts])
            np.testing.assert_array_equal(joined, array)


def test_a_row_is_corrupted_anew_in_each_epoch_and_by_each_seed(make_store):
    packed = Packed(make_store([40]), context=39)  # one row
    dataset = Corrupted(packed, masked, "masked")
    assert len(dataset) == 1 and dataset.context == 39 and dataset.fill == 1.0
    epochs = dataset.take(np.arange(3), seed=0)
    other = dataset.take(np.arange(3), seed=1)
    assert (epochs["targets"] == epochs["targets"][0]).all()
    looks = {tuple(row) for row in [*epochs["weights"], *other["weights"]]}
    assert len(looks) == 6


def test_the_fingerprint_is_of_the_data_and_the_objective(make_store):
    packed = Packed(make_store([40]), context=39)
    prints = {
        Corrupted(packed, masked, "masked, 0.15").fingerprint,
        Corrupted(packed, masked, "masked, 0.3").fingerprint,
        Corrupted(Packed(packed.store, 20), masked, "masked, 0.15").fingerprint,
        packed.fingerprint,
    }
    assert len(prints) == 4


def test_validation_goes_through_an_objective_too(make_store):
    packed = Packed(make_store([30, 7, 50]), context=16)
    sizes = np.ones(1000, np.int32)
    batches = list(eval_batches(Corrupted(packed, masked, "masked"), 4, sizes))
    again = list(eval_batches(Corrupted(packed, masked, "masked"), 4, sizes))
    for left, right in zip(batches, again, strict=True):
        np.testing.assert_array_equal(left["tokens"], right["tokens"])
        assert left["target_bytes"].sum() == left["weights"].sum() > 0
