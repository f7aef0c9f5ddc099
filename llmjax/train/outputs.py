"""What a pre-training run says at its start and leaves at its end."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from llmjax import metrics, report, sharding
from llmjax.config import ModelConfig
from llmjax.data.corpus import Corpus
from llmjax.train.workdir import versions, write_json
from llmjax.types import Params

MIB = 2**20


def announce(
    folder: Path,
    config: dict[str, Any],
    text: Corpus,
    params: Params,
    mesh: jax.sharding.Mesh,
    start: int,
) -> None:
    """Writes config.json; prints the text, the model, and where each parameter lies."""
    write_json(folder / "config.json", config | {"versions": versions()})
    console = Console(highlight=False, soft_wrap=True)
    cfg: ModelConfig = config["model"]
    size = metrics.count(cfg)
    console.print(
        f"text: {text.num_bytes / MIB:.1f} MiB to learn, "
        f"{text.validation.store.meta.num_bytes / MIB:.2f} MiB held out, "
        f"{cfg.vocab_size} tokens in the vocabulary"
    )
    console.print(
        f"model: {size.total / 1e6:.2f} M parameters ({size.non_embedding / 1e6:.2f} M "
        f"without embeddings), {cfg.num_layers} layers, width {cfg.width}, "
        f"{size.exact / 1e6:.1f} MFLOP per token"
    )
    axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1)
    table = Table("parameter", "shape", "split over", "KiB per device", box=None)
    for path, shape, split, num_bytes in sharding.table(params, mesh):
        table.add_row(path, shape, split, f"{num_bytes / 1024:,.0f}")
    console.print(f"mesh: {axes or 'one device'} ({jax.devices()[0].device_kind})")
    console.print(table)
    if start:
        console.print(f"resumed from step {start} in {folder}")


def finish(
    folder: Path,
    config: dict[str, Any],
    history: list[dict],
    summary: dict[str, float],
    baselines: dict[str, float],
    samples: dict[str, list[str]],
) -> None:
    """Writes summary.json and report.html; prints the figures and what to try next.

    baselines: bits per byte of compressors on the held-out text.
    samples: {"before training": texts, "after training": texts}.
    """
    write_json(folder / "summary.json", summary | {"baselines": baselines})
    ours = {"llmjax (this run)": summary["val_bits_per_byte"]}
    bits = dict(sorted((baselines | ours).items(), key=lambda item: item[1]))
    rows = [{"held-out text": k, "bits per byte": round(v, 3)} for k, v in bits.items()]
    _write_report(folder / "report.html", config, history, summary, rows, samples)
    console = Console(highlight=False, soft_wrap=True)
    table = Table("held-out text", "bits per byte", box=None)
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    for text in samples["after training"]:
        console.rule(style="dim")
        console.print(text, markup=False)
    console.rule(style="dim")
    console.print(f"report: {folder}/report.html")
    console.print(
        "next:\n"
        f'  python tools/generate.py --model={folder} --prompt="class Stack:"\n'
        "  python experiments/pretrain.py --workdir=runs/mine "
        '--data.source="FOLDER/*.txt"\n'
        "  python experiments/pretrain.py --workdir=runs/deeper --model.depth=8",
        markup=False,
    )


def _write_report(path: Path, config, history, summary, bits, samples) -> None:
    def curve(name: str, title: str, style: str) -> report.Series:
        lines = [line for line in history if name in line]
        steps = [line["step"] for line in lines]
        return report.Series(title, steps, [line[name] for line in lines], style)

    losses = [
        curve("loss", "training", "smooth"), curve("val_loss", "held out", "marks")
    ]  # fmt: skip
    speed = [curve("tokens_per_s", "tokens per second", "line")]
    sections = [
        ("Result", report.figures(summary)),
        ("Held-out text", report.table(bits)),
        ("Loss", report.line_chart(losses, x_label="step", y_label="nats per token")),
        (
            "Speed",
            report.line_chart(speed, x_label="step", y_label="tokens per second"),
        ),
    ]
    for title, texts in samples.items():
        sections.append((f"Samples {title}", "".join(map(report.text_block, texts))))
    plain = {name: _plain(value) for name, value in config.items()}
    sections.append(("Config", report.key_values(plain)))
    report.write(path, "Pre-training", sections)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
