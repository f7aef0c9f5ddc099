"""An iteration of PPO is timed in its parts; how fast it is is not tested."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden" / "llama_biased"
PARTS = ("rollout", "scoring", "preparing", "update")


def run(*args, stdin=""):
    return subprocess.run(
        [sys.executable, *args], cwd=ROOT, input=stdin, capture_output=True, text=True,
        timeout=500,
    )  # fmt: skip


@pytest.mark.slow
def test_our_worker_sees_the_models_probabilities_and_scores():
    """Of the given answers, from whole logits; its parts are all of an iteration."""
    import jax

    from llmjax import load
    from llmjax.models import transformer

    spec = dict(
        program="llmjax", folder=str(FOLDER), rows=4, prompt_tokens=5,
        answer_tokens=3, num_epochs=2, num_minibatches=2,
    )  # fmt: skip
    done = run("tools/bench_ppo_worker.py", json.dumps(spec), stdin="1\n")
    assert done.returncode == 0, done.stderr
    ready, turn = map(json.loads, done.stdout.splitlines())
    assert turn["result"].keys() == set(PARTS)
    assert 0.9 * turn["secs"] < sum(turn["result"].values()) <= turn["secs"]
    cfg, params, _ = load.load(FOLDER)
    ids = np.random.default_rng(1).integers(0, cfg.vocab_size, (4, 8))
    model = transformer.make(cfg)
    hidden_BTD = model.apply(params, {"tokens": ids}).hidden_BTD
    log_probs_BTV = np.asarray(jax.nn.log_softmax(model.readout(params, hidden_BTD)))
    want = [
        [log_probs_BTV[row, place - 1, ids[row, place]] for place in (5, 6, 7)]
        for row in range(4)
    ]
    np.testing.assert_allclose(ready["log_probs"], want, atol=1e-5)
    scores = 0.01 * np.asarray(hidden_BTD)[:, -1].sum(axis=-1)
    np.testing.assert_allclose(ready["scores"], scores, atol=1e-5)


@pytest.mark.slow
@pytest.mark.live
def test_both_do_the_same_job():
    trl = pytest.importorskip("trl")
    if not trl.__version__.startswith("0.11"):
        pytest.skip("a TRL without the PPO that is compared with")
    done = run("tools/bench.py", "ppo", "--configs=tiny", "--rounds=1", "--tries=1")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    assert [row["part"] for row in rows] == [*PARTS, "iteration"]
    for row in rows:
        ratio = row["trl_secs"] / row["llmjax_secs"]
        assert abs(row["time_over_llmjax"] / ratio - 1) < 1e-6


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["--configs=a"], 2, "'a'"),
        (["--configs=tiny", "--torch_python=/no/python"], 1, "/no/python"),
    ],
)
def test_bad_input_is_one_line(args, code, word):
    done = run("tools/bench.py", "ppo", *args)
    assert done.returncode == code
    [line] = done.stderr.strip().splitlines()
    assert word in line
