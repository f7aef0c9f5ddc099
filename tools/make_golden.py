"""Writes tests/golden: tiny Hugging Face checkpoints and what transformers computes.

    pip install torch transformers
    python tools/make_golden.py [--output=DIR] [--only=gpt2,llama_tied]

Which models, tools/golden_*.py say. Every parameter is redrawn, norms and biases too,
so that none keeps a value that would hide a mistake; sizes are odd and no two alike
where the class allows it. Each folder holds config.json (dialect of transformers v5),
config_v4.json (dialect of the hub), model.safetensors and golden.npz. The outputs are
float32, with eager attention.
"""

import argparse
import json
import pathlib

import golden_decoders
import numpy as np
import torch

MODELS = golden_decoders.MODELS
NUM_NEW_TOKENS = 10
LENGTHS = (11, 7, 4)  # real tokens of each row, of 11


def redraw(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter anew, at scales where each one moves the logits."""
    for name, param in model.named_parameters():
        noise = torch.randn(param.shape, generator=generator)
        is_norm = "norm" in name or ".ln_" in name
        if is_norm and name.endswith("weight"):
            value = 1 + 0.3 * noise
        elif "wte" in name or "wpe" in name or "embed" in name:
            value = 0.1 * noise  # small, so that the norms' epsilon counts
        elif param.ndim == 1:
            value = 0.2 * noise
        else:
            value = noise * 1.3 / param.shape[-1] ** 0.5
        param.data.copy_(value.to(param.dtype))


def as_v4(config: dict) -> dict:
    """The same config.json as hub checkpoints of transformers v4 spell it."""
    config = dict(config, transformers_version="4.46.3")
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
    return config


def padded(ids: np.ndarray, side: str) -> dict[str, np.ndarray]:
    """`LENGTHS` tokens of each row of `ids`, padded with token 0 on one side."""
    tokens, mask = np.zeros_like(ids), np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        real = slice(-length, None) if side == "left" else slice(0, length)
        tokens[row, real], mask[row, real] = ids[row, :length], 1
    return {"input_ids": tokens, "attention_mask": mask}


def cases(ids: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by name: no padding, either side, and with the positions spelt out."""
    left = padded(ids, "left")
    positions = np.maximum(np.cumsum(left["attention_mask"], axis=1) - 1, 0)
    return {
        "plain": {"input_ids": ids},
        "right": padded(ids, "right"),
        "left": left,
        "left_positions": dict(left, position_ids=positions),
    }


@torch.no_grad()
def outputs(model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """`case/key` -> array: inputs, logits and hidden states, and greedy decoding."""
    arrays = {}
    for case, inputs in cases(ids).items():
        tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
        result = model(**tensors, output_hidden_states=True)
        hiddens = {f"hidden_{i}": h for i, h in enumerate(result.hidden_states)}
        for key, value in (tensors | hiddens | {"logits": result.logits}).items():
            arrays[f"{case}/{key}"] = value.numpy()
    prompt = torch.from_numpy(ids[:, :5])
    arrays["generated_ids"] = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=NUM_NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    ).numpy()
    return arrays


def make(folder: pathlib.Path, cls: type, config, seed: int) -> None:
    """Writes one golden folder, and checks that transformers reads both dialects."""
    generator = torch.Generator().manual_seed(seed)
    stored = cls.from_config(config, dtype=config.dtype)
    redraw(stored, generator)
    folder.mkdir(parents=True, exist_ok=True)
    stored.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config_path = folder / "config.json"
    v5_text = config_path.read_text()
    v4_text = json.dumps(as_v4(json.loads(v5_text)), indent=2) + "\n"
    (folder / "config_v4.json").write_text(v4_text)

    ids = np.random.default_rng(seed).integers(1, config.vocab_size, (3, LENGTHS[0]))
    arrays = outputs(load(folder, cls), ids)
    config_path.write_text(v4_text)
    for name, array in outputs(load(folder, cls), ids).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    config_path.write_text(v5_text)
    small = {
        name: array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        for name, array in arrays.items()
    }
    np.savez_compressed(folder / "golden.npz", **small)


def load(folder: pathlib.Path, cls: type) -> torch.nn.Module:
    return cls.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).parents[1] / "tests" / "golden"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    parser.add_argument("--only", help="names, separated by commas", default="")
    args = parser.parse_args()
    for seed, (name, (cls, config)) in enumerate(MODELS.items()):
        if not args.only or name in args.only.split(","):
            make(args.output / name, cls, config, seed)


if __name__ == "__main__":
    main()
