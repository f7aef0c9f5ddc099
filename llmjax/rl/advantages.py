"""From scores of whole answers to an advantage of each token.

Arrays [B, T] have a mask of 1 at the tokens of the answer, whose last is the one after
which there are no more; elsewhere nothing counts. Rewards and advantages are float32.
"""

import jax
import jax.numpy as jnp

GROUP_EPS = 1e-4  # added to the deviation of a group, as in DeepSeek's code and TRL


def masked_mean(values_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """The mean over all tokens of the batch."""
    return jnp.sum(values_BT * mask_BT) / jnp.maximum(jnp.sum(mask_BT), 1)


def whiten(
    values_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    shift_mean: bool = True,
    unbiased: bool = True,
) -> jax.Array:
    """Values over their deviation in the batch, with or without their mean taken away.

    unbiased: a variance over n - 1, as TRL (0.11 and since); False is OpenAI 2019 and
      N+, whose variance is over n. Rewards are whitened without, advantages with
      `shift_mean` in all three. OpenAI 2019 whitens each minibatch, TRL 0.11 the batch,
      and there padding gets a reward by it that GAE carries into the answers; not here.
    """
    _check_float32(values_BT)
    mean = masked_mean(values_BT, mask_BT)
    variance = masked_mean(jnp.square(values_BT - mean), mask_BT)
    if unbiased:
        count = jnp.sum(mask_BT)
        variance = variance * count / jnp.maximum(count - 1, 1)
    whitened_BT = (values_BT - mean) * jax.lax.rsqrt(variance + 1e-8)
    return whitened_BT if shift_mean else whitened_BT + mean


def penalise_endless(
    score_B: jax.Array, ended_B: jax.Array, penalty: float, *, replace: bool = False
) -> jax.Array:
    """Scores less `penalty` for answers that were cut off before they ended.

    That is `missing_eos_penalty` of TRL (PPOv2 of 0.11, and since). replace: -penalty
    becomes the score whatever it was, as in OpenAI 2019 (-1) and N+.
    """
    _check_float32(score_B)
    worse_B = jnp.full_like(score_B, -penalty) if replace else score_B - penalty
    return jnp.where(ended_B, score_B, worse_B)


def shape_rewards(
    score_B: jax.Array, kl_BT: jax.Array, mask_BT: jax.Array, coef: jax.Array
) -> jax.Array:
    """Rewards [B, T]: -coef * KL of each token, and the score at the answer's last.

    OpenAI 2019 and TRL 0.11 put the score there; TRL 1.x (experimental PPO) a token
    further where the row has room. It is a reward: nothing is differentiated here.
    """
    _check_float32(score_B, kl_BT)
    rewards_BT = -coef * kl_BT * mask_BT + score_B[:, None] * _is_last(mask_BT)
    return jax.lax.stop_gradient(rewards_BT)


def gae(
    rewards_BT: jax.Array,
    values_BT: jax.Array,
    mask_BT: jax.Array,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
    """(advantages_BT, returns_BT) by generalised advantage estimation.

    Schulman et al. 2015, eq. 16, from the end backwards. Tokens that the mask leaves
    out, before, after and within an answer, are passed over: the value after a token is
    that at the answer's next one, and 0 after its last. The returns are those of OpenAI
    2019 and TRL: the advantages, before they are whitened, plus the values.
    """
    _check_float32(rewards_BT, values_BT)

    def back(carry, xs):
        advantage_B, value_B = carry
        reward_B, own_B, mask_B = xs
        delta_B = reward_B + gamma * value_B - own_B
        new_B = delta_B + gamma * lam * advantage_B
        is_real_B = mask_B > 0
        advantage_B = jnp.where(is_real_B, new_B, advantage_B)
        value_B = jnp.where(is_real_B, own_B, value_B)
        return (advantage_B, value_B), advantage_B

    zeros_B = jnp.zeros(len(rewards_BT), jnp.float32)
    xs = (rewards_BT.T, values_BT.T, mask_BT.T)
    _, advantages_TB = jax.lax.scan(back, (zeros_B, zeros_B), xs, reverse=True)
    advantages_BT = advantages_TB.T * mask_BT
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def of_group(score_B: jax.Array, num_samples: int, *, scale: bool = True) -> jax.Array:
    """Advantages of answers among the `num_samples` in a row to the same prompt.

    GRPO (Shao et al. 2024): over the group's deviation, of n - 1, plus 1e-4, as in TRL
    1.x. scale=False: Dr. GRPO (Liu et al. 2025), which leaves the deviation out.
    """
    _check_float32(score_B)
    score_BA = score_B.reshape(-1, num_samples)
    centred_BA = score_BA - score_BA.mean(axis=1, keepdims=True)
    if scale:
        deviation_B1 = score_BA.std(axis=1, keepdims=True, ddof=1)
        centred_BA = centred_BA / (deviation_B1 + GROUP_EPS)
    return centred_BA.reshape(-1)


def leave_one_out(score_B: jax.Array, num_samples: int) -> jax.Array:
    """Scores less the mean of the other answers to the same prompt: RLOO.

    Ahmadian et al. 2024; TRL 1.x, whose scores have lost coef * KL of the whole answer
    (k1) before.
    """
    _check_float32(score_B)
    score_BA = score_B.reshape(-1, num_samples)
    others_BA = score_BA.sum(axis=1, keepdims=True) - score_BA
    return (score_BA - others_BA / (num_samples - 1)).reshape(-1)


def explained_variance(
    values_BT: jax.Array, returns_BT: jax.Array, mask_BT: jax.Array
) -> jax.Array:
    """1 - var(returns - values) / var(returns): 1 is perfect, 0 as good as a mean."""

    def variance(x_BT):
        return masked_mean(jnp.square(x_BT - masked_mean(x_BT, mask_BT)), mask_BT)

    return 1 - variance(returns_BT - values_BT) / (variance(returns_BT) + 1e-8)


def _is_last(mask_BT: jax.Array) -> jax.Array:
    num_left_BT = jnp.cumsum(mask_BT[:, ::-1], axis=1)[:, ::-1]
    return mask_BT * (num_left_BT == 1)


def _check_float32(*arrays: jax.Array) -> None:
    """Rounded to less, small advantages vanish, and a sum of many stands still."""
    for array in arrays:
        if array.dtype != jnp.float32:
            raise TypeError(
                f"rewards and advantages are float32, not {array.dtype}: convert them"
            )
