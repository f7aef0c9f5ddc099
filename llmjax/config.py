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
    `yarn`: as llama3, but blended over the index of the frequency, from the one that
    turns `beta_fast` times within the original context to that with `beta_slow`.
    """

    kind: Literal["linear", "llama3", "yarn"] = "linear"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # round those two indices outwards
    amplitude: float = 1.0  # cos and sin are multiplied by it


@dataclasses.dataclass(frozen=True)
class Layer:
    """What may differ from one layer to the next; see `ModelConfig.pattern`."""

    window: int | None = None  # see ModelConfig.window
    rope: Literal["global", "local", "none"] = "global"  # which rotary base, if any


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What a transformer computes. The defaults are a small Llama.

    Alone, a decoder or an encoder; a decoder whose `encoder` is given attends to what
    that one makes of a source text. Two models with equal configs and equal parameters
    give equal logits; what only changes speed or memory is in `ComputeConfig`.
    """

    structure: Literal["decoder", "encoder"] = field(
        "decoder", "a decoder's tokens see those before them, an encoder's see all"
    )
    encoder: "ModelConfig | None" = dataclasses.field(default=None)
    start_id: int = field(0, "the first token of a decoder that has an encoder")

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
    norm_bias: bool = field(True, "LayerNorm has a bias")
    norm_plus_one: bool = field(False, "norms scale by 1 + the parameter (Gemma)")
    norms: Literal["pre", "post", "sandwich", "output"] = field(
        "pre",
        "pre: x + f(norm(x)); post: norm(x + f(x)); output: x + norm(f(x)); sandwich: "
        "x + norm(f(norm(x)))",
    )
    first_norm: bool = field(True, "the first block normalises what attention reads")
    final_norm: bool = field(True, "a norm after the last block")
    parallel: bool = field(False, "attention and feed-forward read the same x")

    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"] = field(
        "silu", "of the feed-forward layer; gelu is the exact one (erf)"
    )
    gated: bool = field(True, "gated feed-forward layer (SwiGLU, GeGLU)")
    qkv_bias: bool = field(False, "biases on the query, key and value projections")
    out_bias: bool = field(False, "bias on the attention output projection")
    mlp_bias: bool = field(False, "biases in the feed-forward layer")

    qk_norm: Literal["none", "head", "full"] = field(
        "none", "RMSNorm on queries and keys before RoPE: of each head, or all at once"
    )
    attention_softcap: float | None = field(None, "scores become c * tanh(scores / c)")
    attention_scale: float | None = field(None, "of the scores; None: 1 / sqrt(H)")
    window: int | None = field(
        None, "a position sees less than so many on, an encoder's to both sides"
    )
    pattern: tuple[Layer, ...] = field(
        (), "for layers that differ: layer l is pattern[l % len]; then window is unused"
    )

    positions: Literal["rope", "learned", "sinusoidal", "relative", "none"] = field(
        "rope", "position encoding; relative is T5's bias on the scores"
    )
    position_offset: int = field(0, "rows of the learned table before position 0")
    position_skips_id: int | None = field(
        None, "tokens of this id, padding, are not counted in positions (RoBERTa)"
    )
    rope_theta: float = field(10000.0, "base of the rotary frequencies")
    rope_scaling: RopeScaling | None = field(None, "context extension of RoPE")
    rope_width: int | None = field(None, "how much of a head is rotated; None: all")
    local_rope_theta: float = field(10000.0, "base in layers whose rope is local")
    local_rope_scaling: RopeScaling | None = field(None, "the same for those layers")
    relative_buckets: int = field(32, "U: distances that relative positions tell apart")
    relative_distance: int = field(128, "distances beyond share the last bucket")
    relative_shared: bool = field(True, "one table for all layers, or one each (UMT5)")

    own_embedding: bool = field(True, "False: an encoder that uses its decoder's table")
    embed_scale: float = field(1.0, "token embeddings are multiplied by it")
    embed_norm: bool = field(False, "a norm on the sum of all embeddings")
    num_token_types: int = field(0, "Y: kinds of tokens with an embedding each (BERT)")

    head: Literal["lm", "classes", "none"] = field(
        "lm", "logits of token ids, of classes for the whole text, or no head"
    )
    tied: bool = field(True, "the head is the transposed embedding table")
    head_scale: float = field(1.0, "hidden states times this go into the head (T5)")
    head_bias: bool = field(False, "a bias on the logits")
    head_transform: Literal["none", "norm", "tanh"] = field(
        "none", "before the head: norm(act(dense(x))), as MLM heads, or tanh(dense(x))"
    )
    head_transform_bias: bool = field(True, "that dense layer has a bias")
    head_activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"] = field(
        "gelu", "act of norm(act(dense(x)))"
    )
    pooling: Literal["first", "mean", "last"] = field(
        "first", "how a text becomes one vector; last is of the last real token"
    )
    num_classes: int = field(2, "O: outputs of a head of classes; 1 for regression")
    logits_softcap: float | None = field(None, "logits become c * tanh(logits / c)")

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
        rope_width = self.rope_width or self.head_width
        # An odd width (a share of the head, rounded down) turns one more: a whole pair.
        if self.positions == "rope" and rope_width + rope_width % 2 > self.head_width:
            raise ValueError(
                f"RoPE needs an even head_width or a smaller rope_width, "
                f"got {rope_width} of {self.head_width}"
            )
        if self.encoder is not None:
            self._check_encoder(self.encoder)

    def _check_encoder(self, encoder: "ModelConfig"):
        if (self.structure, encoder.structure) != ("decoder", "encoder"):
            raise ValueError("only a decoder has an encoder, whose structure is so too")
        if encoder.width != self.width:
            raise ValueError(f"width={self.width} must be that of the encoder")

    def with_vocab(self, vocab_size: int) -> "ModelConfig":
        """The same model for another tokenizer."""
        encoder = self.encoder and self.encoder.with_vocab(vocab_size)
        return dataclasses.replace(self, vocab_size=vocab_size, encoder=encoder)

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
        for name in ("rope_scaling", "local_rope_scaling"):
            fields[name] = fields[name] and RopeScaling(**fields[name])
        fields["encoder"] = fields["encoder"] and cls.from_json(fields["encoder"])
        return cls(**fields)

    @property
    def sizes(self) -> dict[str, int]:
        return dict(
            V=self.vocab_size, L=self.num_layers, D=self.width, F=self.ff_width,
            N=self.num_heads, K=self.num_kv_heads, H=self.head_width,
            T=self.context + self.position_offset, U=self.relative_buckets,
            Y=self.num_token_types, M=self.width, O=self.num_classes,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ComputeConfig:
    """How a model is computed: speed and memory, never (beyond rounding) the result.

    Dropout alone changes it, in training. `auto` asks the machine; see `llmjax.host`.
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
    dropout: float = field(
        0.0, "share of the residual branches' values zeroed; only where a key is given"
    )


def attention_scale(cfg: ModelConfig) -> float:
    """What the attention scores are multiplied by."""
    return cfg.attention_scale or 1.0 / math.sqrt(cfg.head_width)
