"""The normalisation cell."""

import jax

from llmjax.nn.cell import Cell
from llmjax.ops import norm


class Norm(Cell):
    """RMSNorm or LayerNorm over D, as the config says."""

    def setup(self):
        cfg = self.cfg
        self.scale_D = self.vector("scale_D", 0.0 if cfg.norm_plus_one else 1.0)
        has_bias = cfg.norm == "layer" and cfg.norm_bias
        self.bias_D = self.vector("bias_D") if has_bias else None

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.cfg
        scale_D = self.scale_D + 1 if cfg.norm_plus_one else self.scale_D
        if cfg.norm == "layer":
            return norm.layer_norm(x_BTD, scale_D, self.bias_D, cfg.norm_eps)
        return norm.rms_norm(x_BTD, scale_D, cfg.norm_eps)
