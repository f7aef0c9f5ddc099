"""Hooks of the training loop: functions of (step, state, metrics)."""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from llmjax.checkpoint import Checkpoints
from llmjax.metrics import reduce_metrics
from llmjax.train.config import TrainConfig
from llmjax.train.loop import Hook
from llmjax.train.record import Recorder
from llmjax.train.state import TrainState, averaged
from llmjax.train.workdir import as_json
from llmjax.types import Metrics


def every(num_steps: int, hook: Hook, last: int) -> Hook:
    """The hook, at multiples of `num_steps` (0: none) and at the `last` step only."""

    def call(step: int, state: TrainState, metrics: Metrics) -> None:
        if step == last or (num_steps and step % num_steps == 0):
            hook(step, state, metrics)

    return call


class Log:
    """Writes each step's figures while the next step runs, so the device never waits.

    write(step, figures): called for every step, in order, one step late; figures are
      floats: loss, grad_norm, lr, secs (since the step before was done).
    Stops training with FloatingPointError, naming the first bad tensor, once a gradient
    was not finite: that step was not applied, so the state is still good.
    """

    def __init__(
        self, write: Callable[[int, dict[str, float]], None], schedule: Callable
    ):
        self._write = write
        self._schedule = schedule
        self._pending = None
        self._last_secs = time.perf_counter()

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        self.flush()
        self._pending = (step, metrics)

    def flush(self) -> None:
        """Writes the step that is still pending, waiting until it is computed."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        metrics = dict(metrics)
        norms = metrics.pop("grad_norms")
        figures = reduce_metrics(metrics)
        if not math.isfinite(figures["grad_norm"]):
            raise FloatingPointError(_name_first_bad(step, figures["loss"], norms))
        now = time.perf_counter()
        figures |= {
            "lr": float(self._schedule(step - 1)),
            "secs": now - self._last_secs,
        }
        self._last_secs = now
        self._write(step, figures)


def _name_first_bad(step: int, loss: float, norms) -> str:
    bad = [name for name, norm in norms.items() if not np.isfinite(norm)]
    where = "the loss" if not math.isfinite(loss) else f"the gradient of {bad[0]}"
    return (
        f"step {step}: {where} is not finite (loss {loss}, {len(bad)} of {len(norms)} "
        f"gradients bad, first {bad[0] if bad else 'none'}); the step was not applied. "
        "Lower --optim.lr, or look at this step's batch"
    )


def evaluate(evaluate_fn: Callable[[Any], dict], record: Recorder) -> Hook:
    """Notes the held-out figures of the state in the step's line, and says them."""

    def call(step: int, state: TrainState, metrics: Metrics | None) -> None:
        figures = evaluate_fn(averaged(state))
        record.note(step, figures)
        parts = [
            f"{name.removeprefix('val_').replace('_', ' ')} {value:.3f}"
            for name, value in figures.items()
        ]
        record.say(f"step {step}: held out, {', '.join(parts)}")

    return call


def save(checkpoints: Checkpoints, config: dict[str, Any], log: Log) -> Hook:
    """Starts a checkpoint, once the figures of all steps up to it are written."""

    def call(step: int, state: TrainState, metrics: Metrics | None) -> None:
        log.flush()
        checkpoints.save(step, state, {"config": as_json(config)})

    return call


def timed(
    knobs: TrainConfig, folder: Path, last: int, *, look: Hook, save: Hook
) -> list[Hook]:
    """The hooks that run at some steps only, in the order in which they must."""
    found = [every(knobs.eval_every, look, last), every(knobs.save_every, save, last)]
    if knobs.profile_at:
        found.append(profile(folder / "profile", knobs.profile_at))
    return found


def profile(directory: os.PathLike, first_step: int, num_steps: int = 3) -> Hook:
    """Writes a profiler trace of a few steps, for xprof or Perfetto, to `directory`."""

    def call(step: int, state: TrainState, metrics: Metrics) -> None:
        if step == first_step:
            jax.profiler.start_trace(os.fspath(directory))
        if step == first_step + num_steps:
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()

    return call
