"""Rows with a rule of their own: the rule holds, and nothing else gives it away."""

import numpy as np
import pytest

from llmjax.data.batches import Batches
from llmjax.data.in_context import Both, Induction, Recall, Regression

INDICES = np.arange(200)


@pytest.mark.parametrize("rows", [Regression(), Recall(), Induction(), Both()])
def test_rows_are_a_function_of_seed_and_number(rows):
    batch, again = rows.take(INDICES, 3), rows.take(INDICES[5:7], 3)
    for name, array in batch.items():
        np.testing.assert_array_equal(array[5:7], again[name])
        assert array.shape[:2] == (200, rows.context)
    other = rows.take(INDICES, 4)
    assert any((array != other[name]).any() for name, array in batch.items())
    parts = [Batches(rows, 4, 3, process_index=i, process_count=2) for i in (0, 1)]
    for name, array in Batches(rows, 4, 3).batch(7).items():
        halves = [part.batch(7)[name] for part in parts]
        np.testing.assert_array_equal(array, np.concatenate(halves))


def test_a_line_goes_through_all_points_of_a_row():
    rows = Regression(dim=3, num_points=8)
    batch = rows.take(INDICES, 0)
    x, y = batch["inputs_BTI"][:, 0::2, :3], batch["inputs_BTI"][:, 1::2, 3]
    for points, values in zip(x[:20], y[:20], strict=True):
        w, *_ = np.linalg.lstsq(points, values, rcond=None)
        np.testing.assert_allclose(points @ w, values, atol=1e-5)
    np.testing.assert_array_equal(batch["targets"][:, 0::2], y)
    assert batch["weights"].sum() == 200 * 8 and not batch["weights"][:, 1::2].any()
    # Where an x is, its y is not.
    assert not batch["inputs_BTI"][:, 0::2, 3].any()
    assert not batch["inputs_BTI"][:, 1::2, :3].any()
    assert x.var() == pytest.approx(1, abs=0.05)


def test_least_squares_has_the_exact_error():
    """The mean over rows is 1 - k / d within its own spread, and 0 from k = d on."""
    rows = Regression(dim=4, num_points=8)
    batch = rows.take(np.arange(4000), 1)
    errors = (rows.least_squares(batch) - batch["targets"][:, 0::2]) ** 2 / 4
    spreads = errors.std(axis=0) / 4000**0.5
    np.testing.assert_array_equal(rows.floor(), [1, 0.75, 0.5, 0.25, 0, 0, 0, 0])
    assert (np.abs(errors.mean(axis=0) - rows.floor())[:4] < 4 * spreads[:4]).all()
    assert errors[:, 5:].max() < 1e-4


def test_keys_have_their_values_throughout_a_row():
    rows = Recall(max_keys=4, num_values=6, num_pairs=12)
    batch = rows.take(INDICES, 0)
    for tokens, targets, weights in zip(*batch.values(), strict=True):
        keys, values = tokens[0::2], tokens[1::2]
        assert keys.max() < 8 <= values.min() and values.max() < 14
        book = {}
        for place, (key, value) in enumerate(zip(keys, values, strict=True)):
            assert weights[2 * place] == (key in book)
            assert book.setdefault(key, value) == value
            assert targets[2 * place] == value
        assert not weights[1::2].any()
    books = {
        tuple(sorted(set(zip(t[0::2], t[1::2], strict=True)))) for t in batch["tokens"]
    }
    assert len(books) > 190  # which value a key has differs by row


def test_what_is_asked_of_a_walk_has_one_answer():
    rows = Induction(vocab_size=20, num_symbols=6, jumps=0.3, context=40)
    batch = rows.take(INDICES, 0)
    for tokens, targets, weights in zip(*batch.values(), strict=True):
        np.testing.assert_array_equal(targets[:-1], tokens[1:])
        assert len(set(tokens)) <= 6 and weights[-1] == 0
        for now in range(39):
            before = {tokens[at + 1] for at in range(now) if tokens[at] == tokens[now]}
            assert weights[now] == (before == {targets[now]})
    assert 0.1 < batch["weights"].mean() < 0.4


def test_both_are_of_each_in_turn():
    rows = Both(Recall(max_keys=2, num_values=3, num_pairs=5), Induction(9, 4, 0.1, 10))
    batch = rows.take(INDICES, 1)
    for name, of_one in rows.recall.take(INDICES[::2], 1).items():
        np.testing.assert_array_equal(batch[name][::2], of_one)
    for name, of_one in rows.induction.take(INDICES[1::2], 1).items():
        np.testing.assert_array_equal(batch[name][1::2], of_one)
    assert rows.vocab_size == 9 and rows.context == 10
