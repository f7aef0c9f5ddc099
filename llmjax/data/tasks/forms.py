"""Clusters about what letters are: repeat, case, count, sort."""

from llmjax.data.tasks.letters import vowels_of
from llmjax.data.tasks.task import on_items, task

REPEAT = (
    task(
        "each_twice", "repeat", on_items(lambda x: [item for item in x for _ in "12"]),
        "write each letter twice | repeat every letter | double each of the letters | "
        "say every letter two times | put a copy after each letter "
        "| write the list with each letter twice | let each letter be there two "
        "times",
        "repeat each letter, so that it is there twice | write every letter two times",
    ),
    task(
        "double_first", "repeat", on_items(lambda x: x[:1] + x),
        "repeat the first letter only | double only the letter at the start | write "
        "the first letter twice, the others once | put a copy of the first letter in "
        "front | say the first letter two times, then go on "
        "| write the list with its first letter twice | let the first letter be "
        "there two times",
        "double the first letter, the others once | write a copy of the first letter "
        "in front",
    ),
    task(
        "double_last", "repeat", on_items(lambda x: x + x[-1:]),
        "repeat the last letter only | double only the letter at the end | write the "
        "last letter twice, the others once | put a copy of the last letter at the end",
        "double the last letter, the others once | write the list, and the last letter "
        "again",
        is_new=True,
    ),
)  # fmt: skip

CASE = (
    task(
        "upper", "case", str.upper,
        "write all letters in capitals | make the letters upper case | turn every "
        "letter into a capital | put the list in capitals | use capitals for all "
        "| write the letters in upper case | make capitals of all letters",
        "make all letters capitals | write the list in upper case",
        "capitals",
    ),
    task(
        "upper_first", "case", lambda text: text[:1].upper() + text[1:],
        "write the first letter as a capital | make only the first letter upper case | "
        "turn the first letter into a capital | capitalize the letter at the start | "
        "use a capital for the first letter only "
        "| write the list with a capital at the start | put only the first letter in "
        "upper case",
        "make the first letter a capital | write only the first letter in upper case",
        "capitals",
    ),
    task(
        "upper_last", "case", lambda text: text[:-1] + text[-1:].upper(),
        "write the last letter as a capital | make only the last letter upper case | "
        "turn the last letter into a capital | capitalize the letter at the end",
        "make the last letter a capital | write only the last letter in upper case",
        "capitals",
        is_new=True,
    ),
)  # fmt: skip

COUNT = (
    task(
        "how_many", "count", lambda text: str(len(text.split())),
        "count the letters | say how many letters there are | give the number of "
        "letters | tell how long the list is | find the length of the list "
        "| count how many there are | say the length of the list",
        "say how long the list is | count how many letters there are",
        "number",
    ),
    task(
        "how_many_vowels", "count", lambda text: str(len(vowels_of(text))),
        "count the vowels | say how many vowels there are | give the number of vowels "
        "| tell how many of the letters are vowels | find out how often a vowel comes "
        "| say the number of vowels | tell how often there is a vowel",
        "tell the number of vowels | count how many vowels there are",
        "number",
    ),
)  # fmt: skip

SORT = (
    task(
        "ascending", "sort", on_items(sorted),
        "sort the letters | put the letters in alphabetical order | order the letters "
        "from a to z | sort the list upwards | arrange the letters as in a dictionary "
        "| put the list in order, a before z | sort them from a to z",
        "put the list in order from a to z | arrange the letters in alphabetical order",
    ),
    task(
        "descending", "sort", on_items(lambda x: sorted(x, reverse=True)),
        "sort the letters from z to a | put the letters in falling order | order the "
        "letters downwards | sort the list from z down | arrange the letters so that "
        "they fall from z to a "
        "| put the list in order, z before a | sort them downwards",
        "put the list in order from z to a | arrange the letters downwards",
    ),
)  # fmt: skip

TASKS = (*REPEAT, *CASE, *COUNT, *SORT)
