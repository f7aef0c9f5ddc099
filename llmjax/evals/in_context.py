"""Losses and curves of what is learned in context: by the number of examples before."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.data.in_context import Both, Regression
from llmjax.types import Batch, Key, Metrics, Model, Params


def init_with_numbers(model: Model, width: int, num_inputs: int, key: Key) -> Params:
    """The parameters of a model that reads vectors and tells numbers: with one matrix
    before it, and one after it."""
    model_key, read_key, tell_key = jax.random.split(key, 3)
    read_ID = jax.random.normal(read_key, (num_inputs, width)) * num_inputs**-0.5
    tell_DO = jax.random.normal(tell_key, (width, 1)) * width**-0.5
    return model.init(model_key) | {"numbers": {"read_ID": read_ID, "tell_DO": tell_DO}}


def tell(model: Model, params: Params, batch: Batch) -> jax.Array:
    """[B, T]: a number at each position, from inputs_BTI up to it."""
    read_ID, tell_DO = params["numbers"]["read_ID"], params["numbers"]["tell_DO"]
    vectors_BTD = jnp.einsum("BTI,ID->BTD", batch["inputs_BTI"], read_ID)
    inputs = {"tokens": batch["tokens"], "vectors_BTD": vectors_BTD}
    hidden_BTD = model.apply(params, inputs).hidden_BTD
    return jnp.einsum("BTD,DO->BTO", hidden_BTD, tell_DO)[..., 0]


def squared_error(
    model: Model, dim: int, params: Params, batch: Batch, key: Key | None = None
) -> tuple[jax.Array, Metrics]:
    """Mean squared error of `tell` over the positions with weight, in units of the
    variance of a target, which is `dim`. Metrics: "loss" (sum, count)."""
    errors_BT = jnp.square(tell(model, params, batch) - batch["targets"]) / dim
    total, count = jnp.sum(errors_BT * batch["weights"]), jnp.sum(batch["weights"])
    return total / count, {"loss": (total, count)}


def symbol_loss(
    model: Model, params: Params, batch: Batch, key: Key | None = None
) -> tuple[jax.Array, Metrics]:
    """Mean cross-entropy in nats over the positions with weight. Metrics: "loss" and
    "accuracy", each (sum, count)."""
    inputs = {"tokens": batch["tokens"]}
    logits_BTV = model.readout(params, model.apply(params, inputs).hidden_BTD)
    weights_BT, targets_BT = batch["weights"], batch["targets"]
    log_shares_BTV = jax.nn.log_softmax(logits_BTV)
    taken_BT = jnp.take_along_axis(log_shares_BTV, targets_BT[..., None], -1)[..., 0]
    xent, count = -jnp.sum(taken_BT * weights_BT), jnp.sum(weights_BT)
    is_right_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
    metrics = {
        "loss": (xent, count),
        "accuracy": (jnp.sum(is_right_BT * weights_BT), count),
    }
    return xent / count, metrics


def accuracies(
    model: Model, params: Params, rows: Both, num_rows: int, seed: int
) -> dict[str, float]:
    """The share of right symbols in recall and in induction, on rows not learned."""
    found, look = {}, jax.jit(partial(symbol_loss, model))
    for name in ("recall", "induction"):
        batch = getattr(rows, name).take(np.arange(num_rows), seed)
        total, count = look(params, batch)[1]["accuracy"]
        found[name] = float(total / count)
    return found


def regression_curve(
    model: Model, params: Params, rows: Regression, num_rows: int, seed: int
) -> dict[str, Any]:
    """The error after k examples beside the least that there is.

    Each a list by k: error, with the standard error of its mean; exact, 1 - k / dim;
    least_squares, on the very rows asked. leaks: those k at which the model is better
    than the best predictor there is, by more than four standard errors of their
    difference; a mask that lets the answer through shows here.
    """
    batch = rows.take(np.arange(num_rows), seed)
    told = jax.jit(partial(tell, model))(params, batch)
    truth = batch["targets"][:, 0::2]
    errors = (np.asarray(told)[:, 0::2] - truth) ** 2 / rows.dim
    best = (rows.least_squares(batch) - truth) ** 2 / rows.dim
    means, spreads = _means(errors)
    gaps, gap_spreads = _means(errors - best)
    exact = rows.floor()
    return {
        "error": means.tolist(), "spread": spreads.tolist(), "exact": exact.tolist(),
        "least_squares": best.mean(axis=0).tolist(),
        "mean_gap": float(np.abs(means - exact).mean()),
        "leaks": np.flatnonzero(gaps < -4 * gap_spreads - 1e-6).tolist(),
    }  # fmt: skip


def _means(values_BK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over the rows, and their standard errors."""
    return values_BK.mean(axis=0), values_BK.std(axis=0, ddof=1) / len(values_BK) ** 0.5
