"""GPT-2 checkpoints (Radford et al. 2019), as transformers' GPT2LMHeadModel has them.

Its matrices are stored (in, out), and queries, keys and values are one of them.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

_H = "transformer.h.{l}"
_A = "blocks/attention"
TABLE = (
    Row("transformer.wte.weight", "embed/embed_VD", "VD"),
    Row("transformer.wpe.weight", "embed/positions_TD", "TD"),
    Row(f"{_H}.ln_1.weight", "blocks/attention_norm/scale_D", "D"),
    Row(f"{_H}.ln_1.bias", "blocks/attention_norm/bias_D", "D"),
    Row(f"{_H}.attn.c_attn.weight", f"{_A}/q_DNH {_A}/k_DKH {_A}/v_DKH", "D(3NH)"),
    Row(
        f"{_H}.attn.c_attn.bias",
        f"{_A}/q_bias_NH {_A}/k_bias_KH {_A}/v_bias_KH",
        "(3NH)",
    ),
    Row(f"{_H}.attn.c_proj.weight", f"{_A}/o_NHD", "(NH)D"),
    Row(f"{_H}.attn.c_proj.bias", f"{_A}/o_bias_D", "D"),
    Row(f"{_H}.ln_2.weight", "blocks/mlp_norm/scale_D", "D"),
    Row(f"{_H}.ln_2.bias", "blocks/mlp_norm/bias_D", "D"),
    Row(f"{_H}.mlp.c_fc.weight", "blocks/mlp/up_DF", "DF"),
    Row(f"{_H}.mlp.c_fc.bias", "blocks/mlp/up_bias_F", "F"),
    Row(f"{_H}.mlp.c_proj.weight", "blocks/mlp/down_FD", "FD"),
    Row(f"{_H}.mlp.c_proj.bias", "blocks/mlp/down_bias_D", "D"),
    Row("transformer.ln_f.weight", "final_norm/scale_D", "D"),
    Row("transformer.ln_f.bias", "final_norm/bias_D", "D"),
    Row("lm_head.weight", "head/head_DV", "VD", "not tied"),
)

# Other names that the class gives to its fields.
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
NEUTRAL = {
    "add_cross_attention": (None, False),
    "scale_attn_by_inverse_layer_idx": (None, False),
}


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right.

    `reorder_and_upcast_attn` is passed over: our softmax is in float32 always.
    """
    config = {ALIASES.get(name, name): value for name, value in config.items()}
    fields.check_neutral(config, NEUTRAL)
    width = fields.integer(config, "n_embd", 768)
    num_heads = fields.integer(config, "n_head", 12)
    if width % num_heads:
        raise ValueError(f"n_head={num_heads} must divide n_embd={width}")
    scaled = fields.boolean(config, "scale_attn_weights", True)
    return ModelConfig(
        vocab_size=fields.integer(config, "vocab_size", 50257),
        num_layers=fields.integer(config, "n_layer", 12),
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=width // num_heads,
        ff_width=fields.integer(config, "n_inner", 4 * width),
        context=fields.integer(config, "n_positions", 1024),
        norm="layer",
        norm_eps=fields.number(config, "layer_norm_epsilon", 1e-5),
        activation=fields.activation(config, "activation_function", "gelu_new"),
        gated=False,
        positions="learned",
        tied=fields.boolean(config, "tie_word_embeddings", True),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        attention_scale=None if scaled else 1.0,
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": cfg.vocab_size,
        "n_layer": cfg.num_layers,
        "n_embd": cfg.width,
        "n_head": cfg.num_heads,
        "n_inner": cfg.ff_width,
        "n_positions": cfg.context,
        "layer_norm_epsilon": cfg.norm_eps,
        "activation_function": fields.activation_name(cfg.activation),
        "tie_word_embeddings": cfg.tied,
        "scale_attn_weights": cfg.attention_scale is None,
    }


FAMILY = Family(
    prefix="transformer.",
    table=TABLE,
    repeats=(("lm_head.weight", "transformer.wte.weight"),),
    buffers=(f"{_H}.attn.bias", f"{_H}.attn.masked_bias"),  # the causal mask
    read_config=read_config,
    write_config=write_config,
)
