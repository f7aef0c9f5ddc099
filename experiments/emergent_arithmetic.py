"""Arithmetic that emerges with scale, and whether the jump lives in the metric.

    python experiments/emergent_arithmetic.py            # 2 CPU cores, 20 minutes
    python experiments/emergent_arithmetic.py --workdir=runs/more --sizes=3x64,3x128

Decoders of several sizes learn from as many tokens each, a fifth of them the source
code of Python's standard library, the others sums and differences; then they are asked
some that were held out, after a few solved ones. Right answers, their log-likelihood
and their single digits are plotted side by side, over parameters, FLOPs and shots.
Numbers of one digit more than any learned are asked too, and fail: 0.6 % at most. Sums
of 3 digits, lowest digit first, are all right from 96 k parameters on; at 17 k one seed
has 83 % and another none. The log-likelihood jumps where the right answers do.

Each model is a run of pretrain.py. Killed, the experiment goes on where it stopped.
"""

import collections
import dataclasses
import json
import shlex
from pathlib import Path

from llmjax import flags, host, metrics
from llmjax.config import field
from llmjax.data import arithmetic
from llmjax.evals import arithmetic as asking
from llmjax.evals import arithmetic_page as page
from llmjax.load import load
from llmjax.models import transformer
from llmjax.scaling import folder as folders
from llmjax.scaling import jobs, sweep
from llmjax.train import workdir

CONTEXT = 256


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Which models learn, and for how long."""

    workdir: str = field("runs/arithmetic", "where everything is written, and resumed")
    sizes: tuple[str, ...] = field(
        ("3x16", "3x32", "3x48", "3x64", "3x96"), "layers x width of the models"
    )
    num_seeds: int = field(2, "models of each size")
    num_steps: int = field(2500, "of each")
    batch_size: int = field(8, "rows of 256 tokens in a step")
    parallel: int = field(2, "runs at a time, each on its share of the cores")
    flags: str = field("", "more flags for pretrain.py, such as '--optim.lr=1e-2'")

    def __post_init__(self):
        if not self.sizes:
            raise ValueError("sizes: name one or more, such as 3x96")
        for name in ("num_seeds", "num_steps", "batch_size", "parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


SWEEP = flags.define("", SweepConfig())
DATA = flags.define("data", arithmetic.MixConfig())
ASKED = flags.define("asked", asking.AskConfig())


def main():
    cfg, data, asked = SWEEP(), DATA(), ASKED()
    asking.check_context(data.num_digits, asked.shots, CONTEXT)
    folder = workdir.open_workdir(cfg.workdir).resolve()
    names = ("num_steps", "batch_size", "flags")
    settings = {name: getattr(cfg, name) for name in names} | {"data": data}
    with folders.under_settings(folder, settings):
        rows = cfg.num_steps * cfg.batch_size
        source = arithmetic.prepare(data, folder / "data", rows)
    flags.save(folder)

    # The longest first, so that all cores end together.
    sizes = sorted(set(cfg.sizes), key=sweep.num_params, reverse=True)
    seeds = range(cfg.num_seeds)
    runs = [job(size, seed, folder, source) for size in sizes for seed in seeds]
    failed = jobs.run(runs, cfg.parallel)
    done = [run.folder for run in runs if run.is_done]
    host.start()
    page.write(folder, look(done), settings | {"asked": asked}, failed)


def job(size: str, seed: int, folder: Path, source: str) -> jobs.Job:
    """The run of one model."""
    cfg, name, share = SWEEP(), f"{size}_seed{seed}", DATA().share
    command = [
        "experiments/pretrain.py", f"--workdir={folder / name}", f"--seed={seed}",
        f"--data.source={source}", f"--data.weights={1 - share},{share}",
        *sweep.model_arguments(size, 256, CONTEXT), f"--num_steps={cfg.num_steps}",
        f"--train.batch_size={cfg.batch_size}", "--train.eval_every=0",
        *shlex.split(cfg.flags),
    ]  # fmt: skip
    return jobs.Job(name, command, folder / name)


def look(folders: list[Path]) -> list[page.Size]:
    """What the models in the folders came to, by size, from small to large."""
    models = collections.defaultdict(list)
    for folder in folders:
        print(f"asking {folder.name}", flush=True)
        cfg, params, tokenizer = load(folder)
        taught = transformer.make(cfg), params, tokenizer
        found = asking.examine(*taught, DATA().num_digits, ASKED())
        said = asking.samples(*taught, DATA().num_digits, ASKED())
        bits = json.loads((folder / "summary.json").read_text())["val_bits_per_byte"]
        models[cfg].append(page.Run(found, said, bits))
    num_tokens = SWEEP().num_steps * SWEEP().batch_size * CONTEXT
    sizes = []
    for cfg, runs in models.items():
        count = metrics.count(cfg)
        flops = count.exact_causal * num_tokens
        shape = f"{cfg.num_layers}x{cfg.width}"
        sizes.append(page.pool(shape, count.total, flops, runs))
    return sorted(sizes, key=lambda size: size.parameters)


if __name__ == "__main__":
    flags.run(main)
