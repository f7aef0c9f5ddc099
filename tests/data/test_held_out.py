"""A side depends on the key alone, and nothing known is tested."""

import pytest

from llmjax.data.held_out import count_leaks, normalise, rank, split


def test_all_examples_of_a_key_are_on_one_side():
    examples = [(f"key {n % 400}", n) for n in range(1200)]
    sides = split(examples, lambda example: example[0])
    keys = [{key for key, _ in side} for side in sides]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 400
    assert sorted(example for side in sides for example in side) == sorted(examples)
    assert all(side == sorted(side, key=lambda example: example[1]) for side in sides)
    # 5 % of 400 keys, give or take three standard deviations of 4.4.
    assert 7 <= len(keys[1]) <= 33 and 7 <= len(keys[2]) <= 33
    more = split([("other", 0), *examples], lambda example: example[0])
    assert set(sides.test) <= set(more.test) and set(sides.train) <= set(more.train)


def test_fractions():
    sides = split(map(str, range(10_000)), str, validation_fraction=0.1)
    # Standard deviations of 30 and 22.
    assert abs(len(sides.validation) - 1000) < 90
    assert abs(len(sides.test) - 500) < 66


def test_a_rank_is_the_same_everywhere():
    # blake2b of RFC 7693 with a digest of 8 bytes, by `printf abc | b2sum -l 64`.
    assert rank("abc") == int("d8bb14d833d59559", 16) / 2**64


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="no example for the validation split"):
        split(["a"], str)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Choose File - Open.", "choose  file: open"),
        ("Line 7 of 1024", "line 12 of 3"),
        ("Straße 5", "STRASSE 6!"),
    ],
)
def test_sentences_that_are_nearly_one(left, right):
    assert normalise(left) == normalise(right)


def test_sentences_that_are_not():
    texts = ["open", "reopen", "open it", "open 1", "open1", "ouvré", "ouvre", "+", "-"]
    assert len(set(map(normalise, texts))) == len(texts)


def test_leaks_are_counted_in_test_examples():
    train = ["Open 1.", "Close 1."]
    assert count_leaks(train, ["open 2", "OPEN 3", "shut 1"], normalise) == 2
    assert count_leaks(train, ["open 2", "Close 1."], str) == 1
