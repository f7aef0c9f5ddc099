"""Log-probabilities of what was said, from hidden states, without all logits at once.

A batch has tokens, targets and weights [B, T], as everywhere: targets are the tokens
one to the left, and a weight is 1 where the target is a token of the answer. All
logits are divided by the temperature that the answers were drawn with, the reference's
too: only so are ratios 1 and the KL 0 before the first update (OpenAI 2019 and N+; TRL
0.11 does it to neither).

num_tokens is how long an answer may be: logits are then made at so many positions of
each row, from its first weight on, and what is asked for is 0 at the others. None is
all positions.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from llmjax.ops.xent import at_ids, positions_at_once, split_positions
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
    num_tokens: int | None = None,
) -> Said:
    """What a model makes of the targets."""
    hidden_BTD = model.apply(params, batch, key=key).hidden_BTD
    readout = partial(model.readout, params)
    return read(readout, hidden_BTD, batch, temperature, num_tokens)


def read(
    readout: Readout,
    hidden_BTD: jax.Array,
    batch: Batch,
    temperature: float,
    num_tokens: int | None = None,
) -> Said:
    """The same, of the hidden states."""

    def part(hidden_BTD, targets_BT):
        log_probs_BTV = _log_probs(readout(hidden_BTD), temperature)
        plogp_BTV = jnp.exp(log_probs_BTV) * log_probs_BTV
        return Said(at_ids(log_probs_BTV, targets_BT)[0], -plogp_BTV.sum(axis=-1))

    return _at_answers(part, batch, num_tokens, hidden_BTD, batch["targets"])


def compare(
    model: Model,
    params: Params,
    reference: Params,
    batch: Batch,
    *,
    temperature: float = 1.0,
    hidden_BTD: jax.Array | None = None,
    num_tokens: int | None = None,
) -> dict[str, jax.Array]:
    """log_probs, ref_log_probs, and the exact KL between the two at each target.

    hidden_BTD: what `params` makes of the batch, where that is at hand.
    """

    def part(hidden_BTD, ref_hidden_BTD, targets_BT):
        logits_BTV = model.readout(params, hidden_BTD) / temperature
        ref_BTV = model.readout(reference, ref_hidden_BTD) / temperature
        return {
            "log_probs": at_ids(jax.nn.log_softmax(logits_BTV), targets_BT)[0],
            "ref_log_probs": at_ids(jax.nn.log_softmax(ref_BTV), targets_BT)[0],
            "full_kl": kl.full(logits_BTV, ref_BTV),
        }

    if hidden_BTD is None:
        hidden_BTD = model.apply(params, batch).hidden_BTD
    ref_hidden_BTD = model.apply(reference, batch).hidden_BTD
    arrays = hidden_BTD, ref_hidden_BTD, batch["targets"]
    return _at_answers(part, batch, num_tokens, *arrays)


def of_answers(
    model: Model, params: Params, batch: Batch, *, temperature: float = 1.0
) -> jax.Array:
    """The log-probability of each whole answer, [B]."""
    said = of(model, params, batch, temperature=temperature)
    return (said.log_prob_BT * batch["weights"]).sum(axis=1)


def _log_probs(logits_BTV: jax.Array, temperature: float) -> jax.Array:
    return jax.nn.log_softmax(logits_BTV / temperature)


def _at_answers(part: Callable, batch: Batch, num_tokens: int | None, *arrays):
    """`part` of the arrays [B, T, ...] where the answers are; see above."""
    B, T = batch["targets"].shape
    if num_tokens is None or num_tokens >= T:
        return _in_parts(part, *arrays)
    first_B1 = jnp.argmax(batch["weights"] > 0, axis=1, keepdims=True)
    # Beyond the end of a row nothing is put, whatever was taken from there.
    at = jnp.arange(B)[:, None], first_B1 + jnp.arange(num_tokens)[None]
    taken = (jnp.asarray(x).at[at].get(mode="clip") for x in arrays)
    found = _in_parts(part, *taken)
    return jax.tree.map(
        lambda x_BA: jnp.zeros((B, T), x_BA.dtype).at[at].set(x_BA, mode="drop"), found
    )


def _in_parts(part: Callable, *arrays: jax.Array):
    """`part` of the arrays [B, T, ...], some positions at a time, as many as
    `losses.next_token` has logits of; backward makes them again."""
    B, T = arrays[0].shape[:2]
    chunk = positions_at_once(B)
    if chunk >= T:
        return part(*arrays)

    def whole(x):
        return jnp.moveaxis(x, 0, 2).reshape(B, -1)[:, :T]

    xs = tuple(split_positions(array, chunk) for array in arrays)
    checkpointed = jax.checkpoint(lambda xs: part(*xs))
    return jax.tree.map(whole, jax.lax.map(checkpointed, xs))
