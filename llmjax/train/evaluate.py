"""Held-out loss: one fixed pass over the same rows, each time."""

import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from llmjax import distributed, sharding
from llmjax.data.batches import eval_batches
from llmjax.data.corpus import Corpus
from llmjax.train.config import TrainConfig
from llmjax.types import Batch, Params


def make_evaluate(
    loss_fn: Callable, text: Corpus, knobs: TrainConfig, mesh: Mesh
) -> Callable[[Params], dict[str, float]]:
    """evaluate(params) -> {"val_loss": nats per token, "val_bits_per_byte": ...}.

    Bits per byte compare across tokenizers, and with a compressor. The end of each
    document counts in the loss but has no bytes.
    """
    token_bytes = text.tokenizer.token_bytes()
    rows = eval_batches(
        text.validation, knobs.batch_size, token_bytes, **distributed.share()
    )
    batches = list(map(sharding.placer(mesh), rows))
    # Summed over all processes' rows: each holds only its own.
    num_bytes = sum(int(batch["target_bytes"].sum()) for batch in batches)
    num_tokens = sum(float(batch["weights"].sum()) for batch in batches)
    mean_loss = make_mean_loss(loss_fn, batches)

    def evaluate(params: Params) -> dict[str, float]:
        loss = mean_loss(params)["val_loss"]
        bits = loss * num_tokens / math.log(2) / num_bytes
        return {"val_loss": loss, "val_bits_per_byte": bits}

    return evaluate


def make_mean_loss(
    loss_fn: Callable, batches: Sequence[Batch], frozen: Params | None = None
) -> Callable[[Params], dict[str, float]]:
    """evaluate(params) -> {"val_loss": ...}, the mean over all that the batches count.

    Metrics of the loss other than "loss" are averaged too, each under its name.
    frozen: see `train.step.make_step`.
    """
    more = () if frozen is None else (frozen,)
    sums = jax.jit(lambda params, batch, *more: loss_fn(params, batch, None, *more)[1])

    def evaluate(params: Params) -> dict[str, float]:
        found = [sums(params, batch, *more) for batch in batches]
        totals = jax.tree.map(lambda *parts: sum(map(float, parts)), *found)
        return {f"val_{name}": total / num for name, (total, num) in totals.items()}

    return evaluate
