"""A reward model that is trained as TRL's trainer does has its scores and losses."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import losses
from llmjax.load import load
from llmjax.models import transformer

GOLDEN = Path(__file__).parents[1] / "golden"


def to_batch(step):
    """TRL has all chosen answers first, then all that were rejected."""
    tokens, mask = (
        np.array(step[k], np.int32) for k in ("input_ids", "attention_mask")
    )
    num_pairs = len(tokens) // 2
    tokens_BAT, segments_BAT = (
        np.stack([part[:num_pairs], part[num_pairs:]], axis=1)
        for part in (tokens, mask)
    )
    return {
        "tokens_BAT": tokens_BAT * segments_BAT,
        "segments_BAT": segments_BAT,
        "rank_BA": np.tile(np.array([1, 2], np.int32), (num_pairs, 1)),
        "margin_B": np.array(step["margin"], np.float32),
    }


def test_scores_losses_and_updates_are_those_of_trl():
    golden = json.loads((GOLDEN / "reward" / "steps.json").read_text())
    loaded = load(GOLDEN / "sft")
    cfg = transformer.scorer_of(loaded.cfg)
    params = transformer.with_score_head(cfg, loaded.params, jax.random.key(0))
    # TRL's head has no bias; ours stays at 0 unless it is trained.
    params["head"]["head_DO"] = jnp.array(golden["head"]).T
    logits_fn = jax.jit(transformer.classifier(cfg))
    loss_fn = partial(losses.prefer, logits_fn, centring=golden["centring"])
    update = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    assert len(golden["steps"]) == 3
    for step in golden["steps"]:
        batch = to_batch(step)
        num_tokens = batch["tokens_BAT"].shape[2]
        flat = {
            "tokens": batch["tokens_BAT"].reshape(-1, num_tokens),
            "segment_ids": batch["segments_BAT"].reshape(-1, num_tokens),
        }
        scores_BA = logits_fn(params, flat).reshape(-1, 2)
        expected = np.array(step["scores"]).reshape(2, -1).T
        np.testing.assert_allclose(scores_BA, expected, atol=5e-6)
        (loss, metrics), grads = update(params, batch)
        assert loss == pytest.approx(step["loss"], abs=1e-6)
        assert metrics["accuracy"][0] == (expected[:, 0] > expected[:, 1]).sum()
        grads["head"]["bias_O"] = jnp.zeros(1)
        steps = jax.tree.map(lambda grad: golden["learning_rate"] * grad, grads)
        params = jax.tree.map(jnp.subtract, params, steps)
