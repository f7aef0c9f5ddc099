"""Losses against numpy in float64."""

from functools import partial

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

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


def scores_of(params, batch, key):
    """The first token's value is the score: what `prefer` is of any scores."""
    return params[batch["tokens"][:, :1]]


def comparisons(scores, ranks, margins):
    """(params, batch) for `prefer` of such scores, [B, A]."""
    scores = np.asarray(scores, np.float32)
    tokens_BAT = np.arange(scores.size, dtype=np.int32).reshape(*scores.shape, 1)
    batch = {
        "tokens_BAT": tokens_BAT,
        "segments_BAT": np.ones_like(tokens_BAT),
        "rank_BA": np.asarray(ranks, np.int32),
        "margin_B": np.asarray(margins, np.float32),
    }
    return jnp.asarray(scores.ravel()), batch


def exact_preferences(scores, ranks, margins, smoothing, centring):
    """(loss, accuracy, d loss / d scores), pair by pair in float64."""
    loss, slope, right, num_told = 0.0, np.zeros(np.shape(scores)), 0.0, 0
    for row, (some, places) in enumerate(zip(scores, ranks, strict=True)):
        there = [a for a in range(len(some)) if places[a]]
        pairs = [(i, j) for i in there for j in there if i < j]
        told = [places[i] != places[j] for i, j in pairs]
        num_told += any(told)
        for i, j in pairs:
            i, j = (i, j) if places[i] <= places[j] else (j, i)
            is_tie, weight = places[i] == places[j], 1 / len(pairs)
            wrong = 0.5 if is_tie else smoothing
            a, b = float(some[i]), float(some[j])
            gap = a - b - (0.0 if is_tie else float(margins[row]))
            share = 1 / (1 + np.exp(-gap))
            loss -= weight * ((1 - wrong) * np.log(share))
            loss -= weight * wrong * np.log1p(-share)
            loss += weight * centring * (a + b) ** 2
            pull = weight * (share - 1 + wrong)
            slope[row, i] += pull + weight * centring * 2 * (a + b)
            slope[row, j] += -pull + weight * centring * 2 * (a + b)
            right += 0 if is_tie else (a > b) / sum(told)
    num = sum(sum(p > 0 for p in places) > 1 for places in ranks)
    return loss / max(num, 1), right / max(num_told, 1), slope / max(num, 1)


@st.composite
def rankings(draw):
    num_rows, num_answers = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    scores = rng.normal(scale=draw(st.sampled_from([0.1, 1, 5])), size=(num_rows, 5))
    scores = scores[:, :num_answers].astype(np.float32)
    ranks = rng.integers(1, num_answers + 1, scores.shape)
    for row in ranks:
        row[rng.integers(2, num_answers + 1) :] = 0  # answers that are not there
    margins = rng.choice([0, 0.5, 2], num_rows)
    return (
        scores,
        ranks,
        margins,
        draw(st.sampled_from([0.0, 0.2])),
        draw(st.sampled_from([0.0, 0.03])),
    )


@settings(max_examples=25, deadline=None)
@given(rankings())
def test_preferences(case):
    scores, ranks, margins, smoothing, centring = case
    loss, accuracy, slope = exact_preferences(*case)
    params, batch = comparisons(scores, ranks, margins)
    loss_fn = partial(losses.prefer, scores_of, smoothing=smoothing, centring=centring)
    (found, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        params, batch
    )
    assert found == pytest.approx(loss, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(gradient, slope.ravel(), rtol=1e-5, atol=1e-6)
    num_right, num_told = metrics["accuracy"]
    assert num_right / max(num_told, 1) == pytest.approx(accuracy, abs=1e-6)


def test_preferences_by_hand():
    # Better by 2, of which the margin takes 1; worse by 1 under a tie.
    params, batch = comparisons([[3, 1], [0, 1]], [[1, 2], [1, 1]], [1, 9])
    found, metrics = losses.prefer(scores_of, params, batch)
    first, second = (
        np.log1p(np.exp(-1)),
        (np.log1p(np.exp(1)) + np.log1p(np.exp(-1))) / 2,
    )
    assert found == pytest.approx((first + second) / 2, rel=1e-6)
    assert jax.tree.map(float, metrics["accuracy"]) == (1, 1)
    # Nothing there to compare is nothing, not a NaN.
    params, batch = comparisons([[np.nan, 1], [4, 5]], [[0, 1], [0, 0]], [0, 0])
    found, metrics = losses.prefer(scores_of, params, batch, centring=1.0)
    assert (float(found), float(metrics["loss"][1])) == (0, 0)


def test_preferences_of_extreme_scores_are_finite():
    params, batch = comparisons([[1e5, -1e5], [-1e5, 1e5]], [[1, 2], [1, 2]], [0, 0])
    found, gradient = jax.value_and_grad(
        lambda params: losses.prefer(scores_of, params, batch)[0]
    )(params)
    assert found == pytest.approx(1e5) and np.isfinite(gradient).all()
