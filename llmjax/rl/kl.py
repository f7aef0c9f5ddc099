"""How far a policy is from its reference: estimators of the KL divergence, and its
coefficient.

Of drawn tokens with log-probabilities p under the policy and q under the reference
(Schulman 2020, "Approximating KL divergence"): k1 = p - q is unbiased and may be
negative, k2 = (p - q)^2 / 2 is biased a little, k3 = exp(q - p) - (q - p) - 1 is
unbiased and never negative. `full` is no estimate: it sums over the vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Estimator = Callable[[jax.Array, jax.Array], jax.Array]


def k1(log_probs: jax.Array, ref_log_probs: jax.Array) -> jax.Array:
    """p - q: the penalty of OpenAI 2019, "kl" of TRL 0.11, and TRL's RLOO."""
    return log_probs - ref_log_probs


def k2(log_probs: jax.Array, ref_log_probs: jax.Array) -> jax.Array:
    """(p - q)^2 / 2: "mse" of TRL 0.11."""
    return 0.5 * jnp.square(log_probs - ref_log_probs)


def k3(log_probs: jax.Array, ref_log_probs: jax.Array) -> jax.Array:
    """exp(q - p) - (q - p) - 1: what GRPO has in its loss, as in TRL 1.x."""
    log_ratio = ref_log_probs - log_probs
    return jnp.expm1(log_ratio) - log_ratio


def full(logits_BTV: jax.Array, ref_logits_BTV: jax.Array) -> jax.Array:
    """KL(policy || reference) of each next token, [B, T]: "full" of TRL 0.11."""
    p_BTV = jax.nn.log_softmax(logits_BTV)
    q_BTV = jax.nn.log_softmax(ref_logits_BTV)
    return jnp.sum(jnp.exp(p_BTV) * (p_BTV - q_BTV), axis=-1)


def adapt(
    coef: jax.Array,
    kl: jax.Array,
    num_episodes: int,
    *,
    target: float = 6.0,
    horizon: float = 10_000.0,
) -> jax.Array:
    """The coefficient after `num_episodes` more answers, whose mean KL was `kl` nats.

    OpenAI 2019 (Ziegler et al., eq. 4), which TRL 0.11 follows: the error relative to
    the target is clipped to +-0.2. A fixed coefficient is one that is not adapted, as
    is usual since N+ (0.05).
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return coef * (1 + error * num_episodes / horizon)
