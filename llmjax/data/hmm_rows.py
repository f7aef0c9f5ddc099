"""Rows of a hidden Markov language, as each of the three structures learns it."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from llmjax.data import hmm as hmm_lib
from llmjax.data import objectives, spans
from llmjax.data.hmm import HmmConfig
from llmjax.data.pack import Batch

STRUCTURES = ("decoder", "encoder", "encoder-decoder")
BLOCK = 64  # texts drawn together


class Ids(NamedTuple):
    """A vocabulary that serves all objectives: first the symbols, numbered from 0.

    mask: what stands in a masked symbol's place. end: a text begins and ends with it.
    The sentinels of spans are the highest ids.
    """

    num_symbols: int
    mask: int
    end: int
    num_sentinels: int
    size: int


def make_ids(num_symbols: int, length: int) -> Ids:
    """The ids for texts of so many symbols, and of such a length."""
    num_sentinels = spans.count_noise(length)[1]
    size = num_symbols + 2 + num_sentinels
    return Ids(num_symbols, num_symbols, num_symbols + 1, num_sentinels, size)


class Texts:
    """Texts of the language, numbered; after the last one they come again.

    A pure function of (seed, number). The texts of one part are not those of another.
    """

    def __init__(self, cfg: HmmConfig, length: int, num_texts: int, part: int = 0):
        self.cfg, self.hmm = cfg, hmm_lib.make(cfg)
        self.context, self.num_texts, self.part = length, num_texts, part

    def __len__(self) -> int:
        """The number of unique texts, which is an epoch."""
        return self.num_texts

    @property
    def fingerprint(self) -> str:
        """Equal where every text is; in hexadecimal."""
        sizes = (self.context, self.num_texts, self.part)
        text = repr((dataclasses.astuple(self.cfg), sizes))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Texts of the endless sequence."""
        numbers = np.asarray(indices, np.int64) % self.num_texts
        blocks, block_of_row = np.unique(numbers // BLOCK, return_inverse=True)
        drawn = np.stack([self._draw(int(block), seed) for block in blocks])
        tokens_BT = drawn[block_of_row, numbers % BLOCK]
        segments_BT = np.ones_like(tokens_BT)
        return {
            "tokens": tokens_BT,
            "segment_ids": segments_BT,
            "positions": objectives.positions(segments_BT),
        }

    def _draw(self, block: int, seed: int) -> np.ndarray:
        # From 1 on: a last 0 would not tell this generator from those of `Corrupted`.
        rng = np.random.default_rng([seed % 2**64, block, 1 + self.part])
        return hmm_lib.sample(self.hmm, rng, BLOCK, self.context)


class Rows(objectives.Corrupted):
    """Texts as one of the structures learns them: a dataset for `Batches`.

    A decoder tells each symbol from those before it. An encoder tells 15 % of them,
    which are all masked: what is exact must leave no trace of them. An encoder-decoder
    tells as many, in spans (`spans.span_corruption`). These two hide other symbols each
    time that a text comes.
    """

    def __init__(self, structure: str, texts: Texts, ids: Ids):
        self.structure, self.texts, self.ids = structure, texts, ids
        super().__init__(texts, self._corrupt, f"{structure} {ids}")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of a row: of its target and, with an encoder beside, of its source."""
        if self.structure != "encoder-decoder":
            return (self.context,)
        source_length, target_length = spans.corrupted_lengths(self.context)
        return target_length, source_length

    def _corrupt(self, row: Batch, rng: np.random.Generator) -> Batch:
        ids, text = self.ids, (row["tokens"], row["segment_ids"])
        if self.structure == "decoder":
            return shifted(row["tokens"], ids.end)
        if self.structure == "encoder":
            return objectives.masked_lm(
                *text, rng, mask_id=ids.mask, vocab_size=ids.size, shares=(1, 0, 0),
                special_ids=range(ids.num_symbols, ids.size),
            )  # fmt: skip
        return spans.span_corruption(
            *text, rng, vocab_size=ids.size, num_sentinels=ids.num_sentinels,
            eos_id=ids.end, start_id=ids.end,
        )  # fmt: skip


def shifted(targets_BT, start_id: int) -> Batch:
    """A decoder's batch: all of the rows is to be told, each from what is before it."""
    first = np.full_like(targets_BT[:, :1], start_id)
    return {
        "tokens": np.concatenate([first, targets_BT[:, :-1]], axis=1),
        "targets": targets_BT,
        "weights": np.ones(targets_BT.shape, np.float32),
    }
