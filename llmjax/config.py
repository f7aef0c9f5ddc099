"""The frozen configs of a transformer: what it computes, and how it is computed."""

import dataclasses
import math
from typing import Any, Literal

from llmjax import dims


def field(default: Any, text: str) -> Any:
    """A dataclass field whose `text` becomes the help of its absl flag."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for a longer context.

    `llama3`: Llama 3.1's rule; low frequencies are divided by `factor`, high ones kept,
    those between are blended. `linear`: every position is divided by `factor`.
    """

    kind: Literal["linear", "llama3"] = "linear"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True)
class Layer:
    """What may differ from one layer to the next; see `ModelConfig.pattern`."""

    window: int | None = None  # a position sees itself and window - 1 before it
    rope: bool = True


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a decoder computes. The defaults are a small Llama.

    Two models with equal configs and equal parameters give equal logits; everything
    that only changes speed or memory is in `ComputeConfig`.
    """

    vocab_size: int = field(256, "V: number of token ids")
    num_layers: int = field(4, "L: number of blocks")
    width: int = field(128, "D: width of the residual stream")
    num_heads: int = field(4, "N: number of query heads")
    num_kv_heads: int = field(4, "K: number of key/value heads; divides num_heads")
    head_width: int = field(32, "H: width of one head")
    ff_width: int = field(352, "F: width of the feed-forward layer")
    context: int = field(256, "longest sequence, in tokens")
    norm: Literal["rms", "layer"] = field("rms", "RMSNorm or LayerNorm")
    norm_eps: float = field(1e-5, "added to the variance")
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"] = field(
        "silu", "of the feed-forward layer; gelu is the exact one (erf)"
    )
    gated: bool = field(True, "gated feed-forward layer (SwiGLU, GeGLU)")
    positions: Literal["rope", "learned", "none"] = field("rope", "position encoding")
    rope_theta: float = field(10000.0, "base of the rotary frequencies")
    rope_scaling: RopeScaling | None = field(None, "context extension of RoPE")
    tied: bool = field(True, "the head is the transposed embedding table")
    qkv_bias: bool = field(False, "biases on the query, key and value projections")
    out_bias: bool = field(False, "bias on the attention output projection")
    mlp_bias: bool = field(False, "biases in the feed-forward layer")
    qk_norm: bool = field(False, "RMSNorm on each query and key head before RoPE")
    attention_softcap: float | None = field(None, "scores become c * tanh(scores / c)")
    logits_softcap: float | None = field(None, "logits become c * tanh(logits / c)")
    attention_scale: float | None = field(None, "of the scores; None: 1 / sqrt(H)")
    window: int | None = field(None, "a position sees itself and window - 1 before it")
    pattern: tuple[Layer, ...] = field(
        (), "for layers that differ: layer l is pattern[l % len]; then window is unused"
    )

    def __post_init__(self):
        for name in ("vocab_size", "num_layers", "width", "num_heads", "context"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide "
                f"num_heads={self.num_heads}"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1")
        if self.positions == "rope" and self.head_width % 2:
            raise ValueError(f"RoPE needs an even head_width, got {self.head_width}")

    def with_vocab(self, vocab_size: int) -> "ModelConfig":
        """The same model for another tokenizer."""
        return dataclasses.replace(self, vocab_size=vocab_size)

    def layer(self, index: int) -> Layer:
        """The kind of layer number `index`, from 0."""
        if not self.pattern:
            return Layer(window=self.window)
        return self.pattern[index % len(self.pattern)]

    @property
    def period(self) -> int:
        """After how many layers their kinds repeat."""
        return max(1, len(self.pattern))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a parameter, read off its name: `q_DNH` is (D, N, H)."""
        return tuple(self.sizes[letter] for letter in dims.parse(name))

    @classmethod
    def from_json(cls, fields: dict) -> "ModelConfig":
        """The config that `dataclasses.asdict` wrote, read back from JSON."""
        fields = dict(fields)
        fields["pattern"] = tuple(Layer(**layer) for layer in fields["pattern"])
        if fields["rope_scaling"] is not None:
            fields["rope_scaling"] = RopeScaling(**fields["rope_scaling"])
        return cls(**fields)

    @property
    def sizes(self) -> dict[str, int]:
        return dict(
            V=self.vocab_size, L=self.num_layers, D=self.width, F=self.ff_width,
            N=self.num_heads, K=self.num_kv_heads, H=self.head_width, T=self.context,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How a model is computed: speed and memory, never (beyond rounding) the result.

    `auto` asks the machine; see `llmjax.host`.
    """

    dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto", "of activations; parameters, softmax, norms and loss stay float32"
    )
    layers: Literal["auto", "scan", "unroll"] = field("auto", "how the stack runs")
    remat: Literal["auto", "none", "dots", "full"] = field(
        "auto", "what backward recomputes: nothing, all but matmuls, whole blocks"
    )
    attention: Literal["auto", "reference", "chunked", "cudnn"] = field(
        "auto", "the attention kernel"
    )


def attention_scale(cfg: ModelConfig) -> float:
    """What the attention scores are multiplied by."""
    return cfg.attention_scale or 1.0 / math.sqrt(cfg.head_width)
