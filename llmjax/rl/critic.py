"""What a critic begins as: the trunk of a policy or a reward model, under a head."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from llmjax.config import ModelConfig, field
from llmjax.load import load_scorer
from llmjax.rl import reward
from llmjax.types import Params


@dataclasses.dataclass(frozen=True)
class CriticConfig:
    """Which critic, and what it is at first."""

    trunk: Literal["separate", "shared"] = field(
        "separate", "a model of its own, or a head upon the policy's trunk"
    )
    start: str = field(
        "zero", "zero: the policy's trunk, and every value 0; policy: the same, but a "
        "random head; or the workdir of a reward model"
    )  # fmt: skip


def begin(
    cfg: CriticConfig, scorer: ModelConfig, policy: Params, new_head: Callable
) -> Params:
    """A critic's parameters. Raises ValueError for another model's reward.

    scorer: the config of the policy's trunk under a head of one number.
    new_head: (policy) -> the same under a random such head, N(0, 1 / (D + 1)) as
      reward models begin (Stiennon et al. 2020). Zero is what OpenAI 2019 and N+ have.
    """
    if cfg.start not in ("zero", "policy"):
        return _of_reward(cfg, scorer)
    params = new_head(policy)
    if cfg.start == "zero":
        params = {**params, "head": jax.tree.map(jnp.zeros_like, params["head"])}
    return {"head": params["head"]} if cfg.trunk == "shared" else params


def _of_reward(cfg: CriticConfig, scorer: ModelConfig) -> Params:
    if cfg.trunk == "shared":
        raise ValueError(
            "--critic.trunk=shared: a reward model's head reads its own trunk; with "
            f"--critic.start={cfg.start} give it --critic.trunk=separate"
        )
    found, _ = load_scorer(cfg.start)
    if found.cfg != scorer:
        raise ValueError(
            f"--critic.start={cfg.start}: another model than the policy's (of "
            f"{found.cfg.vocab_size} tokens, width {found.cfg.width}; the policy: "
            f"{scorer.vocab_size}, {scorer.width}); start from zero"
        )
    return reward.load(cfg.start).folded()
