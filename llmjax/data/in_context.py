"""Rows whose answers can only be learned from the row itself: in-context learning.

Each row has a rule of its own, drawn anew, which no parameter can know beforehand. Rows
are a pure function of (seed, number), and never end.
"""

import collections
import dataclasses
import hashlib
import itertools

import numpy as np

from llmjax.data.pack import Batch


@dataclasses.dataclass(frozen=True)
class Regression:
    """x_1 y_1 x_2 y_2 ...: y = w x, where w and each x are drawn from N(0, I).

    After k examples no predictor has a mean squared error below 1 - k / dim, in units
    of the variance of y, and least squares has it (Garg et al. 2022, arXiv:2208.01066).
    """

    dim: int = 5
    num_points: int = 16

    @property
    def context(self) -> int:
        return 2 * self.num_points

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self)

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """tokens [B, T], all 0; inputs_BTI: x and 0 where an x is, 0 and y where a y
        is; targets [B, T]: the y of each x, with weight 1."""
        shape = (len(indices), self.context)
        inputs_BTI = np.zeros((*shape, self.dim + 1), np.float32)
        targets, weights = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, index in enumerate(indices):
            random = np.random.default_rng((seed, int(index)))
            x = random.standard_normal((self.num_points, self.dim))
            y = x @ random.standard_normal(self.dim)
            inputs_BTI[row, 0::2, :-1], inputs_BTI[row, 1::2, -1] = x, y
            targets[row, 0::2], weights[row, 0::2] = y, 1.0
        tokens = np.zeros(shape, np.int32)
        return dict(
            tokens=tokens, inputs_BTI=inputs_BTI, targets=targets, weights=weights
        )

    def least_squares(self, batch: Batch) -> np.ndarray:
        """[B, num_points]: what the least w that fits the examples before says of each
        x. No predictor is better: given k examples, w along the others is unknown."""
        x = batch["inputs_BTI"][:, 0::2, :-1].astype(np.float64)
        y = batch["inputs_BTI"][:, 1::2, -1].astype(np.float64)
        found = np.zeros(y.shape)
        for k in range(1, self.num_points):
            w = np.linalg.pinv(x[:, :k]) @ y[:, :k, None]
            found[:, k] = (x[:, k, None] @ w)[:, 0, 0]
        return found

    def floor(self) -> np.ndarray:
        """1 - k / dim, then 0: the least error after k = 0, 1, ... examples."""
        return np.maximum(0.0, 1 - np.arange(self.num_points) / self.dim)


@dataclasses.dataclass(frozen=True)
class Recall:
    """k v k v ...: keys come again, and their values with them.

    Interleaved, a value can only be found by the key before it: one layer tells each
    token what precedes it, and another looks for it. So one layer alone cannot.
    """

    max_keys: int = 8  # of a row, out of as many again; 2 at least
    num_values: int = 16
    num_pairs: int = 32

    @property
    def vocab_size(self) -> int:
        return 2 * self.max_keys + self.num_values

    @property
    def context(self) -> int:
        return 2 * self.num_pairs

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self)

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """tokens and targets [B, T]; weight 1 on each key that has come before."""
        rows, weights = [], np.zeros((len(indices), self.context), np.float32)
        for row, index in enumerate(indices):
            random = np.random.default_rng((seed, int(index)))
            num_keys = random.integers(2, self.max_keys + 1)
            keys = random.permutation(2 * self.max_keys)[:num_keys]
            values = random.permutation(self.num_values)[:num_keys]
            which = random.integers(num_keys, size=self.num_pairs)
            pairs = keys[which], 2 * self.max_keys + values[which]
            rows.append(np.stack(pairs, axis=1).ravel())
            weights[row, 0::2] = [one in which[:i] for i, one in enumerate(which)]
        return _next(np.array(rows), weights)


@dataclasses.dataclass(frozen=True)
class Induction:
    """A walk round a circle of symbols, which each row has its own of, with jumps.

    "... A B ... A": B. Were there no jumps, one layer would do, which counts back how
    long the circle is, or looks for what it has not seen for the longest time.
    """

    vocab_size: int = 32
    num_symbols: int = 12  # of a row
    jumps: float = 0.1  # share of the steps that go anywhere
    context: int = 64

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self)

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """tokens and targets [B, T]; weight 1 where what comes next is all that has
        come after this symbol yet."""
        rows, weights = [], np.zeros((len(indices), self.context), np.float32)
        for row, index in enumerate(indices):
            random = np.random.default_rng((seed, int(index)))
            circle = random.permutation(self.vocab_size)[: self.num_symbols]
            is_jump = random.random(self.context) < self.jumps
            anywhere = random.integers(self.num_symbols, size=self.context)
            places = np.cumsum(np.where(is_jump, anywhere, 1)) % self.num_symbols
            rows.append(circle[places])
            followed = collections.defaultdict(set)
            for now, (place, after) in enumerate(itertools.pairwise(places)):
                weights[row, now] = followed[place] == {after}
                followed[place].add(after)
        return _next(np.array(rows), weights)


@dataclasses.dataclass(frozen=True)
class Both:
    """Rows of recall and of induction in turn. They need the same two steps, look back
    and look up, and together are learned in half the steps."""

    recall: Recall = Recall()
    induction: Induction = Induction()

    @property
    def vocab_size(self) -> int:
        return max(self.recall.vocab_size, self.induction.vocab_size)

    @property
    def context(self) -> int:
        return self.recall.context

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self)

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """tokens, targets and weights [B, T], of even rows `recall`'s."""
        is_odd = indices % 2 == 1
        even, odd = (
            rows.take(indices[which], seed)
            for rows, which in ((self.recall, ~is_odd), (self.induction, is_odd))
        )
        batch = {}
        for name in even:
            batch[name] = np.empty((len(indices), self.context), even[name].dtype)
            batch[name][~is_odd], batch[name][is_odd] = even[name], odd[name]
        return batch


def _next(tokens: np.ndarray, weights: np.ndarray) -> Batch:
    """Each token's target is the next one; the last has none."""
    targets = np.roll(tokens, -1, axis=1)
    weights[:, -1] = 0.0
    return dict(
        tokens=tokens.astype(np.int32), targets=targets.astype(np.int32),
        weights=weights,
    )  # fmt: skip


def _fingerprint(rows) -> str:
    return hashlib.blake2b(repr(rows).encode(), digest_size=16).hexdigest()
