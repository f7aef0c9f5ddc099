"""What is trained is marked, on a terminal and elsewhere."""

from pathlib import Path

import numpy as np
from rich.console import Console

from llmjax.data.tokenizer import load_tokenizer
from llmjax.evals import marked

GOLDEN = Path(__file__).parents[1] / "golden" / "sft"


def test_colours_and_sources():
    """On a terminal, and for an encoder-decoder."""
    tokenizer = load_tokenizer(GOLDEN)
    source, target = tokenizer.encode("Why?"), tokenizer.encode("Because.")
    one = np.ones((1, len(target)), np.int32)
    batch = {
        "tokens": np.array([target]), "targets": np.array([target]),
        "weights": one.astype(np.float32), "segment_ids": one,
        "encoder_tokens": np.array([source]),
        "encoder_segment_ids": np.ones((1, len(source)), np.int32),
    }  # fmt: skip
    console = Console(force_terminal=True, color_system="standard", width=60)
    with console.capture() as capture:
        marked.show(batch, tokenizer, console)
    out = capture.get()
    assert "\x1b[36mWhy?\x1b[0m\x1b[1;30;42mBecause.\x1b[0m" in out and "[[" not in out
