"""Fields of config.json of the decoder families: honoured, or refused by name."""

import dataclasses
import json
import math

import pytest

from llmjax.config import Layer, RopeScaling
from llmjax.interop import hf
from tests.interop.parity import GOLDEN


def config(name: str) -> dict:
    return json.loads((GOLDEN / name / hf.CONFIG).read_text())


FIELDS = [
    ("llama_biased", "rope_scaling", {"type": "yarn", "factor": 4, "mscale": 2,
        "mscale_all_dim": 1, "original_max_position_embeddings": 9}, {
        "rope_theta": 1e4, "rope_scaling": RopeScaling(
            "yarn", 4.0, original_context=9,
            amplitude=(0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1))}),
    ("gpt_neox", "use_parallel_residual", False, {"parallel": False}),
    ("gpt_neox", "attention_bias", False, {"qkv_bias": False, "out_bias": False}),
    ("gpt_neox", "rope_parameters", {"partial_rotary_factor": 1.0}, {
        "rope_width": None, "rope_theta": 1e4}),
    ("mistral", "sliding_window", None, {"window": None}),
    ("mistral", "num_key_value_heads", None, {"num_kv_heads": 4}),
    ("qwen2", "layer_types", None, {"pattern": (Layer(), Layer(5), Layer(5))}),
    ("qwen2", "layer_types", ["full_attention"] * 3, {"pattern": ()}),
    ("qwen3", "layer_types", ["sliding_attention"] * 3, {"pattern": (), "window": 4}),
    ("gemma", "hidden_act", "gelu", {}),
    ("gemma", "hidden_act", "gelu_python", {"activation": "gelu"}),
    ("gemma2", "attn_logit_softcapping", None, {"attention_softcap": None}),
    ("gemma2", "query_pre_attn_scalar", 8, {"attention_scale": None}),
    ("gemma3_text", "attn_logit_softcapping", 50.0, {}),
    ("gemma3_text", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, {
        "rope_scaling": RopeScaling("linear", 2.0)}),
    ("smollm3", "no_rope_layers", [0, 1, 1, 1], {
        "pattern": (Layer(rope="none"), Layer(4), Layer())}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "changes"), FIELDS, ids=str)
def test_field_is_honoured(name, field, value, changes):
    cfg = hf.config_from_json(config(name))
    changed = hf.config_from_json(config(name) | {field: value})
    assert changed == dataclasses.replace(cfg, **changes)
    family = config(name)["model_type"]
    assert hf.config_from_json(hf.config_to_json(changed, family)) == changed


REFUSED = [
    ("llama_tied", "is_causal", False, "is_causal=False"),
    ("llama_tied", "num_hidden_layers", 10**6, "num_hidden_layers=1000000 must be at"),
    ("gpt_neox", "num_attention_heads", 5, "num_attention_heads=5 must divide 24"),
    ("gpt_neox", "head_dim", 7, "head_dim=7"),
    ("gpt_neox", "rope_scaling", {"partial_rotary_factor": 0.01}, "turns nothing"),
    ("gpt_neox", "rope_scaling", {"partial_rotary_factor": 2}, "must be at most 1"),
    ("mistral", "layer_types", ["full_attention"] * 3, "layer_types="),
    ("mistral", "sliding_window", 0, "sliding_window must be a positive integer"),
    ("qwen2", "layer_types", ["full_attention"], "layer_types must be a list of 3"),
    ("qwen2", "layer_types", ["chunked_attention"] * 3, "holds 'chunked_attention'"),
    ("qwen2", "use_sliding_window", False, "sliding_window must be a positive"),
    ("qwen3", "sliding_window", None, "sliding_window must be a positive integer"),
    ("qwen3", "max_window_layers", -1, "max_window_layers must be a whole number"),
    ("gemma", "use_bidirectional_attention", True, "use_bidirectional_attention="),
    ("gemma", "hidden_activation", "relu", "hidden_activation must be null"),
    ("gemma2", "attn_logit_softcapping", 0, "attn_logit_softcapping must be"),
    ("gemma2", "hidden_activation", "mish", "hidden_activation='mish'"),
    ("gemma3_text", "rope_parameters", {"rope_theta": 5}, "must be two objects"),
    ("gemma3_text", "rope_scaling", {"type": "linear", "factor": 2}, "be called"),
    ("gemma3_text", "use_bidirectional_attention", True, "use_bidirectional_attention"),
    ("smollm3", "no_rope_layers", [1], "no_rope_layers must be a list of 3"),
    ("smollm3", "no_rope_layers", [1, 2, 0], "must hold 0 and 1 only, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "message"), REFUSED, ids=str)
def test_field_is_refused_by_name(name, field, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        hf.config_from_json(config(name) | {field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "family",
    [
        "gpt_neox", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text",
        "olmo2", "smollm3",
    ],
)  # fmt: skip
def test_the_class_s_defaults_stand_for_what_is_left_out(family):
    cfg = hf.config_from_json({"model_type": family})
    written = hf.config_to_json(cfg, family)
    assert hf.config_from_json(written) == cfg
    theta = {"gemma3_text": 1e6, "smollm3": 2e6}.get(family, 1e4)
    assert cfg.rope_theta == theta
    assert cfg.tied == (family.startswith("gemma") or family == "smollm3")
