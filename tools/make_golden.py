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
import golden_encoders
import golden_seq2seq
import numpy as np
import torch

MODELS = (
    golden_decoders.MODELS | golden_encoders.MODELS | golden_seq2seq.MODELS
)  # fmt: skip
NUM_NEW_TOKENS = 10
LENGTHS = (11, 7, 4)  # real tokens of each row, of 11


def redraw(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter anew, at scales where each one moves the logits."""
    for name, param in [*model.named_parameters(), *biases(model)]:
        noise = torch.randn(param.shape, generator=generator)
        is_norm = "norm" in name.lower() or ".ln_" in name
        if is_norm and name.endswith("weight"):
            value = param.data.float() + 0.3 * noise  # they start at 1, in Gemma at 0
        elif any(part in name for part in ("wte", "wpe", "embed", "shared")):
            value = 0.1 * noise  # small, so that the norms' epsilon counts
        elif param.ndim == 1:
            value = 0.2 * noise
        else:
            value = noise * 1.3 / param.shape[-1] ** 0.5
        param.data.copy_(value.to(param.dtype))


def biases(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The buffers that are parameters in all but name: BART's biases of the logits."""
    return [(name, b) for name, b in model.named_buffers() if "final_logits" in name]


def as_v4(config: dict) -> dict:
    """The same config.json as hub checkpoints of transformers v4 spell it."""
    config = dict(config, transformers_version="4.46.3")
    config["torch_dtype"] = config.pop("dtype")
    config.pop("scale_decoder_outputs", None)  # T5: then tie_word_embeddings tells
    rope = config.pop("rope_parameters", None)
    if config["model_type"] == "modernbert":
        config["global_rope_theta"] = rope["full_attention"]["rope_theta"]
        config["local_rope_theta"] = rope["sliding_attention"]["rope_theta"]
        every = config.pop("layer_types")[1:].index("full_attention") + 1
        config["global_attn_every_n_layers"] = every
    elif config["model_type"] == "gpt_neox":
        config["rotary_emb_base"] = rope.pop("rope_theta")
        config["rotary_pct"] = rope.pop("partial_rotary_factor")
        config["rope_scaling"] = rope
    elif config["model_type"] == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["rope_theta"] = rope["full_attention"].pop("rope_theta")
        config["rope_scaling"] = rope["full_attention"]
    elif rope:
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
    return config


def padded(ids: np.ndarray, side: str, pad_id: int) -> dict[str, np.ndarray]:
    """`LENGTHS` tokens of each row of `ids`, padded on one side."""
    tokens, mask = np.full_like(ids, pad_id), np.zeros_like(ids)
    for row, length in enumerate(LENGTHS):
        real = slice(-length, None) if side == "left" else slice(0, length)
        tokens[row, real], mask[row, real] = ids[row, :length], 1
    return {"input_ids": tokens, "attention_mask": mask}


def source_cases(ids: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Inputs of an encoder-decoder by name: no padding, and either side."""
    found = {"plain": {"input_ids": ids, "decoder_input_ids": ids[::-1, :9].copy()}}
    for side in ("right", "left"):
        target = padded(ids[::-1], side, 0)
        named = {f"decoder_{key}": value for key, value in target.items()}
        found[side] = padded(ids, side, 0) | named
    return found


def cases(ids: np.ndarray, config) -> dict[str, dict[str, np.ndarray]]:
    """Inputs by name: no padding, either side, and with the positions spelt out."""
    if config.is_encoder_decoder:
        return source_cases(ids)
    pad_id = config.pad_token_id or 0
    left, right = padded(ids, "left", pad_id), padded(ids, "right", pad_id)
    positions = np.maximum(np.cumsum(left["attention_mask"], axis=1) - 1, 0)
    if config.model_type == "roberta":
        positions += pad_id + 1
    if hasattr(config, "type_vocab_size"):
        right["token_type_ids"] = ids % config.type_vocab_size
    return {
        "plain": {"input_ids": ids},
        "right": right,
        "left": left,
        "left_positions": dict(left, position_ids=positions),
    }


@torch.no_grad()
def outputs(model: torch.nn.Module, ids: np.ndarray) -> dict[str, np.ndarray]:
    """`case/key` -> array: inputs, hidden states and what the class has beside them.

    That is logits, pooled, and of a decoder what it generates.
    """
    arrays = {}
    for case, inputs in cases(ids, model.config).items():
        tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
        result = model(**tensors, output_hidden_states=True)
        named = {
            f"{side}hidden_{i}": hidden
            for side in ("", "encoder_", "decoder_")
            for i, hidden in enumerate(result.get(f"{side}hidden_states") or ())
        }
        for key, name in (("logits", "logits"), ("pooler_output", "pooled")):
            if key in result:
                named[name] = result[key]
        for key, value in (tensors | named).items():
            arrays[f"{case}/{key}"] = value.numpy()
    if not model.can_generate():
        return arrays
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
