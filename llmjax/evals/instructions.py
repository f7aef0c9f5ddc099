"""What models make of instructions: their answers, and how many of these are right."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.config import field
from llmjax.data import chat
from llmjax.data.baselines import bootstrap_interval
from llmjax.data.instructions import CLUSTERS, Example
from llmjax.data.tokenizer import Tokenizer
from llmjax.generate.text import generate
from llmjax.load import chat_template, load
from llmjax.train.workdir import write_json
from llmjax.types import Model, Params

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Which models are tuned, and for how long."""

    workdir: str = field("runs/instructions", "all is written there, and resumed")
    base: str = field("", "a model to tune by LoRA; by default a small one is made")
    clusters: tuple[int, ...] = field((4, 8, 12), "of tasks that a model is tuned on")
    num_seeds: int = field(3, "models tuned on as many clusters")
    num_untold: int = field(1, "models of the most clusters, never told what to do")
    num_steps: int = field(2000, "of tuning")
    batch_size: int = field(16, "rows of 256 tokens in a step")
    size: str = field("3x64", "layers x width of the base that is made")
    base_steps: int = field(300, "that it is made in")
    parallel: int = field(2, "runs at a time, each on its share of the cores")
    flags: str = field("", "more flags for sft.py or lora.py: '--optim.lr=1e-3'")

    def __post_init__(self):
        known = range(1, len(CLUSTERS) + 1)
        if not self.clusters or not set(self.clusters) <= set(known):
            raise ValueError(f"clusters: give numbers from 1 to {known[-1]}")
        for name in ("num_seeds", "num_steps", "batch_size", "base_steps", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.num_untold < 0:
            raise ValueError(f"num_untold must not be negative, got {self.num_untold}")


# By set of questions, and whether they were told or only the input was given: what was
# said to each.
Said = dict[str, dict[str, list[str]]]
TOLD = {"told": True, "untold": False}


def ask_kept(path: Path, file: Path, sets: Mapping[str, Sequence[Example]]) -> Said:
    """What the model at the path says to everything; kept in the file for next time."""
    if not file.exists():
        print(f"asking {path.name}", flush=True)
        cfg, params, tokenizer = found = load(path)
        template = chat.choose("auto", tokenizer, chat_template(path))
        said = ask(found.model, params, tokenizer, template, cfg.context, sets)
        write_json(file, said)
    return json.loads(file.read_text(encoding="utf-8"))


def ask(
    model: Model,
    params: Params,
    tokenizer: Tokenizer,
    template: str,
    context: int,
    sets: Mapping[str, Sequence[Example]],
) -> Said:
    """The likeliest answers to all questions, with and without their instructions."""
    examples = [example for some in sets.values() for example in some]
    # A right answer with its end; whatever is longer is wrong.
    longest = max(len(tokenizer.encode(example.answer)) for example in examples) + 2
    questions = [
        example.question(told)
        for some in sets.values()
        for told in TOLD.values()
        for example in some
    ]
    said = iter(
        _answer(model, params, tokenizer, template, context, questions, longest)
    )
    return {
        name: {word: [next(said) for _ in some] for word in TOLD}
        for name, some in sets.items()
    }


def _answer(
    model, params, tokenizer, template, context, questions: Sequence[str], longest: int
) -> list[str]:
    prompts = [
        chat.prompt_ids(tokenizer, template, [{"role": "user", "content": question}])
        for question in questions
    ]
    found, stop_ids = [""] * len(prompts), chat.stop_ids(tokenizer, template)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for first in range(0, len(order), BATCH_SIZE):
        part = order[first : first + BATCH_SIZE]
        rows = [*part, *part[:1] * (BATCH_SIZE - len(part))]  # of one shape
        said = generate(
            model, params, [prompts[row] for row in rows], max_new_tokens=longest,
            context=context, stop_ids=stop_ids,
        )  # fmt: skip
        for row, ids in zip(part, said[: len(part)], strict=True):
            found[row] = tokenizer.decode(ids)
    return found


class Share(NamedTuple):
    """The share of right answers, and its 95 % interval."""

    mean: float
    low: float
    high: float
    seeds: list[float]  # the mean of each model


def share(
    examples: Sequence[Example], by_seed: Sequence[Sequence[str]], *, seed: int = 0
) -> Share:
    """What share of the examples' answers is right, said by several models.

    The interval is for other models and for other tasks or pairs of this sort: both are
    drawn again (a bootstrap), but not single questions, as those of a task are alike.
    """
    right = np.array(
        [
            [
                one.kind.is_right(one.given, text)
                for one, text in zip(examples, said, strict=True)
            ]
            for said in by_seed
        ],
        np.float64,
    )
    names = [example.kind.name for example in examples]
    kinds = np.array(list(dict.fromkeys(names)))[:, None] == np.array(names)
    by_kind = right @ (kinds / kinds.sum(axis=1, keepdims=True)).T  # [seeds, kinds]
    low, high = bootstrap_interval(by_kind, np.random.default_rng(seed))
    return Share(float(by_kind.mean()), low, high, by_kind.mean(axis=1).tolist())


def chance(examples: Sequence[Example]) -> float:
    """The share right of who knows, of each task, the one answer that is right most
    often, or that copying the input is; and says always that."""
    by_kind = collections.defaultdict(list)
    for example in examples:
        by_kind[example.kind.name].append(example)
    shares = []
    for some in by_kind.values():
        tried = {example.answer for example in some}
        counts = [
            sum(one.kind.is_right(one.given, answer) for one in some)
            for answer in tried
        ]
        copied = sum(one.kind.is_right(one.given, one.given) for one in some)
        shares.append(max(*counts, copied) / len(some))
    return float(np.mean(shares))


def known_pairs(
    examples: Sequence[Example], num_clusters: int
) -> tuple[list[Example], list[int]]:
    """Those both of whose steps models of so many clusters learn; their numbers."""
    known = CLUSTERS[:num_clusters]
    numbers = [
        number
        for number, example in enumerate(examples)
        if all(step.cluster in known for step in example.kind)
    ]
    return [examples[number] for number in numbers], numbers
