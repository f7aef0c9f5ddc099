"""Documents, as strings, out of the files that people keep their text in."""

import contextlib
import glob
import gzip
import hashlib
import importlib
import json
import os
import sysconfig
import types
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

STDLIB = "stdlib"
TEXT = (".txt", ".md", ".py")
RECORDS = (".array_record", ".arecord")
KINDS = (*TEXT, ".jsonl", ".parquet", *RECORDS)

WHOLE_FILE_BYTES = 2**20  # a larger text file is cut into passages
PASSAGE_BYTES = 2**14  # a passage ends at the first blank line after these, or at the
LONGEST_PASSAGE = 4  # first end of a line after so many times these
MIN_PASSAGES = 64  # of a text that is cut: a small one gets shorter passages

Split = Literal["train", "validation"]


def documents(
    spec: str,
    *,
    column: str = "text",
    split: Split | None = None,
    validation_fraction: float = 0.02,
) -> Iterator[str]:
    """The documents of a corpus, always in the same order; empty ones are left out.

    `spec` is `stdlib` (the source code of Python's standard library, as found on this
    machine), or a comma-separated list of files, folders and glob patterns; what a
    pattern or a folder holds comes sorted by path. A suffix says how a file is read:

    * `.txt`, `.md`, `.py`: a file is one document. A corpus that is one single text
      file, and any text file above 1 MiB, is cut at blank lines into passages of about
      16 KiB, or a 64th of a smaller one; a passage is then a document, so that there is
      something to hold out.
    * `.jsonl`: a line is an object, whose field `column` is the document.
    * `.parquet`: a row is a document, in the column `column`.
    * `.array_record`, `.arecord`: a record is a document, in UTF-8.

    Text and `.jsonl` may be compressed as `.gz`. With a `split`, only the documents of
    that side are given; see `split_documents`.

    Raises FileNotFoundError or ValueError, in one line that names the file.
    """
    texts = (text for text in _read_all(spec, column) if not text.isspace() and text)
    if split is not None:
        texts = split_documents(texts, split, validation_fraction)
    is_empty = True
    for text in texts:
        is_empty = False
        yield text
    if is_empty:
        what = f"no document for the {split} split" if split else "no text"
        raise ValueError(f"{spec}: {what} in this corpus; give it more documents")


def split_documents(
    texts: Iterator[str], split: Split, validation_fraction: float
) -> Iterator[str]:
    """Only the documents of one side of the train and validation split.

    A document's side depends on nothing but a hash of its text: it is the same wherever
    the corpus lies and however it grows, and copies of a document stay together. Where
    no hash falls under the fraction, the document with the smallest is held out alone.
    """
    held_out = None  # until some document is: (hash, text) of the smallest so far
    any_held_out = False
    for text in texts:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        rank = int.from_bytes(digest, "big") / 2**64
        if rank < validation_fraction:
            if held_out and split == "train":
                yield held_out[1]
            held_out, any_held_out = None, True
            if split == "validation":
                yield text
        elif not any_held_out and (held_out is None or rank < held_out[0]):
            if held_out and split == "train":
                yield held_out[1]
            held_out = rank, text
        elif split == "train":
            yield text
    if held_out and split == "validation":
        yield held_out[1]


def size_bytes(spec: str) -> int:
    """What the files of a corpus take on disk, together."""
    return sum(os.path.getsize(file) for file in find_files(spec))


def _read_all(spec: str, column: str) -> Iterator[str]:
    files = find_files(spec)
    if spec != STDLIB:
        for file in files:
            yield from _read_file(file, column, alone=len(files) == 1)
        return
    for file in files:
        with contextlib.suppress(UnicodeDecodeError):  # four tests of other encodings
            yield Path(file).read_bytes().decode()


def _find_stdlib() -> list[str]:
    """The modules of the standard library, not what was installed beside them."""
    root = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages"}
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.py"))
    return [str(root / name) for name in names if installed.isdisjoint(name.split("/"))]


def find_files(spec: str, kinds: Sequence[str] = KINDS) -> list[str]:
    """The files that a comma-separated list of files, folders and patterns names.

    kinds: of a folder, only files with these suffixes, also as .gz, are taken.
    """
    if spec == STDLIB:
        return _find_stdlib()
    files = []
    for pattern in filter(None, spec.split(",")):
        pattern = os.path.expanduser(pattern.strip())
        if os.path.isdir(pattern):
            found = sorted(Path(pattern).rglob("*"), key=lambda path: path.as_posix())
            found = [
                str(path)
                for path in found
                if _kind_of(path.name) in kinds and path.is_file()
            ]
        elif os.path.exists(pattern):
            found = [pattern]
        elif glob.has_magic(pattern):
            found = sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True)))
        else:
            raise FileNotFoundError(f"{pattern}: no such file or folder")
        if not found:
            known = " ".join(kinds)
            raise FileNotFoundError(f"{pattern}: no file to read; known: {known}")
        files += found
    if not files:
        raise ValueError(f"{spec!r} names no file; give a file, folder or pattern")
    return files


def _kind_of(name: str) -> str | None:
    """The suffix that says how a file is read; None when it is not a known one."""
    suffix = os.path.splitext(name.removesuffix(".gz"))[1]
    if name.endswith(".gz") and suffix not in (*TEXT, ".jsonl"):
        return None
    return suffix if suffix in KINDS else None


def _known() -> str:
    return " ".join(KINDS) + ", and .gz of text and .jsonl"


def _read_file(file: str, column: str, *, alone: bool) -> Iterator[str]:
    """The documents of one file. `alone`: the corpus holds no other file."""
    kind = _kind_of(file)
    if kind is None:
        raise ValueError(f"{file}: unknown kind of file; known: {_known()}")
    if kind == ".parquet":
        return _read_parquet(file, column)
    if kind in RECORDS:
        return _read_records(file)
    if kind == ".jsonl":
        return _read_jsonl(file, column)
    return _read_text(file, alone=alone)


def read_lines(file: str) -> Iterator[bytes]:
    """The lines of a file that may be compressed, each with its end."""
    try:
        with gzip.open(file) if file.endswith(".gz") else open(file, "rb") as lines:
            yield from lines
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"{file}: torn or damaged gzip ({error}); fetch or compress it again"
        raise ValueError(message) from error


def _decode(raw: bytes, file: str, offset_bytes: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        where = offset_bytes + error.start
        message = f"{file}: not UTF-8 at byte {where}; convert it with iconv -t utf-8"
        raise ValueError(message) from error


def _read_text(file: str, *, alone: bool) -> Iterator[str]:
    if alone or os.path.getsize(file) > WHOLE_FILE_BYTES:
        size_bytes = min(PASSAGE_BYTES, os.path.getsize(file) // MIN_PASSAGES)
        raws = _passages(read_lines(file), size_bytes)
    else:
        raws = [b"".join(read_lines(file))]
    offset_bytes = 0
    for raw in raws:
        yield _decode(raw, file, offset_bytes)
        offset_bytes += len(raw)


def _passages(lines: Iterator[bytes], size_bytes: int) -> Iterator[bytes]:
    """Joins lines to passages of about that size, which joined are the text again."""
    passage, num_bytes = [], 0
    for line in lines:
        passage.append(line)
        num_bytes += len(line)
        is_blank = not line.strip()
        if num_bytes >= (size_bytes if is_blank else LONGEST_PASSAGE * size_bytes):
            yield b"".join(passage)
            passage, num_bytes = [], 0
    yield b"".join(passage)


def _read_jsonl(file: str, column: str) -> Iterator[str]:
    offset_bytes = 0
    for number, line in enumerate(read_lines(file), start=1):
        text = _decode(line, file, offset_bytes)
        offset_bytes += len(line)
        if text.isspace():
            continue
        record = read_object(text, f"{file}:{number}")
        if column not in record:
            raise _missing_column(f"{file}:{number}", column, record)
        try:
            record[column].encode()  # JSON can write half of a surrogate pair
        except (AttributeError, UnicodeEncodeError) as error:
            message = f"{file}:{number}: {column!r} is not a string of UTF-8"
            raise ValueError(message) from error
        yield record[column]


def read_object(text: str, where: str) -> dict[str, Any]:
    """The object in a line of .jsonl; ValueError that begins with `where` if none."""
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: not a JSON object, one to a line")
    return record


def write_jsonl(file: str | os.PathLike, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes each record as a line of JSON; the file appears whole or not at all."""
    part = Path(f"{os.fspath(file)}.tmp")
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(part, file)


def _read_parquet(file: str, column: str) -> Iterator[str]:
    pyarrow = need("pyarrow", file)
    try:
        table = need("pyarrow.parquet", file).ParquetFile(file)
        names = table.schema_arrow.names
        if column not in names:
            raise _missing_column(file, column, names)
        for batch in table.iter_batches(batch_size=1024, columns=[column]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise ValueError(f"{file}: {column!r} holds {text!r:.40}, not text")
                yield text
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: cannot be read as parquet ({reason})") from error


def _read_records(file: str) -> Iterator[str]:
    module = need("array_record.python.array_record_module", file)
    try:
        reader = module.ArrayRecordReader(file)
        for number in range(reader.num_records()):
            yield _decode(reader.read(), f"{file}: record {number}", 0)
        reader.close()
    except (RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file}: cannot be read as ArrayRecord ({reason})") from error


def _missing_column(where: str, column: str, names) -> ValueError:
    names = ", ".join(map(str, names)) or "none"
    return ValueError(f"{where}: no column {column!r}; there are: {names}")


def need(module: str, file: str) -> types.ModuleType:
    """An optional module, or a line that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ValueError(f"{file}: to read it, pip install {package}") from error
