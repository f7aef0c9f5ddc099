"""Prompts that a model is to answer: out of files, in its tokens, some held out."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmjax.config import field
from llmjax.data import chat, conversations, held_out, sources
from llmjax.data.shuffle import shuffled
from llmjax.data.template import Messages
from llmjax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """Where prompts come from, and how they are put to a model."""

    source: str = field(
        "", ".jsonl files whose lines have `prompt`, a text or messages; or .txt, each "
        "line one; by comma"
    )  # fmt: skip
    template: str = field(
        "auto", "auto: the model's own, none if it has none; none: as they are; or one "
        "of chatml, llama3, gemma, plain; or a file"
    )  # fmt: skip
    num_held_out: int = field(32, "prompts that are not trained on")


class Prompts(NamedTuple):
    """Prompts as they were given, and in tokens up to where an answer begins."""

    given: list[str | Messages]
    ids: list[list[int]]

    def take(self, indices: Sequence[int]) -> "Prompts":
        """These of them."""
        return Prompts([self.given[i] for i in indices], [self.ids[i] for i in indices])

    def of_iteration(self, iteration: int, num: int, seed: int) -> "Prompts":
        """The prompts of an iteration: of epochs, each in an order of its own."""
        places = np.arange(iteration * num, (iteration + 1) * num)
        epochs, places = np.divmod(places, len(self.ids))
        return self.take(shuffled(places, len(self.ids), seed, epochs))


class PromptCorpus(NamedTuple):
    """Prompts to train on, and others; what ends an answer; the chat template."""

    train: Prompts
    held_out: Prompts
    stop_ids: tuple[int, ...]
    template: str | None

    @property
    def fingerprint(self) -> str:
        """Equal where every prompt is; in hexadecimal."""
        text = repr((self.train.ids, self.held_out.ids, self.stop_ids))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def prepare(
    cfg: PromptConfig,
    tokenizer: Tokenizer,
    own_template: str | None,
    *,
    room_tokens: int,
) -> PromptCorpus:
    """The prompts of `cfg`. Which are held out depends on the hashes of their texts.

    own_template: the model's. room_tokens: the longest that a prompt may be.
    Raises ValueError or FileNotFoundError, in one line that names the place.
    """
    template = None
    if cfg.template != "none" and (cfg.template != "auto" or own_template):
        template = chat.choose(cfg.template, tokenizer, own_template)
    given, ids = [], []
    for where, prompt in _read(cfg.source):
        found = _encode(tokenizer, template, where, prompt)
        if len(found) > room_tokens:
            raise ValueError(
                f"{where}: a prompt of {len(found)} tokens, and with an answer's there "
                f"is room for {room_tokens}; shorten it, or --rollout.max_new_tokens"
            )
        given.append(prompt)
        ids.append(found)
    if len(given) <= cfg.num_held_out:
        raise ValueError(
            f"{cfg.source}: {len(given)} prompts, of which {cfg.num_held_out} are held "
            "out; give more, or lower --data.num_held_out"
        )
    order = sorted(range(len(ids)), key=lambda i: held_out.rank(str(given[i])))
    unseen, learned = order[: cfg.num_held_out], sorted(order[cfg.num_held_out :])
    every = Prompts(given, ids)
    stop_ids = (tokenizer.eos_id,)
    if template is not None:
        stop_ids = chat.stop_ids(tokenizer, template)
    return PromptCorpus(every.take(learned), every.take(unseen), stop_ids, template)


def _read(spec: str):
    """(where, prompt) of each."""
    if not spec:
        raise ValueError("--data.source is needed: .jsonl or .txt files of prompts")
    for part in filter(None, map(str.strip, spec.split(","))):
        if Path(part).suffix == ".txt":
            for file in sources.find_files(part, kinds=[".txt"]):
                lines = Path(file).read_text(encoding="utf-8").splitlines()
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield f"{file}:{number}", line
            continue
        for where, line in conversations.records(part):
            try:
                yield where, _prompt_of(conversations.parse(line))
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None


def _prompt_of(record: Any) -> str | Messages:
    if "prompt" not in record:
        names = ", ".join(map(str, record)) or "none"
        raise ValueError(f"no `prompt` among the fields: {names}")
    prompt = record["prompt"]
    if not isinstance(prompt, str):
        prompt = conversations.read_messages(prompt)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ValueError("an empty prompt")
    return prompt


def _encode(
    tokenizer: Tokenizer, template: str | None, where: str, prompt: str | Messages
) -> list[int]:
    is_text = isinstance(prompt, str)
    if template is not None:
        messages = [{"role": "user", "content": prompt}] if is_text else prompt
        return chat.prompt_ids(tokenizer, template, messages)
    if not is_text:
        raise ValueError(f"{where}: messages need a chat template; set --data.template")
    first = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    return [first, *tokenizer.encode(prompt)]
