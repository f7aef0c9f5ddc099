"""Softmax cross-entropy that never holds the B x T x V logits, nor recomputes them.

The positions are gone through chunk by chunk; where a gradient is wanted, each chunk's
is made while its logits are at hand, so that backward only scales what forward kept.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from llmjax import dims


def summed_xent(
    readout: Callable[[jax.Array], jax.Array],
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    chunk: int,
    z_loss: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """(objective, cross-entropy), both summed over positions with their weights.

    readout: hidden -> float32 logits; gradients also flow to what it closes over.
    chunk: positions of each row whose logits are held at once; the last of a row that
      it does not divide are padded.
    z_loss: adds z_loss * logsumexp^2 to the objective (PaLM), which keeps the
      normaliser near 1. Only the objective carries a gradient.
    """
    dims.check(hidden_BTD=hidden_BTD, targets_BT=targets_BT, weights_BT=weights_BT)
    split = partial(split_positions, chunk=min(chunk, hidden_BTD.shape[1]))
    xs = (split(hidden_BTD), split(targets_BT), split(weights_BT))
    readout, closed_over = jax.closure_convert(readout, xs[0][0])
    objective, xent = _summed(readout, z_loss, closed_over, *xs)
    return objective, jax.lax.stop_gradient(xent)


def positions_at_once(num_rows: int, tokens_per_device: int | None = None) -> int:
    """Positions of each of so many rows whose logits are held at once.

    tokens_per_device: None is 512 on a CPU, where they then stay in its cache, and
      8,192 elsewhere.
    """
    if tokens_per_device is None:
        tokens_per_device = 512 if jax.default_backend() == "cpu" else 8192
    num_devices = max(1, jax.sharding.get_abstract_mesh().size)
    return max(1, tokens_per_device * num_devices // num_rows)


def split_positions(x: jax.Array, chunk: int) -> jax.Array:
    """[B, T, ...] -> [T / chunk, B, chunk, ...], chunks strided over T.

    Strided, each chunk takes an equal part of every shard of a T that is split over the
    mesh, so that no device waits or sends.
    """
    B, T = x.shape[:2]
    num_chunks = -(-T // chunk)
    x = jnp.pad(x, [(0, 0), (0, num_chunks * chunk - T)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(B, chunk, num_chunks, *x.shape[2:]), 2, 0)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(readout, z_loss, closed_over, hidden, targets, weights):
    def chunk_sums(sums, xs):
        hidden, targets, weights = xs
        xent, lse, _ = _xent(readout(hidden, *closed_over), targets)
        return _add(sums, xent, lse, weights, z_loss), None

    zeros = (jnp.zeros(()), jnp.zeros(()))
    return jax.lax.scan(chunk_sums, zeros, (hidden, targets, weights))[0]


def _summed_fwd(readout, z_loss, closed_over, hidden, targets, weights):
    def chunk_grads(carry, xs):
        sums, d_closed_over = carry
        hidden, targets, weights = xs
        logits, pull = jax.vjp(readout, hidden, *closed_over)
        xent, lse, is_target = _xent(logits, targets)
        softmax = jnp.exp(logits - lse[..., None])
        pull_up = softmax * (1 + 2 * z_loss * lse[..., None]) - is_target
        d_hidden, *d_chunk = pull(pull_up * weights[..., None])
        d_closed_over = jax.tree.map(jnp.add, d_closed_over, d_chunk)
        return (_add(sums, xent, lse, weights, z_loss), d_closed_over), d_hidden

    zeros = (jnp.zeros(()), jnp.zeros(())), jax.tree.map(jnp.zeros_like, closed_over)
    (sums, d_closed_over), d_hidden = jax.lax.scan(
        chunk_grads, zeros, (hidden, targets, weights)
    )
    return sums, (d_closed_over, d_hidden)


def _summed_bwd(readout, z_loss, kept, cotangents):
    d_closed_over, d_hidden = jax.tree.map(lambda g: g * cotangents[0], kept)
    return d_closed_over, d_hidden, None, None


_summed.defvjp(_summed_fwd, _summed_bwd)


def _xent(logits, targets):
    lse = jax.nn.logsumexp(logits, axis=-1)
    at_target, is_target = at_ids(logits, targets)
    return lse - at_target, lse, is_target


def at_ids(values: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(values [..., V] at the ids [...], where in [..., V] these are)."""
    # A comparison instead of a gather: it needs no communication when V is sharded.
    each = jax.lax.broadcasted_iota(ids.dtype, values.shape, values.ndim - 1)
    is_id = each == ids[..., None]
    return jnp.sum(jnp.where(is_id, values, 0), axis=-1), is_id


def _add(sums, xent, lse, weights, z_loss):
    objective = xent + z_loss * jnp.square(lse) if z_loss else xent
    return sums[0] + jnp.sum(objective * weights), sums[1] + jnp.sum(xent * weights)
