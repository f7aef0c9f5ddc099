"""What of a model is trained: all of it, or adapters beside it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from llmjax import lora
from llmjax.data import assets
from llmjax.lora import LoraConfig
from llmjax.types import Key, Params


class Trained(NamedTuple):
    """init: (key) -> the shapes of what is trained. start: what it begins with, where
    that is not drawn. frozen: for `make_step`. whole: what is trained -> all parameters
    of the model. of: a loss of all parameters -> a loss of what is trained."""

    init: Callable[[Key], Params]
    start: Params | None
    frozen: Params | None
    whole: Callable[[Params], Params]
    of: Callable[[Callable], Callable]


def begin(base: Params, how: LoraConfig, more: Params | None = None) -> Trained:
    """The base itself, of which a copy is trained; or with a rank, adapters beside it.

    more: a part of the base that is trained itself beside the adapters, like a fresh
      head.
    """
    if not how.rank:
        start = jax.tree.map(jnp.copy, base)
        return Trained(partial(_zeros, base), start, None, _same, _same)

    def init(key: Key) -> Params:
        return lora.union(lora.init(how, base, key), more or {})

    def whole(own: Params) -> Params:
        return lora.join(base, own, how)

    return Trained(init, None, base, whole, lambda loss_fn: lora.beside(loss_fn, how))


def base_of(run: Any, how: LoraConfig) -> dict[str, Any]:
    """What a config says of adapters, so that the workdir opens with their base."""
    if not how.rank:
        return {}
    return {"base": str(assets.model(run.init_from).resolve()), "lora": how}


def _zeros(base: Params, key: Key) -> Params:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), base)


def _same(value):
    return value
