"""A language whose answers can all be listed, so that the best policy is known.

The best policy for a reward r at weight beta of the KL from the reference is
reference * exp(r / beta) / Z, and reaches J = E[r] - beta * KL = beta * log Z.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax import losses, optim, sharding
from llmjax.config import ModelConfig, field
from llmjax.generate.sampling import SamplingConfig
from llmjax.rl import rollout
from llmjax.rl.rows import make_batch
from llmjax.train.state import init_state
from llmjax.train.step import make_step
from llmjax.types import Model, Params

WRITER = ModelConfig(  # learns the chain in seconds
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, head_width=16, ff_width=96,
    positions="learned", vocab_size=8, context=16,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Answers of `length` symbols; the reference draws each by the one before it."""

    num_symbols: int = field(8, "symbols")
    length: int = field(6, "symbols of an answer; all are listed: keep it short")
    num_good: int = field(3, "symbols that score, each once")
    repeat_cost: float = field(1.5, "what a symbol after itself costs")
    rare: float = field(2.0, "by how many nats it is rarer under the reference")
    seed: int = field(0, "of the chain")


class Point(NamedTuple):
    """A policy: nats from the reference, its mean reward, both exact."""

    exact_kl: float
    exact_reward: float

    def objective(self, beta: float) -> float:
        return self.exact_reward - beta * self.exact_kl


def all_answers(cfg: LanguageConfig) -> np.ndarray:
    """Every answer, [V^T, T], the first symbol changing slowest."""
    symbols = [np.arange(cfg.num_symbols)] * cfg.length
    grid = np.meshgrid(*symbols, indexing="ij")
    return np.stack(grid, axis=-1).reshape(-1, cfg.length)


def chain(cfg: LanguageConfig) -> np.ndarray:
    """log p(next | last), [V + 1, V]: the last row is of an answer's first symbol."""
    rng = np.random.default_rng(cfg.seed)
    logits = rng.normal(size=(cfg.num_symbols + 1, cfg.num_symbols))
    each = np.arange(cfg.num_symbols)
    logits[each, each] -= cfg.rare
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def draw(cfg: LanguageConfig, num: int, rng: np.random.Generator) -> np.ndarray:
    """Answers of the chain, [num, T]."""
    shares, last = np.exp(chain(cfg)), np.full(num, cfg.num_symbols)
    found = []
    for _ in range(cfg.length):
        passed = rng.random(num)[:, None] > shares[last].cumsum(axis=1)
        last = np.minimum(passed.sum(axis=1), cfg.num_symbols - 1)
        found.append(last)
    return np.stack(found, axis=1)


def learn_chain(
    model: Model,
    cfg: LanguageConfig,
    start_id: int,
    mesh: Mesh,
    update: optim.OptimConfig,
    num_steps: int,
    num_rows: int,
    seed: int = 0,
) -> Params:
    """The parameters of a model that has learned to write as the chain does.

    After `num_steps` batches of its answers, each following `start_id`.
    """
    rng, place = np.random.default_rng(seed), sharding.placer(mesh)
    tx, _ = optim.make(update, num_steps)
    state = init_state(model.init, tx, mesh, jax.random.key(seed))
    step_fn = make_step(partial(losses.next_token, model), tx, state)
    for _ in range(num_steps):
        drawn = draw(cfg, num_rows, rng).tolist()
        batch = make_batch([[start_id]] * num_rows, drawn, cfg.length)
        state, _ = step_fn(state, place(batch))
    return state.params


def gold(cfg: LanguageConfig, ids: np.ndarray) -> np.ndarray:
    """How many good symbols an answer has, less what its repeats cost."""
    distinct = sum((ids == symbol).any(axis=1) for symbol in range(cfg.num_good))
    num_repeats = (ids[:, 1:] == ids[:, :-1]).sum(axis=1)
    return distinct - cfg.repeat_cost * num_repeats


def collect(
    model: Model,
    policy: Params,
    cfg: LanguageConfig,
    reward: np.ndarray,
    rolls: rollout.RolloutConfig,
    sampling: SamplingConfig,
    *,
    start_id: int,
    iteration: int,
    mesh: Mesh,
) -> dict[str, jax.Array]:
    """A batch of answers with their rewards, as `rollout.Asker.ask` gives it.

    reward: [V^T], of all answers.
    """
    asked = [[start_id]] * rolls.num_prompts
    batch, answers = rollout.draw(
        model, policy, asked, rolls, sampling=sampling, iteration=iteration,
        num_tokens=cfg.length, context=cfg.length + 1,
    )  # fmt: skip
    shape = [cfg.num_symbols] * cfg.length
    scores_B = reward[np.ravel_multi_index(np.transpose(answers.ids), shape)]
    batch["score_B"] = scores_B.astype(np.float32)
    batch["ended_B"] = np.ones(len(answers.ids), bool)  # all have one length
    return rollout.place(batch, mesh)


def standardised(reward: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """The reward with mean 0 and variance 1 under these log-probabilities."""
    shares = np.exp(log_probs)
    centred = reward - (shares * reward).sum()
    return centred / np.sqrt((shares * centred**2).sum())


def optimum(reference: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """The log-probabilities of the best policy."""
    logits = reference + reward / beta
    top = logits.max()
    return logits - top - np.log(np.exp(logits - top).sum())


def measure(log_probs: np.ndarray, reference: np.ndarray, reward: np.ndarray) -> Point:
    """Where a policy stands."""
    shares = np.exp(log_probs)
    return Point(
        float((shares * (log_probs - reference)).sum()), float((shares * reward).sum())
    )


def most_reward(reference: np.ndarray, reward: np.ndarray, kl: float) -> float:
    """The frontier: the most that any policy so near the reference gets."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        beta = np.sqrt(low * high)
        point = measure(optimum(reference, reward, beta), reference, reward)
        low, high = (beta, high) if point.exact_kl > kl else (low, beta)
    return point.exact_reward


def best_of(num: int, reference: np.ndarray, proxy: np.ndarray) -> np.ndarray:
    """log-probabilities of the best by `proxy` of `num` draws; ties are shared out."""
    order = np.argsort(proxy, kind="stable")
    shares = np.exp(reference[order])
    _, first, inverse = np.unique(proxy[order], return_index=True, return_inverse=True)
    mass = np.add.reduceat(shares, first)
    upto = np.minimum(np.cumsum(mass), 1.0)
    level = upto**num - np.concatenate([[0.0], upto[:-1]]) ** num
    found = np.empty_like(shares)
    found[order] = shares * (level / mass)[inverse]
    return np.log(np.maximum(found, 1e-300))


def of_model(
    model: Model,
    params: Params,
    cfg: LanguageConfig,
    start_id: int,
    temperature: float = 1.0,
) -> np.ndarray:
    """The log-probability that a model gives to every answer, [V^T], float64."""
    prefixes = all_answers(dataclasses.replace(cfg, length=cfg.length - 1))
    starts = np.full((len(prefixes), 1), start_id)
    tokens = np.concatenate([starts, prefixes], axis=1)
    parts = np.array_split(tokens, max(1, len(tokens) // 4096))
    found = [np.asarray(_next(model, params, part, temperature)) for part in parts]
    log_probs = np.concatenate(found).astype(np.float64)[..., : cfg.num_symbols]
    log_probs -= np.log(np.exp(log_probs).sum(axis=-1, keepdims=True))
    rows = np.arange(len(prefixes))[:, None]
    before = log_probs[rows, np.arange(cfg.length - 1)[None], prefixes].sum(axis=1)
    return (before[:, None] + log_probs[:, -1]).reshape(-1)


def known(
    model: Model, params: Params, cfg: LanguageConfig, start_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """(log-probabilities, gold rewards) of all answers: the reference's, and what is
    best under it, standardised."""
    log_probs = of_model(model, params, cfg, start_id)
    return log_probs, standardised(gold(cfg, all_answers(cfg)), log_probs)


@partial(jax.jit, static_argnames="model")
def _next(model: Model, params: Params, tokens, temperature):
    hidden_BTD = model.apply(params, {"tokens": tokens}).hidden_BTD
    return jax.nn.log_softmax(model.readout(params, hidden_BTD) / temperature)
