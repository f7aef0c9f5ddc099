"""LoRA by rank, in miniature: it runs, is not done twice, and tells what is wrong."""

import json
import os

import pytest

from tests import programs

GOLDEN = programs.ROOT / "tests" / "golden" / "sft"
TINY = [
    "--ranks=2", "--middle=2", "--num_steps=2", "--batch_size=2",
    "--data.num_examples=100", "--data.num_asked=1", "--data.num_asked_pair=1",
    f"--parallel={min(2, len(os.sched_getaffinity(0)))}",
]  # fmt: skip


def run(workdir, *args):
    """(exit code, output, errors)."""
    program = "experiments/lora_ranks.py"
    return programs.run(program, f"--workdir={workdir}", *TINY, *args)


@pytest.mark.slow
def test_all_ranks_run_once(tmp_path):
    workdir = tmp_path / "run"
    code, _, err = run(workdir, f"--init_from={GOLDEN}")
    assert code == 0, err
    found = json.loads((workdir / "summary.json").read_text())
    by_name = {one["model"]: one for one in found["models"]}
    assert list(by_name) == ["the base", "all weights", "rank 2", "rank 2 nf4"]
    # Both have the same adapters; all weights are more.
    trained = [one.get("trained") for one in by_name.values()]
    assert trained[0] is None and trained[1] > trained[2] == trained[3]
    assert (workdir / "ranks.png").stat().st_size > 10_000
    done = (workdir / "full" / "summary.json").stat().st_mtime_ns
    code, _, err = run(workdir, f"--init_from={GOLDEN}")
    assert code == 0, err
    assert (workdir / "full" / "summary.json").stat().st_mtime_ns == done
    code, _, err = run(workdir, f"--init_from={GOLDEN}", "--num_steps=3")
    assert code == 1 and "num_steps: 2 -> 3" in err and err.count("\n") == 1


def test_bad_input_is_one_line(tmp_path):
    code, _, err = run(tmp_path, "--init_from=/nowhere/x")
    assert code == 1 and "--init_from=/nowhere/x: no such" in err
    assert err.count("\n") == 1
    code, _, err = run(tmp_path, "--ranks=0")
    assert code != 0 and "ranks: name one or more" in err
