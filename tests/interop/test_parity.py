"""Logits and hidden states of imported checkpoints equal those of transformers.

The goldens are made by tools/make_golden.py. The bar is 1e-4 absolute, in float32, on
every position that is not padding.
"""

import dataclasses

import jax
import numpy as np
import pytest

from llmjax.interop import hf
from tests.interop.parity import BAR, CASES, GOLDEN, golden, run, worst

NAMES = ("gpt2", "llama_tied", "llama_biased")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_equals_transformers(name, case):
    cfg, params = hf.load(GOLDEN / name)
    assert worst(cfg, params, golden(name, case)) < BAR


def scaling(name: str, **changes) -> dict:
    cfg, _ = hf.load(GOLDEN / name)
    return {"rope_scaling": dataclasses.replace(cfg.rope_scaling, **changes)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2", {"activation": "gelu"}),
        ("gpt2", {"norm_eps": 2e-3}),
        ("gpt2", {"attention_scale": 1.0}),
        ("llama_tied", {"activation": "gelu"}),
        ("llama_tied", {"norm_eps": 1e-3}),
        ("llama_tied", {"rope_theta": 1000.0}),
        ("llama_tied", {"rope_scaling": None}),
        ("llama_tied", scaling("llama_tied", factor=2.0)),
        ("llama_biased", {"activation": "gelu_tanh"}),
        ("llama_biased", {"norm_eps": 1e-3}),
        ("llama_biased", {"rope_theta": 600.0}),
        ("llama_biased", scaling("llama_biased", factor=4.0)),
        ("llama_biased", scaling("llama_biased", low_freq_factor=2.0)),
        ("llama_biased", scaling("llama_biased", high_freq_factor=5.0)),
        ("llama_biased", scaling("llama_biased", original_context=32)),
    ],
    ids=str,
)
def test_wrong_config_is_noticed(name, change):
    cfg, params = hf.load(GOLDEN / name)
    wrong = dataclasses.replace(cfg, **change)
    assert worst(wrong, params, golden(name, "plain")) > 2 * BAR


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_matters(name):
    """None of the golden's parameters could be wrong or swapped unseen."""
    cfg, params = hf.load(GOLDEN / name)
    expected = golden(name, "plain")
    base = run(cfg, params, expected)["logits"]
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    for i, (path, leaf) in enumerate(flat):
        leaves = [value for _, value in flat]
        leaves[i] = leaf[..., ::-1]
        moved = run(cfg, tree.unflatten(leaves), expected)["logits"]
        is_key_bias = "k_bias" in jax.tree_util.keystr(path) and name == "gpt2"
        # Without RoPE a key bias adds the same to all scores of a query: softmax
        # takes it away again, and only its shape can be checked.
        assert is_key_bias or abs(moved - base).max() > BAR, path


@pytest.mark.parametrize("name", NAMES)
def test_greedy_ids_equal_transformers(name):
    cfg, params = hf.load(GOLDEN / name)
    with np.load(GOLDEN / name / "golden.npz") as file:
        expected, prompt = file["generated_ids"], file["plain/input_ids"][:, :5]
    ids = np.zeros_like(expected)
    ids[:, : prompt.shape[1]] = prompt
    for t in range(prompt.shape[1], ids.shape[1]):
        logits = run(cfg, params, {"input_ids": ids})["logits"]
        ids[:, t] = np.argmax(logits[:, t - 1], axis=-1)
    np.testing.assert_array_equal(ids, expected)
