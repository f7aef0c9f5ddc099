"""Mean and variance of all scores so far, kept as a run goes on (Chan et al. 1979)."""

import jax
import jax.numpy as jnp

from llmjax.types import Params


def init() -> dict[str, jax.Array]:
    """Those of no scores at all."""
    names = ("score_count", "score_mean", "score_squares")
    return {name: jnp.zeros((), jnp.float32) for name in names}


def update(moments: Params, score_B: jax.Array) -> dict[str, jax.Array]:
    """Those of what was there and of these."""
    count, mean, squares = (moments[name] for name in init())
    own_mean, num = score_B.mean(), jnp.float32(len(score_B))
    total, shift = count + num, own_mean - mean
    squares += jnp.sum(jnp.square(score_B - own_mean))
    squares += jnp.square(shift) * count * num / total
    mean = mean + shift * num / total
    return dict(zip(init(), (total, mean, squares), strict=True))


def normalise(moments: Params, score_B: jax.Array) -> jax.Array:
    """Scores with the mean 0 and the deviation 1 of all so far, these among them.

    TRL 0.11 with use_score_scaling and use_score_norm.
    """
    count = jnp.maximum(moments["score_count"] - 1, 1)
    deviation = jnp.sqrt(moments["score_squares"] / count)
    return (score_B - moments["score_mean"]) / (deviation + 1e-8)
