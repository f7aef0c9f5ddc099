"""Runs a checkpoint on given token ids, to compare with other programs.

    python tools/forward.py --model=DIR_OR_GGUF --inputs=in.npz --output=out.npz

The inputs have the names they have in transformers: input_ids [B, T], and optionally
attention_mask (1 for a token, 0 for padding) and position_ids. The outputs are logits
[B, T, V] and hidden_0 .. hidden_L [B, T, D], the entries of transformers'
`hidden_states`: the embeddings, then the output of each block, the last one after the
final norm. All in float32, at the highest matmul precision. What stands at padding has
no meaning.
"""

import os
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags as absl_flags

from llmjax import flags
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.interop import gguf, hf
from llmjax.models import decoder

MODEL = absl_flags.DEFINE_string("model", None, "a Hugging Face folder or a .gguf file")
INPUTS = absl_flags.DEFINE_string("inputs", None, "an .npz file of input_ids and so on")
OUTPUT = absl_flags.DEFINE_string("output", None, "the .npz file to write")
absl_flags.mark_flags_as_required(["model", "inputs", "output"])

DECODER_INPUTS = ("input_ids", "attention_mask", "position_ids")
EXACT = ComputeConfig(dtype="float32", remat="none", attention="reference")


def main() -> None:
    if not pathlib.Path(OUTPUT.value).parent.is_dir():
        raise FileNotFoundError(f"--output={OUTPUT.value}: its folder does not exist")
    inputs = read_inputs(INPUTS.value)
    cfg, params = load(MODEL.value)
    try:
        batch = decoder_batch(inputs, cfg)
    except ValueError as error:
        raise ValueError(f"--inputs={INPUTS.value}: {error}") from error
    write_outputs(OUTPUT.value, run_decoder(cfg, params, batch))


def load(path: str) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and parameters of a folder or a GGUF file."""
    if os.path.isdir(path):
        return hf.load(path)
    if os.path.isfile(path):
        return gguf.load(path)[:2]
    raise FileNotFoundError(f"--model={path}: no such folder or file")


def decoder_batch(inputs: dict[str, np.ndarray], cfg: ModelConfig) -> dict:
    """A batch of ours from inputs of transformers; ValueError says what is wrong.

    Without position_ids the positions are 0, 1, 2, ... in each row whatever the mask,
    as the classes of transformers have it.
    """
    for name in inputs.keys() - set(DECODER_INPUTS):
        raise ValueError(f"unknown input {name!r}; known: {', '.join(DECODER_INPUTS)}")
    if "input_ids" not in inputs:
        raise ValueError("input_ids is missing")
    ids_BT = integers(inputs, "input_ids")
    if ids_BT.ndim != 2 or not ids_BT.size:
        raise ValueError(f"input_ids must be [batch, length], not {ids_BT.shape}")
    check_range(ids_BT, "input_ids", cfg.vocab_size, "the vocabulary")
    batch = {"tokens": ids_BT}
    if "attention_mask" in inputs:
        batch["segment_ids"] = integers(inputs, "attention_mask", ids_BT.shape)
        check_range(batch["segment_ids"], "attention_mask", 2, "0 and 1")
    default_BT = np.broadcast_to(
        np.arange(ids_BT.shape[1], dtype=np.int32), ids_BT.shape
    )
    inputs = {"position_ids": default_BT} | inputs
    batch["positions"] = integers(inputs, "position_ids", ids_BT.shape)
    if cfg.positions == "learned":
        text = "the learned positions"
        check_range(batch["positions"], "position_ids", cfg.context, text)
    return batch


def integers(inputs: dict, name: str, shape: tuple | None = None) -> np.ndarray:
    array = inputs[name]
    if array.dtype.kind not in "iub":
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    if shape and array.shape not in (shape, (1, shape[1])):
        raise ValueError(f"{name} has shape {array.shape}; input_ids has {shape}")
    if array.size and abs(array.astype(np.float64)).max() >= 2**31:
        raise ValueError(f"{name} holds a number that is not an int32")
    return np.broadcast_to(array.astype(np.int32), shape or array.shape)


def check_range(array: np.ndarray, name: str, end: int, of: str) -> None:
    outside = array[(array < 0) | (array >= end)]
    if outside.size:
        raise ValueError(f"{name} holds {outside[0]}, outside 0..{end - 1} of {of}")


def run_decoder(cfg: ModelConfig, params: dict, batch: dict) -> dict[str, np.ndarray]:
    """logits and hidden_0 .. hidden_L by name."""
    model = decoder.make(cfg, EXACT)

    @jax.jit
    def forward(params, batch):
        output = model.apply(params, batch, hiddens=True)
        return model.readout(params, output.hidden_BTD), output.hiddens

    with jax.default_matmul_precision("highest"):
        logits_BTV, hiddens = forward(params, batch)
    named = {f"hidden_{i}": np.asarray(hidden) for i, hidden in enumerate(hiddens)}
    return {"logits": np.asarray(logits_BTV)} | named


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
    flags.run(main)
