"""Train, validation and test: split by what an example is known by, so that none leaks.

An example's side depends on nothing but a hash of its key: it is the same wherever the
data lies and however it grows, and all examples of one key are on one side.
"""

import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

Example = TypeVar("Example")


class Splits(NamedTuple):
    """The examples of each side, in the order in which they came."""

    train: list
    validation: list
    test: list


def split(
    examples: Iterable[Example],
    key: Callable[[Example], str],
    *,
    validation_fraction: float = 0.05,
    test_fraction: float = 0.05,
) -> Splits:
    """The three sides. Raises ValueError where one of them gets no example."""
    sides = Splits([], [], [])
    for example in examples:
        place = rank(key(example))
        if place < test_fraction:
            sides.test.append(example)
        elif place < test_fraction + validation_fraction:
            sides.validation.append(example)
        else:
            sides.train.append(example)
    for name, side in sides._asdict().items():
        if not side:
            raise ValueError(f"no example for the {name} split; give it more of them")
    return sides


def hold_out(
    examples: Sequence[Example], key: Callable[[Example], str], fraction: float
) -> tuple[list[Example], list[Example]]:
    """(those to learn, those held out): of the keys that share, but one at least."""
    ranks = [rank(key(example)) for example in examples]
    limit = max(fraction, min(ranks, default=0))
    sides = [], []
    for example, place in zip(examples, ranks, strict=True):
        sides[place <= limit].append(example)
    return sides


def rank(key: str) -> float:
    """Where in [0, 1) a key is placed by its hash."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def normalise(text: str) -> str:
    """What nearly identical sentences share: the words, whatever case and number.

    Letters are folded to one case, a number becomes 0, signs become spaces.
    """
    text = re.sub(r"\d+", "0", text.casefold())
    return " ".join(re.findall(r"\w+", text)) or text


def count_leaks(
    train: Sequence[Example],
    test: Sequence[Example],
    key: Callable[[Example], Hashable],
) -> int:
    """How many test examples have a key that some training example has too."""
    known = set(map(key, train))
    return sum(key(example) in known for example in test)
