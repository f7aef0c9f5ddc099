"""Tokens become the words of the text, and attention between tokens that of words."""

import numpy as np
import pytest

from llmjax.data.words import Word, merge, split_words, to_words


@pytest.mark.parametrize(
    "text, words",
    [
        ("Nobel committee", ["Nobel", "committee"]),
        ("  (don't stop,  3.5%!) ", ["(", "don't", "stop", ",", "3.5", "%!)"]),
        ("हिन्दी में…", ["हिन्दी", "में", "…"]),  # their vowel signs are no punctuation
        ("--", ["--"]),
        (" \n", []),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[slice(*span)] for span in split_words(text)] == words


def test_pieces_make_words():
    """`[CLS] who st ##rick ##land . [SEP]`, as BERT has it."""
    text = "who Strickland."
    tokens = ["[CLS]", "who", "st", "##rick", "##land", ".", "[SEP]"]
    offsets = [(0, 0), (0, 3), (4, 6), (6, 10), (10, 14), (14, 15), (0, 0)]
    special = [True, *[False] * 5, True]
    assert to_words(text, tokens, offsets, special) == [
        Word("[CLS]", [0], True),
        Word("who", [1]),
        Word("Strickland", [2, 3, 4]),
        Word(".", [5]),
        Word("[SEP]", [6], True),
    ]


def test_blanks_belong_to_the_next_word_and_the_last_to_the_one_before():
    """A lone `▁`, a space at the head of a token, and spaces after the last word."""
    text = "a  big cat "
    tokens = ["▁", "a", "▁", "▁big", "▁ca", "t", "▁", "</s>"]
    offsets = [(0, 0), (0, 1), (1, 2), (2, 6), (6, 9), (9, 10), (10, 11), (0, 0)]
    special = [False] * 7 + [True]
    assert to_words(text, tokens, offsets, special) == [
        Word("a", [0, 1]),
        Word("big", [2, 3]),
        Word("cat", [4, 5, 6]),
        Word("</s>", [7], True),
    ]


def test_merging_sums_what_is_read_and_averages_who_reads():
    weights_TS = np.array([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25], [0.3, 0.3, 0.4]])
    words = [Word("Strickland", [0, 1]), Word("who", [2])]
    expected = [[(0.3 + 0.75) / 2, (0.7 + 0.25) / 2], [0.6, 0.4]]
    merged = merge(weights_TS[None, None], words, words)
    np.testing.assert_allclose(merged, [[expected]])
    np.testing.assert_allclose(merged.sum(-1), 1)
