"""GGUF files of Llama and its kin: weights to float32, and the tokenizer inside.

The metadata becomes a config.json and the tensors take their Hugging Face names, so
that the families' name tables serve here too.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from llmjax.config import ModelConfig, RopeScaling
from llmjax.interop import gguf_config, gguf_file, hf, table
from llmjax.interop.safetensors import Tensor
from llmjax.ops import rope

ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = dict(low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
# How text is cut before the merges, by the name that the file gives to it.
WORDS = {
    "gpt-2": (),
    "smollm": (pre_tokenizers.Digits(individual_digits=True),),
    "llama-bpe": (pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), "isolated"),),
    "qwen2": (pre_tokenizers.Split(tokenizers.Regex(QWEN2_WORDS), "isolated"),),
}
CONTROL = 3  # the type of a token


class Vocabulary(NamedTuple):
    """A tokenizer, the names of its control tokens, and a Jinja chat template.

    control: of eos, bos and pad, those that there are.
    """

    core: tokenizers.Tokenizer
    control: dict[str, str]
    chat_template: str | None


class Opened(NamedTuple):
    """A model in a file: its family and config, its tensors by Hugging Face name, which
    parameters they are, and the file's metadata.
    """

    family: str
    cfg: ModelConfig
    found: dict[str, Tensor]
    slots: dict[str, table.Slot]
    metadata: dict[str, Any]


def load(
    path: str | os.PathLike,
) -> tuple[ModelConfig, dict[str, Any], dict[str, Any]]:
    """The config, the parameters (float32, layers stacked) and the file's metadata.

    Quantised tensors are dequantised. Raises ValueError, naming the file and the field
    or tensor, for what is unsound or of another architecture.
    """
    model = open_model(path)
    params = table.to_params(model.found, model.slots, model.cfg)
    return model.cfg, params, model.metadata


def open_model(path: str | os.PathLike) -> Opened:
    """As `load`, but no tensor is read yet."""
    path = pathlib.Path(path)
    metadata, found = gguf_file.open_file(path)
    try:
        arch = gguf_config.architecture(metadata)
        cfg = hf.config_from_json(gguf_config.config_json(metadata, found))
        if ROPE_FACTORS in found:
            cfg = _with_rope_factors(cfg, found.pop(ROPE_FACTORS).read())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    named = _rename(found, arch, cfg)
    slots = table.match(named, hf.FAMILIES[arch.family], cfg, path)
    return Opened(arch.family, cfg, named, slots, metadata)


def vocabulary(metadata: Mapping[str, Any]) -> Vocabulary:
    """The byte-level BPE of a GGUF file; ValueError names a kind that is not known."""
    kind, cut = (metadata.get(f"tokenizer.ggml.{name}") for name in ("model", "pre"))
    if kind != "gpt2":
        raise ValueError(f"tokenizer.ggml.model={kind!r} is not known; known: gpt2")
    if cut not in WORDS:
        raise ValueError(
            f"tokenizer.ggml.pre={cut!r} is not known; known: {', '.join(WORDS)}"
        )
    tokens, merges, types = (
        metadata.get(f"tokenizer.ggml.{name}") or []
        for name in ("tokens", "merges", "token_type")
    )
    try:
        core = _core(tokens, [tuple(pair.split(" ")) for pair in merges], cut)
    except Exception as error:  # the package raises bare Exception
        reason = str(error).splitlines()[0]
        raise ValueError(f"tokenizer.ggml.tokens and merges: {reason}") from error
    typed = zip(tokens, types, strict=False)
    core.add_special_tokens([token for token, kind in typed if kind == CONTROL])
    control = {}
    for role, name in (("eos", "eos"), ("bos", "bos"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        if index is not None and index < len(tokens):
            control[role] = tokens[index]
    return Vocabulary(core, control, metadata.get("tokenizer.chat_template"))


def _core(tokens: list[str], merges: list[tuple], cut: str) -> tokenizers.Tokenizer:
    vocab = {token: index for index, token in enumerate(tokens)}
    whole_words = cut == "llama-bpe"  # a word that is a token needs no merges
    core = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=whole_words))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *WORDS[cut],
            pre_tokenizers.ByteLevel(
                add_prefix_space=False, use_regex=cut not in ("llama-bpe", "qwen2")
            ),
        ]
    )
    core.decoder = decoders.ByteLevel()
    return core


def _with_rope_factors(cfg: ModelConfig, factors: np.ndarray) -> ModelConfig:
    """The config whose RoPE frequencies are the plain ones divided by the factors.

    llama.cpp stores the outcome of Llama 3's rule, whose constants are the same in all
    of Meta's models but for the largest factor.
    """
    scaling = RopeScaling("llama3", float(factors.max()), **LLAMA3)
    plain = rope.frequencies(cfg.head_width, cfg.rope_theta)
    scaled = rope.frequencies(cfg.head_width, cfg.rope_theta, scaling)
    if factors.shape != plain.shape or not np.allclose(plain / factors, scaled, 1e-4):
        raise ValueError(f"tensor {ROPE_FACTORS!r} is not the RoPE scaling of Llama 3")
    return dataclasses.replace(cfg, rope_scaling=scaling)


def _rename(
    found: Mapping[str, Tensor], arch: gguf_config.Architecture, cfg: ModelConfig
) -> dict[str, Tensor]:
    """The tensors under their Hugging Face names, with the values they have there."""
    num_heads = {"attn_q": cfg.num_heads, "attn_k": cfg.num_kv_heads}
    names = {**gguf_config.NAMES, **arch.names}
    named = {}
    for name, tensor in found.items():
        layer, part, kind = re.fullmatch(
            r"(?:blk\.(\d+)\.)?(.*?)\.?(\w*)", name
        ).groups()
        if arch.in_pairs and part in num_heads:
            tensor = tensor._replace(read=_rotate_half(tensor, num_heads[part]))
        if arch.norm_shift and part.endswith("norm"):
            tensor = tensor._replace(read=_shifted(tensor, -arch.norm_shift))
        if part in names:
            block = "" if layer is None else f"model.layers.{layer}."
            name = f"{block}{names[part]}.{kind}"
        named[name] = tensor
    return named


def _shifted(tensor: Tensor, shift: float) -> Callable[[], np.ndarray]:
    return lambda: tensor.read() + np.float32(shift)


def _rotate_half(tensor: Tensor, num_heads: int) -> Callable[[], np.ndarray]:
    """Reads rows that llama.cpp keeps as pairs (2i, 2i + 1) as pairs (i, i + H/2)."""

    def read() -> np.ndarray:
        pairs = tensor.read().reshape(num_heads, -1, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return read
