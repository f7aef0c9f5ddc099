"""Pairs with two right translations, in the rows of each structure."""

import numpy as np
import pytest

from llmjax.data.codebooks import Codebooks
from llmjax.data.hmm_rows import STRUCTURES, make_ids

IDS = make_ids(12, 64)


def test_a_target_is_the_source_backwards_in_one_codebook():
    pairs = Codebooks("decoder", IDS, 5)
    sources, targets = pairs.pairs(np.arange(400), 3)
    for book in pairs.books:
        assert sorted(book) == list(range(12))
    assert (pairs.books[0] != pairs.books[1]).all()
    in_book = [
        [book[s] for s in reversed(source)] == target.tolist()
        for source, target in zip(sources, targets, strict=True)
        for book in pairs.books
    ]
    counts = np.reshape(in_book, (-1, 2)).sum(axis=0)
    assert counts.sum() == 400 and abs(counts[0] - 200) < 40  # 4 standard errors
    right = (pairs.translations(sources) == targets).all(axis=2).any(axis=0)
    assert right.all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_rows(structure):
    pairs = Codebooks(structure, IDS, 5)
    sources, targets = pairs.pairs(np.arange(8), 3)
    batch = pairs.take(np.arange(8), 3)
    is_asked = batch["weights"] > 0
    np.testing.assert_array_equal(batch["targets"][is_asked], targets.ravel())
    if structure == "encoder-decoder":
        np.testing.assert_array_equal(batch["encoder_tokens"], sources)
        lengths = (batch["tokens"].shape[1], sources.shape[1])
    else:
        np.testing.assert_array_equal(batch["tokens"][:, :5], sources)
        lengths = (batch["tokens"].shape[1],)
    assert lengths == pairs.lengths
    if structure == "encoder":
        assert (batch["tokens"][:, 5:] == IDS.mask).all()
    else:  # each target is told from those before it
        np.testing.assert_array_equal(batch["tokens"][:, -4:], targets[:, :-1])
        assert (batch["tokens"][:, -5] == IDS.end).all()


def test_rows_depend_on_seed_and_part_only():
    pairs, other = Codebooks("decoder", IDS, 5), Codebooks("decoder", IDS, 5, part=1)
    sources, _ = pairs.pairs(np.arange(50), 3)
    np.testing.assert_array_equal(pairs.pairs([7, 4], 3)[0], sources[[7, 4]])
    for unlike in (pairs.pairs(np.arange(50), 4), other.pairs(np.arange(50), 3)):
        assert (unlike[0] != sources).any(axis=1).sum() > 45
    assert pairs.fingerprint != other.fingerprint
