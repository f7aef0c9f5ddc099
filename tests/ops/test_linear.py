"""Products with weights: einsum's values, and float64's gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax.ops.linear import linear

CASES = [
    ("BTD,DF->BTF", (2, 3, 4), (4, 9)),  # a result wider than the input
    ("BTF,FD->BTD", (2, 3, 9), (9, 4)),
    ("BTD,DNH->BTNH", (2, 3, 4), (4, 2, 5)),
    ("BTNH,NHD->BTD", (2, 3, 2, 5), (2, 5, 4)),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("equation,x_shape,weight_shape", CASES)
def test_values_and_gradients(equation, x_shape, weight_shape, transposed):
    """Also of a weight that is stored the other way round, as a tied readout's is."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=x_shape), rng.normal(size=weight_shape)
    y = np.einsum(equation, x, weight)
    dy = rng.normal(size=y.shape)
    operands, out = equation.split("->")
    left, right = operands.split(",")
    d_x = np.einsum(f"{out},{right}->{left}", dy, weight)
    d_weight = np.einsum(f"{left},{out}->{right}", x, dy)

    @jax.jit
    def run(x, stored, dy):
        def f(x, stored):
            return linear(equation, x, stored.T if transposed else stored)

        y, pull = jax.vjp(f, x, stored)
        return y, *pull(dy)

    stored, d_stored = (weight.T, d_weight.T) if transposed else (weight, d_weight)
    found = run(*(jnp.asarray(a, jnp.float32) for a in (x, stored, dy)))
    for a, b in zip(found, (y, d_x, d_stored), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
