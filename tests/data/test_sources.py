"""Every kind of file is read, always in one order; every bad one is named."""

import gzip
import json
import subprocess
import sys

import pytest

from llmjax.data import sources
from llmjax.data.sources import documents


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)


def write_records(path, records):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def fails(spec, *words, error=ValueError, **kwargs):
    """Reading `spec` raises one line that holds all the words."""
    with pytest.raises(error) as caught:
        list(documents(str(spec), **kwargs))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def test_text_files_are_documents_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("third")
    (tmp_path / "b.txt").write_text("second\r\n")  # line ends are kept
    (tmp_path / "a.md").write_text("first é")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "ignored.csv").write_text("1,2")
    assert list(documents(str(tmp_path))) == ["first é", "second\r\n", "third"]
    pattern = f"{tmp_path}/**/*.txt"
    assert list(documents(pattern)) == ["second\r\n", "third"]
    spec = f"{tmp_path}/sub/a.txt, {tmp_path}/a.md"  # a list keeps its own order
    assert list(documents(spec)) == ["third", "first é"]


def test_records_of_every_kind_give_the_same_documents(tmp_path):
    texts = ["one\ntwo", "drei ß", "四"]
    write_jsonl(tmp_path / "a.jsonl", [{"text": text, "n": 1} for text in texts])
    packed = gzip.compress((tmp_path / "a.jsonl").read_bytes())
    (tmp_path / "b.jsonl.gz").write_bytes(packed)
    assert list(documents(f"{tmp_path}/a.jsonl")) == texts
    assert list(documents(f"{tmp_path}/b.jsonl.gz")) == texts
    write_parquet(tmp_path / "c.parquet", {"body": texts, "n": [1, 2, 3]})
    assert list(documents(f"{tmp_path}/c.parquet", column="body")) == texts
    write_records(tmp_path / "d.array_record", [text.encode() for text in texts])
    assert list(documents(f"{tmp_path}/d.array_record")) == texts


def test_one_text_file_is_cut_into_passages_that_join_to_the_file(tmp_path):
    lines = [f"line {n}" + "\n" * (1 + (n % 7 == 0)) for n in range(12_000)]
    text = "".join(lines)
    (tmp_path / "input.txt").write_text(text)
    found = list(documents(f"{tmp_path}/input.txt"))
    # 122,605 bytes: passages of a 64th, each prolonged to the next blank line.
    assert "".join(found) == text and 60 <= len(found) <= 64
    assert all(passage.endswith("\n\n") for passage in found[:-1])
    train = list(documents(f"{tmp_path}/input.txt", split="train"))
    validation = list(documents(f"{tmp_path}/input.txt", split="validation"))
    assert len(validation) >= 1 and sorted(train + validation) == sorted(found)


def test_lines_without_blank_ones_are_cut_too(tmp_path):
    (tmp_path / "input.txt").write_text("0123456789\n" * 20_000)
    found = list(documents(f"{tmp_path}/input.txt"))
    assert "".join(found) == "0123456789\n" * 20_000
    assert max(map(len, found)) < 2**16 + 11


@pytest.mark.parametrize("number", [2, 3, 50, 400])
def test_the_split_is_exact_and_knows_only_the_text(tmp_path, number):
    texts = [f"document {n}" for n in range(number)]
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    write_jsonl(tmp_path / "b.jsonl", [{"text": text} for text in reversed(texts)])

    def read(name, split, fraction=0.02):
        path = str(tmp_path / name)
        return list(documents(path, split=split, validation_fraction=fraction))

    train, validation = read("a.jsonl", "train"), read("a.jsonl", "validation")
    assert sorted(train + validation) == sorted(texts)
    assert train and 1 <= len(validation) <= max(1, 0.06 * number)
    assert set(read("b.jsonl", "validation")) == set(validation)
    assert set(validation) <= set(read("a.jsonl", "validation", fraction=0.2)) or (
        number < 50
    )


def test_the_standard_library_is_large_and_always_the_same():
    digest = (
        "import hashlib, llmjax.data.sources as s; "
        "h = hashlib.blake2b(); "
        "[h.update(t.encode()) for t in s.documents('stdlib', split='validation')]; "
        "print(h.hexdigest())"
    )
    runs = [subprocess.check_output([sys.executable, "-c", digest]) for _ in range(2)]
    assert runs[0] == runs[1]
    assert sources.size_bytes("stdlib") > 8e6  # some systems leave out its tests
    assert not any("site-packages" in file for file in sources._find_stdlib())


def test_missing_files_are_named(tmp_path):
    fails(tmp_path / "no.txt", tmp_path / "no.txt", error=FileNotFoundError)
    fails(tmp_path / "*.jsonl", tmp_path / "*.jsonl", error=FileNotFoundError)
    fails(tmp_path, tmp_path, "known", error=FileNotFoundError)  # an empty folder
    fails(",", "no file")


def test_unknown_kinds_are_refused(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    fails(tmp_path / "a.docx", "a.docx", ".jsonl")


def test_empty_corpora_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n")
    fails(tmp_path / "a.txt", "a.txt", "no text")
    (tmp_path / "b.txt").write_text("only one")
    fails(tmp_path / "b.txt", "b.txt", "train", split="train")


def test_torn_gzip_is_named(tmp_path):
    noise = "".join(chr(33 + n * n % 90) for n in range(100_000))
    whole = gzip.compress(noise.encode())
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    fails(tmp_path / "a.txt.gz", "a.txt.gz", "gzip")
    (tmp_path / "b.txt.gz").write_bytes(b"not gzip at all")
    fails(tmp_path / "b.txt.gz", "b.txt.gz", "gzip")
    for where in (10, len(whole) // 2):  # in the code tables, in the text
        damaged = bytearray(whole)
        damaged[where] ^= 0xFF
        (tmp_path / "c.txt.gz").write_bytes(bytes(damaged))
        fails(tmp_path / "c.txt.gz", "c.txt.gz", "gzip")


@pytest.mark.parametrize("where", [5, 40_000])  # the second lies in a later passage
def test_invalid_utf8_is_found_to_the_byte(tmp_path, where):
    raw = bytearray(b"some words\n\n" * 5_000)
    raw[where] = 0xFF
    (tmp_path / "a.txt").write_bytes(bytes(raw))
    fails(tmp_path / "a.txt", "a.txt", f"byte {where}")
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "x"}\n{"text": "\xff"}\n')
    fails(tmp_path / "b.jsonl", "b.jsonl", "byte 24")


def test_bad_jsonl_is_named_by_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n\n{"text": \n')
    fails(path, f"{path}:3")
    path.write_text('{"text": "x"}\n[1]\n')
    fails(path, f"{path}:2", "object")
    path.write_text('{"body": "x", "id": 1}\n')
    fails(path, f"{path}:1", "'text'", "body, id")
    path.write_text('{"text": 3}\n')
    fails(path, f"{path}:1", "not a string")
    path.write_text('{"text": "\\ud800"}\n')
    fails(path, f"{path}:1", "UTF-8")


def test_bad_parquet_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, {"body": ["x"], "id": [1]})
    fails(path, path, "'text'", "body, id")
    fails(path, path, "'id'", column="id")
    path.write_bytes(path.read_bytes()[:-20])
    fails(path, path, "parquet")


def test_bad_array_records_are_named(tmp_path):
    path = tmp_path / "a.array_record"
    write_records(path, [b"fine", b"\xff"])
    fails(path, path, "record 1")
    path.write_bytes(b"nonsense" * 100)
    fails(path, path, "ArrayRecord")
