"""Losses: a model and a batch in, a scalar and its sums out."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.ops.xent import positions_at_once, summed_xent
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
    chunk_tokens: about how many positions of a device have logits at once; None is what
      `ops.xent.positions_at_once` takes.
    Metrics: "loss" is (sum, count) of the cross-entropy alone, without z-loss.
    """
    hidden_BTD = model.apply(params, batch, key=key).hidden_BTD
    weights_BT = batch["weights"]
    objective, xent = summed_xent(
        partial(model.readout, params),
        hidden_BTD,
        batch["targets"],
        weights_BT,
        chunk=positions_at_once(len(hidden_BTD), chunk_tokens),
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


def prefer(
    logits_fn: Callable[..., jax.Array],
    params: Params,
    batch: Batch,
    key: Key | None = None,
    *,
    smoothing: float = 0.0,
    centring: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Mean of `bradley_terry` over the prompts, of the scores that a model gives.

    logits_fn: (params, batch, key) -> scores [B * A, 1] of `tokens` and `segment_ids`.
    batch: tokens_BAT, segments_BAT, rank_BA and margin_B of `data.comparison_rows`.
    Metrics: "loss" without centring, and "accuracy", each (sum, count): a ranking's
      pairs count once together. A pair scored alike is not right.
    """
    rank_BA = batch["rank_BA"]
    num_tokens = batch["tokens_BAT"].shape[-1]
    answers = {
        "tokens": batch["tokens_BAT"].reshape(-1, num_tokens),
        "segment_ids": batch["segments_BAT"].reshape(-1, num_tokens),
    }
    scores_BA = logits_fn(params, answers, key).reshape(rank_BA.shape)
    margin_B = batch["margin_B"]
    loss_B, weight_B = bradley_terry(scores_BA, rank_BA, margin_B, smoothing=smoothing)
    right_B, told_B = _count_right(scores_BA, rank_BA)
    count = jnp.maximum(weight_B.sum(), 1)
    objective = loss_B.sum() / count
    if centring:
        objective += centring * _off_centre(scores_BA, rank_BA).sum() / count
    metrics = {
        "loss": (loss_B.sum(), weight_B.sum()),
        "accuracy": (right_B.sum(), told_B.sum()),
    }
    return objective, metrics


def bradley_terry(
    scores_BA: jax.Array,
    rank_BA: jax.Array,
    margin_B: jax.Array,
    *,
    smoothing: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """(the loss of each prompt's pairs in nats, how much it counts: 1; 0 of none).

    rank_BA: 1 is the best, equal ones are tied, 0 is no answer.
    Of a pair it is -log sigmoid(better - worse - margin), the margin within the sigmoid
    as in Llama 2 and TRL 1.x; of tied ones the mean of both orders, without a margin.
    smoothing: so often the label is taken to be wrong. The pairs of a prompt are
    averaged, as in InstructGPT, so that a long ranking counts no more than a pair.
    """
    gap_BP, sign_BP, weight_BP = _pairs(scores_BA, rank_BA)
    is_strict_BP = sign_BP != 0
    gap_BP -= jnp.where(is_strict_BP, margin_B[:, None], 0.0)
    wrong_BP = jnp.where(is_strict_BP, smoothing, 0.5)
    loss_BP = jax.nn.softplus(-gap_BP) + wrong_BP * gap_BP
    return (loss_BP * weight_BP).sum(1), weight_BP.any(1).astype(jnp.float32)


def _pairs(scores_BA, rank_BA) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of all two answers: by how much the better one's score is higher; 0 if they are
    tied, else 1 or -1; and the share of the prompt's pairs that each is."""
    one_P, other_P = np.triu_indices(rank_BA.shape[1], 1)
    scores_BA = jnp.where(rank_BA > 0, scores_BA, 0.0)
    sign_BP = jnp.sign(rank_BA[:, other_P] - rank_BA[:, one_P])
    gap_BP = scores_BA[:, one_P] - scores_BA[:, other_P]
    gap_BP *= jnp.where(sign_BP < 0, -1.0, 1.0)
    is_pair_BP = (rank_BA[:, one_P] > 0) & (rank_BA[:, other_P] > 0)
    return gap_BP, sign_BP, _shares(is_pair_BP)


def _shares(is_in_BP) -> jax.Array:
    num_B1 = is_in_BP.sum(axis=1, keepdims=True)
    return is_in_BP / jnp.maximum(num_B1, 1).astype(jnp.float32)


def _count_right(scores_BA, rank_BA) -> tuple[jax.Array, jax.Array]:
    """The share of each prompt's untied pairs that is scored in order; 1 if any is."""
    gap_BP, sign_BP, weight_BP = _pairs(scores_BA, rank_BA)
    share_BP = _shares((sign_BP != 0) & (weight_BP > 0))
    return ((gap_BP > 0) * share_BP).sum(1), share_BP.any(1).astype(jnp.float32)


def _off_centre(scores_BA, rank_BA) -> jax.Array:
    """The mean square of the sum of two scores, over each prompt's pairs (TRL 1.x's
    `center_rewards_coefficient`; Eisenstein et al. 2023)."""
    one_P, other_P = np.triu_indices(rank_BA.shape[1], 1)
    *_, weight_BP = _pairs(scores_BA, rank_BA)
    sums_BP = scores_BA[:, one_P] + scores_BA[:, other_P]
    return (jnp.where(weight_BP > 0, sums_BP, 0.0) ** 2 * weight_BP).sum(1)
