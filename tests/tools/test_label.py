"""tools/label.py as a person starts it: what it reads, draws, writes and refuses."""

import json
import signal
import urllib.request
from pathlib import Path

import pytest

from tests import programs

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "golden" / "sft"


def start(*args):
    return programs.start("tools/label.py", "--noopen", "--port=0", *args)


def end(process):
    process.send_signal(signal.SIGTERM)  # as Ctrl-C, which a background may not hear
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def first_url(process):
    for line in process.stdout:
        if line.startswith("http://"):
            return line.split()[0]
    raise AssertionError(process.stderr.read())


def call(url, body=None):
    headers = {"Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.slow
def test_answers_are_drawn_once_ranked_and_kept(tmp_path):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "labels.jsonl"
    lines = [{"prompt": "Why?"}, {"prompt": "q", "completion": "a"}, {"prompt": "Bye"}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    args = [
        f"--model={MODEL}", f"--prompts={prompts}", f"--out={out}", "--num_answers=3",
        "--max_new_tokens=4", "--temperature=1", "--top_p=1",
    ]  # fmt: skip
    process = start(*args)
    url = first_url(process)
    state = call(f"{url}state")
    assert state["total"] == 3
    num_answers = len(state["item"]["answers"])
    call(f"{url}rank", {"number": 0, "ranks": [*range(1, num_answers + 1)]})
    assert "1 of 3 ranked" in end(process)
    [line] = map(json.loads, out.read_text().splitlines())
    assert line["prompt"] == [{"role": "user", "content": "Why?"}]
    drawn = Path(f"{out}.answers.jsonl").read_bytes()
    assert len(drawn.splitlines()) == 3
    # Started again, it draws no more and goes on with the second.
    process = start(*args)
    assert call(f"{first_url(process)}state")["item"]["number"] == 1
    end(process)
    assert Path(f"{out}.answers.jsonl").read_bytes() == drawn


BAD = {
    "neither": ([], None, "give either --answers, or --model and --prompts"),
    "no prompts": ([f"--model={MODEL}"], None, "--prompts is needed"),
    "no file": (["--answers=/nowhere.jsonl"], None, "/nowhere.jsonl: no such file"),
    "no answers": ([], {"prompt": "q"}, "a.jsonl:1: no prompt and answers"),
    "no list": ([], {"prompt": "q", "answers": 3}, "a.jsonl:1: "),
    "alike": ([], {"prompt": "q", "answers": ["a", "a"]}, "nothing to rank"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, tmp_path):
    args, line, message = BAD[name]
    if line is not None:
        (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
        args = [f"--answers={tmp_path / 'a.jsonl'}"]
    process = start(*args, f"--out={tmp_path / 'labels.jsonl'}")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and message in err
    assert err.startswith("error: ") and err.count("\n") == 1
