"""Reading and writing the fields of a config.json that several families share."""

import math
from collections.abc import Mapping
from typing import Any

from llmjax.config import ModelConfig, RopeScaling

# transformers' names of activations to ours; the first of several is what we write.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}

# Fields of every config that change what is computed, and the values that do not.
NEUTRAL = {
    "auto_map": (None, {}),  # names code to download and run
    "is_encoder_decoder": (None, False),
    "per_layer_config": (None, {}),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
}


def integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A positive integer field; an absent or null one is `default`."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def number(config: Mapping[str, Any], name: str, default: float | None = None) -> float:
    """A positive finite number; an absent or null one is `default`."""
    value = default if config.get(name) is None else config[name]
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def boolean(config: Mapping[str, Any], name: str, default: bool) -> bool:
    """A true or false field; an absent or null one is `default`."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def activation(config: Mapping[str, Any], name: str, default: str) -> str:
    """Our name of an activation."""
    value = config.get(name, default)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise ValueError(
            f"{name}={value!r} is not supported; known: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def activation_name(ours: str) -> str:
    """transformers' name of one of our activations."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def check_neutral(config: Mapping[str, Any], neutral: Mapping[str, tuple]) -> None:
    """Refuses, by name, a field whose value would change what is computed."""
    for name, values in {**NEUTRAL, **neutral}.items():
        if name in config and config[name] not in values:
            raise ValueError(
                f"{name}={config[name]!r} is not supported; it must be {values[-1]!r}"
            )


def read_rope(config: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """RoPE's base and scaling, from either dialect of config.json.

    transformers v4 wrote rope_theta and rope_scaling, v5 writes both into
    rope_parameters. Where a file has both dialects, v5's order of precedence holds.
    """
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(name) or {}
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        raise ValueError(f"{name} must be one object without objects inside")
    for fields in (config, rope):
        if fields.get("partial_rotary_factor") not in (None, 1):
            value = fields["partial_rotary_factor"]
            raise ValueError(
                f"partial_rotary_factor={value!r} is not supported; only 1"
            )
    theta = number(rope, "rope_theta", number(config, "rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", number(rope, "factor"))
    if kind == "llama3":
        name = "original_max_position_embeddings"
        length = integer(config, "max_position_embeddings", 2048)
        return theta, RopeScaling(
            kind="llama3",
            factor=number(rope, "factor"),
            low_freq_factor=number(rope, "low_freq_factor"),
            high_freq_factor=number(rope, "high_freq_factor"),
            original_context=integer(config, name, integer(rope, name, length)),
        )
    raise ValueError(
        f"rope_type={kind!r} is not supported; known: default, linear, llama3"
    )


def write_rope(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that `read_rope` reads, as v4 wrote them: v5 reads those too."""
    scaling = cfg.rope_scaling
    if scaling is None:
        return {"rope_theta": cfg.rope_theta, "rope_scaling": None}
    rope = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope["low_freq_factor"] = scaling.low_freq_factor
        rope["high_freq_factor"] = scaling.high_freq_factor
        rope["original_max_position_embeddings"] = scaling.original_context
    return {"rope_theta": cfg.rope_theta, "rope_scaling": rope}
