"""Programs as a user starts them, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_SECS = 1800


def start(program: str, *args, place: Path = ROOT) -> subprocess.Popen:
    """The program, such as experiments/sft.py, running in the folder `place`."""
    command = [sys.executable, ROOT / program, *map(str, args)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, cwd=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip


def run(program: str, *args, place: Path = ROOT) -> tuple[int, str, str]:
    """(exit code, output, errors) of the program, once it has ended."""
    process = start(program, *args, place=place)
    try:
        out, err = process.communicate(timeout=TIMEOUT_SECS)
    finally:
        process.kill()
    return process.returncode, out, err
