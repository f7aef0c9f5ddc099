"""Programs run in processes of their own, some at a time; what is done stays done.

A job is done once its folder holds summary.json, which a program writes whole and last.
While it runs, it holds a lock on its folder, even if whoever started it has died: so a
job never runs twice at once, and a run that is started again waits for it.
"""

import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

POLL_SECS = 0.2
WAIT_SECS = 10.0  # for what an earlier process still runs here, before it says so again
SHOWN_CHARS = 300  # of a log's last line
ROOT = Path(__file__).parents[2]  # where programs are started: experiments/... is there


class Job(NamedTuple):
    """command: program and flags, without the interpreter. folder: its workdir."""

    id: str
    command: list[str]
    folder: Path

    @property
    def is_done(self) -> bool:
        return (self.folder / "summary.json").is_file()


class Outcome(NamedTuple):
    """How a job ended. error: the last line of its log, None if all went well."""

    error: str | None
    secs: float
    peak_bytes: int  # of memory on the host


class _Running(NamedTuple):
    job: Job
    lock: IO
    process: subprocess.Popen
    start_secs: float
    cores: set[int]


def run(
    jobs: Sequence[Job],
    parallel: int,
    say: Callable[[str], None] = print,
    watch: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> dict[str, str]:
    """Runs what is not done, `parallel` at a time; {id: reason} of those that failed.

    Each gets its share of this process's cores, and its output goes to log.txt of its
    folder. watch: is told of each that has ended. Interrupted, all are stopped; killed
    outright, those that run go on, and the next call waits for them.
    """
    shares, busy = share_cores(parallel), []
    waiting, failed, told = [job for job in jobs if not job.is_done], {}, set()
    try:
        while waiting or busy:
            for job in list(waiting):
                if len(busy) == parallel:
                    break
                lock = _lock(job.folder)
                if lock is None:
                    if job.id not in told:
                        say(f"{job.id}: still run by an earlier process; waiting")
                    told.add(job.id)
                    continue
                waiting.remove(job)
                if job.is_done:  # by now
                    lock.close()
                    continue
                taken = [one.cores for one in busy]
                cores = next(share for share in shares if share not in taken)
                busy.append(_start(job, lock, cores))
            time.sleep(POLL_SECS)
            for one in list(busy):
                outcome = _ended(one)
                if outcome is not None:
                    busy.remove(one)
                    one.lock.close()
                    if outcome.error is not None:
                        failed[one.job.id] = outcome.error
                    watch(one.job, outcome)
    finally:
        for one in busy:
            one.process.terminate()
            one.lock.close()
    return failed


def finish(jobs: Sequence[Job], parallel: int) -> None:
    """As `run`, of jobs that others need: raises ValueError where one fails."""
    failed = run(jobs, parallel)
    if failed:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise ValueError(f"{reasons}; start again, what is done stays done")


def run_here(job: Job, say: Callable[[str], None] = print) -> None:
    """Runs one job, if it is not done, on all cores and in this terminal.

    Raises ValueError where it fails; what went wrong stands above then.
    """
    while (lock := _lock(job.folder)) is None:
        say(f"{job.id}: still run by an earlier process; waiting")
        time.sleep(WAIT_SECS)
    with lock:
        if job.is_done:
            return
        program, *arguments = job.command
        command = [sys.executable, str(ROOT / program), *arguments]
        code = subprocess.run(command, pass_fds=[lock.fileno()]).returncode
    if code or not job.is_done:
        raise ValueError(
            f"{job.id} has failed (exit code {code}), as said above; started again, "
            "it goes on where it stopped"
        )


def share_cores(parallel: int) -> list[set[int]]:
    """This process's cores in `parallel` parts; a core is in several if it must be."""
    if not hasattr(os, "sched_getaffinity"):
        return [{index} for index in range(parallel)]
    cores = sorted(os.sched_getaffinity(0))
    if parallel > len(cores):
        raise ValueError(f"--parallel={parallel}: there are {len(cores)} cores")
    return [set(cores[index::parallel]) for index in range(parallel)]


def _lock(folder: Path) -> IO | None:
    """The lock of a folder, or None while another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / "lock").open("w")  # closed by whoever waits for the process
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _start(job: Job, lock: IO, cores: set[int]) -> _Running:
    """The process inherits the lock, and with it holds it to its end."""
    pinned = hasattr(os, "sched_setaffinity")
    before = os.sched_getaffinity(0) if pinned else None
    with open(job.folder / "log.txt", "ab") as log:
        try:
            if pinned:
                os.sched_setaffinity(0, cores)  # which a child takes over
            process = subprocess.Popen(
                [sys.executable, *job.command], cwd=ROOT, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, pass_fds=[lock.fileno()],
            )  # fmt: skip
        finally:
            if pinned:
                os.sched_setaffinity(0, before)
    return _Running(job, lock, process, time.perf_counter(), cores)


def _ended(one: _Running) -> Outcome | None:
    """How the process has ended; None while it runs."""
    pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
    if not pid:
        return None
    code = one.process.returncode = os.waitstatus_to_exitcode(status)
    secs = time.perf_counter() - one.start_secs
    unit = 1 if sys.platform == "darwin" else 1024
    error = None
    if code < 0:
        error = f"killed by signal {-code}"
        error += ", perhaps for want of memory" if code == -9 else ""
    elif code or not one.job.is_done:
        error = f"exit code {code}: {last_line(one.job.folder / 'log.txt')}"
    return Outcome(error, secs, usage.ru_maxrss * unit)


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((s.strip() for s in reversed(lines) if s.strip()), "")[-SHOWN_CHARS:]


def shell(job: Job) -> str:
    """The job as a line for a shell, at the root of the repository."""
    return shlex.join(["python", *job.command])


def write_slurm(
    jobs: Sequence[Job], folder: Path, options: Sequence[str] = (), minutes: int = 0
) -> Path:
    """Writes a batch script per job, and one that submits all; returns the latter.

    options: further lines for sbatch, such as "--gres=gpu:1". minutes: the time limit
    of a job, if any. A job that is submitted twice, requeued or done runs but once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limits = [f"--time={minutes}"] if minutes else []
    scripts = []
    for job in jobs:
        at = shlex.quote(str(job.folder.resolve()))
        lines = ["#!/bin/bash"]
        lines += [f"#SBATCH {option}" for option in (
            f"--job-name={job.id}", f"--output={job.folder.resolve()}/log.txt",
            "--open-mode=append", "--requeue", *limits, *options,
        )]  # fmt: skip
        lines += [
            f"cd {shlex.quote(str(ROOT))}",
            f"[ -e {at}/summary.json ] && exit",
            f"exec flock --nonblock {at}/lock {shell(job)}",
        ]
        job.folder.mkdir(parents=True, exist_ok=True)
        script = folder / f"{job.id}.sbatch"
        script.write_text("\n".join(lines) + "\n")
        scripts.append(shlex.quote(str(script.resolve())))
    submit = folder / "submit.sh"
    submit.write_text("".join(f"sbatch {script}\n" for script in scripts))
    return submit
