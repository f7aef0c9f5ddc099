"""What a sweep will take, measured by a few steps of each size before it starts."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from llmjax.scaling import jobs
from llmjax.scaling.jobs import Job
from llmjax.scaling.sweep import Cell, dearest_first

NUM_STEPS = 12  # of a calibration
BYTES_PER_PARAM = 16  # in float32: weights, gradients and two moments
GIB = 2**30


class Cost(NamedTuple):
    """Of a size: of a step, of all around the steps, and of memory on the host."""

    step_secs: float
    fixed_secs: float
    peak_bytes: int

    def secs(self, num_steps: int) -> float:
        return self.fixed_secs + num_steps * self.step_secs


def available_bytes() -> int:
    """Memory that this machine has left."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = dict(line.split(":") for line in lines)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def refuse_too_large(cells: Sequence[Cell], parallel: int) -> None:
    """Raises ValueError if the largest models cannot fit, whatever else they need."""
    largest = max(cells, key=lambda cell: cell.num_params)
    need = parallel * BYTES_PER_PARAM * largest.num_params
    _check_memory(need, f"{largest.size} ({largest.num_params:,} parameters)", parallel)


def measure(
    cells: Sequence[Cell], make_job: Callable[[Cell], Job], parallel: int
) -> dict[str, Cost]:
    """The cost of each size, measured as its cells will run: so many side by side.

    make_job: the job of a cell. What has been measured in its folder is not again.
    Raises ValueError with its last words if a size cannot be trained here.
    """
    smallest = {cell.size: cell for cell in reversed(cells)}
    first_steps = {
        size: make_job(cell._replace(id=f"calibration_{size}", num_steps=NUM_STEPS))
        for size, cell in smallest.items()
    }
    outcomes = {}
    print(f"measuring {len(first_steps)} sizes by {NUM_STEPS} steps each", flush=True)
    failed = jobs.run(
        list(first_steps.values()), parallel,
        watch=lambda job, outcome: outcomes.update({job.id: outcome}),
    )  # fmt: skip
    for name, reason in failed.items():
        raise ValueError(f"{name}: {reason}; see its log.txt, or leave this size out")
    costs = {}
    for size, job in first_steps.items():
        path = job.folder / "cost.json"
        if job.id in outcomes:
            outcome = outcomes[job.id]
            step_secs = _step_secs(job.folder)
            fixed_secs = max(0.0, outcome.secs - NUM_STEPS * step_secs)
            path.write_text(json.dumps([step_secs, fixed_secs, outcome.peak_bytes]))
        costs[size] = Cost(*json.loads(path.read_text()))
    return costs


def _step_secs(folder: Path) -> float:
    """From the throughput, which is that of the median step."""
    config = json.loads((folder / "config.json").read_text())
    tokens = config["train"]["batch_size"] * config["model"]["context"]
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    return tokens / json.loads(last)["tokens_per_s"]


def total_secs(cells: Sequence[Cell], costs: dict[str, Cost], parallel: int) -> float:
    """Until the last of these ends, dealt out as `jobs.run` does, dearest first."""
    free = [0.0] * parallel
    for cell in dearest_first(cells):
        free[free.index(min(free))] += costs[cell.size].secs(cell.num_steps)
    return max(free)


def check(secs: float, costs: dict[str, Cost], parallel: int, max_hours: float) -> None:
    """Raises ValueError if the plan is over its time, or the machine's memory."""
    if max_hours and secs > 3600 * max_hours:
        raise ValueError(
            f"this plan takes {secs / 3600:.1f} hours, over --max_hours={max_hours:g}; "
            "take out budgets or sizes, or allow more"
        )
    size = max(costs, key=lambda size: costs[size].peak_bytes)
    _check_memory(parallel * costs[size].peak_bytes, size, parallel)


def _check_memory(need: int, size: str, parallel: int) -> None:
    have = available_bytes()
    if need > have:
        raise ValueError(
            f"{parallel} x {size} need {need / GIB:.1f} GiB, and {have / GIB:.1f} are "
            "free; leave the largest sizes out, or lower --parallel"
        )
