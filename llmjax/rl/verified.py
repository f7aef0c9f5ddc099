"""Sums to learn and to be asked, and what a model makes of those it is asked."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from llmjax.config import field
from llmjax.data import arithmetic, sources
from llmjax.data.arithmetic import Kind
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import generate
from llmjax.load import Loaded, load
from llmjax.rl import grpo, logprobs, rollout, rows
from llmjax.rl.rollout import RolloutConfig
from llmjax.rl.verifiable import is_right, solve
from llmjax.train.workdir import write_json
from llmjax.types import Batch, Model, Params

NUM_DRAWS = 16  # answers to a sum at temperature 1


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Which models are made, and for how long."""

    workdir: str = field("runs/grpo_arithmetic", "all is written there, and resumed")
    size: str = field("3x64", "layers x width")
    base_steps: int = field(600, "of the adder, of 16 rows of 128 tokens each")
    kinds: tuple[grpo.Kind, ...] = field(("grpo",), "as --grpo.kind of grpo.py")
    num_steps: int = field(40, "iterations of each kind")
    num_seeds: int = field(2, "adders, and models tuned in each way")
    parallel: int = field(2, "runs at a time, each on its share of the cores")
    flags: str = field("", "more flags for grpo.py, such as '--optim.lr=1e-4'")

    def __post_init__(self):
        if not self.kinds:
            raise ValueError("kinds: name one or more, such as grpo")
        for name in ("base_steps", "num_steps", "num_seeds", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class SumConfig:
    """Which sums there are."""

    num_digits: int = field(3, "of both numbers")
    num_worked: int = field(50_000, "sums with results, to begin with")
    careless: float = field(0.55, "share of these results got without carrying")
    num_posed: int = field(50_000, "others, without results, to be rewarded for")
    num_asked: int = field(1000, "held out")

    def __post_init__(self):
        if not 1 <= self.num_digits <= arithmetic.MAX_DIGITS:
            raise ValueError(
                f"num_digits must be 1 to {arithmetic.MAX_DIGITS}, got "
                f"{self.num_digits}"
            )
        for name in ("num_worked", "num_posed", "num_asked"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.careless <= 1:
            raise ValueError(f"careless must be in [0, 1], got {self.careless}")

    @property
    def answer_tokens(self) -> int:
        """The longest right answer, with its end and one token more."""
        return self.num_digits + 3


def write_sums(cfg: SumConfig, folder: Path) -> None:
    """worked.jsonl: sums with results. posed.jsonl: other sums, without."""
    found, rng = _sums(cfg, held_out=False), np.random.default_rng(0)
    worked = itertools.islice(found, cfg.num_worked)
    lines = (
        {"text": one + (careless if rng.random() < cfg.careless else solve)(one)}
        for one in worked
    )
    sources.write_jsonl(folder / "worked.jsonl", lines)
    posed = itertools.islice(found, cfg.num_posed)
    sources.write_jsonl(folder / "posed.jsonl", ({"prompt": one} for one in posed))


def careless(problem: str) -> str:
    """The sum by one who forgets to carry: "122" for "47+85="."""
    columns = zip(*problem.rstrip("=").split("+"), strict=True)
    first, *others = (int(a) + int(b) for a, b in columns)
    return "".join([str(first), *(str(one % 10) for one in others)])


def asked(cfg: SumConfig) -> list[str]:
    """The sums that are asked: in no order of their numbers are they learned."""
    return list(itertools.islice(_sums(cfg, held_out=True), cfg.num_asked))


def _sums(cfg: SumConfig, *, held_out: bool) -> Iterator[str]:
    kind = Kind("+", "plain", cfg.num_digits)
    for one in arithmetic.problems(kind, held_out=held_out, seed=0):
        yield one.question


class Tried(NamedTuple):
    """What a model makes of the sums.

    written: its likeliest answers. num_right: how many of NUM_DRAWS drawn ones are. kl:
      from the reference, in nats an answer; exact at each token of the drawn ones.
    """

    written: list[str]
    num_right: list[int]
    kl: float


def try_kept(path: Path, reference: Loaded, cfg: SumConfig) -> Tried:
    """What the model in a workdir makes of them; kept there for next time."""
    file = path / "asked.json"
    if not file.exists():
        print(f"asking {path.name}", flush=True)
        write_json(file, try_out(load(path), reference.params, cfg)._asdict())
    return Tried(**json.loads(file.read_text(encoding="utf-8")))


def try_out(found: Loaded, reference: Params, cfg: SumConfig) -> Tried:
    """What a model makes of the sums that are asked."""
    model, params, tokenizer = found.model, found.params, found.tokenizer
    sums, shape = asked(cfg), RolloutConfig(max_new_tokens=cfg.answer_tokens)
    ids = [[tokenizer.eos_id, *tokenizer.encode(one)] for one in sums]
    ends = dict(context=found.cfg.context, stop_ids=[tokenizer.eos_id])
    likeliest = generate(
        model, params, ids, max_new_tokens=shape.max_new_tokens, **ends
    )
    num_right, kls = np.zeros(len(sums), int), []
    for number in range(NUM_DRAWS):
        batch, answers = rollout.draw(
            model, params, ids, shape, sampling=SamplingConfig(temperature=1.0),
            iteration=number, num_tokens=rows.row_length(ids, shape.max_new_tokens),
            **ends,
        )  # fmt: skip
        texts = list(map(tokenizer.decode, answers.ids))
        num_right += is_right(sums, texts).astype(int)
        kls.append(float(_kl(model, params, reference, batch)))
    written = list(map(tokenizer.decode, likeliest))
    return Tried(written, num_right.tolist(), float(np.mean(kls)))


@partial(jax.jit, static_argnums=0)
def _kl(model: Model, params: Params, reference: Params, batch: Batch) -> jax.Array:
    kl_BT = logprobs.compare(model, params, reference, batch)["full_kl"]
    return (kl_BT * batch["weights"]).sum(axis=1).mean()


def pass_at(num_right: np.ndarray, k: int) -> np.ndarray:
    """The chance that one at least of k answers is right, told by NUM_DRAWS of them.

    Without bias (Chen et al., Evaluating Large Language Models Trained on Code, 2021).
    """
    num_wrong = (NUM_DRAWS - np.asarray(num_right)).tolist()
    all_wrong = [math.comb(num, k) / math.comb(NUM_DRAWS, k) for num in num_wrong]
    return 1 - np.array(all_wrong)
