"""Curves in context: against predictors whose error is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.config import ModelConfig
from llmjax.data.in_context import Recall, Regression
from llmjax.evals import in_context
from llmjax.models import transformer

ROWS = Regression(dim=3, num_points=6)
CFG = ModelConfig(
    vocab_size=32, num_layers=2, width=16, num_heads=2, num_kv_heads=2, head_width=8,
    ff_width=32, context=64, own_embedding=False,
)  # fmt: skip


def curve_of(monkeypatch, predict):
    """The curve of a predictor [B, num_points] from the batch."""

    def tell(model, params, batch):
        told = jnp.zeros(batch["tokens"].shape)
        return told.at[:, 0::2].set(params)

    monkeypatch.setattr(in_context, "tell", tell)
    batch = ROWS.take(np.arange(2000), 5)
    return in_context.regression_curve(None, predict(batch), ROWS, 2000, 5)


def test_the_best_predictor_is_at_the_floor_and_leaks_nothing(monkeypatch):
    curve = curve_of(monkeypatch, ROWS.least_squares)
    assert curve["leaks"] == [] and curve["mean_gap"] < 0.02
    np.testing.assert_allclose(curve["error"], curve["least_squares"], atol=1e-5)
    assert curve["exact"] == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0])


def test_who_sees_the_answer_is_found_out(monkeypatch):
    def half_right(batch):
        truth = batch["targets"][:, 0::2]
        return 0.5 * truth + 0.5 * ROWS.least_squares(batch)

    assert curve_of(monkeypatch, half_right)["leaks"] == [0, 1, 2]


def test_who_knows_nothing_errs_by_one(monkeypatch):
    curve = curve_of(monkeypatch, lambda batch: np.zeros((2000, 6)))
    np.testing.assert_allclose(curve["error"], 1, atol=5 * max(curve["spread"]))
    assert curve["leaks"] == []


def test_a_model_reads_numbers_up_to_a_position():
    model = transformer.make(CFG)
    params = in_context.init_with_numbers(model, 16, 4, jax.random.key(0))
    batch = ROWS.take(np.arange(4), 0)
    told = in_context.tell(model, params, batch)
    later = dict(batch, inputs_BTI=batch["inputs_BTI"].copy())
    later["inputs_BTI"][:, 7:] += 1.0
    changed = np.abs(in_context.tell(model, params, later) - told).max(axis=0)
    assert changed[:7].max() == 0 and changed[7:].min() > 0
    assert "embed" not in params


def test_squared_errors_by_hand(monkeypatch):
    monkeypatch.setattr(in_context, "tell", lambda *_: jnp.array([[1.0, 5.0, 2.0]]))
    batch = {
        "targets": jnp.array([[3.0, 0.0, 2.5]]),
        "weights": jnp.array([[1.0, 0, 1]]),
    }
    loss, metrics = in_context.squared_error(None, 2, None, batch)
    assert float(loss) == pytest.approx((4 + 0.25) / 2 / 2)
    assert [float(v) for v in metrics["loss"]] == pytest.approx([2.125, 2])


def test_symbols_right_by_hand():
    cfg = ModelConfig(**vars(CFG) | {"own_embedding": True})
    model, rows = transformer.make(cfg), Recall(max_keys=4, num_values=6, num_pairs=8)
    params, batch = model.init(jax.random.key(0)), rows.take(np.arange(8), 0)
    loss, metrics = in_context.symbol_loss(model, params, batch)
    hidden = model.apply(params, {"tokens": batch["tokens"]}).hidden_BTD
    logits = np.asarray(model.readout(params, hidden), np.float64)
    total = right = 0.0
    for row, place in zip(*np.nonzero(batch["weights"]), strict=True):
        one, target = logits[row, place], batch["targets"][row, place]
        total -= one[target] - np.log(np.exp(one).sum())
        right += one.argmax() == target
    count = batch["weights"].sum()
    assert float(loss) == pytest.approx(total / count, rel=1e-5)
    assert [float(v) for v in metrics["accuracy"]] == [right, count]
