"""BERT checkpoints (Devlin et al. 2019) and RoBERTa's (Liu et al. 2019).

Post-norm encoders that differ in how positions are counted and in what heads are named.
"""

import dataclasses
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import fields
from llmjax.interop.table import Family, Row

# What follows "Bert" or "Roberta" in the name of a class, and its head. The second head
# of ForPreTraining, next sentence or not, is passed over.
HEADS = {
    "Model": "none",
    "ForMaskedLM": "lm",
    "ForPreTraining": "lm",
    "ForSequenceClassification": "classes",
}
NEUTRAL = {
    "position_embedding_type": (None, "absolute"),
    "is_decoder": (None, False),
    "add_cross_attention": (None, False),
}


def _trunk(prefix: str) -> tuple[Row, ...]:
    H = f"{prefix}encoder.layer.{{l}}"
    A = "blocks/attention"
    return (
        Row(f"{prefix}embeddings.word_embeddings.weight", "embed/embed_VD", "VD"),
        Row(
            f"{prefix}embeddings.position_embeddings.weight",
            "embed/positions_TD",
            "TD",
        ),
        Row(f"{prefix}embeddings.token_type_embeddings.weight", "embed/types_YD", "YD"),
        Row(f"{prefix}embeddings.LayerNorm.weight", "embed/norm/scale_D", "D"),
        Row(f"{prefix}embeddings.LayerNorm.bias", "embed/norm/bias_D", "D"),
        Row(f"{H}.attention.self.query.weight", f"{A}/q_DNH", "(NH)D"),
        Row(f"{H}.attention.self.query.bias", f"{A}/q_bias_NH", "(NH)"),
        Row(f"{H}.attention.self.key.weight", f"{A}/k_DKH", "(KH)D"),
        Row(f"{H}.attention.self.key.bias", f"{A}/k_bias_KH", "(KH)"),
        Row(f"{H}.attention.self.value.weight", f"{A}/v_DKH", "(KH)D"),
        Row(f"{H}.attention.self.value.bias", f"{A}/v_bias_KH", "(KH)"),
        Row(f"{H}.attention.output.dense.weight", f"{A}/o_NHD", "D(NH)"),
        Row(f"{H}.attention.output.dense.bias", f"{A}/o_bias_D", "D"),
        Row(
            f"{H}.attention.output.LayerNorm.weight",
            "blocks/attention_norm/scale_D",
            "D",
        ),
        Row(
            f"{H}.attention.output.LayerNorm.bias", "blocks/attention_norm/bias_D", "D"
        ),
        Row(f"{H}.intermediate.dense.weight", "blocks/mlp/up_DF", "FD"),
        Row(f"{H}.intermediate.dense.bias", "blocks/mlp/up_bias_F", "F"),
        Row(f"{H}.output.dense.weight", "blocks/mlp/down_FD", "DF"),
        Row(f"{H}.output.dense.bias", "blocks/mlp/down_bias_D", "D"),
        Row(f"{H}.output.LayerNorm.weight", "blocks/mlp_norm/scale_D", "D"),
        Row(f"{H}.output.LayerNorm.bias", "blocks/mlp_norm/bias_D", "D"),
    )


def _lm(dense: str, norm: str, head: str) -> tuple[Row, ...]:
    # Untied, the class has two biases on the logits, of which it uses the decoder's.
    return (
        Row(f"{dense}.weight", "head/dense_DM", "MD", "head=lm"),
        Row(f"{dense}.bias", "head/dense_bias_M", "M", "head=lm"),
        Row(f"{norm}.weight", "head/norm/scale_D", "D", "head=lm"),
        Row(f"{norm}.bias", "head/norm/bias_D", "D", "head=lm"),
        Row(f"{head}.bias", "head/bias_V", "V", "head=lm and tied"),
        Row(f"{head}.decoder.weight", "head/head_DV", "VD", "head=lm and not tied"),
        Row(f"{head}.decoder.bias", "head/bias_V", "V", "head=lm and not tied"),
    )


def _pooler(name: str, when: str) -> tuple[Row, ...]:
    return (
        Row(f"{name}.weight", "head/dense_DM", "MD", when),
        Row(f"{name}.bias", "head/dense_bias_M", "M", when),
    )


def _classes(name: str) -> tuple[Row, ...]:
    return (
        Row(f"{name}.weight", "head/head_DO", "OD", "head=classes"),
        Row(f"{name}.bias", "head/bias_O", "O", "head=classes"),
    )


BERT_TABLE = (
    *_trunk("bert."),
    *_pooler("bert.pooler.dense", "head_transform=tanh"),
    *_lm(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions",
    ),
    *_classes("classifier"),
)
ROBERTA_TABLE = (
    *_trunk("roberta."),
    *_pooler("roberta.pooler.dense", "head=none and head_transform=tanh"),
    *_lm("lm_head.dense", "lm_head.layer_norm", "lm_head"),
    *_pooler("classifier.dense", "head=classes"),
    *_classes("classifier.out_proj"),
)


def read_bert(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json; ValueError names a field that is not right."""
    cfg = _read(config, "Bert")
    if cfg.head != "lm":
        return cfg
    activation = fields.activation(config, "hidden_act", "gelu")
    return dataclasses.replace(cfg, head_activation=activation)


def read_roberta(config: Mapping[str, Any], prefix: str = "Roberta") -> ModelConfig:
    """As `read_bert`. Positions are counted from the row after padding's id."""
    cfg = _read(config, prefix)
    padding_id = 1 if config.get("pad_token_id") is None else config["pad_token_id"]
    if type(padding_id) is not int or not 0 <= padding_id < cfg.vocab_size:
        raise ValueError(f"pad_token_id must be a token's id, got {padding_id!r}")
    if cfg.context <= padding_id + 1:
        raise ValueError(
            f"max_position_embeddings={cfg.context} leaves no position after "
            f"pad_token_id={padding_id}"
        )
    return dataclasses.replace(
        cfg,
        context=cfg.context - padding_id - 1,
        position_offset=padding_id + 1,
        position_skips_id=padding_id,
    )


def _read(config: Mapping[str, Any], prefix: str) -> ModelConfig:
    fields.check_neutral(config, NEUTRAL)
    head = fields.head(config, prefix, HEADS)
    width = fields.integer(config, "hidden_size", 768)
    num_heads = fields.integer(config, "num_attention_heads", 12)
    if width % num_heads:
        raise ValueError(
            f"num_attention_heads={num_heads} must divide hidden_size={width}"
        )
    tied = fields.boolean(config, "tie_word_embeddings", True)
    # Not a field of transformers, whose classes take it as an argument.
    pooled = head == "classes" or fields.boolean(config, "add_pooling_layer", True)
    vocab_size = {"Roberta": 50265, "Camembert": 32005}.get(prefix, 30522)
    return ModelConfig(
        structure="encoder",
        vocab_size=fields.integer(config, "vocab_size", vocab_size),
        num_layers=fields.integer(config, "num_hidden_layers", 12),
        width=width,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_width=width // num_heads,
        ff_width=fields.integer(config, "intermediate_size", 3072),
        context=fields.integer(config, "max_position_embeddings", 512),
        norm="layer",
        norm_eps=fields.number(config, "layer_norm_eps", 1e-12),
        norms="post",
        final_norm=False,
        activation=fields.activation(config, "hidden_act", "gelu"),
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        positions="learned",
        embed_norm=True,
        num_token_types=fields.integer(config, "type_vocab_size", 2),
        head=head,
        tied=tied or head != "lm",
        head_bias=head != "none",
        head_transform="norm" if head == "lm" else "tanh" if pooled else "none",
        num_classes=fields.num_labels(config) if head == "classes" else 2,
    )


def write_config(cfg: ModelConfig, model_type: str, prefix: str) -> dict[str, Any]:
    """The config.json of a ModelConfig, but for what reading cannot say back."""
    suffix = next(suffix for suffix, head in HEADS.items() if head == cfg.head)
    config = {
        "model_type": model_type,
        "architectures": [prefix + suffix],
        "vocab_size": cfg.vocab_size,
        "num_hidden_layers": cfg.num_layers,
        "hidden_size": cfg.width,
        "num_attention_heads": cfg.num_heads,
        "intermediate_size": cfg.ff_width,
        "max_position_embeddings": cfg.context + cfg.position_offset,
        "type_vocab_size": cfg.num_token_types,
        "layer_norm_eps": cfg.norm_eps,
        "hidden_act": fields.activation_name(cfg.activation),
        "tie_word_embeddings": cfg.tied,
        "pad_token_id": cfg.position_skips_id,
    }
    if cfg.head == "classes":
        config |= fields.write_labels(cfg.num_classes)
    if cfg.head == "none" and cfg.head_transform == "none":
        config["add_pooling_layer"] = False
    return config


def fit(cfg: ModelConfig, names: Collection[str]) -> ModelConfig:
    """Without a pooler where a plain model has none: no field has to say so."""
    if cfg.head != "none" or any("pooler." in name for name in names):
        return cfg
    return dataclasses.replace(cfg, head_transform="none")


def _buffers(prefix: str) -> tuple[str, ...]:
    return (
        f"{prefix}embeddings.position_ids",
        f"{prefix}embeddings.token_type_ids",
        # Of the pre-training task that was given up, or used by no head.
        f"{prefix}pooler.dense.weight",
        f"{prefix}pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
    )


def _aliases(head: str) -> tuple[tuple[str, str], ...]:
    return (
        ("LayerNorm.weight", "LayerNorm.gamma"),
        ("LayerNorm.bias", "LayerNorm.beta"),
        (f"{head}.bias", f"{head}.decoder.bias"),
        (f"{head}.decoder.bias", f"{head}.bias"),
    )


BERT = Family(
    prefix="bert.",
    table=BERT_TABLE,
    repeats=(
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ),
    buffers=(*_buffers("bert."), "cls.predictions.bias"),
    read_config=read_bert,
    write_config=partial(write_config, model_type="bert", prefix="Bert"),
    aliases=_aliases("cls.predictions"),
    fit=fit,
)


def _roberta(model_type: str, prefix: str) -> Family:
    return Family(
        prefix="roberta.",
        table=ROBERTA_TABLE,
        repeats=(
            ("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
            ("lm_head.decoder.bias", "lm_head.bias"),
        ),
        buffers=(*_buffers("roberta."), "lm_head.bias"),
        read_config=partial(read_roberta, prefix=prefix),
        write_config=partial(write_config, model_type=model_type, prefix=prefix),
        aliases=_aliases("lm_head"),
        fit=fit,
    )


FAMILIES = {
    "bert": BERT,
    "roberta": _roberta("roberta", "Roberta"),
    "xlm-roberta": _roberta("xlm-roberta", "XLMRoberta"),
    "camembert": _roberta("camembert", "Camembert"),
}
