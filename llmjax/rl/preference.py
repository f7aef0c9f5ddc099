"""Losses of pairs of answers without a reward model: DPO and its kin.

Each takes log-ratios log p(answer) - log q(answer) of policy and reference, summed over
the tokens of the chosen and of the rejected answers, [B], and gives a loss a pair. What
beta * log-ratio is, they take for an answer's reward ("implicit reward").
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

PairLoss = Callable[[jax.Array, jax.Array], jax.Array]


def sigmoid(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    *,
    beta: float = 0.1,
    smoothing: float = 0.0,
) -> jax.Array:
    """-log sigmoid(beta * margin): DPO (Rafailov et al. 2023, eq. 7).

    smoothing: the share of pairs that may be the wrong way round, cDPO (Mitchell 2023):
      "label_smoothing" of TRL 0.11, which TRL 1.x has in `robust` only.
    """
    margin_B = beta * (chosen_B - rejected_B)
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    return -(1 - smoothing) * right_B - smoothing * wrong_B


def robust(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    *,
    beta: float = 0.1,
    smoothing: float = 0.1,
) -> jax.Array:
    """DPO for pairs flipped with that probability: its mean is DPO's of clean pairs.

    Chowdhury et al. 2024, eq. 12; "robust" of TRL 0.11 and 1.x.
    """
    margin_B = beta * (chosen_B - rejected_B)
    right_B, wrong_B = jax.nn.log_sigmoid(margin_B), jax.nn.log_sigmoid(-margin_B)
    return (-(1 - smoothing) * right_B + smoothing * wrong_B) / (1 - 2 * smoothing)


def ipo(chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float = 0.1) -> jax.Array:
    """(margin - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17).

    Give it log-ratios divided by the answers' lengths, which the paper does not say but
    TRL 0.11 and 1.x do, on its authors' advice.
    """
    return jnp.square(chosen_B - rejected_B - 1 / (2 * beta))


def hinge(
    chosen_B: jax.Array, rejected_B: jax.Array, *, beta: float = 0.1
) -> jax.Array:
    """max(0, 1 - beta * margin) (SLiC, Zhao et al. 2023), as in TRL 0.11 and 1.x."""
    return jax.nn.relu(1 - beta * (chosen_B - rejected_B))


def kto(
    chosen_B: jax.Array,
    rejected_B: jax.Array,
    *,
    beta: float = 0.1,
    level: jax.Array | None = None,
) -> jax.Array:
    """Each answer for itself, against a common level: KTO (Ethayarajh et al. 2024).

    1 - sigmoid(beta * (chosen - level)) plus 1 - sigmoid(beta * (level - rejected)), as
    in TRL with both weights 1. The level is a KL, not negative, and not differentiated.
    TRL estimates it from prompts with others' answers; by default it is here the mean
    log-ratio of all answers of the batch, which costs nothing.
    """
    if level is None:
        both_B = jax.lax.stop_gradient(chosen_B + rejected_B)
        level = jnp.maximum(both_B.mean() / 2, 0)
    right_B = 1 - jax.nn.sigmoid(beta * (chosen_B - level))
    return right_B + 1 - jax.nn.sigmoid(beta * (level - rejected_B))
