"""GPT-NeoX checkpoints (Black et al. 2022), as transformers' GPTNeoXForCausalLM.

LayerNorms, attention beside the feed-forward layer, RoPE on a share of each head.
Queries, keys and values are one matrix, in which the three of a head stand together.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

_H = "gpt_neox.layers.{l}"
_A = "blocks/attention"
TABLE = (
    Row("gpt_neox.embed_in.weight", "embed/embed_VD", "VD"),
    Row(f"{_H}.input_layernorm.weight", "blocks/attention_norm/scale_D", "D"),
    Row(f"{_H}.input_layernorm.bias", "blocks/attention_norm/bias_D", "D"),
    Row(
        f"{_H}.attention.query_key_value.weight",
        f"{_A}/q_DNH {_A}/k_DKH {_A}/v_DKH",
        "(N3H)D",
    ),
    Row(
        f"{_H}.attention.query_key_value.bias",
        f"{_A}/q_bias_NH {_A}/k_bias_KH {_A}/v_bias_KH",
        "(N3H)",
        "qkv_bias",
    ),
    Row(f"{_H}.attention.dense.weight", f"{_A}/o_NHD", "D(NH)"),
    Row(f"{_H}.attention.dense.bias", f"{_A}/o_bias_D", "D", "out_bias"),
    Row(f"{_H}.post_attention_layernorm.weight", "blocks/mlp_norm/scale_D", "D"),
    Row(f"{_H}.post_attention_layernorm.bias", "blocks/mlp_norm/bias_D", "D"),
    Row(f"{_H}.mlp.dense_h_to_4h.weight", "blocks/mlp/up_DF", "FD"),
    Row(f"{_H}.mlp.dense_h_to_4h.bias", "blocks/mlp/up_bias_F", "F"),
    Row(f"{_H}.mlp.dense_4h_to_h.weight", "blocks/mlp/down_FD", "DF"),
    Row(f"{_H}.mlp.dense_4h_to_h.bias", "blocks/mlp/down_bias_D", "D"),
    Row("gpt_neox.final_layer_norm.weight", "final_norm/scale_D", "D"),
    Row("gpt_neox.final_layer_norm.bias", "final_norm/bias_D", "D"),
    Row("embed_out.weight", "head/head_DV", "VD", "not tied"),
)


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    fields.check_neutral(config, {"is_causal": (True,)})
    width = fields.integer(config, "hidden_size", 6144)
    num_heads = fields.integer(config, "num_attention_heads", 64)
    if width % num_heads:
        raise ValueError(f"num_attention_heads={num_heads} must divide {width}")
    head_width = width // num_heads
    fields.check_neutral(config, {"head_dim": (None, head_width)})
    biased = fields.boolean(config, "attention_bias", True)
    return ModelConfig(
        vocab_size=fields.integer(config, "vocab_size", 50432),
        num_layers=fields.integer(config, "num_hidden_layers", 44),
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=head_width,
        ff_width=fields.integer(config, "intermediate_size", 24576),
        context=fields.integer(config, "max_position_embeddings", 2048),
        norm="layer",
        norm_eps=fields.number(config, "layer_norm_eps", 1e-5),
        parallel=fields.boolean(config, "use_parallel_residual", True),
        activation=fields.activation(config, "hidden_act", "gelu"),
        gated=False,
        **_read_rope(config, head_width),
        tied=fields.boolean(config, "tie_word_embeddings", False),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    share = (cfg.rope_width or cfg.head_width) / cfg.head_width
    rope = fields.write_rope(cfg)
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.ff_width,
        "max_position_embeddings": cfg.context,
        "layer_norm_eps": cfg.norm_eps,
        "use_parallel_residual": cfg.parallel,
        "hidden_act": fields.activation_name(cfg.activation),
        "rotary_emb_base": rope["rope_theta"],
        "rotary_pct": share,
        "rope_scaling": rope["rope_scaling"],
        "tie_word_embeddings": cfg.tied,
        "attention_bias": cfg.qkv_bias,
    }


def _read_rope(config: Mapping[str, Any], head_width: int) -> dict[str, Any]:
    """The class has its own names for two fields of RoPE."""
    name = "partial_rotary_factor"
    config = {**config, "rope_theta": config.get("rotary_emb_base")}
    config[name] = fields.number(config, "rotary_pct", 0.25)
    share = fields.read_rope_share(config)
    rope_width = int(head_width * share)
    if rope_width < 1:
        raise ValueError(f"rotary_pct={share} turns nothing of a head of {head_width}")
    whole = {**fields.rope_object(config), name: 1}
    theta, scaling = fields.read_rope(
        {**config, "rope_scaling": None, "rope_parameters": whole}
    )
    return dict(
        rope_width=None if rope_width == head_width else rope_width,
        rope_theta=theta,
        rope_scaling=scaling,
    )


FAMILY = Family(
    prefix="gpt_neox.",
    table=TABLE,
    repeats=(
        ("embed_out.weight", "gpt_neox.embed_in.weight"),
        ("lm_head.weight", "gpt_neox.embed_in.weight"),
    ),
    buffers=(
        f"{_H}.attention.bias",  # the causal mask
        f"{_H}.attention.masked_bias",
        f"{_H}.attention.rotary_emb.inv_freq",
    ),
    read_config=read_config,
    write_config=write_config,
    aliases=(("embed_out.weight", "lm_head.weight"),),
)
