"""Hugging Face checkpoint folders: config.json and safetensors, read and written."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmjax.config import ModelConfig
from llmjax.interop import gpt2, llama, safetensors, table
from llmjax.interop.safetensors import Tensor
from llmjax.interop.table import Family

FAMILIES: dict[str, Family] = {"gpt2": gpt2.FAMILY, "llama": llama.FAMILY}

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
COPIED = (".json", ".txt", ".model", ".jinja")  # what a tokenizer is made of, too


def load(folder: str | os.PathLike) -> tuple[ModelConfig, dict[str, Any]]:
    """The config and the parameters, numpy float32 with the layers stacked.

    Names and shapes are compared with config.json before anything is read. Raises
    ValueError or FileNotFoundError, naming the file and the field or tensor.
    """
    folder = pathlib.Path(folder)
    family, cfg = read_config(folder)
    found = open_folder(folder)
    expected = table.match(found, family, cfg, folder)
    return cfg, table.to_params(found, expected, cfg)


def save(
    folder: str | os.PathLike,
    cfg: ModelConfig,
    params: Mapping[str, Any],
    *,
    family: str,
    dtype: str = "float32",
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a new folder that transformers loads as a model of this family.

    dtype: float32, float16 or bfloat16. More than `max_shard_bytes` of tensors become
    several files with an index. Raises ValueError where the family cannot express the
    config, or the parameters do not fit it; then there is no folder.
    """
    # Left out, these ids would be those of some other vocabulary.
    ids = {"bos_token_id": None, "eos_token_id": None}
    config = config_to_json(cfg, family) | ids | {"torch_dtype": dtype}
    if dtype not in table.FLOATS:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(table.FLOATS)}")
    table.check_params(params, FAMILIES[family], cfg)
    slots = dict(table.slots(FAMILIES[family], cfg))
    stored = safetensors.dtype(dtype)
    shards = _shards(slots, cfg, max_shard_bytes // stored.itemsize)
    with _new_folder(folder) as new:
        for file, names in shards.items():
            specs = {n: (table.tensor_shape(slots[n].row, cfg), stored) for n in names}
            safetensors.write_file(
                new / file,
                specs,
                lambda name: table.from_params(params, slots[name], cfg),
            )
        _write_json(new / CONFIG, config)
        if len(shards) > 1:
            files = {name: file for file, names in shards.items() for name in names}
            shapes = [table.tensor_shape(slot.row, cfg) for slot in slots.values()]
            num_bytes = sum(map(math.prod, shapes)) * stored.itemsize
            index = {"metadata": {"total_size": num_bytes}, "weight_map": files}
            _write_json(new / INDEX, index)


def save_like(
    folder: str | os.PathLike, params: Mapping[str, Any], source: str | os.PathLike
) -> None:
    """Writes the parameters to a new folder in the form of the checkpoint `source`.

    Its config.json, tokenizer files, shards, tensor names, order and dtypes are kept,
    and its buffers copied: parameters that were only loaded give the same bytes.
    """
    source = pathlib.Path(source)
    family, cfg = read_config(source)
    found = open_folder(source)
    slots = table.match(found, family, cfg, source)
    table.check_params(params, family, cfg)
    embedding = next(slot for slot in slots.values() if slot.row.name == family.tied[1])

    def chunks(file: pathlib.Path) -> Iterator[bytes | np.ndarray]:
        with open(file, "rb") as opened:
            yield opened.read(safetensors.header_bytes(file))
        for name, tensor in safetensors.open_file(file).items():
            slot = embedding if name == family.tied[0] else None
            slot = slots.get(name, slot)
            if slot is None:
                yield tensor.read()
            else:
                yield table.from_params(params, slot, cfg).astype(tensor.dtype)

    with _new_folder(folder) as new:
        for path in source.iterdir():
            if path.suffix in COPIED and path.is_file():
                shutil.copyfile(path, new / path.name)
        for file in {tensor.file for tensor in found.values()}:
            safetensors.write_bytes(new / file.name, chunks(file))


def read_config(folder: pathlib.Path) -> tuple[Family, ModelConfig]:
    """The family and the ModelConfig of a folder's config.json."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; give the folder of a checkpoint")
    config = _read_json(path)
    try:
        return FAMILIES[_family_name(config)], config_from_json(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def config_from_json(config: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig of a config.json, in the dialect of transformers v4 or v5.

    Every field that the model class reads is honoured, or refused with a ValueError
    that names it.
    """
    return FAMILIES[_family_name(config)].read_config(config)


def config_to_json(cfg: ModelConfig, family: str) -> dict[str, Any]:
    """The config.json of a ModelConfig, readable by transformers v4 and v5.

    Raises ValueError, naming the field, where the family cannot express the config.
    """
    config = FAMILIES[_family_name({"model_type": family})].write_config(cfg)
    back = config_from_json(config)
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if getattr(back, field.name) != value:
            raise ValueError(f"a {family} checkpoint has no {field.name}={value!r}")
    return config


def open_folder(folder: pathlib.Path) -> dict[str, Tensor]:
    """The tensors of a folder by name, of one file or of those that an index lists."""
    if (folder / WEIGHTS).is_file():
        return safetensors.open_file(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        return _open_index(folder / INDEX)
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLES:
            raise ValueError(
                f"{path}: pickled weights can run any code, so they are never loaded; "
                f"convert them to {WEIGHTS} where you trust them"
            )
    raise FileNotFoundError(f"{folder / WEIGHTS}: missing, and so is {INDEX}")


def _open_index(path: pathlib.Path) -> dict[str, Tensor]:
    files = _read_json(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{path}: no weight_map from tensor names to files")
    found: dict[str, Tensor] = {}
    for file in sorted({str(file) for file in files.values()}):
        if not file.endswith(".safetensors") or set(file) & set("/\\:\0"):
            raise ValueError(
                f"{path}: {file!r} is not the name of a safetensors file in this folder"
            )
        shard = path.with_name(file)
        if not shard.is_file():
            raise FileNotFoundError(f"{shard}: missing, but listed in {path.name}")
        tensors = safetensors.open_file(shard)
        for name in tensors.keys() & found.keys():
            raise ValueError(f"{shard}: tensor {name!r} is also in {found[name].file}")
        found |= tensors
    for name, file in files.items():
        if name not in found or found[name].file.name != file:
            raise ValueError(f"{path}: tensor {name!r} is not in {file!r}")
    return found


def _family_name(config: Mapping[str, Any]) -> str:
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(
            f"model_type={name!r} is not a known family; known: {', '.join(FAMILIES)}"
        )
    return name


def _shards(slots: Mapping, cfg: ModelConfig, max_items: int) -> dict[str, list[str]]:
    """Tensor names by file, in the order of the table, filled one after another."""
    groups, num_items = [[]], 0
    for name, slot in slots.items():
        size = math.prod(table.tensor_shape(slot.row, cfg))
        if groups[-1] and num_items + size > max_items:
            groups.append([])
            num_items = 0
        groups[-1].append(name)
        num_items += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    stem, last = pathlib.Path(WEIGHTS).stem, len(groups)
    return {
        f"{stem}-{i:05d}-of-{last:05d}.safetensors": group
        for i, group in enumerate(groups, 1)
    }


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not a JSON object")
    return value


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _new_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to write into, that takes its name when all is written."""
    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: already there; choose a new folder")
    new = folder.with_name(f"{folder.name}.tmp")
    new.mkdir(parents=True)
    try:
        yield new
        os.replace(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
