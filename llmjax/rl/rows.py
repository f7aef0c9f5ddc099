"""Prompts and answers in rows [B, T]."""

from collections.abc import Sequence

import numpy as np

from llmjax.types import Batch

NAMES = ("tokens", "targets", "segment_ids", "weights")


def row_length(prompts: Sequence[Sequence[int]], max_new_tokens: int) -> int:
    """T of batches of these prompts: the same each time, so that one program serves."""
    return max(map(len, prompts)) + max_new_tokens - 1


def make_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], num_tokens: int
) -> dict[str, np.ndarray]:
    """Rows of `num_tokens`: a prompt, its answer with what ended it, then padding.

    tokens, and targets, which are the tokens one to the left (int32); weights, 1 where
    the target is of the answer (float32); segment_ids, 0 at padding (int32).
    Raises ValueError where a row is too long.
    """
    shape = len(prompts), num_tokens
    batch = {name: np.zeros(shape, np.int32) for name in NAMES}
    batch["weights"] = np.zeros(shape, np.float32)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids = [*prompt, *answer]
        end = len(ids) - 1
        if end > num_tokens:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and an answer of {len(answer)} do "
                f"not fit rows of {num_tokens}; shorten one of them"
            )
        batch["tokens"][row, :end] = ids[:-1]
        batch["targets"][row, :end] = ids[1:]
        batch["weights"][row, len(prompt) - 1 : end] = 1
        batch["segment_ids"][row, :end] = 1
    return batch


def of(batch: Batch) -> Batch:
    """What `make_batch` has made of a batch that has more by now."""
    return {name: batch[name] for name in NAMES}
