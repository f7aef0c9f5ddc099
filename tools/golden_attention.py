"""Writes tests/golden/attention.npz: the attention weights that transformers computes.

    pip install torch transformers
    python tools/golden_attention.py

Of each checkpoint in tests/golden, on its inputs padded on the right: for every layer
[B, N, T, S], by `checkpoint/name` where name is attention_i, or in an encoder-decoder
encoder_attention_i, decoder_attention_i and cross_attention_i.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
CASE = "right/"
KINDS = {
    "attentions": "attention",
    "encoder_attentions": "encoder_attention",
    "decoder_attentions": "decoder_attention",
    "cross_attentions": "cross_attention",
}


def attentions(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The weights by name."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    cls = getattr(transformers, config.architectures[0])
    model = cls.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with np.load(folder / "golden.npz") as file:
        given = {key.removeprefix(CASE): file[key] for key in file if CASE in key}
    inputs = {
        key: torch.from_numpy(value).long()
        for key, value in given.items()
        if key.endswith(("_ids", "_mask"))
    }
    with torch.no_grad():
        result = model.eval()(**inputs, output_attentions=True)
    return {
        f"{name}_{layer}": weights.numpy()
        for kind, name in KINDS.items()
        for layer, weights in enumerate(result.get(kind) or ())
    }


def main() -> None:
    arrays = {}
    for file in sorted(GOLDEN.glob("*/golden.npz")):
        name = file.parent.name
        for key, array in attentions(file.parent).items():
            arrays[f"{name}/{key}"] = array
    np.savez_compressed(GOLDEN / "attention.npz", **arrays)


if __name__ == "__main__":
    main()
