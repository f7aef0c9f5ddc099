"""Times llmjax beside PyTorch and transformers: interleaved turns, same weights.

    python tools/bench.py train                       # three GPT-2 sizes, on a CPU
    python tools/bench.py train --configs=a --same_malloc --torch_python=other/python
    python tools/bench.py train --configs=gpt2,1b     # on a GPU, in bfloat16
    python tools/bench.py startup                     # process start to the first step
    python tools/bench.py decode --configs=b,c        # new tokens, with a cache
    python tools/bench.py serve --configs=smollm2     # several requests at once
    python tools/bench.py tune --configs=smollm2      # LoRA beside full fine-tuning
    python tools/bench.py ppo --torch_python=DIR/bin/python  # an iteration, beside TRL

Every program is a process of its own that steps while the others wait. A ratio is the
median over rounds of its time over ours in the same round: above 1, llmjax is faster.
`disturbed` is the share of the CPU that went to other processes meanwhile.
"""

import statistics
import sys

import bench_decode
import bench_ppo
import bench_serve
import bench_tune
from absl import flags as absl_flags
from bench_turns import (
    ROUNDS,
    TORCH,
    Worker,
    at_work,
    has,
    missing_torch,
    paired_ratio,
    show,
    take_turns,
)

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
MAX_LOSS_GAP = {
    True: 1e-3,
    False: 2e-2,
}  # by whether we are on a CPU: float32, bfloat16

COMMAND = absl_flags.DEFINE_string(
    "command", "train", "train, startup, decode, serve, tune, ppo"
)
SIZES = absl_flags.DEFINE_list(
    "configs",
    [],
    f"to train of {', '.join(CONFIGS)}; else of {', '.join(bench_decode.MODELS)}",
)
BASELINES = absl_flags.DEFINE_list(
    "baselines", list(TORCH_PROGRAMS), "what to compare training with"
)


def main():
    if COMMAND.value not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise absl_flags.Error(f"--command={COMMAND.value}: one of {known}")
    command, known, usual = COMMANDS[COMMAND.value]
    for name in SIZES.value:
        if name not in known:
            raise absl_flags.Error(f"unknown config {name!r}; {', '.join(known)}")
    for name in BASELINES.value:
        if name not in TORCH_PROGRAMS:
            raise absl_flags.Error(f"unknown baseline {name!r}: {TORCH_PROGRAMS}")
    for config in SIZES.value or usual:
        command(config)


def find_baselines(config: str) -> list[str]:
    """What there is to compare with: on a GPU without torch, nothing."""
    if has(TORCH.value, "torch", "transformers"):
        return list(BASELINES.value)
    if config in ON_GPU:
        return []
    raise missing_torch()


def job(program: str, config: str, same_weights: bool = True) -> tuple:
    """(what a worker is to do, the Python that it runs in)."""
    spec = CONFIGS[config] | {"program": program, "same_weights": same_weights}
    return spec, TORCH.value if program in TORCH_PROGRAMS else None


def train(config: str) -> None:
    """Seconds per step of all programs, each turn after turn with the others."""
    programs = ("llmjax", *find_baselines(config), "gemm")
    jobs = [job(program, config) for program in programs]
    with at_work("bench_worker.py", jobs) as workers:
        ours, *others, gemm = workers
        check_losses(ours, others)
        take_turns(workers, CONFIGS[config]["turn_steps"])
    peak_flops = ours.ready["peak_flops"] or gemm.ready["flops"] / min(gemm.secs())
    rows = [figures(worker, ours, config, peak_flops) for worker in (ours, *others)]
    device = ours.ready["device"]
    show(
        f"{config}: {device}, {peak_flops / 1e9:,.0f} GFLOP/s, {ROUNDS.value} rounds",
        rows,
    )


def check_losses(ours: Worker, others: list[Worker]) -> None:
    """The same weights and data must give the same first loss, or all is in vain."""
    for other in others:
        gap = abs(other.ready["result"] - ours.ready["result"])
        if not gap <= MAX_LOSS_GAP[ours.ready["on_cpu"]]:
            theirs, own = other.ready["result"], ours.ready["result"]
            raise ValueError(
                f"{other.program} computes another model: its first loss is "
                f"{theirs:.5f}, that of llmjax {own:.5f}"
            )


def figures(worker: Worker, ours: Worker, config: str, peak_flops: float) -> dict:
    """A row of the table."""
    sizes = CONFIGS[config]
    secs = statistics.median(worker.secs())
    tokens_per_s = sizes["batch_size"] * sizes["T"] / secs
    return {
        "config": config,
        "program": worker.program,
        "malloc": worker.malloc,
        "secs_per_step": secs,
        "tokens_per_s": tokens_per_s,
        "time_over_llmjax": paired_ratio(worker.secs(), ours.secs()),
        "mfu": tokens_per_s * ours.ready["flops_per_token"] / peak_flops,
        "first_loss": worker.ready["result"],
    } | worker.usual()


def startup(config: str) -> None:
    """Seconds from the start of a process to the end of its first step."""
    programs = [
        "llmjax",
        *(name for name in find_baselines(config) if name == "transformers"),
    ]
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
    jobs = [job(program, config, same_weights=False)]
    with at_work("bench_worker.py", jobs) as [worker]:
        return worker.ready_secs


# The function, the configs it knows, and those that it takes by default.
COMMANDS = {
    "train": (train, CONFIGS, ("a", "b", "c")),
    "startup": (startup, CONFIGS, ("a", "b", "c")),
    "decode": (bench_decode.decode, bench_decode.MODELS, ("b", "c", "smollm2")),
    "serve": (bench_serve.serve, bench_decode.MODELS, ("b", "c", "smollm2")),
    "tune": (bench_tune.tune, bench_decode.MODELS, ("b", "smollm2")),
    "ppo": (bench_ppo.ppo, bench_ppo.SIZES, ("b", "smollm2")),
}

if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"--command={sys.argv[1]}"
    flags.run(main)
