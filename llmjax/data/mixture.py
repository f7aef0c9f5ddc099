"""A weighted mixture of packed sources, exact and without a state."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from llmjax.data.pack import Batch, Packed


class Mixture:
    """Rows of several sources, interleaved by weight.

    Each source keeps its own endless shuffled order, whatever the weights: they only
    say how fast it is gone through, so they can change without packing again.
    """

    def __init__(self, sources: Sequence[Packed], weights: Sequence[float]):
        if len(sources) != len(weights) or not sources:
            raise ValueError(
                f"{len(sources)} sources but {len(weights)} weights; give one to each"
            )
        if not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError(f"weights {list(weights)}: give positive numbers")
        for name in ("context", "tokenizer"):
            values = {
                source.context if name == "context" else source.store.meta.tokenizer
                for source in sources
            }
            if len(values) > 1:
                raise ValueError(f"sources differ in {name}: {sorted(values)}")
        self.sources, self.weights = list(sources), [float(w) for w in weights]

    @property
    def context(self) -> int:
        return self.sources[0].context

    @property
    def fill(self) -> float:
        """The share of positions that are not padding."""
        shares = [w * s.fill for w, s in zip(self.weights, self.sources, strict=True)]
        return sum(shares) / sum(self.weights)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        parts = [source.fingerprint for source in self.sources]
        text = f"{parts} mixed {self.weights}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless mixture."""
        indices = np.asarray(indices, np.int64)
        which, within = interleave(indices, self.weights)
        batch = {}
        for number, source in enumerate(self.sources):
            mine = np.flatnonzero(which == number)
            if len(mine):
                for name, rows in source.take(within[mine], seed).items():
                    shape = (len(indices), *rows.shape[1:])
                    batch.setdefault(name, np.zeros(shape, rows.dtype))[mine] = rows
        return batch


def interleave(
    indices: np.ndarray, weights: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """(source, index within the source) of each row of a mixture.

    Of the first n rows, the first source gets round(n * its share), evenly spread; the
    rows that it leaves are dealt to the other sources in the same way. So the counts
    are exact at every n, to within half a row for each source before.
    """
    which = np.full(len(indices), len(weights) - 1)
    within = indices.copy()  # among the rows that the sources so far have left
    undecided = np.arange(len(indices))
    for number in range(len(weights) - 1):
        rest = sum(weights[number:])
        share = weights[number] / rest if rest else 0.0
        left = within[undecided]
        taken = np.floor(left * share + 0.5).astype(np.int64)
        is_mine = np.floor((left + 1) * share + 0.5).astype(np.int64) > taken
        which[undecided[is_mine]] = number
        within[undecided] = np.where(is_mine, taken, left - taken)
        undecided = undecided[~is_mine]
    return which, within
