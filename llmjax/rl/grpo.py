"""GRPO and its kin: no critic, an answer's peers are the other answers to its prompt.

grpo: DeepSeekMath (Shao et al. 2024). dr_grpo: without what divides by deviations and
by lengths (Liu et al. 2025). dapo: a higher upper clip, all tokens equal (Yu et al.
2025). rloo: the ratio of whole answers, the others' mean, and the KL as part of the
score (Ahmadian et al. 2024). All as in TRL 1.x but for how minibatches are cut.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from llmjax.config import field
from llmjax.rl import advantages, kl, logprobs, losses, rows
from llmjax.rl.ppo import rollout_figures
from llmjax.rl.rollout import RolloutConfig
from llmjax.types import Batch, Key, Metrics, Model, Params

Kind = Literal["grpo", "dr_grpo", "dapo", "rloo"]
ADVANTAGES = {
    "grpo": advantages.of_group,
    "dr_grpo": partial(advantages.of_group, scale=False),
    "dapo": advantages.of_group,
    "rloo": advantages.leave_one_out,
}


@dataclasses.dataclass(frozen=True)
class GrpoConfig:
    """How groups of answers are learned from."""

    kind: Kind = field("grpo", "see llmjax.rl.grpo")
    num_epochs: int = field(1, "times that a rollout is gone through")
    num_minibatches: int = field(4, "updates of an epoch")
    clip: float = field(0.2, "ratios further below 1 are not pushed further")
    clip_high: float = field(0.2, "the same above 1; 0.28 is DAPO's")
    kl_coef: float = field(0.04, "weight of the KL from the reference; TRL 1.x has 0")
    kl_in: Literal["loss", "weighted_loss", "score"] = field(
        "loss",
        "where the KL is paid; only in the score (rloo) for what follows a token",
    )
    endless_penalty: float = field(0.0, "taken from the score of a cut-off answer")


def pays_in_score(cfg: GrpoConfig) -> bool:
    """Whether answers lose coef * KL from their score, as always in RLOO."""
    return cfg.kind == "rloo" or cfg.kl_in == "score"


def prepare(
    model: Model,
    cfg: GrpoConfig,
    shape: RolloutConfig,
    temperature: float,
    params: Params,
    reference: Params,
    batch: Batch,
    extras: Params,
) -> tuple[Batch, Params, Metrics]:
    """(the batch to learn from, extras, figures) of a rollout; as `ppo.prepare`."""
    mask_BT = batch["weights"]
    compared = logprobs.compare(
        model, params, reference, batch, temperature=temperature,
        num_tokens=shape.max_new_tokens,
    )  # fmt: skip
    pair = compared["log_probs"], compared["ref_log_probs"]
    score_B = advantages.penalise_endless(
        batch["score_B"], batch["ended_B"], cfg.endless_penalty
    )
    if pays_in_score(cfg):
        score_B = score_B - cfg.kl_coef * (kl.k1(*pair) * mask_BT).sum(axis=1)
    advantage_B = ADVANTAGES[cfg.kind](score_B, shape.num_samples)
    learned = rows.of(batch) | {
        "log_probs": compared["log_probs"], "ref_log_probs": compared["ref_log_probs"],
        "advantages": advantage_B[:, None] * mask_BT,
    }  # fmt: skip
    is_equal_B = advantage_B == 0
    figures = rollout_figures(batch, compared) | {"no_signal": is_equal_B.mean()}
    return learned, extras, figures


def loss(
    model: Model,
    cfg: GrpoConfig,
    shape: RolloutConfig,
    temperature: float,
    params: Params,
    batch: Batch,
    key: Key | None = None,
) -> tuple[jax.Array, Metrics]:
    """The clipped loss, averaged as `cfg.kind` has it, for `make_step`.

    The gradient of k3 alone is that of the KL from the reference to the policy, the
    other way round; weighted_loss mends that, as "use_bias_correction_kl" of TRL 1.x.
    Neither sees that a token changes the KL of those after it.
    """
    said = logprobs.of(
        model, params, batch, temperature=temperature, key=key,
        num_tokens=shape.max_new_tokens,
    )  # fmt: skip
    mask_BT, clips = batch["weights"], (cfg.clip, cfg.clip_high)
    log_ratio = said.log_prob_BT - batch["log_probs"]
    kl_BT = kl.k3(said.log_prob_BT, batch["ref_log_probs"])
    if cfg.kind == "rloo":
        whole_B = (log_ratio * mask_BT).sum(axis=1)
        advantage_B = batch["advantages"].sum(axis=1) / mask_BT.sum(axis=1)
        one_B = losses.clipped_policy(whole_B, advantage_B, *clips)
        total, count = one_B.sum(), jnp.float32(len(one_B))
        figures = losses.ratio_figures(
            whole_B, advantage_B, jnp.ones_like(whole_B), *clips
        )
    else:
        average = {
            "grpo": losses.answer_mean,
            "dr_grpo": losses.length_mean(shape.max_new_tokens),
            "dapo": losses.token_mean,
        }[cfg.kind]
        one_BT = losses.clipped_policy(log_ratio, batch["advantages"], *clips)
        if pays_in_score(cfg):
            kl_BT = jnp.zeros_like(kl_BT)
        elif cfg.kl_in == "weighted_loss":
            kl_BT = kl_BT * jnp.exp(log_ratio)
        total, count = average(one_BT + cfg.kl_coef * kl_BT, mask_BT)
        figures = losses.ratio_figures(log_ratio, batch["advantages"], mask_BT, *clips)
    metrics = {
        "loss": (total, count),
        "entropy": losses.token_mean(said.entropy_BT, mask_BT),
        **figures,
    }
    return total / jnp.maximum(count, 1), metrics
