"""Converts a model between a Hugging Face folder, a GGUF file and a llmjax checkpoint.

    python tools/convert.py HF_FOLDER WORKDIR    # a checkpoint that llmjax opens
    python tools/convert.py WORKDIR HF_FOLDER    # a folder that transformers opens
    python tools/convert.py MODEL.gguf WORKDIR   # GGUF files are only read
    python tools/convert.py HF_FOLDER OTHER --format=hf --dtype=bfloat16

Tensors go through memory a few megabytes at a time. A checkpoint remembers the form of
the folder it came from: the way back gives the same bytes, unless --dtype,
--max_shard_bytes or --like ask for another form. DST appears when all is written.
"""

import dataclasses
import json
import os
import pathlib
import resource
import shutil
import signal
import sys
import tempfile
from typing import Any, NamedTuple

from absl import flags as absl_flags
from rich.console import Console
from rich.progress import Progress

from llmjax import checkpoint_stream, flags, load
from llmjax.config import ModelConfig
from llmjax.data.tokenizer import Tokenizer
from llmjax.interop import gguf, hf, leaves
from llmjax.train import workdir

FORMAT = absl_flags.DEFINE_enum(
    "format", None, ["hf", "llmjax"], "of DST; default: llmjax, or hf where SRC is that"
)
DTYPE = absl_flags.DEFINE_string("dtype", None, "of the tensors in a Hugging Face DST")
MAX_SHARD_BYTES = absl_flags.DEFINE_integer(
    "max_shard_bytes", None, "of a file in a Hugging Face DST", lower_bound=1
)
LIKE = absl_flags.DEFINE_string(
    "like", None, "give DST the names, dtypes and files of this Hugging Face folder"
)
FAMILY = absl_flags.DEFINE_string(
    "family", None, "model_type of DST, where the config.json of SRC names none"
)

FORM = "huggingface"  # in a workdir: what hf.save_form keeps
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class Source(NamedTuple):
    """A model to convert.

    family: its model_type; None for a run of llmjax that was never anything else.
    leaves: its parameters by path, still on disk.
    form: the folder, whole or without values, whose form a Hugging Face DST takes.
    tokenizer: the files of it, and the ids that a config.json names.
    """

    cfg: ModelConfig
    family: str | None
    leaves: dict[str, Any]
    form: pathlib.Path | None
    tokenizer: list[pathlib.Path]
    ids: dict[str, int | None]


class Watched:
    """A leaf that tells how many bytes have been read of it."""

    def __init__(self, leaf: Any, progress: Progress):
        self.leaf, self.progress, self.shape = leaf, progress, leaf.shape

    def __getitem__(self, index: tuple[slice, ...]):
        block = self.leaf[index]
        self.progress.advance(self.progress.task_ids[0], block.nbytes)
        return block


def main(src: str, dst: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of `finally`
    target = pathlib.Path(dst).expanduser()
    if target.suffix == ".gguf":
        raise ValueError(f"{dst}: GGUF files are read, not written; name a folder")
    with tempfile.TemporaryDirectory() as scratch, Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        source = open_source(pathlib.Path(src).expanduser(), pathlib.Path(scratch))
        sizes = [4 * math.prod(leaf.shape) for leaf in source.leaves.values()]
        progress.add_task("converting", total=sum(sizes))
        params = leaves.nest(
            {path: Watched(leaf, progress) for path, leaf in source.leaves.items()}
        )
        if (FORMAT.value or source.other_format) == "hf":
            write_folder(target, source, params)
        else:
            write_workdir(target, source, params)
    num_bytes = sum(path.stat().st_size for path in target.rglob("*"))
    print(
        f"{src} -> {dst}: {len(sizes)} tensors, {num_bytes / 1e9:.3f} GB, "
        f"peak memory {peak_bytes() / 1e6:.0f} MB"
    )


def open_source(path: pathlib.Path, scratch: pathlib.Path) -> Source:
    """The model at `path`; files that it does not have as such are made in `scratch`."""
    if path.suffix == ".gguf":
        source = open_gguf(path, scratch)
    elif (path / "checkpoints").is_dir():
        source = open_workdir(path)
    else:
        source = open_folder(path)
    changes: dict[str, Any] = {}
    if FAMILY.value:
        changes["family"] = FAMILY.value
    if LIKE.value:
        changes["form"] = pathlib.Path(LIKE.value).expanduser()
    source = source._replace(**changes)
    if source.form and hf.read_config(source.form)[1] != source.cfg:
        raise ValueError(f"{source.form}/config.json describes another model than {path}")
    return source


def open_folder(path: pathlib.Path) -> Source:
    family, cfg = hf.read_config(path)
    found = hf.open_folder(path)
    slots = table.match(found, family, cfg, path)
    load.read_tokenizer(path, cfg)  # refuses one of another vocabulary
    name = read_json(path / hf.CONFIG)["model_type"]
    return Source(cfg, name, leaves.collect(found, slots, cfg), "llmjax", path, path)


def open_gguf(path: pathlib.Path, scratch: pathlib.Path) -> Source:
    cfg, found, slots, metadata = gguf.open_model(path)
    vocabulary = gguf.vocabulary(metadata)
    tokenizer = Tokenizer(vocabulary.core, **vocabulary.control)
    tokenizer.save(scratch / "tokenizer.json")
    if vocabulary.chat_template:
        (scratch / "chat_template.jinja").write_text(vocabulary.chat_template)
    params = leaves.collect(leaves.keep_latest(found), slots, cfg)
    return Source(cfg, gguf.FAMILY, params, "llmjax", scratch, None)


def open_workdir(path: pathlib.Path) -> Source:
    try:
        config = read_json(path / "config.json")
        cfg = ModelConfig.from_json(config["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}/config.json: not a run's config ({error})") from None
    params = checkpoint_stream.open_params(path / "checkpoints")
    form = path / FORM if (path / FORM).is_dir() else None
    return Source(cfg, config.get("family"), params, "hf", path, form)


def write_folder(folder: pathlib.Path, source: Source, params: dict) -> None:
    """A Hugging Face folder: in the form of another, or one of our own."""
    is_free = not (DTYPE.value or MAX_SHARD_BYTES.value or FAMILY.value)
    if source.form and (is_free or LIKE.value):
        if not is_free:
            raise ValueError("--like settles --dtype, --max_shard_bytes and --family")
        hf.save_like(folder, params, source.form)
        return
    if not source.family:
        raise ValueError(
            f"--family is needed, one of {', '.join(hf.FAMILIES)}: SRC names none"
        )
    config = folder_config(source)
    hf.save(
        folder,
        source.cfg,
        params,
        family=source.family,
        dtype=config["torch_dtype"],
        config=config,
        files=beside_weights(source.form or source.files),
        **({"max_shard_bytes": MAX_SHARD_BYTES.value} if MAX_SHARD_BYTES.value else {}),
    )


def folder_config(source: Source) -> dict[str, Any]:
    """The config.json of a Hugging Face DST: that of its form, or a new one."""
    if source.form:
        config = read_json(source.form / hf.CONFIG)
    else:
        tokenizer = load.read_tokenizer(source.files, source.cfg)
        ids = {
            f"{role}_token_id": getattr(tokenizer, f"{role}_id", None)
            for role in ("bos", "eos")
        }
        config = hf.config_to_json(source.cfg, source.family) | ids
    stored = config.pop("dtype", None) or config.get("torch_dtype") or "float32"
    return config | {"torch_dtype": DTYPE.value or stored}


def write_workdir(folder: pathlib.Path, source: Source, params: dict) -> None:
    """A folder like that of a run, with a checkpoint that holds parameters only."""
    if DTYPE.value or MAX_SHARD_BYTES.value:
        raise ValueError("--dtype and --max_shard_bytes are for --format=hf")
    config = {
        "experiment": "convert",
        "model": dataclasses.asdict(source.cfg),
        "family": source.family,
        "versions": workdir.versions(),
    }
    with hf.new_folder(folder) as new:
        stored = checkpoint_stream.create_params(
            new / "checkpoints", leaves.nest(source.leaves), {"config": config}
        )
        for path, target in stored.items():
            leaves.copy(leaves.leaf(params, path), target, source.leaves[path].block_shape)
        workdir.write_json(new / "config.json", config)
        for path in beside_weights(source.files):
            if path.name in TOKENIZER:
                shutil.copyfile(path, new / path.name)
        if source.form:
            hf.save_form(new / FORM, source.form)
