"""Pairs are read as they stand side by side, and become rows of both forms."""

import dataclasses

import numpy as np
import pytest

from llmjax.data import pairs
from llmjax.data.batches import Batches, eval_batches
from llmjax.data.held_out import count_leaks, normalise, split
from llmjax.data.pairs import Pair, SequencePairs
from tests import assets

ENGLISH = """<html><p dir="auto">Menu</p>
<h1 id="hd_1">Title</h1>
<p id="par_1" class="paragraph" dir="auto"><a name="x"></a>Choose <span
class="menuitem">File &gt; Open</span>,<br>and press <span id="s" class="switchinline">
<span hidden="true" id="MAC1" class="MAC"><span>Command</span></span>
<span hidden="true" id="default1">Ctrl</span></span>+<span>O</span>&nbsp;twice.</p>
<p id="par_2">Only here</p> <p id="par_3"><img src="a"></p> <p id="par_4">42</p>
<p id="par_5">print the same five words</p></html>"""
FRENCH = """<html><p id="par_5">print the same five words</p><p id="par_4">42</p>
<p id="par_3">rien</p>
<p id="par_1">Choisissez Fichier &gt; Ouvrir, et pressez deux fois
<span hidden="true" id="MAC1">Commande</span><span hidden="true" id="d">Ctrl</span>+O.
</p></html>"""
OPEN = Pair(
    "Choose File > Open, and press Ctrl+O twice.",
    "Choisissez Fichier > Ouvrir, et pressez deux fois Ctrl+O.",
)
SAME = Pair("print the same five words", "print the same five words")


def write_help(folder, **pages):
    for name, text in pages.items():
        path = folder / "text" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_help_is_matched_by_file_and_paragraph(tmp_path):
    source = write_help(tmp_path / "en", a=ENGLISH, b=ENGLISH, c=ENGLISH)
    target = write_help(tmp_path / "fr", a=FRENCH, b=FRENCH, d=FRENCH)
    assert pairs.read_help(source, target) == [OPEN, Pair("42", "42"), SAME] * 2
    with pytest.raises(FileNotFoundError, match="no page of help in common"):
        pairs.read_help(source, tmp_path / "none")


def test_libreoffice_keeps_each_translated_sentence_once(tmp_path, monkeypatch):
    def fetch(package):
        name = {"en-us": "en-US", "fr": "fr"}[package.removeprefix("libreoffice-help-")]
        page = ENGLISH if name == "en-US" else FRENCH
        write_help(tmp_path / package / pairs.HELP / name, a=page, b=page)
        return tmp_path / package

    monkeypatch.setattr(pairs, "fetch_debian", fetch)
    assert pairs.libreoffice() == [OPEN]
    assert pairs.libreoffice(min_words=8) == [OPEN]
    assert pairs.libreoffice(min_words=9) == []


@pytest.mark.assets
def test_the_real_help():
    for name in ("en-us", "fr"):
        assets.fetch_debian(f"libreoffice-help-{name}")
    found = pairs.libreoffice()
    assert 20_000 < len(found) < 26_000 and len(set(found)) == len(found)
    assert (
        "Choose File - Wizards - Document Converter to start the wizard.",
        "Pour lancer l'assistant, choisissez Fichier - Assistants - Convertisseur de "
        "documents.",
    ) in found
    assert not any("<span" in text for pair in found for text in pair)

    def key(pair):
        return normalise(pair.source)

    sides = split(found, key)
    assert count_leaks(sides.train, sides.test, key) == 0
    assert len(sides.test) > 900 and len(sides.validation) > 900
    naive = split(found, lambda pair: "\t".join(pair))
    assert count_leaks(naive.train, naive.test, key) > 10


def test_aligned_files(tmp_path):
    (tmp_path / "a.en").write_text("one\n\n two \r\nthree\x85 and four\n")
    (tmp_path / "a.fr").write_text("un\nrien\ndeux\ntrois\x85 et quatre")
    found = pairs.read_aligned(tmp_path / "a.en", tmp_path / "a.fr")
    assert found == [
        ("one", "un"),
        ("two", "deux"),
        ("three\x85 and four", "trois\x85 et quatre"),
    ]


def test_files_that_are_not_aligned_are_refused(tmp_path):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.fr").write_text("un\ndeux\ntrois\n")
    with pytest.raises(ValueError, match=r"a\.en has 2 lines but .*a\.fr has 3"):
        pairs.read_aligned(tmp_path / "a.en", tmp_path / "a.fr")
    (tmp_path / "b.fr").write_text("\n\n")
    with pytest.raises(ValueError, match=r"a\.en and .*b\.fr: no pair"):
        pairs.read_aligned(tmp_path / "a.en", tmp_path / "b.fr")
    with pytest.raises(FileNotFoundError, match=r"c\.fr"):
        pairs.read_aligned(tmp_path / "a.en", tmp_path / "c.fr")


@dataclasses.dataclass
class Letters:
    """a is 1, b is 2 ..; the end is 30."""

    eos_id: int | None = 30
    bos_id: int | None = None

    def encode(self, text):
        return [ord(letter) - 96 for letter in text]


def make(found, bos_id=None, **kwargs):
    kwargs = {"source_tokens": 4, "target_tokens": 3, **kwargs}
    return SequencePairs(found, Letters(bos_id=bos_id), **kwargs)


def test_rows_for_an_encoder_and_a_decoder():
    batch = make([Pair("ab", "cd"), Pair("abc", "e")], bos_id=29).rows([1, 0])
    expected = {
        "encoder_tokens": [[1, 2, 3, 30], [1, 2, 30, 0]],
        "encoder_segment_ids": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "encoder_positions": [[0, 1, 2, 3], [0, 1, 2, 0]],
        "tokens": [[29, 5, 0], [29, 3, 4]],
        "targets": [[5, 30, 0], [3, 4, 30]],
        "weights": [[1, 1, 0], [1, 1, 1]],
        "segment_ids": [[1, 1, 0], [1, 1, 1]],
        "positions": [[0, 1, 0], [0, 1, 2]],
    }
    assert batch.keys() == expected.keys()
    for name, rows in expected.items():
        assert batch[name].tolist() == rows, name
        wanted = np.float32 if name == "weights" else np.int32
        assert batch[name].dtype == wanted, name


def test_rows_for_a_decoder_alone():
    batch = make([Pair("ab", "cd"), Pair("abc", "e")], bos_id=29, joined=True).rows(
        np.array([0, 1])
    )
    expected = {
        "tokens": [[1, 2, 29, 3, 4, 0, 0], [1, 2, 3, 29, 5, 0, 0]],
        "targets": [[2, 29, 3, 4, 30, 0, 0], [2, 3, 29, 5, 30, 0, 0]],
        "weights": [[0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]],
        "segment_ids": [[1, 1, 1, 1, 1, 0, 0]] * 2,
        "positions": [[0, 1, 2, 3, 4, 0, 0]] * 2,
    }
    assert batch.keys() == expected.keys()
    for name, rows in expected.items():
        assert batch[name].tolist() == rows, name


def test_both_forms_count_the_same_targets():
    found = [Pair("abc"[:n], "dc"[:m]) for n in range(4) for m in range(3)]
    for bos_id in (None, 29):
        forms = make(found, bos_id), make(found, bos_id, joined=True)
        counted = []
        for form in forms:
            batch = form.rows(range(len(form)))
            counted.append(
                [
                    row[weights > 0].tolist()
                    for row, weights in zip(
                        batch["targets"], batch["weights"], strict=True
                    )
                ]
            )
        assert counted[0] == counted[1]
        letters = Letters()
        assert counted[0] == [[*letters.encode(pair.target), 30] for pair in found]


def test_long_pairs_are_dropped_and_counted():
    found = [("abc", "ab"), ("abcd", "a"), ("a", "abc"), ("", "")]
    kept = make(found)
    assert kept.pairs == [("abc", "ab"), ("", "")] and kept.num_dropped == 2
    assert len(kept) == 2
    with pytest.raises(ValueError, match="none of 1 pairs is shorter than 4 tokens"):
        make(found[1:2])
    with pytest.raises(ValueError, match="no end-of-text"):
        SequencePairs(found, Letters(None), source_tokens=4, target_tokens=3)


def test_batches_are_a_function_of_seed_step_and_row():
    found = [Pair(chr(97 + n), chr(97 + n)) for n in range(10)]
    whole = Batches(make(found), 4, seed=3)
    halves = [
        Batches(make(found), 4, seed=3, process_index=i, process_count=2)
        for i in range(2)
    ]
    seen = []
    for step in range(5):
        rows = whole.batch(step)
        for name in rows:
            parts = np.concatenate([half.batch(step)[name] for half in halves])
            np.testing.assert_array_equal(parts, rows[name])
        np.testing.assert_array_equal(
            rows["encoder_tokens"][:, 0], rows["targets"][:, 0]
        )
        seen += rows["targets"][:, 0].tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(1, 11))
    assert seen[:10] != seen[10:]
    prints = [make(found), make(found, joined=True), make(found[1:]), make(found, 29)]
    prints += [make(found, source_tokens=5), make(found, target_tokens=5)]
    assert len({one.fingerprint for one in prints}) == len(prints)
    assert make(found).fingerprint == prints[0].fingerprint


@pytest.mark.parametrize("joined", [False, True])
def test_evaluation_goes_over_all_pairs(joined):
    found = [Pair(chr(97 + n), "ab"[: n % 3]) for n in range(10)]
    batches = list(eval_batches(make(found, joined=joined), 4, np.ones(31, np.int32)))
    assert len(batches) == 3
    weights = sum(batch["weights"].sum() for batch in batches)
    assert weights == sum(len(pair.target) + 1 for pair in found)
