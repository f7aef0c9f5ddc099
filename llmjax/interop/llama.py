"""Llama checkpoints (Touvron et al. 2023), as transformers' LlamaForCausalLM."""

from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields, llama_like

DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    config = {**DEFAULTS, **config}
    return ModelConfig(
        **llama_like.read_sizes(config),
        **llama_like.read_rope(config),
        **llama_like.read_biases(config),
        mlp_bias=fields.boolean(config, "mlp_bias", False),
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    return {
        **llama_like.write_sizes(cfg, "llama", "LlamaForCausalLM"),
        **fields.write_rope(cfg),
        "attention_bias": cfg.qkv_bias,
        "mlp_bias": cfg.mlp_bias,
    }


FAMILY = llama_like.make_family(read_config, write_config)
