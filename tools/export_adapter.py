"""Writes the adapters of a run as a folder that Hugging Face PEFT loads.

    python tools/export_adapter.py runs/lora DIR
    python tools/export_adapter.py runs/lora DIR --family=llama

The base goes by the name that the run has for it. --family is needed where the base is
not a Hugging Face folder, which says its own.
"""

import json
from pathlib import Path

from absl import flags as absl_flags

from llmjax import flags, load
from llmjax.interop import hf, peft

FAMILY = absl_flags.DEFINE_string("family", None, "model_type of the base")


def main(src: str, dst: str) -> None:
    try:
        config = json.loads((Path(src) / "config.json").read_text(encoding="utf-8"))
        base_path = Path(config["base"])
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{src}: not the workdir of a run with LoRA") from None
    base = load.load(base_path)
    cfg, adapters = load.load_adapter(src, base)
    family = FAMILY.value or family_of(base_path)
    if family not in hf.FAMILIES:
        raise ValueError(f"--family={family}: one of {', '.join(hf.FAMILIES)}")
    peft.save(dst, base.cfg, cfg, adapters, family=family, base=str(base_path))
    print(f"{src} -> {dst}: adapters for {base_path}")


def family_of(base: Path) -> str:
    if (base / hf.CONFIG).is_file():
        config = json.loads((base / hf.CONFIG).read_text(encoding="utf-8"))
        if "model_type" in config:
            return config["model_type"]
    raise ValueError(f"{base} names no family: give --family, such as llama")


if __name__ == "__main__":
    flags.run(main, "RUN", "DIR")
