"""The experiment in miniature: killed, resumed, a run that fails; and bad input."""

import json
import os
import shutil
import signal
import time

import pytest

from tests import programs


def start(workdir, *args):
    return programs.start(
        "experiments/instruction_tuning.py", f"--workdir={workdir}", *args
    )


def run(workdir, *args):
    """(exit code, output, errors)."""
    return programs.run(
        "experiments/instruction_tuning.py", f"--workdir={workdir}", *args
    )


@pytest.fixture(name="small")
def _small(tmp_path):
    """The flags of a run that takes no time."""
    text = tmp_path / "text.jsonl"
    lines = (json.dumps({"text": f"this is document {n}"}) for n in range(999))
    text.write_text("\n".join(lines))
    return [
        "--size=1x32", "--base_steps=4", "--num_steps=4", "--batch_size=2",
        "--clusters=4,12", "--num_seeds=1", "--data.num_examples=400",
        "--data.num_asked=2", "--data.num_asked_pair=1", "--data.num_prompts=480",
        f"--data.text={text}", "--flags=--train.save_every=2 --train.log_every=1",
        f"--parallel={min(2, len(os.sched_getaffinity(0)))}",
    ]  # fmt: skip


@pytest.mark.slow
def test_small_models_killed_resumed_and_asked(small, tmp_path):
    workdir = tmp_path / "run"
    broken = workdir / "12_seed0" / "checkpoints"
    broken.parent.mkdir(parents=True)
    broken.write_text("no folder")
    process = start(workdir, *small)
    while not (workdir / "base" / "log.txt").exists():  # the base is being made
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    code, out, err = run(workdir, *small)
    assert code == 0, err
    assert "FAILED 12_seed0: exit code 1" in out
    found = json.loads((workdir / "summary.json").read_text())
    assert list(found["failed"]) == ["12_seed0"]
    assert list(found["shares"][0]["told"]) == [
        "before", "4 clusters", "12 clusters, never told"
    ]  # fmt: skip

    broken.unlink()
    half_done = workdir / "4_seed0"  # as if it had been stopped after step 2
    shutil.rmtree(half_done / "checkpoints" / "4")
    (half_done / "summary.json").unlink()
    (half_done / "answers.json").unlink()
    untold = workdir / "12_untold_seed0"
    done = (untold / "summary.json").stat().st_mtime_ns
    code, out, err = run(workdir, *small)
    assert code == 0, err
    assert "resumed at step 2" in (half_done / "log.txt").read_text()
    assert (untold / "summary.json").stat().st_mtime_ns == done
    again = json.loads((workdir / "summary.json").read_text())
    assert again["failed"] == {}
    for line, before in zip(again["shares"], found["shares"], strict=True):
        assert list(line["told"]) == [
            "before", "4 clusters", "12 clusters", "12 clusters, never told"
        ]  # fmt: skip
        for word in ("told", "untold"):
            for arm in before[word]:
                assert line[word][arm] == before[word][arm]
    page = (workdir / "report.html").read_text()
    assert "held-out wordings" in page and "MISSED" in out
    assert (workdir / "clusters.png").stat().st_size > 10_000
    asked = json.loads((workdir / "12_seed0" / "answers.json").read_text())
    assert set(asked["held-out pairs"]) == {"told", "untold"}
    check_files(workdir)
    code, _, err = run(workdir, *small, "--num_steps=5")
    assert code == 1 and "num_steps: 4 -> 5" in err and "Traceback" not in err


def check_files(workdir):
    # Each was tuned on its own clusters, and on as many examples.
    files = [workdir / "data" / f"{name}.jsonl" for name in ("4_seed0", "12_seed0")]
    few, most = (file.read_text().splitlines() for file in files)
    assert len(few) == len(most) == 400
    assert any("number" in line for line in most)
    assert not any("number that" in line for line in few)


BAD = {
    "--clusters=13": "clusters: give numbers from 1 to 12",
    "--num_seeds=0": "num_seeds must be positive",
    "--data.pair_share=2": "pair_share must be in [0, 1)",
    "--data.reasoning_gym=nothing": "reasoning-gym",
    "--data.text=/nowhere/x.txt": "/nowhere/x.txt",
    "--base=/nowhere/x.gguf": "/nowhere/x.gguf",
}


@pytest.mark.slow
def test_bad_input_is_one_line(tmp_path):
    started = {flag: start(tmp_path / f"{n}", flag) for n, flag in enumerate(BAD)}
    for flag, process in started.items():
        _, err = process.communicate(timeout=300)
        assert process.returncode in (1, 2) and BAD[flag] in err, flag
        assert err.count("\n") == 1, err
