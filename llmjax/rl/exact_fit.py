"""A model that has learned to write as the chain of `exact` does: the reference."""

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from llmjax import losses, optim, sharding
from llmjax.rl import exact
from llmjax.rl.rows import make_batch
from llmjax.train.state import init_state
from llmjax.train.step import make_step
from llmjax.types import Model, Params


def learn_chain(
    model: Model,
    cfg: exact.LanguageConfig,
    start_id: int,
    mesh: Mesh,
    update: optim.OptimConfig,
    num_steps: int,
    num_rows: int,
    seed: int = 0,
) -> Params:
    """The parameters after `num_steps` batches of answers, which follow `start_id`."""
    rng, place = np.random.default_rng(seed), sharding.placer(mesh)
    tx, _ = optim.make(update, num_steps)
    state = init_state(model.init, tx, mesh, jax.random.key(seed))
    step_fn = make_step(partial(losses.next_token, model), tx, state)
    for _ in range(num_steps):
        drawn = exact.draw(cfg, num_rows, rng).tolist()
        batch = make_batch([[start_id]] * num_rows, drawn, cfg.length)
        state, _ = step_fn(state, place(batch))
    return state.params
