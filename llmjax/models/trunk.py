"""What every structure has: embeddings, a stack of blocks, a final norm."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.models import kv, stack
from llmjax.nn.attention import Context, relative_bias
from llmjax.nn.embed import Embed
from llmjax.nn.norm import Norm
from llmjax.ops import relative, rope
from llmjax.ops.mask import Mask
from llmjax.types import Batch, Key, Params

RELATIVE_STD = 0.02


class Source(NamedTuple):
    """What cross-attention reads: every layer's keys and values, and who sees which."""

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    mask: Mask


def init(cfg: ModelConfig, key: Key) -> Params:
    """The parameters of a trunk: embed, blocks, and by config relative, final_norm."""
    embed_key, blocks_key, norm_key, relative_key = jax.random.split(key, 4)
    params = {"blocks": stack.init(cfg, blocks_key)}
    embed = Embed(cfg).init(embed_key, method="declare").get("params", {})
    if embed:  # none in T5's encoder, which has its decoder's table and no other
        params["embed"] = embed
    if cfg.positions == "relative" and cfg.relative_shared:
        shape = cfg.shape("relative_UN")
        table_UN = RELATIVE_STD * jax.random.normal(relative_key, shape)
        params["relative"] = {"relative_UN": table_UN}
    if cfg.final_norm:
        params["final_norm"] = Norm(cfg).init(norm_key, method="declare")["params"]
    return params


def run(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: Params,
    batch: Batch,
    *,
    cache: Params | None = None,
    source: Source | None = None,
    table_VD: jax.Array | None = None,
    key: Key | None = None,
) -> tuple[jax.Array, Params | None, Sequence[jax.Array]]:
    """(hidden_BTD, cache, hiddens): hiddens are those of `types.Output`.

    batch: tokens [B, T]; optional positions, segment_ids (0 is padding), token_types,
      all [B, T], and prefix_B; vectors_BTD, which are read in place of the tokens'
      embeddings, everywhere or where is_vector_BT, as images or numbers are.
    cache: of `models.kv.init`; the tokens continue each row there, but those of
      segment 0, which are not kept.
    """
    embedded_BTD, context = begin(
        cfg, compute, params, batch,
        cache=cache, source=source, table_VD=table_VD, key=key,
    )  # fmt: skip
    layers = cache and {kind: cache[kind] for kind in context.places}
    per_layer = {"params": params["blocks"]}
    if source is not None:
        per_layer["source"] = (source.k_LBSKH, source.v_LBSKH)
    x_BTD, layers, outputs = stack.run(
        cfg, compute, per_layer, embedded_BTD, context, layers
    )
    if cfg.final_norm:
        x_BTD = Norm(cfg).apply({"params": params["final_norm"]}, x_BTD)
    if cache is not None:
        _, is_real_BT = kv.index(batch, cache)
        cache = cache | layers | {"index_B": cache["index_B"] + is_real_BT.sum(axis=1)}
    return x_BTD, cache, (embedded_BTD, *outputs[:-1], x_BTD)


def begin(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: Params,
    batch: Batch,
    *,
    cache: Params | None = None,
    source: Source | None = None,
    table_VD: jax.Array | None = None,
    key: Key | None = None,
) -> tuple[jax.Array, Context]:
    """(embedded_BTD, context): what the first block reads, and what all share."""
    index_BT = jnp.arange(batch["tokens"].shape[1])[None]
    places = None
    if cache is not None:
        index_BT, is_real_BT = kv.index(batch, cache)
        places = kv.places(cache, index_BT, is_real_BT, batch.get("prefix_B"))
    positions_BT = batch.get("positions")
    if positions_BT is None:
        positions_BT = _positions(cfg, batch["tokens"], index_BT)
    embedded_BTD = Embed(cfg).apply(
        {"params": params.get("embed", {})}, batch["tokens"], positions_BT,
        batch.get("token_types"), _dtype(compute), table_VD,
        batch.get("vectors_BTD"), batch.get("is_vector_BT"),
    )  # fmt: skip
    context = Context(
        mask=_mask(cfg, batch),
        rotations=_rotations(cfg, positions_BT),
        **_relative(cfg, params, index_BT, cache),
        places=places,
        place_L=None if cache is None else kv.layer_places(cfg, cache),
        source_mask=None if source is None else source.mask,
        key=key,
        kernel=compute.attention,
        dropout=compute.dropout,
    )
    return embedded_BTD, context


def _positions(cfg: ModelConfig, tokens_BT, index_BT) -> jax.Array:
    if cfg.position_skips_id is None:
        return index_BT
    counted_BT = tokens_BT != cfg.position_skips_id
    return jnp.where(counted_BT, jnp.cumsum(counted_BT, axis=1) - 1, -1)


def _dtype(compute: ComputeConfig):
    if compute.dtype != "auto":
        return jnp.dtype(compute.dtype)
    # XLA emulates bfloat16 on a CPU, at a loss.
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def _mask(cfg: ModelConfig, batch: Batch) -> Mask:
    causal, segments = cfg.structure == "decoder", batch.get("segment_ids")
    queries = segments
    if segments is not None and not causal:
        # Padding reads the first document: a text padded on the left is pooled
        # there, by its first position, in other implementations.
        queries = jnp.maximum(segments, 1)
    return Mask(
        causal=causal, prefix_B=batch.get("prefix_B"),
        query_segment_BT=queries, key_segment_BS=segments,
    )  # fmt: skip


def _rotations(cfg: ModelConfig, positions_BT):
    if cfg.positions != "rope":
        return None
    width = cfg.rope_width or cfg.head_width
    bases = {
        "global": (cfg.rope_theta, cfg.rope_scaling),
        "local": (cfg.local_rope_theta, cfg.local_rope_scaling),
    }
    used = {cfg.layer(index).rope for index in range(cfg.period)}
    rotations = {}
    for name, (theta, scaling) in bases.items():
        if name in used:
            freqs = rope.frequencies(width, theta, scaling)
            amplitude = 1.0 if scaling is None else scaling.amplitude
            rotations[name] = rope.rotation(positions_BT, freqs, amplitude)
    return rotations


def _relative(cfg: ModelConfig, params: Params, index_BT, cache) -> dict:
    if cfg.positions != "relative":
        return {}
    keys = index_BT
    if cache is not None:
        keys = jnp.arange(kv.count_slots(cache["full"]))[None]
    buckets_BTS = relative.buckets(
        keys[:, None, :] - index_BT[:, :, None], cfg.relative_buckets,
        cfg.relative_distance, bidirectional=cfg.structure == "encoder",
    )  # fmt: skip
    if not cfg.relative_shared:
        return {"buckets_BTS": buckets_BTS}
    table_UN = params["relative"]["relative_UN"]
    return {"bias_BNTS": relative_bias(table_UN, buckets_BTS)}
