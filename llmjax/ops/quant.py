"""Weights in 8 bits, or in 4 for a base that is frozen, and their scales.

In 8 bits each output channel has the scale that makes its largest 127. In 4 bits each
block of weights has its own, and the 16 values are the quantiles of a normal
distribution: NF4 (Dettmers et al. 2023), from qwix.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax import dims

NF4_BLOCK = 64  # weights along the last input axis that share a scale, where it divides


class Int8(NamedTuple):
    """weight ~ int8 * scale; `scale` has the weight's output axes, which are last
    (or, in a table of embeddings, its rows)."""

    weight: jax.Array
    scale: jax.Array

    @property
    def T(self) -> "Int8":
        return Int8(self.weight.T, self.scale)


class NF4(NamedTuple):
    """weight ~ value[code] * scale of its block; `scale` has the weight's axes."""

    codes: jax.Array
    scale: jax.Array


def scale_name(name: str) -> str:
    """Of the scales of a matrix: those of "q_DNH" are "q_scale_NH"."""
    base, _, letters = name.rpartition("_")
    if letters == "VD":  # a table of embeddings
        return f"{base}_scale_V"
    return f"{base}_scale_{letters[1:] if letters[0] == 'D' else letters[-1]}"


def block_name(name: str) -> str:
    """Of the scales of a matrix in 4 bits: those of "q_DNH" are "q_blocks_DNH"."""
    stem, _, letters = name.rpartition("_")
    return f"{stem}_blocks_{letters}"


def quantise(weight: np.ndarray, axes: tuple[int, ...]) -> Int8:
    """The weight with one scale for all its entries along `axes`."""
    weight = np.asarray(weight, np.float32)
    scale = np.abs(weight).max(axes, keepdims=True) / 127
    unit = weight / np.where(scale > 0, scale, 1)
    return Int8(np.round(unit).astype(np.int8), scale.squeeze(axes))


def quantise_nf4(name: str, weight: jax.Array) -> NF4:
    """The matrix of that name in 4 bits; a leading L is one more axis of blocks."""
    import qwix

    axis = weight.ndim - len(dims.split_matrix(name)[1]) - 1
    found = qwix.quantize(
        jnp.asarray(weight, jnp.float32),
        "nf4",
        channelwise_axes=[other for other in range(weight.ndim) if other != axis],
        tiled_axes={axis: math.gcd(weight.shape[axis], NF4_BLOCK)},
    )
    return NF4(found.qvalue, found.scale)


def restore(name: str, weight: Any) -> jax.Array:
    """The matrix of that name in float32, whatever it is held in."""
    if isinstance(weight, NF4):
        import qwix

        return qwix.dequantize(qwix.QArray(*weight, qtype="nf4"))
    if isinstance(weight, Int8):
        letters, kept = dims.parse(name), dims.parse(scale_name(name))
        axes = [i - len(letters) for i, one in enumerate(letters) if one not in kept]
        return weight.weight * jnp.expand_dims(weight.scale, axes)
    return weight.astype(jnp.float32)


def take(table: jax.Array | Int8, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of a table of embeddings, [*ids.shape, D]."""
    if isinstance(table, Int8):
        rows = table.weight[ids].astype(dtype)
        return rows * table.scale[ids][..., None].astype(dtype)
    return table[ids].astype(dtype)
