"""T5 checkpoints (Raffel et al. 2020) and their kin: T5 1.1, mT5 and UMT5.

Attention has no biases and does not scale its scores. In UMT5 each layer has a table of
relative positions; in the others the first layer's serves all.
"""

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row
from llmjax.models import transformer

_BIAS = "SelfAttention.relative_attention_bias.weight"


def _rows(theirs: str, ours: str, mlp: int) -> tuple[Row, ...]:
    """One stack's rows; its feed-forward is number `mlp` of the parts of a block."""
    part, block = f"{theirs}.block.{{l}}.layer", f"{ours}blocks"
    first = f"{theirs}.block.0.layer.0.{_BIAS}"
    each = f"{block}/attention/relative_UN"
    mlp_norm = f"{part}.{mlp}.layer_norm.weight"
    dense = f"{part}.{mlp}.DenseReluDense"
    return (
        *_attention(f"{part}.0.SelfAttention", f"{block}/attention"),
        Row(f"{part}.0.layer_norm.weight", f"{block}/attention_norm/scale_D", "D"),
        Row(first, f"{ours}relative/relative_UN", "UN", "relative_shared"),
        Row(f"{part}.0.{_BIAS}", each, "UN", "not relative_shared"),
        Row(mlp_norm, f"{block}/mlp_norm/scale_D", "D"),
        Row(f"{dense}.wi.weight", f"{block}/mlp/up_DF", "FD", "not gated"),
        Row(f"{dense}.wi_0.weight", f"{block}/mlp/gate_DF", "FD", "gated"),
        Row(f"{dense}.wi_1.weight", f"{block}/mlp/up_DF", "FD", "gated"),
        Row(f"{dense}.wo.weight", f"{block}/mlp/down_FD", "DF"),
        Row(f"{theirs}.final_layer_norm.weight", f"{ours}final_norm/scale_D", "D"),
    )


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(f"{theirs}.q.weight", f"{ours}/q_DNH", "(NH)D"),
        Row(f"{theirs}.k.weight", f"{ours}/k_DKH", "(KH)D"),
        Row(f"{theirs}.v.weight", f"{ours}/v_DKH", "(KH)D"),
        Row(f"{theirs}.o.weight", f"{ours}/o_NHD", "D(NH)"),
    )


_CROSS = "decoder.block.{l}.layer.1"
TABLE = (
    Row("shared.weight", "embed/embed_VD", "VD"),
    *_rows("encoder", "encoder/", 1),
    *_rows("decoder", "", 2),
    *_attention(f"{_CROSS}.EncDecAttention", "blocks/cross"),
    Row(f"{_CROSS}.layer_norm.weight", "blocks/cross_norm/scale_D", "D"),
    Row("lm_head.weight", "head/head_DV", "VD", "not tied"),
)

# Other names that the class gives to its fields.
ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "head_dim": "d_kv",
}
NEUTRAL = {"is_encoder_decoder": (None, True), "tie_encoder_decoder": (None, False)}


def read_config(config: Mapping[str, Any], model_type: str) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right.

    Positions have no end; the context is the length of text in pretraining.
    """
    fields.check_neutral(config, NEUTRAL)
    config = fields.rename(config, ALIASES)
    width = fields.integer(config, "d_model", 512)
    num_layers = fields.integer(config, "num_layers", 6 if model_type == "t5" else 8)
    num_heads = fields.integer(config, "num_heads", 8 if model_type == "t5" else 6)
    gated, activation = _read_activation(config, model_type)
    cfg = ModelConfig(
        vocab_size=fields.integer(
            config, "vocab_size", 32128 if model_type == "t5" else 250112
        ),
        num_layers=fields.integer(config, "num_decoder_layers", num_layers),
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=fields.integer(config, "d_kv", 64),
        ff_width=fields.integer(config, "d_ff", 2048 if model_type == "t5" else 1024),
        context=fields.integer(config, "n_positions", 512),
        norm="rms",
        norm_eps=fields.number(config, "layer_norm_epsilon", 1e-6),
        activation=activation,
        gated=gated,
        attention_scale=1.0,
        positions="relative",
        relative_buckets=fields.integer(config, "relative_attention_num_buckets", 32),
        relative_distance=fields.integer(
            config, "relative_attention_max_distance", 128
        ),
        relative_shared=model_type != "umt5",
        tied=fields.boolean(config, "tie_word_embeddings", True),
        head_scale=width**-0.5 if _has_scaled_head(config, model_type) else 1.0,
        start_id=fields.token_id(config, "decoder_start_token_id", "pad_token_id"),
    )
    _check_buckets(cfg)
    encoder = dataclasses.replace(transformer.encoder_of(cfg), num_layers=num_layers)
    return dataclasses.replace(cfg, encoder=encoder)


def _read_activation(config: Mapping[str, Any], model_type: str) -> tuple[bool, str]:
    """(gated, activation). "gated-gelu" has always meant the tanh approximation."""
    default = "relu" if model_type == "t5" else "gated-gelu"
    spec = str(config.get("feed_forward_proj", default))
    gate, _, name = spec.rpartition("-")
    if gate not in ("", "gated"):
        raise ValueError(f"feed_forward_proj={spec!r}: write e.g. relu or gated-gelu")
    if spec == "gated-gelu":
        name = "gelu_new"
    # What the class makes of that is in newer files too, and has the last word.
    gated = fields.boolean(config, "is_gated_act", gate == "gated")
    field = "dense_act_fn" if "dense_act_fn" in config else "feed_forward_proj"
    if field == "feed_forward_proj":
        config = {field: name}
    return gated, fields.activation(config, field, "relu")


def _has_scaled_head(config: Mapping[str, Any], model_type: str) -> bool:
    """Whether hidden states are multiplied by d_model^-0.5 before the head.

    transformers 5 writes tie_word_embeddings=true whatever the head is, and T5's scale
    into a field of its own.
    """
    if model_type == "mt5":
        return False
    tied = fields.boolean(config, "tie_word_embeddings", True)
    if model_type == "umt5":
        return tied
    return fields.boolean(config, "scale_decoder_outputs", tied)


def _check_buckets(cfg: ModelConfig) -> None:
    if cfg.relative_buckets < 4:
        raise ValueError(
            f"relative_attention_num_buckets={cfg.relative_buckets} must be at least 4"
        )
    if cfg.relative_distance <= cfg.relative_buckets // 2:
        raise ValueError(
            f"relative_attention_max_distance={cfg.relative_distance} must be more "
            f"than half of relative_attention_num_buckets={cfg.relative_buckets}"
        )


def fit(cfg: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The config of a checkpoint with these tensors: a head that is there is used."""
    tied = cfg.tied and "lm_head.weight" not in names
    encoder = dataclasses.replace(cfg.encoder, tied=tied)
    return dataclasses.replace(cfg, tied=tied, encoder=encoder)


def write_config(cfg: ModelConfig, model_type: str) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    activation = fields.activation_name(cfg.activation)
    if cfg.gated:
        activation = f"gated-{'gelu_python' if activation == 'gelu' else activation}"
    scaled = cfg.head_scale != 1.0
    architecture = f"{model_type.upper()}ForConditionalGeneration"
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "is_encoder_decoder": True,
        "vocab_size": cfg.vocab_size,
        "num_layers": cfg.num_layers if cfg.encoder is None else cfg.encoder.num_layers,
        "num_decoder_layers": cfg.num_layers,
        "d_model": cfg.width,
        "num_heads": cfg.num_heads,
        "d_kv": cfg.head_width,
        "d_ff": cfg.ff_width,
        "n_positions": cfg.context,
        "layer_norm_epsilon": cfg.norm_eps,
        "feed_forward_proj": activation,
        "relative_attention_num_buckets": cfg.relative_buckets,
        "relative_attention_max_distance": cfg.relative_distance,
        "tie_word_embeddings": scaled if model_type == "umt5" else cfg.tied,
        "decoder_start_token_id": cfg.start_id,
        **({"scale_decoder_outputs": scaled} if model_type == "t5" else {}),
    }


FAMILIES = {
    model_type: Family(
        prefix="",
        table=TABLE,
        repeats=(
            ("encoder.embed_tokens.weight", "shared.weight"),
            ("decoder.embed_tokens.weight", "shared.weight"),
        ),
        # Of the first published files; relative positions have no part there.
        buffers=(f"decoder.block.0.layer.1.EncDecAttention.{_BIAS.partition('.')[2]}",),
        read_config=partial(read_config, model_type=model_type),
        write_config=partial(write_config, model_type=model_type),
        fit=fit,
    )
    for model_type in ("t5", "mt5", "umt5")
}
