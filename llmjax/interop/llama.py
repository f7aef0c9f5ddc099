"""Llama checkpoints (Touvron et al. 2023), as transformers' LlamaForCausalLM has them.

Its matrices are stored (out, in), the rows of queries and keys in rotate-half order.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

_H = "model.layers.{l}"
TABLE = (
    Row("model.embed_tokens.weight", "embed/embed_VD", "VD"),
    Row(f"{_H}.input_layernorm.weight", "blocks/attention_norm/scale_D", "D"),
    Row(f"{_H}.self_attn.q_proj.weight", "blocks/attention/q_DNH", "(NH)D"),
    Row(f"{_H}.self_attn.k_proj.weight", "blocks/attention/k_DKH", "(KH)D"),
    Row(f"{_H}.self_attn.v_proj.weight", "blocks/attention/v_DKH", "(KH)D"),
    Row(f"{_H}.self_attn.o_proj.weight", "blocks/attention/o_NHD", "D(NH)"),
    Row(
        f"{_H}.self_attn.q_proj.bias", "blocks/attention/q_bias_NH", "(NH)", "qkv_bias"
    ),
    Row(
        f"{_H}.self_attn.k_proj.bias", "blocks/attention/k_bias_KH", "(KH)", "qkv_bias"
    ),
    Row(
        f"{_H}.self_attn.v_proj.bias", "blocks/attention/v_bias_KH", "(KH)", "qkv_bias"
    ),
    Row(f"{_H}.self_attn.o_proj.bias", "blocks/attention/o_bias_D", "D", "out_bias"),
    Row(f"{_H}.post_attention_layernorm.weight", "blocks/mlp_norm/scale_D", "D"),
    Row(f"{_H}.mlp.gate_proj.weight", "blocks/mlp/gate_DF", "FD"),
    Row(f"{_H}.mlp.up_proj.weight", "blocks/mlp/up_DF", "FD"),
    Row(f"{_H}.mlp.down_proj.weight", "blocks/mlp/down_FD", "DF"),
    Row(f"{_H}.mlp.gate_proj.bias", "blocks/mlp/gate_bias_F", "F", "mlp_bias"),
    Row(f"{_H}.mlp.up_proj.bias", "blocks/mlp/up_bias_F", "F", "mlp_bias"),
    Row(f"{_H}.mlp.down_proj.bias", "blocks/mlp/down_bias_D", "D", "mlp_bias"),
    Row("model.norm.weight", "final_norm/scale_D", "D"),
    Row("lm_head.weight", "head/head_DV", "VD", "not tied"),
)


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    fields.check_neutral(config, {})
    width = fields.integer(config, "hidden_size", 4096)
    num_heads = fields.integer(config, "num_attention_heads", 32)
    theta, scaling = fields.read_rope(config)
    biased = fields.boolean(config, "attention_bias", False)
    return ModelConfig(
        vocab_size=fields.integer(config, "vocab_size", 32000),
        num_layers=fields.integer(config, "num_hidden_layers", 32),
        width=width,
        num_heads=num_heads,
        num_kv_heads=fields.integer(config, "num_key_value_heads", num_heads),
        head_width=fields.integer(config, "head_dim", width // num_heads),
        ff_width=fields.integer(config, "intermediate_size", 11008),
        context=fields.integer(config, "max_position_embeddings", 2048),
        norm="rms",
        norm_eps=fields.number(config, "rms_norm_eps", 1e-6),
        activation=fields.activation(config, "hidden_act", "silu"),
        gated=True,
        positions="rope",
        rope_theta=theta,
        rope_scaling=scaling,
        tied=fields.boolean(config, "tie_word_embeddings", False),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=fields.boolean(config, "mlp_bias", False),
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.ff_width,
        "max_position_embeddings": cfg.context,
        "rms_norm_eps": cfg.norm_eps,
        "hidden_act": fields.activation_name(cfg.activation),
        "tie_word_embeddings": cfg.tied,
        "attention_bias": cfg.qkv_bias,
        "mlp_bias": cfg.mlp_bias,
        **fields.write_rope(cfg),
    }


FAMILY = Family(
    prefix="model.",
    table=TABLE,
    repeats=(("lm_head.weight", "model.embed_tokens.weight"),),
    buffers=(f"{_H}.self_attn.rotary_emb.inv_freq",),
    read_config=read_config,
    write_config=write_config,
)
