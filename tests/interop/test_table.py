"""Name tables: layouts worked by hand, and every row forth and back."""

import numpy as np
import pytest

from llmjax.config import ModelConfig
from llmjax.interop import hf, table
from llmjax.interop.table import Row

CFG = ModelConfig(
    vocab_size=7, num_layers=2, width=5, num_heads=3, num_kv_heads=3, head_width=2
)


def test_merged_axis_is_taken_apart_and_transposed():
    stored_MD = np.arange(3 * 2 * 5).reshape(6, 5)  # rows: head 0, head 0, head 1, ...
    row = Row("q", "blocks/attention/q_DNH", "(NH)D")
    [(path, q_DNH)] = table.unpack(stored_MD, row, CFG)
    assert path == "blocks/attention/q_DNH"
    assert q_DNH.shape == (5, 3, 2)
    assert q_DNH[4, 2, 1] == stored_MD[2 * 2 + 1, 4]


def test_fused_matrix_holds_three_leaves_side_by_side():
    stored = np.arange(5 * 18).reshape(5, 18)
    row = Row("c_attn", "q_DNH k_DKH v_DKH", "D(3NH)")
    leaves = dict(table.unpack(stored, row, CFG))
    np.testing.assert_array_equal(leaves["k_DKH"].reshape(5, 6), stored[:, 6:12])


def test_digit_inside_the_axis_interleaves_by_head():
    stored = np.arange(18 * 5).reshape(18, 5)  # per head: its query, key and value rows
    row = Row("query_key_value", "q_DNH k_DKH v_DKH", "(N3H)D")
    leaves = dict(table.unpack(stored, row, CFG))
    np.testing.assert_array_equal(leaves["v_DKH"][:, 1], stored[6 + 4 : 6 + 6].T)


@pytest.mark.parametrize("family", hf.FAMILIES.values(), ids=hf.FAMILIES)
def test_every_row_is_undone_by_itself_backwards(family):
    rng = np.random.default_rng(0)
    for row in family.table:
        tensor = rng.normal(size=table.tensor_shape(row, CFG)).astype(np.float32)
        leaves = [leaf for _, leaf in table.unpack(tensor, row, CFG)]
        assert [leaf.shape for leaf in leaves] == [
            CFG.shape(path) for path in row.path.split()
        ]
        np.testing.assert_array_equal(table.pack(leaves, row, CFG), tensor)
