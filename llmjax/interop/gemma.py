"""Gemma 1, 2 and 3 checkpoints (Gemma team 2024, 2024, 2025), as transformers has them.

A Llama with 1 + w for the scale of norms, embeddings times sqrt(D), and GELU. Gemma 2
adds soft-caps, norms on both sides of each branch and windows in every other layer;
Gemma 3 has norms on queries and keys, and another RoPE in the layers with a window.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import Layer, ModelConfig
from llmjax.interop import fields, llama_like

DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
DEFAULTS2 = {
    **DEFAULTS,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
DEFAULTS3 = {
    **DEFAULTS2,
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
}
NEUTRAL = {"use_bidirectional_attention": (None, False)}
FULL, LOCAL = "full_attention", "sliding_attention"


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a Gemma 1; ValueError names a field that is not right."""
    config = {**DEFAULTS, **config}
    if config["hidden_act"] == "gelu":  # in the first releases: they meant the other
        config["hidden_act"] = "gelu_pytorch_tanh"
    if config.get("hidden_activation") not in (None, config["hidden_act"]):
        raise ValueError("hidden_activation must be null, or the same as hidden_act")
    return ModelConfig(**_read_common(config), **llama_like.read_rope(config))


def read_config2(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a Gemma 2; ValueError names a field that is not right."""
    config = {**DEFAULTS2, **config}
    windows = llama_like.read_windows(config, lambda index: index % 2 == 0)
    return ModelConfig(
        **_read_common(config, "hidden_activation"),
        **llama_like.read_rope(config),
        **llama_like.pattern([Layer(window=window) for window in windows]),
        norms="sandwich",
        attention_scale=_read_scale(config),
        attention_softcap=fields.optional_number(config, "attn_logit_softcapping"),
        logits_softcap=fields.optional_number(config, "final_logit_softcapping"),
    )


def read_config3(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a Gemma 3; ValueError names a field that is not right.

    `attn_logit_softcapping` is passed over, as the class computes nothing with it.
    """
    config = {**DEFAULTS3, **config}
    period = fields.integer(config, "sliding_window_pattern")
    windows = llama_like.read_windows(config, lambda index: (index + 1) % period != 0)
    layers = [
        Layer(window=window, rope="global" if window is None else "local")
        for window in windows
    ]
    return ModelConfig(
        **_read_common(config, "hidden_activation"),
        **_read_ropes(config),
        **llama_like.pattern(layers),
        norms="sandwich",
        qk_norm="head",
        attention_scale=_read_scale(config),
        logits_softcap=fields.optional_number(config, "final_logit_softcapping"),
    )


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a Gemma 1, but for what `read_config` cannot say back."""
    written = llama_like.write_sizes(cfg, "gemma", "GemmaForCausalLM")
    if cfg.activation == "gelu":
        written["hidden_act"] = "gelu_python"  # see read_config
    biased = {"attention_bias": cfg.qkv_bias}
    return {**written, **fields.write_rope(cfg), **biased}


def write_config2(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a Gemma 2, but for what `read_config2` cannot say back."""
    return {
        **_write_common(cfg, "gemma2", "Gemma2ForCausalLM"),
        **fields.write_rope(cfg),
        "attn_logit_softcapping": cfg.attention_softcap,
    }


def write_config3(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a Gemma 3, but for what `read_config3` cannot say back."""
    written = _write_common(cfg, "gemma3_text", "Gemma3ForCausalLM")
    if cfg.local_rope_scaling is None:
        local = {"rope_local_base_freq": cfg.local_rope_theta}
        return {**written, **fields.write_rope(cfg), **local}
    default = {"rope_type": "default"}  # what follows, only v5 can read
    ropes = {
        FULL: (cfg.rope_theta, cfg.rope_scaling),
        LOCAL: (cfg.local_rope_theta, cfg.local_rope_scaling),
    }
    return written | {
        "rope_parameters": {
            kind: {"rope_theta": theta, **(fields.write_scaling(scaling) or default)}
            for kind, (theta, scaling) in ropes.items()
        }
    }


def _read_common(
    config: Mapping[str, Any], activation: str = "hidden_act"
) -> dict[str, Any]:
    fields.check_neutral(config, NEUTRAL)
    sizes = llama_like.read_sizes(config, activation)
    embed_scale = sizes["width"] ** 0.5
    biases = llama_like.read_biases(config)
    return sizes | biases | {"norm_plus_one": True, "embed_scale": embed_scale}


def _write_common(
    cfg: ModelConfig, model_type: str, architecture: str
) -> dict[str, Any]:
    scalar = cfg.head_width if cfg.attention_scale is None else cfg.attention_scale**-2
    windows = llama_like.write_windows(cfg)
    if windows["sliding_window"] is None:
        del windows["sliding_window"]  # the class makes its mask though no layer has it
    return {
        **llama_like.write_sizes(cfg, model_type, architecture, "hidden_activation"),
        **windows,
        "attention_bias": cfg.qkv_bias,
        # transformers v5 takes no float here.
        "query_pre_attn_scalar": round(scalar),
        "final_logit_softcapping": cfg.logits_softcap,
    }


def _read_scale(config: Mapping[str, Any]) -> float | None:
    scalar = fields.number(config, "query_pre_attn_scalar")
    return None if scalar == config["head_dim"] else scalar**-0.5


def _read_ropes(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE of either kind of layer, from the dialect of transformers v4 or v5."""
    context = fields.integer(config, "max_position_embeddings")
    given = config.get("rope_parameters") or {}
    if not isinstance(given, dict) or given.keys() - {FULL, LOCAL}:
        raise ValueError(f"rope_parameters must be two objects, {FULL} and {LOCAL}")
    stretched = config.get("rope_scaling") or {}
    ropes = {FULL: given.get(FULL) or {}, LOCAL: given.get(LOCAL) or {}}
    for rope in (stretched, *ropes.values()):
        if not isinstance(rope, dict):
            raise ValueError("rope_scaling and the rope_parameters must be objects")
    if "type" in stretched and "rope_type" not in stretched:
        raise ValueError("rope_scaling has a type, which must be called rope_type")
    ropes[FULL] = ropes[FULL] | stretched
    read = {}
    names = {FULL: ("", "rope_theta"), LOCAL: ("local_", "rope_local_base_freq")}
    for kind, (prefix, name) in names.items():
        theta = fields.number(config, name)
        one = {"rope_parameters": ropes[kind], "rope_theta": theta}
        one["max_position_embeddings"] = context
        read[f"{prefix}rope_theta"], read[f"{prefix}rope_scaling"] = fields.read_rope(
            one
        )
    return read


FAMILIES = {
    "gemma": llama_like.make_family(read_config, write_config),
    "gemma2": llama_like.make_family(read_config2, write_config2),
    "gemma3_text": llama_like.make_family(read_config3, write_config3),
}
