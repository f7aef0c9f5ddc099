"""Low-rank adapters of a frozen matrix: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024).

Two small matrices stand beside a large one, and x W becomes x W + (x a) b. Their names
follow from its own: beside "q_DNH" stand "q_a_DR" and "q_b_RNH".
"""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from llmjax import dims
from llmjax.ops import quant
from llmjax.ops.linear import Turned, linear
from llmjax.ops.norm import align

# What remat may keep: the sum, so that it does not keep both of its terms.
KEPT = "adapted"
A_NAME = re.compile(r"\w+_a_[A-Z]*R")
B_NAME = re.compile(r"\w+_b_R[A-Z]*")


class Names(NamedTuple):
    """What the parts of an `Adapted` are called."""

    a: str
    b: str
    magnitude: str
    mask: str
    dropout: str


class Dropout(NamedTuple):
    """Which values are dropped, and which share of them."""

    key: jax.Array
    rate: jax.Array


class Adapted(NamedTuple):
    """A frozen weight and what has been learnt beside it.

    weight: the base's, in any of its forms. b: already multiplied by alpha / rank.
    magnitude: in DoRA, how long each output's vector of weights is to be.
    mask_BR: which of the rank a row of the batch uses; None is all of it.
    dropout: of what `a` reads, in training.
    """

    weight: Any
    a: jax.Array
    b: jax.Array
    magnitude: jax.Array | None = None
    mask_BR: jax.Array | None = None
    dropout: Dropout | None = None


def names(name: str) -> Names:
    """Of the parts that stand beside the matrix of that name."""
    stem = name.rpartition("_")[0]
    inputs, outputs = dims.split_matrix(name)
    a = f"{stem}_a_{inputs}R"
    return Names(
        a=a,
        b=f"{stem}_b_R{outputs}",
        magnitude=f"{stem}_magnitude_{outputs}",
        mask=mask_name(a),
        dropout=dropout_name(a),
    )


def mask_name(a: str) -> str:
    """Of the mask that stands beside the matrix `a` of that name."""
    return f"{a.rpartition('_a_')[0]}_mask_BR"


def dropout_name(a: str) -> str:
    """Of the `Dropout` that stands beside the matrix `a` of that name."""
    return f"{a.rpartition('_a_')[0]}_dropout"


def is_a(path: str) -> bool:
    """Whether the leaf is what an adapter reads with."""
    return A_NAME.fullmatch(path.rpartition("/")[2]) is not None


def is_b(path: str) -> bool:
    """Whether the leaf is what an adapter writes with."""
    return B_NAME.fullmatch(path.rpartition("/")[2]) is not None


def apply(
    equation: str, x: jax.Array, product: jax.Array, adapted: Adapted
) -> jax.Array:
    """What the adapted weight makes of x; `product` is what the base's makes of it."""
    x_letters, weight_letters = equation.partition("->")[0].split(",")
    inputs = "".join(letter for letter in weight_letters if letter in x_letters)
    outputs = weight_letters.removeprefix(inputs)
    rows = x_letters.removesuffix(inputs)
    if adapted.dropout is not None:
        x = _drop(x, adapted.dropout)
    read = linear(f"{x_letters},{inputs}R->{rows}R", x, adapted.a.astype(x.dtype))
    write = f"{rows}R,R{outputs}->{equation.partition('->')[2]}"
    b = adapted.b.astype(x.dtype)
    y = product + linear(write, _masked(read, adapted), b, product.dtype)
    y = checkpoint_name(y, KEPT)
    if adapted.magnitude is None:
        return y
    gain = _gain(f"w_{weight_letters}", adapted)
    return y * align(gain.astype(y.dtype), y)


def take(table: Any, ids: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Rows of a table of embeddings in any form, adapted or not, [*ids.shape, D]."""
    if not isinstance(table, Adapted):
        return quant.take(table, ids, dtype)
    read = _masked(table.a[ids].astype(dtype), table)
    rows = quant.take(table.weight, ids, dtype) + read @ table.b.astype(dtype)
    if table.magnitude is None:
        return rows
    return rows * align(_gain("w_VD", table).astype(dtype), rows)


def merge(name: str, adapted: Adapted) -> jax.Array:
    """The one matrix, in float32, that does what the adapted weight does."""
    whole = _whole(name, adapted)
    if adapted.magnitude is None:
        return whole
    gain = adapted.magnitude / lengths(name, whole)
    return whole * jnp.expand_dims(gain, _input_axes(name))


def lengths(name: str, weight: Any) -> jax.Array:
    """How long each output's vector of weights is."""
    whole = quant.restore(name, weight)
    return jnp.sqrt(jnp.square(whole).sum(_input_axes(name)))


def _whole(name: str, adapted: Adapted) -> jax.Array:
    inputs, outputs = dims.split_matrix(name)
    weight = adapted.weight
    if isinstance(weight, Turned):
        moved = range(-len(inputs), 0), range(-len(inputs + outputs), -len(outputs))
        weight = jnp.moveaxis(weight.weight, *moved)
    change = jnp.einsum(
        f"...{inputs}R,...R{outputs}->...{inputs}{outputs}", adapted.a, adapted.b,
        precision="highest",
    )  # fmt: skip
    return quant.restore(name, weight) + change


def _gain(name: str, adapted: Adapted) -> jax.Array:
    """What DoRA multiplies each output by.

    The length is a constant to the gradient: section 4.3 of the paper.
    """
    fixed = jax.lax.stop_gradient(adapted._replace(dropout=None))
    return adapted.magnitude / lengths(name, _whole(name, fixed))


def _masked(read: jax.Array, adapted: Adapted) -> jax.Array:
    """What `a` has read, of each row only what is for its own adapter."""
    if adapted.mask_BR is None:
        return read
    B, R = adapted.mask_BR.shape
    mask = adapted.mask_BR.reshape(B, *[1] * (read.ndim - 2), R)
    return read * mask.astype(read.dtype)


def _drop(x: jax.Array, dropout: Dropout) -> jax.Array:
    kept = 1 - dropout.rate
    scaled = (x / kept).astype(x.dtype)
    return jnp.where(jax.random.bernoulli(dropout.key, kept, x.shape), scaled, 0)


def _input_axes(name: str) -> tuple[int, ...]:
    """Of a matrix, counted from the end: an L may stand before them."""
    inputs, outputs = dims.split_matrix(name)
    return tuple(range(-len(inputs + outputs), -len(outputs)))
