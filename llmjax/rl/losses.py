"""The losses of policies and critics, a number a token, and how they are averaged.

`old` log-probabilities and values are those of the rollout: they stay the same over all
epochs. What is averaged returns (sum, count), as `make_step` takes them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llmjax.types import Metrics

Total = tuple[jax.Array, jax.Array]


def clipped_policy(
    log_ratio: jax.Array, advantages: jax.Array, low: float = 0.2, high: float = 0.2
) -> jax.Array:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) (Schulman et al. 2017, eq. 7).

    The same in OpenAI 2019, TRL 0.11 and 1.x. high > low is DAPO's clip-higher (Yu et
    al. 2025; 0.28). log_ratio: of tokens, or of whole answers as in RLOO.
    """
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - low, 1 + high)
    return -jnp.minimum(ratio * advantages, clipped * advantages)


def clipped_value(
    values_BT: jax.Array, old_BT: jax.Array, returns_BT: jax.Array, clip: float = 0.2
) -> jax.Array:
    """Half the larger squared error: of the value, and of it kept near the old one.

    The half is in OpenAI 2019 and in TRL; the latter's `vf_coef`, 0.1, comes on top.
    """
    near_BT = jnp.clip(values_BT, old_BT - clip, old_BT + clip)
    errors = jnp.square(values_BT - returns_BT), jnp.square(near_BT - returns_BT)
    return 0.5 * jnp.maximum(*errors)


def token_mean(loss_BT: jax.Array, mask_BT: jax.Array) -> Total:
    """Every token counts the same: PPO in OpenAI 2019 and TRL 0.11, and DAPO.

    In TRL 1.x the count of DAPO is that of the whole batch; here it is so too where
    `make_step` accumulates.
    """
    return jnp.sum(loss_BT * mask_BT), jnp.sum(mask_BT)


def answer_mean(loss_BT: jax.Array, mask_BT: jax.Array) -> Total:
    """Every answer counts the same, however long: GRPO, as in TRL 1.x ("grpo")."""
    count_B = jnp.maximum(mask_BT.sum(axis=1), 1)
    return jnp.sum((loss_BT * mask_BT).sum(axis=1) / count_B), jnp.float32(len(mask_BT))


def length_mean(num_tokens: int) -> Callable[..., Total]:
    """Divided by the longest answer allowed: Dr. GRPO, as in TRL 1.x ("dr_grpo")."""

    def mean(loss_BT, mask_BT):
        return jnp.sum(loss_BT * mask_BT), jnp.float32(len(mask_BT) * num_tokens)

    return mean


def ratio_figures(
    log_ratio: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    low: float = 0.2,
    high: float = 0.2,
) -> Metrics:
    """How far the policy has moved since the rollout.

    clip_fraction: where the clipped term is the larger, as in TRL 0.11. approx_kl: half
    the mean squared log-ratio, likewise. ratio_low, ratio_high: the extremes.
    """
    ratio, count = jnp.exp(log_ratio), jnp.sum(mask)
    plain = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - low, 1 + high)
    real = jnp.where(mask > 0, ratio, 1)
    return {
        "clip_fraction": (jnp.sum((clipped > plain) * mask), count),
        "approx_kl": (0.5 * jnp.sum(jnp.square(log_ratio) * mask), count),
        "ratio_low": (jnp.min(real), jnp.float32(1)),
        "ratio_high": (jnp.max(real), jnp.float32(1)),
    }


def value_figures(
    values_BT: jax.Array,
    old_BT: jax.Array,
    returns_BT: jax.Array,
    mask_BT: jax.Array,
    clip: float = 0.2,
) -> Metrics:
    """value_clip_fraction: where the clipped error is the larger, as in TRL 0.11."""
    near_BT = jnp.clip(values_BT, old_BT - clip, old_BT + clip)
    is_clipped_BT = jnp.square(near_BT - returns_BT) > jnp.square(
        values_BT - returns_BT
    )
    return {"value_clip_fraction": token_mean(is_clipped_BT, mask_BT)}
