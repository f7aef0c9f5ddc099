"""The language with a known best policy, learned by a few steps of each algorithm."""

import json

import pytest

from tests import programs


def run(name, *args):
    """(exit code, output, errors)."""
    return programs.run(f"experiments/{name}.py", *args)


@pytest.mark.slow
def test_policies_near_the_best_and_the_run_resumes(tmp_path):
    args = [f"--workdir={tmp_path}", "--num_steps=10", "--algorithms=ppo,grpo"]
    code, out, err = run("exact_rlhf", *args)
    assert code == 0, err
    summary = json.loads((tmp_path / "summary.json").read_text())
    best = summary["best possible"]
    assert 0.74 < best["J"] < 0.8 and 1.0 < best["KL"] < 1.2
    for name in ("ppo", "grpo"):
        found = summary[name]
        assert 0.3 < found["J"] < best["J"]
        assert found["above frontier"] < 0
    code, out, err = run("exact_rlhf", *args)
    assert code == 0 and "10/10" not in out, err  # nothing is left to do
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["ppo"] == summary["ppo"]
