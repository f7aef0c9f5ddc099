"""A head of classes on an encoder: the mean of the text, padding left out."""

import dataclasses

import jax
import numpy as np
import pytest

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.models import transformer

ENCODER = ModelConfig(
    structure="encoder", vocab_size=20, num_layers=2, width=16, num_heads=2,
    num_kv_heads=2, head_width=8, ff_width=24, context=8, tied=False,
    head_transform="norm", head_bias=True, logits_softcap=5.0,
)  # fmt: skip
CFG = transformer.classifier_of(ENCODER, 3)


@pytest.fixture(name="params", scope="module")
def _params():
    return transformer.make(CFG).init(jax.random.key(0))


def batch_of(rows, num_tokens):
    tokens = np.zeros((len(rows), num_tokens), np.int32)
    for number, row in enumerate(rows):
        tokens[number, : len(row)] = row
    lengths = np.array([len(row) for row in rows])[:, None]
    return {"tokens": tokens, "segment_ids": (np.arange(num_tokens) < lengths) * 1}


def test_logits_are_of_the_mean_of_the_text(params):
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases too
    rows = [[3, 4, 5], [6, 7, 8, 9, 1]]
    logits = transformer.classifier(CFG)(params, batch_of(rows, 8))
    assert logits.shape == (2, 3)
    for row, found in zip(rows, logits, strict=True):
        hidden = transformer.make(CFG).apply(params, batch_of([row], len(row)))
        mean = np.asarray(hidden.hidden_BTD[0], np.float64).mean(0)
        head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["head"])
        expected = mean @ head["head_DO"] + head["bias_O"]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_only_with_a_key(params):
    logits_fn = transformer.classifier(CFG, ComputeConfig(dropout=0.5))
    batch = batch_of([[3, 4, 5]], 4)
    plain = transformer.classifier(CFG)(params, batch)
    np.testing.assert_array_equal(logits_fn(params, batch), plain)
    dropped = logits_fn(params, batch, jax.random.key(0))
    assert np.abs(dropped - plain).max() > 1e-3


def test_a_new_head_leaves_the_trunk(params):
    old = transformer.make(ENCODER).init(jax.random.key(1))
    new = transformer.with_new_head(CFG, old, jax.random.key(2))
    assert jax.tree.structure(new) == jax.tree.structure(params)
    assert "dense_DM" in old["head"]  # what was given is as it was
    for name in ("embed", "blocks", "final_norm"):
        assert new[name] is old[name]
    assert np.abs(new["head"]["head_DO"]).max() > 0.01
    headless = dataclasses.replace(CFG, head="none")
    assert "head" not in transformer.with_new_head(headless, old, jax.random.key(2))
