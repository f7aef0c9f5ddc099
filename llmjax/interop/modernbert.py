"""ModernBERT checkpoints (Warner et al. 2024).

A pre-norm encoder with RoPE, gated feed-forward layers, and attention that is local in
most layers, with a rotary base of its own there.
"""

from collections.abc import Mapping
from typing import Any

from llmjax.config import Layer, ModelConfig, RopeScaling
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

HEADS = {"Model": "none", "ForMaskedLM": "lm", "ForSequenceClassification": "classes"}
POOLING = {"cls": "first", "mean": "mean"}
FULL, LOCAL = "full_attention", "sliding_attention"

_H = "model.layers.{l}"
_A, _M = "blocks/attention", "blocks/mlp"
TABLE = (
    Row("model.embeddings.tok_embeddings.weight", "embed/embed_VD", "VD"),
    Row("model.embeddings.norm.weight", "embed/norm/scale_D", "D"),
    Row("model.embeddings.norm.bias", "embed/norm/bias_D", "D", "norm_bias"),
    # The embeddings are normalised already when the first layer reads them.
    Row(f"{_H}.attn_norm.weight", "blocks/attention_norm/scale_D", "D", first=1),
    Row(f"{_H}.attn_norm.bias", "blocks/attention_norm/bias_D", "D", "norm_bias", 1),
    Row(f"{_H}.attn.Wqkv.weight", f"{_A}/q_DNH {_A}/k_DKH {_A}/v_DKH", "(3NH)D"),
    Row(
        f"{_H}.attn.Wqkv.bias",
        f"{_A}/q_bias_NH {_A}/k_bias_KH {_A}/v_bias_KH",
        "(3NH)",
        "qkv_bias",
    ),
    Row(f"{_H}.attn.Wo.weight", f"{_A}/o_NHD", "D(NH)"),
    Row(f"{_H}.attn.Wo.bias", f"{_A}/o_bias_D", "D", "out_bias"),
    Row(f"{_H}.mlp_norm.weight", "blocks/mlp_norm/scale_D", "D"),
    Row(f"{_H}.mlp_norm.bias", "blocks/mlp_norm/bias_D", "D", "norm_bias"),
    Row(f"{_H}.mlp.Wi.weight", f"{_M}/gate_DF {_M}/up_DF", "(2F)D"),
    Row(f"{_H}.mlp.Wi.bias", f"{_M}/gate_bias_F {_M}/up_bias_F", "(2F)", "mlp_bias"),
    Row(f"{_H}.mlp.Wo.weight", f"{_M}/down_FD", "DF"),
    Row(f"{_H}.mlp.Wo.bias", f"{_M}/down_bias_D", "D", "mlp_bias"),
    Row("model.final_norm.weight", "final_norm/scale_D", "D"),
    Row("model.final_norm.bias", "final_norm/bias_D", "D", "norm_bias"),
    Row("head.dense.weight", "head/dense_DM", "MD", "not head=none"),
    Row(
        "head.dense.bias",
        "head/dense_bias_M",
        "M",
        "not head=none and head_transform_bias",
    ),
    Row("head.norm.weight", "head/norm/scale_D", "D", "not head=none"),
    Row("head.norm.bias", "head/norm/bias_D", "D", "not head=none and norm_bias"),
    Row("decoder.weight", "head/head_DV", "VD", "head=lm and not tied"),
    Row("decoder.bias", "head/bias_V", "V", "head=lm and head_bias"),
    Row("classifier.weight", "head/head_DO", "OD", "head=classes"),
    Row("classifier.bias", "head/bias_O", "O", "head=classes"),
)


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    fields.check_neutral(config, {})
    head = fields.head(config, "ModernBert", HEADS)
    width = fields.integer(config, "hidden_size", 768)
    num_heads = fields.integer(config, "num_attention_heads", 12)
    if width % num_heads:
        raise ValueError(
            f"num_attention_heads={num_heads} must divide hidden_size={width}"
        )
    if config.get("head_dim") not in (None, width // num_heads):
        raise ValueError(
            f"head_dim={config['head_dim']!r} must be {width // num_heads}"
        )
    num_layers = fields.integer(config, "num_hidden_layers", 22)
    theta, scaling = _rope(config, FULL, "global_rope_theta", 160000.0)
    # A null meant the global base.
    local_default = theta if config.get("local_rope_theta", 0) is None else 10000.0
    local_theta, local_scaling = _rope(config, LOCAL, "local_rope_theta", local_default)
    biased = fields.boolean(config, "attention_bias", False)
    has_bias = head == "classes" or fields.boolean(config, "decoder_bias", True)
    tied = fields.boolean(config, "tie_word_embeddings", True)
    return ModelConfig(
        structure="encoder",
        vocab_size=fields.integer(config, "vocab_size", 50368),
        num_layers=num_layers,
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=width // num_heads,
        ff_width=fields.integer(config, "intermediate_size", 1152),
        context=fields.integer(config, "max_position_embeddings", 8192),
        norm="layer",
        norm_eps=fields.number(config, "norm_eps", 1e-5),
        norm_bias=fields.boolean(config, "norm_bias", False),
        first_norm=False,
        activation=fields.activation(config, "hidden_activation", "gelu"),
        gated=True,
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=fields.boolean(config, "mlp_bias", False),
        pattern=_pattern(config, num_layers),
        positions="rope",
        rope_theta=theta,
        rope_scaling=scaling,
        local_rope_theta=local_theta,
        local_rope_scaling=local_scaling,
        embed_norm=True,
        head=head,
        tied=tied or head != "lm",
        **(_read_head(config) if head != "none" else {}),
        head_bias=has_bias and head != "none",
        pooling=_pooling(config) if head == "classes" else "first",
        num_classes=fields.num_labels(config) if head == "classes" else 2,
    )


def _read_head(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "head_transform": "norm",
        "head_transform_bias": fields.boolean(config, "classifier_bias", False),
        "head_activation": fields.activation(config, "classifier_activation", "gelu"),
    }


def _pooling(config: Mapping[str, Any]) -> str:
    name = config.get("classifier_pooling", "cls")
    if name not in [*POOLING]:
        raise ValueError(
            f"classifier_pooling={name!r} is not supported; known: {', '.join(POOLING)}"
        )
    return POOLING[name]


def _rope(
    config: Mapping[str, Any], kind: str, old_name: str, default: float
) -> tuple[float, RopeScaling | None]:
    """Base and scaling of one kind of layer.

    transformers v4 wrote a field for each base, v5 writes rope_parameters by kind.
    """
    nested, scaling = config.get("rope_parameters") or {}, config.get("rope_scaling")
    if not isinstance(nested, dict) or not nested.keys() <= {FULL, LOCAL}:
        raise ValueError(f"rope_parameters must be by layer type: {FULL}, {LOCAL}")
    if scaling and not (isinstance(scaling, dict) and "rope_type" in scaling):
        raise ValueError(f"rope_scaling={scaling!r} must say its rope_type")
    rope = nested.get(kind) or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters: {kind} must be an object")
    length = fields.integer(config, "max_position_embeddings", 8192)
    return fields.read_rope(
        {
            "rope_parameters": rope | (scaling or {}),
            "rope_theta": fields.number(config, old_name, default),
            "max_position_embeddings": length,
        }
    )


def _pattern(config: Mapping[str, Any], num_layers: int) -> tuple[Layer, ...]:
    """The kinds of layers up to where they repeat; empty if all see everything."""
    every = fields.integer(config, "global_attn_every_n_layers", 3)
    kinds = config.get("layer_types")
    if kinds is None:
        kinds = [LOCAL if i % every else FULL for i in range(num_layers)]
    if (
        not isinstance(kinds, list)
        or len(kinds) != num_layers
        or any(kind not in (FULL, LOCAL) for kind in kinds)
    ):
        raise ValueError(
            f"layer_types must be {num_layers} times {FULL!r} or {LOCAL!r}"
        )
    # The field is the width of both sides together; `sliding_window`, of one side.
    half = fields.integer(config, "local_attention", 128) // 2
    if config.get("sliding_window") is not None:
        half = fields.integer(config, "sliding_window")
    layers = [Layer(half + 1, "local") if kind == LOCAL else Layer() for kind in kinds]
    period = next(
        size
        for size in range(1, num_layers + 1)
        if all(layers[i] == layers[i % size] for i in range(num_layers))
    )
    return () if layers[:period] == [Layer()] else tuple(layers[:period])


def write_config(cfg: ModelConfig) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what `read_config` cannot say back."""
    suffix = next(suffix for suffix, head in HEADS.items() if head == cfg.head)
    layers = [cfg.layer(index) for index in range(cfg.num_layers)]
    window = next((layer.window for layer in layers if layer.window), 65)
    pooling = next(name for name, ours in POOLING.items() if ours == cfg.pooling)
    config = {
        "model_type": "modernbert",
        "architectures": [f"ModernBert{suffix}"],
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.ff_width,
        "max_position_embeddings": cfg.context,
        "norm_eps": cfg.norm_eps,
        "norm_bias": cfg.norm_bias,
        "attention_bias": cfg.qkv_bias,
        "mlp_bias": cfg.mlp_bias,
        "decoder_bias": cfg.head_bias or cfg.head != "lm",
        "hidden_activation": fields.activation_name(cfg.activation),
        "classifier_activation": fields.activation_name(cfg.head_activation),
        "classifier_bias": cfg.head_transform_bias and cfg.head != "none",
        "classifier_pooling": pooling,
        "tie_word_embeddings": cfg.tied,
        "local_attention": max(1, 2 * window - 2),
        "global_attn_every_n_layers": cfg.period,
        "layer_types": [LOCAL if layer.rope == "local" else FULL for layer in layers],
        "pad_token_id": None,
        "cls_token_id": None,
        "sep_token_id": None,
        **_write_rope(cfg),
    }
    if cfg.head == "classes":
        config |= fields.write_labels(cfg.num_classes)
    return config


def _write_rope(cfg: ModelConfig) -> dict[str, Any]:
    bases = {
        FULL: ("global_rope_theta", cfg.rope_theta, cfg.rope_scaling),
        LOCAL: ("local_rope_theta", cfg.local_rope_theta, cfg.local_rope_scaling),
    }
    config: dict[str, Any] = {"rope_parameters": {}}
    for kind, (name, theta, scaling) in bases.items():
        one = ModelConfig(rope_theta=theta, rope_scaling=scaling)
        rope = fields.write_rope(one)["rope_scaling"] or {"rope_type": "default"}
        config["rope_parameters"][kind] = rope | {"rope_theta": theta}
        config[name] = theta
    return config


FAMILY = Family(
    prefix="model.",
    table=TABLE,
    repeats=(("decoder.weight", "model.embeddings.tok_embeddings.weight"),),
    buffers=(f"{_H}.attn.rotary_emb.inv_freq",),
    read_config=read_config,
    write_config=write_config,
)
