"""Sentence embeddings: texts to vectors whose products are cosines.

The hidden states of an encoder, averaged over the text and scaled to length 1, as in
Sentence-BERT (Reimers and Gurevych 2019).
"""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.data import assets
from llmjax.load import load
from llmjax.models import transformer
from llmjax.types import Params

# The modules of sentence-transformers that are done here, and its kinds of pooling.
MODULES = ("Transformer", "Pooling", "Normalize")
POOLING = {
    "cls": "first",
    "mean": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
}
MIN_TOKENS = 16  # the shortest bucket

Embed = Callable[[Sequence[str]], np.ndarray]


def load_embed(
    folder: str | os.PathLike,
    compute: ComputeConfig = ComputeConfig(),
    batch_size: int = 32,
) -> Embed:
    """The function from texts to unit vectors, [number of texts, D] float32.

    `folder` holds an encoder and its tokenizer. Where sentence-transformers wrote it,
    the kind of pooling and the longest text are as that says; otherwise the mean, and
    the context. Longer texts are cut. Texts of like length are computed together.

    Raises FileNotFoundError or ValueError in one line that names the file.
    """
    folder = assets.model(folder)
    loaded = load(folder)
    if loaded.cfg.structure != "encoder" or loaded.tokenizer is None:
        raise ValueError(f"{folder}: not an encoder with a tokenizer.json")
    cfg = dataclasses.replace(loaded.cfg, pooling=read_pooling(folder))
    max_tokens = min(cfg.context, read_max_tokens(folder) or cfg.context)
    run, params = _program(cfg, compute), jax.device_put(loaded.params)

    def embed(texts: Sequence[str]) -> np.ndarray:
        ids = loaded.tokenizer.encode_framed(texts, max_tokens)
        vectors_ND = np.zeros((len(ids), cfg.width), np.float32)
        by_length = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for start in range(0, len(ids), batch_size):
            rows = by_length[start : start + batch_size]
            batch = _pad([ids[row] for row in rows], batch_size, max_tokens)
            vectors_ND[rows] = run(params, batch)[: len(rows)]
        return vectors_ND

    return embed


def unit_vectors(
    cfg: ModelConfig, hidden_BTD: jax.Array, segment_BT: jax.Array
) -> jax.Array:
    """[B, D] float32: each text's hidden states pooled, and scaled to length 1."""
    pooled_BD = transformer.pool(cfg, hidden_BTD.astype(jnp.float32), segment_BT)
    length_B1 = jnp.linalg.norm(pooled_BD, axis=-1, keepdims=True)
    return pooled_BD / jnp.maximum(length_B1, 1e-12)


def read_pooling(folder: Path) -> str:
    """`ModelConfig.pooling` as sentence-transformers' files say, else the mean."""
    path = None
    for module in _read_json(folder / "modules.json", []):
        kind = str(module["type"]).rpartition(".")[2]
        if kind not in MODULES:
            raise ValueError(
                f"{folder}/modules.json: {kind} is not supported; "
                f"known: {', '.join(MODULES)}"
            )
        if kind == "Pooling":
            path = folder / module["path"] / "config.json"
    if path is None:
        return "mean"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, but modules.json names it")
    config = _read_json(path, {})
    chosen = [name for name, value in config.items() if value is True]
    chosen = [name for name in chosen if name.startswith("pooling_mode_")]
    chosen = chosen or [config.get("pooling_mode")]
    if len(chosen) != 1 or chosen[0] not in POOLING:
        raise ValueError(f"{path}: pooling by {chosen} is not supported; cls or mean")
    return POOLING[chosen[0]]


def read_max_tokens(folder: Path) -> int | None:
    """The longest text as sentence-transformers' file says, if there is one."""
    return _read_json(folder / "sentence_bert_config.json", {}).get("max_seq_length")


def _read_json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if type(value) is not type(default):
        raise ValueError(f"{path}: must hold a JSON {type(default).__name__}")
    return value


def _program(cfg: ModelConfig, compute: ComputeConfig) -> Callable:
    model = transformer.make(cfg, compute)

    @jax.jit
    def run(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        hidden_BTD = model.apply(params, batch).hidden_BTD
        return unit_vectors(cfg, hidden_BTD, batch["segment_ids"])

    return run


def _pad(ids: list[list[int]], num_rows: int, max_tokens: int) -> dict[str, np.ndarray]:
    """A batch of one of few shapes: rows to `num_rows`, tokens to a power of two."""
    longest = max(MIN_TOKENS, *map(len, ids))
    num_tokens = min(max_tokens, 1 << (longest - 1).bit_length())
    tokens_BT = np.zeros((num_rows, num_tokens), np.int32)
    segment_BT = np.zeros_like(tokens_BT)
    for row, text in enumerate(ids):
        tokens_BT[row, : len(text)] = text
        segment_BT[row, : len(text)] = 1
    return {"tokens": tokens_BT, "segment_ids": segment_BT}
