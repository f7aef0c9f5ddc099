"""Conversations as rows: what a model reads, and which tokens of it are trained."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data import store
from llmjax.data.pack import Batch, Packed
from llmjax.data.pairs import decoder_rows, padded
from llmjax.data.shuffle import shuffled
from llmjax.data.tokenizer import Tokenizer

COUNTED_ROWS = 256  # at once


class Example(NamedTuple):
    """A conversation in tokens.

    where: file:line. key: of those with the same, all are learned or all held out.
    ids_T, is_trained_T: the tokens, and whether the model learns to write each.
    """

    where: str
    key: str
    ids_T: np.ndarray
    is_trained_T: np.ndarray

    @property
    def prompt_ids(self) -> list[int]:
        """What comes before the first token that is trained."""
        return self.ids_T[: int(self.is_trained_T.argmax())].tolist()

    def turns(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(all before it, the turn) of each turn that is trained."""
        edges = np.flatnonzero(np.diff(self.is_trained_T, prepend=False, append=False))
        for first, end in edges.reshape(-1, 2):
            yield self.ids_T[:first], self.ids_T[first:end]


class ConversationRows:
    """Whole conversations in rows of `context` tokens, several to a row, for a decoder.

    None sees another: each has a segment and positions of its own. One of more than
    `context` + 1 tokens, the last of which is only predicted, is cut off there.
    """

    def __init__(self, examples: Sequence[Example], context: int):
        self.context = context
        # Weights are packed as if they were tokens: of one length, in one place.
        self._ids, self._weights = (
            Packed(store.hold([part[: context + 1] for part in parts]), context)
            for parts in (
                [example.ids_T for example in examples],
                [example.is_trained_T.astype(np.int32) for example in examples],
            )
        )

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self._ids)

    @property
    def lengths(self) -> tuple[int]:
        """The tokens of a row."""
        return (self.context,)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = f"{self._ids.fingerprint} weighted by {self._weights.fingerprint}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """Rows of the plan as a batch, each array [len(indices), context]."""
        weights = self._weights.rows(indices)["targets"].astype(np.float32)
        return self._ids.rows(indices) | {"weights": weights}

    def ask(self, example: Example) -> tuple[list[int], None]:
        """(prompt, source) after which a model writes the first answer."""
        return example.prompt_ids, None


class AnswerRows:
    """Each trained turn with all before it, for an encoder and a decoder.

    A source has `source_tokens` with its end, of a longer one the last tokens; a turn
    has `target_tokens`, of a longer one the first.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        target_tokens: int,
        source_tokens: int,
        *,
        start_id: int,
        end_id: int,
    ):
        self.source_tokens, self.target_tokens = source_tokens, target_tokens
        self.start_id, self.end_id = start_id, end_id
        self.pairs = [
            (self._source(before), turn[:target_tokens].tolist())
            for example in examples
            for before, turn in example.turns()
        ]

    def _source(self, before: Sequence[int]) -> list[int]:
        """What the encoder reads of all that comes before a turn."""
        first = max(0, len(before) - self.source_tokens + 1)
        return [*map(int, before[first:]), self.end_id]

    def ask(self, example: Example) -> tuple[list[int], list[int]]:
        """(prompt, source) after which a model writes the first answer."""
        return [self.start_id], self._source(example.prompt_ids)

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.pairs)

    @property
    def lengths(self) -> tuple[int, int]:
        """The tokens of a target and of a source."""
        return self.target_tokens, self.source_tokens

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = repr((self.lengths, self.start_id, self.pairs))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """The rows of these turns as a batch: "encoder_tokens" and the like of the
        sources, [len(indices), source_tokens]; the rest [len(indices), target_tokens].
        """
        sources, turns = zip(*(self.pairs[index] for index in indices), strict=True)
        started = [[self.start_id, *turn] for turn in turns]
        batch = decoder_rows(started, [0] * len(turns), self.target_tokens)
        encoder = padded(sources, self.source_tokens)
        return batch | {f"encoder_{name}": array for name, array in encoder.items()}


class Counts(NamedTuple):
    """What the targets of some rows are.

    trained, context: tokens with and without weight; padding: positions without token.
    conversations; untrained: those of them without any weight.
    ends, masked_ends: trained turns whose end has weight, and whose has none.
    """

    rows: int
    conversations: int
    untrained: int
    trained: int
    context: int
    padding: int
    ends: int
    masked_ends: int


def count(batch: Batch, stop_ids: Sequence[int]) -> Counts:
    """The counts of a batch; stop_ids: what ends a turn."""
    segments, is_trained = batch["segment_ids"], batch["weights"] > 0
    num_rows, most = len(segments), int(segments.max(initial=0))
    conversation = segments + np.arange(num_rows)[:, None] * (most + 1)
    size = num_rows * (most + 1)
    is_there = np.bincount(conversation[segments > 0], minlength=size) > 0
    is_learned = np.bincount(conversation[is_trained], minlength=size) > 0
    is_stop = np.isin(batch["targets"], stop_ids) & (segments > 0)
    goes_on = np.zeros_like(is_stop)  # the token before is trained, and is no end
    same = segments[:, 1:] == segments[:, :-1]
    goes_on[:, 1:] = same & is_trained[:, :-1] & ~is_stop[:, :-1]
    return Counts(
        rows=num_rows,
        conversations=int(is_there.sum()),
        untrained=int((is_there & ~is_learned).sum()),
        trained=int(is_trained.sum()),
        context=int((~is_trained & (segments > 0)).sum()),
        padding=int((segments == 0).sum()),
        ends=int((is_stop & is_trained).sum()),
        masked_ends=int((is_stop & goes_on & ~is_trained).sum()),
    )


def count_all(rows: ConversationRows | AnswerRows, stop_ids: Sequence[int]) -> Counts:
    """The counts of all rows together."""
    totals = np.zeros(len(Counts._fields), np.int64)
    for first in range(0, len(rows), COUNTED_ROWS):
        indices = np.arange(first, min(first + COUNTED_ROWS, len(rows)))
        totals += count(rows.rows(indices), stop_ids)
    return Counts(*totals.tolist())


def check(counts: Counts, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
    """Raises ValueError where a model would learn nothing, or never learn to stop."""
    ends = (
        " or ".join(filter(None, map(tokenizer.core.id_to_token, stop_ids))) or "none"
    )
    if counts.untrained:
        raise ValueError(
            f"{counts.untrained} of {counts.conversations} conversations train no token"
        )
    if counts.masked_ends:
        why = "is not trained"
        if tuple(stop_ids) == (tokenizer.pad_id,):
            why = "is masked away, as the padding is, which is the same token"
        raise ValueError(
            f"the end ({ends}) of {counts.masked_ends} answers {why}: the model would "
            "not learn to stop; a template marks it, too, by {% generation %}"
        )
    if not counts.ends:
        raise ValueError(
            f"no answer has an end ({ends}) that is trained: the model would never "
            "learn to stop; take a template that ends answers by a control token of "
            "this tokenizer"
        )
