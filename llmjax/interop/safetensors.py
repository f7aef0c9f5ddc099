"""The safetensors file format, read lazily with the header checked first.

A file is a little-endian uint64 (the header's length), a JSON header that gives each
tensor's dtype, shape and byte range, and the bytes. The ranges must tile the data
without overlap or hole. https://github.com/huggingface/safetensors#format
"""

import collections
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

MAX_HEADER_BYTES = 100_000_000  # what the reference implementation accepts
MAX_RANK = 32

DTYPES = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("<u1"),
    "I8": np.dtype("<i1"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}


class Tensor(NamedTuple):
    """A tensor that is not in memory yet; `read()` gives it as a numpy array.

    `read("r+")`, of a tensor in a safetensors file, gives one that writes to the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: pathlib.Path
    read: Callable[..., np.ndarray]


def dtype(name: str) -> np.dtype:
    """The numpy dtype of a name such as "bfloat16"."""
    return next(dtype for dtype in DTYPES.values() if dtype.name == name)


def open_file(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of one file by name, in the order of their bytes.

    Nothing is read but the header. Raises ValueError, naming the file and the tensor,
    unless the header is sound and the file is exactly as long as it says.
    """
    path = pathlib.Path(path)
    header = read_header(path)
    begin = header_bytes(path)
    num_data_bytes = path.stat().st_size - begin
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: _range(path, *item)):
        shape, dtype = _shape_and_dtype(path, name, entry)
        first, last = entry["data_offsets"]
        if last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"{path}: tensor {name!r} of shape {shape} and dtype {entry['dtype']} "
                f"does not fill the {last - first} bytes given to it"
            )
        if first != end:
            raise ValueError(
                f"{path}: tensor {name!r} overlaps another or leaves a hole"
            )
        if last > num_data_bytes:
            raise ValueError(
                f"{path}: the file is truncated: tensor {name!r} ends at byte "
                f"{begin + last}, the file at {begin + num_data_bytes}; copy it again"
            )
        tensors[name] = _tensor(path, begin + first, shape, dtype)
        end = last
    if end != num_data_bytes:
        raise ValueError(f"{path}: {num_data_bytes - end} bytes belong to no tensor")
    return tensors


def header_bytes(path: pathlib.Path) -> int:
    """The number of bytes before the first tensor: 8 and the header's."""
    with open(path, "rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
    file_bytes = path.stat().st_size
    if file_bytes < 10 or num_bytes > min(file_bytes - 8, MAX_HEADER_BYTES):
        raise ValueError(
            f"{path}: not a safetensors file, or truncated: a header of {num_bytes} "
            f"bytes in a file of {file_bytes}"
        )
    return 8 + num_bytes


def read_header(path: pathlib.Path) -> dict[str, dict]:
    """`{tensor name: {"dtype", "shape", "data_offsets"}}`, unchecked but for names."""
    with open(path, "rb") as file:
        text = file.read(header_bytes(path))[8:]

    def unique(pairs: list[tuple]) -> dict:
        counts = collections.Counter(name for name, _ in pairs)
        for name, count in counts.items():
            if count > 1:
                raise ValueError(f"duplicate name {name!r}")
        return dict(pairs)

    try:
        header = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the safetensors header is bad: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def write_file(
    path: str | os.PathLike,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes `{name: (shape, dtype)}`, asking `read(name)` for one array at a time."""
    arrays = (np.asarray(read(name), tensors[name][1]) for name in _order(tensors))
    write_bytes(path, itertools.chain([make_header(tensors)], arrays))


def make_header(tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> bytes:
    """What a file of `{name: (shape, dtype)}` begins with, the bytes of length too."""
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in _order(tensors):
        shape, dtype = tensors[name]
        first, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = dict(
            dtype=names[dtype], shape=list(shape), data_offsets=[first, end]
        )
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def allocate(path: pathlib.Path, header: bytes) -> None:
    """Makes the file that begins with this header; its tensors are all zeros.

    The space is taken now: a full disk is an OSError here, where writing to the tensors
    later would be the end of the process.
    """
    write_bytes(path, [header])
    ends = [_range(path, *item)[1] for item in read_header(path).items()]
    with open(path, "r+b") as file:
        file.truncate(len(header) + max(ends, default=0))
        if hasattr(os, "posix_fallocate") and any(ends):
            try:
                os.posix_fallocate(file.fileno(), len(header), max(ends))
            except OSError as error:  # which does not know the file's name
                raise OSError(error.errno, error.strerror, str(path)) from None


def write_bytes(path: str | os.PathLike, chunks: Iterable[bytes | np.ndarray]) -> None:
    """Writes the chunks one after another, to a temporary name first."""
    temporary = pathlib.Path(f"{os.fspath(path)}.tmp")
    try:
        with open(temporary, "wb") as file:
            for chunk in chunks:
                if isinstance(chunk, np.ndarray):  # bfloat16 has no buffer of its own
                    chunk = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
                file.write(chunk)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _order(tensors: Mapping[str, tuple]) -> list[str]:
    # Widest first keeps every tensor aligned; the reference writer has the same order.
    rank = list(DTYPES.values()).index
    return sorted(tensors, key=lambda name: (-rank(tensors[name][1]), name))


def _range(path: pathlib.Path, name: str, entry) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{path}: tensor {name!r} has no sound data_offsets")
    return tuple(offsets)


def _shape_and_dtype(path: pathlib.Path, name: str, entry: dict) -> tuple:
    shape, dtype = entry.get("shape"), entry.get("dtype")
    if not _are_sizes(shape) or len(shape) > MAX_RANK:
        raise ValueError(f"{path}: tensor {name!r} has no sound shape")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"{path}: tensor {name!r} has unknown dtype {dtype!r}; "
            f"known: {', '.join(DTYPES)}"
        )
    return tuple(shape), DTYPES[dtype]


def _are_sizes(values) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _tensor(path: pathlib.Path, offset: int, shape: tuple, dtype: np.dtype) -> Tensor:
    def read(mode: str = "r") -> np.ndarray:
        num_bytes = math.prod(shape) * dtype.itemsize
        if not num_bytes:  # an empty file region cannot be mapped
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, mode, offset, (num_bytes,))
        return raw.view(dtype).reshape(shape)

    return Tensor(shape, dtype, path, read)
