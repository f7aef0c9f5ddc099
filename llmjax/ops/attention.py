"""Scaled dot-product attention (Vaswani et al. 2017) with grouped keys and values.

One entry, `attend`, and three kernels with the same result: `reference` holds all T x S
scores; `chunked` goes by blocks of queries and skips what the mask hides; `cudnn` is
NVIDIA's fused one.
"""

from functools import partial

import jax
import jax.numpy as jnp

from llmjax import dims
from llmjax.ops.mask import Mask

# Queries of a block of the chunked kernel: a quarter of them, within these bounds; but
# no more than so many blocks, for the sake of compilation.
MIN_BLOCK, MAX_BLOCK, MAX_BLOCKS = 64, 128, 32


def attend(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    mask: Mask,
    *,
    scale: float,
    softcap: float | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """The attention output, [B, T, N, H], in q's dtype; scores and softmax in float32.

    N must be a multiple of K: query head n reads key/value head n // (N / K). With
    `softcap` = c the scaled scores become c * tanh(score / c) before the mask. A query
    that sees no key at all gets an average of values: finite, and meaningless.
    """
    dims.check(q_BTNH=q_BTNH, k_BSKH=k_BSKH, v_BSKH=v_BSKH)
    if kernel == "auto":
        kernel = _choose(q_BTNH, k_BSKH, mask, softcap)
    if kernel == "cudnn":
        return _cudnn(q_BTNH, k_BSKH, v_BSKH, mask, scale)
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    # Scaling q once costs less than scaling all scores.
    q_BTKGH = (q_BTNH * scale).reshape(B, T, K, N // K, H)
    run = _chunked if kernel == "chunked" else _block
    out_BTKGH = run(q_BTKGH, k_BSKH, v_BSKH, mask, softcap)
    return out_BTKGH.reshape(B, T, N, H)


def _choose(q_BTNH, k_BSKH, mask: Mask, softcap) -> str:
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.shape.get("sequence", 1) > 1:
        return "reference"  # each device already holds a part of the queries only
    T = q_BTNH.shape[1]
    fits_cudnn = (
        jax.default_backend() == "gpu"
        and q_BTNH.dtype in (jnp.bfloat16, jnp.float16)
        and softcap is None
        and q_BTNH.shape[-1] % 8 == 0
        and q_BTNH.shape[-1] <= 128
        and mask.is_static()
        and T > 1
        and (mask.causal or mask.window is None)
    )
    if fits_cudnn:
        return "cudnn"
    return "chunked" if T > MIN_BLOCK else "reference"


def _block(q_BTKGH, k_BSKH, v_BSKH, mask: Mask, softcap, start=0, low=0):
    """Queries start.. against keys low.., all at once."""
    T, S = q_BTKGH.shape[1], k_BSKH.shape[1]
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        scores_BKGTS = softcap * jnp.tanh(scores_BKGTS / softcap)
    seen_BTS = mask.dense(slice(start, start + T), slice(low, low + S))
    if seen_BTS is not None:
        hidden = jnp.finfo(jnp.float32).min
        scores_BKGTS = jnp.where(seen_BTS[:, None, None], scores_BKGTS, hidden)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH)


def _chunked(q_BTKGH, k_BSKH, v_BSKH, mask: Mask, softcap):
    """Blocks of queries, each against the keys that it may see; see Dao et al. (2022).

    Backward makes a block's scores again, so that none outlive their block. (On a CPU,
    XLA keeps them: it sees that it has computed them before.)
    """
    T, S = q_BTKGH.shape[1], k_BSKH.shape[1]
    size = max(min(T // 4, MAX_BLOCK), MIN_BLOCK, -(-T // MAX_BLOCKS))
    out = []
    for start in range(0, T, size):
        stop = min(start + size, T)
        low, high = mask.key_range(start, stop, S)
        block = jax.checkpoint(
            partial(_block, mask=mask, softcap=softcap, start=start, low=low)
        )
        queries, keys = slice(start, stop), slice(low, high)
        out.append(block(q_BTKGH[:, queries], k_BSKH[:, keys], v_BSKH[:, keys]))
    return jnp.concatenate(out, axis=1)


def _cudnn(q_BTNH, k_BSKH, v_BSKH, mask: Mask, scale):
    # cuDNN's window is wrong unless is_causal is set beside it, so both always are.
    window = None if mask.window is None else (mask.window - 1, 0)
    seen_BTS = None
    if mask.key_segment_BS is not None:
        T, S = q_BTNH.shape[1], k_BSKH.shape[1]
        seen_BTS = mask.dense(slice(0, T), slice(0, S))[:, None]
    return jax.nn.dot_product_attention(
        q_BTNH, k_BSKH, v_BSKH, mask=seen_BTS, scale=scale, is_causal=mask.causal,
        local_window_size=window, implementation="cudnn",
    )  # fmt: skip
