"""The alphabet, and the shape checker."""

import numpy as np
import pytest

from llmjax import dims


def test_parse():
    assert dims.parse("q_DNH") == "DNH"
    assert dims.parse("q_bias_NH") == "NH"


@pytest.mark.parametrize("name", ["q", "q_dnh", "q_DNZ", "QDNH", "q_D2"])
def test_names_without_known_letters_are_refused(name):
    with pytest.raises(ValueError):
        dims.parse(name)


def test_check_names_both_arrays():
    with pytest.raises(ValueError, match="K .* is 3 in v_BSKH but 2 in k_BSKH"):
        dims.check(k_BSKH=np.zeros((1, 4, 2, 8)), v_BSKH=np.zeros((1, 4, 3, 8)))
    with pytest.raises(ValueError, match="rank 1"):
        dims.check(x_BT=np.zeros(3))
