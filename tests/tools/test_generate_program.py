"""tools/generate.py as a user runs it: transformers' greedy ids, and clear refusals."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def run(*args):
    result = subprocess.run(
        [sys.executable, "tools/generate.py", *args],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
def test_greedy_ids_equal_transformers(name):
    golden = np.load(GOLDEN / name / "golden.npz")
    prompt = golden["plain/input_ids"][0, :5].tolist()
    expected = golden["generated_ids"][0].tolist()[len(prompt) :]
    code, out, err = run(
        f"--model={GOLDEN / name}", f"--prompt_ids={','.join(map(str, prompt))}",
        f"--max_new_tokens={len(expected)}", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["ids"] == expected


def test_the_prompt_of_an_encoder_decoder_is_its_source():
    with np.load(GOLDEN / "bart" / "golden.npz") as golden:
        source = golden["plain/input_ids"][0, :5].tolist()
        expected = golden["generated_ids"][0, 1:].tolist()
    code, out, err = run(
        f"--model={GOLDEN / 'bart'}", f"--prompt_ids={','.join(map(str, source))}",
        f"--max_new_tokens={len(expected)}",
    )  # fmt: skip
    assert code == 0, err
    assert out.strip() == ",".join(map(str, expected))


@pytest.mark.parametrize(
    "args,message",
    [
        ([], "--model is needed"),
        (["--model=/nowhere"], "/nowhere: no model here"),
        ([f"--model={GOLDEN / 'gpt2'}"], "either --prompt or --prompt_ids"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt=hello"], "no tokenizer.json"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1,x"], "not numbers"),
        ([f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1,99"], "id 99 is outside"),
        (
            [f"--model={GOLDEN / 'gpt2'}", "--prompt_ids=1", "--max_new_tokens=999"],
            "1 tokens and 999 new ones exceed the context",
        ),
    ],
)
def test_bad_input_is_one_line(args, message):
    code, _, err = run(*args)
    assert code == 1 and message in err and "Traceback" not in err
