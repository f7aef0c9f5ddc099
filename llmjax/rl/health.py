"""The health of a run: a line an iteration, and what to do where a figure is ill."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from llmjax import charts, distributed, metrics, report
from llmjax.charts import Chart
from llmjax.report import Series
from llmjax.train.state import TrainState

PLAIN_EVERY_SECS = 10.0  # between lines where nobody watches a terminal
FIRST = 3  # the first lines, with which later ones are compared


class Sign(NamedTuple):
    """An illness: of which figure, how it is told, and what helps."""

    figure: str
    is_ill: Callable[[float, float], bool]  # (value, mean of the first few)
    hint: str


SIGNS = (
    Sign("log_prob_gap", lambda x, _: x > 0.1,
         "sampler and training disagree on log-probabilities: ratios are wrong; train "
         "and sample in float32, or see whether both read the same parameters"),
    Sign("kl", lambda x, _: x > 25,
         "the policy has left its reference: raise the weight of the KL, or lower the "
         "learning rate; look at the answers before you trust the reward"),
    Sign("kl", lambda x, _: x < -1e-3, "a KL below 0: the reference is another model"),
    Sign("reward_deviation", lambda x, _: x < 1e-6,
         "all rewards are equal: there is nothing to learn; look at the reward"),
    Sign("no_signal", lambda x, _: x > 0.8,
         "most prompts have equal rewards for all answers: mix easier and harder ones"),
    Sign("entropy", lambda x, first: x < 0.2 * first,
         "entropy has collapsed: answers are all alike; raise the weight of the KL"),
    Sign("clip_fraction", lambda x, _: x > 0.35,
         "many ratios are clipped: lower the learning rate, or the number of epochs"),
    Sign("ratio_high", lambda x, _: x > 20,
         "a token is over 20 times as likely after a round: lower the learning rate"),
    Sign("explained_variance", lambda x, _: x < -0.5,
         "the critic is worse than a constant: raise its learning rate or value_coef"),
    Sign("endless", lambda x, _: x > 0.5,
         "most answers are cut off: raise max_new_tokens, or the penalty for no end; "
         "was the policy tuned to end its answers?"),
    Sign("length", lambda x, first: x > 2.5 * first and x > 8,
         "answers grow: does the reward like long ones whatever they say?"),
)  # fmt: skip

SHOWN = {
    "reward": "reward {:+.3f}", "reward_deviation": "(sd {:.2f})", "kl": "KL {:.2f}",
    "entropy": "entropy {:.2f}", "clip_fraction": "clipped {:.1%}",
    "explained_variance": "explained {:.2f}", "ratio_low": "ratio {:.2f}",
    "ratio_high": "to {:.2f}", "length": "length {:.1f}", "endless": "endless {:.0%}",
    "log_prob_gap": "gap {:.0e}", "secs": "{:.1f} s",
}  # fmt: skip

CURVES = (
    ("Reward", ("reward",), "mean of an iteration"),
    ("Divergence from the reference", ("kl", "kl_drawn"), "nats an answer"),
    ("Entropy", ("entropy",), "nats a token"),
    ("Ratios", ("ratio_low", "ratio_high"), "new over old probability"),
    ("Clipped", ("clip_fraction", "value_clip_fraction"), "share of tokens"),
    ("Critic", ("explained_variance",), "explained variance"),
    ("Answers", ("length",), "tokens"),
    ("Without an end", ("endless",), "share of answers"),
    ("Sampler against training", ("log_prob_gap",), "largest difference, nats"),
)


def hints(figures: dict[str, float], history: Sequence[dict[str, float]]) -> list[str]:
    """What is ill, in plain words."""
    found = []
    for sign in SIGNS:
        first = [line[sign.figure] for line in history[:FIRST] if sign.figure in line]
        if sign.figure in figures and first:
            value = figures[sign.figure]
            if sign.is_ill(value, sum(first) / len(first)):
                found.append(f"{sign.figure} {value:.3g}: {sign.hint}")
    return found


class Panel:
    """A hook that writes each iteration's figures and says them, ills and all.

    history: the lines of metrics.jsonl, those before an interruption too; "step" is the
    iteration. Only the first process writes or speaks.
    """

    def __init__(self, folder: Path, *, first: int, num_iterations: int):
        self.history, self._writers = [], []
        if distributed.is_first():
            self._writers = [
                metrics.JsonlWriter(folder / "metrics.jsonl", last_step=first),
                metrics.TensorBoardWriter(folder, last_step=first),
            ]
            self.history = self._writers[0].lines
        self._console = Console(highlight=False, quiet=not distributed.is_first())
        self._num_iterations, self._said_at_secs, self._said = (
            num_iterations,
            0.0,
            set(),
        )

    def __enter__(self) -> "Panel":
        return self

    def __exit__(self, *_) -> None:
        for writer in self._writers:
            writer.close()

    def __call__(
        self, iteration: int, state: TrainState, figures: dict[str, float]
    ) -> None:
        self.history.append({"step": iteration, **figures})
        for writer in self._writers:
            writer.write(iteration, figures)
        ills = hints(figures, self.history)
        new = {ill.partition(" ")[0] for ill in ills} - self._said
        due = time.monotonic() - self._said_at_secs > PLAIN_EVERY_SECS
        is_last = iteration == self._num_iterations
        if self._console.is_terminal or due or is_last or new:
            self._said_at_secs = time.monotonic()
            self.say(f"{iteration}/{self._num_iterations}  {line(figures)}")
        for ill in ills:
            if ill.partition(" ")[0] in new:
                self.say(f"  ! {ill}")
        self._said |= new

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def sections(self) -> list[tuple[str, str]]:
        """The panel as sections of a report: a verdict, and a chart a figure."""
        ills = hints(self.history[-1], self.history) if self.history else []
        verdict = [{"at the end": ill} for ill in ills or ["no figure is ill"]]
        found = [("Health", report.table(verdict))]
        for title, names, y_label in CURVES:
            series = [self._series(name) for name in names]
            series = [one for one in series if one.x]
            if series:
                chart = Chart(title, series, "iteration", y_label, log_x=False)
                found.append(charts.section(chart))
        return found

    def _series(self, name: str) -> Series:
        lines = [one for one in self.history if one.get(name) is not None]
        return Series(name, [o["step"] for o in lines], [o[name] for o in lines])


def line(figures: dict[str, float]) -> str:
    """The figures that matter, in a line."""
    return "  ".join(
        text.format(figures[name]) for name, text in SHOWN.items() if name in figures
    )
