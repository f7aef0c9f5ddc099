"""BART checkpoints (Lewis et al. 2020), mBART's, and Marian's (Junczys-Dowmunt 2018).

They differ in where the norms stand and in what the positions are.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row
from llmjax.models import transformer

_ENCODER_TABLE = "model.encoder.embed_tokens.weight"
_DECODER_TABLE = "model.decoder.embed_tokens.weight"
_SHARED_TABLE = "model.shared.weight"


def _rows(theirs: str, ours: str) -> tuple[Row, ...]:
    """One stack's rows, but for token embeddings and cross-attention."""
    layer, block = f"{theirs}.layers.{{l}}", f"{ours}blocks"
    positions = f"{theirs}.embed_positions.weight"
    embed_norm = f"{theirs}.layernorm_embedding"
    return (
        Row(positions, f"{ours}embed/positions_TD", "TD", "positions=learned"),
        *_norm(embed_norm, f"{ours}embed/norm", "embed_norm"),
        *_attention(f"{layer}.self_attn", f"{block}/attention"),
        *_norm(f"{layer}.self_attn_layer_norm", f"{block}/attention_norm"),
        Row(f"{layer}.fc1.weight", f"{block}/mlp/up_DF", "FD"),
        Row(f"{layer}.fc1.bias", f"{block}/mlp/up_bias_F", "F"),
        Row(f"{layer}.fc2.weight", f"{block}/mlp/down_FD", "DF"),
        Row(f"{layer}.fc2.bias", f"{block}/mlp/down_bias_D", "D"),
        *_norm(f"{layer}.final_layer_norm", f"{block}/mlp_norm"),
        *_norm(f"{theirs}.layer_norm", f"{ours}final_norm", "final_norm"),
    )


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(f"{theirs}.q_proj.weight", f"{ours}/q_DNH", "(NH)D"),
        Row(f"{theirs}.q_proj.bias", f"{ours}/q_bias_NH", "(NH)"),
        Row(f"{theirs}.k_proj.weight", f"{ours}/k_DKH", "(KH)D"),
        Row(f"{theirs}.k_proj.bias", f"{ours}/k_bias_KH", "(KH)"),
        Row(f"{theirs}.v_proj.weight", f"{ours}/v_DKH", "(KH)D"),
        Row(f"{theirs}.v_proj.bias", f"{ours}/v_bias_KH", "(KH)"),
        Row(f"{theirs}.out_proj.weight", f"{ours}/o_NHD", "D(NH)"),
        Row(f"{theirs}.out_proj.bias", f"{ours}/o_bias_D", "D"),
    )


def _norm(theirs: str, ours: str, when: str = "") -> tuple[Row, ...]:
    return (
        Row(f"{theirs}.weight", f"{ours}/scale_D", "D", when),
        Row(f"{theirs}.bias", f"{ours}/bias_D", "D", when),
    )


_CROSS = "model.decoder.layers.{l}.encoder_attn"
TABLE = (
    Row(_SHARED_TABLE, "embed/embed_VD", "VD", "not encoder.own_embedding"),
    Row(_DECODER_TABLE, "embed/embed_VD", "VD", "encoder.own_embedding"),
    Row(_ENCODER_TABLE, "encoder/embed/embed_VD", "VD", "own_embedding"),
    *_rows("model.encoder", "encoder/"),
    *_rows("model.decoder", ""),
    *_attention(_CROSS, "blocks/cross"),
    *_norm(f"{_CROSS}_layer_norm", "blocks/cross_norm"),
    Row("lm_head.weight", "head/head_DV", "VD", "not tied"),
    Row("final_logits_bias", "head/bias_V", "1V", "head_bias"),
)

# Other names that the class gives to its fields.
ALIASES = {
    "hidden_size": "d_model",
    "num_attention_heads": "encoder_attention_heads",
    "num_hidden_layers": "encoder_layers",
}
NEUTRAL = {"is_encoder_decoder": (None, True), "tie_encoder_decoder": (None, False)}
CLASSES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
}
VOCAB_SIZES = {"bart": 50265, "mbart": 50265, "marian": 58101}


def read_config(config: Mapping[str, Any], model_type: str) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    fields.check_neutral(config, NEUTRAL)
    config = fields.rename(config, ALIASES)
    width = fields.integer(config, "d_model", 1024)
    vocab_size = fields.integer(config, "vocab_size", VOCAB_SIZES[model_type])
    scaled = fields.boolean(config, "scale_embedding", False)
    tied = fields.boolean(config, "tie_word_embeddings", True)
    cfg = ModelConfig(
        vocab_size=vocab_size,
        width=width,
        **_read_stack(config, "decoder", width),
        context=fields.integer(config, "max_position_embeddings", 1024),
        norm="layer",
        norm_eps=1e-5,
        norms="pre" if model_type == "mbart" else "post",
        final_norm=model_type == "mbart",
        activation=fields.activation(config, "activation_function", "gelu"),
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        positions="sinusoidal" if model_type == "marian" else "learned",
        position_offset=0 if model_type == "marian" else 2,
        embed_scale=math.sqrt(width) if scaled else 1.0,
        embed_norm=model_type != "marian",
        tied=tied,
        head_bias=True,
        start_id=fields.token_id(config, "decoder_start_token_id", "bos_token_id"),
    )
    stack = _read_stack(config, "encoder", width)
    encoder = dataclasses.replace(
        transformer.encoder_of(cfg), **stack, own_embedding=not tied
    )
    shared = fields.boolean(config, "share_encoder_decoder_embeddings", True)
    if model_type == "marian" and not shared:
        encoder = dataclasses.replace(encoder, own_embedding=True)
        decoder_size = fields.integer(config, "decoder_vocab_size", vocab_size)
        cfg = dataclasses.replace(cfg, vocab_size=decoder_size)
    return dataclasses.replace(cfg, encoder=encoder)


def _read_stack(config: Mapping[str, Any], side: str, width: int) -> dict[str, int]:
    """The sizes that encoder and decoder each have."""
    num_heads = fields.integer(config, f"{side}_attention_heads", 16)
    if width % num_heads:
        raise ValueError(
            f"{side}_attention_heads={num_heads} must divide d_model={width}"
        )
    return {
        "num_layers": fields.integer(config, f"{side}_layers", 12),
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_width": width // num_heads,
        "ff_width": fields.integer(config, f"{side}_ffn_dim", 4096),
    }


def fit(cfg: ModelConfig, names: Collection[str]) -> ModelConfig:
    """The config of a checkpoint with these tensors.

    A bias of the logits that is not there is zero. Where the head is not tied,
    transformers 5 keeps three embeddings apart, but 4 shares those of the tokens.
    """
    head_bias = "final_logits_bias" in names
    own = cfg.encoder.own_embedding
    if not cfg.tied:
        own = any(name.endswith("encoder.embed_tokens.weight") for name in names)
    encoder = dataclasses.replace(cfg.encoder, own_embedding=own, head_bias=head_bias)
    return dataclasses.replace(cfg, encoder=encoder, head_bias=head_bias)


def write_config(cfg: ModelConfig, model_type: str) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    encoder = cfg.encoder or cfg
    config = {
        "model_type": model_type,
        "architectures": [CLASSES[model_type]],
        "is_encoder_decoder": True,
        "vocab_size": encoder.vocab_size,
        "d_model": cfg.width,
        "max_position_embeddings": cfg.context,
        "activation_function": fields.activation_name(cfg.activation),
        "scale_embedding": cfg.embed_scale != 1.0,
        "tie_word_embeddings": cfg.tied,
        "decoder_start_token_id": cfg.start_id,
        "forced_eos_token_id": None,
    }
    for side, part in {"encoder": encoder, "decoder": cfg}.items():
        config[f"{side}_layers"] = part.num_layers
        config[f"{side}_attention_heads"] = part.num_heads
        config[f"{side}_ffn_dim"] = part.ff_width
    if model_type == "marian":
        config["share_encoder_decoder_embeddings"] = not encoder.own_embedding
        config["decoder_vocab_size"] = cfg.vocab_size
    return config


FAMILIES = {
    model_type: Family(
        prefix="model.",
        table=TABLE,
        repeats=(
            ("lm_head.weight", _DECODER_TABLE),
            ("lm_head.weight", _SHARED_TABLE),
            (_ENCODER_TABLE, _SHARED_TABLE),
            (_DECODER_TABLE, _SHARED_TABLE),
        ),
        # Marian's sinusoids are made again at load; an unshared table goes unused.
        buffers=(
            _SHARED_TABLE,
            "model.encoder.embed_positions.weight",
            "model.decoder.embed_positions.weight",
            "model.encoder.version",
            "model.decoder.version",
        ),
        read_config=partial(read_config, model_type=model_type),
        write_config=partial(write_config, model_type=model_type),
        fit=fit,
    )
    for model_type in CLASSES
}
