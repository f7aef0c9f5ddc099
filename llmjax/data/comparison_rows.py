"""Comparisons as rows: all answers to a prompt are one example, as in InstructGPT.

So the pairs that share an answer are learned from in the same step, and no answer is
read twice (Ouyang et al. 2022, section 3.5).
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llmjax.data import chat, template
from llmjax.data.comparisons import Comparison, Messages, text_of
from llmjax.data.pack import Batch
from llmjax.data.shuffle import shuffled
from llmjax.data.template import Piece
from llmjax.data.tokenizer import Tokenizer

ROUND_TOKENS = 8  # rows are as long as the longest answer, rounded up to this
UNBOUNDED = 2**30  # more tokens than any text has


class Answer(NamedTuple):
    """A prompt with an answer, in tokens; the first `num_prompt` are the prompt's."""

    ids: list[int]
    num_prompt: int

    @property
    def num_tokens(self) -> int:
        """Of the answer alone."""
        return len(self.ids) - self.num_prompt


class Example(NamedTuple):
    """A comparison, and its answers in tokens."""

    comparison: Comparison
    answers: list[Answer]


class Scribe:
    """Writes conversations as a reward model reads them, up to the last answer's end.

    form: the chat template, whose text ends with the token that ends an answer; None is
      for encoders, whose tokenizer puts its frame around the texts.
    write: what makes pieces of conversations, as `template.Renderer.write`.
    """

    def __init__(
        self, tokenizer: Tokenizer, form: str | None, write: Callable | None = None
    ):
        self.tokenizer, self.form = tokenizer, form
        self._write = write or self._write_here
        self._stop_ids = () if form is None else chat.stop_ids(tokenizer, form)

    def encode(self, talks: Sequence[Messages]) -> list[Answer | ValueError]:
        """Each conversation in tokens, or why it cannot be."""
        if self.form is None:
            return list(map(self._frame, talks))
        return [
            found if isinstance(found, ValueError) else self._encode(found)
            for found in self._write(talks)
        ]

    def _write_here(self, talks: Sequence[Messages]) -> list[list[Piece] | ValueError]:
        names = chat.names(self.tokenizer)
        return [template.write(self.form, talk, **names) for talk in talks]

    def _encode(self, pieces: list[Piece]) -> Answer | ValueError:
        ids, is_trained = chat.encode_pieces(self.tokenizer, pieces)
        edges = np.flatnonzero(np.diff(is_trained, prepend=False, append=False))
        if not len(edges):
            return ValueError("the chat template writes no answer")
        first, end = map(int, edges[-2:])
        stops = [at for at in range(first, end) if ids[at] in self._stop_ids]
        return Answer(ids[: stops[-1] + 1 if stops else end], first)

    def _frame(self, talk: Messages) -> Answer:
        whole, prompt = self.tokenizer.encode_framed(
            [text_of(talk), text_of(talk[:-1])], UNBOUNDED
        )
        return Answer(whole, len(prompt) - 1)

    def cut(self, answer: Answer, context: int) -> Answer:
        """The answer in so many tokens; a frame is kept. ValueError: none is left."""
        if answer.num_prompt >= context:
            raise ValueError(
                "prompt longer than the context: "
                f"{answer.num_prompt} tokens, and room for {context}"
            )
        if len(answer.ids) <= context:
            return answer
        end = answer.ids[-1:] if self.form is None else []
        return Answer(answer.ids[: context - len(end)] + end, answer.num_prompt)


class ComparisonRows:
    """Comparisons as rows of `num_answers` answers, each of `num_tokens` tokens."""

    def __init__(self, examples: Sequence[Example], num_answers: int, num_tokens: int):
        self.examples = examples
        self.num_answers, self.num_tokens = num_answers, num_tokens

    def __len__(self) -> int:
        """The number of rows, which is an epoch."""
        return len(self.examples)

    def ids(self) -> list[list[int]]:
        """The tokens of all answers, example by example."""
        return [one.ids for _, answers in self.examples for one in answers]

    @property
    def lengths(self) -> tuple[int]:
        """The tokens of a row: of all its answers."""
        return (self.num_answers * self.num_tokens,)

    @property
    def fingerprint(self) -> str:
        """Equal where every row is; in hexadecimal."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.num_answers, self.num_tokens)).encode())
        for (_, _, _, ranks, margin, _), answers in self.examples:
            digest.update(repr(([a.ids for a in answers], ranks, margin)).encode())
        return digest.hexdigest()

    def take(self, indices: np.ndarray, seed: int) -> Batch:
        """Rows of the endless sequence of epochs, each epoch in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> Batch:
        """These comparisons as a batch, B = len(indices) and A = num_answers.

        "tokens_BAT" and "segments_BAT" (0 is padding); "rank_BA", 0 where there is no
        answer; "margin_B".
        """
        tokens_BAT = np.zeros(
            (len(indices), self.num_answers, self.num_tokens), np.int32
        )
        segments_BAT = np.zeros_like(tokens_BAT)
        segments_BAT[..., 0] = 1  # no row is without a token: its softmax is of some
        rank_BA = np.zeros(tokens_BAT.shape[:2], np.int32)
        margin_B = np.zeros(len(indices), np.float32)
        for row, index in enumerate(indices):
            comparison, answers = self.examples[index]
            for number, answer in enumerate(answers):
                tokens_BAT[row, number, : len(answer.ids)] = answer.ids
                segments_BAT[row, number, : len(answer.ids)] = 1
            rank_BA[row, : len(answers)] = comparison.ranks
            margin_B[row] = comparison.margin
        return {
            "tokens_BAT": tokens_BAT, "segments_BAT": segments_BAT, "rank_BA": rank_BA,
            "margin_B": margin_B,
        }  # fmt: skip


def round_up(num_tokens: int) -> int:
    """The next multiple of ROUND_TOKENS."""
    return -(-num_tokens // ROUND_TOKENS) * ROUND_TOKENS
