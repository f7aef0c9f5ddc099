"""Name tables: which tensor of a checkpoint is which of our parameters, as data.

A row gives the tensor's name there, the path of our leaf, and the layout there in the
letters of `llmjax.dims`; the layout here is the leaf's own suffix. So

    Row("layers.{l}.self_attn.q_proj.weight", "blocks/attention/q_DNH", "(NH)D")

says that the (N*H, D) matrices of all layers, taken apart into N, H and D, transposed
to (D, N, H) and stacked, are `params["blocks"]["attention"]["q_DNH"]`. Read backwards
it exports. A digit in the layout is an axis over several leaves: "D(3NH)" with three
paths is one matrix that holds queries, keys and values side by side.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from llmjax import dims
from llmjax.config import ModelConfig
from llmjax.interop.safetensors import Tensor

FLOATS = ("float32", "float16", "bfloat16")


class Row(NamedTuple):
    """One line of a table.

    name: of the tensor; "{l}" stands for the layer, one tensor each.
    path: of our leaf; several, separated by spaces, when the tensor holds them all.
    layout: the tensor's dims in our letters; parentheses merge letters into one axis.
    when: a field of ModelConfig that calls for it, if any: "qkv_bias" is true,
      "not tied" is false, "qk_norm=head" has that value; or several with " and ".
      One of the encoder's begins with "encoder.".
    first: the first layer that has it; the leaves of those before are ones.
    """

    name: str
    path: str
    layout: str
    when: str = ""
    first: int = 0


class Family(NamedTuple):
    """What there is to know about the checkpoints of one model class.

    prefix: before the names of the model proper; a checkpoint may leave it out.
    repeats: (name, other) where the first may be stored too, though it is the second:
      of a tied head and its embedding, say.
    buffers: tensors that hold no parameter and are passed over.
    read_config, write_config: config.json as a dict to ModelConfig and back.
    aliases: (part of a name, other) where some checkpoints have the other instead.
    fit: the config, given the names of all tensors, where config.json does not say all.
    """

    prefix: str
    table: tuple[Row, ...]
    repeats: tuple[tuple[str, str], ...]
    buffers: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any]], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    aliases: tuple[tuple[str, str], ...] = ()
    fit: Callable[[ModelConfig, Collection[str]], ModelConfig] | None = None


class Slot(NamedTuple):
    """The row that a tensor belongs to, and its layer."""

    row: Row
    layer: int | None


def slots(family: Family, cfg: ModelConfig) -> Iterator[tuple[str, Slot]]:
    """The name of every tensor that a checkpoint of this config has."""
    for row in family.table:
        part = config_of(row, cfg)
        if row.when and not all(_holds(c, part) for c in row.when.split(" and ")):
            continue
        layers = range(row.first, part.num_layers) if "{l}" in row.name else [None]
        for layer in layers:
            yield row.name.replace("{l}", str(layer)), Slot(row, layer)


def _holds(condition: str, cfg: ModelConfig) -> bool:
    field, _, value = condition.removeprefix("not ").partition("=")
    actual = operator.attrgetter(field)(cfg)
    is_so = str(actual) == value if value else bool(actual)
    return is_so != condition.startswith("not ")


def config_of(row: Row, cfg: ModelConfig) -> ModelConfig:
    """The config that the row's letters, layers and condition are about."""
    if row.path.startswith("encoder/") and cfg.encoder is not None:
        return cfg.encoder
    return cfg


def match(
    found: Mapping[str, Tensor], family: Family, cfg: ModelConfig, where: object
) -> dict[str, Slot]:
    """The slot of each tensor; ValueError unless exactly the right ones are there.

    Names, shapes and dtypes are compared; nothing is read. Buffers, and a head that
    repeats the embedding it is tied to, get no slot.
    """
    prefix = _missing_prefix(found, family)
    expected = {}
    for name, slot in slots(family, cfg):
        name = _spelling(name.removeprefix(prefix), found, family)
        shape = tensor_shape(slot.row, cfg)
        if name not in found:
            raise ValueError(
                f"{where}: tensor {name!r} is missing; config.json calls for one of "
                f"shape {shape}"
            )
        _check(name, found[name], shape)
        expected[name] = slot
    others = repeats(found, family)
    for name in found.keys() - expected.keys():
        if others.get(name) in expected:
            _check_tied(found[name], found[others[name]], name, others[name])
        elif not any(_fits(name, prefix, pattern) for pattern in family.buffers):
            raise ValueError(
                f"{found[name].file}: tensor {name!r} has no place in this model: "
                "config.json calls for none of that name"
            )
    return expected


def repeats(found: Mapping[str, Tensor], family: Family) -> dict[str, str]:
    """`Family.repeats` as this checkpoint spells its names."""
    prefix = _missing_prefix(found, family)
    pairs = [[name.removeprefix(prefix) for name in pair] for pair in family.repeats]
    return {name: other for name, other in pairs if other in found}


def _missing_prefix(found: Mapping[str, Tensor], family: Family) -> str:
    has_prefix = any(name.startswith(family.prefix) for name in found)
    return "" if has_prefix else family.prefix


def _spelling(name: str, found: Collection[str], family: Family) -> str:
    """The name that a tensor has in this checkpoint; the first, if it is missing."""
    others = (name.replace(part, other) for part, other in family.aliases)
    return next((other for other in (name, *others) if other in found), name)


def to_params(
    found: Mapping[str, Tensor], expected: Mapping[str, Slot], cfg: ModelConfig
) -> dict[str, Any]:
    """The nested dict of float32 arrays, layers stacked, from tensors by name."""
    params: dict[str, Any] = {}
    for name, (row, layer) in expected.items():
        for path, part in unpack(found[name].read(), row, cfg):
            *parents, leaf = path.split("/")
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            if layer is None:
                node[leaf] = part.astype(np.float32)
            else:
                if leaf not in node:
                    num_layers = config_of(row, cfg).num_layers
                    node[leaf] = np.ones((num_layers, *part.shape), np.float32)
                node[leaf][layer] = part
    return params


def from_params(params: Mapping[str, Any], slot: Slot, cfg: ModelConfig) -> np.ndarray:
    """The tensor of a slot, from parameters that passed `check_params`."""
    leaves = [_leaf(params, path) for path in slot.row.path.split()]
    if slot.layer is not None:
        leaves = [leaf[slot.layer] for leaf in leaves]
    return pack([np.asarray(leaf) for leaf in leaves], slot.row, cfg)


def check_params(params: Mapping[str, Any], family: Family, cfg: ModelConfig) -> None:
    """Raises ValueError unless exactly the leaves of this config are there."""
    shapes = {}
    for _, (row, layer) in slots(family, cfg):
        part = config_of(row, cfg)
        stacked = () if layer is None else (part.num_layers,)
        for path in row.path.split():
            shapes[path] = stacked + part.shape(path)
    for path, shape in shapes.items():
        leaf = _leaf(params, path)
        if leaf is None or leaf.shape != shape:
            got = "is missing" if leaf is None else f"has shape {leaf.shape}"
            raise ValueError(f"parameter {path!r} {got}; the config calls for {shape}")
    for path in _paths(params):
        if path not in shapes:
            raise ValueError(f"parameter {path!r} has no place in such a checkpoint")


def tensor_shape(row: Row, cfg: ModelConfig) -> tuple[int, ...]:
    """The shape of the row's tensor in the checkpoint."""
    cfg = config_of(row, cfg)
    groups = re.findall(r"\((\w+)\)|(\w)", row.layout)
    return tuple(
        math.prod(_size(letter, cfg) for letter in merged or single)
        for merged, single in groups
    )


def unpack(
    tensor: np.ndarray, row: Row, cfg: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """(path, leaf) for each leaf that the tensor holds."""
    cfg = config_of(row, cfg)
    letters = re.sub(r"[()]", "", row.layout)
    split = tensor.reshape([_size(letter, cfg) for letter in letters])
    axis, letters = _part_axis(letters)
    parts = split[None] if axis is None else np.moveaxis(split, axis, 0)
    for path, part in zip(row.path.split(), parts, strict=True):
        order = _leaf_letters(path, axis)
        yield path, part.transpose([letters.index(letter) for letter in order])


def pack(leaves: list[np.ndarray], row: Row, cfg: ModelConfig) -> np.ndarray:
    """The tensor that holds the leaves: `unpack` backwards."""
    axis, letters = _part_axis(re.sub(r"[()]", "", row.layout))
    parts = []
    for path, leaf in zip(row.path.split(), leaves, strict=True):
        order = _leaf_letters(path, axis)
        parts.append(leaf.transpose([order.index(letter) for letter in letters]))
    return np.stack(parts, axis or 0).reshape(tensor_shape(row, cfg))


def _part_axis(letters: str) -> tuple[int | None, str]:
    """The place of the digit in a layout, and the layout without it."""
    digit = re.search(r"\d", letters)
    return digit and digit.start(), re.sub(r"\d", "", letters)


def _leaf_letters(path: str, axis: int | None) -> str:
    # Leaves that share a tensor share its letters: keys have as many heads as queries.
    letters = dims.parse(path)
    return letters if axis is None else letters.replace("K", "N")


def _size(letter: str, cfg: ModelConfig) -> int:
    return int(letter) if letter.isdigit() else cfg.sizes[letter]


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise ValueError(
            f"{tensor.file}: tensor {name!r} has shape {tensor.shape}; "
            f"config.json calls for {shape}"
        )
    if tensor.dtype.name not in FLOATS:
        raise ValueError(
            f"{tensor.file}: tensor {name!r} is {tensor.dtype.name}; "
            f"a parameter must be {', '.join(FLOATS)}"
        )


def _check_tied(head: Tensor, embedding: Tensor, *names: str) -> None:
    # By rows: the two may be the largest tensors there are.
    is_same = head.shape == embedding.shape and all(
        np.array_equal(
            head.read()[row : row + 1024], embedding.read()[row : row + 1024]
        )
        for row in range(0, head.shape[0], 1024)
    )
    if not is_same:
        raise ValueError(
            f"{head.file}: tensor {names[0]!r} differs from {names[1]!r}, which it is "
            "tied to; set tie_word_embeddings to false in config.json"
        )


def _fits(name: str, prefix: str, pattern: str) -> bool:
    pattern = re.escape(pattern.removeprefix(prefix)).replace(r"\{l\}", r"\d+")
    return re.fullmatch(pattern, name) is not None


def _leaf(params: Mapping[str, Any], path: str) -> Any:
    node: Any = params
    for key in path.split("/"):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _paths(params: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}/")
        else:
            yield f"{above}{key}"
