"""PPO for language models: what a rollout becomes, and the loss of its minibatches.

params: {"policy": of the model, "critic": ...}, where the critic is a model with a head
of one number: all of it, or, on the policy's trunk, its head alone. What OpenAI 2019
(Ziegler et al.) and TRL do otherwise is said where each function is defined.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from llmjax.config import field
from llmjax.rl import advantages, kl, logprobs, losses, moments, rows
from llmjax.rl.logprobs import Said
from llmjax.rl.rollout import RolloutConfig
from llmjax.types import Batch, Key, Metrics, Model, Params


@dataclasses.dataclass(frozen=True)
class PpoConfig:
    """How answers are learned from. The defaults are near N+ (Huang et al. 2024)."""

    num_epochs: int = field(4, "times that a rollout is gone through")
    num_minibatches: int = field(4, "updates of an epoch")
    gamma: float = field(1.0, "a later reward counts so much less a token")
    lam: float = field(0.95, "lambda of generalised advantages; 1: no bias")
    clip: float = field(0.2, "ratios further from 1 are not pushed further")
    value_clip: float = field(0.2, "values may move so far from those of the rollout")
    value_coef: float = field(0.1, "weight of the critic's loss")
    entropy_coef: float = field(0.0, "weight of the entropy, which is to be large")
    kl: Literal["k1", "k2", "k3", "full"] = field("k1", "the penalty of each token")
    kl_coef: float = field(0.05, "weight of the KL from the reference, at first")
    kl_target: float = field(0.0, "nats an answer to steer for; 0: fixed kl_coef")
    kl_horizon: float = field(10_000.0, "answers over which kl_coef is steered")
    whiten_rewards: bool = field(False, "as OpenAI 2019")
    whiten_advantages: bool = field(True, "over the whole rollout")
    unbiased: bool = field(True, "variances over n - 1 (TRL), or n (OpenAI 2019)")
    norm_scores: bool = field(False, "scores get mean 0 and deviation 1, as of all yet")
    endless_penalty: float = field(1.0, "taken from the score of a cut-off answer")
    endless_replaces: bool = field(False, "its negative is that answer's whole score")


def init_extras(cfg: PpoConfig) -> dict[str, jax.Array]:
    """What a run carries along beside its parameters."""
    return {"kl_coef": jnp.float32(cfg.kl_coef), **moments.init()}


def forward(
    model: Model,
    critic: Model,
    shape: RolloutConfig,
    params: Params,
    batch: Batch,
    temperature: float,
    key: Key | None = None,
) -> tuple[Said, jax.Array]:
    """(what the policy makes of the targets, value_BT before each)."""
    hidden_BTD = model.apply(params["policy"], batch, key=key).hidden_BTD
    readout = partial(model.readout, params["policy"])
    said = logprobs.read(readout, hidden_BTD, batch, temperature, shape.max_new_tokens)
    return said, values(critic, params, batch, hidden_BTD)


def values(
    critic: Model, params: Params, batch: Batch, hidden_BTD: jax.Array
) -> jax.Array:
    """value_BT before each target; hidden_BTD: the policy's, for a critic upon it."""
    own = params["critic"]
    if "blocks" in own:
        hidden_BTD = critic.apply(own, batch).hidden_BTD
    else:
        own = {**params["policy"], **own}
    return critic.readout(own, hidden_BTD)[..., 0]


def prepare(
    model: Model,
    critic: Model,
    cfg: PpoConfig,
    shape: RolloutConfig,
    temperature: float,
    params: Params,
    reference: Params,
    batch: Batch,
    extras: Params,
) -> tuple[Batch, Params, Metrics]:
    """(the batch to learn from, extras, figures) of a rollout.

    batch: of `rollout.draw`, with score_B and ended_B. reference: the frozen policy.
    """
    mask_BT, score_B = batch["weights"], batch["score_B"]
    policy = params["policy"]
    hidden_BTD = model.apply(policy, batch).hidden_BTD
    compared = logprobs.compare(
        model, policy, reference, batch, temperature=temperature, hidden_BTD=hidden_BTD,
        num_tokens=shape.max_new_tokens,
    )  # fmt: skip
    values_BT = values(critic, params, batch, hidden_BTD)
    pair = compared["log_probs"], compared["ref_log_probs"]
    estimates = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3}
    kl_BT = compared["full_kl"] if cfg.kl == "full" else estimates[cfg.kl](*pair)
    if cfg.norm_scores:
        extras = {**extras, **moments.update(extras, score_B)}
        score_B = moments.normalise(extras, score_B)
    score_B = advantages.penalise_endless(
        score_B, batch["ended_B"], cfg.endless_penalty, replace=cfg.endless_replaces
    )
    rewards_BT = advantages.shape_rewards(score_B, kl_BT, mask_BT, extras["kl_coef"])
    if cfg.whiten_rewards:
        rewards_BT = advantages.whiten(
            rewards_BT, mask_BT, shift_mean=False, unbiased=cfg.unbiased
        )
    advantages_BT, returns_BT = advantages.gae(
        rewards_BT, values_BT, mask_BT, gamma=cfg.gamma, lam=cfg.lam
    )
    if cfg.whiten_advantages:
        advantages_BT = advantages.whiten(advantages_BT, mask_BT, unbiased=cfg.unbiased)
    figures = rollout_figures(batch, compared) | {
        "kl_coef": extras["kl_coef"],
        "explained_variance": advantages.explained_variance(
            values_BT, returns_BT, mask_BT
        ),
    }
    if cfg.kl_target:
        coef = kl.adapt(
            extras["kl_coef"], figures["kl_drawn"], len(score_B),
            target=cfg.kl_target, horizon=cfg.kl_horizon,
        )  # fmt: skip
        extras = {**extras, "kl_coef": coef}
    learned = rows.of(batch) | {
        "log_probs": compared["log_probs"], "values": values_BT,
        "advantages": advantages_BT * mask_BT, "returns": returns_BT,
    }  # fmt: skip
    return learned, extras, figures


def rollout_figures(batch: Batch, compared: dict[str, jax.Array]) -> Metrics:
    """reward, its deviation, KL in nats an answer (exact at each token, and as drawn),
    length in tokens, share without an end, and the largest disagreement between the
    log-probabilities of sampler and training."""
    mask_BT = batch["weights"]
    drawn_BT = kl.k1(compared["log_probs"], compared["ref_log_probs"]) * mask_BT
    gap_BT = jnp.abs(compared["log_probs"] - batch["sampled"]) * mask_BT
    return {
        "reward": batch["score_B"].mean(),
        "reward_deviation": batch["score_B"].std(),
        "kl": (compared["full_kl"] * mask_BT).sum(axis=1).mean(),
        "kl_drawn": drawn_BT.sum(axis=1).mean(),
        "length": mask_BT.sum(axis=1).mean(),
        "endless": 1 - batch["ended_B"].mean(),
        "log_prob_gap": gap_BT.max(),
    }


def loss(
    model: Model,
    critic: Model,
    cfg: PpoConfig,
    shape: RolloutConfig,
    temperature: float,
    params: Params,
    batch: Batch,
    key: Key | None = None,
) -> tuple[jax.Array, Metrics]:
    """The clipped loss of policy and critic, means over tokens, for `make_step`."""
    said, values_BT = forward(model, critic, shape, params, batch, temperature, key)
    mask_BT, log_ratio = batch["weights"], said.log_prob_BT - batch["log_probs"]
    policy_BT = losses.clipped_policy(
        log_ratio, batch["advantages"], cfg.clip, cfg.clip
    )
    critic_args = values_BT, batch["values"], batch["returns"]
    value_BT = losses.clipped_value(*critic_args, cfg.value_clip)
    all_BT = policy_BT + cfg.value_coef * value_BT - cfg.entropy_coef * said.entropy_BT
    total, count = losses.token_mean(all_BT, mask_BT)
    metrics = {
        "loss": (total, count),
        "policy_loss": losses.token_mean(policy_BT, mask_BT),
        "value_loss": losses.token_mean(value_BT, mask_BT),
        "entropy": losses.token_mean(said.entropy_BT, mask_BT),
        **losses.ratio_figures(
            log_ratio, batch["advantages"], mask_BT, cfg.clip, cfg.clip
        ),
        **losses.value_figures(*critic_args, mask_BT, cfg.value_clip),
    }
    return total / jnp.maximum(count, 1), metrics
