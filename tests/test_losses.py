"""Losses against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import losses
from llmjax.metrics import reduce_metrics

B, D, O = 6, 5, 3  # noqa: E741


@pytest.fixture(name="inputs")
def _inputs():
    rng = np.random.default_rng(0)
    params = {"head_DO": rng.normal(size=(D, O)).astype(np.float32)}
    batch = {
        "x_BD": rng.normal(size=(B, D)).astype(np.float32),
        "class_B": np.array([0, 1, 2, 2, 1, 0], np.int32),
        "weight_B": np.array([3, 1, 0, 1, 4, 1], np.float32),
    }
    return params, batch


def logits_fn(params, batch, key):
    logits_BO = jnp.einsum("BD,DO->BO", batch["x_BD"], params["head_DO"])
    return logits_BO if key is None else logits_BO + jax.random.normal(key, (B, O))


def exact(params, batch):
    """(loss, accuracy, gradient), in float64."""
    x, weight = batch["x_BD"].astype(np.float64), batch["weight_B"].astype(np.float64)
    logits = x @ params["head_DO"].astype(np.float64)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = np.eye(O)[batch["class_B"]]
    num = weight.sum()
    loss = -(np.log((shares * wanted).sum(1)) * weight).sum() / num
    right = (logits.argmax(1) == batch["class_B"]) @ weight / num
    return loss, right, x.T @ ((shares - wanted) * weight[:, None]) / num


def test_classify(inputs):
    loss, accuracy, gradient = exact(*inputs)
    value_and_grad = jax.value_and_grad(losses.classify, argnums=1, has_aux=True)
    (found, metrics), found_gradient = value_and_grad(logits_fn, *inputs)
    assert found == pytest.approx(loss, rel=1e-6)
    assert 0 < accuracy < 1  # or the test would say little
    means = reduce_metrics(metrics)
    assert means == pytest.approx({"loss": loss, "accuracy": accuracy}, rel=1e-6)
    assert metrics["loss"][1] == metrics["accuracy"][1] == 10
    np.testing.assert_allclose(found_gradient["head_DO"], gradient, atol=1e-6)


def test_classify_of_extreme_logits_is_finite(inputs):
    params, batch = inputs
    large = {"head_DO": 1e4 * params["head_DO"]}
    assert np.isfinite(losses.classify(logits_fn, large, batch)[0])


def test_classify_of_nothing_is_zero(inputs):
    params, batch = inputs
    nothing = batch | {"weight_B": np.zeros(B, np.float32)}
    assert losses.classify(logits_fn, params, nothing)[0] == 0


def test_classify_hands_on_its_key(inputs):
    plain = losses.classify(logits_fn, *inputs)[0]
    assert losses.classify(logits_fn, *inputs, jax.random.key(0))[0] != plain
