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

ORIGINAL = "original_max_position_embeddings"  # before RoPE was stretched


def integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A positive integer field; an absent or null one is `default`."""
    value = default if config.get(name) is None else config[name]
    if type(value) is not int or not 0 < value < 2**31:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value


def optional_number(config: Mapping[str, Any], name: str) -> float | None:
    """A positive finite number, or None where the field is absent or null."""
    return None if config.get(name) is None else number(config, name)


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


def token_id(config: Mapping[str, Any], *names: str) -> int:
    """The first of these fields that is there and not null, or 0: an id of a token."""
    for name in names:
        value = config.get(name)
        if value is not None:
            if type(value) is not int or not 0 <= value < 2**31:
                raise ValueError(f"{name} must be an id, got {value!r}")
            return value
    return 0


def rename(config: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The config without other names of fields; where both are there, they agree."""
    renamed = {name: config[name] for name in config.keys() - aliases.keys()}
    for name in aliases.keys() & config.keys():
        value = renamed.setdefault(aliases[name], config[name])
        if value != config[name]:
            raise ValueError(
                f"{name}={config[name]!r} is another name of {aliases[name]}={value!r}"
            )
    return renamed


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
    rope, share = rope_object(config), read_rope_share(config)
    if share != 1:
        raise ValueError(f"partial_rotary_factor={share!r} is not supported; only 1")
    theta = number(rope, "rope_theta", number(config, "rope_theta", 10000.0))
    if config.get(ORIGINAL) is not None:
        rope = rope | {ORIGINAL: config[ORIGINAL]}
    return theta, read_scaling(rope, integer(config, "max_position_embeddings", 2048))


def read_rope_share(config: Mapping[str, Any]) -> float:
    """How much of each head is rotated, 0 to 1."""
    name = "partial_rotary_factor"
    share = number(rope_object(config), name, number(config, name, 1.0))
    if share > 1:
        raise ValueError(f"{name} must be at most 1, got {share}")
    return share


def rope_object(config: Mapping[str, Any]) -> dict[str, Any]:
    """The object of RoPE's fields, empty where there is none."""
    name = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope = config.get(name) or {}
    if not isinstance(rope, dict) or any(isinstance(v, dict) for v in rope.values()):
        raise ValueError(f"{name} must be one object without objects inside")
    return rope


def read_scaling(rope: Mapping[str, Any], context: int) -> RopeScaling | None:
    """The scaling that one object says, for a model of so many positions."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", number(rope, "factor"))
    original = integer(rope, ORIGINAL, context)
    if kind == "llama3":
        return RopeScaling(
            kind="llama3",
            factor=number(rope, "factor"),
            low_freq_factor=number(rope, "low_freq_factor"),
            high_freq_factor=number(rope, "high_freq_factor"),
            original_context=original,
        )
    if kind == "yarn":
        implied = context / original if "factor" in rope else None
        factor = number(rope, "factor", implied)
        amplitude = _yarn_amplitude(rope, factor)
        return RopeScaling(
            kind="yarn",
            factor=factor,
            original_context=original,
            beta_fast=number(rope, "beta_fast", 32.0),
            beta_slow=number(rope, "beta_slow", 1.0),
            truncate=boolean(rope, "truncate", True),
            amplitude=number(rope, "attention_factor", amplitude),
        )
    raise ValueError(
        f"rope_type={kind!r} is not supported; known: default, linear, llama3, yarn"
    )


def _yarn_amplitude(rope: Mapping[str, Any], factor: float) -> float:
    def grown(weight: float) -> float:
        return 0.1 * weight * math.log(max(factor, 1)) + 1

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return grown(number(rope, "mscale")) / grown(number(rope, "mscale_all_dim"))
    return grown(1)


def write_rope(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that `read_rope` reads, as v4 wrote them: v5 reads those too."""
    scaling = write_scaling(cfg.rope_scaling)
    return {"rope_theta": cfg.rope_theta, "rope_scaling": scaling}


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """The object that `read_scaling` reads."""
    if scaling is None:
        return None
    rope = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return rope
    rope[ORIGINAL] = scaling.original_context
    if scaling.kind == "llama3":
        rope["low_freq_factor"] = scaling.low_freq_factor
        rope["high_freq_factor"] = scaling.high_freq_factor
    else:
        rope["beta_fast"] = scaling.beta_fast
        rope["beta_slow"] = scaling.beta_slow
        rope["truncate"] = scaling.truncate
        rope["attention_factor"] = scaling.amplitude
    return rope


def head(config: Mapping[str, Any], prefix: str, heads: Mapping[str, str]) -> str:
    """The kind of head that the class in `architectures` has, by what follows `prefix`.

    Where no class is named it is the first of `heads`.
    """
    names = config.get("architectures") or [prefix + next(iter(heads))]
    known = {prefix + suffix: ours for suffix, ours in heads.items()}
    if not isinstance(names, list) or names[0] not in [*known]:
        raise ValueError(
            f"architectures={names!r} is not supported; known: {', '.join(known)}"
        )
    return known[names[0]]


def num_labels(config: Mapping[str, Any]) -> int:
    """How many outputs a head of classes has; transformers prefers num_labels, too."""
    labels = config.get("id2label")
    if labels is not None and not isinstance(labels, dict):
        raise ValueError("id2label must be an object")
    return integer(config, "num_labels", 2 if labels is None else len(labels))


def write_labels(num_classes: int) -> dict[str, Any]:
    """The fields that `num_labels` reads."""
    names = {str(index): f"LABEL_{index}" for index in range(num_classes)}
    return {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}
