"""Writes tests/golden/peft: adapter folders as peft saves them, and what they compute.

    pip install torch transformers peft
    python tools/golden_peft.py [--output=DIR] [--only=gpt2_dora]

The bases are those of make_golden.py, in tests/golden. All that is trained is drawn
anew, so that no part of an adapter keeps a value that would hide a mistake.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONV1D = ["c_attn", "c_proj", "c_fc"]
# name: (base, fields of peft's LoraConfig)
ADAPTERS = {
    "llama": ("llama_biased", {"r": 3, "lora_alpha": 5, "target_modules": LINEAR}),
    "llama_dora": (
        "llama_tied",
        {"r": 2, "use_dora": True, "target_modules": [*LINEAR, "embed_tokens"]},
    ),
    "llama_some": (
        "llama_biased",
        {"r": 2, "target_modules": ["q_proj", "down_proj", "lm_head"],
         "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    ),
    "llama_all": (
        "llama_biased", {"r": 2, "bias": "all", "target_modules": ["v_proj"]}
    ),
    "gpt2": (
        "gpt2",
        {"r": 4, "use_rslora": True, "target_modules": [*CONV1D, "wte"],
         "fan_in_fan_out": True},
    ),
    "gpt2_dora": (
        "gpt2",
        {"r": 3, "use_dora": True, "target_modules": CONV1D, "fan_in_fan_out": True},
    ),
    "qwen2": (
        "qwen2",
        {"r": 3, "lora_alpha": 4, "bias": "lora_only", "target_modules": LINEAR,
         "rank_pattern": {"k_proj": 2, "layers.1.mlp.up_proj": 5},
         "alpha_pattern": {"o_proj": 7}},
    ),
    "t5": (
        "t5",
        {"r": 3, "lora_alpha": 2, "target_modules": ["q", "k", "v", "o", "wi", "wo"]},
    ),
}  # fmt: skip


def load(base: pathlib.Path):
    """The model of a golden folder."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(base)
    kind = "Seq2SeqLM" if config.is_encoder_decoder else "CausalLM"
    return getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )


def inputs(model) -> dict[str, np.ndarray]:
    """Two rows of ids, and of an encoder-decoder's two sides."""
    ids = np.random.default_rng(0).integers(1, model.config.vocab_size, (2, 9))
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids[:, ::-1].copy()}
    return {"input_ids": ids}


def compute(model, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The logits."""
    import torch

    with torch.no_grad():
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return model.eval()(**tensors).logits.numpy()


def draw(model, seed: int) -> int:
    """Draws anew what is trained; how many numbers that is."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    num_trained = 0
    for name, param in model.named_parameters():
        if param.requires_grad:
            noise = torch.randn(param.shape, generator=generator)
            start = param.data * (1 if "magnitude" in name else 0)
            param.data.copy_(start + 0.3 * noise)
            num_trained += param.numel()
    return num_trained


def make(output: pathlib.Path, name: str, seed: int) -> None:
    """Writes one folder: the adapter, and golden.npz."""
    import peft

    base, fields = ADAPTERS[name]
    model = load(GOLDEN / base)
    arrays = inputs(model)
    plain = compute(model, arrays)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**fields))
    num_trained = draw(adapted, seed)
    logits = compute(adapted, arrays)
    assert abs(logits - plain).max() > 0.1, "the adapter changes too little"
    folder = output / name
    with tempfile.TemporaryDirectory() as saved:
        adapted.save_pretrained(saved)
        folder.mkdir(parents=True, exist_ok=True)
        config = json.loads((pathlib.Path(saved) / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = base
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = "adapter_model.safetensors"
        (folder / weights).write_bytes((pathlib.Path(saved) / weights).read_bytes())
    np.savez_compressed(
        folder / "golden.npz", logits=logits, num_trained=num_trained,
        **{key: array.astype(np.int32) for key, array in arrays.items()},
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=GOLDEN / "peft")
    parser.add_argument("--only", help="names, separated by commas", default="")
    args = parser.parse_args()
    for seed, name in enumerate(ADAPTERS):
        if not args.only or name in args.only.split(","):
            make(args.output, name, seed)


if __name__ == "__main__":
    main()
