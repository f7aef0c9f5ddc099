"""Problems, their split, and the documents: against Python's own arithmetic."""

import collections
import itertools
import json

import pytest

from llmjax.data import arithmetic
from llmjax.data.arithmetic import ORDERS, Kind, MixConfig


def parts_of(line, order="plain"):
    """("47", "+", "85", "132") of "47+85=132", or, reversed, of "74+58=231"."""
    question, answer = line.split("=")
    a, b = question.replace("-", "+").split("+")
    step = 1 if order == "plain" else -1
    sign = "-" if "-" in question else "+"
    return a[::step], sign, b[::step], answer[::step]


def solve(question, order):
    """Python's answer to "47+85=", in the digits of an order."""
    a, sign, b, _ = parts_of(question, order)
    answer = str(int(a) + int(b) if sign == "+" else int(a) - int(b))
    return answer if order == "plain" else answer[::-1]


def test_by_hand():
    texts = [
        arithmetic.write(Kind(sign, order, 2), 60, 25)
        for sign in "+-"
        for order in ("plain", "reversed")
    ]
    assert texts == [
        ("60+25=", "85\n"), ("06+52=", "58\n"), ("60-25=", "35\n"), ("06-52=", "53\n")
    ]  # fmt: skip
    carried = arithmetic.write(Kind("+", "reversed", 3), 500, 500)
    assert carried == ("005+005=", "0001\n")
    assert str(Kind("-", "reversed", 3)) == "3-digit - reversed"


@pytest.mark.parametrize("kind", arithmetic.kinds(3), ids=str)
def test_every_problem_is_right_and_of_its_kind(kind):
    for held_out in (False, True):
        some = arithmetic.problems(kind, held_out=held_out, seed=3)
        for question, answer in itertools.islice(some, 300):
            a, sign, b, _ = parts_of(question, kind.order)
            assert sign == kind.operation and len(a) == len(b) == kind.num_digits
            assert answer == solve(question, kind.order) + "\n"
            assert sign == "+" or int(a) >= int(b)


@pytest.mark.parametrize("sign", ["+", "-"])
def test_the_two_sides_are_all_problems_and_share_none(sign):
    sides = [
        ["{}{}{}=".format(*parts_of(p.question, kind.order))
         for p in arithmetic.problems(kind, held_out=held_out, seed=seed)]
        for kind in (Kind(sign, "plain", 2), Kind(sign, "reversed", 2))
        for held_out, seed in ((False, 0), (True, 1))
    ]  # fmt: skip
    learned, asked, *reversed_ones = map(set, sides)
    assert [learned, asked] == reversed_ones  # the order of digits leaks nothing
    assert all(len(set(side)) == len(side) for side in sides)
    numbers = range(10, 100)
    pairs = [(a, b) for a in numbers for b in numbers if sign == "+" or a >= b]
    assert learned | asked == {f"{a}{sign}{b}=" for a, b in pairs}
    assert not learned & asked
    assert abs(len(asked) / len(pairs) - 1 / 8) < 0.02
    if sign == "+":  # nor does the order of the numbers
        swapped = {"{1}+{0}=".format(*q[:-1].split("+")) for q in asked}
        assert swapped == asked


def test_documents_are_of_one_kind_and_hold_out():
    asked = {
        (kind, prompt.rpartition("\n")[2])
        for kind in arithmetic.kinds(3)
        for prompt, _ in arithmetic.prompts(kind, 0, 200)
    }
    cfg = MixConfig(weights=(1, 2, 3), plain=0.25)
    num_kind, num_plain = collections.Counter(), collections.Counter()
    for text in arithmetic.documents(cfg, 960):
        parts = [parts_of(line) for line in text.splitlines()]
        assert text.endswith("\n") and len(parts) == 12
        ((sign, num_digits),) = {
            (sign, len(n)) for a, sign, b, _ in parts for n in (a, b)
        }
        orders = set(ORDERS)
        for a, _, b, answer in parts:
            question = f"{a}{sign}{b}="
            orders &= {o for o in ORDERS if answer == solve(question, o)}
        assert orders  # one of the two, unless all numbers have a single digit
        for order in orders:
            for line in text.splitlines():
                a, _, b, _ = parts_of(line, order)
                assert not arithmetic.is_held_out(sign, int(a), int(b))
        assert not any(
            (Kind(sign, order, num_digits), f"{a}{sign}{b}=") in asked
            for a, _, b, _ in parts for order in orders
        )  # fmt: skip
        num_kind[sign, num_digits] += 1
        num_plain[sign, num_digits] += orders == {"plain"}
    # Half are sums; a sixth, a third and a half are of 1, 2 and 3 digits; a quarter is
    # plain.
    for (sign, num_digits), num in num_kind.items():
        assert abs(num - 480 * num_digits / 6) <= 4
        if num_digits > 1:
            assert abs(num_plain[sign, num_digits] - num / 4) <= 3


def test_few_problems_again_and_again():
    kind, num = Kind("+", "reversed", 3), 50
    stream = arithmetic.endless(kind, 0, num_unique=num)
    first, second = (list(itertools.islice(stream, num)) for _ in range(2))
    assert len(set(first)) == num and set(first) == set(second) and first != second
    every = arithmetic.endless(kind, 0)
    assert set(itertools.islice(every, num)) == set(first)


def test_problems_come_again_only_after_all_others():
    stream = arithmetic.endless(Kind("-", "plain", 1), seed=0)
    num = len(list(arithmetic.problems(Kind("-", "plain", 1), held_out=False, seed=0)))
    first, second = (list(itertools.islice(stream, num)) for _ in range(2))
    assert set(first) == set(second) and len(set(first)) == num
    assert first != second


def test_prompts_begin_as_documents_do():
    kind = Kind("+", "reversed", 3)
    prompts = arithmetic.prompts(kind, 8, 50)
    assert len(set(prompts)) == 50
    lines = set()
    for prompt, answer in prompts:
        *shots, question = prompt.split("\n")
        assert len(shots) == 8 and answer == solve(question, "reversed") + "\n"
        for shot in shots:
            assert shot.partition("=")[2] == solve(
                shot[: shot.index("=") + 1], "reversed"
            )
            a, sign, b, _ = parts_of(shot, "reversed")
            assert not arithmetic.is_held_out(sign, int(a), int(b))
        lines |= set(shots)
    assert len(lines) == 400  # every prompt has shots of its own
    assert [p.rpartition("\n")[2] for p, _ in arithmetic.prompts(kind, 0, 50)] == [
        p.rpartition("\n")[2] for p, _ in prompts
    ]  # the same problems, whatever the shots


def test_what_is_prepared_is_kept(tmp_path):
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(50))
    )
    cfg = MixConfig(weights=(1, 1), share=0.5, text=str(tmp_path / "text.jsonl"))
    source = arithmetic.prepare(cfg, tmp_path / "data", 40)
    text, numbers = source.split(";")
    lines = (tmp_path / "data" / "arithmetic.jsonl").read_text().splitlines()
    assert len(lines) == 40 and "=" in json.loads(lines[0])["text"]
    before = (tmp_path / "data" / "arithmetic.jsonl").stat().st_mtime_ns
    assert arithmetic.prepare(cfg, tmp_path / "data", 40) == source
    assert (tmp_path / "data" / "arithmetic.jsonl").stat().st_mtime_ns == before
    assert text.endswith("data/text") and numbers.endswith("data/arithmetic")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ()}, "weights: give 1 to 8 of them, got 0"),
        ({"share": 1.0}, "share must lie between 0 and 1"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        MixConfig(**change)
