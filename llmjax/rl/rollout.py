"""Prompts in, answers out, as a batch [B, T] to learn from.

A row is a prompt and its answer, with the token that ended it, and padding. Answers are
drawn by the cached generator; what is learned from is the log-probability that the
training pass gives to the same tokens (`logprobs`), and `sampled` keeps what they were
drawn with, to see that both agree.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import field
from llmjax.generate import sampling as sampling_of
from llmjax.generate import steps, text
from llmjax.generate.sampling import SamplingConfig
from llmjax.sharding import replicate
from llmjax.types import Model, Params

PLAIN = SamplingConfig()


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What is drawn before each round of updates."""

    num_prompts: int = field(64, "prompts of an iteration")
    num_samples: int = field(1, "answers to each")
    max_new_tokens: int = field(24, "of an answer; one that is cut off has no end")

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_samples


class Answers(NamedTuple):
    """ids: of each answer, without its end. ended_B: whether it had one in time."""

    ids: list[list[int]]
    ended_B: np.ndarray


def check_sampling(sampling: SamplingConfig) -> None:
    """ValueError unless tokens are drawn by temperature alone."""
    if not sampling.temperature:
        raise ValueError("--sampling.temperature=0 draws nothing to learn from; try 1")
    for name in ("top_k", "top_p", "min_p", "repetition_penalty"):
        if getattr(sampling, name) != getattr(PLAIN, name):
            raise ValueError(
                f"--sampling.{name}={getattr(sampling, name)}: answers would be drawn "
                "from another distribution than the one that is learned, which biases "
                "every ratio of probabilities; sample by temperature alone"
            )


def row_length(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """T of batches of these prompts: the same each time, so that one program serves."""
    return max(map(len, prompts)) + max_new_tokens - 1


def draw(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    cfg: RolloutConfig,
    sampling: SamplingConfig,
    iteration: int,
    *,
    num_tokens: int,
    context: int,
    stop_ids: Sequence[int] = (),
) -> tuple[dict[str, np.ndarray], Answers]:
    """(batch, answers): `cfg.num_samples` rows for each prompt, next to each other.

    batch: tokens, targets (int32), weights (float32: 1 where the target is of the
      answer), segment_ids, and sampled, the log-probabilities that it was drawn with.
    num_tokens: T. Equal arguments draw equal answers: a row's seed comes from
      `sampling.seed`, the iteration and its place.
    """
    check_sampling(sampling)
    rows = np.repeat(np.arange(len(prompts)), cfg.num_samples)
    params = steps.by_layer(params)
    logits_BV, cache = text.read_prompts(
        model, params, prompts, max_new_tokens=cfg.max_new_tokens, context=context
    )
    state = {"cache": cache, "logits_BV": logits_BV}
    state = steps.take(state, rows) if cfg.num_samples > 1 else state
    first_seed = sampling.seed + iteration * len(rows)
    samplings = [
        dataclasses.replace(sampling, seed=first_seed + number)
        for number in range(len(rows))
    ]
    state |= text.begin(
        samplings, [cfg.max_new_tokens] * len(rows), [stop_ids] * len(rows),
        logits_BV.shape[1],
    )  # fmt: skip
    drawn = jax.device_get(_decode(model, params, state, cfg.max_new_tokens)[0])
    lengths = drawn["is_drawn"].sum(axis=1)
    said = [ids[:num].tolist() for ids, num in zip(drawn["ids"], lengths, strict=True)]
    ended_B = np.array([ids[-1] in stop_ids for ids in said])
    batch = make_batch([prompts[row] for row in rows], said, num_tokens)
    sampled_BT = np.zeros(batch["weights"].shape, np.float32)
    sampled_BT[batch["weights"] > 0] = drawn["log_probs"][drawn["is_drawn"]]
    ids = [one[:-1] if ended else one for one, ended in zip(said, ended_B, strict=True)]
    return batch | {"sampled": sampled_BT}, Answers(ids, ended_B)


@partial(jax.jit, static_argnames=("model", "num_tokens"), donate_argnames="state")
def _decode(model: Model, params: Params, state: steps.State, num_tokens: int):
    """({ids, log_probs, is_drawn}, each [B, num_tokens]; state): `steps.decode`, with
    the log-probability at which each token was drawn."""
    shape = num_tokens, len(state["active_B"])
    found = {
        "ids": jnp.zeros(shape, jnp.int32),
        "log_probs": jnp.zeros(shape, jnp.float32),
        "is_drawn": jnp.zeros(shape, bool),
    }

    def going(carry):
        number, _, state = carry
        return (number < num_tokens) & state["active_B"].any()

    def body(carry):
        number, found, state = carry
        logits_BV = state["logits_BV"] / state["sampling"].temperature_B[:, None]
        state, new = steps.step(model, params, state)
        one = {
            "ids": new.token_B,
            "log_probs": sampling_of.log_probs(logits_BV, new.token_B),
            "is_drawn": new.is_drawn_B,
        }
        found = jax.tree.map(lambda all_, one: all_.at[number].set(one), found, one)
        return number + 1, found, state

    _, found, state = jax.lax.while_loop(going, body, (0, found, state))
    return jax.tree.map(lambda leaf: replicate(leaf.T), found), state


def make_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], num_tokens: int
) -> dict[str, np.ndarray]:
    """Prompts and answers in rows of `num_tokens`: tokens, targets, weights and
    segment_ids.

    Raises ValueError where a row is too long.
    """
    shape = len(prompts), num_tokens
    batch = {name: np.zeros(shape, np.int32) for name in ("tokens", "targets")}
    batch |= {"weights": np.zeros(shape, np.float32)}
    batch |= {"segment_ids": np.zeros(shape, np.int32)}
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = [*prompt, *answer]
        end = len(ids) - 1
        if end > num_tokens:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and an answer of {len(answer)} do "
                f"not fit rows of {num_tokens}; shorten one of them"
            )
        batch["tokens"][row, :end] = ids[:-1]
        batch["targets"][row, :end] = ids[1:]
        batch["weights"][row, len(prompt) - 1 : end] = 1
        batch["segment_ids"][row, :end] = 1
    return batch
