"""Rotary position embedding (Su et al. 2021), rotate-half layout, and scalings."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import RopeScaling


def frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None = None
) -> np.ndarray:
    """The H/2 angular frequencies in radians per position, float32."""
    exponent = np.arange(0, head_width, 2, dtype=np.float32) / head_width
    freqs = 1.0 / np.float32(theta) ** exponent
    if scaling is None:
        return freqs
    if scaling.kind == "linear":
        return (freqs / scaling.factor).astype(np.float32)
    if scaling.kind == "yarn":
        kept = 1 - _yarn_ramp(head_width, theta, scaling)
        return (freqs * (kept + (1 - kept) / scaling.factor)).astype(np.float32)
    # Llama 3.1: wavelengths beyond context / low_freq_factor are stretched, those
    # under context / high_freq_factor kept, a linear blend between.
    turns = scaling.original_context * freqs / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (freqs * (kept + (1 - kept) / scaling.factor)).astype(np.float32)


def _yarn_ramp(head_width: int, theta: float, scaling: RopeScaling) -> np.ndarray:
    """How much of each frequency is stretched, 0 to 1 (YaRN, Peng et al. 2023)."""

    def index(turns: float) -> float:
        """Of the frequency that turns so many times within the original context."""
        wavelength = scaling.original_context / turns
        return head_width * math.log(wavelength / (2 * math.pi), theta) / 2

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_width - 1)
    width = high - low or 0.001
    return np.clip((np.arange((head_width + 1) // 2) - low) / width, 0, 1)


def rotation(
    positions_BT: jax.Array, freqs: np.ndarray, amplitude: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the angle of each position and frequency: two [B, T, 1, H/2]."""
    angles = positions_BT[..., None, None].astype(jnp.float32) * freqs[None, None, None]
    return amplitude * jnp.cos(angles), amplitude * jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turns pairs (x[i], x[i + R/2]) of the last axis of x [B, T, heads, H].

    cos and sin are [B, T, 1, R/2]; what lies beyond R in the axis is left as it is.
    """
    half = cos.shape[-1]
    a, b, rest = jnp.split(x, [half, 2 * half], axis=-1)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    turned = turned.astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned
