"""The chunked cross-entropy against logits held at once, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.ops.xent import summed_xent

B, T, D, V = 3, 10, 6, 17


@pytest.fixture(name="inputs")
def _inputs():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(B, T, D)).astype(np.float32)
    table = rng.normal(size=(V, D)).astype(np.float32)
    targets = rng.integers(0, V, (B, T))
    weights = rng.integers(0, 3, (B, T)).astype(np.float32)
    return hidden, table, targets, weights


def objective(hidden, table, targets, weights, chunk, z_loss):
    def readout(h):
        logits = jnp.einsum("...D,VD->...V", h, table)
        return 5 * jnp.tanh(logits / 5)  # what the readout does is its own affair

    return summed_xent(readout, hidden, targets, weights, chunk=chunk, z_loss=z_loss)


def exact(hidden, table, targets, weights, z_loss):
    """(objective, cross-entropy, gradient by hidden, by table), in float64."""
    h, e = hidden.astype(np.float64), table.astype(np.float64)
    raw = h @ e.T
    logits = 5 * np.tanh(raw / 5)
    lse = np.log(np.exp(logits).sum(-1))
    onehot = np.eye(V)[targets]
    xent = lse - (logits * onehot).sum(-1)
    softmax = np.exp(logits - lse[..., None])
    d_logits = softmax * (1 + 2 * z_loss * lse[..., None]) - onehot
    d_raw = d_logits * weights[..., None] * (1 - np.tanh(raw / 5) ** 2)
    total = ((xent + z_loss * lse**2) * weights).sum()
    d_table = np.einsum("btv,btd->vd", d_raw, h)
    return total, (xent * weights).sum(), d_raw @ e, d_table


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 64])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_values_and_gradients(inputs, chunk, z_loss):
    hidden, table, targets, weights = inputs
    expected = exact(hidden, table, targets, weights, z_loss)
    grad = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    (total, xent), grads = jax.jit(grad, static_argnums=(4, 5))(*inputs, chunk, z_loss)
    plain = objective(hidden, table, targets, weights, chunk, z_loss)
    np.testing.assert_allclose([total, xent], expected[:2], rtol=1e-6)
    np.testing.assert_allclose(plain, expected[:2], rtol=1e-6)
    np.testing.assert_allclose(grads[0], expected[2], atol=2e-6)
    np.testing.assert_allclose(grads[1], expected[3], atol=5e-6)


def test_gradient_of_a_multiple(inputs):
    """The gradients made in the forward pass are scaled by what comes after."""
    one = jax.grad(lambda h: objective(h, *inputs[1:], 4, 0.0)[0])(inputs[0])
    third = jax.grad(lambda h: objective(h, *inputs[1:], 4, 0.0)[0] / 3)(inputs[0])
    np.testing.assert_allclose(third, one / 3, rtol=1e-6)


def test_never_holds_all_logits(inputs):
    """No array of the program is as large as B * T * V."""
    hidden, table, targets, weights = inputs
    grad = jax.grad(lambda h, e: objective(h, e, targets, weights, 2, 0.0)[0], (0, 1))
    hlo = jax.jit(grad).lower(hidden, table).as_text()
    assert f"tensor<{B}x2x{V}xf32>" in hlo
    assert f"x{B}x2x{V}xf32>" not in hlo and f"{B}x{T}x{V}x" not in hlo
