"""Mistral checkpoints (Jiang et al. 2023), as transformers' MistralForCausalLM.

A Llama all of whose layers may have a sliding window.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields, llama_like

DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
}
# The class of transformers takes no notice of layer_types, but its cache does.
NEUTRAL = {"layer_types": (None,)}


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    fields.check_neutral(config, NEUTRAL)
    config = {**DEFAULTS, **config}
    has_window = config["sliding_window"] is not None
    return ModelConfig(
        **llama_like.read_sizes(config),
        **llama_like.read_rope(config),
        window=fields.integer(config, "sliding_window") if has_window else None,
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    return {
        **llama_like.write_sizes(cfg, "mistral", "MistralForCausalLM"),
        **fields.write_rope(cfg),
        "sliding_window": cfg.window,
    }


FAMILY = llama_like.make_family(read_config, write_config)
