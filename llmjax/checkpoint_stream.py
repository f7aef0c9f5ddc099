"""Parameters of a checkpoint as arrays on disk, read and written a block at a time.

orbax saves and restores whole arrays. But the arrays of a state are plain Zarr ones in
an OCDBT store, under their path with dots, and tensorstore takes any part of those.
https://google.github.io/tensorstore/kvstore/ocdbt
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from llmjax import checkpoint

SMALL_CHUNK_BYTES = 2**25


class StoredLeaf:
    """A parameter on disk, taken and set with one slice per axis in brackets.

    opened: of the leaves that share it, the one in use, with what it has cached.
    """

    def __init__(self, folder: pathlib.Path, path: str, shape: tuple, opened: dict):
        self.folder, self.path, self.shape = folder, path, shape
        self.opened = opened

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        with checkpoint.explained(f"parameter {self.path} cannot be read"):
            return self._array()[index].read().result()

    def __setitem__(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        with checkpoint.explained(f"parameter {self.path} cannot be written"):
            self._array()[index].write(block).result()

    def _array(self) -> Any:
        if self.path not in self.opened:
            self.opened.clear()
            self.opened[self.path] = _open_array(self.folder, self.path)
        return self.opened[self.path]


def open_params(
    directory: str | os.PathLike, step: int | None = None
) -> dict[str, StoredLeaf]:
    """The parameters of a stored state by path, of the newest by default."""
    folder, types = checkpoint.array_folder(directory, step)
    opened: dict[str, Any] = {}
    root = "params/"
    shapes = {
        n.removeprefix(root): t[0] for n, t in types.items() if n.startswith(root)
    }
    return {p: StoredLeaf(folder, p, shape, opened) for p, shape in shapes.items()}


def create_params(
    directory: str | os.PathLike, params: Any, meta: Mapping[str, Any]
) -> dict[str, StoredLeaf]:
    """Makes step 0 of a tree of parameters, by path, to be set block by block.

    The tree's leaves tell their `shape` and the `block_shape` by which they will be
    set. Values are float32, and absent until set: make it in a folder that takes its
    name when all are.
    """
    # orbax writes the step for a tree of scalars; then the arrays replace these.
    scalars = jax.tree.map(lambda _: np.zeros((), np.float32), params)
    with checkpoint.Checkpoints(directory) as checkpoints:
        checkpoints.save(0, {"params": scalars}, meta)
    folder, _ = checkpoint.array_folder(directory)
    for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        with checkpoint.explained(f"parameter {path} cannot be written"):
            _create_array(folder, path, leaf)
    return open_params(directory)


def _create_array(folder: pathlib.Path, path: str, leaf: Any) -> None:
    import tensorstore

    metadata = {
        "shape": leaf.shape,
        "chunks": leaf.block_shape,
        "dtype": "<f4",
        "compressor": None,
    }
    spec = _spec(folder, path) | {"metadata": metadata}
    tensorstore.open(spec, create=True, delete_existing=True).result()


def _open_array(folder: pathlib.Path, path: str) -> Any:
    import tensorstore

    array = tensorstore.open(_spec(folder, path), open=True).result()
    chunk_items = math.prod(array.chunk_layout.read_chunk.shape)
    if chunk_items * array.dtype.numpy_dtype.itemsize <= SMALL_CHUNK_BYTES:
        return array
    # Any part of a chunk is read with all of it, so that large ones are kept.
    cache = tensorstore.Context({"cache_pool": {"total_bytes_limit": 2**62}})
    return tensorstore.open(_spec(folder, path), open=True, context=cache).result()


def _spec(folder: pathlib.Path, path: str) -> dict[str, Any]:
    name = ".".join(("params", *path.split("/")))
    return {
        "driver": "zarr",
        "kvstore": {
            "driver": "ocdbt", "base": f"file://{folder}", "path": f"{name}/"
        },
        # There is no fill value, so that a chunk of zeros is stored: one is absent by
        # damage only.
        "fill_missing_data_reads": False,
    }  # fmt: skip
