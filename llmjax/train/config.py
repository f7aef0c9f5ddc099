"""What the flags `--train.*` of an experiment say."""

import dataclasses

from llmjax.config import field


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The batch, the objective, and how often something is looked at."""

    batch_size: int = field(8, "rows of a step, over all devices")
    accumulate: int = field(1, "parts that a batch is gone through in")
    z_loss: float = field(1e-4, "weight of logsumexp^2 in the objective")
    ema_decay: float = field(0.0, "of an average of the weights; 0: none is kept")
    log_every: int = field(10, "steps between lines of metrics.jsonl")
    eval_every: int = field(600, "steps between evaluations; 0: only at the end")
    save_every: int = field(300, "steps between checkpoints; the last is always kept")
    profile_at: int = field(0, "first of three steps to trace into workdir/profile")
