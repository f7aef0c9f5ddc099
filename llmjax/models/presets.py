"""Named model configs, and one dial that derives a balanced model from its depth."""

import dataclasses

from llmjax.config import ModelConfig, RopeScaling

_GPT2 = ModelConfig(
    vocab_size=50257, num_layers=12, width=768, num_heads=12, num_kv_heads=12,
    head_width=64, ff_width=3072, context=1024, norm="layer", activation="gelu_tanh",
    gated=False, positions="learned", qkv_bias=True, out_bias=True, mlp_bias=True,
)  # fmt: skip


def _gpt2(num_layers: int, width: int, num_heads: int) -> ModelConfig:
    return dataclasses.replace(
        _GPT2, num_layers=num_layers, width=width, num_heads=num_heads,
        num_kv_heads=num_heads, ff_width=4 * width,
    )  # fmt: skip


_BERT = dataclasses.replace(
    _GPT2, structure="encoder", vocab_size=30522, context=512, norm_eps=1e-12,
    norms="post", final_norm=False, activation="gelu", embed_norm=True,
    num_token_types=2, head_transform="norm", head_bias=True,
)  # fmt: skip


def _t5(num_layers: int, width: int, num_heads: int) -> ModelConfig:
    """T5 1.0 (Raffel et al. 2019); the encoder has the same sizes."""
    decoder = ModelConfig(
        vocab_size=32128, num_layers=num_layers, width=width, num_heads=num_heads,
        num_kv_heads=num_heads, head_width=64, ff_width=4 * width, context=512,
        norm_eps=1e-6, activation="relu", gated=False, positions="relative",
        attention_scale=1.0, head_scale=width**-0.5,
    )  # fmt: skip
    encoder = dataclasses.replace(
        decoder, structure="encoder", head="none", own_embedding=False
    )
    return dataclasses.replace(decoder, encoder=encoder)


def _llama3(num_layers, width, num_heads, ff_width, scaling=None) -> ModelConfig:
    return ModelConfig(
        vocab_size=128256, num_layers=num_layers, width=width, num_heads=num_heads,
        num_kv_heads=8, head_width=width // num_heads, ff_width=ff_width,
        context=131072 if scaling else 8192, rope_theta=500000.0, rope_scaling=scaling,
        tied=num_layers == 16,
    )  # fmt: skip


def from_depth(depth: int, vocab_size: int = 2048, context: int = 256) -> ModelConfig:
    """A Llama-like decoder of `depth` layers, 32 * depth wide, in heads of 32 or 64."""
    if depth < 1:
        raise ValueError(f"--model.depth must be at least 1, got {depth}")
    width = 32 * depth
    head_width = 32 if width < 512 else 64
    num_heads = width // head_width
    return ModelConfig(
        vocab_size=vocab_size, num_layers=depth, width=width, num_heads=num_heads,
        num_kv_heads=num_heads, head_width=head_width, context=context,
        ff_width=-(-width * 8 // 3 // 32) * 32, qk_norm="head",
    )  # fmt: skip


PRESETS = {
    "tiny": ModelConfig(num_layers=2, width=64, num_heads=4, num_kv_heads=2,
                        head_width=16, ff_width=192, context=128),
    "quickstart": from_depth(4, vocab_size=4096),
    "translate": from_depth(4, vocab_size=4096, context=128),
    "gpt2": _gpt2(12, 768, 12),
    "gpt2_medium": _gpt2(24, 1024, 16),
    "gpt2_large": _gpt2(36, 1280, 20),
    "gpt2_xl": _gpt2(48, 1600, 25),
    "smollm2_135m": ModelConfig(
        vocab_size=49152, num_layers=30, width=576, num_heads=9, num_kv_heads=3,
        head_width=64, ff_width=1536, context=8192, rope_theta=100000.0),
    "bert_base": _BERT,
    "t5_small": _t5(6, 512, 8),
    "t5_base": _t5(12, 768, 12),
    "llama3_1b": _llama3(16, 2048, 32, 8192, RopeScaling("llama3", 32.0)),
    "llama3_8b": _llama3(32, 4096, 32, 14336),
    "llama3_70b": _llama3(80, 8192, 64, 28672),
}  # fmt: skip


def get(name: str) -> ModelConfig:
    """The preset of that name; ValueError lists the names there are."""
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]
