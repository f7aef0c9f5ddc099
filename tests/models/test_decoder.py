"""The decoder's own promises: one result however it is computed, cached or not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import ComputeConfig, Layer, ModelConfig
from llmjax.models import presets, transformer

LLAMA = ModelConfig(
    vocab_size=61, num_layers=4, width=24, num_heads=4, num_kv_heads=2, head_width=8,
    ff_width=40, context=160, tied=False, qk_norm="head", attention_softcap=20.0,
    logits_softcap=10.0, pattern=(Layer(window=7), Layer(rope="none")),
)  # fmt: skip
GPT2 = dataclasses.replace(
    presets.get("gpt2"), vocab_size=61, num_layers=3, width=24, num_heads=3,
    num_kv_heads=3, head_width=8, ff_width=96, context=160,
)  # fmt: skip
CONFIGS = {"llama": LLAMA, "gpt2": GPT2}


def redraw(params, seed=0):
    """All parameters random: at their first values, norms and biases do nothing."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (leaf + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32),
        params,
    )


@pytest.fixture(name="case", params=CONFIGS)
def _case(request):
    cfg = CONFIGS[request.param]
    params = redraw(jax.jit(transformer.make(cfg).init)(jax.random.key(0)))
    tokens = np.random.default_rng(1).integers(0, cfg.vocab_size, (2, 150))
    return cfg, params, tokens


def logits(cfg, params, batch, compute=ComputeConfig(), **kwargs):
    model = transformer.make(cfg, compute)

    @jax.jit
    def run(params, batch):
        output = model.apply(params, batch, **kwargs)
        return model.readout(params, output.hidden_BTD), output

    return run(params, batch)


@pytest.mark.parametrize(
    "compute",
    [
        ComputeConfig(layers="scan"),
        ComputeConfig(layers="unroll", remat="full"),
        ComputeConfig(layers="scan", remat="dots"),
        ComputeConfig(attention="reference"),
    ],
    ids=str,
)
def test_however_it_is_computed(case, compute):
    cfg, params, tokens = case
    batch = {"tokens": tokens}
    expected, _ = logits(cfg, params, batch)
    out, _ = logits(cfg, params, batch, compute)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_bfloat16_stays_close_and_returns_float32(case):
    cfg, params, tokens = case
    expected, _ = logits(cfg, params, {"tokens": tokens})
    out, _ = logits(cfg, params, {"tokens": tokens}, ComputeConfig(dtype="bfloat16"))
    assert out.dtype == jnp.float32
    # The logits themselves are not rounded to bfloat16.
    assert (out != out.astype(jnp.bfloat16).astype(jnp.float32)).any()
    assert 1e-5 < np.abs(out - expected).mean() < 0.05 * np.abs(expected).mean() + 0.05


def test_documents_of_a_row_do_not_see_each_other(case):
    """A packed row gives each document the logits it gets alone."""
    cfg, params, tokens = case
    cut = 40
    packed = {
        "tokens": tokens,
        "segment_ids": np.where(np.arange(150) < cut, 1, 2)[None].repeat(2, 0),
        "positions": np.concatenate([np.arange(cut), np.arange(150 - cut)])[
            None
        ].repeat(2, 0),
    }
    out, _ = logits(cfg, params, packed)
    first, _ = logits(cfg, params, {"tokens": tokens[:, :cut]})
    second, _ = logits(cfg, params, {"tokens": tokens[:, cut:]})
    np.testing.assert_allclose(out[:, :cut], first, atol=2e-5)
    np.testing.assert_allclose(out[:, cut:], second, atol=2e-5)


def test_the_future_is_not_seen(case):
    cfg, params, tokens = case
    changed = tokens.copy()
    changed[:, 100:] = (changed[:, 100:] + 1) % cfg.vocab_size
    before, _ = logits(cfg, params, {"tokens": tokens})
    after, _ = logits(cfg, params, {"tokens": changed})
    np.testing.assert_array_equal(before[:, :100], after[:, :100])
    assert np.abs(before[:, 100:] - after[:, 100:]).max() > 0.1


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_cached_decoding_equals_the_full_forward(case, layers):
    cfg, params, tokens = case
    model = transformer.make(cfg, ComputeConfig(layers=layers))
    expected, _ = logits(cfg, params, {"tokens": tokens[:, :24]})
    cache = model.init_cache(2, 32)
    step = jax.jit(
        lambda cache, tokens: model.apply(params, {"tokens": tokens}, cache=cache)
    )
    out = []
    for start, stop in [(0, 9), (9, 10), (10, 11), (11, 20), (20, 24)]:
        output = step(cache, tokens[:, start:stop])
        cache = output.cache
        out.append(model.readout(params, output.hidden_BTD))
    np.testing.assert_allclose(jnp.concatenate(out, axis=1), expected, atol=1e-5)
    assert cache["index_B"].tolist() == [24, 24]


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_hidden_states_are_all_given(case, layers):
    cfg, params, tokens = case
    compute = ComputeConfig(layers=layers)
    _, output = logits(cfg, params, {"tokens": tokens}, compute, hiddens=True)
    assert len(output.hiddens) == cfg.num_layers + 1
    np.testing.assert_array_equal(output.hiddens[-1], output.hidden_BTD)
    embedded = params["embed"]["embed_VD"][tokens]
    if cfg.positions == "learned":
        embedded = embedded + params["embed"]["positions_TD"][None, :150]
    np.testing.assert_allclose(output.hiddens[0], embedded, atol=1e-6)


def test_a_window_reaches_as_far_as_it_says(case):
    """In L layers of window w a token is felt L * (w - 1) positions on, no further."""
    cfg, params, tokens = case
    cfg = dataclasses.replace(cfg, window=5, pattern=())
    changed = tokens.copy()
    changed[:, 10] = (changed[:, 10] + 1) % cfg.vocab_size
    before, _ = logits(cfg, params, {"tokens": tokens})
    after, _ = logits(cfg, params, {"tokens": changed})
    felt = np.abs(before - after).max((0, 2)) > 0
    last = 10 + cfg.num_layers * 4
    assert felt[last] and not felt[last + 1 :].any()


def test_init_does_not_run_the_model(monkeypatch):
    """Parameters come from their shapes; a forward pass would call attend."""
    from llmjax.nn import attention

    def refuse(*args, **kwargs):
        raise AssertionError("the forward pass was traced")

    monkeypatch.setattr(attention, "attend", refuse)
    params = jax.eval_shape(transformer.make(LLAMA).init, jax.random.key(0))
    assert params["blocks"]["attention"]["q_DNH"].shape == (4, 24, 4, 8)


def test_init_has_the_scale_it_should(case):
    cfg = dataclasses.replace(case[0], width=256, ff_width=512)
    params = jax.jit(transformer.make(cfg).init)(jax.random.key(0))
    blocks = params["blocks"]
    assert np.std(params["embed"]["embed_VD"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(blocks["attention"]["q_DNH"]) == pytest.approx(256**-0.5, rel=0.05)
    down = (512 * 2 * cfg.num_layers) ** -0.5
    assert np.std(blocks["mlp"]["down_FD"]) == pytest.approx(down, rel=0.05)
    layers = blocks["attention"]["q_DNH"]
    assert np.abs(layers[0] - layers[1]).max() > 0.01  # each layer its own draw


def test_a_config_survives_json(case):
    import json

    fields = json.loads(json.dumps(dataclasses.asdict(case[0])))
    assert ModelConfig.from_json(fields) == case[0]


@pytest.mark.parametrize(
    "change", [{"num_kv_heads": 3}, {"head_width": 7}, {"width": 0}], ids=str
)
def test_impossible_configs_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(LLAMA, **change)


def test_depth_is_one_dial():
    sizes = [presets.from_depth(depth).width for depth in (2, 4, 8, 16)]
    assert sizes == [64, 128, 256, 512]
    with pytest.raises(ValueError, match="presets: tiny"):
        presets.get("gpt5")
