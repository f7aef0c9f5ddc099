"""Qwen2 and Qwen3 checkpoints (Yang et al. 2024, 2025), as transformers has them.

Qwen2 is a Llama with biases on queries, keys and values; Qwen3 has norms on queries and
keys in their place. In both, the later layers may have a sliding window.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import Layer, ModelConfig
from llmjax.interop import fields, llama_like

DEFAULTS = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "tie_word_embeddings": False,
}
DEFAULTS3 = {**DEFAULTS, "head_dim": 128}


def read_config2(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    config = {**DEFAULTS, **config}
    return ModelConfig(
        **llama_like.read_sizes(config),
        **llama_like.read_rope(config),
        **_read_windows(config),
        qkv_bias=True,
    )


def read_config3(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    config = {**DEFAULTS3, **config}
    return ModelConfig(
        **llama_like.read_sizes(config),
        **llama_like.read_rope(config),
        **llama_like.read_biases(config),
        **_read_windows(config),
        qk_norm="head",
    )


def write_config2(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config2` cannot say back."""
    return {
        **llama_like.write_sizes(cfg, "qwen2", "Qwen2ForCausalLM"),
        **fields.write_rope(cfg),
        **_write_windows(cfg),
    }


def write_config3(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config3` cannot say back."""
    return {
        **llama_like.write_sizes(cfg, "qwen3", "Qwen3ForCausalLM"),
        **fields.write_rope(cfg),
        **_write_windows(cfg),
        "attention_bias": cfg.qkv_bias,
    }


def _read_windows(config: Mapping[str, Any]) -> dict[str, Any]:
    if not fields.boolean(config, "use_sliding_window", False):
        config = {**config, "sliding_window": None}
    first = config["max_window_layers"]
    if type(first) is not int or first < 0:
        raise ValueError(f"max_window_layers must be a whole number, got {first!r}")
    has_windows = config["sliding_window"] is not None
    windows = llama_like.read_windows(config, lambda i: has_windows and i >= first)
    return llama_like.pattern([Layer(window=window) for window in windows])


def _write_windows(cfg: ModelConfig) -> dict[str, Any]:
    written = llama_like.write_windows(cfg)
    kinds = [*written["layer_types"], "sliding_attention"]
    return {
        **written,
        "use_sliding_window": written["sliding_window"] is not None,
        # What older versions read in place of layer_types.
        "max_window_layers": kinds.index("sliding_attention"),
    }


FAMILIES = {
    "qwen2": llama_like.make_family(read_config2, write_config2),
    "qwen3": llama_like.make_family(read_config3, write_config3),
}
