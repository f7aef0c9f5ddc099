"""RoPE against complex rotation; its scalings and the norms against the formulas."""

import math

import numpy as np
import pytest

from llmjax.config import RopeScaling
from llmjax.ops import norm, rope


def test_rotation_is_a_complex_product():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, 8)).astype(np.float32)
    positions = rng.integers(0, 1000, (2, 5))
    freqs = 10000.0 ** (-np.arange(4) / 4)
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(
        1j * positions[..., None, None] * freqs
    )
    cos, sin = rope.rotation(positions, rope.frequencies(8, 10000.0))
    out = rope.rotate(x, cos, sin)
    # float32 angles of up to 1000 radians carry an error of about 6e-5.
    np.testing.assert_allclose(out[..., :4], turned.real, atol=2e-4)
    np.testing.assert_allclose(out[..., 4:], turned.imag, atol=2e-4)


def test_llama3_scaling_by_hand():
    """Long waves are divided, short ones kept, those between blended linearly."""
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    plain = rope.frequencies(128, 500000.0)
    scaled = rope.frequencies(128, 500000.0, scaling)
    for f, s in zip(plain.astype(float), scaled.astype(float), strict=True):
        wavelength = 2 * math.pi / f
        if wavelength < 8192 / 4.0:
            expected = f
        elif wavelength > 8192 / 1.0:
            expected = f / 8
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected = (1 - smooth) * f / 8 + smooth * f
        assert s == pytest.approx(expected, rel=1e-5)


def test_linear_scaling():
    scaled = rope.frequencies(16, 10000.0, RopeScaling("linear", 4.0))
    np.testing.assert_allclose(scaled * 4, rope.frequencies(16, 10000.0), rtol=1e-6)


def test_yarn_scaling_by_hand():
    """Of 8 frequencies, number 2.02 turns 32 times in 2048 tokens, 5.03 once."""
    scaling = RopeScaling("yarn", 4.0, original_context=2048)
    ratio = rope.frequencies(16, 10000.0, scaling) / rope.frequencies(16, 10000.0)
    stretched = np.array([0, 0, 0, 1 / 4, 2 / 4, 3 / 4, 1, 1])  # from 2 to 6
    np.testing.assert_allclose(ratio, 1 - stretched + stretched / 4, rtol=1e-6)
    scaling = RopeScaling("yarn", 4.0, original_context=2048, truncate=False)
    ratio = rope.frequencies(16, 10000.0, scaling) / rope.frequencies(16, 10000.0)
    low, high = (8 * math.log(2048 / (n * 2 * math.pi), 10000.0) for n in (32, 1))
    assert ratio[3] == pytest.approx(1 - 0.75 * (3 - low) / (high - low), rel=1e-6)


def test_amplitude_and_an_odd_width():
    freqs = rope.frequencies(3, 100.0)  # exponents 0 and 2/3: a pair more than 3 / 2
    np.testing.assert_allclose(freqs, [1, 100 ** (-2 / 3)], rtol=1e-6)
    cos, sin = rope.rotation(np.array([[1]]), freqs, 1.5)
    np.testing.assert_allclose(cos[0, 0, 0], 1.5 * np.cos(freqs), rtol=1e-6)
    np.testing.assert_allclose(sin[0, 0, 0], 1.5 * np.sin(freqs), rtol=1e-6)


def test_norms_in_float64():
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, size=(4, 7)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 7)).astype(np.float32)
    x64 = x.astype(np.float64)
    rms = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 0.1) * scale
    std = np.sqrt(x64.var(-1, keepdims=True) + 0.1)
    layer = (x64 - x64.mean(-1, keepdims=True)) / std * scale + bias
    np.testing.assert_allclose(norm.rms_norm(x, scale, 0.1), rms, rtol=2e-6)
    np.testing.assert_allclose(
        norm.layer_norm(x, scale, bias, 0.1), layer, rtol=2e-5, atol=1e-6
    )
