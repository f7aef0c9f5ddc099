"""tools/forward.py: outputs equal to transformers', bad inputs refused in one line."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"

# Runs main() on many inputs in one process and prints what each one raised.
DRIVER = """
import json, sys
from absl import flags
from tools import forward

for model, inputs, output in json.loads(sys.argv[1]):
    flags.FLAGS(["x", f"--model={model}", f"--inputs={inputs}", f"--output={output}"])
    try:
        forward.main()
        print(json.dumps("fine"))
    except (ValueError, OSError) as error:
        print(json.dumps(str(error)))
"""


def run(*command: str) -> subprocess.CompletedProcess:
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], env=env, cwd=ROOT, capture_output=True, text=True
    )


def inputs_of(name: str, case: str) -> dict[str, np.ndarray]:
    keys = ("input_ids", "attention_mask", "position_ids")
    with np.load(GOLDEN / name / "golden.npz") as file:
        return {key: file[f"{case}/{key}"] for key in keys if f"{case}/{key}" in file}


@pytest.mark.parametrize(
    ("name", "case"), [("gpt2", "left_positions"), ("llama_biased", "left")]
)
def test_outputs_equal_transformers(name, case, tmp_path):
    np.savez(tmp_path / "in.npz", **inputs_of(name, case))
    flags = [f"--inputs={tmp_path}/in.npz", f"--output={tmp_path}/out.npz"]
    result = run("-m", "tools.forward", f"--model={GOLDEN / name}", *flags)
    assert result.returncode == 0, result.stderr
    with np.load(GOLDEN / name / "golden.npz") as golden:
        real = golden[f"{case}/attention_mask"] > 0
        with np.load(tmp_path / "out.npz") as outputs:
            assert set(outputs) == {"logits", *(f"hidden_{i}" for i in range(4))}
            for key, value in outputs.items():
                assert value.dtype == np.float32
                assert abs(value - golden[f"{case}/{key}"])[real].max() < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npz", "out.npz"]


def test_error_is_one_line_and_leaves_no_output(tmp_path):
    np.savez(tmp_path / "in.npz", input_ids=np.array([[3, 61]]))
    flags = [f"--inputs={tmp_path}/in.npz", f"--output={tmp_path}/out.npz"]
    result = run("-m", "tools.forward", f"--model={GOLDEN / 'gpt2'}", *flags)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if "error: " in line]
    assert line.endswith("in.npz: input_ids holds 61, outside 0..60 of the vocabulary")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out.npz").exists()


IDS = np.array([[1, 2, 3]])
BAD = [
    ("gpt2", {"ids": IDS}, "unknown input 'ids'; known: input_ids, attention_mask"),
    ("gpt2", {}, "input_ids is missing"),
    ("gpt2", {"input_ids": IDS[0]}, "input_ids must be [batch, length]"),
    ("gpt2", {"input_ids": IDS[:, :0]}, "input_ids must be [batch, length]"),
    ("gpt2", {"input_ids": IDS * 1.0}, "input_ids must be integers, not float64"),
    ("gpt2", {"input_ids": -IDS}, "input_ids holds -1, outside 0..60"),
    ("gpt2", {"input_ids": IDS + 2**40}, "not an int32"),
    ("gpt2", {"input_ids": np.ones((1, 30), int)}, "input_ids has 30 tokens"),
    ("gpt2", {"input_ids": IDS, "position_ids": IDS - 2}, "position_ids holds -1"),
    ("gpt2", {"input_ids": IDS, "attention_mask": IDS}, "attention_mask holds 2"),
    ("gpt2", {"input_ids": IDS, "attention_mask": IDS.T}, "has shape (3, 1)"),
    ("gpt2", {"input_ids": np.array([[None]])}, "not an .npz file of arrays"),
    ("llama_tied", {"input_ids": np.ones((1, 40), int)}, "fine"),
    ("nothing", {"input_ids": IDS}, "no such folder or file"),
    ("gpt2/config.json", {"input_ids": IDS}, "config.json: not a GGUF file"),
]  # fmt: skip


def test_bad_inputs_are_refused_by_name(tmp_path):
    out = tmp_path / "out.npz"
    cases = []
    for i, (model, arrays, _) in enumerate(BAD):
        np.savez(tmp_path / f"{i}.npz", **arrays)
        cases.append((str(GOLDEN / model), str(tmp_path / f"{i}.npz"), str(out)))
    np.savez(tmp_path / "good.npz", input_ids=IDS)
    good = str(tmp_path / "good.npz")
    torn = tmp_path / "torn.npz"
    torn.write_bytes((tmp_path / "good.npz").read_bytes()[:-30])
    gpt2 = str(GOLDEN / "gpt2")
    cases.append((gpt2, str(torn), str(out)))
    cases.append((gpt2, str(tmp_path / "gone.npz"), str(out)))
    cases.append((gpt2, good, str(tmp_path / "gone" / "out.npz")))
    result = run("-c", DRIVER, json.dumps(cases))
    assert result.returncode == 0, result.stderr
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    expected = [message for _, _, message in BAD]
    expected += ["not an .npz file of arrays", "gone.npz", "its folder does not exist"]
    for got, part in zip(messages, expected, strict=True):
        assert part in got and "\n" not in got
