"""SmolLM3 checkpoints, as transformers' SmolLM3ForCausalLM.

A Llama some of whose layers have no RoPE (Yang et al. 2025, "Rope to Nope").
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import Layer, ModelConfig
from llmjax.interop import fields, llama_like

DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 2000000.0,
    "no_rope_layer_interval": 4,
    "tie_word_embeddings": True,
}


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    config = {**DEFAULTS, **config}
    sizes = llama_like.read_sizes(config)
    turned = _read_rope_layers(config, sizes["num_layers"])
    # Where layer_types says nothing, only a layer without RoPE may have a window.
    has_windows = (
        fields.boolean(config, "use_sliding_window", False)
        and config.get("sliding_window") is not None
    )
    windows = llama_like.read_windows(config, lambda i: has_windows and not turned[i])
    layers = [
        Layer(window=window, rope="global" if is_turned else "none")
        for window, is_turned in zip(windows, turned, strict=True)
    ]
    return ModelConfig(
        **sizes,
        **llama_like.read_rope(config),
        **llama_like.read_biases(config),
        **llama_like.pattern(layers),
        mlp_bias=fields.boolean(config, "mlp_bias", False),
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    written = llama_like.write_windows(cfg)
    layers = [cfg.layer(index) for index in range(cfg.num_layers)]
    return {
        **llama_like.write_sizes(cfg, "smollm3", "SmolLM3ForCausalLM"),
        **fields.write_rope(cfg),
        **written,
        "use_sliding_window": written["sliding_window"] is not None,
        "no_rope_layers": [int(layer.rope != "none") for layer in layers],
        "attention_bias": cfg.qkv_bias,
        "mlp_bias": cfg.mlp_bias,
    }


def _read_rope_layers(config: Mapping[str, Any], num_layers: int) -> list[bool]:
    """Which layers have RoPE: those of a 1 in `no_rope_layers`."""
    flags = config.get("no_rope_layers")
    if flags is None:
        interval = fields.integer(config, "no_rope_layer_interval")
        return [(index + 1) % interval != 0 for index in range(num_layers)]
    if not isinstance(flags, list) or len(flags) < num_layers:
        raise ValueError(f"no_rope_layers must be a list of {num_layers} numbers")
    for flag in flags:
        if flag not in (0, 1):
            raise ValueError(f"no_rope_layers must hold 0 and 1 only, got {flag!r}")
    return [bool(flag) for flag in flags[:num_layers]]


FAMILY = llama_like.make_family(read_config, write_config)
