"""Opens a model where it lies: a Hugging Face folder, a GGUF file, a workdir."""

import dataclasses
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from llmjax import checkpoint, lora
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.data import assets, chat
from llmjax.data.tokenizer import Tokenizer, load_tokenizer
from llmjax.interop import gguf, gguf_file, gguf_vocabulary, hf, peft, peft_config
from llmjax.lora import LoraConfig
from llmjax.models import quantise, transformer
from llmjax.types import Model, Params


class Loaded(NamedTuple):
    """A model's config, its parameters (numpy or jax, float32), and its tokenizer."""

    cfg: ModelConfig
    params: Params
    tokenizer: Tokenizer | None

    @property
    def model(self) -> Model:
        return transformer.make(self.cfg)


def load(path: str | os.PathLike) -> Loaded:
    """The model at `path`; a tokenizer that lies beside the weights comes with it.

    path: of a folder, GGUF file or workdir; or a name that `assets.model` knows.

    Raises FileNotFoundError or ValueError in one line that names the file.
    """
    path = assets.model(path)
    if path.suffix == ".gguf":
        cfg, params, metadata = gguf.load(path)
        vocabulary = gguf_vocabulary.vocabulary(metadata)
        tokenizer = Tokenizer(vocabulary.core, **vocabulary.control)
        return Loaded(cfg, params, tokenizer)
    if (path / "checkpoints").is_dir():
        return _from_workdir(path)
    if (path / "config.json").is_file():
        cfg, params = hf.load(path)
        return Loaded(cfg, params, read_tokenizer(path, cfg))
    raise FileNotFoundError(
        f"{path}: no model here; give a Hugging Face folder (config.json and "
        "safetensors), a .gguf file, or the workdir of a run"
    )


def load_writer(path: str | None) -> Loaded:
    """The model of --init_from, to be tuned: it must be able to write in some words.

    Raises ValueError for an encoder, and where there is no tokenizer.
    """
    found = _load_start(path)
    if found.cfg.structure == "encoder":
        raise ValueError(f"--init_from={path} is an encoder, which cannot answer")
    return _with_tokenizer(found, f"--init_from={path}")


def load_trunk(path: str | None) -> Loaded:
    """The model of --init_from, to be given another head: an encoder or a decoder.

    Raises ValueError for both in one, and where there is no tokenizer.
    """
    found = _load_start(path)
    if found.cfg.encoder is not None:
        raise ValueError(f"--init_from={path}: give it an encoder or a decoder alone")
    return _with_tokenizer(found, f"--init_from={path}")


def load_scorer(
    path: str | os.PathLike, compute: ComputeConfig = ComputeConfig()
) -> tuple[Loaded, Callable[..., jax.Array]]:
    """A model that gives one score, and what computes it: see `transformer.classifier`.

    Raises ValueError for a model that does something else.
    """
    found = load(path)
    if found.cfg.head != "classes" or found.cfg.num_classes != 1:
        raise ValueError(
            f"{path} is no reward model; experiments/reward_model.py makes one"
        )
    return _with_tokenizer(found, path), transformer.classifier(found.cfg, compute)


def _load_start(path: str | None) -> Loaded:
    if path is None:
        raise ValueError("--init_from is needed: a model folder, .gguf file or workdir")
    return load(path)


def _with_tokenizer(found: Loaded, where: str | os.PathLike) -> Loaded:
    if found.tokenizer is None:
        raise ValueError(f"{where}: no tokenizer.json beside the model")
    return found


def chat_template(path: str | os.PathLike) -> str | None:
    """The template for conversations of the model at `path`, if it has one."""
    path = assets.model(path)
    if path.suffix == ".gguf":
        return gguf_file.open_file(path)[0].get("tokenizer.chat_template")
    return chat.find(path)


def load_adapter(
    path: str | os.PathLike, base: Loaded
) -> tuple[LoraConfig, dict[str, Any]]:
    """LoRA adapters for the base: of a PEFT folder, or the workdir of a run.

    Raises FileNotFoundError, or ValueError if they are for another base.
    """
    path = Path(path).expanduser()
    if (path / peft_config.FILE).is_file():
        cfg, adapters = peft.load(path, base.cfg)
    elif (path / "checkpoints").is_dir() and "lora" in (config := _read_config(path)):
        cfg = LoraConfig.from_json(config["lora"])
        abstract = jax.eval_shape(
            partial(lora.init, cfg), base.params, jax.random.key(0)
        )
        part = config.get("part", "")
        adapters = checkpoint.read_params(path / "checkpoints", abstract, part=part)
    else:
        raise FileNotFoundError(
            f"{path}: no adapter here; give a PEFT folder ({peft_config.FILE}) or the "
            "workdir of a run with LoRA"
        )
    try:
        lora.check(base.params, adapters)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return cfg, adapters


def merge_adapter(path: str | os.PathLike, base: Loaded) -> Loaded:
    """The base with the adapters at `path` merged into its parameters.

    Adapters of the embedding alone untie a head that was tied to it.
    """
    cfg, adapters = load_adapter(path, base)
    if base.cfg.tied and "embed_a_VR" in adapters.get("embed", {}):
        own = dataclasses.replace(base.cfg, tied=False)
        base = base._replace(cfg=own, params=lora.untied(base.params))
    return base._replace(params=lora.merge(base.params, adapters, cfg))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text())
        ModelConfig.from_json(config["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}/config.json: not a run's config ({error})") from None
    return config


def _as_frozen(params: Params, dtype: str) -> Params:
    """The base as an adapter beside it knew it, so that both are merged in float32."""
    params = quantise.narrow(params, dtype)
    return quantise.narrow(params, "float32") if dtype == "bfloat16" else params


def _from_workdir(path: Path) -> Loaded:
    config = _read_config(path)
    cfg = ModelConfig.from_json(config["model"])
    if "lora" in config:  # a run that keeps adapters only, and names their base
        base = load(config["base"])
        frozen = _as_frozen(base.params, LoraConfig.from_json(config["lora"]).base)
        if cfg.head == "classes":  # of its own, which the run keeps
            frozen = transformer.with_score_head(cfg, frozen, jax.random.key(0))
        return merge_adapter(path, Loaded(cfg, frozen, base.tokenizer))._replace(
            tokenizer=read_tokenizer(path, cfg) or base.tokenizer
        )
    abstract = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    part = config.get("part", "")  # where a critic, say, was trained beside
    params = checkpoint.read_params(path / "checkpoints", abstract, part=part)
    return Loaded(cfg, params, read_tokenizer(path, cfg))


class Endings(NamedTuple):
    """How the texts that a model writes begin and end.

    stop_ids: any of these ends a text. first_id: what each begins with; last_id: what
      ends one that has not ended in time. Encoder-decoders have these two, as
      forced_bos_token_id and forced_eos_token_id.
    """

    stop_ids: tuple[int, ...] = ()
    first_id: int | None = None
    last_id: int | None = None


def endings(path: str | os.PathLike) -> Endings:
    """Those of a Hugging Face folder: of generation_config.json, else config.json."""
    configs = [
        json.loads(file.read_text())
        for name in ("generation_config.json", "config.json")
        if (file := assets.model(path) / name).is_file()
    ]

    def find(name):
        values = (config.get(name) for config in configs)
        return next((value for value in values if value is not None), None)

    stops = find("eos_token_id")
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    first_id, last_id = find("forced_bos_token_id"), find("forced_eos_token_id")
    for value in (*stops, first_id, last_id):
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(
                f"{path}: an id of a token must be a number, not {value!r}"
            )
    return Endings(tuple(stops), first_id, last_id)


def read_tokenizer(folder: Path, cfg: ModelConfig) -> Tokenizer | None:
    """The tokenizer in a folder, if there is one and its ids are those of a model."""
    if not (folder / "tokenizer.json").is_file():
        return None
    tokenizer: Any = load_tokenizer(folder / "tokenizer.json")
    if tokenizer.vocab_size > cfg.vocab_size:
        raise ValueError(
            f"{folder}/tokenizer.json has {tokenizer.vocab_size} ids but the model "
            f"embeds {cfg.vocab_size}: they do not belong together"
        )
    return tokenizer
