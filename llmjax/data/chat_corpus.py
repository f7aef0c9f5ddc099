"""From a config to conversations in tokens: to learn, and held out."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.config import ModelConfig, field
from llmjax.data import chat, chat_rows, conversations, held_out
from llmjax.data.chat_rows import AnswerRows, ConversationRows, Counts, Example
from llmjax.data.conversations import (
    CUT,
    HELD_OUT,
    LEARNED,
    Conversation,
    OnBad,
    Tally,
)
from llmjax.data.template import Renderer
from llmjax.data.tokenizer import Tokenizer

CHUNK = 64  # conversations that a template is given at once


@dataclasses.dataclass(frozen=True)
class ChatConfig:
    """Which conversations are learned, in whose words, and what of them."""

    source: str = field(
        "", ".jsonl files, folders, globs by comma; a saved data set; or hf:NAME:SPLIT"
    )
    template: str = field(
        "auto", "auto: the model's own; chatml, llama3, gemma, plain; or a file"
    )
    roles: tuple[str, ...] = field(("assistant",), "whose turns are trained")
    context: int = field(512, "tokens of a row, or of an encoder's source")
    answer_tokens: int = field(128, "of a decoder that has an encoder: longest answer")
    validation_fraction: float = field(0.02, "share of the prompts held out")
    on_bad: OnBad = field(
        "refuse", "of what cannot be learned: stop at the first, or count and skip"
    )
    max_cut: float = field(0.05, "share of conversations that may be cut off, at most")


class ChatCorpus(NamedTuple):
    """Conversations ready for training.

    stop_ids: what ends an answer. held_out: as they are, before they become rows.
    tally: what became of all conversations. counts: of the rows to learn.
    """

    template: str
    stop_ids: tuple[int, ...]
    train: ConversationRows | AnswerRows
    validation: ConversationRows | AnswerRows
    held_out: list[Example]
    tally: Tally
    counts: Counts


def prepare(
    cfg: ChatConfig, tokenizer: Tokenizer, model: ModelConfig, own_template: str | None
) -> ChatCorpus:
    """The conversations of `cfg` in rows for the model, and in its tokens.

    Raises ValueError or FileNotFoundError, in one line that names the place, for what
    `conversations.read` refuses; where more than `cfg.max_cut` are too long; and where
    the model would not learn to end an answer.
    """
    if not cfg.source:
        raise ValueError("--data.source is needed: .jsonl files of conversations")
    template = chat.choose(cfg.template, tokenizer, own_template)
    tally, lengths = Tally(cfg.on_bad), row_lengths(cfg, model)
    found = _encode(cfg, tokenizer, template, tally)
    examples = list(_check(found, lengths, tally))
    if not examples:
        raise ValueError(f"{cfg.source}: no conversation to learn from")
    tally.check_cut(len(examples), max(lengths), cfg.max_cut)
    learned, unseen = _split(examples, cfg.validation_fraction, tally)
    train, validation = (
        _make_rows(part, lengths, model, tokenizer) for part in (learned, unseen)
    )
    stop_ids = chat.stop_ids(tokenizer, template)
    counts = chat_rows.count_all(train, stop_ids)
    chat_rows.check(counts, tokenizer, stop_ids)
    return ChatCorpus(template, stop_ids, train, validation, unseen, tally, counts)


def row_lengths(cfg: ChatConfig, model: ModelConfig) -> tuple[int, ...]:
    """The tokens of a row; with an encoder, of its target and of its source."""
    if model.encoder is None:
        return (min(cfg.context, model.context),)
    target_tokens = min(cfg.answer_tokens, model.context)
    return target_tokens, min(cfg.context, model.encoder.context)


def _encode(
    cfg: ChatConfig, tokenizer: Tokenizer, template: str, tally: Tally
) -> Iterator[Example]:
    """All conversations in tokens; those that the template fails at are refused."""
    names = chat.names(tokenizer)
    found = conversations.read(cfg.source, tally, roles=cfg.roles)
    with Renderer(template, roles=cfg.roles, **names) as renderer:
        while chunk := list(itertools.islice(found, CHUNK)):
            written = renderer.write([one.messages for one in chunk])
            for one, pieces in zip(chunk, written, strict=True):
                if isinstance(pieces, ValueError):
                    tally.refuse(one.where, ValueError(f"template fails: {pieces}"))
                    continue
                ids, is_trained = chat.encode_pieces(tokenizer, pieces)
                arrays = np.array(ids, np.int32), np.array(is_trained, bool)
                yield Example(one.where, _question(one), *arrays)


def _question(conversation: Conversation) -> str:
    """What the user says first."""
    texts = (m["content"] for m in conversation.messages if m["role"] == "user")
    return next(texts, "")


def _check(
    examples: Iterator[Example], lengths: tuple[int, ...], tally: Tally
) -> Iterator[Example]:
    """Those of which a row holds something to learn; counts those that it cuts off."""
    is_joined = len(lengths) == 1
    end = lengths[0] + 1 if is_joined else None
    for example in examples:
        if not example.is_trained_T[1:end].any():
            among = f"none of the first {end}" if end else "none at all"
            tally.refuse(example.where, ValueError(f"trains no token: {among}"))
            continue
        if is_joined:
            is_cut = len(example.ids_T) > end
        else:
            target_tokens, source_tokens = lengths
            is_cut = any(
                len(before) >= source_tokens or len(turn) > target_tokens
                for before, turn in example.turns()
            )
        if is_cut:
            tally.add(CUT, example.where)
        yield example


def _split(
    examples: list[Example], fraction: float, tally: Tally
) -> tuple[list[Example], list[Example]]:
    """(those to learn, those held out); all with the same first question together."""
    sides = held_out.hold_out(examples, lambda example: example.key, fraction)
    if not sides[0]:
        raise ValueError(
            f"all {len(examples)} conversations are held out; give more of them, with "
            "different first questions"
        )
    for kind, side in zip((LEARNED, HELD_OUT), sides, strict=True):
        for example in side:
            tally.add(kind, example.where)
    return sides


def _make_rows(
    examples: Sequence[Example], lengths, model: ModelConfig, tokenizer: Tokenizer
) -> ConversationRows | AnswerRows:
    if len(lengths) == 1:
        return ConversationRows(examples, *lengths)
    return AnswerRows(
        examples, *lengths, start_id=model.start_id, end_id=tokenizer.eos_id
    )
