"""The loop of all that learns from its own answers: draw, then go through it in parts.

Which rows make a minibatch depends on the seed, the iteration and the epoch only, and
a checkpoint is written between iterations: what resumes does what it would have done.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax import sharding
from llmjax.checkpoint import Checkpoints
from llmjax.metrics import reduce_metrics
from llmjax.rl.health import Panel
from llmjax.rl.scores import RewardError
from llmjax.train.hooks import every
from llmjax.train.state import TrainState
from llmjax.train.workdir import as_json
from llmjax.types import Batch, Metrics, Params


class Knobs(Protocol):
    """What the loop reads of an algorithm's config."""

    num_epochs: int  # times that a rollout is gone through
    num_minibatches: int  # updates of an epoch


Collect = Callable[[int, TrainState], tuple[Batch, Params, Metrics]]
Hook = Callable[[int, TrainState, dict[str, float]], None]


def train(
    step_fn: Callable,
    state: TrainState,
    collect: Collect,
    *,
    mesh: Mesh,
    num_iterations: int,
    knobs: Knobs,
    seed: int,
    hooks: Iterable[Hook] = (),
    save: Callable[[int, TrainState], None] = lambda iteration, state: None,
) -> TrainState:
    """The state after iteration `num_iterations`; it says how many it has done yet.

    collect(iteration, state) -> (batch [B, T], extras of the state, figures): a rollout
      under the state's parameters, ready to learn from.
    hooks: called as hook(iteration, state, figures) after each, counted from 1.
    save(iteration, state): called where a reward fails, before RewardError goes on.
    Raises FloatingPointError once a gradient is not finite; it was not applied.
    """
    for iteration in range(count(state, knobs), num_iterations):
        start_secs = time.perf_counter()
        try:
            batch, extras, figures = collect(iteration, state)
        except RewardError:
            save(iteration, state)
            raise
        places = jax.tree.map(lambda leaf: leaf.sharding, state.extras)
        state = state._replace(extras=jax.device_put(extras, places))
        figures = reduce_metrics(figures)
        drawn_secs, found = time.perf_counter(), []
        for part in minibatches(batch, knobs, (seed, iteration), mesh):
            state, metrics = step_fn(state, part)
            found.append(metrics)
        figures |= summed(found)
        figures["update_secs"] = time.perf_counter() - drawn_secs
        figures["secs"] = time.perf_counter() - start_secs
        if not math.isfinite(figures["grad_norm"]):
            raise FloatingPointError(
                f"iteration {iteration + 1}: a gradient is not finite (loss "
                f"{figures['loss']}); it was not applied. Lower --optim.lr"
            )
        for hook in hooks:
            hook(iteration + 1, state, figures)
    return state


def fit(
    step_fn: Callable,
    state: TrainState,
    collect: Collect,
    checkpoints: Checkpoints,
    config: dict[str, Any],
    *,
    folder: Path,
    mesh: Mesh,
    num_iterations: int,
    knobs: Knobs,
    seed: int,
    save_every: int,
    looks: Sequence[Hook] = (),
) -> tuple[TrainState, Panel]:
    """(the state after `num_iterations`, the record of them); see `train`.

    config: what is saved with the checkpoints, one every `save_every` iterations.
    looks: hooks that may add to the figures, which are then written.
    """

    def save(iteration, state, figures=None):
        checkpoints.save(iteration, state, {"config": as_json(config)})

    with Panel(
        folder, first=count(state, knobs), num_iterations=num_iterations
    ) as panel:
        state = train(
            step_fn, state, collect, mesh=mesh, num_iterations=num_iterations,
            knobs=knobs, seed=seed,
            hooks=[*looks, panel, every(save_every, save, num_iterations)], save=save,
        )  # fmt: skip
    return state, panel


def count(state: TrainState, knobs: Knobs) -> int:
    """How many iterations a state has behind it."""
    return int(state.step) // (knobs.num_epochs * knobs.num_minibatches)


def minibatches(
    batch: Batch, knobs: Knobs, seed: tuple[int, ...], mesh: Mesh
) -> Iterator[Batch]:
    """Equal parts of the rows, shuffled afresh in each epoch."""
    num_rows = len(batch["tokens"])
    for epoch in range(knobs.num_epochs):
        order = np.random.default_rng((*seed, epoch)).permutation(num_rows)
        for rows in order.reshape(knobs.num_minibatches, -1):
            yield _take(batch, rows, mesh)


@partial(jax.jit, static_argnames="mesh")
def _take(batch: Batch, rows: np.ndarray, mesh: Mesh) -> Batch:
    taken = jax.tree.map(lambda array: array[rows], batch)
    return jax.lax.with_sharding_constraint(taken, sharding.batch_sharding(mesh))


def check_rows(
    num_rows: int, num_minibatches: int, num_tokens: int, mesh: Mesh
) -> None:
    """ValueError unless the rows of a rollout can be cut up and shared out."""
    if num_rows % num_minibatches:
        raise ValueError(
            f"{num_rows} answers cannot be cut into {num_minibatches} minibatches"
        )
    sharding.check_batch(num_rows // num_minibatches, num_tokens, mesh)


def summed(found: list[Metrics]) -> dict[str, float]:
    """The figures of several updates: means over what they were taken of, extremes of
    the ratios, the largest norm of a gradient."""
    found = [
        {name: value for name, value in one.items() if name != "grad_norms"}
        for one in jax.device_get(found)
    ]
    each = [reduce_metrics(one) for one in found]
    figures = reduce_metrics(
        {
            name: tuple(sum(one[name][part] for one in found) for part in (0, 1))
            for name, value in found[0].items()
            if isinstance(value, tuple)
        }
    )
    extremes = {"ratio_low": min, "ratio_high": max, "grad_norm": np.max}
    for name, extreme in extremes.items():
        if name in each[0]:
            figures[name] = float(extreme([one[name] for one in each]))
    return figures
