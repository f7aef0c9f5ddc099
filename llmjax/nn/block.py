"""One layer of a transformer: attention and feed-forward on the residual stream."""

import jax
import jax.numpy as jnp

from llmjax.config import Layer
from llmjax.nn.attention import Attention, Context
from llmjax.nn.cell import Cell
from llmjax.nn.mlp import MLP
from llmjax.nn.norm import Norm


class Block(Cell):
    """Self-attention, cross-attention where there is an encoder, then feed-forward.

    Each is a branch of the residual stream; the config says where its norms stand.
    """

    def setup(self):
        cfg = self.cfg
        self.attention_norm, self.attention = Norm(cfg), Attention(cfg)
        self.mlp_norm, self.mlp = Norm(cfg), MLP(cfg)
        if cfg.encoder is not None:
            self.cross_norm, self.cross = Norm(cfg), Attention(cfg, is_cross=True)
        if cfg.norms == "sandwich":
            self.attention_out_norm, self.mlp_out_norm = Norm(cfg), Norm(cfg)

    def declare(self):
        cells = [self.attention, self.mlp_norm, self.mlp]
        if self._reads_norm():
            cells.append(self.attention_norm)
        if self.cfg.encoder is not None:
            cells += [self.cross_norm, self.cross]
        if self.cfg.norms == "sandwich":
            cells += [self.attention_out_norm, self.mlp_out_norm]
        for cell in cells:
            cell.declare()

    def __call__(
        self, x_BTD, context: Context, layer: Layer, cache=None, index=0, source=None
    ):
        """(x_BTD, cache) after layer number `index`, which is of the kind `layer`.

        source: this layer's keys and values of the encoder's output, [B, S, K, H] each.
        """
        cfg = self.cfg
        drop = [_dropped(context, 3 * index + branch) for branch in range(3)]
        read_BTD = x_BTD
        if self._reads_norm():
            read_BTD = self._read(self.attention_norm, x_BTD)
        if not cfg.first_norm:
            read_BTD = jnp.where(index == 0, x_BTD, read_BTD)
        mixed_BTD, cache = self.attention(read_BTD, context, layer, cache, index)
        if cfg.parallel:
            mlp_BTD = self.mlp(self.mlp_norm(x_BTD))
            return x_BTD + drop[0](mixed_BTD) + drop[1](mlp_BTD), cache
        x_BTD = self._add("attention", x_BTD, drop[0](mixed_BTD))
        if cfg.encoder is not None:
            read_BTD = self._read(self.cross_norm, x_BTD)
            crossed_BTD = self.cross.attend_to(source, read_BTD, context)
            x_BTD = self._add("cross", x_BTD, drop[2](crossed_BTD))
        mlp_BTD = self.mlp(self._read(self.mlp_norm, x_BTD))
        return self._add("mlp", x_BTD, drop[1](mlp_BTD)), cache

    def _reads_norm(self) -> bool:
        """False where the only layer is the first one, and that has no norm."""
        return self.cfg.first_norm or self.cfg.num_layers > 1

    def _read(self, norm: Norm, x_BTD):
        """What a branch reads of the residual stream."""
        return norm(x_BTD) if self.cfg.norms in ("pre", "sandwich") else x_BTD

    def _add(self, branch: str, x_BTD, y_BTD):
        """The residual stream with the branch's output."""
        if self.cfg.norms == "post":
            return getattr(self, f"{branch}_norm")(x_BTD + y_BTD)
        if self.cfg.norms == "output":
            y_BTD = getattr(self, f"{branch}_norm")(y_BTD)
        if self.cfg.norms == "sandwich":
            y_BTD = getattr(self, f"{branch}_out_norm")(y_BTD)
        return x_BTD + y_BTD


def _dropped(context: Context, number):
    """The function that zeroes a share of an array and scales up what is left."""
    if context.key is None or not context.dropout:
        return lambda x: x

    def drop(x):
        key, kept = jax.random.fold_in(context.key, number), 1 - context.dropout
        return jnp.where(jax.random.bernoulli(key, kept, x.shape), x / kept, 0)

    return drop
