"""The normalisation cell."""

import jax

from llmjax.nn.cell import Cell
from llmjax.ops import norm


class Norm(Cell):
    """RMSNorm or LayerNorm over D, as the config says."""

    def setup(self):
        self.scale_D = self.vector("scale_D", 1.0)
        if self.cfg.norm == "layer":
            self.bias_D = self.vector("bias_D")

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        if self.cfg.norm == "layer":
            return norm.layer_norm(x_BTD, self.scale_D, self.bias_D, self.cfg.norm_eps)
        return norm.rms_norm(x_BTD, self.scale_D, self.cfg.norm_eps)
