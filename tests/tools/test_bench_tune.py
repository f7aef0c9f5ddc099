"""LoRA is timed beside full fine-tuning: the same model, and what each keeps."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
V, T, L, D, F = 256, 256, 2, 32, 128  # of --configs=tiny
RANK = 4


@pytest.mark.slow
def test_each_program_keeps_what_it_should():
    pytest.importorskip("qwix")
    done = subprocess.run(
        [sys.executable, "tools/bench.py", "tune", "--configs=tiny", "--rounds=1",
         "--tries=1", f"--rank={RANK}", "--tune_tokens=16"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    full, plain, bfloat16, nf4 = rows
    matrices = L * (4 * D * D + 2 * D * F)
    vectors = L * (9 * D + F) + 2 * D  # norms and biases
    assert full["trained"] == (V + T) * D + matrices + vectors
    assert full["frozen_mb"] == 0
    adapters = L * RANK * (4 * (D + D) + 2 * (D + F))
    for row in (plain, bfloat16, nf4):
        assert row["trained"] == adapters
        # Adam's two moments, and its count.
        assert abs(row["optimizer_mb"] * 1e6 - 8 * adapters) < 64
        assert row["secs_per_step"] > 0 and row["peak_mb"] > 0
    assert plain["frozen_mb"] * 1e6 == 4 * full["trained"]
    assert bfloat16["frozen_mb"] * 1e6 == 2 * full["trained"]
    # Nothing is adapted yet: the first loss is the base's, or that of the rounded one.
    assert abs(plain["first_loss"] - full["first_loss"]) < 1e-5
    assert 0 < abs(nf4["first_loss"] - full["first_loss"]) < 0.05
