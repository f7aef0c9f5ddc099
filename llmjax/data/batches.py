"""Batches as a pure function of (seed, step, row), on one host or on many."""

import hashlib
from collections.abc import Iterator

import numpy as np

from llmjax.data.mixture import Mixture
from llmjax.data.objectives import Corrupted
from llmjax.data.pack import Batch, Packed


class Batches:
    """The batches of a training run, for this host.

    Step s takes rows s * B .. (s + 1) * B - 1 of the endless sequence of shuffled
    epochs, and each host a contiguous share of them: the same rows on any number of
    hosts. To resume is to ask for a later step.
    """

    def __init__(
        self,
        dataset: Packed | Mixture | Corrupted,
        batch_size: int,
        seed: int,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        _check_share(batch_size, process_index, process_count)
        self.dataset, self.batch_size, self.seed = dataset, batch_size, seed
        self.process_index, self.process_count = process_index, process_count

    @property
    def fingerprint(self) -> str:
        """Equal where every batch is; a checkpoint keeps it, so that a resume onto
        other data can be refused. The number of hosts does not matter."""
        text = f"{self.dataset.fingerprint} by {self.batch_size}, seed {self.seed}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def batch(self, step: int) -> Batch:
        """This host's rows of one step, each array [batch_size / process_count, T]."""
        local = self.batch_size // self.process_count
        first = step * self.batch_size + self.process_index * local
        return self.dataset.take(np.arange(first, first + local), self.seed)


def eval_batches(
    dataset: Packed | Corrupted,
    batch_size: int,
    token_bytes: np.ndarray | None = None,
    *,
    max_rows: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """One pass over the rows of a dataset, or over `max_rows` of them: always the same.

    The last batch is filled up with rows of weight zero, so that all have one shape.
    With `token_bytes` (see `Tokenizer.token_bytes`) each has one more array: the UTF-8
    bytes that the target stands for, "target_bytes", 0 where the weight is 0. Then

        bits per byte = sum(weights * loss) / log(2) / sum(target_bytes)

    where the end of a document counts in the loss but not in the bytes: the model pays
    for saying where a document ends. Over all rows, the bytes are those of the text.
    """
    _check_share(batch_size, process_index, process_count)
    local = batch_size // process_count
    num_rows = min(len(dataset), max_rows or len(dataset))
    for first in range(0, num_rows, batch_size):
        rows = first + process_index * local + np.arange(local)
        batch = dataset.take(np.minimum(rows, num_rows - 1), seed=0)
        beyond = rows >= num_rows
        for array in batch.values():
            array[beyond] = 0
        if token_bytes is not None:
            bytes_BT = token_bytes[batch["targets"]] * (batch["weights"] > 0)
            batch["target_bytes"] = bytes_BT.astype(np.int32)
        yield batch


def _check_share(batch_size: int, process_index: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"a batch of {batch_size} rows does not divide among {process_count} hosts"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process {process_index} of {process_count} does not exist")
