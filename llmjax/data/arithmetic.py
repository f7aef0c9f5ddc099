"""Sums and differences as text, to learn from and, never among these, to be asked.

A document is a dozen problems of one kind, a line each. The kind is one operation, one
number of digits and one order of digits: plain, as people write, or reversed, in all
three numbers, with the least significant digit first. That is the order in which
carries are known (Lee et al., Teaching Arithmetic to Small Transformers, 2023), and
digits of the same weight are as far apart everywhere in a line.

    47+85=132           74+58=231
    60-21=39            06-12=93

Nothing but the lines before says which order a document is in: asked for the first
line, a model can only guess.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.config import field
from llmjax.data import corpus, sources
from llmjax.data.held_out import rank
from llmjax.data.mixture import interleave
from llmjax.data.shuffle import shuffled

OPERATIONS = {"+": "addition", "-": "subtraction"}
ORDERS = ("plain", "reversed")
HELD_OUT_FRACTION = 1 / 8  # of all problems
LINES = 12  # of a document
MAX_DIGITS = 9  # so that a pair of numbers is one of 64 bits
CHUNK = 4096  # pairs drawn at once
DOCUMENTS_PER_ROW = 2  # a row of 256 tokens holds 1.7 of them, of up to 4 digits
VALIDATION_FRACTION = 0.002
ASKED_SEED = 10**6  # no document has the lines of a prompt, in their order


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """What is learned: arithmetic among other text."""

    weights: tuple[float, ...] = field(
        (1, 2, 4, 3), "of documents with numbers of 1, 2, ... digits: how many of each"
    )
    plain: float = field(0.3, "share of documents in plain order, the rest reversed")
    num_unique: int = field(0, "problems learned of each kind, again and again; 0: all")
    share: float = field(0.8, "of the rows: arithmetic")
    text: str = field("stdlib", "the other rows, as --data.source of pretrain.py")

    def __post_init__(self):
        if not 1 <= self.num_digits < MAX_DIGITS:
            raise ValueError(
                f"weights: give 1 to {MAX_DIGITS - 1} of them, got {self.num_digits}"
            )
        if min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(f"weights must not be negative, got {self.weights}")
        for name in ("share", "plain"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must lie between 0 and 1, got {getattr(self, name)}"
                )
        if self.num_unique < 0:
            raise ValueError(f"num_unique must not be negative, got {self.num_unique}")

    @property
    def num_digits(self) -> int:
        return len(self.weights)


class Kind(NamedTuple):
    """What all lines of a document have in common; both numbers have all the digits."""

    operation: str
    order: str
    num_digits: int

    def __str__(self) -> str:
        return f"{self.num_digits}-digit {self.operation} {self.order}"


class Problem(NamedTuple):
    """A line, cut where the answer begins; it ends with the line's end."""

    question: str
    answer: str


def kinds(num_digits: int) -> list[Kind]:
    """All kinds of up to so many digits."""
    numbers = range(1, num_digits + 1)
    return [Kind(*one) for one in itertools.product(OPERATIONS, ORDERS, numbers)]


def problems(
    kind: Kind, *, held_out: bool, seed: int, epoch: int = 0
) -> Iterator[Problem]:
    """Each problem of the kind on one side of the split, once, in an order drawn anew
    for each seed and epoch. No difference is negative."""
    low = 10 ** (kind.num_digits - 1) if kind.num_digits > 1 else 0
    num_numbers = 10**kind.num_digits - low
    for start in range(0, num_numbers**2, CHUNK):
        index = np.arange(start, min(start + CHUNK, num_numbers**2))
        pairs = shuffled(index, num_numbers**2, seed, np.full_like(index, epoch))
        firsts, seconds = divmod(pairs, num_numbers)
        for a, b in zip((firsts + low).tolist(), (seconds + low).tolist(), strict=True):
            if kind.operation == "-" and a < b:
                continue
            if is_held_out(kind.operation, a, b) == held_out:
                yield write(kind, a, b)


def is_held_out(operation: str, a: int, b: int) -> bool:
    """Whether a problem is asked and never learned: in neither order of its numbers,
    and in neither order of their digits."""
    key = f"{min(a, b)}{operation}{max(a, b)}"
    return rank(key) < HELD_OUT_FRACTION


def write(kind: Kind, a: int, b: int) -> Problem:
    """The problem of these two numbers."""
    numbers = map(str, (a, b, a + b if kind.operation == "+" else a - b))
    step = -1 if kind.order == "reversed" else 1
    first, second, answer = (number[::step] for number in numbers)
    return Problem(f"{first}{kind.operation}{second}=", f"{answer}\n")


def endless(kind: Kind, seed: int, num_unique: int = 0) -> Iterator[Problem]:
    """The problems to learn from, all or so many, and again, in another order, when
    there are no more."""
    if not num_unique:
        for epoch in itertools.count():
            yield from problems(kind, held_out=False, seed=seed, epoch=epoch)
    few = list(itertools.islice(problems(kind, held_out=False, seed=seed), num_unique))
    for epoch in itertools.count():
        index = np.arange(len(few))
        order = shuffled(index, len(few), seed, np.full_like(index, epoch))
        yield from map(few.__getitem__, order.tolist())


def documents(cfg: MixConfig, num: int) -> Iterator[str]:
    """So many documents of problems to learn from, of each kind its share.

    The kinds take turns as evenly as their shares allow, and nothing is drawn.
    """
    streams, shares = [], []
    for seed, kind in enumerate(kinds(cfg.num_digits)):
        streams.append(endless(kind, seed, cfg.num_unique))
        order = cfg.plain if kind.order == "plain" else 1 - cfg.plain
        shares.append(order * cfg.weights[kind.num_digits - 1])
    which, _ = interleave(np.arange(num), shares)
    for number in which.tolist():
        yield "".join(map("".join, itertools.islice(streams[number], LINES)))


def prepare(cfg: MixConfig, folder: Path, num_rows: int) -> str:
    """The source of so many rows for `corpus.TextConfig`, tokenized under `folder`
    unless it lies there already: plain text first, then arithmetic. Tokens are bytes,
    so that each digit is one."""
    _tokenize(cfg.text, folder / "text")
    file = folder / "arithmetic.jsonl"
    if not file.exists():
        num = DOCUMENTS_PER_ROW * math.ceil(num_rows * cfg.share)
        sources.write_jsonl(file, ({"text": text} for text in documents(cfg, num)))
    _tokenize(str(file), folder / "arithmetic")
    return f"{folder / 'text'};{folder / 'arithmetic'}"


def _tokenize(source: str, folder: Path) -> None:
    if not folder.exists():
        print(f"tokenizing {source}", flush=True)
        text = corpus.TextConfig(
            source, tokenizer="bytes", validation_fraction=VALIDATION_FRACTION
        )
        corpus.tokenize(text, folder)


def prompts(kind: Kind, num_shots: int, num: int) -> list[tuple[str, str]]:
    """(prompt, answer) of so many held-out problems, or of all there are.

    A prompt is the beginning of a document: solved problems of the kind, from among
    those that are learned, and then the one that is asked.
    """
    asked = itertools.islice(problems(kind, held_out=True, seed=ASKED_SEED), num)
    shots = endless(kind, ASKED_SEED)
    found = []
    for question, answer in asked:
        before = "".join(map("".join, itertools.islice(shots, num_shots)))
        found.append((before + question, answer))
    return found
