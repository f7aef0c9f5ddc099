"""Jobs in processes of their own: once each, whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from llmjax.scaling import jobs
from llmjax.scaling.jobs import Job

# Writes a line each time that it runs, and summary.json at its end.
PROGRAM = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
with open(folder / "starts", "a") as file:
    file.write("x")
(folder / "cores").write_text(json.dumps(sorted(os.sched_getaffinity(0))))
begin = time.time()
time.sleep(float(sys.argv[2]))
(folder / "times").write_text(json.dumps([begin, time.time()]))
(folder / "summary.json").write_text("{}")
"""
PARENT = """
import pathlib, sys
from llmjax.scaling import jobs
folder = pathlib.Path(sys.argv[1])
jobs.run([jobs.Job("slow", ["-c", sys.argv[2], str(folder), "2"], folder)], 1)
"""


def make(folder, name, secs=0.0, program=PROGRAM):
    return Job(name, ["-c", program, str(folder / name), str(secs)], folder / name)


def starts(job):
    path = job.folder / "starts"
    return len(path.read_text()) if path.exists() else 0


def test_what_is_done_is_not_run_again_and_what_fails_is_named(tmp_path):
    bad = "print('before'); raise ValueError('no such text')"
    silent = "pass"  # ends well, but has not written its summary
    dead = "import os; os.kill(os.getpid(), 9)"
    todo = [make(tmp_path, "bad", program=bad), make(tmp_path, "one")]
    todo += [make(tmp_path, "silent", program=silent), make(tmp_path, "two")]
    todo.append(make(tmp_path, "dead", program=dead))
    seen = {}
    failed = jobs.run(
        todo, 2, watch=lambda job, outcome: seen.update({job.id: outcome})
    )
    assert set(failed) == {"bad", "silent", "dead"}
    assert failed["bad"] == "exit code 1: ValueError: no such text"
    assert "exit code 0" in failed["silent"] and "signal 9" in failed["dead"]
    assert seen["one"].error is None and seen["one"].peak_bytes > 1e6
    assert set(seen) == {job.id for job in todo}

    jobs.run(todo, 2)
    assert [starts(job) for job in todo] == [0, 1, 0, 1, 0]
    assert "before" in (todo[0].folder / "log.txt").read_text()


def test_so_many_at_a_time_each_on_its_cores(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("one core")
    todo = [make(tmp_path, name, 1.0) for name in "abcd"]
    assert not jobs.run(todo, 2)
    spans = [json.loads((job.folder / "times").read_text()) for job in todo]
    at_once = [sum(a <= begin < b for a, b in spans) for begin, _ in spans]
    assert max(at_once) == 2
    used = {(job.folder / "cores").read_text() for job in todo}
    assert used == {str(cores[0::2]), str(cores[1::2])}
    assert sorted(os.sched_getaffinity(0)) == cores
    with pytest.raises(ValueError, match="--parallel=99: there are"):
        jobs.run(todo, 99)


def orphan(tmp_path):
    """The folder of a job of two seconds, whose parent has been killed."""
    folder = tmp_path / "slow"
    command = [sys.executable, "-c", PARENT, str(folder), PROGRAM]
    parent = subprocess.Popen(command, cwd=jobs.ROOT)
    while not (folder / "starts").exists():
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    return folder


def test_a_job_outlives_a_killed_parent_and_runs_but_once(tmp_path):
    folder = orphan(tmp_path)
    assert not (folder / "summary.json").exists()
    said = []
    job = Job("slow", ["-c", PROGRAM, str(folder), "2"], folder)
    assert jobs.run([job], 1, say=said.append) == {}
    assert job.is_done and starts(job) == 1
    assert len(said) == 1 and "earlier process" in said[0]


def test_a_batch_script_runs_a_job_once(tmp_path):
    job = make(tmp_path, "cell")
    submit = jobs.write_slurm([job], tmp_path / "jobs", ["--gres=gpu:1"], minutes=90)
    (line,) = submit.read_text().splitlines()
    script = tmp_path / "jobs" / "cell.sbatch"
    assert line == f"sbatch {script}"
    text = script.read_text()
    for option in ("--job-name=cell", "--gres=gpu:1", "--time=90", "--requeue"):
        assert f"#SBATCH {option}\n" in text
    folder = os.path.dirname(sys.executable)
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["bash", script], check=True, env=env)
    assert job.is_done and starts(job) == 1


def test_a_job_in_this_terminal_runs_once_and_says_why_it_failed(tmp_path, capfd):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    job = Job("one", [str(program), str(tmp_path / "one"), "0"], tmp_path / "one")
    jobs.run_here(job)
    jobs.run_here(job)
    assert job.is_done and starts(job) == 1
    program.write_text("print('before'); raise SystemExit('no such text')")
    bad = Job("bad", [str(program)], tmp_path / "bad")
    with pytest.raises(ValueError, match=r"bad has failed \(exit code 1\)"):
        jobs.run_here(bad)
    out, err = capfd.readouterr()
    assert "before" in out and "no such text" in err
    assert not (tmp_path / "bad" / "log.txt").exists()


def test_a_job_in_this_terminal_waits_for_an_earlier_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "WAIT_SECS", 0.1)
    folder = orphan(tmp_path)
    said = []
    job = Job("slow", ["unused.py"], folder)
    jobs.run_here(job, say=said.append)
    assert job.is_done and starts(job) == 1
    assert "earlier process" in said[0]
