"""Log-probabilities of what was said, from hidden states, without all logits at once.

A batch has tokens, targets and weights [B, T], as everywhere: targets are the tokens
one to the left, and a weight is 1 where the target is a token of the answer. All
logits are divided by the temperature that the answers were drawn with, the reference's
too: only so are ratios 1 and the KL 0 before the first update (OpenAI 2019 and N+; TRL
0.11 does it to neither).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.rl import kl
from llmjax.types import Batch, Key, Model, Params

Readout = Callable[[jax.Array], jax.Array]


class Said(NamedTuple):
    """Of each target, float32: its log-probability, and the entropy it was drawn at."""

    log_prob_BT: jax.Array
    entropy_BT: jax.Array


def of(
    model: Model,
    params: Params,
    batch: Batch,
    *,
    temperature: float = 1.0,
    key: Key | None = None,
) -> Said:
    """What a model makes of the targets."""
    hidden_BTD = model.apply(params, batch, key=key).hidden_BTD
    return read(partial(model.readout, params), hidden_BTD, batch, temperature)


def read(
    readout: Readout, hidden_BTD: jax.Array, batch: Batch, temperature: float
) -> Said:
    """The same, of the hidden states."""

    def part(hidden_BTD, targets_BT):
        log_probs_BTV = _log_probs(readout(hidden_BTD), temperature)
        plogp_BTV = jnp.exp(log_probs_BTV) * log_probs_BTV
        return Said(_at(log_probs_BTV, targets_BT), -plogp_BTV.sum(axis=-1))

    return _in_parts(part, hidden_BTD, batch["targets"])


def compare(
    model: Model,
    params: Params,
    reference: Params,
    batch: Batch,
    *,
    temperature: float = 1.0,
) -> dict[str, jax.Array]:
    """log_probs, ref_log_probs, and the exact KL between the two at each target."""

    def part(hidden_BTD, ref_hidden_BTD, targets_BT):
        logits_BTV = model.readout(params, hidden_BTD) / temperature
        ref_BTV = model.readout(reference, ref_hidden_BTD) / temperature
        return {
            "log_probs": _at(jax.nn.log_softmax(logits_BTV), targets_BT),
            "ref_log_probs": _at(jax.nn.log_softmax(ref_BTV), targets_BT),
            "full_kl": kl.full(logits_BTV, ref_BTV),
        }

    hiddens = (model.apply(one, batch).hidden_BTD for one in (params, reference))
    return _in_parts(part, *hiddens, batch["targets"])


def of_answers(
    model: Model, params: Params, batch: Batch, *, temperature: float = 1.0
) -> jax.Array:
    """The log-probability of each whole answer, [B]."""
    said = of(model, params, batch, temperature=temperature)
    return (said.log_prob_BT * batch["weights"]).sum(axis=1)


def _log_probs(logits_BTV: jax.Array, temperature: float) -> jax.Array:
    return jax.nn.log_softmax(logits_BTV / temperature)


def _at(values_BTV: jax.Array, ids_BT: jax.Array) -> jax.Array:
    # A comparison instead of a gather: it needs no communication when V is sharded.
    V = values_BTV.shape[-1]
    is_id_BTV = ids_BT[..., None] == jnp.arange(V, dtype=ids_BT.dtype)[None, None]
    return jnp.sum(jnp.where(is_id_BTV, values_BTV, 0), axis=-1)


def _in_parts(part: Callable, *arrays: jax.Array):
    """`part` of the arrays [B, T, ...], some positions at a time, which backward makes
    again: as many as `losses.next_token` has logits of."""
    tokens = 512 if jax.default_backend() == "cpu" else 8192
    B, T = arrays[0].shape[:2]
    num_devices = max(1, jax.sharding.get_abstract_mesh().size)
    chunk = max(1, tokens * num_devices // B)
    if chunk >= T:
        return part(*arrays)
    num = -(-T // chunk)

    def split(x):  # strided, so that each device has its share of a split T
        x = jnp.pad(x, [(0, 0), (0, num * chunk - T)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(B, chunk, num, *x.shape[2:]), 2, 0)

    def whole(x):
        return jnp.moveaxis(x, 0, 2).reshape(B, num * chunk)[:, :T]

    checkpointed = jax.checkpoint(lambda xs: part(*xs))
    return jax.tree.map(whole, jax.lax.map(checkpointed, tuple(map(split, arrays))))
