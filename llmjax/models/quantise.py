"""A model's matrices in 8 or 4 bits, for generation or under LoRA in less memory."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from llmjax import dims
from llmjax.ops import linear, quant
from llmjax.ops.quant import scale_name
from llmjax.types import Params

DTYPES = ("float32", "bfloat16", "int8")
MATRICES = (*linear.MATRICES, "embed_VD")


def to_int8(params: Params) -> Params:
    """The parameters with every matrix as int8, and its scale beside it.

    "q_DNH" gets "q_scale_NH": a scale for each output, so that a product is scaled once
    it is made. A table of embeddings has one a row. Vectors stay as they are.
    """
    found = {}
    for name, leaf in params.items():
        if isinstance(leaf, Mapping):
            found[name] = to_int8(leaf)
        elif name in MATRICES:
            outputs = dims.parse(scale_name(name))
            stacked = leaf.ndim - len(dims.parse(name))  # 1 in blocks: their L
            axes = tuple(
                stacked + axis
                for axis, letter in enumerate(dims.parse(name))
                if letter not in outputs
            )
            found[name], found[scale_name(name)] = quant.quantise(leaf, axes)
        else:
            found[name] = leaf
    return found


def to_nf4(params: Params) -> Params:
    """The parameters with every matrix of the blocks in 4 bits (QLoRA's base).

    "q_DNH" gets "q_blocks_DNH": a scale for each block. Embeddings, head and vectors
    stay as they are. Needs `pip install llmjax[quant]`.
    """
    found = {}
    for name, leaf in params.items():
        if isinstance(leaf, Mapping):
            found[name] = leaf if name in ("embed", "head") else to_nf4(leaf)
        elif name in linear.MATRICES:
            found[name], found[quant.block_name(name)] = quant.quantise_nf4(name, leaf)
        else:
            found[name] = leaf
    return found


def narrow(params: Params, dtype: str) -> Params:
    """The parameters as one of `DTYPES`, or nf4; there the vectors stay float32."""
    if dtype == "int8":
        return to_int8(params)
    if dtype == "nf4":
        return to_nf4(params)
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(jnp.dtype(dtype)), params)
