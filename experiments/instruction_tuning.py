"""Instruction tuning, and to what it generalises: new wordings, new pairs, new tasks.

    python experiments/instruction_tuning.py --num_seeds=1  # 35 minutes on 2 CPU cores
    python experiments/instruction_tuning.py --workdir=runs/smollm2 --clusters=12 \
        --base=smollm2 --num_seeds=1 --num_untold=0 --num_steps=150 \
        --batch_size=4 --data.num_asked=4 --data.num_asked_pair=1     # LoRA

A small base is tuned on the small tasks of 4, 8 or 12 clusters, in as many steps on as
many examples each, and then asked, without any example, what it was never tuned on:
other wordings of its tasks, other pairs of them ("reverse the letters, then name the
first letter"), and tasks and whole clusters that are new. What is asked is the same for
all models, also for the base, and asked once more without the instruction.

Each model is a run of experiments/pretrain.py, sft.py or lora.py in a process of its
own. Killed and started again in its workdir, the experiment goes on where it stopped.
Expect 93 % of held-out wordings and 89 % of held-out pairs after 12 clusters, 48 % of
these pairs after 4, and next to nothing of what is new.
"""

import shlex
from pathlib import Path

from llmjax import flags, host
from llmjax.data import assets, instructions
from llmjax.evals import instructions as asking
from llmjax.evals import instructions_page as page
from llmjax.scaling import folder as folders
from llmjax.scaling import jobs, sweep
from llmjax.train import workdir

CONTEXT, VOCAB_SIZE = 256, 1024
TUNED = ("--optim.name=muon", "--optim.lr=1e-2", "--optim.adam_lr_ratio=1")


TUNE = flags.define("", asking.TuneConfig())
DATA = flags.define("data", instructions.InstructionConfig())


def main():
    cfg, data = TUNE(), DATA()
    folder = workdir.open_workdir(cfg.workdir).resolve()
    names = ("base", "num_steps", "batch_size", "size", "base_steps", "flags")
    settings = {name: getattr(cfg, name) for name in names} | {"data": data}
    sets = instructions.asked(data)
    base = assets.model_of_flag("base", cfg.base) if cfg.base else folder / "base"
    with folders.under_settings(folder, settings):
        if not cfg.base:
            instructions.write_text(folder / "text.jsonl", data)
    flags.save(folder)
    if not cfg.base:
        failed = jobs.run([base_job(base, folder / "text.jsonl")], 1)
        if failed:
            raise ValueError(f"the base was not made: {failed['base']}")

    counts = sorted(set(cfg.clusters))
    arms = [(num, True, cfg.num_seeds) for num in counts]
    arms.append((counts[-1], False, cfg.num_untold))
    runs = {
        (num, told): [job(num, seed, told, base, folder) for seed in range(num_seeds)]
        for num, told, num_seeds in arms
    }
    failed = jobs.run([run for some in runs.values() for run in some], cfg.parallel)
    host.start()
    found = [page.Arm(0, True, [asking.ask_kept(base, folder / "before.json", sets)])]
    for (num, told), some in runs.items():
        done = [run.folder for run in some if run.is_done]
        said = [asking.ask_kept(path, path / "answers.json", sets) for path in done]
        found += [page.Arm(num, told, said)] if said else []
    page.write(folder, found, sets, settings, failed)


def base_job(folder: Path, text: Path) -> jobs.Job:
    """The run that makes the base."""
    cfg = TUNE()
    command = [
        "experiments/pretrain.py", f"--workdir={folder}", f"--data.source={text}",
        f"--data.vocab_size={VOCAB_SIZE}", "--train.eval_every=0",
        *sweep.model_arguments(cfg.size, VOCAB_SIZE, CONTEXT),
        f"--num_steps={cfg.base_steps}", f"--train.batch_size={cfg.batch_size}",
    ]  # fmt: skip
    return jobs.Job("base", command, folder)


def job(num: int, seed: int, told: bool, base: Path, folder: Path) -> jobs.Job:
    """The run that tunes one model on so many clusters."""
    cfg, name = TUNE(), f"{num}{'' if told else '_untold'}_seed{seed}"
    file = folder / "data" / f"{name}.jsonl"
    instructions.write_learned(file, DATA(), num, seed, told=told)
    command = [
        f"experiments/{'lora' if cfg.base else 'sft'}.py", f"--init_from={base}",
        f"--workdir={folder / name}", f"--seed={seed}", f"--data.source={file}",
        f"--data.context={CONTEXT}", "--data.validation_fraction=0.005",
        f"--num_steps={cfg.num_steps}", f"--train.batch_size={cfg.batch_size}",
        "--train.eval_every=0", *(() if cfg.base else TUNED), *shlex.split(cfg.flags),
    ]  # fmt: skip
    return jobs.Job(name, command, folder / name)


if __name__ == "__main__":
    flags.run(main)
