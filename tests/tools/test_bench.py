"""The benchmark times the model that it says, and explains what it cannot do."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tools import bench_worker

ROOT = Path(__file__).parents[2]
SPEC = dict(V=61, L=2, D=16, N=2, T=12, batch_size=2, same_weights=True)


def run(*args, stdin=""):
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, input=stdin, capture_output=True, text=True
    )


def norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)


def gpt2_loss(spec):
    """The first loss in float64, a head and a row at a time."""
    names = ("wte", "wpe", "q", "k", "v", "o", "up", "down")
    weights = {k: bench_worker._draw(spec, k).astype(np.float64) for k in names}
    losses = []
    for row in bench_worker._tokens(spec):
        x = weights["wte"][row[:-1]] + weights["wpe"]
        hidden = np.triu(np.ones((spec["T"], spec["T"]), bool), k=1)
        for *qkv, o, up, down in zip(*(weights[k] for k in names[2:]), strict=True):
            heads = []
            projected = (np.split(norm(x) @ w, spec["N"], axis=-1) for w in qkv)
            for q, k, v in zip(*projected, strict=True):
                weight = np.exp(np.where(hidden, -np.inf, q @ k.T / q.shape[-1] ** 0.5))
                heads.append(weight / weight.sum(-1, keepdims=True) @ v)
            x = x + np.concatenate(heads, axis=-1) @ o
            u = norm(x) @ up
            act = u / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (u + 0.044715 * u**3)))
            x = x + act @ down
        logits = norm(x) @ weights["wte"].T
        picked = logits[np.arange(spec["T"]), row[1:]]
        losses.append(np.log(np.exp(logits).sum(-1)) - picked)
    return np.mean(losses)


@pytest.fixture(name="larger")
def _larger(monkeypatch):
    """Weights of 0.02 hardly show in the loss: here they count."""
    drawn = bench_worker._draw
    monkeypatch.setattr(bench_worker, "_draw", lambda *args: 15 * drawn(*args))


@pytest.mark.parametrize("program", ["llmjax", "torch eager", "transformers"])
def test_first_loss_is_that_of_a_gpt2(program, larger, monkeypatch):
    if program == "llmjax":
        from llmjax import host

        monkeypatch.setattr(host, "start", lambda: None)  # the tests have their own
    else:
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    spec = SPEC | {"batch_size": 8}  # rows for each of the tests' devices
    step, _ = bench_worker.PROGRAMS[program](spec)
    first, second = step(), step()
    assert first == pytest.approx(gpt2_loss(spec), rel=1e-5)
    assert second < first


def test_worker_answers_each_turn_with_a_line():
    spec = json.dumps(SPEC | {"program": "gemm"})
    done = run("tools/bench_worker.py", spec, stdin="1\n2\n")
    ready, *turns = map(json.loads, done.stdout.splitlines())
    assert ready["flops"] == 2 * bench_worker.GEMM_SIZE**3
    assert len(turns) == 2
    assert all(turn["secs"] > 0 and turn["peak_bytes"] > 2**20 for turn in turns)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["train", "--configs=a,z"], 2, ["'z'"]),
        (["fly"], 2, ["fly", "startup"]),
        (["train", "--torch_python=/no/such/python"], 1, ["/no/such/python"]),
    ],
)
def test_bad_input_is_one_line(args, code, words):
    done = run("tools/bench.py", *args)
    assert done.returncode == code
    [line] = done.stderr.strip().splitlines()
    assert all(word in line for word in words)


def test_missing_torch_names_the_extra():
    find = "import importlib.util as u; print(bool(u.find_spec('torch')))"
    if run("-c", find).stdout.strip() == "True":
        pytest.skip("this Python has torch")
    done = run("tools/bench.py", "train", "--configs=a")
    assert done.returncode == 1
    assert "llmjax[bench]" in done.stderr
    assert "--torch_python" in done.stderr
