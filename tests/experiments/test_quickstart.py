"""The whole course in miniature: killed in a stage, resumed, done but once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmjax.data import course

ROOT = Path(__file__).parents[2]
STAGES = ("pretrain", "sft", "reward_model", "ppo")


def start(workdir, *args):
    program = [sys.executable, "experiments/quickstart.py", f"--workdir={workdir}"]
    return subprocess.Popen(
        [*program, *args], cwd=ROOT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture(name="small")
def _small(tmp_path):
    """The flags of a course that takes no time."""
    text = tmp_path / "text.jsonl"
    examples = course.draw(400, 9)
    lines = (
        json.dumps({"text": f"{one.question()}\n{one.answer}"}) for one in examples
    )
    text.write_text("\n".join(lines))
    return [
        f"--pretrain=--data.source={text} --model.depth=2 --num_steps=4 "
        "--train.batch_size=4 --data.vocab_size=300",
        "--sft=--num_steps=160 --optim.lr=2e-2 --train.save_every=5 "
        "--train.eval_every=0 --data.context=128",
        "--reward_model=--num_steps=6 --train.batch_size=4",
        "--ppo=--num_steps=2 --rollout.num_prompts=16 --data.num_held_out=8",
        "--num_lessons=2000", "--num_compared=200", "--num_practised=40",
        "--num_asked=20",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_course_is_resumed_after_a_kill_and_every_stage_is_done_once(
    small, tmp_path
):
    workdir = tmp_path / "run"
    process = start(workdir, *small)
    while not (workdir / "sft" / "checkpoints" / "5").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # the stage and who started it
    process.communicate()

    done = (workdir / "pretrain" / "summary.json").stat().st_mtime_ns
    process = start(workdir, *small)
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, out + err
    assert "resumed at step" in out
    assert (workdir / "pretrain" / "summary.json").stat().st_mtime_ns == done
    check_summary(workdir)
    page = (workdir / "report.html").read_text()
    for name in STAGES:
        assert f'href="{name}/report.html"' in page
        assert (workdir / name / "report.html").exists()

    times = {path: path.stat().st_mtime_ns for path in workdir.glob("*/*.json*")}
    process = start(workdir, *small)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert times == {path: path.stat().st_mtime_ns for path in times}
    process = start(workdir, *small, "--num_asked=21")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "num_asked: 20 -> 21" in err


def check_summary(workdir):
    found = json.loads((workdir / "summary.json").read_text())
    assert [row["stage"] for row in found["stages"]] == [*STAGES, "ppo"]
    assert set(found["secs"]) == {*STAGES, "this call"}
    exam = course.draw(20, course.EXAM, held_out=True)
    for name, marks in found["marks"].items():
        said = json.loads((workdir / name / "answers.json").read_text())
        right = sum(map(course.is_right, exam, said))
        assert marks["right"] == pytest.approx(right / 20)
    lines = (workdir / "data" / "comparisons.jsonl").read_text().splitlines()
    pairs = list(map(json.loads, lines))
    assert 0 < len(pairs) <= 200
    # The judge errs, but not often.
    errs = [
        sorted(one["ranks"]) != [one["ranks"][i] for i in rank(one["gold"])]
        for one in pairs
    ]
    assert sum(errs) < len(pairs) / 2


def rank(gold):
    return sorted(range(len(gold)), key=lambda place: -gold[place])


@pytest.mark.slow
def test_a_stage_that_fails_is_named(tmp_path):
    process = start(tmp_path / "run", "--pretrain=--data.source=/nowhere.txt")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "/nowhere.txt" in err and "error: pretrain has failed" in err
    assert "Traceback" not in err and os.listdir(tmp_path / "run")
