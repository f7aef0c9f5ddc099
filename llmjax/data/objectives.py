"""Objectives as data: rows of text in, what a model sees and must answer out.

Next token needs nothing more: packing makes its targets. The others are masked LM
(Devlin et al., BERT, 2018) and prefix LM (Raffel et al., T5, 2019), and span corruption
in `spans`. Each is a pure function of its rows and of a generator.
"""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np

from llmjax.data.mixture import Mixture
from llmjax.data.pack import Batch, Packed


def masked_lm(
    tokens_BT,
    segment_ids_BT,
    rng: np.random.Generator,
    *,
    mask_id: int,
    vocab_size: int,
    special_ids: Iterable[int],
    rate: float = 0.15,
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1),
) -> Batch:
    """A share `rate` of each row's tokens is to be told from the rest of the row.

    Of the tokens picked, `shares` become the mask, become any ordinary token, or stay
    as they are. Special tokens, of which the mask is one, are neither picked nor drawn.

    Each row has round(rate * its ordinary tokens) picks, at least one, as in BERT: the
    loss is a mean over as many tokens in each batch, and no row goes without. To pick
    each token by a coin of its own would only add noise to that.
    """
    special = np.unique([*special_ids, mask_id])
    _check_masking(special, vocab_size, rate, shares)
    ordinary_BT = (segment_ids_BT > 0) & ~np.isin(tokens_BT, special)
    num_ordinary = ordinary_BT.sum(axis=1, keepdims=True)
    num_picks = np.maximum(np.rint(rate * num_ordinary), num_ordinary > 0)
    # In a random order, with the ordinary tokens first, a row's first ones are picked.
    order = np.where(ordinary_BT, rng.random(tokens_BT.shape), 2).argsort(axis=1)
    picked_BT = order.argsort(axis=1) < num_picks
    masked, drawn, _ = np.cumsum(shares)
    fate_BT = rng.random(tokens_BT.shape)
    any_BT = _draw_ordinary(rng, tokens_BT.shape, special, vocab_size)
    seen_BT = np.where(fate_BT < masked, mask_id, any_BT)
    changed_BT = picked_BT & (fate_BT < drawn)
    return {
        "tokens": np.where(changed_BT, seen_BT, tokens_BT).astype(np.int32),
        "targets": np.asarray(tokens_BT, np.int32),
        "weights": picked_BT.astype(np.float32),
        "segment_ids": np.asarray(segment_ids_BT, np.int32),
        "positions": positions(segment_ids_BT),
    }


def _draw_ordinary(rng, shape, special: np.ndarray, vocab_size: int) -> np.ndarray:
    """Ids that are not special, all with the same probability."""
    ids = rng.integers(vocab_size - len(special), size=shape)
    for hole in special:  # in ascending order: the ids from it on move up by one
        ids += ids >= hole
    return ids


def _check_masking(special: np.ndarray, vocab_size: int, rate: float, shares) -> None:
    check_rate(rate)
    if special[0] < 0 or special[-1] >= vocab_size:
        raise ValueError(
            f"special ids {special[0]} to {special[-1]}, of which the mask is one, are "
            f"not all in the vocabulary of {vocab_size}; enlarge it or name others"
        )
    if len(special) == vocab_size:
        raise ValueError(f"all {vocab_size} ids are special; leave some for the text")
    if len(shares) != 3 or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ValueError(
            f"shares {shares}: give three, of (mask, random, same), with the sum 1"
        )


def check_rate(rate: float) -> None:
    """Raises ValueError unless some tokens are taken and some left."""
    if not 0 < rate < 1:
        raise ValueError(f"rate {rate}: give a share of the tokens between 0 and 1")


def prefix_lm(batch: Batch, rng: np.random.Generator) -> Batch:
    """Splits each row at random: a prefix that all its queries see, then what is told.

    "prefix_B" is its number of tokens, from one to all: the target of the last one
    lies outside the row. Weights are 0 where the target is itself in the prefix; the
    last token of the prefix counts, since it tells the first one after.

    A row is one text here. If documents are packed, those before the split are lost to
    the loss, and those after it have no prefix.
    """
    num_tokens = (batch["segment_ids"] > 0).sum(axis=1)
    prefix_B = rng.integers(1, np.maximum(num_tokens, 1), endpoint=True)
    target = 1 + np.arange(batch["targets"].shape[1])
    told_BT = target >= prefix_B[:, None]
    weights_BT = np.where(told_BT, batch["weights"], 0).astype(np.float32)
    return {**batch, "weights": weights_BT, "prefix_B": prefix_B.astype(np.int32)}


def positions(segment_ids_BT) -> np.ndarray:
    """[B, T] int32: how far a token is from its segment's first; 0 in padding."""
    index = np.arange(segment_ids_BT.shape[1])
    begins_BT = np.diff(segment_ids_BT, axis=1, prepend=0) != 0
    start_BT = np.maximum.accumulate(np.where(begins_BT, index, 0), axis=1)
    return np.where(segment_ids_BT > 0, index - start_BT, 0).astype(np.int32)


class Corrupted:
    """A dataset whose rows go through an objective, each with a generator of its own.

    The generator is that of the seed and the row's number in the endless sequence: a
    row looks different in every epoch, and the same on any number of hosts.

    objective: (a batch of one row, its generator) -> a batch of one row.
    name: the objective and its settings, a part of the fingerprint.
    """

    def __init__(
        self,
        dataset: Packed | Mixture,
        objective: Callable[[Batch, np.random.Generator], Batch],
        name: str,
    ):
        self.dataset, self.objective, self.name = dataset, objective, name

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.dataset)

    @property
    def context(self) -> int:
        """The length of the rows before they are corrupted."""
        return self.dataset.context

    @property
    def fill(self) -> float:
        """The share of positions that are not padding, before they are corrupted."""
        return self.dataset.fill

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = f"{self.dataset.fingerprint} through {self.name}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence."""
        whole = self.dataset.take(indices, seed)
        rows = []
        for row, index in enumerate(indices):
            rng = np.random.default_rng([seed % 2**64, int(index)])
            one = {name: array[row : row + 1] for name, array in whole.items()}
            rows.append(self.objective(one, rng))
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
