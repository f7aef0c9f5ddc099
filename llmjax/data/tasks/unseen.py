"""Clusters that no model is tuned on: filter, set, sequence, extract, membership."""

import numpy as np

from llmjax.data.tasks.letters import vowels_of
from llmjax.data.tasks.task import ALPHABET, VOWELS, on_items, task

NAMES = ("ann", "bob", "eve", "ian", "joe", "kim", "leo", "mia", "sam", "zoe")
CITIES = ("rome", "oslo", "lima", "bonn", "york", "kiev", "bern", "cork")


def draw_sets(rng: np.random.Generator) -> str:
    """Two lists of different letters, some of them in both, not all."""
    chosen = rng.permutation(list(ALPHABET))[:6].tolist()
    common, mine, its = chosen[:2], chosen[2:4], chosen[4:6]
    lists = rng.permutation(common + mine), rng.permutation(common + its)
    return " | ".join(map(" ".join, lists))


def split_sets(text: str) -> tuple[list[str], list[str]]:
    mine, its = text.split(" | ")
    return mine.split(), its.split()


def common(text: str) -> str:
    mine, its = split_sets(text)
    return " ".join(item for item in mine if item in its)


def difference(text: str) -> str:
    mine, its = split_sets(text)
    return " ".join(item for item in mine if item not in its)


def draw_steps(rng: np.random.Generator) -> str:
    """Four numbers at equal distances, up or down."""
    start, step = rng.integers(10, 60), rng.integers(1, 10)
    row = [start + step * index for index in range(4)]
    return " ".join(map(str, rng.choice([row, row[::-1]])))


def go_on(text: str) -> str:
    *_, before, last = map(int, text.split())
    return str(2 * last - before)


def draw_cycle(rng: np.random.Generator) -> str:
    """Two or three letters again and again, for seven or eight letters."""
    cycle = rng.permutation(list(ALPHABET))[: rng.integers(2, 4)]
    return " ".join(cycle[index % len(cycle)] for index in range(rng.integers(7, 9)))


def repeat(text: str) -> str:
    items = text.split()
    return items[-2] if items[0] == items[2] else items[-3]


def draw_person(rng: np.random.Generator) -> str:
    name, city, age = rng.choice(NAMES), rng.choice(CITIES), rng.integers(10, 80)
    return f"{name} is {age} and lives in {city}"


def has_twins(text: str) -> str:
    items = text.split()
    return "yes" if len(set(items)) < len(items) else "no"


FILTER = (
    task(
        "only_vowels", "filter", lambda text: " ".join(vowels_of(text)),
        "keep only the vowels | write the vowels of the list | leave out all that is "
        "no vowel | give every vowel, in order",
        "remove all letters but the vowels | write only the vowels",
    ),
    task(
        "no_vowels", "filter", on_items(lambda x: [i for i in x if i not in VOWELS]),
        "remove the vowels | leave out every vowel | keep only what is no vowel | "
        "write the list without its vowels",
        "drop all vowels | give the letters that are no vowels",
    ),
)  # fmt: skip

SET = (
    task(
        "common", "set", common,
        "give the letters that both lists have | keep what is in both | write the "
        "common letters | find the intersection",
        "write the letters that are in both lists | find the common letters",
        "letters", takes="two lists", draw=draw_sets,
    ),
    task(
        "difference", "set", difference,
        "give the letters that only the first list has | remove what is in the "
        "second list | write the first list without the second | find the difference",
        "write the letters that are only in the first list | keep what the second "
        "list lacks",
        "letters", takes="two lists", draw=draw_sets,
    ),
)  # fmt: skip

SEQUENCE = (
    task(
        "next_number", "sequence", go_on,
        "continue the series by one number | say which number comes next | give the "
        "next number of the row | find how the numbers go on",
        "write the next number | continue the row of numbers",
        "number", takes="series", draw=draw_steps,
    ),
    task(
        "next_in_cycle", "sequence", repeat,
        "continue the pattern by one letter | say which letter comes next | give the "
        "next letter of the pattern | find how the letters go on",
        "write the next letter | continue the row of letters",
        "letter", takes="cycle", draw=draw_cycle,
    ),
)  # fmt: skip

EXTRACT = (
    task(
        "name", "extract", lambda text: text.split()[0],
        "give the name of the person | say who this is about | extract the name | "
        "write down who it is",
        "say the name | find the name of the person",
        "word", takes="person", draw=draw_person,
    ),
    task(
        "city", "extract", lambda text: text.split()[-1],
        "give the city | say where the person lives | extract the place | write down "
        "the name of the city",
        "say which city it is | find the place where the person lives",
        "word", takes="person", draw=draw_person,
    ),
    task(
        "age", "extract", lambda text: text.split()[2],
        "give the age | say how old the person is | extract the number of years | "
        "write down the age",
        "say which age the person has | find out how old this is",
        "number", takes="person", draw=draw_person,
    ),
)  # fmt: skip

MEMBERSHIP = (
    task(
        "has_vowel", "membership", lambda text: "yes" if vowels_of(text) else "no",
        "say whether there is a vowel | check if a vowel is among the letters | tell "
        "whether any letter is a vowel | answer if the list has a vowel",
        "check whether there is any vowel | tell if one of the letters is a vowel",
        "yes or no",
    ),
    task(
        "has_twins", "membership", has_twins,
        "say whether a letter comes twice | check if any letter is repeated | tell "
        "whether two letters are equal | answer if the list has a letter two times",
        "check whether a letter is there twice | tell if some letter is repeated",
        "yes or no",
    ),
)  # fmt: skip

TASKS = (*FILTER, *SET, *SEQUENCE, *EXTRACT, *MEMBERSHIP)
