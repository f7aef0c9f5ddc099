"""GGUF files of Llama models: weights to float32, and the tokenizer inside.

The metadata becomes a config.json and the tensors take their Hugging Face names, so
that the Llama name table serves here too.
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
from llmjax.interop import gguf_file, llama, table
from llmjax.interop.safetensors import Tensor
from llmjax.ops import rope

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Metadata under "llama." to fields of config.json.
FIELDS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
OPTIONAL = ("attention.head_count_kv", "context_length", "rope.freq_base")
HEAD_WIDTHS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
# Metadata that the Llama class computes nothing for, and the values that need nothing.
FIXED = {
    "attention.causal": True,
    "attention.scale": 0,
    "attention.sliding_window": 0,
    "embedding_scale": 0,
    "expert_count": 0,
    "logit_scale": 0,
    "residual_scale": 0,
    "use_parallel_residual": False,
}
ROPE_FACTORS = "rope_freqs.weight"
LLAMA3 = dict(low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How text is cut before the merges, by the name that the file gives to it.
WORDS = {
    "gpt-2": (),
    "smollm": (pre_tokenizers.Digits(individual_digits=True),),
    "llama-bpe": (pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), "isolated"),),
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
    or tensor, for what is unsound or not a Llama.
    """
    model = open_model(path)
    params = table.to_params(model.found, model.slots, model.cfg)
    return model.cfg, params, model.metadata


def open_model(path: str | os.PathLike) -> Opened:
    """As `load`, but no tensor is read yet."""
    path = pathlib.Path(path)
    metadata, found = gguf_file.open_file(path)
    try:
        config = config_json(metadata, found)
        cfg = llama.read_config(config)
        if ROPE_FACTORS in found:
            cfg = _with_rope_factors(cfg, found.pop(ROPE_FACTORS).read())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    named = _rename(found, cfg)
    slots = table.match(named, llama.FAMILY, cfg, path)
    return Opened(config["model_type"], cfg, named, slots, metadata)


def config_json(
    metadata: Mapping[str, Any], found: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The config.json that says the same as the metadata of a Llama."""
    family = metadata.get("general.architecture")
    if family != "llama":
        raise ValueError(f"general.architecture={family!r} is not known; known: llama")
    ours = {
        key.removeprefix("llama."): _shortest(value) for key, value in metadata.items()
    }
    for name, neutral in FIXED.items():
        if ours.get(name, neutral) != neutral:
            raise ValueError(f"llama.{name}={ours[name]!r} is not supported")
    for name in FIELDS:
        if name not in ours and name not in OPTIONAL:
            raise ValueError(f"llama.{name} is missing")
    if "token_embd.weight" not in found:
        raise ValueError("tensor 'token_embd.weight' is missing")
    head_widths = [ours[name] for name in HEAD_WIDTHS if name in ours]
    if head_widths and head_widths != head_widths[:1] * len(head_widths):
        raise ValueError(f"{', '.join(HEAD_WIDTHS)} differ, which is not supported")
    kind, factor = (
        ours.get("rope.scaling.type", "none"),
        ours.get("rope.scaling.factor"),
    )
    return {theirs: ours.get(name) for name, theirs in FIELDS.items()} | {
        "model_type": "llama",
        "vocab_size": found["token_embd.weight"].shape[0],
        "head_dim": head_widths[0] if head_widths else None,
        "rope_scaling": None if kind == "none" else dict(rope_type=kind, factor=factor),
        "tie_word_embeddings": "output.weight" not in found,
        "attention_bias": "blk.0.attn_q.bias" in found,
        "mlp_bias": "blk.0.ffn_up.bias" in found,
    }


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
                add_prefix_space=False, use_regex=cut != "llama-bpe"
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


def _rename(found: Mapping[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    """The tensors under their Hugging Face names, rows in rotate-half order."""
    num_heads = {"attn_q": cfg.num_heads, "attn_k": cfg.num_kv_heads}
    named = {}
    for name, tensor in found.items():
        layer, part, kind = re.fullmatch(
            r"(?:blk\.(\d+)\.)?(.*?)\.?(\w*)", name
        ).groups()
        if part in num_heads:
            tensor = tensor._replace(read=_rotate_half(tensor, num_heads[part]))
        if part in NAMES:
            block = "" if layer is None else f"model.layers.{layer}."
            name = f"{block}{NAMES[part]}.{kind}"
        named[name] = tensor
    return named


def _rotate_half(tensor: Tensor, num_heads: int) -> Callable[[], np.ndarray]:
    """Reads rows that llama.cpp keeps as pairs (2i, 2i + 1) as pairs (i, i + H/2)."""

    def read() -> np.ndarray:
        pairs = tensor.read().reshape(num_heads, -1, 2, *tensor.shape[1:])
        return pairs.swapaxes(1, 2).reshape(tensor.shape)

    return read


def _shortest(value: Any) -> Any:
    """The shortest decimal of a number that was stored as float32: 1e-05 again."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
