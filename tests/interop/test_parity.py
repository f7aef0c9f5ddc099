"""Logits and hidden states of imported checkpoints equal those of transformers.

The goldens are made by tools/make_golden.py. The bar is 1e-4 absolute, in float32, on
every position that is not padding.
"""

import dataclasses
import functools
import pathlib

import jax
import numpy as np
import pytest

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.interop import hf
from llmjax.models import decoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAMES = ("gpt2", "llama_tied", "llama_biased")
CASES = ("plain", "right", "left", "left_positions")
BAR = 1e-4


@functools.partial(jax.jit, static_argnums=0)
def forward(cfg: ModelConfig, params: dict, batch: dict) -> tuple:
    model = decoder.make(cfg, ComputeConfig(dtype="float32", layers="scan"))
    output = model.apply(params, batch, hiddens=True)
    return model.readout(params, output.hidden_BTD), output.hiddens


def run(cfg: ModelConfig, params: dict, inputs: dict) -> dict[str, np.ndarray]:
    """logits and hidden_i, by transformers' names of inputs and outputs."""
    ids = inputs["input_ids"]
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    batch = {
        "tokens": ids,
        "segment_ids": inputs.get("attention_mask", np.ones_like(ids)),
        "positions": inputs.get("position_ids", positions),
    }
    with jax.default_matmul_precision("highest"):
        logits, hiddens = forward(cfg, params, batch)
    named = {f"hidden_{i}": np.asarray(hidden) for i, hidden in enumerate(hiddens)}
    return {"logits": np.asarray(logits)} | named


def golden(name: str, case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "golden.npz") as file:
        return {
            key.removeprefix(f"{case}/"): file[key]
            for key in file
            if key.startswith(f"{case}/")
        }


def worst(cfg: ModelConfig, params: dict, expected: dict) -> float:
    """The largest difference over logits and hidden states at real positions."""
    got = run(cfg, params, expected)
    assert got.keys() == {k for k in expected if k.startswith(("logits", "hidden"))}
    real = expected.get("attention_mask", np.ones_like(expected["input_ids"])) > 0
    return max(
        float(abs(value - expected[key])[real].max()) for key, value in got.items()
    )


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
