"""From a config to comparisons in tokens: to learn, and held out."""

import dataclasses
import itertools
from typing import NamedTuple

from llmjax.config import ModelConfig, field
from llmjax.data import chat, comparisons, held_out
from llmjax.data.chat_corpus import CHUNK
from llmjax.data.comparison_rows import (
    Answer,
    ComparisonRows,
    Example,
    Scribe,
    round_up,
)
from llmjax.data.comparisons import Comparison
from llmjax.data.conversations import CUT, HELD_OUT, LEARNED, OnBad, Tally
from llmjax.data.template import Renderer
from llmjax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Which comparisons are learned, and in whose words."""

    source: str = field(
        comparisons.REVIEWS,
        ".jsonl files, folders, globs by comma; a saved data set; hf:NAME:SPLIT; or "
        "reviews: sentences on films",
    )
    held_out: str = field("", "likewise, to look at; empty: a share of the prompts")
    template: str = field(
        "auto", "auto: the model's own; chatml, llama3, gemma, plain; or a file"
    )
    context: int = field(512, "tokens of a prompt and an answer, at most")
    validation_fraction: float = field(0.1, "share of the prompts held out")
    on_bad: OnBad = field(
        "refuse", "of what cannot be learned: stop at the first, or count and skip"
    )
    max_cut: float = field(0.05, "share of comparisons that may be cut off, at most")


class ComparisonCorpus(NamedTuple):
    """Comparisons ready for training.

    form: the chat template; None for an encoder. tally: what became of all comparisons.
    """

    form: str | None
    train: ComparisonRows
    validation: ComparisonRows
    tally: Tally


def prepare(
    cfg: ComparisonConfig,
    tokenizer: Tokenizer,
    model: ModelConfig,
    own_template: str | None,
) -> ComparisonCorpus:
    """The comparisons of `cfg` in rows for the model, and in its tokens.

    Raises ValueError or FileNotFoundError, in one line that names the place, for what
    `comparisons.read` refuses, and where more than `cfg.max_cut` are too long.
    """
    if not cfg.source:
        raise ValueError("--data.source is needed: .jsonl files of comparisons")
    form = None
    if model.structure == "decoder":
        form = chat.choose(cfg.template, tokenizer, own_template)
    tally = Tally(cfg.on_bad, "comparisons")
    context = min(cfg.context, model.context)
    found = _read(cfg.source, tokenizer, form, context, tally)
    if cfg.held_out:
        sides = found, _read(cfg.held_out, tokenizer, form, context, tally)
    else:
        sides = held_out.hold_out(
            found, lambda example: example.comparison.key, cfg.validation_fraction
        )
    for kind, side in zip((LEARNED, HELD_OUT), sides, strict=True):
        for example in side:
            tally.add(kind, example.comparison.where)
    _check(cfg, sides, context, tally)
    answers = [example.answers for side in sides for example in side]
    num_tokens = max(len(answer.ids) for some in answers for answer in some)
    size = max(map(len, answers)), min(context, round_up(num_tokens))
    train, validation = (ComparisonRows(side, *size) for side in sides)
    return ComparisonCorpus(form, train, validation, tally)


def _read(
    spec: str, tokenizer: Tokenizer, form: str | None, context: int, tally: Tally
) -> list[Example]:
    """All comparisons in tokens; what cannot be learned from is refused."""
    found, examples = comparisons.read(spec, tally), []
    with Renderer(form or "", **chat.names(tokenizer)) as renderer:
        scribe = Scribe(tokenizer, form, renderer.write)
        while chunk := list(itertools.islice(found, CHUNK)):
            talks = [one.prompt + answer for one in chunk for answer in one.answers]
            written = iter(scribe.encode(talks))
            for one in chunk:
                answers = [next(written) for _ in one.answers]
                try:
                    cut = _cut(one, answers, scribe, context)
                except ValueError as error:
                    tally.refuse(one.where, error)
                    continue
                if cut != answers:
                    tally.add(CUT, one.where)
                examples.append(Example(one, cut))
    return examples


def _cut(
    comparison: Comparison,
    answers: list[Answer | ValueError],
    scribe: Scribe,
    context: int,
) -> list[Answer]:
    """The answers in as many tokens as there is room for, still not the same."""
    for answer in answers:
        if isinstance(answer, ValueError):
            raise ValueError(f"template fails: {answer}")
    cut = [scribe.cut(answer, context) for answer in answers]
    for one, other in comparison.pairs():
        if cut[one].ids == cut[other].ids:
            raise ValueError(f"identical answers: the same in {context} tokens")
    return cut


def _check(cfg: ComparisonConfig, sides: tuple, context: int, tally: Tally) -> None:
    num = sum(map(len, sides))
    if not num:
        raise ValueError(f"{cfg.source}: no comparison to learn from")
    if not sides[0]:
        raise ValueError(
            f"all {num} comparisons are held out; give more of them, with different "
            "prompts, or others to look at by --data.held_out"
        )
    if not sides[1]:
        raise ValueError(f"{cfg.held_out}: no comparison to look at")
    tally.check_cut(num, context, cfg.max_cut)
