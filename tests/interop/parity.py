"""What the parity tests share: goldens, and how far we are from them."""

import pathlib

import numpy as np

from llmjax.config import ComputeConfig, ModelConfig
from tools.forward import NAMES, SOURCE_NAMES, TARGET_NAMES, forward, make_batch

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = ("plain", "right", "left", "left_positions")
BAR = 1e-4
SCANNED = ComputeConfig(dtype="float32", layers="scan")


def golden(name: str, case: str) -> dict[str, np.ndarray]:
    """The inputs and outputs of one case, by transformers' names."""
    with np.load(GOLDEN / name / "golden.npz") as file:
        return {
            key.removeprefix(f"{case}/"): file[key]
            for key in file
            if key.startswith(f"{case}/")
        }


def run(cfg: ModelConfig, params: dict, inputs: dict) -> dict[str, np.ndarray]:
    """Our outputs by transformers' names; whatever else `inputs` holds is ignored."""
    known = NAMES | SOURCE_NAMES | TARGET_NAMES
    inputs = {name: value for name, value in inputs.items() if name in known}
    return forward(cfg, params, make_batch(inputs, cfg), SCANNED)


def worst(cfg: ModelConfig, params: dict, expected: dict) -> float:
    """The largest difference over all outputs at real positions."""
    got = run(cfg, params, expected)
    outputs = ("logits", "pooled", "hidden", "encoder_hidden", "decoder_hidden")
    assert got.keys() == {key for key in expected if key.startswith(outputs)}
    return max(
        float(abs(value - expected[key])[real(key, value, expected)].max())
        for key, value in got.items()
    )


def real(key: str, value: np.ndarray, inputs: dict) -> np.ndarray:
    """Where an output stands at a token that is not padding."""
    is_target = "decoder_input_ids" in inputs and not key.startswith("encoder")
    mask = inputs.get("decoder_attention_mask" if is_target else "attention_mask")
    if mask is None or value.shape[:2] != mask.shape:
        return np.ones(value.shape[:1], bool)  # a text's vector, or no padding
    return mask > 0
