"""Relative position buckets: those of transformers' T5, and what they promise."""

import pathlib

import numpy as np
import pytest

from llmjax.ops import relative

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "relative.npz"
DISTANCE = np.arange(-600, 601)


def test_buckets_equal_those_of_torch_in_float32():
    """Where a distance lies on the edge of two buckets, float32 rounding decides."""
    with np.load(GOLDEN) as file:
        assert len(file.files) > 150
        for name in file:
            num_buckets, max_distance, bidirectional = map(int, name.split("_"))
            found = relative.buckets(
                DISTANCE, num_buckets, max_distance, bool(bidirectional)
            )
            np.testing.assert_array_equal(found, file[name], err_msg=name)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_near_is_exact_far_is_coarse(bidirectional):
    found = np.asarray(relative.buckets(DISTANCE, 32, 128, bidirectional))
    before = found[:601][::-1]  # of keys 0, 1, 2, ... before the query
    num_exact = 8 if bidirectional else 16
    np.testing.assert_array_equal(before[:num_exact], np.arange(num_exact))
    assert (np.diff(before) >= 0).all()
    assert len(set(before[128:])) == 1
    after = found[601:]
    if bidirectional:
        np.testing.assert_array_equal(after, before[1:] + 16)
    else:
        assert (after == 0).all()
