"""A stack of blocks whose parameters share one leading L, scanned over or unrolled."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from llmjax.config import ComputeConfig, ModelConfig
from llmjax.models import kv
from llmjax.nn.attention import Context
from llmjax.nn.block import Block
from llmjax.ops import adapter, attention
from llmjax.types import Key, Params

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    "full": None,
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(attention.KEPT, adapter.KEPT),
    ),
}


def init(cfg: ModelConfig, key: Key) -> Params:
    """The parameters of all blocks, every leaf with a leading L."""

    def init_block(key):
        return Block(cfg).init(key, method="declare")["params"]

    return jax.vmap(init_block)(jax.random.split(key, cfg.num_layers))


def run(
    cfg: ModelConfig,
    compute: ComputeConfig,
    per_layer: Params,
    x_BTD: jax.Array,
    context: Context,
    cache: Params | None,
) -> tuple[jax.Array, Params | None, Sequence[jax.Array]]:
    """(x_BTD, cache, outputs): the residual stream after the stack and of each block.

    per_layer: the blocks' params and, in a decoder with an encoder, each one's source.
      Params may be a list of one tree a layer, and the cache one of lists; such layers
      are unrolled.
    `outputs` is a list of L arrays when unrolled, one [L, B, T, D] array when scanned.
    Layers of one period of `cfg.pattern` are unrolled inside the scan, so that their
    windows are known when compiling.
    """
    by_layer = kv.is_by_layer(cache)
    if not (
        by_layer or isinstance(per_layer["params"], list) or _unrolled(cfg, compute)
    ):
        return _scan(cfg, compute, per_layer, x_BTD, context, cache)
    outputs, caches = [], kv.split(cfg, cache) if by_layer else None
    for index, own in enumerate(_layers(per_layer, cfg.num_layers)):
        block = _block(cfg, compute, cfg.layer(index))
        if by_layer:
            x_BTD, caches[index] = block(own, x_BTD, context, caches[index], index)
        else:
            x_BTD, cache = block(own, x_BTD, context, cache, index)
        outputs.append(x_BTD)
    return x_BTD, kv.join(caches) if by_layer else cache, outputs


def _unrolled(cfg: ModelConfig, compute: ComputeConfig) -> bool:
    if cfg.num_layers % cfg.period:
        return True  # the last period is cut short: nothing to scan over
    if compute.layers == "auto":
        # Slicing one layer's weights out of the stack costs a CPU 5 to 13 %; an
        # accelerator hides it, and compiles a deep model far sooner.
        return jax.default_backend() == "cpu" and cfg.num_layers <= 32
    return compute.layers == "unroll"


def _layers(per_layer: Params, num: int) -> list[Params]:
    params = per_layer["params"]
    if not isinstance(params, list):
        return unstack(per_layer, num)
    others = unstack({**per_layer, "params": {}}, num)
    return [other | {"params": own} for own, other in zip(params, others, strict=True)]


def _scan(cfg, compute, per_layer, x_BTD, context, cache):
    period = cfg.period

    def body(carry, group):
        x_BTD, cache, index = carry
        outputs = []
        for offset, own in enumerate(unstack(group, period)):
            block = _block(cfg, compute, cfg.layer(offset))
            x_BTD, cache = block(own, x_BTD, context, cache, index + offset)
            outputs.append(x_BTD)
        return (x_BTD, cache, index + period), jnp.stack(outputs)

    groups = jax.tree.map(
        lambda leaf: leaf.reshape(-1, period, *leaf.shape[1:]), per_layer
    )
    carry, outputs = jax.lax.scan(
        body, (x_BTD, cache, jnp.zeros((), jnp.int32)), groups
    )
    return carry[0], carry[1], outputs.reshape(-1, *x_BTD.shape)


def _block(cfg, compute, layer):
    """One block as a function; jitted, so that equal layers are traced only once."""
    block = partial(_apply_block, cfg, layer)
    remat = compute.remat
    if remat == "auto":
        # What lies between matmuls is read by several of them: a CPU makes it again
        # about as fast as it reads it, and in a third of the memory.
        remat = "dots" if jax.default_backend() == "cpu" else "none"
    if remat == "none":
        return block
    return jax.checkpoint(block, policy=REMAT_POLICIES[remat])


@partial(jax.jit, static_argnums=(0, 1), inline=False)
def _apply_block(cfg, layer, own, x_BTD, context: Context, cache, index):
    return Block(cfg).apply(
        {"params": own["params"]}, x_BTD, context, layer, cache, index,
        own.get("source"),
    )  # fmt: skip


def unstack(tree: Any, num: int) -> list:
    """A stacked tree as a list of `num` trees; backward is one concatenation a leaf."""
    leaves, structure = jax.tree.flatten(tree)
    # Each leaf by itself, so that those of a frozen base have no part in the backward.
    split = [_unstack_leaf(leaf, num) for leaf in leaves]
    return [
        structure.unflatten([parts[index] for parts in split]) for index in range(num)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _unstack_leaf(leaf: jax.Array, num: int) -> list[jax.Array]:
    # Without a rule of its own, the gradient of each slice would be padded back to the
    # whole stack, and the L padded stacks summed.
    return [leaf[index] for index in range(num)]


def _unstack_fwd(leaf, num):
    return _unstack_leaf(leaf, num), None


def _unstack_bwd(num, _, grads):
    return (jnp.stack(grads),)


_unstack_leaf.defvjp(_unstack_fwd, _unstack_bwd)
