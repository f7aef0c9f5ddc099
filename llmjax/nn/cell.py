"""The base of all Flax modules: parameters are declared by name, shapes follow."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.config import ModelConfig
from llmjax.ops import adapter, quant
from llmjax.ops.adapter import Adapted
from llmjax.ops.linear import Turned, linear, turned_linear, turned_name
from llmjax.ops.norm import align
from llmjax.ops.quant import NF4, Int8

# What a product is made with: an array, or what may stand in for one.
Weight = jax.Array | Int8 | NF4 | Turned | Adapted


class Cell(nn.Module):
    """A Flax module that declares its parameters in `setup`.

    `init(key, method="declare")` therefore makes them from their shapes alone, without
    tracing a forward pass. A parameter's shape is read off its name by the config.
    """

    cfg: ModelConfig

    def declare(self) -> None:
        """Runs `setup`; a cell made of cells declares those too."""

    def matrix(self, name: str, fan_in: str, gain: float = 1.0) -> Weight:
        """A weight from N(0, gain^2 / fan_in); `fan_in` names its input letters."""
        sizes = self.cfg.sizes
        std = gain / math.sqrt(math.prod(sizes[letter] for letter in fan_in))
        return self.weight(name, std)

    def weight(self, name: str, std: float) -> Weight:
        """A weight from N(0, std^2), or what has been made of one.

        What stands beside it tells which: scales of fewer bits, the matrices of LoRA.
        """
        base, names = self._base(name, std), adapter.names(name)
        a = self._find(names.a)
        if a is None:
            return base
        others = (names.b, names.magnitude, names.mask, names.dropout)
        return Adapted(base, a, *map(self._find, others))

    def _base(self, name: str, std: float) -> Weight:
        turned = self._find(turned_name(name))
        if turned is not None:
            return Turned(turned)
        weight = self.param(name, nn.initializers.normal(std), self.cfg.shape(name))
        for kind, scale_name in ((Int8, quant.scale_name), (NF4, quant.block_name)):
            scale = self._find(scale_name(name))
            if scale is not None:
                return kind(weight, scale)
        return weight

    def _find(self, name: str) -> Any:
        return self.get_variable("params", name)

    def vector(self, name: str, value: float = 0.0) -> jax.Array:
        """A bias or a scale that starts at `value`."""
        init = nn.initializers.constant(value)
        return self.param(name, init, self.cfg.shape(name))


def dense(
    equation: str,
    x: jax.Array,
    weight: Weight,
    bias: jax.Array | None = None,
    out_dtype: jnp.dtype | None = None,
) -> jax.Array:
    """`einsum(equation, x, weight) + bias` in x's dtype: where all matmuls are.

    `out_dtype` is another one to sum and return the products in.
    """
    if isinstance(weight, Adapted):
        y = _product(equation, x, weight.weight, out_dtype)
        y = adapter.apply(equation, x, y, weight)
    else:
        y = _product(equation, x, weight, out_dtype)
    return y if bias is None else y + align(bias.astype(y.dtype), y)


def _product(equation: str, x: jax.Array, weight: Weight, out_dtype) -> jax.Array:
    if isinstance(weight, Int8):
        y = linear(equation, x, weight.weight.astype(x.dtype), out_dtype)
        return y * align(weight.scale.astype(y.dtype), y)
    if isinstance(weight, Turned):
        return turned_linear(equation, x, weight.weight.astype(x.dtype), out_dtype)
    if isinstance(weight, NF4):
        letters = equation.partition("->")[0].rpartition(",")[2]
        weight = quant.restore(f"w_{letters}", weight)
    return linear(equation, x, weight.astype(x.dtype), out_dtype)
