"""Several LoRA adapters beside one base, of which each row of a batch uses its own.

They become one adapter: what they read side by side along the rank, likewise what they
write. A row that uses the third of them keeps the third's part of what was read, and
zeros in place of the others'. So the base and all adapters are read once a step,
whatever the rows ask for, in plain matrix products; that suits tens of adapters, not
thousands.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llmjax import lora
from llmjax.lora import LoraConfig
from llmjax.ops import adapter
from llmjax.sharding import path_name
from llmjax.types import Params

KEPT = "kept"  # in the parameters: {"owner_R": whose each part of the rank is}


def keep(base: Params, kept: Sequence[tuple[LoraConfig, Params]]) -> Params:
    """The parameters of the base with all of the adapters beside it, for `choose`.

    Raises ValueError for what rows of one batch cannot differ in: DoRA, and biases.
    """
    parts = [_flat(lora.ready(*one)) for one in kept]
    ranks = [max(leaf.shape[_rank_axis(name, leaf)] for name, leaf in part.items())
             for part in parts]  # fmt: skip
    together: dict[str, Any] = {}
    for path in dict.fromkeys(path for part in parts for path in part):
        like = next(part[path] for part in parts if path in part)
        axis = _rank_axis(path, like)
        leaves = [
            _padded(part.get(path), like, axis, rank)
            for part, rank in zip(parts, ranks, strict=True)
        ]
        *above, name = path.split("/")
        lora.node_at(together, "/".join(above))[name] = jnp.concatenate(leaves, axis)
    owners = [jnp.full(rank, number) for number, rank in enumerate(ranks)]
    return lora.union(base, together) | {KEPT: {"owner_R": jnp.concatenate(owners)}}


def count(params: Params) -> int:
    """How many adapters are kept."""
    return int(params[KEPT]["owner_R"].max()) + 1 if KEPT in params else 0


def choose(params: Params, adapter_B: jax.Array) -> Params:
    """The parameters with which each row is the base adapted by its own; -1 is none."""
    mask_BR = params[KEPT]["owner_R"][None] == adapter_B[:, None]
    return _masked({name: params[name] for name in params if name != KEPT}, mask_BR)


def _masked(tree: Any, mask_BR: jax.Array) -> Any:
    if isinstance(tree, list):  # one tree a layer
        return [_masked(layer, mask_BR) for layer in tree]
    if not isinstance(tree, Mapping):
        return tree
    found = {name: _masked(value, mask_BR) for name, value in tree.items()}
    for name, leaf in tree.items():
        if adapter.is_a(name):
            stacked = leaf.shape[: leaf.ndim - len(name.rpartition("_")[2])]
            mask = jnp.broadcast_to(mask_BR, (*stacked, *mask_BR.shape))
            found[adapter.mask_name(name)] = mask
    return found


def _flat(adapters: Params) -> dict[str, jax.Array]:
    """The matrices by path."""
    leaves = jax.tree_util.tree_leaves_with_path(adapters)
    found = {path_name(path): leaf for path, leaf in leaves}
    for path in found:
        if not (adapter.is_a(path) or adapter.is_b(path)):
            raise ValueError(
                f"adapter {path}: only plain LoRA can be chosen by request, no DoRA "
                "and no trained biases; merge such an adapter into the base"
            )
    return found


def _rank_axis(path: str, leaf: jax.Array) -> int:
    letters = path.rpartition("_")[2]
    return leaf.ndim - len(letters) + letters.index("R")


def _padded(leaf: jax.Array | None, like: jax.Array, axis: int, rank: int) -> jax.Array:
    """The leaf with so much rank; zeros where it has less, or is not there."""
    if leaf is None:
        return jnp.zeros((*like.shape[:axis], rank, *like.shape[axis + 1 :]))
    more = rank - leaf.shape[axis]
    return jnp.pad(leaf, [(0, more * (i == axis)) for i in range(leaf.ndim)])
