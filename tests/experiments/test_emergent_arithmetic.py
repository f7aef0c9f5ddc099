"""The experiment in miniature: what it promises, a run that fails, and bad input."""

import json
import os
import shutil

import pytest

from tests import programs


def start(workdir, *args):
    return programs.start(
        "experiments/emergent_arithmetic.py", f"--workdir={workdir}", *args
    )


def run(workdir, *args):
    """(exit code, output, errors)."""
    return programs.run(
        "experiments/emergent_arithmetic.py", f"--workdir={workdir}", *args
    )


@pytest.mark.slow
def test_small_models_one_of_which_fails_at_first(tmp_path):
    text = tmp_path / "text.jsonl"
    lines = (json.dumps({"text": f"this is document {n}"}) for n in range(99))
    text.write_text("\n".join(lines))
    small = [
        f"--data.text={text}", "--data.weights=1,1,1", "--sizes=2x32,1x32",
        "--num_seeds=2", "--num_steps=4", "--batch_size=2", "--asked.num_problems=6",
        "--asked.shots=0,2", "--flags=--train.save_every=2 --train.log_every=1",
        f"--parallel={min(2, len(os.sched_getaffinity(0)))}",
    ]  # fmt: skip
    workdir = tmp_path / "run"
    broken = workdir / "2x32_seed1" / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.write_text("no folder")
    code, out, err = run(workdir, *small)
    assert code == 0, err
    assert "FAILED 2x32_seed1: exit code 1" in out
    found = json.loads((workdir / "summary.json").read_text())
    assert list(found["failed"]) == ["2x32_seed1"]
    assert "FAILED 2x32_seed1" in (workdir / "report.html").read_text()
    assert [size["shape"] for size in found["sizes"]] == ["1x32", "2x32"]
    small_one, large_one = found["sizes"]
    assert small_one["parameters"] < large_one["parameters"]
    # 6 N D and attention: 4 steps of 2 rows of 256 tokens.
    assert 1 < large_one["flops"] / (6 * large_one["parameters"] * 2048) < 2
    answers = large_one["answers"]
    assert len(answers) == 16 and set(answers["3-digit + reversed"]) == {"0", "2"}
    assert set(answers["4-digit + reversed"]) == {"2"}
    assert len(answers["2-digit - plain"]["2"]["exact"]["seeds"]) == 1
    assert len(small_one["answers"]["2-digit - plain"]["2"]["exact"]["seeds"]) == 2
    assert "3-digit + reversed" in found["said"] and "MISSED: 99%" in out
    assert "80.2 % and 94.2 %" in (workdir / "report.html").read_text()
    assert (workdir / "addition_reversed_exact.png").stat().st_size > 10_000
    assert max(map(len, out.split("right, nats")[1].splitlines()[:18])) <= 80

    broken.unlink()
    half_done = workdir / "1x32_seed0"  # as if it had been stopped after step 2
    shutil.rmtree(half_done / "checkpoints" / "4")
    (half_done / "summary.json").unlink()
    done = (workdir / "1x32_seed1" / "summary.json").stat().st_mtime_ns
    code, out, err = run(workdir, *small)
    assert code == 0, err
    again = json.loads((workdir / "summary.json").read_text())
    assert again["failed"] == {} and again["sizes"][0] == small_one
    assert len(again["sizes"][1]["bits_per_byte"]) == 2
    assert "resumed at step 2" in (half_done / "log.txt").read_text()
    assert (workdir / "1x32_seed1" / "summary.json").stat().st_mtime_ns == done

    code, _, err = run(workdir, *small, "--num_steps=5")
    assert code == 1 and "num_steps: 4 -> 5" in err and "Traceback" not in err


BAD = {
    "--data.weights=": "weights: give 1 to 8 of them, got 0",
    "--data.share=1.5": "share must lie between 0 and 1",
    "--sizes=": "sizes: name one or more",
    "--num_seeds=0": "num_seeds must be positive",
    "--asked.shots=20": "exceed the context of 256 tokens",
    "--data.text=/nowhere/x.txt": "/nowhere/x.txt",
}


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    started = {flag: start(tmp_path / "run", flag) for flag in BAD}
    for flag, process in started.items():
        _, err = process.communicate(timeout=300)
        assert process.returncode in (1, 2) and BAD[flag] in err, flag
        assert err.count("\n") == 1, err
    assert not list(tmp_path.glob("run/*x*"))
