"""Times training steps beside PyTorch and transformers: interleaved, same weights.

    python tools/bench.py train                       # three GPT-2 sizes, on a CPU
    python tools/bench.py train --configs=a --same_malloc --torch_python=other/python
    python tools/bench.py train --configs=gpt2,1b     # on a GPU, in bfloat16
    python tools/bench.py startup                     # process start to the first step

Every program is a process of its own that steps while the others wait. A ratio is the
median over rounds of its time over ours in the same round: above 1, llmjax is faster.
`disturbed` is the share of the CPU that went to other processes meanwhile.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags as absl_flags
from rich.console import Console
from rich.table import Table

from llmjax import flags

# Sizes of a GPT-2, rows of a batch, and the steps of one turn.
CONFIGS = {
    "a": dict(V=4096, L=4, D=128, N=4, T=256, batch_size=16, turn_steps=4),
    "b": dict(V=8192, L=8, D=256, N=8, T=256, batch_size=16, turn_steps=1),
    "c": dict(V=50257, L=12, D=768, N=12, T=512, batch_size=2, turn_steps=1),
    "gpt2": dict(V=50257, L=12, D=768, N=12, T=1024, batch_size=32, turn_steps=8),
    "1b": dict(V=50257, L=20, D=2048, N=16, T=1024, batch_size=16, turn_steps=4),
}
ON_GPU = ("gpt2", "1b")
TORCH_PROGRAMS = ("torch eager", "torch compile", "transformers")
# What llmjax asks of glibc for itself, as a PyTorch process reads it at its start.
SAME_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
MAX_LOSS_GAP = {
    True: 1e-3,
    False: 2e-2,
}  # by whether we are on a CPU: float32, bfloat16

# A turn during which other processes took more of the CPU than this is tried again.
QUIET, MAX_TRIES = 0.05, 8
SETTLE_SECS = 0.5  # PyTorch's threads spin on for a while after a step

COMMAND = absl_flags.DEFINE_string("command", "train", "train or startup")
SIZES = absl_flags.DEFINE_list("configs", ["a", "b", "c"], f"of {', '.join(CONFIGS)}")
ROUNDS = absl_flags.DEFINE_integer("rounds", 10, "turns of each program", lower_bound=1)
BASELINES = absl_flags.DEFINE_list(
    "baselines", list(TORCH_PROGRAMS), "what to compare with"
)
TORCH = absl_flags.DEFINE_string("torch_python", sys.executable, "a Python with torch")
MALLOC = absl_flags.DEFINE_boolean(
    "same_malloc", False, "give the others the allocator settings that llmjax has"
)


class Worker:
    """A process of tools/bench_worker.py; `ready` is its line about the first step."""

    def __init__(self, program: str, config: str, same_weights: bool = True):
        self.program = program
        self.turns: list[dict] = []
        is_torch = program in TORCH_PROGRAMS
        spec = CONFIGS[config] | {"program": program, "same_weights": same_weights}
        worker = Path(__file__).with_name("bench_worker.py")
        malloc = SAME_MALLOC if is_torch and MALLOC.value else {}
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [TORCH.value if is_torch else sys.executable, worker, json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=os.environ | malloc,
        )  # fmt: skip
        self.ready = self._read()
        self.ready_secs = time.perf_counter() - start

    def turn(self, num_steps: int) -> None:
        """Keeps the least disturbed of a few tries, or the first that was quiet."""
        tries = []
        for _ in range(MAX_TRIES):
            time.sleep(SETTLE_SECS)
            busy_secs, start = cpu_busy_secs(), time.perf_counter()
            self._process.stdin.write(f"{num_steps}\n")
            self._process.stdin.flush()
            answer = self._read()
            others_secs = cpu_busy_secs() - busy_secs - answer["cpu_secs"]
            all_secs = (time.perf_counter() - start) * os.cpu_count()
            answer["disturbed"] = max(0.0, others_secs / all_secs)
            tries.append(answer)
            if answer["disturbed"] < QUIET:
                break
        self.turns.append(min(tries, key=lambda answer: answer["disturbed"]))

    def close(self) -> None:
        """Lets the process end; called twice, it does nothing more."""
        if self._process.poll() is None:
            self._process.communicate()
        self._errors.close()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["nothing"]
            raise ValueError(f"{self.program} failed, and last said: {said[-1]}")
        return json.loads(line)

    def secs(self) -> list[float]:
        return [turn["secs"] for turn in self.turns]


def main():
    if COMMAND.value not in COMMANDS:
        raise absl_flags.Error(f"--command={COMMAND.value}: train or startup")
    for name in SIZES.value:
        if name not in CONFIGS:
            raise absl_flags.Error(f"unknown config {name!r}; {', '.join(CONFIGS)}")
    for name in BASELINES.value:
        if name not in TORCH_PROGRAMS:
            raise absl_flags.Error(f"unknown baseline {name!r}: {TORCH_PROGRAMS}")
    for config in SIZES.value:
        COMMANDS[COMMAND.value](config, find_baselines(config))


def find_baselines(config: str) -> list[str]:
    """What there is to compare with: on a GPU without torch, nothing."""
    find = "from importlib.util import find_spec as f; f('torch').name, "
    find += "f('transformers').name"
    if not subprocess.run([TORCH.value, "-c", find], capture_output=True).returncode:
        return list(BASELINES.value)
    if config in ON_GPU:
        return []
    raise ValueError(
        f"{TORCH.value} has no torch and transformers: pip install 'llmjax[bench]', or "
        "name another Python by --torch_python"
    )


def train(config: str, baselines: list[str]) -> None:
    """Seconds per step of all programs, each turn after turn with the others."""
    workers = []
    try:
        for program in ("llmjax", *baselines, "gemm"):
            workers.append(Worker(program, config))
        ours, *others, gemm = workers
        check_losses(ours, others)
        for _ in range(ROUNDS.value):
            for worker in workers:
                worker.turn(CONFIGS[config]["turn_steps"])
    finally:
        for worker in workers:
            worker.close()
    peak_flops = ours.ready["peak_flops"] or gemm.ready["flops"] / min(gemm.secs())
    rows = [figures(worker, ours, config, peak_flops) for worker in (ours, *others)]
    device = ours.ready["device"]
    show(
        f"{config}: {device}, {peak_flops / 1e9:,.0f} GFLOP/s, {ROUNDS.value} rounds",
        rows,
    )


def cpu_busy_secs() -> float:
    """Seconds that all processes have run, summed over the cores; 0 if unknown."""
    if not Path("/proc/stat").exists():
        return 0.0
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # not idle


def check_losses(ours: Worker, others: list[Worker]) -> None:
    """The same weights and data must give the same first loss, or all is in vain."""
    for other in others:
        gap = abs(other.ready["loss"] - ours.ready["loss"])
        if not gap <= MAX_LOSS_GAP[ours.ready["on_cpu"]]:
            raise ValueError(
                f"{other.program} computes another model: its first loss is "
                f"{other.ready['loss']:.5f}, that of llmjax {ours.ready['loss']:.5f}"
            )


def figures(worker: Worker, ours: Worker, config: str, peak_flops: float) -> dict:
    """A row of the table. Compiling is what the first step took beyond a usual one."""
    sizes = CONFIGS[config]
    secs = statistics.median(worker.secs())
    tokens_per_s = sizes["batch_size"] * sizes["T"] / secs
    return {
        "config": config,
        "program": worker.program,
        "malloc": "ours" if worker is ours or MALLOC.value else "stock",
        "secs_per_step": secs,
        "tokens_per_s": tokens_per_s,
        "time_over_llmjax": paired_ratio(worker.secs(), ours.secs()),
        "mfu": tokens_per_s * ours.ready["flops_per_token"] / peak_flops,
        "compile_secs": max(0.0, worker.ready["secs"] - secs),
        "peak_mb": max(turn["peak_bytes"] for turn in worker.turns) / 1e6,
        "first_loss": worker.ready["loss"],
        "disturbed": statistics.median(turn["disturbed"] for turn in worker.turns),
    }


def paired_ratio(theirs: list[float], ours: list[float]) -> float:
    """The median over rounds of their time over ours."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def startup(config: str, baselines: list[str]) -> None:
    """Seconds from the start of a process to the end of its first step."""
    programs = ["llmjax", *(name for name in baselines if name == "transformers")]
    secs = {program: [] for program in programs}
    _first_step_secs("llmjax", config)  # fills the compilation cache
    for _ in range(ROUNDS.value):
        for program in programs:
            secs[program].append(_first_step_secs(program, config))
    rows = [
        {
            "config": config,
            "program": program,
            "secs_to_first_step": statistics.median(secs[program]),
            "time_over_llmjax": paired_ratio(secs[program], secs["llmjax"]),
        }
        for program in programs
    ]
    show(f"{config}: start-up, warm compilation cache, {ROUNDS.value} rounds", rows)


def _first_step_secs(program: str, config: str) -> float:
    worker = Worker(program, config, same_weights=False)
    worker.close()
    return worker.ready_secs


def show(title: str, rows: list[dict]) -> None:
    """The rows as a table, and as lines of JSON for programs."""
    table = Table(*rows[0], title=title, title_justify="left", box=None)
    for row in rows:
        table.add_row(*map(_short, row.values()))
    Console(highlight=False, width=160).print(table)
    for row in rows:
        print(json.dumps(row), flush=True)


def _short(value) -> str:
    if isinstance(value, str):
        return value
    digits = max(0, 2 - math.floor(math.log10(value))) if value else 0
    return f"{value:,.{digits}f}"


COMMANDS = {"train": train, "startup": startup}

if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--command={sys.argv[1]}"
    flags.run(main)
