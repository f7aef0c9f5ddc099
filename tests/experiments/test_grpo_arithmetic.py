"""The experiment in miniature: done, taken up again where it stopped; and bad input."""

import json
import os
import shutil

import pytest

from tests import programs

SMALL = (
    "--size=1x16", "--base_steps=4", "--num_steps=2", "--num_seeds=1",
    "--sums.num_digits=1", "--sums.num_worked=30", "--sums.num_posed=40",
    "--sums.num_asked=8", f"--parallel={min(2, len(os.sched_getaffinity(0)))}",
    "--flags=--rollout.num_prompts=4 --rollout.num_samples=2 --save_every=1",
)  # fmt: skip


def run(workdir, *args):
    """(exit code, output, errors)."""
    program = "experiments/grpo_arithmetic.py"
    return programs.run(program, f"--workdir={workdir}", *SMALL, *args)


@pytest.mark.slow
def test_small_models_resumed_and_asked(tmp_path):
    code, out, err = run(tmp_path)
    assert code == 0, err
    found = json.loads((tmp_path / "summary.json").read_text())
    names = [row["model"] for row in found["models"]]
    assert names == ["adder", "grpo, rewards", "grpo, shuffled"]
    assert found["models"][0]["KL"] == 0  # of the reference itself
    assert "grpo, shuffled, drawn" in found["said"] and "MISSED" in out
    page = (tmp_path / "report.html").read_text()
    assert "Sharper, or taught?" in page and (tmp_path / "reward.png").exists()

    control = tmp_path / "grpo_shuffled_seed0"  # as if it had been stopped after one
    kept = (control / "asked.json").read_text()
    shutil.rmtree(control / "checkpoints" / "2")
    (control / "summary.json").unlink()
    (control / "asked.json").unlink()
    done = (tmp_path / "grpo_rewards_seed0" / "summary.json").stat().st_mtime_ns
    code, _, err = run(tmp_path)
    assert code == 0, err
    assert "resumed" in (control / "log.txt").read_text()
    assert (control / "asked.json").read_text() == kept
    again = (tmp_path / "grpo_rewards_seed0" / "summary.json").stat().st_mtime_ns
    assert again == done

    code, _, err = run(tmp_path, "--num_steps=3")
    assert code == 1 and "num_steps: 2 -> 3" in err and err.count("\n") == 1


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    for flag, text in {
        "--kinds=": "kinds: name one or more",
        "--num_seeds=0": "num_seeds must be positive",
        "--sums.careless=2": "careless must be in [0, 1]",
        "--kinds=ppo": "grpo|dr_grpo|dapo|rloo",
    }.items():
        code, _, err = run(tmp_path / "run", flag)
        assert code in (1, 2) and text in err and err.count("\n") == 1, err
