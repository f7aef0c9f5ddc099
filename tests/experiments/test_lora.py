"""Tuning by LoRA as a user does it, in miniature; what it writes opens everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmjax import load
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "sft"
COLOURS = ["red", "blue", "green", "pink"]
LEARN = [
    "--num_steps=60", "--train.eval_every=30", "--optim.lr=2e-2", "--lora.rank=4",
    "--data.context=48", "--data.validation_fraction=0.1",
]  # fmt: skip


@pytest.fixture(name="learn", scope="module")
def _learn(tmp_path_factory):
    """The answer is the colour in the question, whichever the number is."""
    path = tmp_path_factory.mktemp("chats") / "colours.jsonl"
    lines = [
        json.dumps({"prompt": f"{n} {colour}", "completion": colour})
        for n in range(30)
        for colour in COLOURS
    ]
    path.write_text("\n".join(lines) + "\n")
    return [f"--init_from={GOLDEN}", f"--data.source={path}", *LEARN]


def hidden(model: load.Loaded):
    tokens = np.arange(24).reshape(2, 12)
    return transformer.make(model.cfg).apply(model.params, {"tokens": tokens})[0]


@pytest.mark.slow
def test_adapters_learn_resume_and_leave_as_a_peft_folder(learn, tmp_path):
    own = tmp_path / "run"
    mesh = ["--cpu_devices=2", "--mesh=fsdp=2", "--train.accumulate=2"]
    code, out, err = programs.run(
        "experiments/lora.py", f"--workdir={own}", *learn, *mesh
    )
    assert code == 0, err
    summary = json.loads((own / "summary.json").read_text())
    assert summary["val_loss"] < 2.5  # from 6.3; the numbers cannot be foretold
    assert (
        "blocks/attention/q_a_DR" in out and "q_DNH" not in out
    )  # all that is trained
    code, again, err = programs.run(
        "experiments/lora.py", f"--workdir={own}", *learn, *mesh
    )
    assert code == 0 and "resumed at step 60" in again, err
    second = json.loads((own / "summary.json").read_text())
    assert second["val_loss"] == summary["val_loss"]

    # The workdir opens as a model, and as a folder for others beside the same base.
    code, out, err = programs.run("tools/export_adapter.py", own, tmp_path / "peft")
    assert code == 0, err
    base = load.load(GOLDEN)
    merged = hidden(load.merge_adapter(tmp_path / "peft", base))
    np.testing.assert_allclose(hidden(load.load(own)), merged, atol=1e-5)
    assert np.abs(hidden(base) - merged).max() > 0.1


@pytest.mark.slow
def test_the_base_may_be_of_four_bits(learn, tmp_path):
    pytest.importorskip("qwix")
    args = [f"--workdir={tmp_path}", *learn, "--lora.base=nf4"]
    code, _, err = programs.run("experiments/lora.py", *args)
    assert code == 0, err
    metrics = [
        json.loads(line)
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    looks = [line["val_loss"] for line in metrics if "val_loss" in line]
    assert looks[-1] < 2.5 and looks[-1] < looks[0]
    # It opens with the base as it was learned beside, not with that of more bits.
    opened = load.load(tmp_path)
    plain = load.merge_adapter(tmp_path, load.load(GOLDEN))
    assert 1e-3 < np.abs(hidden(opened) - hidden(plain)).max() < 5


@pytest.mark.slow
def test_bad_input_is_explained(learn, tmp_path):
    own = f"--workdir={tmp_path / 'run'}"
    for flag, code, message in (
        ("--lora.targets=attention/x", 1, "'attention/x' matches no matrix"),
        ("--lora.rank=0", 2, "rank=0 must be at least 1"),
        ("--init_from=tests/golden/none", 1, "tests/golden/none"),
    ):
        found = programs.run("experiments/lora.py", own, *learn, flag)
        assert found[0] == code and message in found[2], found
    code, _, err = programs.run("tools/export_adapter.py", tmp_path, tmp_path / "out")
    assert code == 1 and "not the workdir of a run with LoRA" in err
