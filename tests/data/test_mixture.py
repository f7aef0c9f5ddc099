"""Mixtures are exact at every length, and weights touch no source's order."""

import itertools

import numpy as np
import pytest

from llmjax.data.mixture import Mixture, interleave
from llmjax.data.pack import Packed


@pytest.mark.parametrize(
    "weights", [(0.7, 0.3), (5, 3, 2), (0.57, 0.43), (1, 1, 1, 1), (0, 1), (1, 0), (3,)]
)
def test_counts_are_exact(weights):
    which, within = interleave(np.arange(1000), weights)
    shares = np.array(weights) / sum(weights)
    counts = np.bincount(which, minlength=len(weights))
    np.testing.assert_allclose(counts, 1000 * shares, atol=1e-9)
    for number in range(1, 1000):  # and at each length, to within a row or so
        counts = np.bincount(which[:number], minlength=len(weights))
        assert np.abs(counts - number * shares).max() <= 0.5 * len(weights)
    for source in range(len(weights)):  # each source is gone through row by row
        mine = within[which == source]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))


def test_any_rows_can_be_asked_for_alone():
    which, within = interleave(np.arange(5000), (0.61, 0.3, 0.09))
    some = np.array([4321, 7, 7, 1234])
    alone = interleave(some, (0.61, 0.3, 0.09))
    np.testing.assert_array_equal(alone, (which[some], within[some]))


def source_and_rows(mixture, number):
    tokens = mixture.take(np.arange(number), seed=1)["tokens"]
    split = mixture.sources[0].store.meta.num_tokens
    from_first = [row.tolist() for row in tokens if row.max() < split]
    from_second = [row.tolist() for row in tokens if row.max() >= split]
    return from_first, from_second


def test_weights_do_not_touch_the_order_of_a_source(make_store):
    first, second = make_store([9] * 40, "a"), make_store([9] * 50, "b")
    second.tokens = second.tokens + first.meta.num_tokens
    sources = [Packed(first, 8), Packed(second, 8)]
    even = source_and_rows(Mixture(sources, [1, 1]), 60)
    odd = source_and_rows(Mixture(sources, [3, 1]), 60)
    assert [len(rows) for rows in (*even, *odd)] == [30, 30, 45, 15]
    for some, more in zip(even, odd, strict=True):
        assert all(a == b for a, b in itertools.zip_longest(some, more) if a and b)
    assert Mixture(sources, [1, 1]).fingerprint != Mixture(sources, [3, 1]).fingerprint


def test_bad_mixtures_are_refused(make_store):
    source = Packed(make_store([9] * 4), 8)
    for weights in ([1], [1, -1], [0, 0], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(ValueError, match="weights"):
            Mixture([source, source], weights)
    with pytest.raises(ValueError, match="context"):
        Mixture([source, Packed(source.store, 4)], [1, 1])
