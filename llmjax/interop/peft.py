"""Adapter folders of Hugging Face PEFT (LoRA and its kin), read and written.

The table of the base's family says which of our matrices a tensor of the base holds,
and how its two sides are laid out: what it reads and what it writes. An adapter has
these sides too, once for each number of its rank, so the same row tells all.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from llmjax import dims, lora
from llmjax.config import ModelConfig
from llmjax.interop import hf, leaves, peft_config, safetensors, table
from llmjax.interop.safetensors import Tensor
from llmjax.interop.table import Row, Slot
from llmjax.lora import LoraConfig
from llmjax.ops import adapter
from llmjax.sharding import path_name

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# A name in the file: that of a module, and which part of its adapter this is.
PART = re.compile(r"(.+)\.lora_(?:embedding_)?(A|B|magnitude_vector)(?:\.weight)?")
SHARED = "blocks/attention/qkv_a_DR"


class Sides(NamedTuple):
    """What the tensor of a row reads and what it writes, each as the row of a vector.

    "q_DNH" in "(NH)D" has "q_D" in "D" and "q_NH" in "(NH)".
    """

    reads: Row
    writes: Row


def load(
    folder: str | os.PathLike, cfg: ModelConfig
) -> tuple[LoraConfig, dict[str, Any]]:
    """The LoraConfig and the adapters, float32, for a base of this config.

    Ranks and alphas of single modules are honoured: a smaller rank is filled up with
    zeros, another alpha multiplied in. Raises ValueError or FileNotFoundError, naming
    the file and the field or tensor, for what is not LoRA or not of this base.
    """
    folder = pathlib.Path(folder)
    config = peft_config.read(folder / peft_config.FILE)
    if not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{folder / WEIGHTS}: missing; pickled adapters (.bin) are never loaded"
        )
    opened = safetensors.open_file(folder / WEIGHTS)
    found = {name.removeprefix(PREFIX): tensor for name, tensor in opened.items()}
    lora_cfg = peft_config.to_lora(config)
    slots = _slots(found, cfg)
    values: dict[str, dict] = collections.defaultdict(dict)
    for module, parts in _modules(found).items():
        row, layer = slots[f"{module}.weight"]
        made = _read_module(parts, row, cfg)
        scale = peft_config.scale(config, module, len(parts["A"].read()))
        for path, value in made.items():
            ratio = scale / lora_cfg.scale if adapter.is_b(path) else 1.0
            values[path][layer] = value * np.float32(ratio)
    for path, layer, value in _read_plain(found, slots, cfg):
        values[path][layer] = value
    tree = leaves.nest(
        {path: _stack(path, layers, cfg, folder) for path, layers in values.items()}
    )
    targets = sorted(path.partition("_b_R")[0] for path in values if adapter.is_b(path))
    return dataclasses.replace(
        lora_cfg, targets=tuple(targets), share_qkv=SHARED in values
    ), tree


def save(
    folder: str | os.PathLike,
    cfg: ModelConfig,
    lora_cfg: LoraConfig,
    adapters: Mapping[str, Any],
    *,
    family: str,
    base: str = "",
) -> None:
    """Writes a new folder that peft loads beside a model of this family.

    base: the model's name or folder, for whoever loads the adapter. Where q, k and v
    are one matrix there but read apart here, the rank of theirs is the sum. Raises
    ValueError for what such a checkpoint cannot hold.
    """
    if lora_cfg.whole:
        raise ValueError(f"whole={lora_cfg.whole} cannot be saved in a peft folder")
    flat = _flat(adapters)
    slots = dict(table.slots(hf.FAMILIES[family], cfg))
    tensors: dict[str, np.ndarray] = {}
    ranks, used, is_conv1d = {}, set(), False
    for name, (row, layer) in slots.items():
        if not _is_matrix(row) or not _paths_of(row) & flat.keys():
            continue
        module = name.removesuffix(".weight")
        parts = _write_module(row, layer, flat, cfg)
        ranks[module] = len(parts["A"])
        kind = "lora_embedding_{}" if _is_table(row) else "lora_{}.weight"
        for part, array in parts.items():
            end = "lora_magnitude_vector" if part == "m" else kind.format(part)
            tensors[f"{PREFIX}{module}.{end}"] = array
        used |= _paths_of(row)
        reads_first = row.layout.startswith(_sides(row).reads.layout)
        is_conv1d |= reads_first and not _is_table(row)
    for name, slot in slots.items():
        paths = set(slot.row.path.split())
        if paths <= flat.keys():
            module, _, end = name.rpartition(".")
            inside = f"{module}.base_layer" if module in ranks else module
            tensors[f"{PREFIX}{inside}.{end}"] = table.from_params(adapters, slot, cfg)
            used |= paths
    for path in [path for path in flat if path not in used]:
        raise ValueError(f"adapter {path!r} has no place in a {family} checkpoint")
    config = peft_config.write(
        lora_cfg, ranks, [name.removesuffix(".weight") for name in slots],
        fan_in_fan_out=is_conv1d, task_type=_task(cfg), base_model_name_or_path=base,
    )  # fmt: skip
    with hf.new_folder(folder) as new:
        text = json.dumps(config, indent=2) + "\n"
        (new / peft_config.FILE).write_text(text, encoding="utf-8")
        specs = {name: (a.shape, np.dtype(np.float32)) for name, a in tensors.items()}
        safetensors.write_file(new / WEIGHTS, specs, tensors.__getitem__)


def _sides(row: Row) -> Sides:
    each = [path.rpartition("/") for path in row.path.split()]
    above, inputs = each[0][0], dims.split_matrix(each[0][2])[0]
    groups = re.findall(r"\([^)]*\)|\w", row.layout)
    reads = next(group for group in groups if group.strip("()") == inputs)
    writes = next(group for group in groups if group is not reads)
    written = [
        f"{above}/{leaf.rpartition('_')[0]}_{dims.split_matrix(leaf)[1]}"
        for _, _, leaf in each
    ]
    return Sides(
        Row(row.name, f"{above}/read_{inputs}", reads),
        Row(row.name, " ".join(written), writes),
    )


def _slots(found: Mapping[str, Tensor], cfg: ModelConfig) -> dict[str, Slot]:
    """The base's tensors by name, of the family whose names the adapter has.

    Raises ValueError for a name, or a shape, that the base has not.
    """
    best, missing = {}, sorted(found)
    for name, family in hf.FAMILIES.items():
        try:
            hf.config_to_json(cfg, name)
        except ValueError:  # not a model of this family
            continue
        slots = dict(table.slots(family, cfg))
        slots |= {name.removeprefix(family.prefix): slots[name] for name in slots}
        unknown = [name for name in sorted(found) if _base_name(name) not in slots]
        if not best or len(unknown) < len(missing):
            best, missing = slots, unknown
    for name in missing:
        raise ValueError(
            f"{found[name].file}: tensor {PREFIX + name!r} is of {_base_name(name)!r}, "
            "which this base has not"
        )
    for name, tensor in found.items():
        _check_shape(name, tensor, best[_base_name(name)].row, cfg)
    return best


def _base_name(name: str) -> str:
    """Of the tensor of the base that a tensor of an adapter stands beside, or for."""
    part = PART.fullmatch(name)
    return f"{part[1]}.weight" if part else name.replace(".base_layer.", ".")


def _check_shape(name: str, tensor: Tensor, row: Row, cfg: ModelConfig) -> None:
    part = PART.fullmatch(name)
    if part is None:
        wanted = table.tensor_shape(row, cfg)
    elif not _is_matrix(row):
        raise ValueError(f"{tensor.file}: {row.name!r} cannot have an adapter here")
    elif _is_table(row) and cfg.encoder is not None:
        raise ValueError(
            f"{tensor.file}: an adapter of {row.name!r}, which encoder and decoder "
            "share: peft itself does not apply it"
        )
    else:
        reads, writes = (table.tensor_shape(side, cfg)[0] for side in _sides(row))
        wanted = {"A": ("r", reads), "B": (writes, "r")}.get(part[2], (writes,))
    fits = len(wanted) == len(tensor.shape) and all(
        size in ("r", actual) for size, actual in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        sizes = ", ".join(map(str, wanted))
        raise ValueError(
            f"{tensor.file}: tensor {PREFIX + name!r} has shape {tensor.shape}; this "
            f"base calls for ({sizes})"
        )
    if tensor.dtype.name not in table.FLOATS:
        raise ValueError(f"{tensor.file}: tensor {PREFIX + name!r} is {tensor.dtype}")


def _modules(found: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{module: {"A", "B" and perhaps "m": tensor}} of the adapted ones."""
    modules: dict[str, dict] = collections.defaultdict(dict)
    for name, tensor in found.items():
        if part := PART.fullmatch(name):
            modules[part[1]][part[2][0]] = tensor
    for module, parts in modules.items():
        for part in {"A", "B"} - parts.keys():
            file = next(iter(parts.values())).file
            raise ValueError(f"{file}: {module!r} has no lora_{part}")
    return modules


def _read_module(
    parts: Mapping[str, Tensor], row: Row, cfg: ModelConfig
) -> dict[str, np.ndarray]:
    """The leaves of one module, by path."""
    reads, writes = _sides(row)
    arrays = {part: np.float32(tensor.read()) for part, tensor in parts.items()}
    own = [_names(path) for path in row.path.split()]
    [a] = _unpack(arrays["A"], reads, cfg)
    is_shared = SHARED in _paths_of(row)
    found = {path: np.moveaxis(a, 0, -1) for path in
             ([SHARED] if is_shared else [names.a for names in own])}  # fmt: skip
    for names, b in zip(own, _unpack(arrays["B"].T, writes, cfg), strict=True):
        found[names.b] = b
    if "m" in arrays:
        lengths = _unpack(arrays["m"][None], writes, cfg)
        for names, [length] in zip(own, lengths, strict=True):
            found[names.magnitude] = length
    return found


def _unpack(vectors: np.ndarray, side: Row, cfg: ModelConfig) -> list[np.ndarray]:
    """Of each of the side's paths, [R, ...]; the vectors are [R, size]."""
    each = [[part for _, part in table.unpack(v, side, cfg)] for v in vectors]
    return [np.stack(parts) for parts in zip(*each, strict=True)]


def _pack(parts: list[np.ndarray], side: Row, cfg: ModelConfig) -> np.ndarray:
    """`_unpack` backwards."""
    cfg = table.config_of(side, cfg)
    return np.stack(
        [table.pack(list(of), side, cfg) for of in zip(*parts, strict=True)]
    )


def _write_module(
    row: Row, layer: int | None, flat: Mapping[str, Any], cfg: ModelConfig
) -> dict[str, np.ndarray]:
    """The tensors "A", "B" and perhaps "m" of one module.

    Matrices that are parts of one but read apart become blocks of one adapter: each
    writes what its own part of the rank has read.
    """
    reads, writes = _sides(row)
    own = [_names(path) for path in row.path.split()]

    def leaf(path: str) -> np.ndarray | None:
        value = flat.get(path)
        return value if value is None or layer is None else value[layer]

    each_a = [leaf(names.a) for names in own]
    if SHARED in _paths_of(row) & flat.keys():
        each_a, each_b = [leaf(SHARED)], [leaf(names.b) for names in own]
    else:
        total, before, each_b = sum(a.shape[-1] for a in each_a if a is not None), 0, []
        for names, path in zip(own, writes.path.split(), strict=True):
            shape = table.config_of(row, cfg).shape(path.rpartition("/")[2])
            each_b.append(np.zeros((total, *shape), np.float32))
            if (b := leaf(names.b)) is not None:
                each_b[-1][before : before + len(b)] = b
                before += len(b)
    a = [np.moveaxis(a, -1, 0) for a in each_a if a is not None]
    parts = {
        "A": np.concatenate([_pack([one], reads, cfg) for one in a]),
        "B": _pack(each_b, writes, cfg).T,
    }
    lengths = [leaf(names.magnitude) for names in own]
    if any(one is not None for one in lengths):
        if any(one is None for one in lengths):
            raise ValueError(f"{row.name!r} is one matrix: use DoRA on all or no part")
        parts["m"] = _pack([one[None] for one in lengths], writes, cfg)[0]
    return parts


def _read_plain(
    found: Mapping[str, Tensor], slots: Mapping[str, Slot], cfg: ModelConfig
) -> Iterator[tuple[str, int | None, np.ndarray]]:
    """(path, layer, value) of what is trained itself: biases.

    Tables that peft saves beside their adapters are those of the base, so passed over.
    """
    for name, tensor in found.items():
        slot = slots[_base_name(name)]
        if PART.fullmatch(name) or _is_matrix(slot.row):
            continue
        for path, value in table.unpack(np.float32(tensor.read()), slot.row, cfg):
            yield path, slot.layer, value


def _stack(
    path: str, layers: Mapping[int | None, np.ndarray], cfg: ModelConfig, where: object
) -> np.ndarray:
    """The leaf of all layers; where a layer has none, or less rank, there are zeros."""
    if None in layers:
        return layers[None]
    part = cfg.encoder if path.startswith("encoder/") and cfg.encoder else cfg
    is_pair = adapter.is_a(path) or adapter.is_b(path)
    if len(layers) < part.num_layers and not is_pair:
        raise ValueError(f"{where}: only some layers have {path!r}; all or none must")
    shape = np.max([value.shape for value in layers.values()], axis=0)
    stacked = np.zeros((part.num_layers, *shape), np.float32)
    for layer, value in layers.items():
        stacked[(layer, *map(slice, value.shape))] = value
    return stacked


def _flat(adapters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = jax.tree_util.tree_leaves_with_path(adapters)
    return {path_name(path): np.asarray(leaf, np.float32) for path, leaf in found}


def _names(path: str) -> adapter.Names:
    """`adapter.names` as paths."""
    above, _, name = path.rpartition("/")
    return adapter.Names(*(f"{above}/{part}" for part in adapter.names(name)))


def _paths_of(row: Row) -> set[str]:
    """Where adapters of the row's tensor may lie."""
    found = {path for of in row.path.split() for path in _names(of)}
    return found | {SHARED} if "/q_DNH " in row.path else found


def _is_matrix(row: Row) -> bool:
    leaves_of = (path.rpartition("/")[2] for path in row.path.split())
    return all(name in lora.MATRICES for name in leaves_of)


def _is_table(row: Row) -> bool:
    return row.path.endswith("/embed_VD")


def _task(cfg: ModelConfig) -> str | None:
    if cfg.head != "lm" or cfg.structure == "encoder":
        return None
    return "CAUSAL_LM" if cfg.encoder is None else "SEQ_2_SEQ_LM"
