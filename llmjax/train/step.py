"""One update: a pure function of (state, batch) that knows only a loss and optax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from llmjax import host
from llmjax.sharding import path_name
from llmjax.train.state import TrainState
from llmjax.types import Params


def make_step(
    loss_fn: Callable,
    tx: optax.GradientTransformation,
    state: TrainState,
    *,
    frozen: Params | None = None,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> Callable:
    """step(state, batch) -> (state, metrics), jitted; the old state is donated.

    loss_fn(params, batch, key) -> (mean loss, metrics); metrics["loss"] = (sum, count)
      where count is what the mean was taken over.
    state: gives the layout that the new state keeps (arrays or ShapeDtypeStructs).
    frozen: parameters that are not trained, for loss_fn(params, batch, key, frozen).
      They are an argument of the program, no constant in it, and no part of the state.
    accumulate: the batch is cut into so many parts, whose gradients are weighted by
      their counts: the update is that of the whole batch.
    A step whose gradient is not finite changes nothing but the step number.
    Metrics also hold "grad_norm" (before clipping) and "grad_norms", one a parameter.
    """
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)

    def step(state: TrainState, batch, *frozen):
        def with_frozen(params, batch, key):
            return loss_fn(params, batch, key, *frozen)

        value_and_grad = jax.value_and_grad(with_frozen, has_aux=True)
        key = jax.random.fold_in(state.key, state.step)
        if accumulate == 1:
            (_, metrics), grads = value_and_grad(state.params, batch, key)
        else:
            metrics, grads = _accumulate(
                value_and_grad, state.params, batch, key, accumulate
            )
        norms = {
            path_name(path): jnp.linalg.norm(grad.ravel().astype(jnp.float32))
            for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        }
        grad_norm = jnp.sqrt(sum(jnp.square(norm) for norm in norms.values()))
        metrics = metrics | {"grad_norm": grad_norm, "grad_norms": norms}
        return _update(tx, state, grads, jnp.isfinite(grad_norm), ema_decay), metrics

    jitted = jax.jit(
        step, donate_argnums=0, out_shardings=(shardings, None),
        compiler_options=host.compiler_options(),
    )  # fmt: skip
    if frozen is None:
        return jitted
    return lambda state, batch: jitted(state, batch, frozen)


def _update(tx, state: TrainState, grads, finite, ema_decay: float) -> TrainState:
    def apply(params, opt_state, extras, grads):
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        if "ema" in extras:
            ema = jax.tree.map(
                lambda old, new: old + (1 - ema_decay) * (new - old),
                extras["ema"],
                params,
            )
            extras = extras | {"ema": ema}
        return params, opt_state, extras

    def keep(params, opt_state, extras, grads):
        return params, opt_state, extras

    old = (state.params, state.opt_state, state.extras)
    params, opt_state, extras = jax.lax.cond(finite, apply, keep, *old, grads)
    return TrainState(state.step + 1, params, opt_state, state.key, extras)


def _accumulate(value_and_grad, params, batch, key, num: int):
    """(metrics, gradient) of the whole batch from `num` parts of it, one at a time."""

    # Part i takes rows i, i + num, ...: an equal share of every device's rows.
    def split(rows):
        return jnp.moveaxis(rows.reshape(-1, num, *rows.shape[1:]), 1, 0)

    def part(carry, xs):
        batch, index = xs
        key_i = jax.random.fold_in(key, index)
        (_, metrics), grads = value_and_grad(params, batch, key_i)
        count = metrics["loss"][1]
        weighted = jax.tree.map(lambda grad: grad * count, grads)
        return jax.tree.map(jnp.add, carry, (metrics, weighted)), None

    first = jax.tree.map(lambda rows: rows[::num], batch)
    shapes = jax.eval_shape(value_and_grad, params, first, key)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[0][1], shapes[1])
    )
    xs = (jax.tree.map(split, batch), jnp.arange(num))
    (metrics, weighted), _ = jax.lax.scan(part, zeros, xs)
    count = jnp.maximum(metrics["loss"][1], 1)
    return metrics, jax.tree.map(lambda grad: grad / count, weighted)
