"""Runs a checkpoint on given token ids, to compare with other programs.

    python tools/forward.py --model=DIR_OR_GGUF --inputs=in.npz --output=out.npz

The inputs have the names they have in transformers: input_ids [B, T], and optionally
attention_mask (1 for a token, 0 for padding), position_ids and token_type_ids; for an
encoder-decoder also decoder_input_ids [B, T], and optionally decoder_attention_mask.
The outputs are what the class has of logits, pooled, and hidden_0 .. hidden_L (of an
encoder-decoder encoder_hidden_i and decoder_hidden_i): the entries of transformers'
`hidden_states`, the embeddings, then the output of each block, the last one after the
final norm. All in float32, at the highest matmul precision. What stands at padding has
no meaning.
"""

import functools
import os
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from llmjax import flags
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.interop import gguf, hf
from llmjax.models import transformer

MODEL = absl_flags.DEFINE_string("model", None, "a Hugging Face folder or a .gguf file")
INPUTS = absl_flags.DEFINE_string("inputs", None, "an .npz file of input_ids and so on")
OUTPUT = absl_flags.DEFINE_string("output", None, "the .npz file to write")

# transformers' names of inputs to ours; of the source, where there is an encoder.
NAMES = {
    "input_ids": "tokens",
    "attention_mask": "segment_ids",
    "position_ids": "positions",
    "token_type_ids": "token_types",
}
SOURCE_NAMES = {"input_ids": "encoder_tokens", "attention_mask": "encoder_segment_ids"}
TARGET_NAMES = {"decoder_input_ids": "tokens", "decoder_attention_mask": "segment_ids"}
FINITE = ("learned", "sinusoidal")  # positions read from a table
EXACT = ComputeConfig(dtype="float32", remat="none", attention="reference")


def main() -> None:
    if not pathlib.Path(OUTPUT.value).parent.is_dir():
        raise FileNotFoundError(f"--output={OUTPUT.value}: its folder does not exist")
    inputs = read_inputs(INPUTS.value)
    cfg, params = load(MODEL.value)
    try:
        batch = make_batch(inputs, cfg)
    except ValueError as error:
        raise ValueError(f"--inputs={INPUTS.value}: {error}") from error
    write_outputs(OUTPUT.value, forward(cfg, params, batch))


def load(path: str) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and parameters of a folder or a GGUF file."""
    if os.path.isdir(path):
        return hf.load(path)
    if os.path.isfile(path):
        return gguf.load(path)[:2]
    raise FileNotFoundError(f"--model={path}: no such folder or file")


def make_batch(inputs: dict[str, np.ndarray], cfg: ModelConfig) -> dict:
    """A batch of ours from inputs of transformers; ValueError says what is wrong.

    Without position_ids the positions are 0, 1, 2, ... in each row whatever the mask,
    as the classes of transformers have it (in RoBERTa padding's id is not counted).
    """
    groups = {"input_ids": NAMES}
    if cfg.encoder is not None:
        groups = {"input_ids": SOURCE_NAMES, "decoder_input_ids": TARGET_NAMES}
    known = [name for group in groups.values() for name in group]
    for name in inputs.keys() - set(known):
        raise ValueError(f"unknown input {name!r}; known: {', '.join(known)}")
    batch = {}
    for ids_name, group in groups.items():
        ids_BT = integers(inputs, ids_name)
        if ids_BT.ndim != 2 or not ids_BT.size:
            raise ValueError(f"{ids_name} must be [batch, length], not {ids_BT.shape}")
        part = cfg.encoder if cfg.encoder and group is SOURCE_NAMES else cfg
        num_tokens = (ids_BT != part.position_skips_id).sum(axis=1).max()
        if part.positions in FINITE and num_tokens > part.context:
            raise ValueError(
                f"{ids_name} has {num_tokens} tokens; the {part.positions} "
                f"positions end at {part.context}"
            )
        for name in group.keys() & inputs.keys():
            array = integers(inputs, name, ids_BT.shape)
            check_range(array, name, *end(group[name], part))
            if name == "position_ids" and part.position_skips_id is not None:
                array = array - part.position_offset  # RoBERTa's are rows of the table
            batch[group[name]] = array
    return batch


def end(ours: str, cfg: ModelConfig) -> tuple[int, str]:
    """Where the values of an input end, and what of."""
    if ours.endswith("tokens"):
        return cfg.vocab_size, "the vocabulary"
    if ours.endswith("segment_ids"):
        return 2, "0 and 1"
    if ours == "token_types":
        return cfg.num_token_types, "the token types"
    if cfg.position_skips_id is not None:
        return cfg.sizes["T"], "the rows of positions"
    if cfg.positions in FINITE:
        return cfg.context, f"the {cfg.positions} positions"
    return 2**31, "an int32"


def integers(inputs: dict, name: str, shape: tuple | None = None) -> np.ndarray:
    if name not in inputs:
        raise ValueError(f"{name} is missing")
    array = inputs[name]
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    if shape and array.shape not in (shape, (1, shape[1])):
        raise ValueError(f"{name} has shape {array.shape}; the ids have {shape}")
    if array.size and abs(array.astype(np.float64)).max() >= 2**31:
        raise ValueError(f"{name} holds a number that is not an int32")
    return np.broadcast_to(array.astype(np.int32), shape or array.shape)


def check_range(array: np.ndarray, name: str, end: int, of: str) -> None:
    outside = array[(array < 0) | (array >= end)]
    if outside.size:
        raise ValueError(f"{name} holds {outside[0]}, outside 0..{end - 1} of {of}")


def forward(
    cfg: ModelConfig, params: dict, batch: dict, compute: ComputeConfig = EXACT
) -> dict[str, np.ndarray]:
    """The outputs by name; see the top of this file."""
    with jax.default_matmul_precision("highest"):
        outputs = program(cfg, compute)(params, batch)
    return {name: np.asarray(array) for name, array in outputs.items()}


@functools.cache
def program(cfg: ModelConfig, compute: ComputeConfig):
    """The jitted function from (params, batch) to the outputs by name."""
    model = transformer.make(cfg, compute)

    @jax.jit
    def run(params, batch):
        output = model.apply(params, batch, hiddens=True)
        prefix = "" if cfg.encoder is None else "decoder_"
        named = {f"{prefix}hidden_{i}": h for i, h in enumerate(output.hiddens)}
        for i, hidden in enumerate(output.encoder_hiddens or ()):
            named[f"encoder_hidden_{i}"] = hidden
        if cfg.head == "lm":
            return named | {"logits": model.readout(params, output.hidden_BTD)}
        pooled_BD = transformer.pool(cfg, output.hidden_BTD, batch.get("segment_ids"))
        if cfg.head == "classes":
            return named | {"logits": model.readout(params, pooled_BD)}
        if cfg.head_transform != "none":
            named["pooled"] = transformer.transform(cfg, params, pooled_BD)
        return named

    return run


def read_inputs(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name."""
    try:
        with np.load(path) as file:
            return dict(file)
    except OSError:
        raise
    except Exception as error:  # a torn file raises any of a dozen kinds
        raise ValueError(f"--inputs={path}: not an .npz file of arrays") from error


def write_outputs(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file, to a temporary name first."""
    temporary = f"{path}.tmp"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
    finally:
        pathlib.Path(temporary).unlink(missing_ok=True)


if __name__ == "__main__":
    absl_flags.mark_flags_as_required(["model", "inputs", "output"])
    flags.run(main)
