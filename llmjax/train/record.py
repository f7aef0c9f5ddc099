"""Where a run's figures go: terminal, metrics.jsonl, TensorBoard, and the report."""

import collections
import time
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llmjax import distributed, metrics
from llmjax.config import ModelConfig
from llmjax.data.prefetch import Prefetch
from llmjax.train.config import TrainConfig

PLAIN_EVERY_SECS = 10.0  # between lines where there is no terminal to draw a bar on
WINDOW_STEPS = 50  # of which the throughput shown is the median


class Recorder:
    """Takes the figures of each step, adds the throughput, and passes them on.

    lengths: the tokens of a row, of its target and, with an encoder, of its source; by
      default the context.
    history: the lines of metrics.jsonl, those before an interruption too.
    Only the first process writes or speaks.
    """

    def __init__(
        self,
        folder: Path,
        cfg: ModelConfig,
        knobs: TrainConfig,
        start: int,
        num_steps: int,
        data: Prefetch,
        *,
        lengths: tuple[int, ...] = (),
    ):
        self._num_steps, self._log_every, self._data = num_steps, knobs.log_every, data
        lengths = lengths or (cfg.context,)
        self._tokens_per_step = knobs.batch_size * sum(lengths)
        per_row = metrics.count(cfg, *lengths).exact * lengths[0]
        self._flops_per_step = knobs.batch_size * per_row
        self._peak = metrics.find_peak(jax.devices())
        self._window = collections.deque(maxlen=WINDOW_STEPS)
        self._total_secs, self._said_at_secs = 0.0, 0.0
        self._notes = {}
        self.history, self._writers = [], []
        if distributed.is_first():
            self._writers = [
                metrics.JsonlWriter(folder / "metrics.jsonl", last_step=start),
                metrics.TensorBoardWriter(folder, last_step=start),
            ]
            self.history = self._writers[0].lines
        self._console = Console(highlight=False, quiet=not distributed.is_first())
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("compiling", total=num_steps, completed=start)

    def __enter__(self) -> "Recorder":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()
        for writer in self._writers:
            writer.close()

    def step(self, step: int, figures: dict[str, float]) -> None:
        """One training step; `figures` is what `hooks.Log` writes."""
        self._window.append(figures["secs"])
        self._total_secs += figures["secs"]
        speed = self.throughput()
        text = f"loss {figures['loss']:.3f}  {speed['tokens_per_s']:,.0f} tokens/s"
        text += f"  MFU {speed['mfu']:.0%}" if "mfu" in speed else ""
        text += f"  data wait {speed['data_wait']:.1%}"
        self._bar.update(self._task, completed=step, description=text)
        if not self._console.is_terminal:
            self._say_plainly(step, text)
        notes = self._notes.pop(step, {})
        if notes or step % self._log_every == 0 or step in (1, self._num_steps):
            self._write(step, figures | speed | notes)

    def note(self, step: int, figures: dict[str, float]) -> None:
        """More figures for the line of a step that is not written yet."""
        self._notes[step] = figures

    def _write(self, step: int, figures: dict[str, float]) -> None:
        self.history.append({"step": step, **figures})
        for writer in self._writers:
            writer.write(step, figures)

    def say(self, text: str) -> None:
        """Prints above the progress bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def throughput(self) -> dict[str, float]:
        """tokens_per_s, mfu and data_wait, the share of all time spent waiting."""
        secs = sorted(self._window)[len(self._window) // 2]
        speed = {
            "tokens_per_s": self._tokens_per_step / secs,
            "data_wait": self._data.waited_secs / max(self._total_secs, 1e-9),
        }
        if self._peak is not None:
            speed["mfu"] = self._flops_per_step / secs / self._peak.flops_per_s
        return speed

    def summary(self) -> dict[str, float]:
        """The latest value of each figure of the history."""
        latest = {}
        for line in self.history:
            latest |= line
        names = (
            "val_bits_per_byte", "val_accuracy", "val_loss", "loss", "step",
            "tokens_per_s", "mfu",
        )  # fmt: skip
        figures = {name: latest[name] for name in names if name in latest}
        return {("num_steps" if k == "step" else k): v for k, v in figures.items()}

    def _say_plainly(self, step: int, text: str) -> None:
        now = time.monotonic()
        if now - self._said_at_secs > PLAIN_EVERY_SECS or step == self._num_steps:
            secs = sorted(self._window)[len(self._window) // 2]
            left_secs = secs * (self._num_steps - step)
            text += f"  {left_secs / 60:.1f} min left"
            self.say(f"step {step}/{self._num_steps}  {text}")
            self._said_at_secs = now
