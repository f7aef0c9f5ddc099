"""Prompts in, scored answers out, as a batch [B, T] to learn from.

Answers are drawn by the cached generator; what is learned from is the log-probability
that the training pass gives to the same tokens (`logprobs`), and `sampled` keeps what
they were drawn with, to see that both agree.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax.config import ModelConfig, field
from llmjax.data.prompts import PromptCorpus, Prompts
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate import sampling as sampling_of
from llmjax.generate import steps, text
from llmjax.generate.sampling import SamplingConfig
from llmjax.rl import rows as rows_of
from llmjax.rl import scores
from llmjax.sharding import batch_sharding
from llmjax.types import Model, Params

PLAIN = SamplingConfig()
TRIAL = 2**20  # no iteration: what held-out answers are drawn with


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What is drawn before each round of updates."""

    num_prompts: int = field(64, "prompts of an iteration")
    num_samples: int = field(1, "answers to each")
    max_new_tokens: int = field(24, "of an answer; one that is cut off has no end")

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_samples

    def room_tokens(self, cfg: ModelConfig) -> int:
        """The longest prompt that leaves room for an answer in a model's context."""
        if self.max_new_tokens >= cfg.context:
            raise ValueError(
                f"--rollout.max_new_tokens={self.max_new_tokens} leaves no room for a "
                f"prompt in the context of {cfg.context} tokens"
            )
        return cfg.context - self.max_new_tokens


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


def draw(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    cfg: RolloutConfig,
    *,
    sampling: SamplingConfig,
    iteration: int,
    num_tokens: int,
    context: int,
    stop_ids: Sequence[int] = (),
) -> tuple[dict[str, np.ndarray], Answers]:
    """(batch, answers): `cfg.num_samples` rows for each prompt, next to each other.

    batch: of `rows.make_batch`; and sampled, the log-probabilities of the draws.
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
    batch = rows_of.make_batch([prompts[row] for row in rows], said, num_tokens)
    sampled_BT = np.zeros(batch["weights"].shape, np.float32)
    sampled_BT[batch["weights"] > 0] = drawn["log_probs"][drawn["is_drawn"]]
    ids = [one[:-1] if ended else one for one, ended in zip(said, ended_B, strict=True)]
    return batch | {"sampled": sampled_BT}, Answers(ids, ended_B)


@partial(jax.jit, static_argnames=("model", "num_tokens"), donate_argnames="state")
def _decode(model: Model, params: Params, state: steps.State, num_tokens: int):
    """({ids, log_probs, is_drawn}, each [B, num_tokens]; state): `steps.decode`, with
    the log-probability at which each token was drawn."""

    def step(state):
        logits_BV = state["logits_BV"] / state["sampling"].temperature_B[:, None]
        state, new = steps.step(model, params, state)
        return state, {
            "ids": new.token_B,
            "log_probs": sampling_of.log_probs(logits_BV, new.token_B),
            "is_drawn": new.is_drawn_B,
        }

    dtypes = {"ids": jnp.int32, "log_probs": jnp.float32, "is_drawn": jnp.bool_}
    return steps.repeat(step, dtypes, state, num_tokens)


def place(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch, which every process has all of, on the mesh."""
    return {
        name: jax.device_put(rows, batch_sharding(mesh, rows.ndim))
        for name, rows in batch.items()
    }


class Asker:
    """Puts prompts to a policy, and has what it answers scored.

    context: of the model.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        corpus: PromptCorpus,
        reward: scores.Reward,
        cfg: RolloutConfig,
        sampling: SamplingConfig,
        *,
        seed: int,
        context: int,
        mesh: Mesh,
    ):
        check_sampling(sampling)
        self._draw = partial(
            draw, model, sampling=sampling, context=context, stop_ids=corpus.stop_ids
        )
        self._tokenizer, self._corpus, self._reward = tokenizer, corpus, reward
        self._cfg, self._seed, self._mesh = cfg, seed, mesh
        both = corpus.train.ids + corpus.held_out.ids
        self.num_tokens = rows_of.row_length(both, cfg.max_new_tokens)

    def ask(self, policy: Params, iteration: int) -> dict[str, jax.Array]:
        """The batch of an iteration: of `draw`, with score_B and ended_B."""
        asked = self._corpus.train.of_iteration(
            iteration, self._cfg.num_prompts, self._seed
        )
        batch, _, _ = self._ask(policy, asked, self._cfg, iteration)
        return place(batch, self._mesh)

    def try_out(self, policy: Params) -> list[dict[str, Any]]:
        """What it answers to the held-out prompts, one each, with its score."""
        asked, once = (
            self._corpus.held_out,
            dataclasses.replace(self._cfg, num_samples=1),
        )
        batch, texts, answers = self._ask(policy, asked, once, TRIAL)
        return [
            {"prompt": prompt if isinstance(prompt, str) else prompt[-1]["content"],
             "answer": text, "score": float(score), "tokens": len(ids)}
            for prompt, text, score, ids in zip(
                asked.given, texts, batch["score_B"], answers.ids, strict=True)
        ]  # fmt: skip

    def _ask(self, policy, asked: Prompts, cfg: RolloutConfig, iteration: int):
        batch, answers = self._draw(
            policy, asked.ids, cfg, iteration=iteration, num_tokens=self.num_tokens
        )
        texts = [self._tokenizer.decode(ids) for ids in answers.ids]
        given = [prompt for prompt in asked.given for _ in range(cfg.num_samples)]
        batch["score_B"] = scores.call(self._reward, given, texts)
        batch["ended_B"] = answers.ended_B
        return batch, texts, answers
