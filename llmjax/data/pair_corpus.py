"""From a config to pairs to learn, to look at and to test, and their tokenizer."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from llmjax.config import field
from llmjax.data import held_out, pairs, scan
from llmjax.data.pairs import Pair, SequencePairs
from llmjax.data.tokenizer import Tokenizer, train_bpe


@dataclasses.dataclass(frozen=True)
class PairConfig:
    """Which pairs of sequences are learned, and how long they may be."""

    task: Literal["libreoffice", "files", "scan_simple", "scan_length", "scan_jump"] = (
        field("libreoffice", "which pairs: real help texts, your files, or SCAN")
    )
    language: str = field("fr", "of libreoffice: what English is translated to")
    source_file: str = field("", "of files: a sentence on each line")
    target_file: str = field("", "of files: its translation on the same line")
    vocab_size: int = field(4096, "of the BPE that both languages share")
    source_tokens: int = field(0, "longest source, with its end; 0: 56, of SCAN 10")
    target_tokens: int = field(0, "longest target, with its end; 0: 72, of SCAN 50")
    num_tested: int = field(1000, "pairs of the test that are translated; 0: all")


class PairCorpus(NamedTuple):
    """Pairs by use, and the tokenizer of both sides."""

    train: Sequence[Pair]
    validation: Sequence[Pair]
    test: Sequence[Pair]
    tokenizer: Tokenizer
    form: Callable[..., SequencePairs]  # (pairs, joined=...) -> rows of tokens

    @property
    def start_id(self) -> int:
        """What a target begins with."""
        return self.form(self.test).start_id


def prepare(cfg: PairConfig) -> PairCorpus:
    """The pairs of `cfg`, split by source so that no test sentence is learned."""
    if cfg.task.startswith("scan_"):
        train, test = scan.split(cfg.task.removeprefix("scan_"))
        rest, validation = train[500:], train[:500]
        sides, tokenizer = (
            held_out.Splits(rest, validation, test),
            scan.make_tokenizer(),
        )
    else:
        if cfg.task == "files":
            found = pairs.read_aligned(cfg.source_file, cfg.target_file)
        else:
            found = pairs.libreoffice(cfg.language)
        sides = held_out.split(found, lambda pair: held_out.normalise(pair.source))
        texts = (text for pair in sides.train for text in pair)
        tokenizer = train_bpe(texts, cfg.vocab_size)
    source_tokens, target_tokens = (10, 50) if cfg.task.startswith("scan") else (56, 72)
    form = partial(
        SequencePairs, tokenizer=tokenizer,
        source_tokens=cfg.source_tokens or source_tokens,
        target_tokens=cfg.target_tokens or target_tokens,
    )  # fmt: skip
    test = form(sides.test).pairs[: cfg.num_tested or None]
    return PairCorpus(sides.train, sides.validation, test, tokenizer, form)
