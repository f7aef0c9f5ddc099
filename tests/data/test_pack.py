"""Packing loses no target, mixes no documents and hardly pads."""

import time

import numpy as np
import pytest

from llmjax.data.pack import Packed, make_plan
from llmjax.data.shuffle import shuffled


def lognormal_lengths(number, seed=0):
    rng = np.random.default_rng(seed)
    return np.maximum(2, rng.lognormal(5.5, 1.0, number).astype(int))


def test_by_hand(make_store):
    # Five documents; positions to predict from are one fewer: 9, 2, 1, 3 and none.
    # Rows of 4: the first document is cut into 4 + 4 + 1. Longest first, the pieces are
    # 4 4 3 2 1 1; the first 1 fits best beside the 3, the second beside the 2. Within a
    # row, pieces lie in the order of the stream.
    packed = Packed(make_store([10, 3, 2, 4, 1]), context=4)
    batch = packed.rows(np.arange(len(packed)))
    expected = {
        "tokens": [[0, 1, 2, 3], [4, 5, 6, 7], [8, 15, 16, 17], [10, 11, 13, 0]],
        "targets": [[1, 2, 3, 4], [5, 6, 7, 8], [9, 16, 17, 18], [11, 12, 14, 0]],
        "weights": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]],
        "segment_ids": [[1, 1, 1, 1], [1, 1, 1, 1], [1, 2, 2, 2], [1, 1, 2, 0]],
        "positions": [[0, 1, 2, 3], [0, 1, 2, 3], [0, 0, 1, 2], [0, 1, 0, 0]],
    }
    assert batch.keys() == expected.keys()
    for name, rows in expected.items():
        np.testing.assert_array_equal(batch[name], rows, err_msg=name)
        assert batch[name].dtype == (np.float32 if name == "weights" else np.int32)
    assert packed.fill == 15 / 16


@pytest.mark.parametrize("context", [1, 7, 64, 1000])
def test_every_target_comes_once_and_after_its_own_token(make_store, context):
    store = make_store(lognormal_lengths(300) // 4 + 1)
    packed = Packed(store, context)
    batch = packed.rows(np.arange(len(packed)))
    real = batch["weights"] > 0
    targets = batch["targets"][real]
    first_tokens = store.offsets[:-1]  # the start of a document is never a target
    expected = np.setdiff1d(np.arange(store.meta.num_tokens), first_tokens)
    np.testing.assert_array_equal(np.sort(targets), expected)
    np.testing.assert_array_equal(batch["tokens"][real], targets - 1)
    # Within a segment tokens follow one another, and positions count from 0.
    same = (np.diff(batch["segment_ids"]) == 0) & real[:, 1:]
    assert (np.diff(batch["tokens"])[same] == 1).all()
    assert (np.diff(batch["positions"])[same] == 1).all()
    begins = real & np.pad(~same, ((0, 0), (1, 0)), constant_values=True)
    assert (batch["positions"][begins] == 0).all()
    np.testing.assert_array_equal(batch["segment_ids"] == 0, ~real)
    document = np.searchsorted(store.offsets, batch["tokens"], side="right")
    assert (np.diff(document)[same] == 0).all()


@pytest.mark.parametrize("context", [256, 1024, 8192])
def test_hardly_any_padding(context):
    offsets = np.concatenate([[0], np.cumsum(lognormal_lengths(20_000))])
    plan = make_plan(offsets, context)
    num_rows = len(plan.row_splits) - 1
    assert plan.lengths.sum() / (num_rows * context) >= 0.97
    row = np.repeat(np.arange(num_rows), np.diff(plan.row_splits))
    assert np.bincount(row, plan.lengths).max() <= context
    assert (plan.columns + plan.lengths <= context).all()


def test_a_plan_is_fast():
    offsets = np.concatenate([[0], np.cumsum(lognormal_lengths(200_000))])
    start_secs = time.process_time()
    make_plan(offsets, 1024)
    assert time.process_time() - start_secs < 2.0


def test_nothing_to_learn_is_refused(make_store):
    with pytest.raises(ValueError, match="no document of two tokens"):
        Packed(make_store([1, 1]), 8)
    with pytest.raises(ValueError, match="context"):
        Packed(make_store([5]), 0)


def test_each_epoch_has_every_row_once_in_its_own_order(make_store):
    packed = Packed(make_store(lognormal_lengths(50)), context=32)
    number = len(packed)
    all_rows = packed.rows(np.arange(number))["tokens"].tolist()
    epochs = [
        packed.take(np.arange(number) + epoch * number, seed=3)["tokens"].tolist()
        for epoch in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == sorted(all_rows) and epoch != all_rows
    assert epochs[0] != epochs[1] != epochs[2]
    other = packed.take(np.arange(number), seed=4)["tokens"].tolist()
    assert other != epochs[0]
    across = packed.take(np.arange(number - 2, number + 2), seed=3)["tokens"].tolist()
    assert across == epochs[0][-2:] + epochs[1][:2]


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 65_537])
def test_the_shuffle_is_a_permutation(size):
    for seed in (0, 1, -5, 2**63):
        found = shuffled(np.arange(size), size, seed, np.zeros(size, np.int64))
        np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_the_shuffle_is_uniform_enough():
    # Over 4,000 epochs, each of 10 x 10 (from, to) pairs is expected 400 times; a
    # chi-square with 81 degrees of freedom passes 130 once in 2,500 uniform shuffles.
    index, epoch = np.tile(np.arange(10), 4_000), np.repeat(np.arange(4_000), 10)
    counts = np.zeros((10, 10))
    np.add.at(counts, (index, shuffled(index, 10, seed=0, epochs=epoch)), 1)
    assert ((counts - 400) ** 2 / 400).sum() < 130


def test_the_shuffle_never_changes():
    """Runs resume across versions: these values are part of the format."""
    found = shuffled(np.arange(8), 1000, 7, np.full(8, 2))
    assert found.tolist() == [716, 650, 755, 940, 78, 480, 884, 710]
