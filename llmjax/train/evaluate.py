"""Held-out loss: one fixed pass over the same rows, each time."""

import math
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from llmjax import distributed, sharding
from llmjax.data.batches import eval_batches
from llmjax.data.corpus import Corpus
from llmjax.train.config import TrainConfig
from llmjax.types import Params


def make_evaluate(
    loss_fn: Callable, text: Corpus, knobs: TrainConfig, mesh: Mesh
) -> Callable[[Params], dict[str, float]]:
    """evaluate(params) -> {"val_loss": nats per token, "val_bits_per_byte": ...}.

    Bits per byte compare across tokenizers, and with a compressor. The end of each
    document counts in the loss but has no bytes.
    """
    token_bytes = text.tokenizer.token_bytes()
    share, place = distributed.share(), sharding.placer(mesh)
    rows = eval_batches(text.validation, knobs.batch_size, token_bytes, **share)
    batches = [place(batch) for batch in rows]
    # Summed over all processes' rows: each holds only its own.
    num_bytes = sum(int(batch["target_bytes"].sum()) for batch in batches)
    sums = jax.jit(lambda params, batch: loss_fn(params, batch, None)[1]["loss"])

    def evaluate(params: Params) -> dict[str, float]:
        totals = [sums(params, batch) for batch in batches]
        xent = sum(float(total) for total, _ in totals)
        count = sum(float(number) for _, number in totals)
        return {
            "val_loss": xent / count,
            "val_bits_per_byte": xent / math.log(2) / num_bytes,
        }

    return evaluate
