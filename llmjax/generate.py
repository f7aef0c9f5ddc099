"""Decoding with a key/value cache: prefill once, then one token at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.sharding import replicate
from llmjax.types import Batch, Key, Model, Params

BUCKET_TOKENS = 64  # lengths are rounded up, so that few programs are compiled


def generate(
    model: Model,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    context: int,
    temperature: float = 0.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    sources: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """The new ids of each prompt, up to and without the first stop id.

    temperature: 0 takes the likeliest token; else ids are drawn from
      softmax(logits / temperature), by a key that depends on seed, row and step only.
    context: the model's; ValueError if a prompt and its continuation do not fit.
    sources: what an encoder reads, one a prompt; a prompt then is how the target
      begins, with `ModelConfig.start_id`.
    """
    tokens_BT, lengths = _pad(prompts, "prompt")
    if lengths.max() + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {lengths.max()} tokens and {max_new_tokens} new ones exceed "
            f"the context of {context} tokens; shorten one of them"
        )
    batch = {"tokens": tokens_BT}
    if sources is not None:
        batch |= _read_sources(sources, len(prompts), context)
    num_slots = tokens_BT.shape[1] + _bucket(max_new_tokens)
    cache = model.init_cache(len(prompts), num_slots)
    logits_BV, cache = prefill(model, params, batch, lengths, cache)
    new_BT, _ = decode(
        model, params, logits_BV, cache, np.array(stop_ids or [-1], np.int32),
        jax.random.key(seed), jnp.float32(temperature), max_new_tokens,
    )  # fmt: skip
    return [_cut(row, stop_ids) for row in np.asarray(new_BT).tolist()]


def complete(
    model: Model,
    params: Params,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    context: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Each prompt with its continuation, as text; see `generate`."""
    start_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    ids = generate(
        model,
        params,
        [[start_id, *tokenizer.encode(prompt)] for prompt in prompts],
        max_new_tokens=max_new_tokens,
        context=context,
        temperature=temperature,
        seed=seed,
        stop_ids=[tokenizer.eos_id],
    )
    pairs = zip(prompts, ids, strict=True)
    return [prompt + tokenizer.decode(new) for prompt, new in pairs]


def _pad(rows: Sequence[Sequence[int]], what: str) -> tuple[np.ndarray, np.ndarray]:
    """(ids padded on the right [B, T], how many of each row are real)."""
    lengths = np.array([len(row) for row in rows])
    if not len(rows) or lengths.min() < 1:
        raise ValueError(
            f"an empty {what}: give at least one token, e.g. the end-of-text"
        )
    ids_BT = np.zeros((len(rows), _bucket(lengths.max())), np.int32)
    for padded, row in zip(ids_BT, rows, strict=True):
        padded[: len(row)] = row
    return ids_BT, lengths


def _read_sources(sources: Sequence[Sequence[int]], num_prompts: int, context: int):
    """The encoder's part of a batch."""
    ids_BS, lengths = _pad(sources, "source")
    if len(sources) != num_prompts:
        raise ValueError(f"{len(sources)} sources for {num_prompts} prompts")
    if lengths.max() > context:
        raise ValueError(
            f"a source of {lengths.max()} tokens exceeds the context of {context} "
            "tokens; shorten it"
        )
    is_real_BS = np.arange(ids_BS.shape[1]) < lengths[:, None]
    return {
        "encoder_tokens": ids_BS,
        "encoder_segment_ids": is_real_BS.astype(np.int32),
    }


def _bucket(num_tokens: int) -> int:
    return -(-int(num_tokens) // BUCKET_TOKENS) * BUCKET_TOKENS


def _cut(row: list[int], stop_ids: Sequence[int]) -> list[int]:
    for index, token in enumerate(row):
        if token in stop_ids:
            return row[:index]
    return row


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def prefill(
    model: Model, params: Params, batch: Batch, length_B, cache: Params
) -> tuple[jax.Array, Params]:
    """(logits_BV after each prompt, cache). Prompts are padded on the right.

    The encoder of an encoder-decoder runs here and not again: the cache keeps the keys
    and values that cross-attention reads.
    """
    output = model.apply(params, batch, cache=cache)
    # The next token overwrites the padding, and no query before it sees that slot.
    cache = output.cache | {"index_B": length_B.astype(jnp.int32)}
    last_BD = output.hidden_BTD[jnp.arange(len(length_B)), length_B - 1]
    return model.readout(params, last_BD), cache


@partial(jax.jit, static_argnames=("model", "max_new_tokens"), donate_argnames="cache")
def decode(
    model: Model,
    params: Params,
    logits_BV: jax.Array,
    cache: Params,
    stop_ids: jax.Array,
    key: Key,
    temperature: jax.Array,
    max_new_tokens: int,
) -> tuple[jax.Array, Params]:
    """(new ids, cache): [B, max_new_tokens]; ends early once every row has stopped."""
    batch_size = logits_BV.shape[0]

    def going(carry):
        step, _, _, _, ended_B = carry
        return (step < max_new_tokens) & ~ended_B.all()

    def body(carry):
        step, new_BT, logits_BV, cache, ended_B = carry
        token_B = sample(logits_BV, jax.random.fold_in(key, step), temperature)
        token_B = jnp.where(ended_B, stop_ids[0], token_B)
        ended_B |= (token_B[:, None] == stop_ids[None]).any(axis=1)
        new_BT = new_BT.at[:, step].set(token_B)
        output = model.apply(params, {"tokens": token_B[:, None]}, cache=cache)
        logits_BV = model.readout(params, output.hidden_BTD[:, 0])
        return step + 1, new_BT, logits_BV, output.cache, ended_B

    new_BT = jnp.full((batch_size, max_new_tokens), stop_ids[0])
    ended_B = jnp.zeros((batch_size,), bool)
    carry = (0, new_BT, logits_BV, cache, ended_B)
    _, new_BT, _, cache, _ = jax.lax.while_loop(going, body, carry)
    return replicate(new_BT), cache


def sample(logits_BV: jax.Array, key: Key, temperature: jax.Array) -> jax.Array:
    """One id a row: the likeliest at temperature 0, else drawn with its own key."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits_BV)))
    scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)
    drawn_B = jax.vmap(jax.random.categorical)(keys, scaled_BV)
    return jnp.where(temperature > 0, drawn_B, logits_BV.argmax(-1)).astype(jnp.int32)
