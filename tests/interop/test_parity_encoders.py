"""BERT, RoBERTa and ModernBERT compute what they compute in transformers.

Hidden states, logits and pooled vectors within 1e-4, in float32; see test_parity.py.
"""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from llmjax.config import Layer
from llmjax.interop import hf
from llmjax.models import transformer
from tests.interop.parity import BAR, CASES, GOLDEN, golden, run, worst

NAMES = (
    "bert",
    "bert_pooled",
    "bert_classes",
    "roberta",
    "roberta_classes",
    "modernbert",
    "modernbert_classes",
)


def config(name: str) -> dict:
    return json.loads((GOLDEN / name / "config.json").read_text())


def tensors(path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(path / hf.WEIGHTS)


def altered(name: str, path, arrays: dict, **fields):
    """A copy of a golden with other tensors, and other fields in config.json."""
    shutil.copytree(GOLDEN / name, path)
    safetensors.numpy.save_file(arrays, path / hf.WEIGHTS, metadata={"format": "pt"})
    (path / hf.CONFIG).write_text(json.dumps(config(name) | fields))
    return path


@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name):
    cfg, params = hf.load(GOLDEN / name)
    assert max(worst(cfg, params, golden(name, case)) for case in CASES) < BAR


@pytest.mark.parametrize("name", ["bert_pooled", "roberta", "modernbert"])
def test_equals_transformers_at_padding_too(name):
    """There a text is pooled that was padded on the left."""
    cfg, params = hf.load(GOLDEN / name)
    expected = golden(name, "left")
    for key, value in run(cfg, params, expected).items():
        assert abs(value - expected[key]).max() < BAR, key


def pattern(local: Layer) -> dict:
    return {"pattern": (Layer(), local)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("bert", {"activation": "gelu_tanh"}),
        ("bert", {"head_activation": "gelu_tanh"}),
        ("bert", {"norm_eps": 2e-3}),
        ("bert", {"structure": "decoder"}),
        ("bert_pooled", {"activation": "gelu"}),
        ("bert_pooled", {"pooling": "mean"}),
        ("bert_classes", {"norm_eps": 1e-3}),
        ("roberta", {"activation": "gelu"}),
        ("roberta", {"head_activation": "relu"}),
        ("roberta", {"position_offset": 3, "context": 16}),
        ("roberta", {"position_skips_id": None}),
        ("roberta_classes", {"position_skips_id": 0}),
        ("modernbert", {"activation": "gelu_tanh"}),
        ("modernbert", {"head_activation": "gelu_tanh"}),
        ("modernbert", {"norm_eps": 2e-3}),
        ("modernbert", {"rope_theta": 800.0}),
        ("modernbert", {"local_rope_theta": 22.0}),
        ("modernbert", pattern(Layer(window=3, rope="local"))),
        ("modernbert", pattern(Layer(window=5, rope="local"))),
        ("modernbert", pattern(Layer(window=4))),
        ("modernbert", {"first_norm": True}),
        ("modernbert_classes", {"pooling": "first"}),
        ("modernbert_classes", {"head_activation": "gelu"}),
    ],
    ids=str,
)
def test_wrong_config_is_noticed(name, change):
    cfg, params = hf.load(GOLDEN / name)
    wrong = dataclasses.replace(cfg, **change)
    assert worst(wrong, params, golden(name, "left")) > 2 * BAR


@pytest.mark.parametrize("name", ["bert", "modernbert_classes"])
def test_wrong_place_of_the_norms_is_noticed(name):
    cfg, params = hf.load(GOLDEN / name)
    norms = {"post": "pre", "pre": "post"}[cfg.norms]
    wrong = dataclasses.replace(cfg, norms=norms)
    assert worst(wrong, params, golden(name, "plain")) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_matters(name):
    cfg, params = hf.load(GOLDEN / name)
    expected = golden(name, "right")
    output = {"bert_pooled": "pooled"}.get(name, "logits")
    base = run(cfg, params, expected)[output]
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    for i, (path, leaf) in enumerate(flat):
        leaves = [value for _, value in flat]
        leaves[i] = leaf[::-1] if leaf.size == leaf.shape[0] else leaf[..., ::-1]
        if leaf.size == 1:
            leaves[i] = leaf + 1
        moved = run(cfg, tree.unflatten(leaves), expected)[output]
        is_key_bias = "k_bias" in jax.tree_util.keystr(path)
        # Without RoPE, softmax takes a key bias away again.
        ineffective = is_key_bias and cfg.positions != "rope"
        assert ineffective or abs(moved - base).max() > BAR, path


@pytest.mark.parametrize("name", NAMES)
def test_tree_is_the_model_s_own(name):
    cfg, params = hf.load(GOLDEN / name)
    expected = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_the_imported_bytes(name, tmp_path):
    cfg, params = hf.load(GOLDEN / name)
    hf.save_like(tmp_path / "like", params, GOLDEN / name)
    original = (GOLDEN / name / hf.WEIGHTS).read_bytes()
    assert (tmp_path / "like" / hf.WEIGHTS).read_bytes() == original
    family = config(name)["model_type"]
    hf.save(tmp_path / "new", cfg, params, family=family, max_shard_bytes=9000)
    again_cfg, again = hf.load(tmp_path / "new")
    assert again_cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("name", NAMES)
def test_both_dialects_give_equal_configs(name):
    v4 = json.loads((GOLDEN / name / "config_v4.json").read_text())
    assert v4 != config(name)
    assert hf.config_from_json(v4) == hf.config_from_json(config(name))


def pretraining(arrays):
    """The first BERT checkpoints: both tasks, the head twice, old names of norms."""
    arrays["cls.predictions.decoder.weight"] = arrays[
        "bert.embeddings.word_embeddings.weight"
    ]
    arrays["cls.predictions.decoder.bias"] = arrays["cls.predictions.bias"]
    arrays["cls.seq_relationship.weight"] = np.ones((2, 24), np.float32)
    arrays["cls.seq_relationship.bias"] = np.ones(2, np.float32)
    arrays["bert.pooler.dense.weight"] = np.ones((24, 24), np.float32)
    arrays["bert.pooler.dense.bias"] = np.ones(24, np.float32)
    arrays["bert.embeddings.position_ids"] = np.arange(17)[None]
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): array
        for name, array in arrays.items()
    }


def test_old_names_and_the_heads_of_pretraining(tmp_path):
    arrays = pretraining(tensors(GOLDEN / "bert"))
    hub = altered(
        "bert", tmp_path / "hub", arrays, architectures=["BertForPreTraining"]
    )
    cfg, params = hf.load(hub)
    expected_cfg, expected = hf.load(GOLDEN / "bert")
    assert cfg == expected_cfg
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    hf.save_like(tmp_path / "out", params, hub)
    written = (tmp_path / "out" / hf.WEIGHTS).read_bytes()
    assert written == (hub / hf.WEIGHTS).read_bytes()


def test_the_bias_that_an_untied_head_uses_is_the_decoder_s(tmp_path):
    arrays = tensors(GOLDEN / "roberta")
    assert (arrays["lm_head.bias"] != arrays["lm_head.decoder.bias"]).any()
    _, params = hf.load(GOLDEN / "roberta")
    bias = arrays["lm_head.decoder.bias"]
    np.testing.assert_array_equal(params["head"]["bias_V"], bias)
    del arrays["lm_head.decoder.bias"]  # transformers v4 wrote one bias
    _, params = hf.load(altered("roberta", tmp_path / "v4", arrays))
    np.testing.assert_array_equal(params["head"]["bias_V"], arrays["lm_head.bias"])


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_plain_model_with_or_without_pooler_and_prefix(prefix, tmp_path):
    arrays = tensors(GOLDEN / "bert_pooled")
    arrays = {prefix + name: array for name, array in arrays.items()}
    expected = golden("bert_pooled", "plain")
    whole = altered("bert_pooled", tmp_path / "whole", arrays)
    assert worst(*hf.load(whole), expected) < BAR
    arrays = {name: array for name, array in arrays.items() if "pooler" not in name}
    cfg, params = hf.load(altered("bert_pooled", tmp_path / "bare", arrays))
    assert cfg.head_transform == "none" and "head" not in params
    del expected["pooled"]
    assert worst(cfg, params, expected) < BAR
    hf.save(tmp_path / "new", cfg, params, family="bert")
    assert hf.load(tmp_path / "new")[0] == cfg


ROPE = {"rope_type": "linear", "factor": 2.0}
HONOURED = [
    ("bert", "type_vocab_size", 1, {"num_token_types": 1}),
    ("bert", "hidden_act", "relu", {"activation": "relu", "head_activation": "relu"}),
    ("bert", "pad_token_id", 7, {}),
    ("bert", "chunk_size_feed_forward", 3, {}),
    ("bert", "position_embedding_type", "absolute", {}),
    ("bert_classes", "num_labels", 2, {"num_classes": 2}),
    ("bert_classes", "id2label", {"0": "x"}, {"num_classes": 1}),
    ("bert_classes", "id2label", None, {"num_classes": 2}),
    ("bert_classes", "problem_type", "multi_label_classification", {}),
    ("bert_pooled", "architectures", None, {}),
    ("bert_pooled", "add_pooling_layer", False, {"head_transform": "none"}),
    ("roberta", "hidden_act", "silu", {"activation": "silu"}),
    ("roberta", "pad_token_id", 0,
     {"position_skips_id": 0, "position_offset": 1, "context": 18}),
    ("modernbert", "local_attention", 7, {}),
    ("modernbert", "local_attention", 8, pattern(Layer(5, "local"))),
    ("modernbert", "sliding_window", 4, pattern(Layer(5, "local"))),
    ("modernbert", "layer_types", ["full_attention"] * 4, {"pattern": ()}),
    ("modernbert", "layer_types", ["sliding_attention"] * 4,
     {"pattern": (Layer(4, "local"),)}),
    ("modernbert", "rope_parameters", None,
     {"rope_theta": 160000.0, "local_rope_theta": 10000.0}),
    ("modernbert", "decoder_bias", False, {"head_bias": False}),
    ("modernbert", "classifier_bias", True, {"head_transform_bias": True}),
    ("modernbert", "classifier_activation", "relu", {"head_activation": "relu"}),
    ("modernbert", "norm_bias", True, {"norm_bias": True}),
    ("modernbert", "sparse_prediction", True, {}),
    ("modernbert_classes", "classifier_pooling", "cls", {"pooling": "first"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "changes"), HONOURED, ids=str)
def test_field_is_honoured(name, field, value, changes):
    cfg = hf.config_from_json(config(name))
    changed = hf.config_from_json(config(name) | {field: value})
    assert changed == dataclasses.replace(cfg, **changes)


def test_bases_and_scalings_of_each_kind_of_layer_survive():
    rope = {
        "full_attention": ROPE | {"rope_theta": 300.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
    }
    cfg = hf.config_from_json(config("modernbert") | {"rope_parameters": rope})
    assert (cfg.rope_theta, cfg.rope_scaling.factor) == (300.0, 2.0)
    assert (cfg.local_rope_theta, cfg.local_rope_scaling) == (30.0, None)
    assert hf.config_from_json(hf.config_to_json(cfg, "modernbert")) == cfg
    v4 = {"rope_parameters": None, "global_rope_theta": 77.0, "local_rope_theta": None}
    cfg = hf.config_from_json(config("modernbert") | v4)
    assert (cfg.rope_theta, cfg.local_rope_theta) == (77.0, 77.0)


REFUSED = [
    ("bert", "position_embedding_type", "relative_key", "position_embedding_type="),
    ("bert", "is_decoder", True, "is_decoder=True"),
    ("bert", "add_cross_attention", True, "add_cross_attention=True"),
    ("bert", "architectures", ["BertForTokenClassification"], "known: BertModel"),
    ("bert", "architectures", "BertModel", "architectures='BertModel'"),
    ("bert", "num_attention_heads", 5, "must divide hidden_size=24"),
    ("bert", "hidden_act", "quick_gelu", "hidden_act='quick_gelu'"),
    ("bert", "type_vocab_size", 0, "type_vocab_size must be"),
    ("bert_classes", "id2label", {}, "num_labels must be a positive"),
    ("bert_classes", "id2label", 3, "id2label must be an object"),
    ("roberta", "pad_token_id", -1, "pad_token_id must be a token's id"),
    ("roberta", "pad_token_id", 61, "pad_token_id must be a token's id"),
    ("roberta", "max_position_embeddings", 4, "leaves no position"),
    ("modernbert", "layer_types", ["full_attention"], "layer_types must be 4 times"),
    ("modernbert", "layer_types", ["chunked"] * 4, "layer_types must be 4 times"),
    ("modernbert", "rope_parameters", {"rope_theta": 3.0}, "must be by layer type"),
    ("modernbert", "rope_scaling", {"type": "linear"}, "must say its rope_type"),
    ("modernbert", "rope_scaling", {"rope_type": "dynamic"}, "rope_type='dynamic'"),
    ("modernbert", "head_dim", 6, "head_dim=6 must be 4"),
    ("modernbert", "local_attention", -1, "local_attention must be"),
    ("modernbert_classes", "classifier_pooling", "max", "classifier_pooling='max'"),
    ("modernbert_classes", "num_labels", 0, "num_labels must be"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "message"), REFUSED, ids=str)
def test_field_is_refused_by_name(name, field, value, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config(name) | {field: value}))
    with pytest.raises(ValueError, match=message) as caught:
        hf.load(tmp_path)
    assert "config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("bert", "cls.predictions.bias"),
        ("bert", "bert.embeddings.LayerNorm.weight"),
        ("bert_pooled", "pooler.dense.weight"),
        ("roberta", "lm_head.decoder.weight"),
        ("roberta_classes", "classifier.dense.bias"),
        ("modernbert", "head.norm.weight"),
        ("modernbert", "model.layers.1.attn_norm.weight"),
    ],
)
def test_missing_tensor_is_named(name, tensor, tmp_path):
    arrays = tensors(GOLDEN / name)
    del arrays[tensor]
    with pytest.raises(ValueError, match=f"{tensor}' is missing"):
        hf.load(altered(name, tmp_path / "hub", arrays))


def test_tensors_of_another_head_are_refused(tmp_path):
    arrays = tensors(GOLDEN / "bert_classes")
    architectures = ["BertForMaskedLM"]
    path = altered(
        "bert_classes", tmp_path / "hub", arrays, architectures=architectures
    )
    with pytest.raises(ValueError, match=r"cls.predictions.* is missing"):
        hf.load(path)


def test_a_single_layer_whose_norm_is_left_out(tmp_path):
    """The first layer of ModernBERT has no norm before attention; here it is all."""
    fields = config("modernbert") | {"num_hidden_layers": 1, "layer_types": None}
    cfg = hf.config_from_json(fields)
    params = transformer.make(cfg).init(jax.random.key(0))
    hf.save(tmp_path / "one", cfg, params, family="modernbert")
    again_cfg, again = hf.load(tmp_path / "one")
    assert again_cfg == cfg
    logits = run(cfg, again, {"input_ids": np.arange(12)[None]})["logits"]
    assert np.isfinite(logits).all()
