"""What a task is: how its inputs are drawn, what is right, and in what words it is
asked for.

An input's kind says which tasks can follow which: "letters" is a list of letters, and a
task that gives one can be followed by any that takes one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

ALPHABET = "abcdefghijklmnop"
VOWELS = "aeio"
LETTERS, NUMBERS, TRUTHS = "letters", "numbers", "truths"  # kinds that tasks can chain


class Task(NamedTuple):
    """One type of task.

    takes, gives: the kinds of its input and of its answer.
    draw: an input. solve: the right answer to an input; "" where there is none.
    wordings: the instructions that may be learned; held_out: others, never learned.
    is_new: never learned, though others of its cluster are.
    accepts: whether (input, answer) is right, where more than one answer is.
    """

    name: str
    cluster: str
    takes: str
    gives: str
    draw: Callable[[np.random.Generator], str]
    solve: Callable[[str], str]
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]
    is_new: bool = False
    accepts: Callable[[str, str], bool] | None = None

    def is_right(self, given: str, said: str) -> bool:
        """Whether what is said, but for spaces around it, answers the input."""
        if self.accepts is not None:
            return self.accepts(given, said.strip())
        return said.strip() == self.solve(given)


def on_items(
    change: Callable[[list[str]], Sequence[str]],
) -> Callable[[str], str]:
    """The change of a list of items as one of their text."""
    return lambda text: " ".join(change(text.split()))


def on_numbers(
    change: Callable[[list[int]], Sequence[int]],
) -> Callable[[str], str]:
    """The change of a list of numbers as one of their text."""
    return lambda text: " ".join(map(str, change(list(map(int, text.split())))))


def draw_items(
    items: Sequence, least: int, most: int
) -> Callable[[np.random.Generator], str]:
    """Draws a list of from `least` to `most` of the items, any of them repeatedly."""

    def draw(rng: np.random.Generator) -> str:
        chosen = rng.integers(len(items), size=rng.integers(least, most + 1))
        return " ".join(str(items[index]) for index in chosen)

    return draw


letters = draw_items(ALPHABET, 4, 6)
numbers = draw_items(range(1, 13), 3, 5)
truths = draw_items(("true", "false"), 4, 7)


def task(
    name: str,
    cluster: str,
    solve: Callable[[str], str],
    wordings: str,
    held_out: str,
    gives: str = "",
    *,
    takes: str = LETTERS,
    draw: Callable[[np.random.Generator], str] = letters,
    **more: Any,
) -> Task:
    """A task about letters, unless it takes another kind, which gives what it takes,
    unless it gives another. Between wordings stand bars."""
    learned, new = (
        tuple(map(str.strip, text.split("|"))) for text in (wordings, held_out)
    )
    return Task(name, cluster, takes, gives or takes, draw, solve, learned, new, **more)
