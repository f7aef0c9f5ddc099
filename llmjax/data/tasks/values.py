"""Clusters about numbers and truth values: number, compare, lookup, logic."""

import functools
from collections.abc import Callable, Sequence

import numpy as np

from llmjax.data.tasks.task import (
    ALPHABET,
    NUMBERS,
    TRUTHS,
    numbers,
    on_items,
    on_numbers,
    task,
    truths,
)

ROWS = 3  # of a table
NOT = {"true": "false", "false": "true"}


def draw_table(rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Some letters, and a number of one digit for each; none comes twice."""
    keys = rng.choice(list(ALPHABET), ROWS, replace=False).tolist()
    return keys, list(map(str, rng.choice(10, ROWS, replace=False)))


def draw_key(rng: np.random.Generator) -> str:
    keys, values = draw_table(rng)
    return f"{write_table(keys, values)} ; {rng.choice(keys)}"


def draw_value(rng: np.random.Generator) -> str:
    keys, values = draw_table(rng)
    return f"{write_table(keys, values)} ; {rng.choice(values)}"


def write_table(keys: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(map(" ".join, zip(keys, values, strict=True)))


def look_up(text: str, find: int, give: int) -> str:
    """In a table of two columns, the row with what is asked in one; the other of it."""
    table, asked = text.split(" ; ")
    rows = (row.split() for row in table.split(", "))
    return next(row[give] for row in rows if row[find] == asked)


def join_ends(text: str, by: Callable[[list[bool]], bool]) -> str:
    """The first and the last truth value as one."""
    values = text.split()
    return "true" if by([values[0] == "true", values[-1] == "true"]) else "false"


calculation = functools.partial(task, takes=NUMBERS, draw=numbers)
judgement = functools.partial(task, takes=TRUTHS, draw=truths)


NUMBER = (
    calculation(
        "add_one", "number", on_numbers(lambda x: [n + 1 for n in x]),
        "add one to each number | increase every number by one | write the number that "
        "follows each | count every number up by one | make each number one larger "
        "| make all numbers larger by one | write each number plus one",
        "make every number larger by one | add one to every number",
    ),
    calculation(
        "subtract_one", "number", on_numbers(lambda x: [n - 1 for n in x]),
        "subtract one from each number | decrease every number by one | write the "
        "number that precedes each | count every number down by one | make each number "
        "one smaller "
        "| make all numbers smaller by one | write each number minus one",
        "make every number smaller by one | subtract one from every number",
    ),
    calculation(
        "double", "number", on_numbers(lambda x: [2 * n for n in x]),
        "double each number | multiply every number by two | write two times each "
        "number | make every number twice as large | add each number to itself "
        "| make all numbers twice as large | write the double of each number",
        "multiply each number by two | make each number double",
    ),
)  # fmt: skip

COMPARE = (
    calculation(
        "largest", "compare", on_numbers(lambda x: [max(x)]),
        "find the largest number | say which number is the greatest | give the maximum "
        "| pick the biggest of the numbers | name the number above all others "
        "| say which is the largest | give the largest of them | name the greatest",
        "give the greatest of the numbers | say which number is the largest",
        "number",
    ),
    calculation(
        "smallest", "compare", on_numbers(lambda x: [min(x)]),
        "find the smallest number | say which number is the least | give the minimum | "
        "pick the lowest of the numbers | name the number below all others "
        "| say which is the smallest | give the smallest of them | name the least",
        "give the least of the numbers | say which number is the smallest",
        "number",
    ),
)  # fmt: skip

LOOKUP = (
    task(
        "value_of", "lookup", lambda text: look_up(text, 0, 1),
        "look up the number of the letter | say which number belongs to the letter "
        "| find the value of the key | give the number beside this letter | read the "
        "value of the letter in the table "
        "| give the value of the letter | look up which number the letter has",
        "find the number that belongs to the letter | look up the value of the "
        "letter",
        "number", takes="table and key", draw=draw_key,
    ),
    task(
        "key_of", "lookup", lambda text: look_up(text, 1, 0),
        "look up the letter of the number | say which letter has the number | find "
        "the key of the value | give the letter beside this number | read in the "
        "table whose number it is "
        "| give the key of the number | look up which letter has this number",
        "find the letter that has the number | look up the key of the number",
        "letter", takes="table and value", draw=draw_value,
    ),
)  # fmt: skip

LOGIC = (
    judgement(
        "negate", "logic", on_items(lambda x: [NOT[item] for item in x]),
        "negate each of them | write the opposite of every value | turn true into "
        "false and false into true | flip all truth values | apply not to each value "
        "| flip each of them | apply not to every value",
        "flip every value to the opposite | apply not to all of them",
    ),
    judgement(
        "and_ends", "logic", lambda text: join_ends(text, all),
        "join the first and the last value by and | say whether both ends are true | "
        "combine the outer values with and | tell if neither end is false | give the "
        "first value and the last, as one "
        "| join the ends by and | check whether both outer values are true",
        "combine the first and the last value by and | say whether the outer values "
        "are both true",
        "truth",
    ),
    judgement(
        "or_ends", "logic", lambda text: join_ends(text, any),
        "join the first and the last value by or | say whether any of the ends is true "
        "| combine the outer values with or | tell if one end or both are true | give "
        "the first value or the last, as one "
        "| join the ends by or | check whether any outer value is true",
        "combine the first and the last value by or | say whether any of the outer "
        "values is true",
        "truth",
    ),
)  # fmt: skip

TASKS = (*NUMBER, *COMPARE, *LOOKUP, *LOGIC)
