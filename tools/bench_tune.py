"""`tools/bench.py tune`: a step of LoRA beside a step of full fine-tuning.

All programs take the same batch through the same model. What the optimizer keeps, what
is frozen beside it, the peak memory of the process and the time are in one table.
"""

import statistics
import tempfile
from pathlib import Path

import bench_decode
from absl import flags as absl_flags
from bench_turns import ROUNDS, Worker, at_work, paired_ratio, show, take_turns

PROGRAMS = {  # what the frozen base is held in
    "full": None,
    "LoRA": "float32",
    "LoRA, bfloat16 base": "bfloat16",
    "LoRA, nf4 base": "nf4",
}
RANK = absl_flags.DEFINE_integer("rank", 16, "of the adapters to time", lower_bound=1)
TUNE_ROWS = absl_flags.DEFINE_integer("tune_rows", 4, "of a batch to tune on")
TUNE_TOKENS = absl_flags.DEFINE_integer("tune_tokens", 128, "of each row")


def tune(config: str) -> None:
    """Prints the table of one model; the turns of all programs alternate."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = dict(
            folder=str(bench_decode.make_folder(config, Path(scratch))),
            rank=RANK.value, batch_size=TUNE_ROWS.value, num_tokens=TUNE_TOKENS.value,
        )  # fmt: skip
        jobs = [
            (spec | {"program": program, "base": base}, None)
            for program, base in PROGRAMS.items()
        ]
        with at_work("bench_tune_worker.py", jobs) as workers:
            take_turns(workers)
    rows = [figures(config, worker, workers[0]) for worker in workers]
    title = (
        f"{config}: rank {RANK.value}, {TUNE_ROWS.value} rows of {TUNE_TOKENS.value}"
    )
    show(f"{title} tokens, {ROUNDS.value} rounds", rows)


def figures(config: str, worker: Worker, full: Worker) -> dict:
    """A row of the table."""
    return {
        "config": config,
        "program": worker.program,
        "trained": worker.ready["trained"],
        "optimizer_mb": worker.ready["optimizer_bytes"] / 1e6,
        "frozen_mb": worker.ready["frozen_bytes"] / 1e6,
        "secs_per_step": statistics.median(worker.secs()),
        "time_over_full": paired_ratio(worker.secs(), full.secs()),
        "first_loss": worker.ready["result"],
    } | worker.usual()
