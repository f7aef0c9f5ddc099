"""The experiment as a user runs it: resumes to the bit, and explains what is wrong."""

import gzip
import json
import os
import signal
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from tests import programs

NUM_STEPS = 40
SMALL = [
    "--model=tiny", "--model.context=32", "--data.tokenizer=bytes",
    "--train.batch_size=4", "--train.log_every=1", "--train.save_every=5",
    "--train.eval_every=0",
]  # fmt: skip


def start(workdir, *args):
    return programs.start(
        "experiments/pretrain.py", f"--workdir={workdir}", *SMALL, *args
    )


def run(workdir, *args):
    """(exit code, output, errors)."""
    return programs.run(
        "experiments/pretrain.py", f"--workdir={workdir}", *SMALL, *args
    )


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
    """A folder of small documents, a different one for each file."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "one", "two", "three", "."]
    for index in range(60):
        text = " ".join(rng.choice(words, 40))
        (folder / f"{index}.txt").write_text(f"document {index}: {text}\n")
    return f"--data.source={folder}/*.txt"


def lines_of(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(name="unbroken", scope="module")
def _unbroken(tmp_path_factory, source):
    workdir = tmp_path_factory.mktemp("unbroken")
    code, out, err = run(workdir, source, f"--num_steps={NUM_STEPS}")
    assert code == 0, err
    return workdir, out


def test_a_run_leaves_what_it_promises(unbroken):
    workdir, out = unbroken
    lines = lines_of(workdir)
    assert [line["step"] for line in lines] == list(range(1, NUM_STEPS + 1))
    assert lines[-1]["loss"] < lines[0]["loss"]
    summary = json.loads((workdir / "summary.json").read_text())
    for name in (
        "val_bits_per_byte",
        "loss",
        "num_steps",
        "tokens_per_s",
        "mfu",
        "secs",
    ):
        assert summary[name] > 0
    assert summary["loss"] == lines[-1]["loss"] and summary["num_steps"] == NUM_STEPS
    assert summary["val_bits_per_byte"] == lines[-1]["val_bits_per_byte"]
    assert set(summary["baselines"]) == {"gzip -9", "xz", "byte unigram"}
    config = json.loads((workdir / "config.json").read_text())
    assert config["model"]["context"] == 32 and config["versions"]["jax"]
    page = (workdir / "report.html").read_text()
    HTMLParser().feed(page)
    assert "<svg" in page and "gzip -9" in page and "num_kv_heads" in page
    assert "blocks/attention/q_DNH" in out and "next:" in out
    assert f"--num_steps={NUM_STEPS}" in (workdir / "flags.txt").read_text()


def test_bits_per_byte_by_hand(unbroken):
    """From the checkpoint: all bytes of the held-out documents, one at a time."""
    import jax

    from llmjax.config import ComputeConfig
    from llmjax.data import store
    from llmjax.load import load
    from llmjax.models import transformer

    workdir, _ = unbroken
    cfg, params, _ = load(workdir)
    model = transformer.make(cfg, ComputeConfig())
    documents = store.open_store(next(workdir.glob("data/validation-*")))
    nats, num_bytes = 0.0, 0
    for index in range(len(documents)):
        ids = documents.document(index).astype(int)
        for first in range(0, len(ids) - 1, 32):
            piece = ids[None, first : first + 33]
            hidden = model.apply(params, {"tokens": piece[:, :-1]}).hidden_BTD
            log_probs = jax.nn.log_softmax(model.readout(params, hidden))
            taken = np.take_along_axis(np.asarray(log_probs), piece[:, 1:, None], 2)
            nats -= taken.sum()
        num_bytes += len(ids) - 2
    summary = json.loads((workdir / "summary.json").read_text())
    expected = nats / np.log(2) / num_bytes
    assert summary["val_bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_killed_and_resumed_is_the_same_to_the_bit(unbroken, source, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, source, f"--num_steps={NUM_STEPS}")
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 13:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    code, out, err = run(workdir, source, f"--num_steps={NUM_STEPS}")
    assert code == 0, err
    assert "resumed at step" in out
    expected, found = lines_of(unbroken[0]), lines_of(workdir)
    assert [line["step"] for line in found] == list(range(1, NUM_STEPS + 1))
    for a, b in zip(expected, found, strict=True):
        assert a["loss"] == b["loss"] and a["grad_norm"] == b["grad_norm"]
    assert expected[-1]["val_loss"] == found[-1]["val_loss"]


def test_a_finished_run_started_again_trains_no_more(unbroken, source):
    workdir, _ = unbroken
    before = (workdir / "metrics.jsonl").read_text()
    code, out, err = run(workdir, source, f"--num_steps={NUM_STEPS}")
    assert code == 0, err
    assert f"resumed at step {NUM_STEPS}" in out
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_changed_config_is_refused(unbroken, source):
    workdir, _ = unbroken
    code, _, err = run(workdir, source, f"--num_steps={NUM_STEPS}", "--optim.lr=0.5")
    assert code == 1 and "optim.lr: 0.012 -> 0.5" in err
    assert "--allow_config_change" in err and "Traceback" not in err


def test_ema_accumulation_and_a_mesh(source, tmp_path):
    code, out, err = run(
        tmp_path, source, "--num_steps=3", "--cpu_devices=4",
        "--mesh=fsdp=2,tensor=2", "--train.accumulate=2", "--train.ema_decay=0.9",
        "--optim.name=adamw",
    )  # fmt: skip
    assert code == 0, err
    assert "fsdp=2, tensor=2" in out


BAD = {
    "missing file": (["--data.source=/nowhere/x.txt"], "/nowhere/x.txt"),
    "misspelt flag": (["--num_step=3"], "num_steps"),
    "unknown model": (["--model=gpt9"], "unknown model 'gpt9'"),
    "unknown axis": (["--mesh=model=2"], "unknown axis 'model'"),
    "too few devices": (["--mesh=fsdp=16"], "--cpu_devices"),
    "batch": (["--cpu_devices=8", "--train.batch_size=12"], "multiple of 8"),
    "impossible model": (["--model.num_kv_heads=3"], "num_kv_heads=3 must divide"),
    "remote workdir": (["--workdir=ftp://x/y"], "--workdir=ftp://x/y"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name, source, tmp_path):
    args, message = BAD[name]
    code, _, err = run(tmp_path / "run", source, *args)
    assert code in (1, 2) and message in err
    assert "Traceback" not in err
    assert sum("error" in line or "FATAL" in line for line in err.splitlines()) == 1


def test_bad_text_is_named_and_leaves_nothing(tmp_path):
    torn = tmp_path / "torn.txt.gz"
    torn.write_bytes(gzip.compress(b"some text, and more " * 1000)[:-20])
    workdir = tmp_path / "run"
    code, _, err = run(workdir, f"--data.source={torn}")
    assert code == 1 and "torn.txt.gz" in err and "Traceback" not in err
    assert not list(workdir.glob("data/*")) and not list(workdir.glob("**/.*"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_workdir_without_permission(source, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(tmp_path / "locked" / "run", source)
    assert code == 1 and "no permission" in err


def test_a_workdir_that_is_a_file(source, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(tmp_path / "file", source)
    assert code == 1 and "is a file" in err
