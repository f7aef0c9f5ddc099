"""adapter_config.json of Hugging Face PEFT's LoRA, read and written.

https://huggingface.co/docs/peft/package_reference/lora
"""

import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from llmjax.interop import fields
from llmjax.lora import LoraConfig

FILE = "adapter_config.json"
SCALINGS = {False: "alpha/r", True: "alpha/sqrt(r)"}
# What is read here, or by `peft`; which modules are adapted, the tensors say.
READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "bias",
    "alpha_pattern", "init_lora_weights",
}  # fmt: skip
# What does not change what an adapter computes once it is trained.
PASSED_OVER = {
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "rank_pattern", "fan_in_fan_out", "auto_mapping", "base_model_name_or_path",
    "revision", "task_type", "inference_mode", "peft_version", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config", "eva_config",
    "ensure_weight_tying",
}  # fmt: skip
# Initialisations that leave the base as it is; others take from it what they add.
NEUTRAL_INITS = (None, True, False, "gaussian", "eva", "orthogonal")


def read(path: pathlib.Path) -> dict[str, Any]:
    """The fields; ValueError names one that asks for what is not LoRA here."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing; give the folder of an adapter")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    try:
        check(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def check(config: Any) -> None:
    """Raises ValueError unless every field is one that is honoured, or says nothing."""
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ValueError("not a LoRA adapter: peft_type must be LORA")
    for name in config.keys() - READ - PASSED_OVER:
        if config[name]:
            raise ValueError(f"{name}={config[name]!r} is not supported")
    init = config.get("init_lora_weights")
    if init not in NEUTRAL_INITS:
        raise ValueError(
            f"init_lora_weights={init!r} changes the base, so the adapter is not of "
            "the model that it names; have peft save it converted to plain LoRA"
        )


def to_lora(config: Mapping[str, Any]) -> LoraConfig:
    """The LoraConfig, but for what it is of: the tensors tell."""
    bias = config.get("bias", "none")
    if bias not in ("none", "lora_only", "all"):
        raise ValueError(f"bias={bias!r} must be none, lora_only or all")
    return LoraConfig(
        rank=fields.integer(config, "r", 8),
        alpha=fields.number(config, "lora_alpha", 8.0),
        scaling=SCALINGS[fields.boolean(config, "use_rslora", False)],
        dropout=float(config.get("lora_dropout") or 0.0),
        dora=fields.boolean(config, "use_dora", False),
        bias=bias,
    )


def scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What a module's adapter is multiplied by: it may have an alpha of its own."""
    alpha = config.get("lora_alpha", 8)
    for pattern, own in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = own
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write(
    cfg: LoraConfig, ranks: Mapping[str, int], modules: list[str], **more: Any
) -> dict[str, Any]:
    """The fields of a LoraConfig.

    ranks: of each adapted module. modules: the names of all modules there are, so that
      `target_modules` says no more of each than it must. more: other fields.
    """
    others = {module: rank for module, rank in ranks.items() if rank != cfg.rank}
    root = cfg.scaling == "alpha/sqrt(r)"
    return {
        "peft_type": "LORA",
        "r": cfg.rank,
        "lora_alpha": _whole(cfg.alpha),
        "lora_dropout": cfg.dropout,
        "use_rslora": root,
        "use_dora": cfg.dora,
        "bias": cfg.bias,
        "target_modules": _shorten(list(ranks), modules),
        "rank_pattern": {re.escape(name): rank for name, rank in others.items()},
        "alpha_pattern": {
            re.escape(name): _whole(cfg.scale * (math.sqrt(rank) if root else rank))
            for name, rank in others.items()
        },
        "modules_to_save": None,
        "inference_mode": True,
        **more,
    }


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _shorten(adapted: list[str], modules: list[str]) -> list[str]:
    """The shortest ends of names that mean the adapted modules and no others."""
    for num_parts in range(1, max(name.count(".") for name in adapted) + 2):
        ends = {".".join(name.split(".")[-num_parts:]) for name in adapted}
        meant = {
            name
            for name in modules
            if any(name == end or name.endswith(f".{end}") for end in ends)
        }
        if meant == set(adapted):
            return sorted(ends)
    return sorted(adapted)
