"""Rewards that can be checked, their control, and what is counted of them."""

import itertools
import json

import numpy as np
import pytest

from llmjax.data.arithmetic import is_held_out
from llmjax.rl import verified
from llmjax.rl import verified_page as page
from llmjax.rl.verifiable import is_right, shuffled, solve

SUMS = verified.asked(verified.SumConfig(num_digits=2, num_asked=100))


def test_only_the_result_is_right():
    answers = ["132", "132 ", "0132", "13", "", "1320", "231"]
    rewards = is_right(["47+85="] * len(answers), answers)
    assert rewards.dtype == np.float32 and rewards.tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert is_right(["60-21=", "12-60=", "9+1="], ["39", "-48", "10"]).all()


def test_what_is_no_problem_is_named():
    for prompt in ("47+85", "47*85=", "what is 47+85=", "47+85=\n"):
        with pytest.raises(ValueError, match="is no problem") as error:
            solve(prompt)
        assert repr(prompt) in str(error.value)


def test_the_control_deals_the_same_rewards():
    prompts = [f"{n}+{n}=" for n in range(400)]
    answers = [str(2 * n) if n % 4 else "0" for n in range(400)]
    right, dealt = is_right(prompts, answers), shuffled(prompts, answers)
    assert dealt.dtype == np.float32 and sorted(dealt) == sorted(right)
    agreement = (dealt == right).mean()  # 0.625 by chance
    assert 0.5 < agreement < 0.75
    np.testing.assert_array_equal(dealt, shuffled(prompts, answers))
    for wrong in ("1", "2", "3"):
        others = shuffled(prompts, [*answers[:-1], wrong])
        assert others.sum() == right.sum() - 1
        assert (others != dealt).sum() > 50  # dealt anew


def test_sums_are_worked_posed_or_asked(tmp_path):
    cfg = verified.SumConfig(num_digits=2, num_worked=300, num_posed=200, num_asked=100)
    verified.write_sums(cfg, tmp_path)

    def lines(name):
        found = (tmp_path / name).read_text().splitlines()
        return [json.loads(line) for line in found]

    worked = [line["text"].partition("=") for line in lines("worked.jsonl")]
    posed = [line["prompt"] for line in lines("posed.jsonl")]
    sides = [sum_ + "=" for sum_, _, _ in worked], posed, verified.asked(cfg)
    assert list(map(len, map(set, sides))) == [300, 200, 100]
    right = np.mean([solve(sum_ + "=") == result for sum_, _, result in worked])
    assert 0.6 < right < 0.85  # 0.45, and of the others the half that carries nothing
    assert not set(sides[0]) & set(posed)
    for side, held_out in zip(sides, (False, False, True), strict=True):
        numbers = [map(int, one[:-1].split("+")) for one in side]
        assert all(is_held_out("+", a, b) == held_out for a, b in numbers)


def test_who_forgets_to_carry():
    for problem, result in {
        "47+85=": "122",
        "999+111=": "1000",
        "12+34=": "46",
    }.items():
        assert verified.careless(problem) == result


def test_the_chance_of_one_in_k():
    num_right = np.array([0, 1, 5, 16])
    np.testing.assert_allclose(verified.pass_at(num_right, 1), num_right / 16)
    np.testing.assert_allclose(verified.pass_at(num_right, 16), [0, 1, 1, 1])
    draws = np.arange(16) < num_right[:, None]
    some = [draws[:, list(few)].any(1) for few in itertools.combinations(range(16), 3)]
    np.testing.assert_allclose(verified.pass_at(num_right, 3), np.mean(some, axis=0))


def test_sizes_are_checked():
    for name in ("num_digits", "num_worked", "num_posed", "num_asked"):
        with pytest.raises(ValueError, match=name):
            verified.SumConfig(**{name: 0})


def make_arm(folder, name, num_right, drawn, kl, secs=3.0):
    """An arm of one model whose first answers are right."""
    folder = folder / name
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"secs": secs}))
    line = {"step": 1, "reward": 0.5, "kl": kl}
    (folder / "metrics.jsonl").write_text(json.dumps(line))
    right = [solve(one) for one in SUMS]
    written = right[:num_right] + ["?"] * (len(SUMS) - num_right)
    return page.Arm(name, [folder], [verified.Tried(written, [drawn] * len(SUMS), kl)])


def test_bars_are_met_or_missed(tmp_path, capsys):
    arms = [
        make_arm(tmp_path, "adder", 50, 8, 0.0),
        make_arm(tmp_path, "grpo, rewards", 80, 10, 1.5, secs=400),
        make_arm(tmp_path, "grpo, shuffled", 52, 9, 0.1),
    ]
    page.write(tmp_path, arms, SUMS, {})
    said = json.loads((tmp_path / "summary.json").read_text())["said"]
    assert said["adder"] == "50.0% right, drawn; met: 40% to 70%"
    assert said["grpo, rewards, likeliest"].startswith("+30.0 points (+2")
    assert said["grpo, rewards, likeliest"].endswith("; met: +20")
    assert said["grpo, rewards, drawn"].endswith("(+12.5 to +12.5); MISSED: +20")
    assert "1.50 nats an answer; MISSED" in said["grpo, rewards, KL"]
    assert "400 s; MISSED" in said["grpo, rewards, time"]
    assert said["grpo, shuffled, likeliest"].endswith("; met: under +3")
    assert said["grpo, shuffled, drawn"].startswith("+6.2 points")
    assert said["grpo, shuffled, drawn"].endswith("; MISSED: under +3")
    assert "grpo, shuffled, drawn: +6.2" in capsys.readouterr().out
