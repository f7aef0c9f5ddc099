"""Few-shot classification: which label does a language model think comes next?

Brown et al. 2020 (arXiv:2005.14165). Labels shuffled among the examples are the control
(Min et al. 2022, arXiv:2202.12837): what is then still gained, the format taught, not
the examples.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import field
from llmjax.data import labelled
from llmjax.data.labelled import Labelled
from llmjax.data.pairs import padded
from llmjax.data.tokenizer import Tokenizer
from llmjax.types import Batch, Model, Params

BATCH = 8  # prompts at a time
WORDS = {"fresh": "positive", "rotten": "negative"}  # as more reviews have it


@dataclasses.dataclass(frozen=True)
class ShotConfig:
    """Which model is asked what."""

    model: str = field("", "a pre-trained model: GGUF file, folder, workdir; or none")
    shots: tuple[int, ...] = field((0, 1, 2, 4, 8, 16), "numbers of examples")
    num_tests: int = field(200, "texts asked about")
    template: str = field(
        "Review: {text}\nSentiment: {label}", "how an example reads; its label is last"
    )


def curve(
    cfg: ShotConfig, model: Model, params: Params, tokenizer: Tokenizer, context: int
) -> list[dict[str, Any]]:
    """A line for each number of shots: accuracy with right and with shuffled labels."""
    sides = labelled.split_labelled(labelled.rotten_tomatoes())
    train, test = (
        [example._replace(label=WORDS[example.label]) for example in side]
        for side in (sides.train, sides.test[: cfg.num_tests])
    )
    params, lines = jax.device_put(params), []
    for num_shots in cfg.shots:
        line: dict[str, Any] = {"shots": num_shots}
        for name in ("right", "shuffled"):
            asked = prompts(
                train, test, num_shots, cfg.template, is_shuffled=name == "shuffled"
            )
            found = accuracy(model, params, tokenizer, asked, test, context)
            line[name], line[f"{name}_chosen"] = found["accuracy"], found["chosen"]
        share = line["right"]
        line["error"] = math.sqrt(share * (1 - share) / len(test))
        print(line, flush=True)
        lines.append(line)
    return lines


def prompts(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    num_shots: int,
    template: str,
    *,
    is_shuffled: bool = False,
    seed: int = 0,
) -> list[str]:
    """For each test example its own shots and the text, up to where its label begins.

    template: how an example is written, with {text} and {label} at its end. The shots
    have as many of each label as can be, in an order drawn anew; shuffled, each has a
    label drawn at random.
    """
    random = np.random.default_rng(seed)
    labels = sorted({example.label for example in train})
    by_label = {name: [e for e in train if e.label == name] for name in labels}
    found = []
    for example in test:
        shots = []
        for number in range(num_shots):
            same = by_label[labels[number % len(labels)]]
            shots.append(same[random.integers(len(same))])
        random.shuffle(shots)
        if is_shuffled:
            shots = [shot._replace(label=str(random.choice(labels))) for shot in shots]
        lines = [template.format(text=s.text, label=s.label) for s in shots]
        lines.append(
            template.partition("{label}")[0].format(text=example.text).rstrip()
        )
        found.append("\n".join(lines))
    return found


def accuracy(
    model: Model, params: Params, tokenizer: Tokenizer, asked: Sequence[str],
    test: Sequence[Labelled], context: int,
) -> dict[str, Any]:  # fmt: skip
    """accuracy: the share of `asked` after which the right label is the likeliest of
    all, by its first token; chosen: how often each was."""
    labels = sorted({example.label for example in test})
    first = [tokenizer.encode(" " + label)[0] for label in labels]
    if len(set(first)) < len(labels):
        raise ValueError(f"labels {labels} begin with the same token; rename one")
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    rows = [start + tokenizer.encode(text) for text in asked]
    if (longest := max(map(len, rows))) > context:
        raise ValueError(
            f"a prompt of {longest} tokens exceeds the context of {context}; take "
            "fewer shots"
        )
    width = -(-longest // 64) * 64
    told = []
    for begin in range(0, len(rows), BATCH):
        some = rows[begin : begin + BATCH]
        batch = padded(some + [some[0]] * (BATCH - len(some)), width)
        last_B = batch["segment_ids"].sum(axis=1) - 1
        logits_BV = _logits_at(model, params, batch, last_B)
        told += np.asarray(logits_BV)[: len(some), first].argmax(axis=1).tolist()
    right = np.mean([labels[i] == e.label for i, e in zip(told, test, strict=True)])
    counts = {label: told.count(number) for number, label in enumerate(labels)}
    return {"accuracy": float(right), "chosen": counts}


@partial(jax.jit, static_argnames="model")
def _logits_at(model: Model, params: Params, batch: Batch, last_B) -> jax.Array:
    """[B, V] after the last token of each row."""
    hidden_BTD = model.apply(params, batch).hidden_BTD
    hidden_BD = jnp.take_along_axis(hidden_BTD, last_B[:, None, None], axis=1)[:, 0]
    return model.readout(params, hidden_BD)
