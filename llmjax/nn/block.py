"""One layer of a transformer: attention and feed-forward on the residual stream."""

from llmjax.config import Layer
from llmjax.nn.attention import Attention, Context
from llmjax.nn.cell import Cell
from llmjax.nn.mlp import MLP
from llmjax.nn.norm import Norm


class Block(Cell):
    """x + attention(norm(x)), then x + mlp(norm(x)): the pre-norm block."""

    def setup(self):
        self.attention_norm = Norm(self.cfg)
        self.attention = Attention(self.cfg)
        self.mlp_norm = Norm(self.cfg)
        self.mlp = MLP(self.cfg)

    def declare(self):
        for cell in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            cell.declare()

    def __call__(self, x_BTD, context: Context, layer: Layer, cache=None, index=0):
        """(x_BTD, cache) after layer number `index`, which is of the kind `layer`."""
        normed_BTD = self.attention_norm(x_BTD)
        mixed_BTD, cache = self.attention(normed_BTD, context, layer, cache, index)
        x_BTD = x_BTD + mixed_BTD
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), cache
