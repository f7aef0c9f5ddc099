"""The attention weights are those that the model mixes with: rows, zeros, outputs."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import ComputeConfig, Layer, ModelConfig
from llmjax.interop import hf
from llmjax.models import transformer
from llmjax.models.attention_weights import attention_weights

GOLDEN = Path(__file__).parents[1] / "golden"
EXACT = ComputeConfig(dtype="float32", attention="reference")
LENGTH = 9
SEGMENTS = np.array([[1] * 5 + [2] * 4, [1] * 7 + [0] * 2], np.int32)

DECODER = ModelConfig(
    vocab_size=31, num_layers=3, width=12, num_heads=4, num_kv_heads=2, head_width=6,
    ff_width=20, context=16, qk_norm="head", attention_softcap=5.0, first_norm=False,
    norms="sandwich", pattern=(Layer(window=3), Layer(rope="none")),
)  # fmt: skip
ENCODER = dataclasses.replace(
    DECODER, structure="encoder", norms="post", first_norm=True, head="none"
)
SEQ2SEQ = dataclasses.replace(
    DECODER, positions="relative", relative_buckets=8, norms="pre", first_norm=True,
    pattern=(), encoder=dataclasses.replace(
        DECODER, structure="encoder", positions="relative", relative_shared=False,
        relative_buckets=8, norms="pre", first_norm=True, pattern=(), head="none",
    ),
)  # fmt: skip


def make(cfg):
    """(params, batch): all parameters drawn at random, documents and padding."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: rng.normal(0.3, 0.6, leaf.shape).astype(np.float32), shapes
    )
    tokens = rng.integers(0, cfg.vocab_size, (2, 2, LENGTH)).astype(np.int32)
    batch = {"tokens": tokens[0], "segment_ids": SEGMENTS}
    if cfg.encoder is not None:
        batch |= {"encoder_tokens": tokens[1], "encoder_segment_ids": SEGMENTS[::-1]}
    return params, batch


def seen(cfg, kind, layer):
    """[B, T, S]: who may see whom, worked out position by position."""
    segments = {
        "self": (SEGMENTS, SEGMENTS),
        "encoder": (SEGMENTS[::-1], SEGMENTS[::-1]),
        "cross": (SEGMENTS, SEGMENTS[::-1]),
    }
    of_query, of_key = segments[kind]
    window = cfg.layer(layer).window or LENGTH
    allowed = np.zeros((2, LENGTH, LENGTH), bool)
    for b, t, s in np.ndindex(allowed.shape):
        same = of_query[b, t] == of_key[b, s]
        is_self = kind == "self"
        late = is_self and cfg.structure == "decoder" and s > t
        allowed[b, t, s] = same and not late and (not is_self or abs(t - s) < window)
    return allowed


@pytest.mark.parametrize("cfg", [DECODER, ENCODER, SEQ2SEQ])
def test_rows_sum_to_one_and_what_is_hidden_has_nothing(cfg):
    params, batch = make(cfg)
    weights = attention_weights(cfg, EXACT, params, batch)
    kinds = {"self": weights.self_LBNTS}
    if cfg.encoder is not None:
        kinds |= {"encoder": weights.encoder_LBNTS, "cross": weights.cross_LBNTS}
    for kind, found in kinds.items():
        assert found.shape == (3, 2, 4, LENGTH, LENGTH)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
        for layer in range(3):
            allowed = seen(cfg, kind, layer)
            # Padding has no meaning, nor has a look at a document that is not there.
            of_query = SEGMENTS[::-1] if kind == "encoder" else SEGMENTS
            matters = (of_query > 0) & allowed.any(-1)
            for head in range(4):
                positive = np.asarray(found[layer, :, head]) > 0
                assert (positive == allowed)[matters].all(), (kind, layer)
    assert (weights.encoder_LBNTS is None) == (cfg.encoder is None)


def by_hand(cfg, params, weights_BNTS, values_BSD, layer, name="attention"):
    """The attention branch, from the weights and the parameters alone, in float64."""
    own = {k: np.asarray(v[layer], np.float64) for k, v in params[name].items()}
    v = np.einsum("bsd,dkh->bskh", np.asarray(values_BSD, np.float64), own["v_DKH"])
    v = np.repeat(v, cfg.num_heads // cfg.num_kv_heads, axis=2)
    mixed = np.einsum("bnts,bsnh->btnh", np.asarray(weights_BNTS, np.float64), v)
    return np.einsum("btnh,nhd->btd", mixed, own["o_NHD"])


def rms_norm(x, scale, eps):
    x = np.asarray(x, np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * np.asarray(scale)


@pytest.mark.parametrize("first_norm", [True, False])
def test_they_reproduce_the_residual_stream(first_norm):
    """x + o(weights @ v(norm(x))), then a silent feed-forward layer: the next hidden.

    The values are read of the normed stream, but for a first block without norm.
    """
    cfg = dataclasses.replace(DECODER, norms="pre", first_norm=first_norm)
    params, batch = make(cfg)
    blocks = params["blocks"]
    blocks["mlp"]["down_FD"] = np.zeros_like(blocks["mlp"]["down_FD"])
    hiddens = transformer.make(cfg, EXACT).apply(params, batch, hiddens=True).hiddens
    weights = attention_weights(cfg, EXACT, params, batch).self_LBNTS
    for layer in range(cfg.num_layers - 1):  # after the last comes the final norm
        x = np.asarray(hiddens[layer], np.float64)
        scale = blocks["attention_norm"]["scale_D"][layer]
        read = rms_norm(x, scale, cfg.norm_eps) if layer or first_norm else x
        expected = x + by_hand(cfg, blocks, weights[layer], read, layer)
        np.testing.assert_allclose(hiddens[layer + 1], expected, rtol=2e-5, atol=2e-5)


def test_cross_attention_reproduces_the_residual_stream():
    """With silent self-attention and feed-forward: x + o(weights @ v(encoded))."""
    cfg = SEQ2SEQ
    params, batch = make(cfg)
    blocks = params["blocks"]
    for cell, leaf in (("mlp", "down_FD"), ("attention", "o_NHD")):
        blocks[cell][leaf] = np.zeros_like(blocks[cell][leaf])
    output = transformer.make(cfg, EXACT).apply(params, batch, hiddens=True)
    weights = attention_weights(cfg, EXACT, params, batch).cross_LBNTS
    encoded = output.encoder_hiddens[-1]
    for layer in range(cfg.num_layers - 1):
        expected = output.hiddens[layer] + by_hand(
            cfg, blocks, weights[layer], encoded, layer, "cross"
        )
        np.testing.assert_allclose(
            output.hiddens[layer + 1], expected, rtol=2e-5, atol=2e-5
        )


def golden_attentions():
    with np.load(GOLDEN / "attention.npz") as file:
        return {name: file[name] for name in file}


@pytest.mark.parametrize(
    "name", sorted({key.split("/")[0] for key in golden_attentions()})
)
def test_weights_equal_those_of_transformers(name):
    cfg, params = hf.load(GOLDEN / name)
    with np.load(GOLDEN / name / "golden.npz") as file:
        inputs = {k.removeprefix("right/"): file[k] for k in file if "right/" in k}
    segments = inputs["attention_mask"]
    batch = {"tokens": inputs["input_ids"], "segment_ids": segments}
    kinds = {"attention": "self_LBNTS"}
    if cfg.encoder is not None:
        kinds = {f"{side}_attention": f"{side}_LBNTS" for side in ("encoder", "cross")}
        kinds["decoder_attention"] = "self_LBNTS"
        batch = {f"encoder_{key}": value for key, value in batch.items()}
        batch |= {"tokens": inputs["decoder_input_ids"]}
    with jax.default_matmul_precision("highest"):
        weights = attention_weights(
            cfg, EXACT, params, jax.tree.map(jnp.asarray, batch)
        )
    expected = golden_attentions()
    for kind, field in kinds.items():
        got = np.asarray(getattr(weights, field))
        real = segments > 0 if kind in ("attention", "encoder_attention") else None
        for layer in range(len(got)):
            difference = abs(got[layer] - expected[f"{name}/{kind}_{layer}"])
            worst_BT = difference.max(axis=(1, 3))
            assert worst_BT[... if real is None else real].max() < 1e-5
