"""The jitted steps of generation: read a prompt, then draw one token at a time.

State is a plain dict of arrays, one row a sequence:

    cache       keys and values so far (`Model.init_cache`)
    logits_BV   of the next token
    sampling    how each row draws it (`sampling.Sampling`)
    step_B      how many tokens it has drawn, left_B how many more it may
    active_B    whether it still draws; a row that does not costs nothing but its place
    stop_BV     which ids end it; seen_BV, bias_BV as in `sampling.penalise`
    adapter_B   where `lora_rows.keep` has put adapters beside the base: each row's
"""

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmjax import dims, lora_rows
from llmjax.generate import sampling
from llmjax.ops import linear
from llmjax.sharding import path_name, replicate
from llmjax.types import Batch, Model, Params

State = dict[str, Any]


class Drawn(NamedTuple):
    """What a step drew for each row; nothing where `is_drawn_B` is False."""

    token_B: jax.Array
    is_drawn_B: jax.Array


def by_layer(tree: Params) -> Params:
    """Parameters, or a cache, as a CPU decodes fastest: lists of layers, not stacks.

    XLA copies a layer's weights out of a stack each time that it multiplies by them,
    which takes twice as long as the product with a few rows; and so with a cache.
    Matrices are turned, see `ops.linear`. Elsewhere than on a CPU, and where they are
    lists already, they are returned as they are.
    """
    if jax.default_backend() != "cpu" or isinstance(tree.get("blocks"), list):
        return tree
    return _by_layer(tree)


@partial(
    jax.jit,
    static_argnames=(
        "model",
        "batch_size",
        "num_tokens",
        "dtype",
        "spare",
        "first_slots",
    ),
)
def new_cache(model: Model, batch_size: int, num_tokens: int, **options) -> Params:
    """A cache as `by_layer` has it; the options are those of `models.kv.init`."""
    return by_layer(model.init_cache(batch_size, num_tokens, **options))


@jax.jit
def _by_layer(tree: Params) -> Params:
    tree = dict(tree)
    for name in tree.keys() & {"blocks", "head"}:
        tree[name] = _turned(tree[name])
    if "blocks" in tree:
        num_layers = len(jax.tree.leaves(tree["blocks"])[0])
        tree["blocks"] = [
            jax.tree.map(itemgetter(layer), tree["blocks"])
            for layer in range(num_layers)
        ]
    for kind in tree.keys() & {"full", "ring"}:
        tree[kind] = [
            jax.tree.map(itemgetter(slice(layer, layer + 1)), tree[kind])
            for layer in range(len(tree[kind]["k_LBKSH"]))
        ]
    return tree


def _turned(tree: Params) -> Params:
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, Mapping):
            found[name] = _turned(leaf)
        elif name in linear.MATRICES and leaf.dtype != jnp.int8:
            found[linear.turned_name(name)] = linear.turn(name, leaf)
        else:
            found[name] = leaf
    return found


@partial(jax.jit, static_argnames="model", donate_argnames="cache")
def prefill(
    model: Model, params: Params, batch: Batch, cache: Params
) -> tuple[jax.Array, Params]:
    """(logits_BV after the last real token of each row, cache).

    batch: tokens and segment_ids [B, T], 0 at padding, which may stand on either side;
      adapter_B as in the state.
    The encoder of an encoder-decoder runs here and not again: the cache keeps the keys
    and values that cross-attention reads.
    """
    params = _own(params, batch)
    output = model.apply(params, batch, cache=cache)
    T = batch["tokens"].shape[1]
    last_B = jnp.max(jnp.where(batch["segment_ids"] > 0, jnp.arange(T)[None], 0), 1)
    last_BD = output.hidden_BTD[jnp.arange(len(last_B)), last_B]
    return model.readout(params, last_BD), output.cache


def step(model: Model, params: Params, state: State) -> tuple[State, Drawn]:
    """Draws a token for each active row, and reads it."""
    logits_BV, is_drawn_B = state["logits_BV"], state["active_B"]
    shaped_BV = sampling.penalise(
        logits_BV, state["sampling"], state.get("seen_BV"), state.get("bias_BV")
    )
    token_B = sampling.draw(shaped_BV, state["sampling"], state["step_B"])
    rows_B = jnp.arange(len(token_B))
    left_B = state["left_B"] - is_drawn_B
    is_going_B = is_drawn_B & ~state["stop_BV"][rows_B, token_B] & (left_B > 0)
    read = {"tokens": token_B[:, None], "segment_ids": is_going_B[:, None].astype(int)}
    params = _own(params, state)
    output = model.apply(params, read, cache=state["cache"])
    after = {
        "cache": output.cache,
        "logits_BV": model.readout(params, output.hidden_BTD[:, 0]),
        "step_B": state["step_B"] + is_drawn_B,
        "left_B": left_B,
        "active_B": is_going_B,
    }
    if "seen_BV" in state:
        after["seen_BV"] = state["seen_BV"].at[rows_B, token_B].max(is_drawn_B)
    return state | after, Drawn(token_B, is_drawn_B)


@partial(jax.jit, static_argnames=("model", "num_tokens"), donate_argnames="state")
def decode(
    model: Model, params: Params, state: State, num_tokens: int
) -> tuple[Drawn, State]:
    """(what `num_tokens` steps drew, each array [B, num_tokens]; the state after)."""
    dtypes = Drawn(jnp.int32, jnp.bool_)
    return repeat(partial(step, model, params), dtypes, state, num_tokens)


def repeat(
    one_step: Callable, dtypes: Any, state: State, num_tokens: int
) -> tuple[Any, State]:
    """(what so many steps drew, each array [B, num_tokens]; the state after).

    one_step: state -> (state, a tree of arrays [B], of these dtypes).
    Ends early once every row has stopped; the arrays are then 0 from there on.
    """
    shape = num_tokens, len(state["active_B"])
    drawn = jax.tree.map(lambda dtype: jnp.zeros(shape, dtype), dtypes)

    def going(carry):
        number, _, state = carry
        return (number < num_tokens) & state["active_B"].any()

    def body(carry):
        number, drawn, state = carry
        state, new = one_step(state)
        drawn = jax.tree.map(lambda all_, one: all_.at[number].set(one), drawn, new)
        return number + 1, drawn, state

    _, drawn, state = jax.lax.while_loop(going, body, (0, drawn, state))
    return jax.tree.map(lambda leaf: replicate(leaf.T), drawn), state


def _own(params: Params, rows: Batch) -> Params:
    """The parameters of each row, where they are not the same for all."""
    if "adapter_B" not in rows:
        return params
    return lora_rows.choose(params, rows["adapter_B"])


@partial(jax.jit, static_argnums=1)
def resize(cache: Params, num_more: int) -> Params:
    """The cache with `num_more` slots more in the layers that see all tokens, or less.

    No row may have more tokens than there will be slots.
    """

    def change(path, leaf):
        axis = dims.parse(path_name(path).rpartition("/")[2]).index("S")
        around = [(0, num_more if i == axis else 0, 0) for i in range(leaf.ndim)]
        return jax.lax.pad(leaf, jnp.zeros((), leaf.dtype), around)

    if "full" not in cache:
        return cache
    return cache | {"full": jax.tree_util.tree_map_with_path(change, cache["full"])}


def take(tree: Any, rows_B: jax.Array) -> Any:
    """The tree with these rows, in this order, of every array whose name has a B."""

    def rows(path, leaf):
        axis = dims.parse(path_name(path).rpartition("/")[2]).find("B")
        return leaf if axis < 0 else jnp.take(leaf, rows_B, axis=axis)

    return jax.tree_util.tree_map_with_path(rows, tree)


def put(tree: Any, rows: Any, row: jax.Array | int) -> Any:
    """The tree with the one row of `rows` in the place of its row number `row`."""

    def set_row(path, leaf, new):
        axis = dims.parse(path_name(path).rpartition("/")[2]).find("B")
        return jax.lax.dynamic_update_slice_in_dim(leaf, new, row, axis)

    return jax.tree_util.tree_map_with_path(set_row, tree, rows)
