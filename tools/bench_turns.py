"""What the commands of tools/bench.py share: processes that take turns, and tables."""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from absl import flags as absl_flags
from rich.console import Console
from rich.table import Table

# What llmjax asks of glibc for itself, as a PyTorch process reads it at its start.
SAME_MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}
# A turn during which other processes took more of the CPU than this is tried again.
QUIET = 0.05
SETTLE_SECS = 0.5  # PyTorch's threads spin on for a while after a step

ROUNDS = absl_flags.DEFINE_integer("rounds", 10, "turns of each program", lower_bound=1)
TRIES = absl_flags.DEFINE_integer("tries", 8, "at a quiet turn, at most", lower_bound=1)
TORCH = absl_flags.DEFINE_string("torch_python", sys.executable, "a Python with torch")
LLAMA = absl_flags.DEFINE_string(
    "llama_python", sys.executable, "a Python with llama-cpp-python"
)
MALLOC = absl_flags.DEFINE_boolean(
    "same_malloc", False, "give the others the allocator settings that llmjax has"
)


class Worker:
    """A process that steps when told to; `ready` is its line about the first step.

    script: of this folder. spec: what it is to do, with the name of its "program".
    theirs: the Python that it runs in, if not in ours.
    """

    def __init__(self, script: str, spec: dict, theirs: str | None = None):
        self.program = spec["program"]
        self.turns: list[dict] = []
        path = Path(__file__).with_name(script)
        malloc = SAME_MALLOC if theirs and MALLOC.value else {}
        self.malloc = "stock" if theirs and not MALLOC.value else "ours"
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [theirs or sys.executable, path, json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            text=True, env=os.environ | malloc,
        )  # fmt: skip
        self.ready = self._read()
        self.ready_secs = time.perf_counter() - start

    def turn(self, num_steps: int) -> None:
        """Keeps the least disturbed of a few tries, or the first that was quiet."""
        tries = []
        for _ in range(TRIES.value):
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

    def usual(self) -> dict:
        """The columns that every program has."""
        secs = statistics.median(self.secs())
        return {
            # Compiling is what the first step took beyond a usual one.
            "compile_secs": max(0.0, self.ready["secs"] - secs),
            "peak_mb": max(turn["peak_bytes"] for turn in self.turns) / 1e6,
            "disturbed": statistics.median(turn["disturbed"] for turn in self.turns),
        }


@contextlib.contextmanager
def at_work(
    script: str, jobs: Iterable[tuple[dict, str | None]]
) -> Iterator[list[Worker]]:
    """A worker for each job, its spec and the Python that it runs in, to the end of the
    block."""
    with contextlib.ExitStack() as stack:
        workers = []
        for spec, python in jobs:
            workers.append(Worker(script, spec, python))
            stack.callback(workers[-1].close)
        yield workers


def take_turns(workers: Sequence[Worker], num_steps: int = 1) -> None:
    """Each steps so often while the others wait, in every round."""
    for _ in range(ROUNDS.value):
        for worker in workers:
            worker.turn(num_steps)


def cpu_busy_secs() -> float:
    """Seconds that all processes have run, summed over the cores; 0 if unknown."""
    if not Path("/proc/stat").exists():
        return 0.0
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(field) for field in fields]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # not idle


def has(python: str, *modules: str) -> bool:
    """If that Python could import these."""
    find = "from importlib.util import find_spec as f; "
    find += ", ".join(f"f({module!r}).name" for module in modules)
    return subprocess.run([python, "-c", find], capture_output=True).returncode == 0


def missing_torch() -> ValueError:
    return ValueError(
        f"{TORCH.value} has no torch and transformers: pip install 'llmjax[bench]', or "
        "name another Python by --torch_python"
    )


def paired_ratio(theirs: list[float], ours: list[float]) -> float:
    """The median over rounds of their time over ours."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


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
