"""tools/show_batch.py marks what is trained, and refuses what teaches nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sft"
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello [you]"},
    {"role": "user", "content": "Bye\n"},
    {"role": "assistant", "content": "Ça va 🙂"},
]
SHOWN = """\
<|im_start|>user
Hi<|im_end|>
<|im_start|>assistant
[[Hello [you]<|im_end|>]]
<|im_start|>user
Bye
<|im_end|>
<|im_start|>assistant
[[Ça va 🙂<|im_end|>]]
"""


def run(*args):
    done = subprocess.run(
        [sys.executable, "tools/show_batch.py", f"--model={GOLDEN}", *map(str, args)],
        cwd=ROOT, capture_output=True, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(name="file")
def _file(tmp_path):
    """Conversations with the same first question, and one other, which is held out."""
    lines = [{"messages": TALK}] * 3 + [{"prompt": "Which?", "completion": "Both."}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return path


def test_conversations_and_their_borders(file):
    code, out, err = run(f"--data.source={file}", "--data.context=240")
    assert code == 0, err
    assert out.count(SHOWN) == 2 * 3  # a batch of two, of one row with them all
    assert "x padding>" in out
    assert "row 0: 3 conversations" in out and "conversation 3" in out
    assert "learned" in out and "held out" in out
    assert "\x1b" not in out  # no colour where there is no terminal


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}"
            "{% endfor %}",
            "a.jsonl:1: trains no token",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
            "{% endfor %}",
            "no answer has an end (<|endoftext|>) that is trained",
        ),
        (
            "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
            "{{ eos_token }}{% endfor %}",
            "is masked away, as the padding is",
        ),
    ],
)
def test_what_teaches_nothing_is_refused(template, message, file, tmp_path):
    (tmp_path / "t.jinja").write_text(template)
    code, _, err = run(f"--data.source={file}", f"--data.template={tmp_path}/t.jinja")
    assert code == 1 and message in err and err.count("\n") == 1, err
