"""Clusters about the places of letters: order, keep, cipher, pick."""

from collections.abc import Callable

from llmjax.data.tasks.task import ALPHABET, VOWELS, on_items, task


def shift(text: str, by: int) -> str:
    """Each letter `by` places on; the alphabet is a circle."""
    places = (ALPHABET.index(letter) + by for letter in text.split())
    return " ".join(ALPHABET[place % len(ALPHABET)] for place in places)


def take(num: int, part: slice) -> Callable[[str], str]:
    """Solves by a part of a list that has `num` letters or more."""
    return on_items(lambda items: items[part] if len(items) >= num else [])


def vowels_of(text: str) -> list[str]:
    return [letter for letter in text.split() if letter in VOWELS]


ORDER = (
    task(
        "reverse", "order", on_items(lambda x: x[::-1]),
        "reverse the letters | write the letters backwards | "
        "give the letters from the last to the first | turn the list around | "
        "read the letters from right to left "
        "| write the list from right to left | give the list backwards",
        "write the list in reverse | give the letters backwards, from right to left",
    ),
    task(
        "rotate", "order", on_items(lambda x: x[1:] + x[:1]),
        "move the first letter to the end | take the first letter and put it at the "
        "end | rotate the list to the left | let the first letter go behind all others "
        "| shift the list left, the first letter comes last "
        "| put the first letter at the end | move the first letter behind the others",
        "put the first letter behind all others | rotate the letters left by one place",
    ),
    task(
        "swap_ends", "order",
        on_items(lambda x: [x[-1], *x[1:-1], x[0]] if len(x) > 1 else []),
        "swap the first and the last letter | exchange the two outer letters | "
        "let the first and the last letter trade places | swap both ends of the list | "
        "exchange the ends, leave the middle alone "
        "| swap the outer letters | let the ends of the list trade places",
        "exchange the first and the last letter | let the outer letters swap places",
    ),
    task(
        "rotate_back", "order", on_items(lambda x: x[-1:] + x[:-1]),
        "move the last letter to the front | take the last letter and put it first | "
        "rotate the list to the right | let the last letter go before all others",
        "put the last letter before all others | rotate the letters right by one place",
        is_new=True,
    ),
)  # fmt: skip

KEEP = (
    task(
        "first_two", "keep", take(2, slice(2)),
        "keep the first two letters | give only the first two | write the two letters "
        "at the start | cut the list after two letters | take two letters from the "
        "front "
        "| write only the two letters at the front | keep two letters, the first "
        "ones",
        "keep only two letters from the front | write the first two letters",
    ),
    task(
        "first_three", "keep", take(3, slice(3)),
        "keep the first three letters | give only the first three | write the three "
        "letters at the start | cut the list after three letters | take three letters "
        "from the front "
        "| write only the three letters at the front | keep three letters, the first "
        "ones",
        "keep only three letters from the front | write the first three letters",
    ),
    task(
        "last_two", "keep", take(2, slice(-2, None)),
        "keep the last two letters | give only the last two | write the two letters at "
        "the end | leave out all but the last two | take two letters from the back "
        "| write only the two letters at the back | keep two letters, the last ones",
        "keep only two letters from the back | write the last two letters",
    ),
    task(
        "drop_first", "keep", take(2, slice(1, None)),
        "drop the first letter | remove the letter at the start | write all but the "
        "first letter | leave out the first letter | start from the second letter "
        "| give the list without its first letter | skip the first letter",
        "remove the first letter | give all letters but the first",
    ),
    task(
        "drop_last", "keep", take(2, slice(-1)),
        "drop the last letter | remove the letter at the end | write all but the last "
        "letter | leave out the last letter | stop before the last letter "
        "| give the list without its last letter | skip the last letter",
        "remove the last letter | give all letters but the last",
    ),
    task(
        "last_three", "keep", take(3, slice(-3, None)),
        "keep the last three letters | give only the last three | write the three "
        "letters at the end | leave out all but the last three",
        "keep only three letters from the back | write the last three letters",
        is_new=True,
    ),
)  # fmt: skip

CIPHER = (
    task(
        "next_letter", "cipher", lambda text: shift(text, 1),
        "replace each letter by the next one | shift every letter up by one | write "
        "the letter that follows each in the alphabet | encode the letters one step "
        "forward | move each letter one step on in the alphabet "
        "| replace each by the letter that follows | write the next letter for every "
        "letter",
        "replace every letter by the one that follows it | shift each letter one step "
        "forward in the alphabet",
    ),
    task(
        "previous_letter", "cipher", lambda text: shift(text, -1),
        "replace each letter by the previous one | shift every letter down by one | "
        "write the letter that precedes each in the alphabet | decode the letters one "
        "step back | move each letter one step back in the alphabet "
        "| replace each by the letter that precedes | write the previous letter for "
        "every letter",
        "replace every letter by the one that precedes it | shift each letter one step "
        "back in the alphabet",
    ),
)  # fmt: skip

PICK = (
    task(
        "first", "pick", take(1, slice(1)),
        "pick the first letter | say which letter comes first | name the letter at the "
        "start | give the initial letter | write only the first letter "
        "| say which letter the list starts with | choose the letter at the start",
        "name the first letter | say which letter is at the start",
        "letter",
    ),
    task(
        "second", "pick", take(2, slice(1, 2)),
        "pick the second letter | say which letter comes second | name the letter at "
        "place two | give the letter after the first | write only the second letter "
        "| say what is at place two | choose the letter at place two",
        "name the second letter | say which letter is at place two",
        "letter",
    ),
    task(
        "last", "pick", take(1, slice(-1, None)),
        "pick the last letter | say which letter comes last | name the letter at the "
        "end | give the final letter | write only the last letter "
        "| say which letter the list ends with | choose the letter at the end",
        "name the last letter | say which letter is at the end",
        "letter",
    ),
    task(
        "any_vowel", "pick", lambda text: "".join(vowels_of(text)[:1]),
        "pick any vowel | name one of the vowels | give a vowel of the list | write "
        "one vowel that you find | choose any one of the vowels "
        "| choose a vowel | say one vowel of the list",
        "name any vowel that you find | choose one vowel of the list",
        "letter",
        accepts=lambda given, said: said in vowels_of(given),
    ),
    task(
        "second_last", "pick", take(2, slice(-2, -1)),
        "pick the second letter from the end | say which letter comes second from last "
        "| name the letter before the last | give the last letter but one",
        "name the second letter from the end | write only the letter before the last",
        "letter",
        is_new=True,
    ),
)  # fmt: skip

TASKS = (*ORDER, *KEEP, *CIPHER, *PICK)
