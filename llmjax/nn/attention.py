"""The attention cell: projections, q/k-norm, RoPE, cache, and the attention itself."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from llmjax.config import Layer, attention_scale
from llmjax.nn.cell import Cell, dense
from llmjax.ops import norm, rope
from llmjax.ops.attention import attend
from llmjax.ops.mask import Mask
from llmjax.sharding import constrain


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mask", "rotation", "index_B"],
    meta_fields=["kernel"],
)
@dataclasses.dataclass(frozen=True)
class Context:
    """What every layer of a stack shares about the batch.

    mask: who sees whom, before a layer's own window is added.
    rotation: cos and sin of `ops.rope.rotation`; None without RoPE.
    index_B: how many slots of each row's cache are filled; None without a cache.
    kernel: which attention kernel to use.
    """

    mask: Mask
    rotation: tuple[jax.Array, jax.Array] | None = None
    index_B: jax.Array | None = None
    kernel: str = "auto"


class Attention(Cell):
    """Multi-head attention with N query heads over K key/value heads."""

    def setup(self):
        cfg = self.cfg
        self.q_DNH = self.matrix("q_DNH", "D")
        self.k_DKH = self.matrix("k_DKH", "D")
        self.v_DKH = self.matrix("v_DKH", "D")
        # Each block adds to the residual stream twice: keep its variance at depth.
        self.o_NHD = self.matrix("o_NHD", "NH", gain=(2 * cfg.num_layers) ** -0.5)
        self.q_bias_NH = self.vector("q_bias_NH") if cfg.qkv_bias else None
        self.k_bias_KH = self.vector("k_bias_KH") if cfg.qkv_bias else None
        self.v_bias_KH = self.vector("v_bias_KH") if cfg.qkv_bias else None
        self.o_bias_D = self.vector("o_bias_D") if cfg.out_bias else None
        if cfg.qk_norm:
            self.q_norm_H = self.vector("q_norm_H", 1.0)
            self.k_norm_H = self.vector("k_norm_H", 1.0)

    def __call__(self, x_BTD, context: Context, layer: Layer, cache=None, index=0):
        """(output, cache): [B, T, D], and the cache with k and v of layer `index`."""
        q_BTNH, k_BSKH, v_BSKH = self._project(x_BTD)
        if layer.rope and context.rotation is not None:
            q_BTNH = rope.rotate(q_BTNH, *context.rotation)
            k_BSKH = rope.rotate(k_BSKH, *context.rotation)
        if cache is not None:
            k_LBSKH = _write(cache["k_LBSKH"], k_BSKH, index, context.index_B)
            v_LBSKH = _write(cache["v_LBSKH"], v_BSKH, index, context.index_B)
            cache = {"k_LBSKH": k_LBSKH, "v_LBSKH": v_LBSKH}
            k_BSKH, v_BSKH = k_LBSKH[index], v_LBSKH[index]
        # S is not sharded: with a `sequence` axis, keys and values are gathered here.
        out_BTNH = attend(
            constrain(q_BTNH, "BTNH"),
            constrain(k_BSKH.astype(x_BTD.dtype), "BSKH"),
            constrain(v_BSKH.astype(x_BTD.dtype), "BSKH"),
            context.mask.with_window(layer.window),
            scale=attention_scale(self.cfg),
            softcap=self.cfg.attention_softcap,
            kernel=context.kernel,
        )
        out_BTNH = constrain(out_BTNH, "BTNH")
        out_BTD = dense("BTNH,NHD->BTD", out_BTNH, self.o_NHD, self.o_bias_D)
        return constrain(out_BTD, "BTD"), cache

    def _project(self, x_BTD):
        q_BTNH = dense("BTD,DNH->BTNH", x_BTD, self.q_DNH, self.q_bias_NH)
        k_BSKH = dense("BSD,DKH->BSKH", x_BTD, self.k_DKH, self.k_bias_KH)
        v_BSKH = dense("BSD,DKH->BSKH", x_BTD, self.v_DKH, self.v_bias_KH)
        if self.cfg.qk_norm:
            q_BTNH = norm.rms_norm(q_BTNH, self.q_norm_H, self.cfg.norm_eps)
            k_BSKH = norm.rms_norm(k_BSKH, self.k_norm_H, self.cfg.norm_eps)
        return q_BTNH, k_BSKH, v_BSKH


def _write(cache_LBSKH, new_BSKH, layer, index_B):
    """The cache with the new keys or values of each row in its next free slots."""
    rows = jnp.arange(new_BSKH.shape[0])[:, None]
    slots = index_B[:, None] + jnp.arange(new_BSKH.shape[1])[None]
    new_BSKH = new_BSKH.astype(cache_LBSKH.dtype)
    return cache_LBSKH.at[layer, rows, slots].set(new_BSKH, mode="drop")
