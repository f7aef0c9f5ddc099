"""Relative position buckets (Raffel et al. 2020): exact when near, coarse when far."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def buckets(
    distance: jax.Array, num_buckets: int, max_distance: int, bidirectional: bool
) -> jax.Array:
    """The bucket of each `distance` = key position - query position, any shape.

    Half of the buckets hold one distance each; the rest grow geometrically up to
    `max_distance`. Unless `bidirectional`, keys after the query share bucket 0; else
    they have the upper half of the buckets to themselves.
    """
    if bidirectional:
        num_buckets //= 2
        after = jnp.where(distance > 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        after = 0
        distance = jnp.maximum(-distance, 0)
    table = jnp.asarray(_table(num_buckets, max_distance))
    return after + table[jnp.minimum(distance, max_distance)]


def _table(num_buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of distances 0..max_distance.

    In the float32 arithmetic of the published models: where a distance lies on the edge
    of two buckets, its rounding decides.
    """
    num_exact = num_buckets // 2
    distance = np.arange(max_distance + 1, dtype=np.float32)
    grown = np.log(np.maximum(distance, 1) / np.float32(num_exact))
    grown = grown / np.float32(math.log(max_distance / num_exact))
    far = num_exact + (grown * np.float32(num_buckets - num_exact)).astype(np.int32)
    far = np.minimum(far, num_buckets - 1)
    return np.where(distance < num_exact, distance.astype(np.int32), far)
