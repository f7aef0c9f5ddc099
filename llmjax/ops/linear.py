"""Matrix products of activations and weights, with weight gradients a CPU runs fast."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax import dims

# What `linear` multiplies by. One that begins with D reads D; the others end in it.
MATRICES = (
    "q_DNH", "k_DKH", "v_DKH", "o_NHD", "gate_DF", "up_DF", "down_FD", "head_DV",
    "dense_DM",
)  # fmt: skip
MAX_FEW = 64  # rows, up to which a CPU multiplies them faster by a turned weight


class Turned(NamedTuple):
    """A weight whose output axes come first, as a CPU multiplies a few rows fastest.

    XLA packs the right operand of a product before it begins. Packing a few rows is
    little work, packing a weight more than the product with them.
    """

    weight: jax.Array


def turned_name(name: str) -> str:
    """Of a matrix, once its output axes come first: "q_DNH" becomes "q_NHD"."""
    inputs, outputs = dims.split_matrix(name)
    return f"{name.rpartition('_')[0]}_{outputs}{inputs}"


def turn(name: str, weight: jax.Array) -> jax.Array:
    """The matrix of that name as `Turned` has it; a leading L stays where it is."""
    inputs, outputs = dims.split_matrix(name)
    first = weight.ndim - len(inputs + outputs)
    split = first + len(inputs)
    axes = (*range(first), *range(split, weight.ndim), *range(first, split))
    return weight.transpose(axes)


def linear(
    equation: str, x: jax.Array, weight: jax.Array, out_dtype: jnp.dtype | None = None
) -> jax.Array:
    """`einsum(equation, x, weight)`; x ends in the letters that weight begins with.

    On a CPU, XLA's product for a weight's gradient is two to three times faster when
    both operands are matrices and the result is no taller than wide; einsum's own
    gradient gives it neither. Elsewhere, and for other types than float32, this is
    einsum. `out_dtype` is what narrower products are summed and returned in.
    """
    if x.dtype != jnp.float32 or not _flattens():
        return jnp.einsum(equation, x, weight, preferred_element_type=out_dtype)
    num_in = _num_in(equation)
    rows, out = x.shape[: x.ndim - num_in], weight.shape[num_in:]
    width = math.prod(weight.shape[:num_in])
    y = _matmul(x.reshape(-1, width), weight.reshape(width, -1))
    return y.reshape(*rows, *out)


def turned_linear(
    equation: str, x: jax.Array, weight: jax.Array, out_dtype: jnp.dtype | None = None
) -> jax.Array:
    """`linear` of the same equation, by a weight whose output axes come first."""
    num_in = _num_in(equation)
    rows, out = x.shape[: x.ndim - num_in], weight.shape[: weight.ndim - num_in]
    is_fast = x.dtype == jnp.float32 and math.prod(rows) <= MAX_FEW and _flattens()
    if not is_fast:
        axes = (*range(len(out), weight.ndim), *range(len(out)))
        return linear(equation, x, weight.transpose(axes), out_dtype)
    width = math.prod(weight.shape[len(out) :])
    y = weight.reshape(-1, width) @ x.reshape(-1, width).T
    # Without the barrier, the compiler would make the weight the right operand again.
    return jax.lax.optimization_barrier(y).T.reshape(*rows, *out)


def _num_in(equation: str) -> int:
    x_letters, weight_letters = equation.partition("->")[0].split(",")
    return sum(letter in x_letters for letter in weight_letters)


def _flattens() -> bool:
    # With T split over the mesh, rows of B and T cannot be merged without sending them.
    mesh = jax.sharding.get_abstract_mesh()
    split = not mesh.empty and mesh.shape.get("sequence", 1) > 1
    return jax.default_backend() == "cpu" and not split


@jax.custom_vjp
def _matmul(x, weight):
    return x @ weight


def _matmul_fwd(x, weight):
    return x @ weight, (x, weight)


def _matmul_bwd(kept, dy):
    x, weight = kept
    wide = x.shape[1] <= dy.shape[1]
    d_weight = x.T @ dy if wide else dy.T @ x
    # The barrier keeps the compiler from turning the product round again, here or where
    # the weight was a transpose itself.
    d_weight = jax.lax.optimization_barrier(d_weight)
    return dy @ weight.T, d_weight if wide else d_weight.T


_matmul.defvjp(_matmul_fwd, _matmul_bwd)
