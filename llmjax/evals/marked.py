"""Rows of conversations in the terminal, with what is trained marked."""

from collections.abc import Iterable, Iterator

import numpy as np
from rich.console import Console
from rich.text import Text

from llmjax.data.pack import Batch
from llmjax.data.tokenizer import Tokenizer

# kind of token -> (colour on a terminal, signs around it elsewhere)
KINDS = {
    "trained": ("bold black on green", ("[[", "]]")),
    "context": ("default", ("", "")),
    "source": ("cyan", ("", "")),
}


def show(batch: Batch, tokenizer: Tokenizer, console: Console) -> None:
    """Prints the rows of a batch, conversation by conversation."""
    for row in range(len(batch["tokens"])):
        one = {name: array[row] for name, array in batch.items()}
        num = int(one["segment_ids"].max())
        num_trained = int((one["weights"] > 0).sum())
        console.rule(f"row {row}: {num} conversations, {num_trained} trained tokens")
        for segment in range(1, num + 1):
            if segment > 1:
                console.rule(f"conversation {segment}", style="dim")
            console.print(draw(runs(one, segment), tokenizer, console.is_terminal))
        num_padding = int((one["segment_ids"] == 0).sum())
        console.print(f"<{num_padding} x padding>", style="dim")


def runs(row: Batch, segment: int) -> Iterator[tuple[str, list[int]]]:
    """(kind, ids) of one conversation: neighbours of one kind together."""
    where = row["segment_ids"] == segment
    ids, is_trained = row["targets"][where], row["weights"][where] > 0
    if "encoder_tokens" in row:
        yield "source", row["encoder_tokens"][row["encoder_segment_ids"] > 0].tolist()
    else:  # the first token of all is no target
        ids = np.append(row["tokens"][where][:1], ids)
        is_trained = np.append(False, is_trained)
    edges = np.flatnonzero(np.diff(is_trained)) + 1
    parts = zip(np.split(ids, edges), np.split(is_trained, edges), strict=True)
    for part, kinds in parts:
        yield "trained" if kinds[0] else "context", part.tolist()


def draw(
    parts: Iterable[tuple[str, list[int]]], tokenizer: Tokenizer, in_colour: bool
) -> Text:
    """The parts as text; control tokens by name."""
    text = Text()
    for kind, ids in parts:
        style, (before, after) = KINDS[kind]
        if in_colour:
            text.append(tokenizer.decode(ids), style)
        else:
            text.append(before + tokenizer.decode(ids) + after)
    return text
