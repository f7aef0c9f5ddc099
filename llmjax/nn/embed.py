"""The cells at both ends of a language model: token embedding, and what heads add."""

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.nn.cell import Cell, Weight, dense
from llmjax.nn.mlp import ACTIVATIONS
from llmjax.nn.norm import Norm
from llmjax.ops import adapter, quant
from llmjax.ops.adapter import Adapted
from llmjax.ops.linear import Turned
from llmjax.sharding import constrain

STD = 0.02  # of embeddings at the start, as in GPT-2


class Embed(Cell):
    """Token embeddings, plus those of positions and token types the config has."""

    def setup(self):
        cfg = self.cfg
        if cfg.own_embedding:
            self.embed_VD = self._table("embed_VD")
        if cfg.positions == "learned":
            self.positions_TD = self._table("positions_TD")
        if cfg.num_token_types:
            self.types_YD = self._table("types_YD")
        if cfg.embed_norm:
            self.norm = Norm(cfg)

    def declare(self):
        if self.cfg.embed_norm:
            self.norm.declare()

    def __call__(
        self,
        tokens_BT,
        positions_BT,
        types_BT=None,
        dtype=jnp.float32,
        table_VD=None,
        vectors_BTD=None,
        is_vector_BT=None,
    ) -> jax.Array:
        """[B, T, D]; `table_VD` stands in where there is no embedding of its own, and
        vectors for tokens that are none: all, or those marked."""
        cfg = self.cfg
        if vectors_BTD is None or is_vector_BT is not None:
            table_VD = self.embed_VD if cfg.own_embedding else table_VD
            x_BTD = self._look_up(table_VD, tokens_BT, dtype)
        if vectors_BTD is not None:
            vectors_BTD = vectors_BTD.astype(dtype)
            if is_vector_BT is not None:
                vectors_BTD = jnp.where(is_vector_BT[..., None], vectors_BTD, x_BTD)
            x_BTD = vectors_BTD
        if cfg.positions == "learned":
            positions_TD = constrain(self.positions_TD, "SD")
            rows_BT = positions_BT + cfg.position_offset
            x_BTD = x_BTD + positions_TD[rows_BT].astype(dtype)
        if cfg.positions == "sinusoidal":
            table_TD = jnp.asarray(sinusoids(cfg.context, cfg.width), dtype)
            x_BTD = x_BTD + table_TD[positions_BT]
        if cfg.num_token_types:
            types_BT = jnp.zeros_like(tokens_BT) if types_BT is None else types_BT
            x_BTD = x_BTD + self.types_YD[types_BT].astype(dtype)
        if cfg.embed_norm:
            x_BTD = self.norm(x_BTD)
        return constrain(x_BTD, "BTD")

    def _look_up(self, table_VD, tokens_BT, dtype) -> jax.Array:
        x_BTD = adapter.take(_with_whole_rows(table_VD), tokens_BT, dtype)
        if self.cfg.embed_scale == 1.0:
            return x_BTD
        return x_BTD * jnp.asarray(self.cfg.embed_scale, dtype)

    def _table(self, name: str) -> Weight:
        return self.weight(name, STD)

    def table(self) -> jax.Array | quant.Int8 | None:
        """embed_VD, to which a head may be tied; None if it belongs to another.

        It is the base's: adapters are of the rows that tokens read, as in peft.
        """
        if not self.cfg.own_embedding:
            return None
        is_adapted = isinstance(self.embed_VD, Adapted)
        return self.embed_VD.weight if is_adapted else self.embed_VD


def _with_whole_rows(table_VD: Weight) -> Weight:
    """The table, not split over D: gathering D first costs less.

    Otherwise the compiler would replicate what was gathered and split it again.
    """
    if isinstance(table_VD, Adapted):
        return table_VD._replace(weight=_with_whole_rows(table_VD.weight))
    return table_VD if isinstance(table_VD, quant.Int8) else constrain(table_VD, "VD")


def sinusoids(length: int, width: int) -> np.ndarray:
    """[T, D]: sines of falling frequencies, then cosines (Vaswani et al. 2017)."""
    freqs = 10000.0 ** (-np.arange(0, width, 2) / width)
    # In float64: an angle of many turns would keep few digits of its last one.
    angles = np.arange(length)[:, None] * freqs
    table_TD = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width]
    return table_TD.astype(np.float32)


class Head(Cell):
    """What lies between the last hidden state and the logits, where not shared."""

    def setup(self):
        cfg = self.cfg
        if cfg.head_transform != "none":
            self.dense_DM = self.matrix("dense_DM", "D")
            has_bias = cfg.head_transform_bias
            self.dense_bias_M = self.vector("dense_bias_M") if has_bias else None
        if cfg.head_transform == "norm":
            self.norm = Norm(cfg)
        if cfg.head == "lm":
            self.head_DV = None if cfg.tied else self.matrix("head_DV", "D")
            self.bias = self.vector("bias_V") if cfg.head_bias else None
        if cfg.head == "classes":
            self.head_DO = self.matrix("head_DO", "D")
            self.bias = self.vector("bias_O") if cfg.head_bias else None

    def declare(self):
        if self.cfg.head_transform == "norm":
            self.norm.declare()

    def transform(self, hidden: jax.Array) -> jax.Array:
        """What the head reads, of hidden states with any leading axes."""
        cfg = self.cfg
        if cfg.head_transform == "none":
            return hidden
        hidden = dense("...D,DM->...M", hidden, self.dense_DM, self.dense_bias_M)
        if cfg.head_transform == "tanh":
            return jnp.tanh(hidden)
        return self.norm(ACTIVATIONS[cfg.head_activation](hidden))

    def __call__(self, hidden, table_VD=None) -> jax.Array:
        """float32 logits; `table_VD` is the embedding, to which a head may be tied."""
        cfg = self.cfg
        hidden = self.transform(hidden)
        if cfg.head_scale != 1.0:
            hidden = hidden * jnp.asarray(cfg.head_scale, hidden.dtype)
        if cfg.head == "lm":
            weight, equation = self.head_DV, "...D,DV->...V"
            if cfg.tied:
                quantised = isinstance(table_VD, quant.Int8)
                weight = table_VD.T if quantised else Turned(table_VD)
        else:
            weight, equation = self.head_DO, "...D,DO->...O"
        logits = dense(equation, hidden, weight, self.bias, jnp.float32)
        cap = cfg.logits_softcap
        return logits if cap is None else cap * jnp.tanh(logits / cap)
