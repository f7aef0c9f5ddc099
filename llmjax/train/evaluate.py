"""Held-out loss: one fixed pass over the same batches, each time."""

import math
from collections.abc import Callable, Iterable

import jax

from llmjax.types import Batch, Params


def make_evaluate(
    loss_fn: Callable, batches: Iterable[Batch], num_bytes: int
) -> Callable[[Params], dict[str, float]]:
    """evaluate(params) -> {"val_loss": nats per token, "val_bits_per_byte": ...}.

    batches: placed on the mesh; kept, and gone through at each call.
    num_bytes: length in UTF-8 of the text whose loss is counted. Bits per byte compare
      across tokenizers, and with a compressor.
    """
    batches = list(batches)
    if not batches or num_bytes < 1:
        raise ValueError("there is no held-out text: give more data, or --eval_every=0")
    sums = jax.jit(lambda params, batch: loss_fn(params, batch, None)[1]["loss"])

    def evaluate(params: Params) -> dict[str, float]:
        totals = [sums(params, batch) for batch in batches]
        xent = sum(float(total[0]) for total in totals)
        count = sum(float(total[1]) for total in totals)
        return {
            "val_loss": xent / count,
            "val_bits_per_byte": xent / math.log(2) / num_bytes,
        }

    return evaluate
