"""From a config to texts with labels, split by use, and to rows of tokens with them."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from llmjax.config import field
from llmjax.data import labelled
from llmjax.data.held_out import Splits
from llmjax.data.labelled import Labelled
from llmjax.data.pack import Batch
from llmjax.data.pairs import padded
from llmjax.data.shuffle import shuffled
from llmjax.data.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class LabelConfig:
    """Which texts are told apart, and how much of each is read."""

    file: str = field("", "a .csv, .tsv or .jsonl; empty: rotten tomatoes' reviews")
    text_column: str = field("text", "of that file: what is read")
    label_column: str = field("label", "of that file: what is to be told")
    group_column: str = field("", "texts with the same value are not split up, if any")
    max_tokens: int = field(48, "of a longer text the rest is not read")
    vocab_size: int = field(4096, "of the BPE, where no tokenizer comes with a model")


def prepare(cfg: LabelConfig) -> Splits:
    """The examples of `cfg`: train, validation and test."""
    if not cfg.file:
        return labelled.split_labelled(labelled.rotten_tomatoes())
    examples = labelled.read_labelled(
        cfg.file, text_column=cfg.text_column, label_column=cfg.label_column,
        group_column=cfg.group_column,
    )  # fmt: skip
    return labelled.split_labelled(examples)


def in_tokens(sides: Splits, tokenizer: Tokenizer, context: int) -> Splits:
    """Each side as `LabelledRows`; their labels are those of all sides."""
    labels = sorted({example.label for side in sides for example in side})
    return Splits(*(LabelledRows(side, labels, tokenizer, context) for side in sides))


class LabelledRows:
    """Texts as rows of `context` tokens, each with the number of its label.

    labels: class c is labels[c].
    """

    def __init__(
        self,
        examples: Sequence[Labelled],
        labels: Sequence[str],
        tokenizer: Tokenizer,
        context: int,
    ):
        self.examples, self.labels, self.context = examples, labels, context
        numbers = {label: number for number, label in enumerate(labels)}
        self.classes = np.array([numbers[e.label] for e in examples], np.int32)
        self.ids = tokenizer.encode_framed([e.text for e in examples], context)

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.ids)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        text = repr((self.context, self.ids, self.classes.tolist()))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """These texts: "tokens", "segment_ids" and "positions", each [texts, context],
        and "class_B" and "weight_B", each [texts]; the weights are 1."""
        batch = padded([self.ids[index] for index in indices], self.context)
        weight_B = np.ones(len(indices), np.float32)
        return batch | {"class_B": self.classes[indices], "weight_B": weight_B}
