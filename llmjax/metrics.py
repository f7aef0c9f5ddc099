"""What is counted and measured: parameters, FLOPs, machine peaks, figures per step.

Two sizes of a model and two counts of its FLOPs can differ by half. Every convention is
computed here and nowhere else, under one name: see `count`.
"""

import functools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from llmjax.config import ModelConfig
from llmjax.types import Metrics


class Count(NamedTuple):
    """Sizes and costs of a decoder under every convention in use.

    Parameters:
      total: every array; a tied head counts once.
      non_embedding: without the tables of tokens and positions, and without the head
        (Kaplan et al. 2020, arXiv:2001.08361).
      matmul: the weights that each token is multiplied with: the matrices of the
        blocks, and the head even when tied; no biases, no norms.
    FLOPs per token of training, where backward costs twice forward and what is
    recomputed to save memory is not counted:
      six_total, six_non_embedding, six_matmul: 6 N, with N as above.
      exact: six_matmul plus attention, every query times every key of the row:
        12 L (N H) T. The convention of MFU (Chowdhery et al. 2022, arXiv:2204.02311).
      exact_causal: the same, with only those keys that a causal query sees, T / 2 on
        average, to be exact (T + 1) / 2.
      forward, forward_causal: a third of these two.
    In a layer with a sliding window a query has no more keys than the window.
    """

    total: int
    non_embedding: int
    matmul: int
    six_total: float
    six_non_embedding: float
    six_matmul: float
    exact: float
    exact_causal: float
    forward: float
    forward_causal: float


def count(cfg: ModelConfig, num_tokens: int | None = None) -> Count:
    """The sizes of the model, and its FLOPs per token in rows of `num_tokens`.

    `num_tokens` is by default the model's context.
    """
    num_tokens = num_tokens or cfg.context
    embeddings, matrices, vectors, head = _names(cfg)
    blocks = cfg.num_layers * (_size(cfg, matrices) + _size(cfg, vectors))
    non_embedding = blocks + _size(cfg, _norm(cfg))
    total = (
        _size(cfg, embeddings) + non_embedding + (0 if cfg.tied else _size(cfg, head))
    )
    matmul = cfg.num_layers * _size(cfg, matrices) + _size(cfg, head)

    windows = [cfg.layer(index).window or num_tokens for index in range(cfg.num_layers)]
    windows = [min(window, num_tokens) for window in windows]
    keys = sum(windows)
    # Query t, from 0, sees min(t + 1, window) keys: this is the mean over the row.
    keys_causal = sum(w - w * (w - 1) / (2 * num_tokens) for w in windows)
    # Scores and weighted values are each a multiplication and an addition per key.
    per_key = 4 * cfg.num_heads * cfg.head_width
    forward = 2 * matmul + per_key * keys
    forward_causal = 2 * matmul + per_key * keys_causal
    return Count(
        total, non_embedding, matmul,
        6.0 * total, 6.0 * non_embedding, 6.0 * matmul,
        3.0 * forward, 3.0 * forward_causal,
        float(forward), float(forward_causal),
    )  # fmt: skip


def _names(cfg: ModelConfig) -> tuple[list[str], list[str], list[str], list[str]]:
    """Parameters by name: embeddings; a block's matrices; its vectors; the head."""
    embeddings = ["embed_VD"] + ["positions_TD"] * (cfg.positions == "learned")
    matrices = ["q_DNH", "k_DKH", "v_DKH", "o_NHD", "up_DF", "down_FD"]
    matrices += ["gate_DF"] * cfg.gated
    vectors = 2 * _norm(cfg)
    vectors += ["q_bias_NH", "k_bias_KH", "v_bias_KH"] * cfg.qkv_bias
    vectors += ["o_bias_D"] * cfg.out_bias
    vectors += ["q_norm_H", "k_norm_H"] * (cfg.qk_norm == "head")
    vectors += ["up_bias_F", "down_bias_D"] * cfg.mlp_bias
    vectors += ["gate_bias_F"] * (cfg.mlp_bias and cfg.gated)
    return embeddings, matrices, vectors, ["head_DV"]


def _norm(cfg: ModelConfig) -> list[str]:
    return ["scale_D"] + ["bias_D"] * (cfg.norm == "layer")


def _size(cfg: ModelConfig, names: list[str]) -> int:
    return sum(math.prod(cfg.shape(name)) for name in names)


# Dense peak in FLOP/s, bfloat16 with float32 sums, from the makers' data sheets. The
# first entry whose key is part of `device_kind` counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "TPU v6": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}


class Peak(NamedTuple):
    """What a run's FLOP/s are divided by to give its MFU: all its devices together."""

    flops_per_s: float
    source: str


def find_peak(devices: Sequence[jax.Device]) -> Peak | None:
    """The peak of these devices; None where they are not in the table.

    Accelerators: the data sheet's figure for bfloat16. CPU: the float32 matrix product
    of this machine, measured here in a third of a second. All host devices share it.
    """
    if devices[0].platform == "cpu":
        return Peak(measure_gemm(), "measured f32 matrix product of this machine")
    kind = devices[0].device_kind
    for name, flops in PEAK_FLOPS.items():
        if name in kind:
            return Peak(flops * len(devices), f"{len(devices)} x {kind}, bf16")
    return None


@functools.cache
def measure_gemm(size: int = 1536, num_repeats: int = 6) -> float:
    """FLOP/s of the best of a few square float32 products in NumPy, on all cores."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    best_secs = math.inf
    for _ in range(num_repeats):
        start = time.perf_counter()
        np.matmul(a, a, out=out)
        best_secs = min(best_secs, time.perf_counter() - start)
    return 2 * size**3 / best_secs


def reduce_metrics(metrics: Metrics) -> dict[str, float]:
    """Each (sum, count) as their ratio, NaN over no items; a scalar as it is."""
    means = {}
    for name, value in jax.device_get(dict(metrics)).items():
        if isinstance(value, tuple):
            total, items = (float(part) for part in value)
            means[name] = total / items if items else math.nan
        else:
            means[name] = float(value)
    return means


class JsonlWriter:
    """Appends a line of JSON per logged step, flushed, every float in full precision.

    A run resumed after `last_step` goes on with the lines up to that step, `lines`:
    later ones, whose steps are run again, and a torn last line are dropped. Nothing
    stays of a run that starts afresh, at 0. JSON has no NaN or infinity: such a figure
    is null, and told under "not_finite".
    """

    def __init__(self, path: str | os.PathLike, last_step: int = 0):
        stored = read_jsonl(path) if last_step else []
        self.lines = [line for line in stored if line["step"] <= last_step]
        with open(f"{path}.tmp", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.lines)
        os.replace(f"{path}.tmp", path)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        line = {"step": int(step)}
        not_finite = {}
        for name, value in figures.items():
            line[name] = value = _plain(value)
            if isinstance(value, float) and not math.isfinite(value):
                line[name], not_finite[name] = None, str(value)
        if not_finite:
            line["not_finite"] = not_finite
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_jsonl(path: str | os.PathLike) -> list[dict]:
    """The whole lines of a metrics file; none where there is no file."""
    lines = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for text in file:
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    continue  # torn by a crash
                if isinstance(line, dict) and "step" in line and text.endswith("\n"):
                    lines.append(line)
    except FileNotFoundError:
        pass
    return lines


class TensorBoardWriter:
    """The same figures as TensorBoard events; does nothing without tensorboardX."""

    def __init__(self, directory: str | os.PathLike, last_step: int = 0):
        try:
            import tensorboardX
        except ModuleNotFoundError:
            self._writer = None
        else:
            self._writer = tensorboardX.SummaryWriter(
                str(directory), purge_step=last_step + 1
            )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, _plain(value), int(step))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _plain(value) -> float | int:
    """A Python number; NumPy and jax scalars widen without change."""
    return value if isinstance(value, int) else float(value)
