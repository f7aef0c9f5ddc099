"""Arithmetic asked of a model: right answers, and how near it is to them.

One pass over a prompt and its right answer tells all three figures. A model that writes
the likeliest token each time writes the right answer if, and only if, each token of it
is the likeliest after the right ones before: so "exact" is what greedy generation gets
right. It needs all tokens at once, and jumps where the others climb (Schaeffer et al.,
Are Emergent Abilities of Large Language Models a Mirage?, 2023).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import field
from llmjax.data import arithmetic
from llmjax.data.arithmetic import Kind
from llmjax.data.baselines import bootstrap_interval, wilson_interval
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.text import check_fits, generate, pad
from llmjax.types import Model, Params

BATCH_SIZE = 100
NUM_SAMPLES = 3  # of each kind


@dataclasses.dataclass(frozen=True)
class AskConfig:
    """What is asked."""

    num_problems: int = field(500, "of each kind, or all that were held out")
    shots: tuple[int, ...] = field((0, 1, 2, 4, 8), "solved problems before one asked")

    def __post_init__(self):
        if self.num_problems < 1:
            raise ValueError(f"num_problems must be positive, got {self.num_problems}")
        if not self.shots or min(self.shots) < 0:
            raise ValueError(f"shots must be numbers from 0 on, got {self.shots}")


class Question(NamedTuple):
    """A kind of problems, asked after so many solved ones."""

    kind: Kind
    shots: int


class Answers(NamedTuple):
    """What a model knows of each problem, all [num_problems].

    exact: whether it writes the right answer. nats: the log-likelihood of that.
    digits: the share of its digits that are the likeliest after the right ones before.
    """

    exact: np.ndarray
    nats: np.ndarray
    digits: np.ndarray


def questions(num_digits: int, shots: Sequence[int]) -> list[Question]:
    """All kinds, and those of one digit more, with the most shots; with fewer, those of
    three digits."""
    *few, most = sorted(set(shots))
    found = [Question(kind, most) for kind in arithmetic.kinds(num_digits + 1)]
    for kind in arithmetic.kinds(num_digits):
        if kind.num_digits == min(3, num_digits):
            found += [Question(kind, num) for num in few]
    return found


def check_context(num_digits: int, shots: Sequence[int], context: int) -> None:
    """ValueError unless the longest prompt and its answer fit into the context."""
    number = num_digits + 1  # of one digit more than is learned
    line, answer = 3 * number + 4, number + 2  # a+b=c, with a carry and the line's end
    check_fits(1 + (max(shots) + 1) * line - answer, answer, context)


def examine(
    model: Model, params: Params, tokenizer: Tokenizer, num_digits: int, cfg: AskConfig
) -> dict[Question, Answers]:
    """The answers to all questions about held-out problems."""
    found = {}
    for question in questions(num_digits, cfg.shots):
        pairs = arithmetic.prompts(*question, cfg.num_problems)
        found[question] = ask(model, params, tokenizer, pairs)
    return found


def ask(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
) -> Answers:
    """The answers to (prompt, right answer), which are read as a document begins."""
    prompts = [[tokenizer.eos_id, *tokenizer.encode(prompt)] for prompt, _ in pairs]
    right = [tokenizer.encode(answer) for _, answer in pairs]
    ids_BT, lengths = pad([a + b for a, b in zip(prompts, right, strict=True)], "row")
    starts = np.array(list(map(len, prompts)))[:, None]
    index_T = np.arange(1, ids_BT.shape[1])
    is_asked_BT = (index_T >= starts) & (index_T < lengths[:, None])
    is_digit_BT = is_asked_BT & (index_T < lengths[:, None] - 1)  # not the line's end
    nats_BT, is_first_BT = _tell(model, params, ids_BT)
    return Answers(
        exact=(is_first_BT | ~is_asked_BT).all(axis=1),
        nats=(nats_BT * is_asked_BT).sum(axis=1),
        digits=(is_first_BT & is_digit_BT).sum(axis=1) / is_digit_BT.sum(axis=1),
    )


def _tell(
    model: Model, params: Params, ids_BT: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each token but the first, after those before it: its log-likelihood, and
    whether it is the likeliest."""
    found = []
    for first in range(0, len(ids_BT), BATCH_SIZE):
        rows = np.arange(first, first + BATCH_SIZE)
        part = ids_BT[np.minimum(rows, len(ids_BT) - 1)]  # one shape, one program
        found.append(jax.device_get(_read(model, params, part)))
    nats_BT, is_first_BT = map(np.concatenate, zip(*found, strict=True))
    return nats_BT[: len(ids_BT)].astype(np.float64), is_first_BT[: len(ids_BT)]


@partial(jax.jit, static_argnums=0)
def _read(model: Model, params: Params, ids_BT) -> tuple[jax.Array, jax.Array]:
    hidden_BTD = model.apply(params, {"tokens": ids_BT[:, :-1]}).hidden_BTD
    logits_BTV = model.readout(params, hidden_BTD)
    targets_BT = ids_BT[:, 1:]
    nats_BTV = jax.nn.log_softmax(logits_BTV)
    nats_BT = jnp.take_along_axis(nats_BTV, targets_BT[..., None], -1)[..., 0]
    return nats_BT, logits_BTV.argmax(-1) == targets_BT


class Sample(NamedTuple):
    """A problem, its answer, and what a model writes."""

    kind: Kind
    problem: str
    right: str
    written: str


def samples(
    model: Model, params: Params, tokenizer: Tokenizer, num_digits: int, cfg: AskConfig
) -> list[Sample]:
    """The first problems of each question with the most shots, answered greedily."""
    found, most = [], max(cfg.shots)
    for kind in arithmetic.kinds(num_digits + 1):
        pairs = arithmetic.prompts(kind, most, min(NUM_SAMPLES, cfg.num_problems))
        prompts, right = zip(*pairs, strict=True)
        problems = [prompt.rpartition("\n")[2] for prompt in prompts]
        texts = write(model, params, tokenizer, prompts)
        for row in zip(problems, map(str.strip, right), texts, strict=True):
            found.append(Sample(kind, *row))
    return found


def write(
    model: Model, params: Params, tokenizer: Tokenizer, prompts: Sequence[str]
) -> list[str]:
    """What the model makes of each prompt, greedily, to the end of the line."""
    ids = [[tokenizer.eos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    new = 2 * arithmetic.MAX_DIGITS  # no answer is as long
    found = generate(
        model, params, ids, max_new_tokens=new, context=max(map(len, ids)) + new,
        stop_ids=[*tokenizer.encode("\n"), tokenizer.eos_id],
    )  # fmt: skip
    return list(map(tokenizer.decode, found))


def summarise(by_seed: Sequence[Answers], *, seed: int = 0) -> dict[str, dict]:
    """Each figure of the same problems over several models: mean, low, high, seeds.

    low, high: 95 %, problems and models drawn again (a bootstrap of both). For exact
    they reach as far as Wilson's at least: where all are right, nothing is left to
    draw. seeds: the mean of each model, since so few say little of others.
    """
    rng = np.random.default_rng(seed)
    summary = {}
    for name in Answers._fields:
        values = np.array([getattr(one, name) for one in by_seed], np.float64)
        low, high = bootstrap_interval(values, rng)
        if name == "exact":
            wilson = wilson_interval(int(values.sum()), values.size)
            low, high = min(low, wilson[0]), max(high, wilson[1])
        summary[name] = {
            "mean": float(values.mean()), "low": float(low), "high": float(high),
            "seeds": values.mean(axis=1).tolist(),
        }  # fmt: skip
    return summary


def steepest(values: Sequence[float]) -> float | None:
    """The largest step from one size to the next, over the whole rise: a jump is near
    1, an even climb of n sizes 1 / (n - 1). None where nothing rises."""
    steps = np.diff(values)
    return float(steps.max() / steps.sum()) if steps.sum() > 0 else None
