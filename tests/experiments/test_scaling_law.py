"""A sweep in miniature: planned, killed, resumed, fitted; its failures named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import programs

ROOT = Path(__file__).parents[2]
TINY = [
    "--preset=toy", "--context=32", "--data.tokenizer=bytes", "--train.batch_size=4",
    "--train.save_every=20", "--fit.num_resamples=40", "--parallel=2",
]  # fmt: skip


def start(workdir, *args):
    return programs.start(
        "experiments/scaling_law.py", f"--workdir={workdir}", *TINY, *args
    )


def run(workdir, *args):
    """(exit code, output, errors)."""
    return programs.run(
        "experiments/scaling_law.py", f"--workdir={workdir}", *TINY, *args
    )


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "one", "two", "three", "."]
    for index in range(60):
        text = " ".join(rng.choice(words, 200))
        (folder / f"{index}.txt").write_text(f"document {index}: {text}\n")
    return f"--data.source={folder}/*.txt"


@pytest.mark.slow
def test_a_sweep_killed_at_work_ends_as_if_it_had_not_been(tmp_path, source):
    fixed = ("--lr_rule=fixed", source)
    process = start(tmp_path, *fixed)
    cells = tmp_path / "cells"
    while not list(cells.glob("*e0*/checkpoints/20/state")):  # a cell is half done
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (half,) = {path.parts[-4] for path in cells.glob("*e0*/checkpoints/20/state")} or {
        0
    }
    time.sleep(0.5)
    subprocess.run(["pkill", "-9", "-f", f"{cells}/"], check=False)  # a power cut

    code, out, err = run(tmp_path, *fixed)
    assert code == 0, err
    log = (cells / half / "log.txt").read_text()
    assert "resumed at step 20" in log or (cells / half / "summary.json").exists()
    lines = [json.loads(s) for s in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["id"] for line in lines}) == 8
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["num_runs"] == 8 and summary["failed"] == {}
    assert summary["holdout"]["num_runs"] == 3
    for line in lines:
        assert line["C"] == 6 * line["N"] * line["D"]
        assert line["lr"] == 0.012 and 0 < line["loss"] < 6
    page = (tmp_path / "report.html").read_text()
    for text in ("Loss curves", "The top budget, predicted", "it was tuned to none"):
        assert text in page
    for text in ("the grid, in minutes", "FLOPs", "minutes, 2 at a time", "held out"):
        assert text in out

    # What is done is not done again, what fails is named, and the fit is of the rest.
    times = {path: path.stat().st_mtime for path in cells.glob("*/summary.json")}
    bad = cells / "5e08_1x16"
    shutil.rmtree(bad)
    bad.mkdir()
    (bad / "checkpoints").write_text("no folder")
    code, out, err = run(tmp_path, *fixed)
    assert code == 0, err
    assert "FAILED 5e08_1x16: exit code 1: error:" in out
    assert "failed, 5e08_1x16" in (tmp_path / "report.html").read_text()
    assert "5e08_1x16" not in (tmp_path / "runs.jsonl").read_text()
    for path, before in times.items():
        assert path.parent == bad or path.stat().st_mtime == before

    code, _, err = run(tmp_path, *fixed, "--train.batch_size=8")
    assert code == 1 and "train.batch_size: 4 -> 8" in err and "--workdir" in err


@pytest.mark.slow
def test_the_commands_that_are_printed_make_the_runs(tmp_path, source):
    """Rates first; once these are there, the grid; once that is there, the fit."""
    small = ("--sizes=1x16,1x32", "--budgets=5e8,1e9,2e9", source)
    stages = []
    while len(stages) < 3:
        code, out, err = run(tmp_path, *small, "--launch=print")
        lines = [line for line in out.splitlines() if line.startswith("python ")]
        if not lines:
            assert code == 0, err
            break
        assert code == 1 and f"{len(lines)} runs to do" in err
        stages.append(len(lines))
        env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        }
        for line in lines:
            subprocess.run(["bash", "-c", line], cwd=ROOT, check=True, env=env,
                           stdout=subprocess.DEVNULL)  # fmt: skip
    assert stages == [12, 6]
    rule = (tmp_path / "report.html").read_text()
    assert "through the best of those tried at 4 places" in rule
    lines = [json.loads(s) for s in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert len({line["lr"] for line in lines}) > 2


def test_a_plan_that_takes_too_long_is_refused_before_it_starts(tmp_path, source):
    one = ("--sizes=1x16", "--budgets=5e8,1e12", "--lr_rule=fixed", source)
    code, out, err = run(tmp_path, *one, "--max_hours=0.01")
    assert code == 1 and "over --max_hours=0.01" in err
    assert "1e12" in out and [path.name for path in (tmp_path / "cells").iterdir()] == [
        "calibration_1x16"
    ]


@pytest.mark.parametrize(
    "flag, code, message",
    [
        ("--sizes=3y64", 2, "size '3y64'"),
        ("--budgets=-1", 2, "numbers above 0"),
        ("--sizes=400x4096 --budgets=1e18", 1, "free; leave the largest sizes out"),
        ("--budgets=1", 1, "no cell is left of the grid"),
        ("--data.source=/no/such/*.txt", 1, "/no/such"),
        ("--parallel=99", 1, "--parallel=99"),
    ],
)
def test_bad_flags_are_explained(tmp_path, source, flag, code, message):
    done = run(tmp_path, "--lr_rule=fixed", source, *flag.split())
    assert done[0] == code and message in done[2], done
    assert not list(tmp_path.glob("cells/*/summary.json"))
    if "source" in flag:  # nor is the folder tied to a text that there is not
        assert not (tmp_path / "settings.json").exists()
