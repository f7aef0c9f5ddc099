"""Hugging Face checkpoint folders: config.json and safetensors, read and written."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmjax.config import ModelConfig
from llmjax.interop import (
    bart,
    bert,
    gemma,
    gpt2,
    gpt_neox,
    leaves,
    llama,
    mistral,
    modernbert,
    olmo2,
    qwen,
    safetensors,
    smollm3,
    t5,
    table,
)
from llmjax.interop.safetensors import Tensor
from llmjax.interop.table import Family

FAMILIES: dict[str, Family] = {
    "gpt2": gpt2.FAMILY,
    "gpt_neox": gpt_neox.FAMILY,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    **qwen.FAMILIES,
    **gemma.FAMILIES,
    "olmo2": olmo2.FAMILY,
    "smollm3": smollm3.FAMILY,
    **bert.FAMILIES,
    "modernbert": modernbert.FAMILY,
    **t5.FAMILIES,
    **bart.FAMILIES,
}

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER = ".header"  # after a file's name: only the beginning of that file
BUFFERS = "buffers.safetensors"
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
    config: Mapping[str, Any] | None = None,
    files: Iterable[pathlib.Path] = (),
) -> None:
    """Writes a new folder that transformers loads as a model of this family.

    Leaves may be those of `llmjax.interop.leaves`: little of them is in memory then.
    dtype: float32, float16 or bfloat16. More than `max_shard_bytes` of tensors become
    several files with an index. config: the config.json, unless it is to be made from
    `cfg`. files: what else the folder holds. Raises ValueError where the family cannot
    express the config, or the parameters do not fit it; then there is no folder.
    """
    if config is None:
        # Left out, these ids would be those of some other vocabulary.
        ids = {"bos_token_id": None, "eos_token_id": None}
        config = config_to_json(cfg, family) | ids | {"torch_dtype": dtype}
    if dtype not in table.FLOATS:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(table.FLOATS)}")
    table.check_params(params, FAMILIES[family], cfg)
    slots = dict(table.slots(FAMILIES[family], cfg))
    stored = safetensors.dtype(dtype)
    shapes = {name: table.tensor_shape(slot.row, cfg) for name, slot in slots.items()}
    shards = _shards(shapes, max_shard_bytes // stored.itemsize)
    with new_folder(folder) as new:
        for path in files:
            shutil.copyfile(path, new / path.name)
        _write_json(new / CONFIG, config)
        if len(shards) > 1:
            names = {name: file for file, shard in shards.items() for name in shard}
            num_bytes = sum(map(math.prod, shapes.values())) * stored.itemsize
            index = {"metadata": {"total_size": num_bytes}, "weight_map": names}
            _write_json(new / INDEX, index)
        for file, names in shards.items():
            specs = {name: (shapes[name], stored) for name in names}
            safetensors.allocate(new / file, safetensors.make_header(specs))
        _fill(open_folder(new), slots, params, cfg)


def save_like(
    folder: str | os.PathLike, params: Mapping[str, Any], source: str | os.PathLike
) -> None:
    """Writes the parameters to a new folder in the form of the checkpoint `source`.

    Its config.json, tokenizer files, shards, tensor names, order and dtypes are kept,
    and its buffers copied: parameters that were only loaded give the same bytes.
    `source` is a folder, or what `save_form` has left of one.
    """
    source = pathlib.Path(source)
    family, cfg = read_config(source)
    table.check_params(params, family, cfg)
    headers, buffers = _read_form(source)
    with new_folder(folder) as new:
        copy_files(source, new)
        for file, header in headers.items():
            safetensors.allocate(new / file, header)
        found = open_folder(new)
        slots = table.match(found, family, cfg, source)
        _fill(found, slots, params, cfg)
        others = table.repeats(found, family)
        for name in found.keys() - slots.keys():
            if others.get(name) in slots:
                _fill(found, {name: slots[others[name]]}, params, cfg)
            elif found[name].shape != buffers[name].shape:
                raise ValueError(f"{source}: buffer {name!r} has another shape")
            else:
                found[name].read("r+")[...] = buffers[name].read()


def save_form(folder: pathlib.Path, source: pathlib.Path) -> None:
    """Keeps in a new folder all of a checkpoint but the values of its parameters."""
    family, cfg = read_config(source)
    found = open_folder(source)
    slots = table.match(found, family, cfg, source)
    others = table.repeats(found, family)
    buffers = [n for n in found.keys() - slots.keys() if others.get(n) not in slots]
    specs = {name: (found[name].shape, found[name].dtype) for name in buffers}
    folder.mkdir()
    copy_files(source, folder)
    for file, header in _read_form(source)[0].items():
        (folder / f"{file}{HEADER}").write_bytes(header)
    safetensors.write_file(folder / BUFFERS, specs, lambda name: found[name].read())


def copy_files(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies what lies beside the weights: the config, the tokenizer, an index.

    Also the configs of sentence-transformers' modules, each in a folder of its own.
    """
    for path in (*source.iterdir(), *source.glob("[0-9]_*/config.json")):
        if path.suffix in COPIED and path.is_file():
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)


def _read_form(source: pathlib.Path) -> tuple[dict[str, bytes], dict[str, Tensor]]:
    """The header of each file of weights, and at least the tensors that are buffers."""
    headers = {
        path.name.removesuffix(HEADER): path.read_bytes()
        for path in source.glob(f"*.safetensors{HEADER}")
    }
    if headers:
        return headers, safetensors.open_file(source / BUFFERS)
    found = open_folder(source)
    for file in {tensor.file for tensor in found.values()}:
        with open(file, "rb") as opened:
            headers[file.name] = opened.read(safetensors.header_bytes(file))
    return headers, found


def _fill(
    found: Mapping[str, Tensor],
    slots: Mapping[str, table.Slot],
    params: Mapping[str, Any],
    cfg: ModelConfig,
) -> None:
    """Sets tensors of new files to the parameters, leaf by leaf."""
    for path, target in leaves.collect(found, slots, cfg).items():
        source: Any = params
        for key in path.split("/"):
            source = source[key]
        leaves.copy(source, target, target.block_shape)


def read_config(folder: pathlib.Path) -> tuple[Family, ModelConfig]:
    """The family and the ModelConfig of a folder's config.json."""
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; give the folder of a checkpoint")
    config = _read_json(path)
    try:
        family, cfg = FAMILIES[_family_name(config)], config_from_json(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return family, family.fit(cfg, _names(folder)) if family.fit else cfg


def _names(folder: pathlib.Path) -> set[str]:
    """The names of the tensors of a folder, or of what `save_form` has left of one."""
    files = [*folder.glob("*.safetensors"), *folder.glob(f"*.safetensors{HEADER}")]
    return {name for file in files for name in safetensors.read_header(file)}


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
    known = FAMILIES[_family_name({"model_type": family})]
    config = known.write_config(cfg)
    back = config_from_json(config)
    if known.fit and bool(cfg.encoder) == bool(back.encoder):
        back = known.fit(back, {name for name, _ in table.slots(known, cfg)})
    wrong = _difference(cfg, back)
    if wrong:
        raise ValueError(f"a {family} checkpoint has no {wrong}")
    return config


def _difference(cfg: ModelConfig, other: ModelConfig, prefix: str = "") -> str:
    """The first field that is not the other's, as name=value; empty if none is."""
    for field in dataclasses.fields(cfg):
        value, others = getattr(cfg, field.name), getattr(other, field.name)
        if value != others:
            if isinstance(value, ModelConfig) and isinstance(others, ModelConfig):
                return _difference(value, others, f"{field.name}.")
            return f"{prefix}{field.name}={value!r}"
    return ""


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


def _shards(shapes: Mapping[str, tuple], max_items: int) -> dict[str, list[str]]:
    """Tensor names by file, in the order of the table, filled one after another."""
    groups, num_items = [[]], 0
    for name, shape in shapes.items():
        size = math.prod(shape)
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
def new_folder(folder: str | os.PathLike) -> Iterator[pathlib.Path]:
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
