"""All transformers: a config becomes four pure functions.

Decoder (GPT-2, Llama and their kin), encoder (BERT), encoder-decoder (T5, BART): the
same trunk, once or twice, under another mask.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.models import kv, trunk
from llmjax.nn.attention import Attention
from llmjax.nn.embed import Embed, Head
from llmjax.ops.mask import Mask
from llmjax.ops.quant import Int8
from llmjax.sharding import constrain
from llmjax.types import Batch, Key, Model, Output, Params


def make(cfg: ModelConfig, compute: ComputeConfig = ComputeConfig()) -> Model:
    """The model that `cfg` describes."""
    return Model(
        init=partial(_init, cfg),
        apply=partial(_apply, cfg, compute),
        readout=partial(_readout, cfg),
        init_cache=partial(kv.init, cfg),
    )


def encoder_of(cfg: ModelConfig) -> ModelConfig:
    """An encoder of the decoder's own sizes, which shares its embedding table."""
    return dataclasses.replace(
        cfg, structure="encoder", encoder=None, head="none", own_embedding=False
    )


def classifier_of(cfg: ModelConfig, num_classes: int) -> ModelConfig:
    """The same trunk with a head of classes, which reads the mean of a text."""
    return dataclasses.replace(
        cfg, head="classes", tied=True, head_bias=True, head_transform="none",
        head_scale=1.0, logits_softcap=None, pooling="mean", num_classes=num_classes,
    )  # fmt: skip


def scorer_of(cfg: ModelConfig) -> ModelConfig:
    """The same trunk with a head of one output, which reads the last real token."""
    return dataclasses.replace(classifier_of(cfg, 1), pooling="last")


def pool(
    cfg: ModelConfig, hidden_BTD: jax.Array, segment_BT: jax.Array | None = None
) -> jax.Array:
    """A vector for each text, [B, D]: that of its first token, of its last real one, or
    the mean of all real ones.

    segment_BT: 0 at padding. None where there is none.
    """
    if cfg.pooling == "first":
        return hidden_BTD[:, 0]
    if cfg.pooling == "last":
        index_1T = jnp.arange(hidden_BTD.shape[1])[None]
        is_real_BT = True if segment_BT is None else segment_BT > 0
        last_B1 = jnp.where(is_real_BT, index_1T, 0).max(axis=1, keepdims=True)
        last_B = jnp.broadcast_to(last_B1, (len(hidden_BTD), 1))
        return jnp.take_along_axis(hidden_BTD, last_B[..., None], axis=1)[:, 0]
    if segment_BT is None:
        return hidden_BTD.mean(axis=1)
    real_BT1 = (segment_BT > 0).astype(hidden_BTD.dtype)[..., None]
    count_B1 = jnp.maximum(real_BT1.sum(axis=1), 1)
    return (hidden_BTD * real_BT1).sum(axis=1) / count_B1


def transform(cfg: ModelConfig, params: Params, hidden: jax.Array) -> jax.Array:
    """Hidden states as the head reads them; BERT's pooler is this of `pool`."""
    return Head(cfg).apply({"params": params["head"]}, hidden, method="transform")


def classifier(
    cfg: ModelConfig, compute: ComputeConfig = ComputeConfig()
) -> Callable[..., jax.Array]:
    """logits_BO(params, batch, key=None) of the classes that a text may be of."""
    model = make(cfg, compute)

    def logits_fn(params: Params, batch: Batch, key: Key | None = None) -> jax.Array:
        hidden_BTD = model.apply(params, batch, key=key).hidden_BTD
        pooled_BD = pool(cfg, hidden_BTD, batch.get("segment_ids"))
        return model.readout(params, pooled_BD)

    return logits_fn


def with_new_head(cfg: ModelConfig, params: Params, key: Key) -> Params:
    """The parameters of a trunk, under a fresh head instead of what head they have."""
    params = {name: part for name, part in params.items() if name != "head"}
    head = Head(cfg).init(key, method="declare").get("params", {})
    return params | {"head": head} if head else params


def with_score_head(cfg: ModelConfig, params: Params, key: Key) -> Params:
    """As `with_new_head`, for `scorer_of`: from N(0, 1 / (D + 1)), so that scores begin
    with a variance of about 1 (Stiennon et al. 2020)."""
    weight_DO = jax.random.normal(key, cfg.shape("head_DO")) / math.sqrt(cfg.width + 1)
    head = {"head_DO": weight_DO, "bias_O": jnp.zeros(cfg.shape("bias_O"))}
    return params | {"head": head}


def _init(cfg: ModelConfig, key: Key) -> Params:
    trunk_key, head_key, encoder_key = jax.random.split(key, 3)
    params = with_new_head(cfg, trunk.init(cfg, trunk_key), head_key)
    if cfg.encoder is not None:
        params["encoder"] = trunk.init(cfg.encoder, encoder_key)
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
    """batch: tokens [B, T]; optional positions, segment_ids (0 is padding) and
    token_types, [B, T], and prefix_B: so many tokens of a row are seen by all of it.

    With an encoder also encoder_tokens [B, S], and optional encoder_positions and
    encoder_segment_ids. With a cache the tokens continue each row at the cache's index,
    and encoder_tokens are needed once: the cache keeps the keys and values made of
    them. Positions default to 0, 1, 2, ... in the row. Only with a key is anything
    dropped.
    """
    source, encoder_hiddens = None, None
    if cfg.encoder is not None:
        if "encoder_tokens" in batch:
            source, encoder_hiddens = encode(cfg, compute, params, batch, key)
            if cache is not None:
                cache = cache | source
        source = read_source(cache or source, batch)
    hidden_BTD, cache, outputs = trunk.run(
        cfg, compute, params, batch, cache=cache, source=source, key=key
    )
    if not hiddens:
        return Output(hidden_BTD, cache)
    return Output(hidden_BTD, cache, outputs, encoder_hiddens)


def encode(
    cfg: ModelConfig,
    compute: ComputeConfig,
    params: Params,
    batch: Batch,
    key: Key | None = None,
) -> tuple[Params, Sequence[jax.Array]]:
    """What cross-attention needs of the source, as a cache keeps it; the hiddens."""
    inputs = encoder_inputs(batch)
    key = None if key is None else jax.random.fold_in(key, cfg.num_layers)
    encoded_BSD, _, hiddens = trunk.run(
        cfg.encoder, compute, params["encoder"], inputs, key=key,
        table_VD=embedding(cfg, params),
    )  # fmt: skip

    def keys_values(cross):
        return Attention(cfg, is_cross=True).apply(
            {"params": cross}, encoded_BSD, method="keys_values"
        )

    blocks = params["blocks"]
    if isinstance(blocks, list):  # one tree a layer; see `stack.run`
        cross = jax.tree.map(lambda *of: jnp.stack(of), *(b["cross"] for b in blocks))
    else:
        cross = blocks["cross"]
    k_LBSKH, v_LBSKH = jax.vmap(keys_values)(cross)
    segments_BS = inputs.get("segment_ids", jnp.ones_like(inputs["tokens"]))
    source = {
        "source_k_LBSKH": constrain(k_LBSKH, "LBSKH"),
        "source_v_LBSKH": constrain(v_LBSKH, "LBSKH"),
        "source_segments_BS": segments_BS,
    }
    return source, hiddens


def embedding(cfg: ModelConfig, params: Params) -> jax.Array | Int8 | None:
    """The table of token embeddings, which others may share."""
    return Embed(cfg).apply({"params": params["embed"]}, method="table")


def encoder_inputs(batch: Batch) -> Batch:
    """The batch of the encoder alone."""
    names = {"encoder_tokens", "encoder_positions", "encoder_segment_ids"}
    return {k.removeprefix("encoder_"): batch[k] for k in names & batch.keys()}


def read_source(kept: Params, batch: Batch) -> trunk.Source:
    """What `encode` made, or a cache has kept, for the target tokens of the batch."""
    segments_BT = batch.get("segment_ids")
    if segments_BT is None:
        segments_BT = jnp.ones_like(batch["tokens"])
    mask = Mask(query_segment_BT=segments_BT, key_segment_BS=kept["source_segments_BS"])
    return trunk.Source(kept["source_k_LBSKH"], kept["source_v_LBSKH"], mask)


def _readout(cfg: ModelConfig, params: Params, hidden) -> jax.Array:
    head = params.get("head", {})
    return Head(cfg).apply({"params": head}, hidden, embedding(cfg, params))
