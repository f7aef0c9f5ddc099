"""What a pre-training run says at its start and leaves at its end."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from llmjax import distributed, metrics, report, sharding
from llmjax.config import ModelConfig
from llmjax.data.baselines import compression_baselines
from llmjax.data.corpus import Corpus
from llmjax.train.record import Recorder
from llmjax.train.state import TrainState
from llmjax.train.workdir import versions, write_json

MIB = 2**20
NEXT = """report: {folder}/report.html
next:
  python tools/generate.py --model={folder} --prompt="class Stack:"
  python experiments/pretrain.py --workdir=runs/mine --data.source="FOLDER/*.txt"
  python experiments/pretrain.py --workdir=runs/deeper --model.depth=8"""


def announce(
    folder: Path, config: dict[str, Any], text: Corpus, state: TrainState, mesh: Mesh
) -> None:
    """Says which text is learned; then as `begin`."""
    if distributed.is_first():
        Console(highlight=False, soft_wrap=True).print(
            f"text: {text.num_bytes / MIB:.1f} MiB to learn, "
            f"{text.validation.store.meta.num_bytes / MIB:.2f} MiB held out, "
            f"{config['model'].vocab_size} tokens in the vocabulary, "
            f"rows {text.train.fill:.1%} full"
        )
    begin(folder, config, state, mesh)


def begin(folder: Path, config: dict[str, Any], state: TrainState, mesh: Mesh) -> None:
    """Writes config.json; prints the model, its sharding, and what is resumed."""
    if not distributed.is_first():
        return
    write_json(folder / "config.json", config | {"versions": versions()})
    console = Console(highlight=False, soft_wrap=True)
    cfg: ModelConfig = config["model"]
    size = metrics.count(cfg)
    console.print(
        f"model: {size.total / 1e6:.2f} M parameters ({size.non_embedding / 1e6:.2f} M "
        f"without embeddings), {cfg.num_layers} layers, width {cfg.width}, "
        f"{size.exact / 1e6:.1f} MFLOP per token"
    )
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    table = Table("parameter", "shape", "split over", "KiB per device", box=None)
    for path, shape, split, num_bytes in sharding.table(state.params, mesh):
        table.add_row(path, shape, split, f"{num_bytes / 1024:,.0f}")
    console.print(f"mesh: {axes or 'one device'} ({jax.devices()[0].device_kind})")
    console.print(table)
    if state.step:
        console.print(f"resumed at step {int(state.step)} from {folder}/checkpoints")


def compare(
    folder: Path,
    title: str,
    rows: Sequence[dict[str, Any]],
    samples: Sequence[dict[str, str]],
) -> None:
    """Ends an experiment of several models: summary.json, report.html, the terminal.

    rows: the figures of each, its name under "". samples: texts by who made them.
    """
    write_json(folder / "summary.json", {row[""]: row for row in rows})
    sections = [("Scores", report.table(rows)), ("Samples", report.table(samples))]
    report.write(folder / "report.html", title, sections)
    for sample in samples[:3]:
        print("\n".join(f"{name:>15}: {text}" for name, text in sample.items()), "\n")
    print_table(rows)
    print(f"report: {folder}/report.html")


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Rows by column name, as `report.table` has them, in the terminal."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*names)
    for row in rows:
        table.add_row(*(_short(row.get(name, "")) for name in names))
    Console(highlight=False).print(table)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def finish(
    folder: Path,
    config: dict[str, Any],
    text: Corpus,
    record: Recorder,
    samples: dict[str, list[str]],
    secs: float,
) -> None:
    """Writes summary.json and report.html; prints the figures and what to try next.

    samples: {"before training": texts, "after training": texts}.
    """
    bits = compression_baselines(text.held_out_texts())
    summary = record.summary() | {"secs": secs, "baselines": bits, "samples": samples}
    bits = bits | {"this run": summary["val_bits_per_byte"]}
    bits = sorted(bits.items(), key=lambda item: item[1])
    rows = [{"": name, "bits per byte": f"{value:.3f}"} for name, value in bits]
    sections = [("Held-out text", report.table(rows))]
    for title, texts in samples.items():
        sections.append((f"Samples {title}", "".join(map(report.text_block, texts))))
    write(folder, "Pre-training", config, record, summary, sections)

    console = Console(highlight=False, soft_wrap=True)
    table = Table("held-out text", "bits per byte", box=None)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    for sample in samples["after training"]:
        console.rule(style="dim")
        console.print(sample, markup=False)
    console.rule(style="dim")
    console.print(NEXT.format(folder=folder), markup=False)


def write(
    folder: Path,
    title: str,
    config: dict[str, Any],
    record: Recorder,
    summary: dict[str, Any],
    sections: Sequence[tuple[str, str]],
) -> None:
    """Writes summary.json, and report.html with `sections` (heading, HTML) before the
    curves of the run."""
    write_json(folder / "summary.json", summary)
    losses = [
        curve(record, "loss", "training", "smooth"),
        curve(record, "val_loss", "held out", "marks"),
    ]
    speed = [curve(record, "tokens_per_s", "tokens per second", "line")]
    plain = {name: _plain(value) for name, value in config.items()}
    figures = {k: v for k, v in summary.items() if isinstance(v, int | float)}
    sections = [
        ("Result", report.figures(figures)),
        *sections,
        ("Loss", report.line_chart(losses, x_label="step", y_label="nats")),
        (
            "Speed",
            report.line_chart(speed, x_label="step", y_label="tokens per second"),
        ),
        ("Config", report.key_values(plain)),
    ]
    report.write(folder / "report.html", title, sections)


def curve(record: Recorder, name: str, title: str, style: str) -> report.Series:
    """A figure of the history, by step."""
    lines = [line for line in record.history if name in line]
    steps = [line["step"] for line in lines]
    return report.Series(title, steps, [line[name] for line in lines], style)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
