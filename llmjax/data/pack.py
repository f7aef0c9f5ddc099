"""Packs documents of any length into rows of one length, almost without padding.

The plan is made once, from the lengths alone: documents are cut into pieces, pieces are
put into rows by best-fit decreasing on the histogram of lengths, as in Krell et al.,
Efficient Sequence Packing without Cross-contamination (2021).
"""

import hashlib
from typing import NamedTuple

import numpy as np

from llmjax.data.shuffle import shuffled
from llmjax.data.store import Store

Batch = dict[str, np.ndarray]


class Plan(NamedTuple):
    """Which piece of the token stream lies where; pieces are sorted by row.

    starts: the piece's first input token, an index into the flat tokens of the store.
    lengths: its number of positions. Targets are the tokens one further on.
    columns: where in its row it begins.
    row_splits: row r holds the pieces row_splits[r] .. row_splits[r + 1] - 1.
    """

    starts: np.ndarray
    lengths: np.ndarray
    columns: np.ndarray
    row_splits: np.ndarray


def make_plan(offsets: np.ndarray, context: int) -> Plan:
    """The packing plan of the documents that begin at `offsets` (with the end, N + 1).

    A document of n tokens has n - 1 positions to predict from. One with more than
    `context` of them is cut into pieces of `context` and a rest; a piece's last target
    is the next piece's first input, so that no target is lost.
    """
    starts, lengths = _cut(offsets, context)
    rows = _assign_rows(lengths, context)
    order = np.argsort(rows, kind="stable")
    starts, lengths, rows = starts[order], lengths[order], rows[order]
    num_rows = 1 + int(rows[-1]) if len(rows) else 0
    row_splits = np.searchsorted(rows, np.arange(num_rows + 1))
    ends = np.cumsum(lengths)
    before_row = (ends - lengths)[row_splits[:-1]]
    columns = ends - lengths - before_row[rows]
    return Plan(starts, lengths, columns, row_splits)


def _cut(offsets: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """(start, length) of the pieces of all documents, in the order of the stream."""
    positions = np.diff(offsets) - 1
    counts = -(-np.maximum(positions, 0) // context)
    first = np.cumsum(counts) - counts
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - first[document]  # of the piece in its document
    starts = offsets[document] + number * context
    lengths = np.minimum(positions[document] - number * context, context)
    return starts, lengths


def _assign_rows(lengths: np.ndarray, context: int) -> np.ndarray:
    """The row of each piece: longest pieces first, each into the fullest row it fits.

    Pieces of one length are placed together, and so are rows with equal room left:
    the loop runs over pairs of (length, room), not over pieces.
    """
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    rows = np.empty(len(lengths), np.int64)
    open_rows = {}  # room left -> list of arrays of rows
    num_rows, placed = 0, 0
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            room = min((room for room in open_rows if room >= length), default=None)
            if room is None:  # open as many rows as the pieces of this length need
                room = context
                new = -(-count // (context // length))
                open_rows[room] = [np.arange(num_rows, num_rows + new)]
                num_rows += new
            group = np.concatenate(open_rows.pop(room))
            each = room // length
            full = min(len(group), count // each)
            taken = np.repeat(group[:full], each)
            _put(open_rows, room - each * length, group[:full])
            group = group[full:]
            if len(group) and count > len(taken):  # the last row takes what is left
                some = count - len(taken)
                taken = np.append(taken, np.repeat(group[:1], some))
                _put(open_rows, room - some * length, group[:1])
                group = group[1:]
            _put(open_rows, room, group)
            rows[order[placed : placed + len(taken)]] = taken
            placed += len(taken)
            count -= len(taken)
    return rows


def _put(open_rows: dict[int, list], room: int, group: np.ndarray) -> None:
    if len(group):
        open_rows.setdefault(room, []).append(group)


class Packed:
    """The rows of a store: `rows` of the plan, `take` of the endless shuffled order."""

    def __init__(self, store: Store, context: int):
        if context < 1:
            raise ValueError(f"context must be at least 1, got {context}")
        self.store, self.context = store, context
        self.plan = make_plan(store.offsets, context)
        if not len(self):
            raise ValueError(f"{store.url}: no document of two tokens to learn from")

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.plan.row_splits) - 1

    @property
    def fill(self) -> float:
        """The share of positions that are not padding."""
        return int(self.plan.lengths.sum()) / (len(self) * self.context)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = f"{self.store.meta.fingerprint} packed to {self.context}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """Rows of the plan as a batch, each array [len(indices), context]."""
        first, last = self.plan.row_splits[indices], self.plan.row_splits[indices + 1]
        counts = last - first
        row = np.repeat(np.arange(len(indices)), counts)  # of each piece, in the batch
        segment = _ranges(counts)
        piece = np.repeat(first, counts) + segment
        starts, lengths = self.plan.starts[piece], self.plan.lengths[piece]
        parts = self.store.read(starts.tolist(), (lengths + 1).tolist())
        position = _ranges(lengths)
        to = (
            np.repeat(row * self.context + self.plan.columns[piece], lengths) + position
        )

        def spread(values, dtype=np.int32):
            flat = np.zeros(len(indices) * self.context, dtype)
            flat[to] = values
            return flat.reshape(len(indices), self.context)

        return {
            "tokens": spread(np.concatenate([part[:-1] for part in parts])),
            "targets": spread(np.concatenate([part[1:] for part in parts])),
            "weights": spread(1, np.float32),
            "segment_ids": spread(np.repeat(segment + 1, lengths)),
            "positions": spread(position),
        }


def _ranges(counts: np.ndarray) -> np.ndarray:
    """`_ranges([2, 3])` is [0, 1, 0, 1, 2]."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
