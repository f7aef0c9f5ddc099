"""The middle of most experiments: a loss, an optimizer and batches become a model.

`experiments/pretrain.py` has the same lines spelt out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from llmjax import sharding
from llmjax.checkpoint import Checkpoints
from llmjax.data.prefetch import Prefetch
from llmjax.train import hooks
from llmjax.train.config import TrainConfig
from llmjax.train.loop import train
from llmjax.train.record import Recorder
from llmjax.train.state import TrainState
from llmjax.train.step import make_step
from llmjax.types import Batch, Params


def fit(
    loss_fn: Callable,
    optimizer: tuple,
    state: TrainState,
    batch: Callable[[int], Batch],
    evaluate: Callable[[Params], dict[str, float]],
    checkpoints: Checkpoints,
    config: dict[str, Any],
    *,
    folder: Path,
    mesh: Mesh,
    knobs: TrainConfig,
    num_steps: int,
    frozen: Params | None = None,
    lengths: tuple[int, ...] = (),
) -> tuple[TrainState, Recorder]:
    """The state after `num_steps` steps, and the record of them.

    optimizer: what `optim.make` returns.
    batch: this host's rows of each step, numpy.
    evaluate: what hooks.evaluate takes.
    config: what is saved with the checkpoints; config["model"] is the model's.
    frozen: see `make_step`.
    lengths: tokens of a row, see `Recorder`.
    """
    tx, schedule = optimizer
    step_fn = make_step(
        loss_fn, tx, state, frozen=frozen,
        accumulate=knobs.accumulate, ema_decay=knobs.ema_decay,
    )  # fmt: skip
    start = int(state.step)
    data = Prefetch(batch, start, place=sharding.placer(mesh))
    record = Recorder(
        folder, config["model"], knobs, start, num_steps, data, lengths=lengths
    )
    log = hooks.Log(record.step, schedule)
    look = hooks.evaluate(evaluate, record)
    save = hooks.save(checkpoints, config, log)
    timed = hooks.timed(knobs, folder, num_steps, look=look, save=save)
    with data, record:
        state = train(
            step_fn, state, data, [log, *timed], start=start, num_steps=num_steps
        )
    return state, record
