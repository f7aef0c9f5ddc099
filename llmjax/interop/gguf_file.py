"""The GGUF file format (version 2 and 3), read lazily with every length checked.

Metadata as typed key-value pairs, then what tensors there are, then their bytes:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` knows the
quantisations; its own reader takes seconds and does not check lengths.
"""

import math
import mmap
import os
import pathlib
from types import ModuleType
from typing import Any

import numpy as np

from llmjax.interop.safetensors import Tensor

SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?",
    10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
UINT32, STRING, ARRAY, UINT64 = 4, 8, 9, 10
MAX_RANK = 4
MAX_ITEMS = 2**21  # dequantised at once


def open_file(
    path: str | os.PathLike,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors by name; `read()` dequantises one to float32.

    Raises ValueError, naming the file and the tensor, unless the file is sound, and
    holds all that it says.
    """
    gguf = _package()
    path = pathlib.Path(path)
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file")
        cursor = _Cursor(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        metadata, entries = _parse(cursor)
        return metadata, _tensors(path, gguf, cursor, metadata, entries)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


class _Cursor:
    """Takes one value after another from a buffer; past its end is a ValueError."""

    def __init__(self, buffer: mmap.mmap):
        self.buffer, self.at = buffer, 4

    def take(self, num_bytes: int) -> bytes:
        end = self.at + num_bytes
        if end > len(self.buffer):
            raise ValueError("the file is truncated, or a length in it is wrong")
        taken, self.at = self.buffer[self.at : end], end
        return taken

    def string(self) -> str:
        return self.take(self.value(UINT64)).decode()

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.values(kind, 1)[0]
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise ValueError(f"unknown type of value {kind}")
        kind, count = self.value(UINT32), self.value(UINT64)
        if kind == STRING:
            return [self.string() for _ in range(count)]
        return self.values(kind, count)

    def values(self, kind: int, count: int) -> list:
        if kind not in SCALARS:
            raise ValueError(f"unknown type of array item {kind}")
        dtype = np.dtype(SCALARS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()


def _parse(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, tuple]]:
    """The metadata, and (shape, quantisation, offset) of each tensor."""
    version = cursor.value(UINT32)
    if version not in (2, 3):
        raise ValueError(f"GGUF version {version} is not known; known: 2, 3")
    num_tensors, num_pairs = cursor.value(UINT64), cursor.value(UINT64)
    metadata: dict[str, Any] = {}
    for _ in range(num_pairs):
        key = cursor.string()
        if key in metadata:
            raise ValueError(f"duplicate key {key!r}")
        metadata[key] = cursor.value(cursor.value(UINT32))
    entries: dict[str, tuple] = {}
    for _ in range(num_tensors):
        name, rank = cursor.string(), cursor.value(UINT32)
        if name in entries or rank > MAX_RANK:
            problem = "is there twice" if name in entries else f"has rank {rank}"
            raise ValueError(f"tensor {name!r} {problem}")
        shape = tuple(reversed(cursor.values(UINT64, rank)))  # fastest axis first there
        entries[name] = (shape, cursor.value(UINT32), cursor.value(UINT64))
    return metadata, entries


def _tensors(
    path: pathlib.Path,
    gguf: ModuleType,
    cursor: _Cursor,
    metadata: dict[str, Any],
    entries: dict[str, tuple],
) -> dict[str, Tensor]:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise ValueError(f"general.alignment={alignment!r} is not a positive integer")
    begin = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, (shape, kind, offset) in entries.items():
        if kind not in list(gguf.GGMLQuantizationType):
            raise ValueError(f"tensor {name!r} has unknown quantisation {kind}")
        quant = gguf.GGMLQuantizationType(kind)
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[quant]
        if not shape or shape[-1] % block_size:
            raise ValueError(
                f"tensor {name!r} of shape {shape} is not whole blocks of {block_size}"
            )
        row_bytes = shape[-1] // block_size * block_bytes
        if begin + offset + math.prod(shape[:-1]) * row_bytes > len(cursor.buffer):
            raise ValueError(f"the file is truncated: it ends before tensor {name!r}")
        read = _reader(path, begin + offset, shape, row_bytes, quant, name)
        tensors[name] = Tensor(shape, np.dtype(np.float32), path, read)
    return tensors


def _reader(
    path: pathlib.Path, offset: int, shape: tuple, row_bytes: int, quant: Any, name: str
):
    gguf = _package()
    num_rows, step = math.prod(shape[:-1]), max(1, MAX_ITEMS // max(1, shape[-1]))

    def read() -> np.ndarray:
        values = np.empty((num_rows, shape[-1]), np.float32)
        try:
            for row in range(0, num_rows, step):
                # Mapped afresh, so that the pages of other rows need not stay.
                raw = np.memmap(path, np.uint8, "r", offset, (num_rows, row_bytes))
                part = gguf.dequantize(raw[row : row + step], quant)
                values[row : row + step] = part
            return values.reshape(shape)
        except NotImplementedError:
            raise ValueError(
                f"{path}: tensor {name!r} is {quant.name}, which cannot be dequantised"
            ) from None

    return read


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ValueError(
            "GGUF files need the package gguf: pip install 'llmjax[gguf]'"
        ) from None
    return gguf
