"""What the checkpoints of Llama and its kin share: tensor names and config fields.

Their classes in transformers differ in norms, biases, windows and defaults, and give
one name to tensors that stand in different places: hence the conditions in the table.
Matrices are stored (out, in), the rows of queries and keys in rotate-half order.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmjax.config import Layer, ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

_H = "model.layers.{l}"
_A = f"{_H}.self_attn"
TABLE = (
    Row("model.embed_tokens.weight", "embed/embed_VD", "VD"),
    Row(
        f"{_H}.input_layernorm.weight",
        "blocks/attention_norm/scale_D",
        "D",
        "not norms=output",
    ),
    Row(f"{_A}.q_proj.weight", "blocks/attention/q_DNH", "(NH)D"),
    Row(f"{_A}.k_proj.weight", "blocks/attention/k_DKH", "(KH)D"),
    Row(f"{_A}.v_proj.weight", "blocks/attention/v_DKH", "(KH)D"),
    Row(f"{_A}.o_proj.weight", "blocks/attention/o_NHD", "D(NH)"),
    Row(f"{_A}.q_proj.bias", "blocks/attention/q_bias_NH", "(NH)", "qkv_bias"),
    Row(f"{_A}.k_proj.bias", "blocks/attention/k_bias_KH", "(KH)", "qkv_bias"),
    Row(f"{_A}.v_proj.bias", "blocks/attention/v_bias_KH", "(KH)", "qkv_bias"),
    Row(f"{_A}.o_proj.bias", "blocks/attention/o_bias_D", "D", "out_bias"),
    Row(f"{_A}.q_norm.weight", "blocks/attention/q_norm_H", "H", "qk_norm=head"),
    Row(f"{_A}.k_norm.weight", "blocks/attention/k_norm_H", "H", "qk_norm=head"),
    Row(f"{_A}.q_norm.weight", "blocks/attention/q_norm_NH", "(NH)", "qk_norm=full"),
    Row(f"{_A}.k_norm.weight", "blocks/attention/k_norm_KH", "(KH)", "qk_norm=full"),
    Row(
        f"{_H}.post_attention_layernorm.weight",
        "blocks/mlp_norm/scale_D",
        "D",
        "norms=pre",
    ),
    Row(
        f"{_H}.post_attention_layernorm.weight",
        "blocks/attention_norm/scale_D",
        "D",
        "norms=output",
    ),
    Row(
        f"{_H}.post_attention_layernorm.weight",
        "blocks/attention_out_norm/scale_D",
        "D",
        "norms=sandwich",
    ),
    Row(
        f"{_H}.pre_feedforward_layernorm.weight",
        "blocks/mlp_norm/scale_D",
        "D",
        "norms=sandwich",
    ),
    Row(
        f"{_H}.post_feedforward_layernorm.weight",
        "blocks/mlp_norm/scale_D",
        "D",
        "norms=output",
    ),
    Row(
        f"{_H}.post_feedforward_layernorm.weight",
        "blocks/mlp_out_norm/scale_D",
        "D",
        "norms=sandwich",
    ),
    Row(f"{_H}.mlp.gate_proj.weight", "blocks/mlp/gate_DF", "FD"),
    Row(f"{_H}.mlp.up_proj.weight", "blocks/mlp/up_DF", "FD"),
    Row(f"{_H}.mlp.down_proj.weight", "blocks/mlp/down_FD", "DF"),
    Row(f"{_H}.mlp.gate_proj.bias", "blocks/mlp/gate_bias_F", "F", "mlp_bias"),
    Row(f"{_H}.mlp.up_proj.bias", "blocks/mlp/up_bias_F", "F", "mlp_bias"),
    Row(f"{_H}.mlp.down_proj.bias", "blocks/mlp/down_bias_D", "D", "mlp_bias"),
    Row("model.norm.weight", "final_norm/scale_D", "D"),
    Row("lm_head.weight", "head/head_DV", "VD", "not tied"),
)

NEUTRAL = {"is_causal": (True,)}
MAX_LAYERS = 1000


def make_family(
    read_config: Callable[[Mapping[str, Any]], ModelConfig],
    write_config: Callable[[ModelConfig], dict[str, Any]],
) -> Family:
    """A family of this table."""
    return Family(
        prefix="model.",
        table=TABLE,
        repeats=(("lm_head.weight", "model.embed_tokens.weight"),),
        buffers=(f"{_A}.rotary_emb.inv_freq",),
        read_config=read_config,
        write_config=write_config,
    )


def read_sizes(
    config: Mapping[str, Any], activation: str = "hidden_act"
) -> dict[str, Any]:
    """The fields of ModelConfig that all read alike.

    config: with the class's defaults where config.json has no such field; what is null
      follows from other fields. activation: the name of that field.
    """
    fields.check_neutral(config, NEUTRAL)
    width = fields.integer(config, "hidden_size")
    num_heads = fields.integer(config, "num_attention_heads")
    return dict(
        vocab_size=fields.integer(config, "vocab_size"),
        num_layers=_num_layers(config),
        width=width,
        num_heads=num_heads,
        num_kv_heads=fields.integer(config, "num_key_value_heads", num_heads),
        head_width=fields.integer(config, "head_dim", width // num_heads),
        ff_width=fields.integer(config, "intermediate_size"),
        context=fields.integer(config, "max_position_embeddings"),
        norm="rms",
        norm_eps=fields.number(config, "rms_norm_eps"),
        activation=fields.activation(config, activation, ""),
        gated=True,
        positions="rope",
        tied=fields.boolean(config, "tie_word_embeddings", False),
    )


def write_sizes(
    cfg: ModelConfig, model_type: str, architecture: str, activation: str = "hidden_act"
) -> dict[str, Any]:
    """The fields that `read_sizes` reads."""
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.num_kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.ff_width,
        "max_position_embeddings": cfg.context,
        "rms_norm_eps": cfg.norm_eps,
        activation: fields.activation_name(cfg.activation),
        "tie_word_embeddings": cfg.tied,
        "pad_token_id": None,  # left out, it might lie beyond the vocabulary
    }


def read_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE, the same in all layers that have it."""
    theta, scaling = fields.read_rope(config)
    return {"rope_theta": theta, "rope_scaling": scaling}


def read_biases(config: Mapping[str, Any]) -> dict[str, bool]:
    """`attention_bias`: on queries, keys, values and output."""
    biased = fields.boolean(config, "attention_bias", False)
    return {"qkv_bias": biased, "out_bias": biased}


def read_windows(
    config: Mapping[str, Any], has_window: Callable[[int], bool]
) -> list[int | None]:
    """The window of each layer, by `layer_types`, or by `has_window` if that is null.

    has_window: whether the layer of this index has one. Their size is `sliding_window`.
    """
    num_layers, kinds = _num_layers(config), config.get("layer_types")
    if kinds is None:
        sliding = [has_window(index) for index in range(num_layers)]
    elif not isinstance(kinds, list) or len(kinds) != num_layers:
        raise ValueError(f"layer_types must be a list of {num_layers} names")
    else:
        for kind in kinds:
            if kind not in ("full_attention", "sliding_attention"):
                raise ValueError(
                    f"layer_types holds {kind!r}, which is not supported; known: "
                    "full_attention, sliding_attention"
                )
        sliding = [kind == "sliding_attention" for kind in kinds]
    width = fields.integer(config, "sliding_window") if any(sliding) else None
    return [width if is_sliding else None for is_sliding in sliding]


def write_windows(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that `read_windows` reads."""
    windows = [cfg.layer(index).window for index in range(cfg.num_layers)]
    return {
        "sliding_window": next((w for w in windows if w is not None), None),
        "layer_types": [
            "full_attention" if window is None else "sliding_attention"
            for window in windows
        ],
    }


def pattern(layers: Sequence[Layer]) -> dict[str, Any]:
    """`window` and `pattern` of ModelConfig for these layers, in the shortest form."""
    period = 1
    while any(layer != layers[i % period] for i, layer in enumerate(layers)):
        period += 1
    if period == 1 and layers[0].rope == "global":
        return {"window": layers[0].window}
    return {"pattern": tuple(layers[:period])}


def _num_layers(config: Mapping[str, Any]) -> int:
    num_layers = fields.integer(config, "num_hidden_layers")
    if num_layers > MAX_LAYERS:
        raise ValueError(f"num_hidden_layers={num_layers} must be at most {MAX_LAYERS}")
    return num_layers
