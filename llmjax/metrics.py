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
    """Sizes and costs of a model under every convention in use.

    Parameters:
      total: every array; a tied head counts once.
      non_embedding: without the tables of tokens, positions and token types, and
        without the head (Kaplan et al. 2020, arXiv:2001.08361).
      matmul: the weights that each token is multiplied with: the matrices of the
        blocks, and the head even when tied; no biases, no norms. A head of classes,
        which reads one vector of a text, is left out.
    FLOPs per token of training, where backward costs twice forward and what is
    recomputed to save memory is not counted:
      six_total, six_non_embedding, six_matmul: 6 N, with N as above.
      exact: six_matmul plus attention, every query times every key of the row:
        12 L (N H) T. The convention of MFU (Chowdhery et al. 2022, arXiv:2204.02311).
      exact_causal: the same, with only those keys that a causal query sees, T / 2 on
        average, to be exact (T + 1) / 2; in an encoder it is `exact`.
      forward, forward_causal: a third of these two.
    In a layer with a sliding window a query has no more keys than the window. With an
    encoder, the exact ones are per token of the target, its share of the source
    included; matmul is what a source token and a target token meet together.
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


def count(
    cfg: ModelConfig,
    num_tokens: int | None = None,
    num_source_tokens: int | None = None,
) -> Count:
    """The sizes of the model, and its FLOPs per token in rows of `num_tokens`.

    Both lengths are by default the context, of the model and of its encoder.
    """
    num_tokens = num_tokens or cfg.context
    total, non_embedding, matmul = _sizes(cfg)
    forward, forward_causal = (
        2 * matmul + keys for keys in _attention_flops(cfg, num_tokens)
    )
    if cfg.encoder is not None:
        num_source_tokens = num_source_tokens or cfg.encoder.context
        encoder = count(cfg.encoder, num_source_tokens)
        total, non_embedding = (
            total + encoder.total,
            non_embedding + encoder.non_embedding,
        )
        to_source = cfg.num_layers * _size(cfg, ["k_DKH", "v_DKH"])
        to_target = cfg.num_layers * _size(cfg, ["q_DNH", "o_NHD"])
        matmul += encoder.matmul + to_source + to_target
        source = encoder.forward + 2 * to_source
        crossed = 2 * to_target + source * num_source_tokens / num_tokens
        crossed += cfg.num_layers * _flops_per_key(cfg) * num_source_tokens
        forward, forward_causal = forward + crossed, forward_causal + crossed
    return Count(
        total, non_embedding, matmul,
        6.0 * total, 6.0 * non_embedding, 6.0 * matmul,
        3.0 * forward, 3.0 * forward_causal,
        float(forward), float(forward_causal),
    )  # fmt: skip


def _sizes(cfg: ModelConfig) -> tuple[int, int, int]:
    """total, non_embedding and matmul of `Count`, without an encoder's own."""
    tables = ["embed_VD"] * cfg.own_embedding
    tables += ["positions_TD"] * (cfg.positions == "learned")
    tables += ["types_YD"] * (cfg.num_token_types > 0)
    matrices, others = _block_names(cfg)
    block = _size(cfg, matrices) + _size(cfg, others)
    apart = _norm(cfg) * (cfg.embed_norm + cfg.final_norm)
    apart += ["relative_UN"] * (cfg.positions == "relative" and cfg.relative_shared)
    head, head_others = _head_names(cfg)
    non_embedding = cfg.num_layers * block + _size(cfg, apart)
    total = _size(cfg, tables) + non_embedding + _size(cfg, head + head_others)
    matmul = cfg.num_layers * _size(cfg, matrices)
    if cfg.head == "lm" and cfg.own_embedding:
        matmul += _size(cfg, head) + cfg.tied * _size(cfg, ["head_DV"])
    return total, non_embedding, matmul


def _block_names(cfg: ModelConfig) -> tuple[list[str], list[str]]:
    """The parameters of a block by name: its matrices, and those of all its tokens
    once; cross-attention's matrices, which source and target share, with the latter."""
    attention = ["q_DNH", "k_DKH", "v_DKH", "o_NHD"]
    vectors = ["q_bias_NH", "k_bias_KH", "v_bias_KH"] * cfg.qkv_bias
    vectors += ["o_bias_D"] * cfg.out_bias
    vectors += ["q_norm_H", "k_norm_H"] * (cfg.qk_norm == "head")
    vectors += ["q_norm_NH", "k_norm_KH"] * (cfg.qk_norm == "full")
    others = vectors + (attention + vectors) * (cfg.encoder is not None)
    own_table = cfg.positions == "relative" and not cfg.relative_shared
    others += ["relative_UN"] * own_table
    others += ["up_bias_F", "down_bias_D"] * cfg.mlp_bias
    others += ["gate_bias_F"] * (cfg.mlp_bias and cfg.gated)
    num_norms = 2 + (cfg.encoder is not None) + 2 * (cfg.norms == "sandwich")
    matrices = attention + ["up_DF", "down_FD"] + ["gate_DF"] * cfg.gated
    return matrices, others + num_norms * _norm(cfg)


def _head_names(cfg: ModelConfig) -> tuple[list[str], list[str]]:
    """The head's own matrices, and its vectors."""
    transforms = cfg.head_transform != "none"
    matrices = ["dense_DM"] * transforms
    matrices += ["head_DV"] * (cfg.head == "lm" and not cfg.tied)
    vectors = ["dense_bias_M"] * (transforms and cfg.head_transform_bias)
    vectors += _norm(cfg) * (cfg.head_transform == "norm")
    vectors += ["bias_V"] * (cfg.head == "lm" and cfg.head_bias)
    vectors += ["bias_O"] * (cfg.head == "classes" and cfg.head_bias)
    return matrices, vectors + ["head_DO"] * (cfg.head == "classes")


def _norm(cfg: ModelConfig) -> list[str]:
    return ["scale_D"] + ["bias_D"] * (cfg.norm == "layer" and cfg.norm_bias)


def _size(cfg: ModelConfig, names: list[str]) -> int:
    return sum(math.prod(cfg.shape(name)) for name in names)


def _flops_per_key(cfg: ModelConfig) -> int:
    # Scores and weighted values are each a multiplication and an addition per key.
    return 4 * cfg.num_heads * cfg.head_width


def _attention_flops(cfg: ModelConfig, num_tokens: int) -> tuple[float, float]:
    """Of a query's self-attention in all layers: over all keys, and causal ones."""
    windows = [cfg.layer(index).window or num_tokens for index in range(cfg.num_layers)]
    if cfg.structure == "encoder":
        windows = [min(2 * window - 1, num_tokens) for window in windows]
        return (_flops_per_key(cfg) * sum(windows),) * 2
    windows = [min(window, num_tokens) for window in windows]
    # Query t, from 0, sees min(t + 1, window) keys: this is the mean over the row.
    causal = sum(w - w * (w - 1) / (2 * num_tokens) for w in windows)
    return _flops_per_key(cfg) * sum(windows), _flops_per_key(cfg) * causal


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
