"""Sizes and costs against published figures and hand counts; writers after a crash."""

import dataclasses
import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from llmjax import metrics
from llmjax.config import ComputeConfig, Layer, ModelConfig
from llmjax.models import presets, transformer

GPT2 = ModelConfig(
    vocab_size=50257, num_layers=12, width=768, num_heads=12, num_kv_heads=12,
    head_width=64, ff_width=3072, context=1024, norm="layer", activation="gelu_tanh",
    gated=False, positions="learned", qkv_bias=True, out_bias=True, mlp_bias=True,
)  # fmt: skip
LLAMA3_8B = ModelConfig(
    vocab_size=128256, num_layers=32, width=4096, num_heads=32, num_kv_heads=8,
    head_width=128, ff_width=14336, context=8192, tied=False,
)  # fmt: skip
LLAMA3_70B = dataclasses.replace(
    LLAMA3_8B, num_layers=80, width=8192, num_heads=64, ff_width=28672
)
SMOLLM2_135M = ModelConfig(
    vocab_size=49152, num_layers=30, width=576, num_heads=9, num_kv_heads=3,
    head_width=64, ff_width=1536, context=2048,
)  # fmt: skip
ODD = ModelConfig(
    vocab_size=31, num_layers=3, width=12, num_heads=4, num_kv_heads=2, head_width=6,
    ff_width=20, context=9, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm="head",
    norm="layer", tied=False,
)  # fmt: skip


@pytest.mark.parametrize(
    "cfg, published",
    [
        (GPT2, 124_439_808),
        (LLAMA3_8B, 8_030_261_248),
        (LLAMA3_70B, 70_553_706_496),
        (SMOLLM2_135M, 134_515_008),
        (presets.get("bert_base"), 109_514_298),
        (presets.get("t5_small"), 60_506_624),
        (presets.get("t5_base"), 222_903_552),
    ],
)
def test_published_sizes(cfg, published):
    assert metrics.count(cfg).total == published


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "cfg",
    [
        GPT2,
        SMOLLM2_135M,
        ODD,
        dataclasses.replace(ODD, tied=True, gated=False),
        dataclasses.replace(ODD, mlp_bias=False, norm="rms", positions="none"),
    ],
)
def test_counts_are_those_of_the_real_parameters(cfg):
    params = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    counted = metrics.count(cfg)
    assert counted.total == size(params)
    assert counted.non_embedding == size((params["blocks"], params["final_norm"]))
    blocks = {**params["blocks"]["attention"], **params["blocks"]["mlp"]}
    matrices = {name: leaf for name, leaf in blocks.items() if name in MATRICES}
    head = params["embed"]["embed_VD"] if cfg.tied else params["head"]
    assert counted.matmul == size((matrices, head))


ENCODER = dataclasses.replace(
    ODD, structure="encoder", positions="relative", relative_shared=False,
    head="none", final_norm=False, context=14,
)  # fmt: skip


@pytest.mark.parametrize(
    "cfg",
    [
        dataclasses.replace(
            ODD, structure="encoder", embed_norm=True, num_token_types=3, norm="rms",
            head_transform="norm", head_bias=True, tied=True, final_norm=False,
        ),
        dataclasses.replace(
            ODD, head="classes", head_transform="tanh", num_classes=5, head_bias=True,
            norms="sandwich", norm_bias=False, qk_norm="full", position_offset=2,
            positions="learned",
        ),
        dataclasses.replace(ODD, encoder=ENCODER, positions="relative"),
        dataclasses.replace(
            ODD, encoder=dataclasses.replace(ENCODER, own_embedding=False), tied=True
        ),
    ],
    ids=["mlm", "classes", "relative", "shared embedding"],
)  # fmt: skip
def test_every_structure_is_counted_whole(cfg):
    params = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    tables = [params["embed"], params.get("encoder", {}).get("embed", {})]
    tables = [leaf for part in tables for name, leaf in part.items() if name != "norm"]
    counted = metrics.count(cfg)
    assert counted.total == size(params)
    head = size(params.get("head", {}))
    assert counted.non_embedding == size(params) - size(tables) - head


def test_flops_of_an_encoder_decoder_are_those_of_its_forward_pass():
    encoder = dataclasses.replace(
        ENCODER, width=128, num_heads=2, num_kv_heads=2, head_width=64, ff_width=64
    )
    cfg = dataclasses.replace(
        ODD, width=128, head_width=32, ff_width=256, vocab_size=512, encoder=encoder
    )
    model = transformer.make(cfg, ComputeConfig(attention="reference"))
    params = jax.eval_shape(model.init, jax.random.key(0))

    def forward(params, tokens_BT, encoder_tokens_BS):
        batch = {"tokens": tokens_BT, "encoder_tokens": encoder_tokens_BS}
        return model.readout(params, model.apply(params, batch).hidden_BTD)

    ids = [jax.ShapeDtypeStruct((1, length), jnp.int32) for length in (24, 40)]
    jaxpr = jax.make_jaxpr(forward)(params, *ids)
    assert dot_flops(jaxpr.jaxpr) == metrics.count(cfg, 24, 40).forward * 24


MATRICES = ("q_DNH", "k_DKH", "v_DKH", "o_NHD", "gate_DF", "up_DF", "down_FD")


def test_flops_of_gpt2():
    """By hand: 85.0 M in blocks, a head of 38.6 M, attention 12 L D T."""
    matmul = 12 * 12 * 768**2 + 50257 * 768
    counted = metrics.count(GPT2)
    assert counted.matmul == matmul == 123_532_032
    assert counted.six_matmul == 6 * matmul
    assert counted.six_total == 6 * 124_439_808
    assert counted.six_non_embedding == 6 * (124_439_808 - (50257 + 1024) * 768)
    assert counted.exact == 6 * matmul + 12 * 12 * 768 * 1024 == 854_438_400
    assert counted.exact_causal == 6 * matmul + 12 * 12 * 768 * 1025 / 2
    assert counted.forward == counted.exact / 3
    assert counted.forward_causal == counted.exact_causal / 3
    # Shorter rows have cheaper attention.
    assert metrics.count(GPT2, 256).exact == 6 * matmul + 12 * 12 * 768 * 256


def test_forward_flops_are_those_of_the_real_forward_pass():
    """Its matrix products, and no others, are what is counted."""
    cfg = dataclasses.replace(
        ODD, width=128, head_width=32, ff_width=256, vocab_size=512, context=64
    )
    model = transformer.make(cfg, ComputeConfig(attention="reference"))
    params = jax.eval_shape(model.init, jax.random.key(0))

    def forward(params, tokens_BT):
        hidden_BTD = model.apply(params, {"tokens": tokens_BT}).hidden_BTD
        return model.readout(params, hidden_BTD)

    tokens_BT = jax.ShapeDtypeStruct((1, 64), jnp.int32)
    jaxpr = jax.make_jaxpr(forward)(params, tokens_BT)
    expected = metrics.count(cfg, 64).forward * 64
    assert dot_flops(jaxpr.jaxpr) == expected


def dot_flops(jaxpr) -> int:
    """FLOPs of the matrix products of a jaxpr, loops unrolled."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        repeats = equation.params.get("length", 1)
        for inner in jaxprs_in_params(equation.params):
            total += repeats * dot_flops(inner)
    return total


def test_window_limits_the_keys():
    """By brute force: which of T keys each query of a row sees."""
    cfg = dataclasses.replace(
        ODD, pattern=(Layer(window=4), Layer())
    )  # windows 4, T, 4
    t, s = np.arange(9)[:, None], np.arange(9)
    seen = 2 * np.sum((s <= t) & (s > t - 4)) + np.sum(s <= t)
    counted = metrics.count(cfg)
    per_key = 12 * 4 * 6
    assert counted.exact - counted.six_matmul == per_key * (4 + 9 + 4)
    causal = counted.exact_causal - counted.six_matmul
    np.testing.assert_allclose(causal, per_key * seen / 9, rtol=1e-12)
    # A window longer than the row is no window.
    wide = dataclasses.replace(ODD, pattern=(Layer(window=99),))
    assert metrics.count(wide) == metrics.count(ODD)


@pytest.mark.parametrize(
    "kind, flops",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
    ],
)
def test_peak_of_known_devices(kind, flops):
    device = types.SimpleNamespace(platform="gpu", device_kind=kind)
    peak = metrics.find_peak([device] * 8)
    assert peak.flops_per_s == 8 * flops
    assert kind in peak.source
    unknown = types.SimpleNamespace(platform="gpu", device_kind="Abacus 1")
    assert metrics.find_peak([unknown]) is None


def test_peak_of_a_cpu_is_measured_once_for_all_its_devices():
    peak = metrics.find_peak(jax.devices())
    assert 1e9 < peak.flops_per_s < 1e14
    assert peak == metrics.find_peak(jax.devices()[:1])
    assert "measured" in peak.source


def test_reduce_metrics():
    sums = {"loss": (jnp.float32(6.0), jnp.int32(4)), "lr": jnp.float32(0.5), "n": 3}
    assert metrics.reduce_metrics(sums) == {"loss": 1.5, "lr": 0.5, "n": 3.0}
    assert math.isnan(metrics.reduce_metrics({"loss": (0.0, 0)})["loss"])


def test_jsonl_keeps_every_bit_and_is_flushed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.JsonlWriter(path)
    values = [jnp.float32(0.1), np.float64(1 / 3), 2.5e-310, np.float32(16777217)]
    for step, value in enumerate(values):
        writer.write(np.int64(step), {"loss": value, "rows": 7})
    lines = metrics.read_jsonl(path)  # not closed yet
    assert [line["loss"] for line in lines] == [float(value) for value in values]
    assert lines[0] == {"step": 0, "loss": 0.10000000149011612, "rows": 7}
    writer.close()


def test_jsonl_stays_json_where_a_figure_is_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = metrics.JsonlWriter(path)
    writer.write(1, {"loss": math.nan, "grad_norm": jnp.float32(-math.inf), "lr": 0.1})
    writer.close()

    def refuse(name):
        raise ValueError(name)

    line = json.loads(path.read_text(), parse_constant=refuse)
    told = {"loss": "nan", "grad_norm": "-inf"}
    figures = {"loss": None, "grad_norm": None, "lr": 0.1}
    assert line == {"step": 1, **figures, "not_finite": told}


def write_steps(path, steps, **resume):
    writer = metrics.JsonlWriter(path, **resume)
    for step in steps:
        writer.write(step, {"loss": step / 3})
    writer.close()


def test_jsonl_resumes_with_each_step_once(tmp_path):
    path, unbroken = tmp_path / "metrics.jsonl", tmp_path / "unbroken.jsonl"
    write_steps(unbroken, range(20))
    write_steps(path, range(15))
    with open(path, "a") as file:
        file.write('{"step": 15, "lo')  # the crash
    assert len(metrics.read_jsonl(path)) == 15
    write_steps(path, range(11, 20), last_step=10)
    assert path.read_bytes() == unbroken.read_bytes()
    assert [file.name for file in tmp_path.glob("*.tmp")] == []
    resumed = metrics.JsonlWriter(path, last_step=5)
    assert resumed.lines == metrics.read_jsonl(unbroken)[:6]
    resumed.close()
    write_steps(path, [0])  # afresh
    assert metrics.read_jsonl(path) == [{"step": 0, "loss": 0.0}]


def test_jsonl_drops_what_only_looks_whole(tmp_path):
    """A torn line may be valid JSON: 1.2 of 1.25. Only a line break makes it whole."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[2]\n{"loss": 1}\n{"step": 2}')
    assert metrics.read_jsonl(path) == [{"step": 1}]
    assert metrics.read_jsonl(tmp_path / "none.jsonl") == []


def test_tensorboard_events(tmp_path):
    pytest.importorskip("tensorboardX")
    writer = metrics.TensorBoardWriter(tmp_path, last_step=4)
    writer.write(5, {"loss": jnp.float32(1.5)})
    writer.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert b"loss" in events.read_bytes()


def test_tensorboard_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    writer = metrics.TensorBoardWriter(tmp_path)
    writer.write(1, {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []
