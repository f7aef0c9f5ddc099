"""The cells at both ends of a language model: token embedding and readout."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from llmjax.nn.cell import Cell
from llmjax.ops.linear import linear
from llmjax.sharding import constrain

STD = 0.02  # of embeddings at the start, as in GPT-2


class Embed(Cell):
    """Token embeddings, plus learned positions where the config has them."""

    def setup(self):
        init = nn.initializers.normal(STD)
        self.embed_VD = self.param("embed_VD", init, self.cfg.shape("embed_VD"))
        if self.cfg.positions == "learned":
            shape = self.cfg.shape("positions_TD")
            self.positions_TD = self.param("positions_TD", init, shape)

    def __call__(self, tokens_BT, positions_BT, dtype) -> jax.Array:
        # Gathering from a table split over D would make the compiler replicate the
        # result and split it again; gathering D first costs less.
        x_BTD = constrain(self.embed_VD, "VD")[tokens_BT].astype(dtype)
        if self.cfg.positions == "learned":
            positions_TD = constrain(self.positions_TD, "SD")
            x_BTD = x_BTD + positions_TD[positions_BT].astype(dtype)
        return constrain(x_BTD, "BTD")


class Head(Cell):
    """The untied output projection."""

    def setup(self):
        self.head_DV = self.matrix("head_DV", "D")


def readout(
    hidden: jax.Array, weight_DV: jax.Array, softcap: float | None
) -> jax.Array:
    """float32 logits of hidden states with any leading axes."""
    weight_DV = weight_DV.astype(hidden.dtype)
    logits = linear("...D,DV->...V", hidden, weight_DV, jnp.float32)
    return logits if softcap is None else softcap * jnp.tanh(logits / softcap)
