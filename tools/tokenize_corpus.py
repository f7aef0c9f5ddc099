"""Tokenizes a corpus once, so that training starts at once.

    python tools/tokenize_corpus.py --output=data/wiki --source='wiki/*.jsonl.gz'
    python tools/tokenize_corpus.py --output=data/code --source=code --tokenizer=DIR

The folder that it makes holds tokenizer.json and the tokens of the train and of the
validation split. Give it to an experiment as --data.source.
"""

from collections.abc import Iterator
from pathlib import Path

from absl import flags as absl_flags
from rich import progress

from llmjax import flags
from llmjax.data.corpus import TextConfig, tokenize
from llmjax.data.sources import size_bytes
from llmjax.data.store import open_store

OUTPUT = absl_flags.DEFINE_string("output", None, "the folder to make", required=True)
text_flags = flags.define("", TextConfig())


def main() -> None:
    cfg, folder = text_flags(), Path(OUTPUT.value)
    if ";" in cfg.source:
        raise ValueError(
            "--source: mixed sources are tokenized one by one, without ';'"
        )
    bar = progress.Progress(
        progress.TextColumn("{task.description:>10}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeElapsedColumn(),
    )

    def watch(texts: Iterator[str], task: str) -> Iterator[str]:
        row = bar.add_task(task, total=_expected_bytes(cfg, task))
        num_bytes = 0
        for text in texts:
            yield text
            num_bytes += len(text.encode())
            bar.update(row, completed=num_bytes)
        bar.update(row, total=num_bytes)

    with bar:
        tokenize(cfg, folder, watch=watch)
    for split in ("train", "validation"):
        meta = open_store(folder / split).meta
        print(
            f"{split}: {meta.num_documents:,} documents, {meta.num_tokens:,} tokens, "
            f"{meta.num_bytes / meta.num_tokens:.2f} bytes per token"
        )
    print(f"train on it with --data.source={folder}")


def _expected_bytes(cfg: TextConfig, task: str) -> float | None:
    """About the text of a split; None, an endless bar, where files are compressed."""
    if task == "tokenizer" or ".gz" in cfg.source or ".parquet" in cfg.source:
        return None
    held_out = cfg.validation_fraction
    share = held_out if task == "validation" else 1 - held_out
    return share * size_bytes(cfg.source)


if __name__ == "__main__":
    flags.run(main)
