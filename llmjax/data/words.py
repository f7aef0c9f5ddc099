"""Tokens put together to words, to show a reader what a model does with them."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Word(NamedTuple):
    """A word and the tokens it consists of, or a special token."""

    text: str
    tokens: list[int]
    special: bool = False


def to_words(
    text: str,
    tokens: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    special: Sequence[bool],
) -> list[Word]:
    """Tokens put together to the words of the text that their first letters are in.

    A token without a visible letter belongs to the next word, or to the one before the
    end. Special tokens are words of their own.
    """
    spans, words, owner = split_words(text), [], None
    blank: list[int] = []
    for index, (start, stop) in enumerate(offsets):
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        span = next((s for s in spans if s[0] <= start < min(stop, s[1])), None)
        if special[index]:
            _append(words, blank)
            words.append(Word(tokens[index], [index], True))
        elif span is None:
            blank.append(index)
            continue
        elif span == owner:
            words[-1].tokens.extend([*blank, index])
        else:
            words.append(Word(text[slice(*span)], [*blank, index]))
            owner = span
        blank = []
    _append(words, blank)
    return words


def _append(words: list[Word], tokens: list[int]) -> None:
    if words:
        words[-1].tokens.extend(tokens)


def split_words(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are; punctuation at either end of one stands alone."""
    spans = []
    for found in re.finditer(r"\S+", text):
        low, high = found.span()
        start, stop = low, high
        while start < stop and _is_sign(text[start]):
            start += 1
        while stop > start and _is_sign(text[stop - 1]):
            stop -= 1
        spans += [s for s in ((low, start), (start, stop), (stop, high)) if s[0] < s[1]]
    return spans


def _is_sign(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"


def merge(weights: np.ndarray, queries: list[Word], keys: list[Word]) -> np.ndarray:
    """[L, N, T, S] of tokens to [L, N, Q, K] of words; rows still sum to 1."""
    columns = [weights[..., word.tokens].sum(-1) for word in keys]
    weights = np.stack(columns, axis=-1)
    rows = [weights[..., word.tokens, :].mean(-2) for word in queries]
    return np.stack(rows, axis=-2)
