"""The decoder (GPT-2, Llama and all between): a config becomes four pure functions."""

from functools import partial

import jax
import jax.numpy as jnp

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.models import stack
from llmjax.nn.attention import Context
from llmjax.nn.embed import Embed, Head, readout
from llmjax.nn.norm import Norm
from llmjax.ops import rope
from llmjax.ops.mask import Mask
from llmjax.types import Batch, Key, Model, Output, Params


def make(cfg: ModelConfig, compute: ComputeConfig = ComputeConfig()) -> Model:
    """The decoder that `cfg` describes."""
    return Model(
        init=partial(_init, cfg),
        apply=partial(_apply, cfg, compute),
        readout=partial(_readout, cfg),
        init_cache=partial(_init_cache, cfg),
    )


def _init(cfg: ModelConfig, key: Key) -> Params:
    embed_key, blocks_key, norm_key, head_key = jax.random.split(key, 4)
    params = {
        "embed": Embed(cfg).init(embed_key, method="declare")["params"],
        "blocks": stack.init(cfg, blocks_key),
        "final_norm": Norm(cfg).init(norm_key, method="declare")["params"],
    }
    if not cfg.tied:
        params["head"] = Head(cfg).init(head_key, method="declare")["params"]
    return params


def _apply(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: Params,
    batch: Batch,
    *,
    cache=None,
    key: Key | None = None,
    hiddens: bool = False,
) -> Output:
    """batch: tokens [B, T]; optional positions and segment_ids (0 is padding), [B, T].

    With a cache the tokens continue each row at the cache's index. Positions default
    to 0, 1, 2, ... in the row, counted from there.
    """
    tokens_BT = batch["tokens"]
    start_B1 = 0 if cache is None else cache["index_B"][:, None]
    index_BT = start_B1 + jnp.arange(tokens_BT.shape[1])[None]
    positions_BT = batch.get("positions", index_BT)
    dtype = _dtype(compute)
    x_BTD = Embed(cfg).apply(
        {"params": params["embed"]}, tokens_BT, positions_BT, dtype
    )
    embedded_BTD = x_BTD
    context = Context(
        mask=_mask(batch, cache, index_BT),
        rotation=_rotation(cfg, positions_BT),
        index_B=None if cache is None else cache["index_B"],
        kernel=compute.attention,
    )
    layers = None if cache is None else {k: cache[k] for k in ("k_LBSKH", "v_LBSKH")}
    x_BTD, layers, outputs = stack.run(
        cfg, compute, params["blocks"], x_BTD, context, layers
    )
    hidden_BTD = Norm(cfg).apply({"params": params["final_norm"]}, x_BTD)
    if cache is not None:
        cache = layers | {"index_B": cache["index_B"] + tokens_BT.shape[1]}
    if not hiddens:
        return Output(hidden_BTD, cache)
    return Output(hidden_BTD, cache, (embedded_BTD, *outputs[:-1], hidden_BTD))


def _dtype(compute: ComputeConfig):
    if compute.dtype != "auto":
        return jnp.dtype(compute.dtype)
    # XLA emulates bfloat16 on a CPU, at a loss.
    return jnp.dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")


def _mask(batch: Batch, cache, index_BT) -> Mask:
    segments = batch.get("segment_ids")
    if cache is None:
        return Mask(causal=True, query_segment_BT=segments, key_segment_BS=segments)
    # Slots that are not written yet come after every query, so causality hides them.
    slots = jnp.arange(cache["k_LBSKH"].shape[2])[None]
    return Mask(causal=True, query_index_BT=index_BT, key_index_BS=slots)


def _rotation(cfg: ModelConfig, positions_BT):
    if cfg.positions != "rope":
        return None
    freqs = rope.frequencies(cfg.head_width, cfg.rope_theta, cfg.rope_scaling)
    return rope.rotation(positions_BT, freqs)


def _readout(cfg: ModelConfig, params: Params, hidden) -> jax.Array:
    weight_DV = params["embed"]["embed_VD"].T if cfg.tied else params["head"]["head_DV"]
    return readout(hidden, weight_DV, cfg.logits_softcap)


def _init_cache(cfg: ModelConfig, batch_size: int, num_tokens: int, dtype=jnp.float32):
    shape = (cfg.num_layers, batch_size, num_tokens, cfg.num_kv_heads, cfg.head_width)
    return {
        "k_LBSKH": jnp.zeros(shape, dtype),
        "v_LBSKH": jnp.zeros(shape, dtype),
        "index_B": jnp.zeros((batch_size,), jnp.int32),
    }
