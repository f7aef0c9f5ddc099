"""LoRA adapters beside one base: each request gets what its own one computes."""

import jax
import numpy as np
import pytest

from llmjax import lora, lora_rows
from llmjax.config import ComputeConfig
from llmjax.generate.engine import Engine, Request
from llmjax.generate.sampling import SamplingConfig
from llmjax.generate.text import generate
from llmjax.lora import LoraConfig
from llmjax.models import quantise, transformer
from tests.generate.test_engine import CFG, serve
from tests.test_lora import draw, trained

KINDS = [
    LoraConfig(rank=2, alpha=6.0),
    LoraConfig(rank=5, targets=("attention/q", "mlp/down", "embed")),
    LoraConfig(rank=3, targets=("attention/*",), share_qkv=True),
]


@pytest.fixture(name="model", scope="module")
def _model():
    return transformer.make(CFG, ComputeConfig(dtype="float32"))


@pytest.fixture(name="base", scope="module")
def _base(model):
    return draw(jax.eval_shape(model.init, jax.random.key(0)), size=0.4)


@pytest.fixture(name="kept", scope="module")
def _kept(base):
    return [(kind, trained(kind, base)) for kind in KINDS]


def alone(base, kept, number):
    """The parameters of a model that has only that adapter, or none."""
    if number is None:
        return base
    cfg, adapters = kept[number]
    return lora.join(base, adapters, cfg)


@pytest.mark.parametrize("layers", ["scan", "unroll"])
def test_rows_of_one_batch(base, kept, layers):
    model = transformer.make(CFG, ComputeConfig(dtype="float32", layers=layers))
    params = lora_rows.keep(base, kept)
    assert lora_rows.count(params) == 3
    tokens = np.random.default_rng(0).integers(0, 53, (5, 9)).astype(np.int32)
    owners = [1, None, 0, 2, 1]

    @jax.jit
    def logits(params, tokens):
        return model.readout(params, model.apply(params, {"tokens": tokens}).hidden_BTD)

    numbers = np.array([-1 if owner is None else owner for owner in owners])
    got = logits(lora_rows.choose(params, numbers), tokens)
    for owner in (None, 0, 1, 2):
        rows = [row for row, own in enumerate(owners) if own == owner]
        expected = logits(alone(base, kept, owner), tokens)[np.array(rows)]
        np.testing.assert_allclose(got[np.array(rows)], expected, atol=2e-5)
        assert np.abs(np.delete(got, rows, 0) - np.delete(
            logits(alone(base, kept, owner), tokens), rows, 0)).max() > 0.1  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_requests(model, base, kept, dtype):
    """Greedy and drawn ids, in whatever order they come, equal those of one adapter."""
    narrow = quantise.narrow(base, dtype)
    engine = Engine(
        model, lora_rows.keep(narrow, kept), vocab_size=53, num_slots=3, num_tokens=32
    )
    rng = np.random.default_rng(0)
    requests = [
        Request(
            prompt_ids=tuple(rng.integers(0, 53, rng.integers(1, 18)).tolist()),
            max_new_tokens=8,
            sampling=SamplingConfig(temperature=i % 2, seed=i),
            adapter=(None, 0, 1, 2)[i % 4],
        )
        for i in range(8)
    ]
    found = serve(engine, requests)
    for i, request in enumerate(requests):
        [expected] = generate(
            model, alone(narrow, kept, request.adapter), [request.prompt_ids],
            max_new_tokens=8, context=32, sampling=request.sampling,
        )  # fmt: skip
        assert [token.token for token in found[i, 0]] == expected
    with pytest.raises(ValueError, match="adapter=3: there are 3 adapters"):
        engine.submit(Request((1,), 1, adapter=3))
    plain = Engine(model, base, vocab_size=53, num_slots=1, num_tokens=32)
    with pytest.raises(ValueError, match="adapter=0: there are 0 adapters"):
        plain.submit(Request((1,), 1, adapter=0))


def test_what_rows_cannot_differ_in(base):
    for kind in (LoraConfig(dora=True), LoraConfig(targets=("mlp/*",), bias="all")):
        adapters = jax.tree.map(
            np.zeros_like,
            jax.eval_shape(lambda k=kind: lora.init(k, base, jax.random.key(0))),
        )
        if kind.bias == "all":  # this model has none; so as if it had
            adapters["blocks"]["mlp"]["up_bias_F"] = np.zeros((2, 64))
        with pytest.raises(ValueError, match="no DoRA"):
            lora_rows.keep(base, [(kind, adapters)])
