"""Leaves whose values stay in the tensors of a checkpoint, read and written by blocks.

A leaf here is anything with a `shape` that takes one slice per axis in brackets: an
array in memory, an array of a stored state, or a `TensorLeaf`. `copy` carries one
over to another through memory for a single block.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from llmjax.config import ModelConfig
from llmjax.interop import table
from llmjax.interop.safetensors import Tensor
from llmjax.interop.table import Slot

MAX_BLOCK_BYTES = 2**23  # in float32; small against a group of tensors worth streaming


class TensorLeaf:
    """A leaf spread over tensors of a checkpoint: one a layer, or a single one.

    A layer without a tensor reads as ones, and what is written to it is lost.
    """

    def __init__(
        self, path: str, tensors: Mapping[int | None, tuple], cfg: ModelConfig
    ):
        self.path, self.tensors, self.cfg = path, tensors, cfg
        layer, (tensor, row) = next(iter(tensors.items()))
        self.is_stacked = layer is not None
        # Of the tensor's shape, but never touched: some tensors are slow to read.
        view = self._part(np.empty(tensor.shape, np.int8), row)
        # Cut along the axis that is outermost in the tensors, a block is one run there.
        outermost = int(np.argmax(view.strides)) if view.ndim else 0
        if self.is_stacked:
            self.shape = (table.config_of(row, cfg).num_layers, *view.shape)
            self.block_shape = block_shape(self.shape, (0, 1 + outermost))
        else:
            self.shape = view.shape
            self.block_shape = block_shape(self.shape, (outermost,))

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        if not self.is_stacked:
            return np.array(self._view(None)[index], np.float32)
        ranges = [range(n)[part] for n, part in zip(self.shape, index, strict=True)]
        block = np.ones([len(part) for part in ranges], np.float32)
        for values, layer in zip(block, ranges[0], strict=True):
            if layer in self.tensors:
                values[...] = self._view(layer)[index[1:]]
        return block

    def __setitem__(self, index: tuple[slice, ...], block: np.ndarray) -> None:
        if not self.is_stacked:
            self._view(None, "r+")[index] = block
            return
        layers = range(self.shape[0])[index[0]]
        for values, layer in zip(block, layers, strict=True):
            if layer in self.tensors:
                self._view(layer, "r+")[index[1:]] = values

    def _view(self, layer: int | None, *mode: str) -> np.ndarray:
        # Mapped afresh each time: pages count as used memory until they are unmapped.
        tensor, row = self.tensors[layer]
        return self._part(tensor.read(*mode), row)

    def _part(self, array: np.ndarray, row: table.Row) -> np.ndarray:
        return dict(table.unpack(array, row, self.cfg))[self.path]


def collect(
    found: Mapping[str, Tensor], slots: Mapping[str, Slot], cfg: ModelConfig
) -> dict[str, TensorLeaf]:
    """The leaves, by path, that the tensors hold; nothing is read."""
    tensors: dict[str, dict] = collections.defaultdict(dict)
    for name, (row, layer) in slots.items():
        for path in row.path.split():
            tensors[path][layer] = found[name], row
    return {path: TensorLeaf(path, held, cfg) for path, held in tensors.items()}


def keep_latest(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, of which the one read last is kept, for those slow to read."""
    kept: dict[str, np.ndarray] = {}

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            if name not in kept:
                kept.clear()
                kept[name] = found[name].read()
            return kept[name]

        return read

    return {name: tensor._replace(read=reader(name)) for name, tensor in found.items()}


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of leaves given by path."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def block_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of blocks that fit MAX_BLOCK_BYTES, cut along `axes`, first ones first.

    They may be larger where the axes, each cut to 1, do not do.
    """
    block = list(shape)
    for axis in axes:
        num_bytes = 4 * math.prod(block)
        if num_bytes > MAX_BLOCK_BYTES:
            block[axis] = max(1, block[axis] * MAX_BLOCK_BYTES // num_bytes)
    return tuple(block)


def copy(source: Any, target: Any, block: tuple[int, ...]) -> None:
    """Sets the values of leaf `target` to those of `source`, a block at a time."""
    if isinstance(source, jax.Array):
        source = np.asarray(source)
    for index in _blocks(source.shape, block):
        target[index] = np.asarray(source[index])


def _blocks(
    shape: tuple[int, ...], block: tuple[int, ...]
) -> Iterator[tuple[slice, ...]]:
    axes = (
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(shape, block, strict=True)
    )
    return itertools.product(*axes)
