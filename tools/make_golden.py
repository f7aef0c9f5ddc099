"""Writes tests/golden: tiny Hugging Face checkpoints and what transformers computes.

    pip install torch transformers && python tools/make_golden.py [--output=DIR]

Every parameter is redrawn, norms and biases too, so that none keeps a value that would
hide a mistake; sizes are odd and no two alike where the class allows it. Each folder
holds config.json (dialect of transformers v5), config_v4.json (dialect of the hub),
model.safetensors and golden.npz. The outputs are float32, with eager attention.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import transformers

NUM_NEW_TOKENS = 10
LENGTHS = (11, 7, 4)  # real tokens of each row, of 11

GPT2 = transformers.GPT2Config(
    vocab_size=61, n_positions=29, n_embd=24, n_layer=3, n_head=4, n_inner=52,
    layer_norm_epsilon=3e-3, bos_token_id=None, eos_token_id=None,
)  # fmt: skip
LLAMA_TIED = transformers.LlamaConfig(
    vocab_size=61, hidden_size=24, intermediate_size=44, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=1, max_position_embeddings=32,
    rms_norm_eps=2e-3, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    rope_parameters={"rope_type": "linear", "rope_theta": 700.0, "factor": 2.5},
    dtype="bfloat16",
)  # fmt: skip
LLAMA_BIASED = transformers.LlamaConfig(
    vocab_size=61, hidden_size=24, intermediate_size=44, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=10, hidden_act="gelu",
    max_position_embeddings=256, rms_norm_eps=2e-3, attention_bias=True, mlp_bias=True,
    tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    rope_parameters={
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
)  # fmt: skip
CONFIGS = {"gpt2": GPT2, "llama_tied": LLAMA_TIED, "llama_biased": LLAMA_BIASED}


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


def make(
    folder: pathlib.Path, config: transformers.PreTrainedConfig, seed: int
) -> None:
    """Writes one golden folder, and checks that transformers reads both dialects."""
    generator = torch.Generator().manual_seed(seed)
    stored = transformers.AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    redraw(stored, generator)
    folder.mkdir(parents=True, exist_ok=True)
    stored.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    config_path = folder / "config.json"
    v5_text = config_path.read_text()
    v4_text = json.dumps(as_v4(json.loads(v5_text)), indent=2) + "\n"
    (folder / "config_v4.json").write_text(v4_text)

    ids = np.random.default_rng(seed).integers(1, config.vocab_size, (3, LENGTHS[0]))
    arrays = outputs(load(folder), ids)
    config_path.write_text(v4_text)
    for name, array in outputs(load(folder), ids).items():
        np.testing.assert_array_equal(array, arrays[name], err_msg=name)
    config_path.write_text(v5_text)
    small = {
        name: array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
        for name, array in arrays.items()
    }
    np.savez_compressed(folder / "golden.npz", **small)


def load(folder: pathlib.Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = pathlib.Path(__file__).parents[1] / "tests" / "golden"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        make(parser.parse_args().output / name, config, seed)


if __name__ == "__main__":
    main()
