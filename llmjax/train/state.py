"""What training carries from step to step, made in place on the mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from llmjax import sharding
from llmjax.types import Key, Params


class TrainState(NamedTuple):
    """One tree holds all that a resumed run needs.

    step: number of updates applied, int32.
    key: never advanced; each step folds its number in.
    extras: what a stage keeps beside: {"ema": averaged params}, a critic, moments.
    """

    step: jax.Array
    params: Params
    opt_state: Any
    key: Key
    extras: dict[str, Any]


def averaged(state: TrainState) -> Params:
    """The weights to look at: their moving average where one is kept."""
    return state.extras.get("ema", state.params)


def abstract_state(
    init: Callable[[Key], Params],
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    *,
    ema: bool = False,
    extras: Params | None = None,
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without making it."""
    state = jax.eval_shape(_make(init, tx, ema, extras), jax.random.key(0))
    sharding.param_shardings(state.params, mesh)  # strict: every name must resolve
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        state,
        sharding.state_shardings(state, mesh),
    )


def init_state(
    init: Callable[[Key], Params],
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    key: Key,
    *,
    ema: bool = False,
    extras: Params | None = None,
) -> TrainState:
    """A fresh state, each device making its own part.

    extras: what it carries beside, as it is at first.
    """
    abstract = abstract_state(init, tx, mesh, ema=ema, extras=extras)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(_make(init, tx, ema, extras), out_shardings=shardings)(key)


def _make(init, tx, ema: bool, more: Params | None):
    def make(key: Key) -> TrainState:
        init_key, train_key = jax.random.split(key)
        params = init(init_key)
        # A copy: the same buffer twice in a donated state would be an error.
        extras = {"ema": jax.tree.map(jnp.copy, params)} if ema else {}
        extras |= more or {}
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, tx.init(params), train_key, extras)

    return make
