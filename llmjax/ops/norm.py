"""Layer normalisation (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

import jax
import jax.numpy as jnp


def align(vector: jax.Array, x: jax.Array) -> jax.Array:
    """`vector` with leading axes of 1, so that it broadcasts over those of `x`."""
    return vector.reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis; in float32, back to x.dtype."""
    x32 = x.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    return (x32 * jax.lax.rsqrt(variance + eps) * align(scale, x)).astype(x.dtype)


def layer_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array | None, eps: float
) -> jax.Array:
    """(x - mean) / std * scale + bias over the last axis, in float32, as x.dtype."""
    x32 = x.astype(jnp.float32)
    mean = jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x32 - mean), axis=-1, keepdims=True)
    y = (x32 - mean) * jax.lax.rsqrt(variance + eps)
    y = y * align(scale, x)
    return (y if bias is None else y + align(bias, x)).astype(x.dtype)
