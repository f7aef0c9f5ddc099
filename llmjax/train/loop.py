"""The training loop: host-only; it knows a step, an iterator and hooks."""

from collections.abc import Callable, Iterable, Iterator

from llmjax.train.state import TrainState
from llmjax.types import Batch, Metrics

Hook = Callable[[int, TrainState, Metrics], None]


def train(
    step_fn: Callable,
    state: TrainState,
    batches: Iterator[Batch],
    hooks: Iterable[Hook],
    *,
    start: int,
    num_steps: int,
) -> TrainState:
    """Runs updates `start` + 1 .. `num_steps` and returns the last state.

    After update k, each hook is called as hook(k, state, metrics). Both are still being
    computed: a hook that reads them waits for the device, so those that run at every
    step read what they kept of the step before.
    """
    for step in range(start, num_steps):
        state, metrics = step_fn(state, next(batches))
        for hook in hooks:
            hook(step + 1, state, metrics)
    return state
