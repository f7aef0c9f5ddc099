"""Shows what a model would learn of conversations: which tokens are trained.

    python tools/show_batch.py --model=DIR --data.source=chats.jsonl
    python tools/show_batch.py --model=runs/sft --data.source=chats.jsonl --step=3

The batches are those of experiments/sft.py with the same --data.*, --seed and
--batch_size. What is trained is in colour, or in [[ ]] where there is no terminal. A
data set that a model could not learn to answer from is refused, with exit code 1.
"""

from collections.abc import Iterator

import numpy as np
from absl import flags as absl_flags
from rich.console import Console
from rich.text import Text

from llmjax import flags, load
from llmjax.data import chat_corpus, chat_rows
from llmjax.data.batches import Batches
from llmjax.data.pack import Batch
from llmjax.data.tokenizer import Tokenizer
from llmjax.train import outputs

MODEL = absl_flags.DEFINE_string("model", None, "folder, .gguf file or workdir")
DATA = flags.define("data", chat_corpus.ChatConfig())
STEP = absl_flags.DEFINE_integer("step", 0, "which batch", lower_bound=0)
BATCH_SIZE = absl_flags.DEFINE_integer("batch_size", 2, "its rows", lower_bound=1)
SEED = absl_flags.DEFINE_integer("seed", 0, "of the order of rows")

# kind of token -> (colour on a terminal, signs around it elsewhere)
KINDS = {
    "trained": ("bold black on green", ("[[", "]]")),
    "context": ("default", ("", "")),
    "source": ("cyan", ("", "")),
}


def main() -> None:
    if not MODEL.value:
        raise ValueError("--model is needed: a folder, a .gguf file or a workdir")
    cfg, _, tokenizer = load.load(MODEL.value)
    if tokenizer is None:
        raise ValueError(f"{MODEL.value}: no tokenizer.json beside the model")
    own_template = load.chat_template(MODEL.value)
    corpus = chat_corpus.prepare(DATA(), tokenizer, cfg, own_template)
    batch = Batches(corpus.train, BATCH_SIZE.value, SEED.value).batch(STEP.value)
    console = Console(highlight=False, soft_wrap=True)
    show(batch, tokenizer, console)
    print()
    outputs.print_table(
        [
            {"": name} | counts._asdict()
            for name, counts in {
                f"step {STEP.value}": chat_rows.count(batch, corpus.stop_ids),
                "all rows to learn": corpus.counts,
            }.items()
        ]
    )
    outputs.print_table(corpus.tally.rows())


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


def draw(parts, tokenizer: Tokenizer, in_colour: bool) -> Text:
    """The parts as text; control tokens by name."""
    text = Text()
    for kind, ids in parts:
        style, (before, after) = KINDS[kind]
        if in_colour:
            text.append(tokenizer.decode(ids), style)
        else:
            text.append(before + tokenizer.decode(ids) + after)
    return text


if __name__ == "__main__":
    flags.run(main)
