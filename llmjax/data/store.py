"""A token store: the ids of many documents on disk, checked at each read.

One flat array of tokens and one of offsets, as zarr v3 arrays in shards; each chunk
carries its CRC-32C, so that a flipped bit is an error and never a wrong token. A store
is read from a local folder or from any key-value URL of tensorstore (`gs://...`).
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

META = "meta.json"
CHUNK_TOKENS = 2**15
SHARD_TOKENS = 2**24  # one file of the store
IN_MEMORY_BYTES = 2**30  # smaller stores are held in memory


@dataclasses.dataclass(frozen=True)
class StoreMeta:
    """What a store says about itself, in its meta.json."""

    num_documents: int
    num_tokens: int  # starts and ends of documents included
    num_bytes: int  # of the documents' text in UTF-8
    vocab_size: int
    dtype: str
    tokenizer: str  # fingerprint of the tokenizer
    source: str  # where the documents came from, for people
    fingerprint: str  # of the tokens, the offsets and the tokenizer


def write_store(
    path: str | os.PathLike,
    documents: Iterable[tuple[np.ndarray, int]],
    *,
    vocab_size: int,
    tokenizer: str = "",
    source: str = "",
) -> StoreMeta:
    """Writes the documents, each (ids, bytes of its text), into a new local folder.

    The folder appears whole or not at all. Raises ValueError where it exists already,
    where no document comes, and where an id is outside the vocabulary.
    """
    dtype = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    with new_folder(path) as folder:
        digest = hashlib.blake2b(tokenizer.encode(), digest_size=16)
        tokens = _ArrayWriter(folder, "tokens", dtype, digest)
        offsets, num_bytes = [0], 0
        for number, (ids, text_bytes) in enumerate(documents):
            tokens.append(_check_ids(ids, vocab_size, number).astype(dtype))
            offsets.append(offsets[-1] + len(ids))
            num_bytes += text_bytes
        if len(offsets) == 1:
            raise ValueError(f"{path}: no document to store")
        tokens.close()
        ends = _ArrayWriter(folder, "offsets", np.dtype(np.int64), digest)
        ends.append(np.array(offsets, np.int64))
        ends.close()
        meta = StoreMeta(
            num_documents=len(offsets) - 1,
            num_tokens=offsets[-1],
            num_bytes=num_bytes,
            vocab_size=vocab_size,
            dtype=dtype.name,
            tokenizer=tokenizer,
            source=source,
            fingerprint=digest.hexdigest(),
        )
        (folder / META).write_text(json.dumps(dataclasses.asdict(meta), indent=2))
    return meta


def _check_ids(ids: np.ndarray, vocab_size: int, number: int) -> np.ndarray:
    ids = np.asarray(ids, np.int64)
    outside = ids[(ids < 0) | (ids >= vocab_size)]
    if outside.size:
        raise ValueError(
            f"document {number}: id {outside[0]} is outside the vocabulary of "
            f"{vocab_size}; use the tokenizer that the vocabulary belongs to"
        )
    return ids


class _ArrayWriter:
    """Writes a one-dimensional array of unknown length, shard by shard."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype, digest):
        self.array = _create_array(folder / name, dtype)
        self.digest = digest
        self.parts, self.num_waiting, self.num_written = [], 0, 0

    def append(self, values: np.ndarray) -> None:
        self.parts.append(values)
        self.num_waiting += len(values)
        if self.num_waiting >= SHARD_TOKENS:
            waiting = np.concatenate(self.parts)
            whole = len(waiting) // SHARD_TOKENS * SHARD_TOKENS
            self.write(waiting[:whole])
            self.parts, self.num_waiting = [waiting[whole:]], len(waiting) - whole

    def close(self) -> None:
        self.write(np.concatenate(self.parts))

    def write(self, values: np.ndarray) -> None:
        start, stop = self.num_written, self.num_written + len(values)
        self.digest.update(values.tobytes())
        self.array = self.array.resize(exclusive_max=[stop]).result()
        self.array[start:stop].write(values).result()
        self.num_written = stop


def _create_array(path: Path, dtype: np.dtype):
    import tensorstore

    chunk_codecs = [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
        {"name": "crc32c"},
    ]
    sharding = {
        "chunk_shape": [CHUNK_TOKENS],
        "codecs": chunk_codecs,
        "index_codecs": [chunk_codecs[0], {"name": "crc32c"}],
    }
    metadata = {
        "shape": [0],
        "data_type": dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [SHARD_TOKENS]},
        },
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {
        "driver": "zarr3",
        "kvstore": _key_value_url(path),
        "metadata": metadata,
        # A chunk of zeros is written too, so that a missing one is never taken for it.
        "store_data_equal_to_fill_value": True,
    }
    return tensorstore.open(spec, create=True).result()


class Store:
    """An open store: its `meta`, and its `offsets`, where each document starts.

    Small stores are held in memory, large ones read in ranges as they are asked for.
    """

    def __init__(self, url: str, meta: StoreMeta, tokens, offsets: np.ndarray):
        self.url, self.meta, self.tokens, self.offsets = url, meta, tokens, offsets

    def __len__(self) -> int:
        return self.meta.num_documents

    def document(self, index: int) -> np.ndarray:
        """The ids of one document, with its start and its end."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return self.read([start], [stop - start])[0]

    def read(self, starts: Iterable[int], lengths: Iterable[int]) -> list[np.ndarray]:
        """The tokens [start, start + length) for each pair, all asked for at once."""
        pairs = zip(starts, lengths, strict=True)
        found = [self.tokens[start : start + length] for start, length in pairs]
        if isinstance(self.tokens, np.ndarray):
            return found
        futures = [part.read() for part in found]
        return [_checked(future, self.url) for future in futures]


def hold(documents: Sequence[np.ndarray], source: str = "memory") -> Store:
    """A store in memory, of documents that no folder keeps."""
    tokens = np.concatenate(documents)
    offsets = np.cumsum([0, *map(len, documents)])
    digest = hashlib.blake2b(tokens.tobytes(), digest_size=16)
    digest.update(offsets.tobytes())
    meta = StoreMeta(
        num_documents=len(documents),
        num_tokens=len(tokens),
        num_bytes=0,
        vocab_size=1 + int(tokens.max()),
        dtype=tokens.dtype.name,
        tokenizer="",
        source=source,
        fingerprint=digest.hexdigest(),
    )
    return Store(source, meta, tokens, offsets)


def open_store(
    path: str | os.PathLike, *, in_memory_bytes: int = IN_MEMORY_BYTES
) -> Store:
    """Opens a store. One of up to `in_memory_bytes` is read, and checked, whole.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    import tensorstore

    url = _key_value_url(path)
    raw = tensorstore.KvStore.open(url).result().read(META).result().value
    if not raw:
        raise FileNotFoundError(
            f"{path}: no token store; make one by tools/tokenize_corpus.py"
        )
    try:
        meta = StoreMeta(**json.loads(raw))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}/{META}: damaged ({error})") from error
    tokens, offsets = _open_array(url, "tokens"), _open_array(url, "offsets")
    if tokens.shape != (meta.num_tokens,) or offsets.shape != (meta.num_documents + 1,):
        raise ValueError(f"{path}: its arrays do not have the sizes that {META} says")
    if meta.num_tokens * tokens.dtype.numpy_dtype.itemsize <= in_memory_bytes:
        tokens = _checked(tokens.read(), url)
    return Store(url, meta, tokens, _checked(offsets.read(), url))


def _open_array(url: str, name: str):
    import tensorstore

    spec = {
        "driver": "zarr3",
        "kvstore": f"{url}{name}/",
        "fill_missing_data_reads": False,  # a missing shard is an error, not zeros
    }
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 2**28}})
    try:
        return tensorstore.open(spec, read=True, context=context).result()
    except ValueError as error:
        raise _damaged(url, error) from error


def _checked(future, url: str) -> np.ndarray:
    """What a read gives; ValueError that names the file where its checksum is wrong."""
    try:
        return future.result()
    except ValueError as error:
        raise _damaged(url, error) from error


def _damaged(url: str, error: ValueError) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(f"{url}: damaged store, make or fetch it again ({reason})")


def _key_value_url(path: str | os.PathLike) -> str:
    """The tensorstore URL of a folder; a URL stays as it is."""
    path = os.fspath(path)
    if "://" not in path:
        path = Path(path).expanduser().absolute().as_uri()
    return path.rstrip("/") + "/"


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill, which takes its name only when all went well."""
    path = Path(path).expanduser().absolute()
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise ValueError(f"{path}: exists already; remove it or name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp keeps others out
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
