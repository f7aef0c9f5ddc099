"""A toy of translation: each text has two translations, and both are right.

The target is the source backwards, in the symbols of one of two codebooks, which are
permutations that agree nowhere. A fair coin picks the codebook of a pair; a translation
that begins in one and goes on in the other is wrong.
"""

import hashlib

import numpy as np

from llmjax.data.hmm_rows import Ids, shifted
from llmjax.data.pack import Batch


class Codebooks:
    """Pairs as rows for one of the structures, all of them as long; no end is marked.

    decoder: source, `ids.end`, target; the loss is on the target.
    encoder: source, then as many masks, behind which the target is.
    encoder-decoder: the source for the one, the target for the other.
    """

    def __init__(self, structure: str, ids: Ids, length: int, part: int = 0):
        self.structure, self.ids = structure, ids
        self.length, self.part = length, part
        first = np.random.default_rng(0).permutation(ids.num_symbols)
        self.books = np.stack([first, np.roll(first, 1)])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of a row: of its target and, with an encoder beside, of its source."""
        if self.structure == "encoder-decoder":
            return self.length, self.length
        return (2 * self.length,)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = repr((self.structure, self.ids, self.length, self.part))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of an endless sequence, each a pure function of (seed, index)."""
        return self.form(*self.pairs(indices, seed))

    def pairs(self, indices: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(sources, targets), each [len(indices), length] int32."""
        sources, coins = [], []
        for index in indices:
            rng = np.random.default_rng([seed % 2**64, int(index), self.part])
            sources.append(rng.integers(self.ids.num_symbols, size=self.length))
            coins.append(rng.integers(2))
        both = self.translations(np.stack(sources))
        targets = both[np.array(coins), np.arange(len(coins))]
        return np.stack(sources).astype(np.int32), targets

    def translations(self, sources_BT) -> np.ndarray:
        """[2, B, T]: the right translations, in either codebook."""
        return self.books[:, sources_BT[:, ::-1]].astype(np.int32)

    def form(self, sources_BT, targets_BT) -> Batch:
        """The pairs as a batch of the structure."""
        if self.structure == "encoder-decoder":
            return shifted(targets_BT, self.ids.end) | {"encoder_tokens": sources_BT}
        targets = np.concatenate([sources_BT, targets_BT], axis=1)
        is_target = np.arange(2 * self.length) >= self.length
        weights = np.tile(is_target.astype(np.float32), (len(targets), 1))
        if self.structure == "encoder":
            tokens = np.where(is_target, self.ids.mask, targets)
            return {"tokens": tokens, "targets": targets, "weights": weights}
        start = np.full_like(sources_BT[:, :1], self.ids.end)
        tokens = np.concatenate([sources_BT, start, targets_BT[:, :-1]], axis=1)
        return {"tokens": tokens, "targets": targets, "weights": weights}
