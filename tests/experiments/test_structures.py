"""The three structures compared in miniature, and trained until it shows."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from llmjax import losses, optim, sharding
from llmjax.config import ModelConfig
from llmjax.data.hmm import HmmConfig
from llmjax.data.hmm_rows import STRUCTURES, Rows, Texts, make_ids
from llmjax.evals import structures
from llmjax.models import transformer
from llmjax.train.state import init_state
from llmjax.train.step import make_step
from tests import programs

TINY = [
    "--num_steps=5", "--model.num_layers=2", "--model.width=16", "--model.num_heads=1",
    "--model.num_kv_heads=1", "--model.ff_width=44", "--train.batch_size=8",
    "--train.eval_every=2", "--train.save_every=2", "--train.log_every=1",
]  # fmt: skip


def run(workdir, *args):
    """The output and the summary; an exit code other than 0 fails the test."""
    program = "experiments/structures.py"
    code, out, err = programs.run(program, f"--workdir={workdir}", *args)
    assert code == 0, err
    return out, json.loads((workdir / "summary.json").read_text())


@pytest.mark.slow
def test_compares_three_structures_and_resumes(tmp_path):
    _, whole = run(tmp_path, *TINY)
    assert list(whole) == ["the language itself", *STRUCTURES]
    parts = {"texts", "pairs", "gap", "blanks", "drawn", "translations", "bar"}
    for name in STRUCTURES:
        assert set(whole[name]) == parts
        for task in ("texts", "pairs"):
            took, decoder = whole[name][task], whole["decoder"][task]
            assert took["parameters"] == pytest.approx(decoder["parameters"], rel=0.15)
            one_step = took["flops"] * 8 / took["rows"]  # their number is rounded
            assert abs(took["flops"] - decoder["flops"]) < one_step
        gap = whole[name]["gap"]
        assert gap["gap"] == pytest.approx(gap["nats"] - gap["floor"])
        assert gap["gap"] > 10 * gap["error"] > 0 and not gap["leaks"]
    assert whole["encoder-decoder"]["texts"]["rows"] > whole["decoder"]["texts"]["rows"]
    assert whole["decoder"]["bar"] == "MISSED: 0.02"
    page = (tmp_path / "report.html").read_text()
    for text in ("TFLOP", "Translations drawn", "single blanks", "least, encoder"):
        assert text in page

    interrupted = tmp_path / "encoder_texts" / "checkpoints"
    for step in interrupted.iterdir():  # as if it had been stopped after step 2
        if step.name.isdigit() and int(step.name) > 2:
            shutil.rmtree(step)
    shutil.rmtree(tmp_path / "encoder-decoder_texts")
    out, again = run(tmp_path, *TINY)
    assert "resumed at step 2 from" in out and again == whole


@pytest.mark.slow
def test_a_decoder_comes_near_its_floor_and_one_without_a_mask_below():
    """One symbol of context alone would leave 0.13 nats to the floor (`HmmConfig`)."""
    ids = make_ids(12, 64)
    rows, tests = (
        Rows("decoder", Texts(HmmConfig(), 64, size, part), ids)
        for part, size in enumerate((64 * 200, 512))
    )
    gaps = {}
    for structure in ("decoder", "encoder"):  # the latter's tokens see the next one
        cfg = ModelConfig(
            structure=structure, vocab_size=ids.size, num_layers=2, width=48,
            head_width=12, ff_width=96, context=64, qk_norm="head",
        )  # fmt: skip
        model = transformer.make(cfg)
        gaps[structure] = structures.gap(model, trained(model, rows, 200), tests)
    assert gaps["decoder"]["gap"] < 0.06 and not gaps["decoder"]["leaks"]
    assert gaps["encoder"]["gap"] < -0.5 and gaps["encoder"]["leaks"]


def trained(model, rows, num_steps):
    """The parameters after so many steps of 64 rows."""
    tx, _ = optim.make(optim.OptimConfig(lr=2e-2, weight_decay=0.0), num_steps)
    mesh = sharding.make_mesh("data=-1", jax.devices()[:1])
    state = init_state(model.init, tx, mesh, jax.random.key(0))
    step_fn = make_step(partial(losses.next_token, model), tx, state)
    for step in range(num_steps):
        state, _ = step_fn(state, rows.take(np.arange(64) + 64 * step, 0))
    return state.params
