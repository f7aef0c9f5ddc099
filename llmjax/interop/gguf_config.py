"""What GGUF files of each architecture say, in the words of Hugging Face checkpoints.

Names of tensors and metadata as llama.cpp's converter writes them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from llmjax.interop import fields
from llmjax.interop.safetensors import Tensor


class Architecture(NamedTuple):
    """How the files of one architecture differ from the checkpoints of a family.

    in_pairs: the rows of queries and keys stand so that (2i, 2i + 1) are rotated.
    norm_shift: what was added to the weights of norms.
    names: of tensors, where not those of `NAMES`.
    fields: of metadata to those of config.json, beside `FIELDS`.
    large: the number of layers of the one size whose attention is not scaled by the
      width of a head; the file does not say so.
    """

    family: str
    in_pairs: bool = False
    norm_shift: float = 0.0
    names: Mapping[str, str] = {}
    fields: Mapping[str, str] = {}
    large: int | None = None


NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SANDWICH = {"ffn_norm": "pre_feedforward_layernorm"}
CAPPED = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
ARCHITECTURES = {
    "llama": Architecture("llama", in_pairs=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "gemma": Architecture("gemma", norm_shift=1.0),
    "gemma2": Architecture(
        "gemma2", norm_shift=1.0, names=SANDWICH, fields=CAPPED, large=46
    ),
    "gemma3": Architecture(
        "gemma3_text",
        norm_shift=1.0,
        names=SANDWICH,
        fields={**CAPPED, "rope.freq_base_swa": "rope_local_base_freq"},
        large=62,
    ),
    "olmo2": Architecture("olmo2"),
    "smollm3": Architecture("smollm3", in_pairs=True),
}

# Metadata under the architecture's name to fields of config.json.
FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
OPTIONAL = {
    "attention.head_count_kv": None,  # as many as there are heads
    "context_length": 2048,
    "rope.freq_base": 10000.0,
}
SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
HEAD_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
# Metadata that our models compute nothing for, and the values that need nothing.
FIXED = {
    "attention.causal": True,
    "attention.scale": 0,
    "attention.sliding_window": 0,
    "attention.sliding_window_pattern": None,
    "attn_logit_softcapping": 0,
    "embedding_scale": 0,
    "expert_count": 0,
    "final_logit_softcapping": 0,
    "logit_scale": 0,
    "residual_scale": 0,
    "rope.scaling.attn_factor": 1,
    "rope.scaling.yarn_attn_factor": 1,
    "rope.scaling.yarn_ext_factor": 1,
    "rope.scaling.yarn_log_multiplier": 0,
    "use_parallel_residual": False,
}


def architecture(metadata: Mapping[str, Any]) -> Architecture:
    """That of a file; ValueError where it is not known."""
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"general.architecture={name!r} is not known; known: {known}")
    return ARCHITECTURES[name]


def config_json(
    metadata: Mapping[str, Any], found: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The config.json that says the same as the metadata."""
    arch, prefix = architecture(metadata), f"{metadata['general.architecture']}."
    ours = {
        key.removeprefix(prefix): _shortest(value) for key, value in metadata.items()
    }
    for name, neutral in FIXED.items():
        if name not in arch.fields and ours.get(name, neutral) != neutral:
            raise ValueError(f"{prefix}{name}={ours[name]!r} is not supported")
    for name in FIELDS:
        if name not in ours and name not in OPTIONAL:
            raise ValueError(f"{prefix}{name} is missing")
    if "token_embd.weight" not in found:
        raise ValueError("tensor 'token_embd.weight' is missing")
    head_widths = [ours[name] for name in HEAD_WIDTHS if name in ours]
    if head_widths and head_widths != head_widths[:1] * len(head_widths):
        raise ValueError(f"{', '.join(HEAD_WIDTHS)} differ, which is not supported")
    config = {
        theirs: ours[name] for name, theirs in arch.fields.items() if name in ours
    }
    for name, theirs in FIELDS.items():
        config[theirs] = ours.get(name, OPTIONAL.get(name))
    config |= {
        "model_type": arch.family,
        "vocab_size": found["token_embd.weight"].shape[0],
        "head_dim": head_widths[0] if head_widths else None,
        "rope_scaling": _scaling(ours),
        "tie_word_embeddings": "output.weight" not in found,
        "attention_bias": "blk.0.attn_q.bias" in found,
        "mlp_bias": "blk.0.ffn_up.bias" in found,
    }
    if arch.large is not None:
        config["query_pre_attn_scalar"] = _scalar(config, arch)
        if "sliding_window" not in config:
            config["sliding_window_pattern"] = 1  # no layer has a window
    return config


def _scaling(ours: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = ours.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    given = {
        theirs: ours[f"rope.scaling.{name}"]
        for name, theirs in SCALING.items()
        if f"rope.scaling.{name}" in ours
    }
    return {"rope_type": kind, **given}


def _scalar(config: Mapping[str, Any], arch: Architecture) -> int:
    """Gemma's scores are divided by the root of it."""
    width = fields.integer(config, "hidden_size")
    by_width = width // fields.integer(config, "num_attention_heads")
    if config["num_hidden_layers"] == arch.large:
        return by_width
    return fields.integer(config, "head_dim", by_width)


def _shortest(value: Any) -> Any:
    """The shortest decimal of a number that was stored as float32: 1e-05 again."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
