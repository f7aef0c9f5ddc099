"""The other pre-training experiments as a user runs them, in miniature."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from llmjax.load import load
from llmjax.models import transformer
from tests import programs

ROOT = Path(__file__).parents[2]
SMALL = ["--model=tiny", "--train.log_every=1", "--train.save_every=5"]
TEXT = ["--data.tokenizer=bytes", "--model.context=32", "--train.batch_size=8"]


def run(experiment, workdir, *args):
    """The program's output; an exit code other than 0 fails the test."""
    program = f"experiments/{experiment}.py"
    code, out, err = programs.run(program, f"--workdir={workdir}", *SMALL, *args)
    assert code == 0, err
    return out


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
    """Documents of one pattern: what is hidden can be told."""
    folder = tmp_path_factory.mktemp("text")
    for index in range(80):
        (folder / f"{index}.txt").write_text("abcdefgh" * 12 + str(index % 10))
    return f"--data.source={folder}/*.txt"


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain_encoder", "pretrain_seq2seq"])
def test_learns_resumes_and_reports(name, source, tmp_path):
    args = [*TEXT, source, "--train.eval_every=0"]
    run(name, tmp_path / "whole", *args, "--num_steps=20")
    run(name, tmp_path / "cut", *args, "--num_steps=20", "--train.save_every=10")
    kept = tmp_path / "cut" / "checkpoints"
    for step in kept.iterdir():  # as if it had been stopped after step 10
        if step.name.isdigit() and int(step.name) > 10:
            subprocess.run(["rm", "-r", step], check=True)
    out = run(name, tmp_path / "cut", *args, "--num_steps=20", "--train.save_every=10")
    assert "resumed at step 10" in out
    whole = losses(tmp_path / "whole")
    assert losses(tmp_path / "cut") == whole
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["num_steps"] == 20 and summary["loss"] == whole[20]
    assert summary["val_loss"] < whole[1] - 1
    # Nine letters, one of eight next: by frequency alone about log(8) and more.
    assert 1.9 < summary["unigram_loss"] < 3.0
    assert "gaps filled in" in (tmp_path / "whole" / "report.html").read_text()
    loaded = load(tmp_path / "whole")
    is_encoder = name == "pretrain_encoder"
    assert loaded.cfg.structure == ("encoder" if is_encoder else "decoder")
    assert (loaded.cfg.encoder is None) == is_encoder
    tokens = np.ones((1, 4), np.int32)
    batch = {"tokens": tokens} | ({} if is_encoder else {"encoder_tokens": tokens})
    model = transformer.make(loaded.cfg)
    hidden = jax.jit(model.apply)(loaded.params, batch).hidden_BTD
    assert np.isfinite(hidden).all()


@pytest.mark.slow
def test_translate_compares_three(tmp_path):
    lines = [f"{a} {b}" for a in "abcdefghijkl" for b in "mnopqrstuvwxyz"]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.txt").write_text("\n".join(line[::-1] for line in lines) + "\n")
    out = run(
        "translate", tmp_path / "run", "--data.task=files", "--num_steps=10",
        f"--data.source_file={tmp_path}/a.txt", f"--data.target_file={tmp_path}/b.txt",
        "--data.vocab_size=300", "--data.source_tokens=8", "--data.target_tokens=8",
        "--train.eval_every=0", "--compute.dropout=0.1",
    )  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary) == ["the source itself", "encoder-decoder", "decoder"]
    sizes = [summary[name]["parameters"] for name in ("encoder-decoder", "decoder")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)
    assert summary["the source itself"]["exact_match"] == 0
    assert "reference: " in out and "encoder-decoder: " in out
    cell = re.search(r"the source itself.*?([\d.]+)", out)
    assert float(cell[1]) == pytest.approx(
        summary["the source itself"]["bleu"], rel=0.01
    )


def test_unequal_files_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("one\n")
    done = subprocess.run(
        [sys.executable, "experiments/translate.py", f"--workdir={tmp_path}/run",
         "--data.task=files", f"--data.source_file={tmp_path}/a.txt",
         f"--data.target_file={tmp_path}/b.txt"],
        cwd=ROOT, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "2 lines" in done.stderr and done.stderr.count("\n") == 1
