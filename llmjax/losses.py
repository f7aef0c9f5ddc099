"""Losses: a model and a batch in, a scalar and its sums out."""

from functools import partial

import jax
import jax.numpy as jnp

from llmjax.ops.xent import summed_xent
from llmjax.types import Batch, Key, Metrics, Model, Params


def next_token(
    model: Model,
    params: Params,
    batch: Batch,
    key: Key | None = None,
    *,
    chunk_tokens: int | None = None,
    z_loss: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy in nats of `targets` over the positions with weight.

    batch: tokens, targets and weights, [B, T]; optional segment_ids and positions.
    chunk_tokens: about how many positions of a device have logits at once; None is 512
      on a CPU, where they then stay in its cache, and 8,192 elsewhere.
    Metrics: "loss" is (sum, count) of the cross-entropy alone, without z-loss.
    """
    chunk_tokens = chunk_tokens or (512 if jax.default_backend() == "cpu" else 8192)
    num_devices = max(1, jax.sharding.get_abstract_mesh().size)
    hidden_BTD = model.apply(params, batch, key=key).hidden_BTD
    weights_BT = batch["weights"]
    objective, xent = summed_xent(
        partial(model.readout, params),
        hidden_BTD,
        batch["targets"],
        weights_BT,
        chunk=max(1, chunk_tokens * num_devices // hidden_BTD.shape[0]),
        z_loss=z_loss,
    )
    count = jnp.sum(weights_BT)
    return objective / jnp.maximum(count, 1), {"loss": (xent, count)}
