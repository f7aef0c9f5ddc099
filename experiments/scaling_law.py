"""Trains a grid of small models, fits a scaling law, and predicts the largest budget.

    python experiments/scaling_law.py                        # 2 CPU cores, half an hour
    python experiments/scaling_law.py --preset=miniseries    # one dial, --model.depth
    python experiments/scaling_law.py --preset=gpu --parallel=1 --context=512 \
        --data.source=WEB                   # --launch=slurm --slurm=--gres=gpu:1

On a laptop 21 runs give N* ~ C^0.53 (95 %: 0.41 to 0.67), and the five runs of the
largest budget are predicted from the others within 3.2 % on average, 3.7 % at worst.

Each cell is a run of experiments/pretrain.py in a process of its own. A sweep that is
killed and started again in its workdir goes on where it stopped.
"""

import dataclasses
import sys
import time
from functools import partial
from pathlib import Path

from absl import flags as absl_flags

from llmjax import flags, host, optim
from llmjax.data import corpus
from llmjax.scaling import (
    analysis,
    costs,
    folder,
    jobs,
    rates,
    sweep,
    sweep_page,
    table,
)
from llmjax.train import workdir
from llmjax.train.config import TrainConfig

RUN = flags.define("", sweep.Run())
PRESET = absl_flags.DEFINE_enum("preset", "laptop", list(sweep.PRESETS), "of the grid")
GRID = flags.define_overrides("", sweep.SweepConfig)
DATA = flags.define("data", corpus.TextConfig(vocab_size=512))
OPTIM = flags.define(
    "optim", optim.OptimConfig(lr=1.2e-2, adam_lr_ratio=4.0, schedule="cosine")
)
TRAIN = flags.define("train", TrainConfig(batch_size=32, eval_every=0))
FIT = flags.define("fit", analysis.Options())


def main():
    start_secs = time.perf_counter()
    run, cfg = RUN(), GRID(sweep.PRESETS[PRESET.value])
    home = workdir.open_workdir(run.workdir)
    settings = {name: getattr(run, name) for name in ("mesh", "seed", "context")}
    settings |= dict(data=DATA(), optim=OPTIM(), train=TRAIN(), lr_rule=cfg.lr_rule)
    with folder.under_settings(home, settings):
        vocab_size = folder.tokenize(DATA(), home)
    flags.save(home)
    step_tokens = TRAIN().batch_size * run.context
    cells, gone = sweep.grid(cfg, vocab_size, run.context, step_tokens, run.seed)
    trials = sweep.trials(cells, cfg, OPTIM().lr)
    make_job = partial(job, home=home, vocab_size=vocab_size)

    cost = {}
    if run.launch == "run":
        costs.refuse_too_large(cells, run.parallel)
        cost = costs.measure(cells, make_job, run.parallel)
        left = [cell for cell in [*trials, *cells] if not make_job(cell).is_done]
        secs = costs.total_secs(left, cost, run.parallel)
        sweep_page.show_plan(cells, trials, gone, cost, secs, run.parallel)
        costs.check(secs, cost, run.parallel, run.max_hours)

    failed = carry_out(trials, make_job, home, cost)
    rule, tried = rates.fit(trials, folder.losses(trials, home), OPTIM().lr)
    cells = [cell._replace(lr=rule(cell.num_params, cell.num_steps)) for cell in cells]
    failed |= carry_out(cells, make_job, home, cost)

    host.start()
    runs = table.read(folder.write_runs(cells, home))
    fit = analysis.analyse(runs, FIT())
    sweep_page.write(home, runs, fit, cells, trials, rule, tried, failed, gone)
    secs = time.perf_counter() - start_secs
    sweep_page.finish(home, fit, cells, failed, secs)


def job(cell: sweep.Cell, home: Path, vocab_size: int) -> jobs.Job:
    """The run of a cell: its schedule ends with its steps."""
    place, run = home / "cells" / cell.id, RUN()
    data = dataclasses.replace(DATA(), source=str((home / "data").resolve()))
    command = [
        "experiments/pretrain.py", f"--workdir={place.resolve()}", f"--mesh={run.mesh}",
        f"--seed={cell.seed}", f"--num_steps={cell.num_steps}",
        *sweep.model_arguments(cell.size, vocab_size, run.context),
        *flags.arguments("data", data),
        *flags.arguments("optim", dataclasses.replace(OPTIM(), lr=cell.lr)),
        *flags.arguments("train", TRAIN()),
    ]  # fmt: skip
    return jobs.Job(cell.id, command, place)


def carry_out(cells, make_job, home: Path, cost) -> dict[str, str]:
    """{id: why} of the cells that failed. Where others are to run them, ends here."""
    run, cells = RUN(), sweep.dearest_first(cells)
    todo = [make_job(cell) for cell in cells]
    if run.launch == "run":
        watch = sweep_page.Watch(cells, home, cost, run.parallel)
        return jobs.run(todo, run.parallel, watch=watch)
    waiting = [one for one in todo if not one.is_done]
    if waiting and run.launch == "print":
        print("\n".join(map(jobs.shell, waiting)))
    if waiting and run.launch == "slurm":
        print(f"bash {jobs.write_slurm(waiting, home / 'jobs', run.slurm)}")
    if waiting and run.launch != "none":
        sys.exit(f"{len(waiting)} runs to do; then start this again")
    return {one.id: jobs.last_line(one.folder / "log.txt") or "not run"
            for one in waiting}  # fmt: skip


if __name__ == "__main__":
    flags.run(main)
