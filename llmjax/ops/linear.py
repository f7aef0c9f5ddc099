"""Matrix products of activations and weights, with weight gradients a CPU runs fast."""

import math

import jax
import jax.numpy as jnp


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
    x_letters, weight_letters = equation.partition("->")[0].split(",")
    num_in = sum(letter in x_letters for letter in weight_letters)
    rows, out = x.shape[: x.ndim - num_in], weight.shape[num_in:]
    width = math.prod(weight.shape[:num_in])
    y = _matmul(x.reshape(-1, width), weight.reshape(width, -1))
    return y.reshape(*rows, *out)


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
