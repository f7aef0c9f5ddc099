"""The feed-forward cell, plain or gated (Shazeer 2020)."""

import jax
import jax.numpy as jnp

from llmjax.nn.cell import Cell, dense
from llmjax.sharding import constrain

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class MLP(Cell):
    """down(act(up(x))), or down(act(gate(x)) * up(x)) when gated."""

    def setup(self):
        cfg = self.cfg
        if cfg.gated:
            self.gate_DF = self.matrix("gate_DF", "D")
            self.gate_bias_F = self.vector("gate_bias_F") if cfg.mlp_bias else None
        self.up_DF = self.matrix("up_DF", "D")
        self.up_bias_F = self.vector("up_bias_F") if cfg.mlp_bias else None
        self.down_FD = self.matrix("down_FD", "F", gain=(2 * cfg.num_layers) ** -0.5)
        self.down_bias_D = self.vector("down_bias_D") if cfg.mlp_bias else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.cfg.activation]
        up_BTF = dense("BTD,DF->BTF", x_BTD, self.up_DF, self.up_bias_F)
        up_BTF = constrain(up_BTF, "BTF")
        if self.cfg.gated:
            gate_BTF = dense("BTD,DF->BTF", x_BTD, self.gate_DF, self.gate_bias_F)
            up_BTF = act(constrain(gate_BTF, "BTF")) * up_BTF
        else:
            up_BTF = act(up_BTF)
        out_BTD = dense("BTF,FD->BTD", up_BTF, self.down_FD, self.down_bias_D)
        return constrain(out_BTD, "BTD")
