"""Every kernel equals softmax(q k / sqrt(H)) v, written out in float64 with loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.ops import attention
from llmjax.ops.mask import Mask

B, T, N, K, H = 2, 300, 4, 2, 8


def draw(seed=0, num_keys=T):
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(B, T, N, H)).astype(np.float32)
    k = rng.normal(size=(B, num_keys, K, H)).astype(np.float32)
    v = rng.normal(size=(B, num_keys, K, H)).astype(np.float32)
    return q, k, v


def exact(q, k, v, seen, softcap=None):
    """seen: bool [B, T, S]."""
    out = np.zeros(q.shape)
    for b, n in itertools.product(range(q.shape[0]), range(q.shape[2])):
        kv = n // (q.shape[2] // k.shape[2])
        scores = q[b, :, n].astype(np.float64) @ k[b, :, kv].T / np.sqrt(q.shape[-1])
        if softcap:
            scores = softcap * np.tanh(scores / softcap)
        scores = np.where(seen[b], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ v[b, :, kv]
    return out


def segments():
    """Documents of uneven lengths, the last of row 0 followed by padding."""
    ids = np.ones((B, T), np.int32)
    ids[0, 70:], ids[0, 200:], ids[0, 290:], ids[1, 128:] = 2, 3, 0, 2
    return ids


def cases():
    i, j = np.arange(T)[:, None], np.arange(T)[None]
    ids = segments()
    same = ids[:, :, None] == ids[:, None, :]
    prefix = np.array([5, 140])
    in_prefix = j < prefix[:, None, None]
    yield "all", Mask(), np.ones((B, T, T), bool)
    yield "causal", Mask(causal=True), np.broadcast_to(j <= i, (B, T, T))
    window = (j <= i) & (i - j < 9)
    yield "window", Mask(causal=True, window=9), np.broadcast_to(window, (B, T, T))
    both = np.abs(i - j) < 9
    yield "both sides", Mask(window=9), np.broadcast_to(both, (B, T, T))
    packed = Mask(causal=True, query_segment_BT=ids, key_segment_BS=ids)
    yield "segments", packed, (j <= i) & same
    yield "prefix", Mask(causal=True, prefix_B=prefix), (j <= i) | in_prefix


CASES = list(cases())


@pytest.mark.parametrize("kernel", ["reference", "chunked"])
@pytest.mark.parametrize("name,mask,seen", CASES, ids=[case[0] for case in CASES])
def test_kernels_equal_the_formula(kernel, name, mask, seen):
    q, k, v = draw()
    out = attention.attend(q, k, v, mask, scale=H**-0.5, kernel=kernel)
    np.testing.assert_allclose(out, exact(q, k, v, seen), atol=2e-6)


@pytest.mark.parametrize("kernel", ["reference", "chunked"])
def test_softcap(kernel):
    q, k, v = draw()
    mask, seen = Mask(causal=True), np.tril(np.ones((B, T, T), bool))
    out = attention.attend(q, k, v, mask, scale=H**-0.5, softcap=0.5, kernel=kernel)
    np.testing.assert_allclose(out, exact(q, k, v, seen, softcap=0.5), atol=2e-6)


@pytest.mark.parametrize("name,mask,seen", CASES, ids=[case[0] for case in CASES])
def test_gradients_of_the_kernels_agree(name, mask, seen):
    def loss(qkv, kernel):
        out = attention.attend(*qkv, mask, scale=H**-0.5, kernel=kernel)
        real = segments()[:, :, None, None] > 0
        return jnp.sum(jnp.where(real, jnp.sin(out), 0))

    reference = jax.grad(loss)(draw(), "reference")
    chunked = jax.grad(loss)(draw(), "chunked")
    for a, b in zip(reference, chunked, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_gradients_equal_the_formula():
    """Of the whole causal softmax, written out in float64; two heads share a key."""
    q, k, v = (x.astype(np.float64) for x in draw())
    d_out = np.random.default_rng(1).normal(size=q.shape)
    many_k, many_v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, many_k) * H**-0.5
    weights = np.exp(np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("btnh,bsnh->bnts", d_out, many_v)
    mean = (weights * d_weights).sum(-1, keepdims=True)
    d_scores = weights * (d_weights - mean) * H**-0.5
    d_v = np.einsum("bnts,btnh->bsnh", weights, d_out)
    d_k = np.einsum("bnts,btnh->bsnh", d_scores, q)
    expected = (
        np.einsum("bnts,bsnh->btnh", d_scores, many_k),
        d_k.reshape(B, T, K, N // K, H).sum(3),
        d_v.reshape(B, T, K, N // K, H).sum(3),
    )

    def attend(*qkv):
        mask = Mask(causal=True)
        return attention.attend(*qkv, mask, scale=H**-0.5, kernel="chunked")

    _, pull = jax.vjp(attend, *draw())
    for a, b in zip(pull(jnp.asarray(d_out, jnp.float32)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_window_off_by_one_is_noticed():
    q, k, v = draw()
    i, j = np.arange(T)[:, None], np.arange(T)[None]
    seen = np.broadcast_to((j <= i) & (i - j < 9), (B, T, T))
    out = attention.attend(q, k, v, Mask(causal=True, window=8), scale=H**-0.5)
    assert np.abs(out - exact(q, k, v, seen)).max() > 1e-2


def test_queries_that_stand_further_on():
    """Explicit indices, as in decoding from a cache, equal a slice of the whole."""
    q, k, v = draw()
    whole = attention.attend(q, k, v, Mask(causal=True), scale=1.0)
    start = np.array([100, 250])
    late = np.stack([row[s : s + 3] for row, s in zip(q, start, strict=True)])
    mask = Mask(
        causal=True,
        query_index_BT=jnp.asarray(start[:, None] + np.arange(3)),
        key_index_BS=jnp.arange(T)[None],
    )
    out = attention.attend(late, k, v, mask, scale=1.0)
    for b in range(B):
        expected = whole[b, start[b] : start[b] + 3]
        np.testing.assert_allclose(out[b], expected, atol=2e-6)


def test_a_row_that_sees_nothing_is_finite():
    q, k, v = draw()
    ids = np.arange(B * T).reshape(B, T)
    mask = Mask(causal=True, query_segment_BT=ids, key_segment_BS=-1 - ids)
    assert np.isfinite(attention.attend(q, k, v, mask, scale=1.0)).all()


def test_shapes_that_disagree_are_refused():
    q, k, v = draw()
    with pytest.raises(ValueError, match="S .* is 299"):
        attention.attend(q, k, v[:, :-1], Mask(), scale=1.0)
