"""The experiment as a user runs it, on a tiny model."""

import subprocess
import sys
from pathlib import Path

from tests.test_embed import tiny_encoder

ROOT = Path(__file__).parents[2]


def run(*args: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "experiments/semantic_search.py", *args]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


def test_nearest_lines_come_first(tmp_path):
    model = tiny_encoder(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("x y z\n\n  c b a\na b c\na b c\na b d\n")
    result = run(
        f"--model={model}",
        f"--texts={tmp_path}/texts.txt",
        "--query=a b c",
        "--query=x y",
        "--top=3",
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("4 lines embedded")  # each once, none empty
    assert lines[2:4] == ["a b c", "  1.000  a b c"]
    assert len(lines) == 11
    cosines = [float(line.split()[0]) for line in lines[3:6]]
    assert cosines == sorted(cosines, reverse=True)


def test_error_is_one_line(tmp_path):
    result = run(f"--model={tmp_path}", "--query=a")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    [line] = [line for line in result.stderr.splitlines() if "error: " in line]
    assert "no model here" in line
