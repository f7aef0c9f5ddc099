"""The folder of a sweep: its tokens, its settings, and what its runs came to."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmjax import checkpoint, metrics
from llmjax.config import ModelConfig
from llmjax.data import corpus
from llmjax.data.tokenizer import load_tokenizer
from llmjax.scaling.sweep import Cell
from llmjax.train.workdir import as_json, write_json


def tokenize(cfg: corpus.TextConfig, folder: Path) -> int:
    """Puts the text into `folder`/data, tokenized once for all runs; the vocabulary."""
    if not (folder / "data").exists():
        print(f"tokenizing {cfg.source}", flush=True)
        corpus.tokenize(cfg, folder / "data")
    return load_tokenizer(folder / "data" / "tokenizer.json").vocab_size


@contextlib.contextmanager
def under_settings(folder: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Raises ValueError if the runs in the folder were made under other settings.

    Budgets and sizes are none of them: a grid may grow. Inside, the data are made
    ready; a new folder whose data turn out bad is left without settings or data.
    """
    path, settings = folder / "settings.json", as_json(settings)
    is_new = not path.exists()
    if is_new:
        write_json(path, settings)
    lines = checkpoint.compare_config(json.loads(path.read_text()), settings)
    if lines:
        raise ValueError(
            f"{folder} holds runs with other settings; name another --workdir: "
            + "; ".join(lines)
        )
    try:
        yield
    except (ValueError, OSError):
        if is_new:
            path.unlink()
            shutil.rmtree(folder / "data", ignore_errors=True)
        raise


def losses(cells: Sequence[Cell], folder: Path) -> dict[str, float]:
    """Final held-out losses of the cells that are done, by id."""
    return {line["id"]: line["loss"] for line in records(cells, folder)}


def records(cells: Sequence[Cell], folder: Path) -> list[dict[str, Any]]:
    """A line of runs.jsonl for each cell that is done."""
    return [
        _record(cell, folder / "cells" / cell.id)
        for cell in cells
        if (folder / "cells" / cell.id / "summary.json").is_file()
    ]


def _record(cell: Cell, folder: Path) -> dict[str, Any]:
    """The run under every count of parameters and of FLOPs, as it was in truth."""
    config = json.loads((folder / "config.json").read_text())
    summary = json.loads((folder / "summary.json").read_text())
    model = ModelConfig.from_json(config["model"])
    count = metrics.count(model)
    tokens = config["num_steps"] * config["train"]["batch_size"] * model.context
    return {
        "id": cell.id, "size": cell.size, "seed": config["seed"],
        "lr": config["optim"]["lr"], "num_steps": config["num_steps"],
        "N": count.total, "N_non_embedding": count.non_embedding, "D": tokens,
        "C": count.six_total * tokens, "C_exact": count.exact_causal * tokens,
        "loss": summary["val_loss"], "bits_per_byte": summary["val_bits_per_byte"],
        "secs": summary["secs"],
    }  # fmt: skip


def write_runs(cells: Sequence[Cell], folder: Path) -> Path:
    """Writes runs.jsonl anew: all that is done, a line each, whole or not at all."""
    path = folder / "runs.jsonl"
    lines = (json.dumps(line) + "\n" for line in records(cells, folder))
    path.with_suffix(".tmp").write_text("".join(lines))
    os.replace(path.with_suffix(".tmp"), path)
    return path


def curve(cell: Cell, folder: Path) -> list[dict[str, float]]:
    """The logged steps of a run."""
    path = folder / "cells" / cell.id / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]
