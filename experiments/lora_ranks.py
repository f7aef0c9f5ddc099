"""LoRA beside full fine-tuning on instruction tasks: how good, how large, by rank.

    python experiments/instruction_tuning.py                  # first: it makes a base
    python experiments/lora_ranks.py                          # 2 CPU cores
    python experiments/lora_ranks.py --init_from=DIR --ranks=4,16 --bases=bfloat16

One model is tuned on the same examples, in as many steps: all its weights; adapters of
several ranks; and adapters beside a base held in 4 bits. It is one that
instruction_tuning.py tuned on a third of the clusters: there is something to adapt, and
most tasks are new. All are asked the same held-out questions. Each is a run of sft.py
or lora.py in a process of its own; killed and started again, the experiment goes on.
"""

import dataclasses
import shlex
from pathlib import Path

from llmjax import flags, host
from llmjax.config import field
from llmjax.data import assets, instructions
from llmjax.evals import instructions as asking
from llmjax.evals import lora_page as page
from llmjax.scaling import folder as folders
from llmjax.scaling import jobs
from llmjax.train import workdir

# New tasks bring new words: without those of the embeddings, adapters fall far behind.
TARGETS = "--lora.targets=attention/*,mlp/*,embed"
SETS = ("learned wordings", "held-out wordings", "held-out pairs")


@dataclasses.dataclass(frozen=True)
class RankConfig:
    """Which models are tuned, and for how long."""

    workdir: str = field("runs/lora_ranks", "all is written there, and resumed")
    init_from: str = field("runs/instructions/4_seed0", "the model that is tuned")
    ranks: tuple[int, ...] = field((4, 16, 64), "of the adapters")
    bases: tuple[str, ...] = field(("nf4",), "that --middle is tried beside too")
    middle: int = field(16, "the rank that must come close to full fine-tuning")
    num_steps: int = field(2000, "of tuning")
    batch_size: int = field(16, "rows of 256 tokens in a step")
    full_lr: float = field(1e-2, "at which all weights are trained, by Muon")
    lora_lr: float = field(1e-2, "at which adapters are trained, by Muon")
    parallel: int = field(2, "runs at a time, each on its share of the cores")
    flags: str = field("", "more flags for sft.py and lora.py")

    def __post_init__(self):
        if not self.ranks or min(self.ranks) < 1:
            raise ValueError("ranks: name one or more, all above 0")
        for name in ("middle", "num_steps", "batch_size", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


TUNE = flags.define("", RankConfig())
DATA = flags.define("data", instructions.InstructionConfig())


def main():
    cfg, data = TUNE(), DATA()
    start = assets.model_of_flag("init_from", cfg.init_from)
    folder = workdir.open_workdir(cfg.workdir).resolve()
    kept = ("init_from", "num_steps", "batch_size", "full_lr", "lora_lr", "flags")
    settings = {name: getattr(cfg, name) for name in kept} | {"data": data}
    chats = folder / "data" / "chats.jsonl"
    with folders.under_settings(folder, settings):
        instructions.write_learned(
            chats, data, len(instructions.CLUSTERS), 0, told=True
        )
    flags.save(folder)

    kinds = [(rank, "float32") for rank in sorted({*cfg.ranks, cfg.middle})]
    kinds += [(cfg.middle, base) for base in cfg.bases]
    runs = {page.FULL: job("full", folder, chats, f"--optim.lr={cfg.full_lr}")}
    for rank, base in kinds:
        name = page.name(rank, base)
        adapters = (f"--optim.lr={cfg.lora_lr}", f"--lora.rank={rank}",
                    f"--lora.alpha={2 * rank}", f"--lora.base={base}",
                    TARGETS)  # fmt: skip
        runs[name] = job(name.replace(" ", "_"), folder, chats, *adapters)
    failed = jobs.run(list(runs.values()), cfg.parallel)

    host.start()
    every = instructions.asked(data)
    sets = {name: every[name] for name in SETS}
    base = {page.BASE: asking.ask_kept(start, folder / "base.json", sets)}
    said = base | {
        name: asking.ask_kept(run.folder, run.folder / "answers.json", sets)
        for name, run in runs.items()
        if run.is_done
    }
    tuned = {name: runs[name].folder for name in said if name in runs}
    page.write(folder, sets, said, tuned, cfg.middle, settings, failed)


def job(name: str, folder: Path, chats: Path, *more: str) -> jobs.Job:
    """The run that tunes one model; adapters, if any flag is about them."""
    cfg, is_lora = TUNE(), any(flag.startswith("--lora") for flag in more)
    command = [
        f"experiments/{'lora' if is_lora else 'sft'}.py", f"--data.source={chats}",
        f"--init_from={assets.model(cfg.init_from).resolve()}",
        f"--workdir={folder / name}",
        "--data.context=256", "--data.validation_fraction=0.005", *more,
        "--optim.name=muon", "--optim.adam_lr_ratio=1",
        f"--num_steps={cfg.num_steps}", f"--train.batch_size={cfg.batch_size}",
        f"--train.eval_every={cfg.num_steps}", *shlex.split(cfg.flags),
    ]  # fmt: skip
    return jobs.Job(name, command, folder / name)


if __name__ == "__main__":
    flags.run(main)
