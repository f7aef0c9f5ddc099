"""Losses: a model and a batch in, a scalar and its sums out."""

from collections.abc import Callable
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


def classify(
    logits_fn: Callable[..., jax.Array],
    params: Params,
    batch: Batch,
    key: Key | None = None,
) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy in nats of the texts' classes, each text with its weight.

    logits_fn: (params, batch, key) -> logits_BO, as `transformer.classifier` makes it.
    batch: class_B and weight_B, besides what `logits_fn` reads.
    Metrics: "loss" and "accuracy", each (sum, count).
    """
    logits_BO = logits_fn(params, batch, key)
    class_B, weight_B = batch["class_B"], batch["weight_B"]
    log_shares_BO = jax.nn.log_softmax(logits_BO)
    taken_B = jnp.take_along_axis(log_shares_BO, class_B[:, None], axis=1)[:, 0]
    xent, count = -jnp.sum(taken_B * weight_B), jnp.sum(weight_B)
    num_right = jnp.sum((jnp.argmax(logits_BO, axis=1) == class_B) * weight_B)
    metrics = {"loss": (xent, count), "accuracy": (num_right, count)}
    return xent / jnp.maximum(count, 1), metrics
