"""Pairs of a source and a target sentence, and the batches made of them."""

import hashlib
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.data.assets import fetch_debian, read_text
from llmjax.data.pack import Batch
from llmjax.data.shuffle import shuffled
from llmjax.data.tokenizer import Tokenizer

HELP = "usr/share/libreoffice/help"
PARAGRAPH = re.compile(r'<p id="([^"]+)"[^>]*>(.*?)</p>', re.S)
# Where words depend on the system, those for a Mac come first and are left out.
ON_A_MAC = re.compile(r'<span hidden="true" id="MAC.*?(?=<span hidden="true")', re.S)
GAP = re.compile(r"<br|<span hidden")
TAG = re.compile(r"<[^>]*>")


class Pair(NamedTuple):
    """A sentence and what is to be made of it."""

    source: str
    target: str


def libreoffice(language: str = "fr", *, min_words: int = 5) -> list[Pair]:
    """Sentences and short paragraphs of LibreOffice's help, from English.

    Each pair comes once. Left out are sources of fewer words (names of menus, numbers)
    and what was left untranslated. From the Debian packages libreoffice-help-en-us and
    libreoffice-help-`language`, under MPL-2.0; see `fetch_debian`.
    """
    folders = []
    for name, folder in (("en-us", "en-US"), (language, language)):
        folders.append(fetch_debian(f"libreoffice-help-{name}") / HELP / folder)
    pairs = dict.fromkeys(read_help(*folders))
    return [
        pair
        for pair in pairs
        if pair.source != pair.target and len(pair.source.split()) >= min_words
    ]


def read_help(
    source_folder: str | os.PathLike, target_folder: str | os.PathLike
) -> list[Pair]:
    """The paragraphs that two languages of the help have in common.

    They are those of one file name and one id, without tags. Raises FileNotFoundError
    where a folder holds no page.
    """
    pairs = []
    for file in sorted(Path(source_folder).rglob("*.html")):
        translated = Path(target_folder) / file.relative_to(source_folder)
        if not translated.is_file():
            continue
        sources, targets = _read_paragraphs(file), _read_paragraphs(translated)
        for name in sources:
            if sources[name] and targets.get(name):
                pairs.append(Pair(sources[name], targets[name]))
    if not pairs:
        raise FileNotFoundError(
            f"{source_folder} and {target_folder}: no page of help in common"
        )
    return pairs


def _read_paragraphs(file: Path) -> dict[str, str]:
    return {name: _plain(body) for name, body in PARAGRAPH.findall(read_text(file))}


def _plain(body: str) -> str:
    body = GAP.sub(r" \g<0>", ON_A_MAC.sub("", body))
    return " ".join(html.unescape(TAG.sub("", body)).split())


def read_aligned(
    source_file: str | os.PathLike, target_file: str | os.PathLike
) -> list[Pair]:
    """Line n of one file with line n of the other; pairs with an empty line left out.

    Either may be compressed, as .gz or .bz2. Raises ValueError where one has more lines
    than the other, and FileNotFoundError.
    """
    sources, targets = _read_lines(source_file), _read_lines(target_file)
    if len(sources) != len(targets):
        raise ValueError(
            f"{source_file} has {len(sources)} lines but {target_file} has "
            f"{len(targets)}; line n of one must translate line n of the other"
        )
    pairs = [Pair(*lines) for lines in zip(sources, targets, strict=True) if all(lines)]
    if not pairs:
        raise ValueError(f"{source_file} and {target_file}: no pair of lines with text")
    return pairs


def _read_lines(file: str | os.PathLike) -> list[str]:
    lines = read_text(file).split("\n")
    if not lines[-1]:
        lines.pop()  # what follows the last line's end
    return [line.strip() for line in lines]


class SequencePairs:
    """Pairs in tokens, as rows for an encoder and a decoder, or for a decoder alone.

    A source has at most `source_tokens` with its end, a target at most `target_tokens`
    with its end. Longer pairs are dropped, and counted in `num_dropped`; `pairs` holds
    those kept, in their order: row i is of pair i.

    joined: for a decoder alone. Source, separator and target are one row of
    `source_tokens` + `target_tokens`, with weights on the target and its end: the same
    pairs are kept, and the same tokens counted, as in the other form.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        tokenizer: Tokenizer,
        *,
        source_tokens: int,
        target_tokens: int,
        joined: bool = False,
    ):
        if tokenizer.eos_id is None:
            raise ValueError("this tokenizer names no end-of-text token; give it one")
        self.source_tokens, self.target_tokens = source_tokens, target_tokens
        self.joined, self.tokenizer = joined, tokenizer
        self.pairs, self.ids = [], []
        for pair in pairs:
            source, target = map(tokenizer.encode, pair)
            if len(source) < source_tokens and len(target) < target_tokens:
                self.pairs.append(Pair(*pair))
                self.ids.append((source, target))
        self.num_dropped = len(pairs) - len(self.pairs)
        if not self.pairs:
            raise ValueError(
                f"none of {len(pairs)} pairs is shorter than {source_tokens} tokens in "
                f"the source and {target_tokens} in the target; allow more"
            )

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.ids)

    @property
    def start_id(self) -> int:
        """What the decoder begins with; it also parts the two sides of a joined row."""
        bos_id, eos_id = self.tokenizer.bos_id, self.tokenizer.eos_id
        return eos_id if bos_id is None else bos_id

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        sizes = (self.source_tokens, self.target_tokens, self.joined)
        text = repr((sizes, self.start_id, self.tokenizer.eos_id, self.ids))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """The rows of these pairs as a batch.

        Joined, "tokens", "targets", "weights", "segment_ids" and "positions", each
        [len(indices), source_tokens + target_tokens]. Otherwise they are of the target,
        shifted right, [len(indices), target_tokens]; and "encoder_tokens",
        "encoder_segment_ids" and "encoder_positions" are of the source and its end,
        [len(indices), source_tokens].
        """
        start_id, end_id = self.start_id, self.tokenizer.eos_id
        sources, targets = zip(*(self.ids[index] for index in indices), strict=True)
        if self.joined:
            pieces = zip(sources, targets, strict=True)
            full = [[*s, start_id, *t, end_id] for s, t in pieces]
            num_tokens = self.source_tokens + self.target_tokens
            return decoder_rows(full, [len(s) for s in sources], num_tokens)
        full = [[start_id, *target, end_id] for target in targets]
        batch = decoder_rows(full, [0] * len(full), self.target_tokens)
        ended = [[*source, end_id] for source in sources]
        encoder = padded(ended, self.source_tokens)
        return batch | {f"encoder_{name}": array for name, array in encoder.items()}


def decoder_rows(
    rows: list[list[int]], first_weights: list[int], num_tokens: int
) -> Batch:
    """Each row as inputs and, one further on, targets; weighted from a position on."""
    batch = padded([row[:-1] for row in rows], num_tokens)
    targets = padded([row[1:] for row in rows], num_tokens)["tokens"]
    is_target = batch["positions"] >= np.array(first_weights)[:, None]
    weights = is_target & (batch["segment_ids"] > 0)
    return batch | {"targets": targets, "weights": weights.astype(np.float32)}


def padded(rows: Sequence[list[int]], num_tokens: int) -> Batch:
    """ "tokens", "segment_ids" and "positions", each [len(rows), num_tokens]."""
    tokens = np.zeros((len(rows), num_tokens), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    lengths = np.array([len(row) for row in rows])[:, None]
    columns = np.arange(num_tokens, dtype=np.int32)
    is_token = columns < lengths
    return {
        "tokens": tokens,
        "segment_ids": is_token.astype(np.int32),
        "positions": np.where(is_token, columns, 0).astype(np.int32),
    }
