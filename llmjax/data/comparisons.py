"""Comparisons: a prompt, some answers to it, and which of them people like better.

They come out of files and data sets as conversations do; see `conversations`.
"""

import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.data import conversations, film_reviews, sources
from llmjax.data.conversations import Tally

Messages = list[dict[str, Any]]

REVIEWS = "reviews"
LAYOUTS = "prompt, chosen and rejected; or prompt, answers and ranks"


class Comparison(NamedTuple):
    """Answers to a prompt, and the rank of each: 1 is the best, equals share one.

    where: file:line. answers: what each says after the prompt, the last of its messages
      an assistant's.
    margin: by how much a better answer should at least be scored higher.
    gold: the true reward of each answer, where it is known.
    """

    where: str
    prompt: Messages
    answers: list[Messages]
    ranks: list[int]
    margin: float = 0.0
    gold: list[float] | None = None

    @property
    def key(self) -> str:
        """What all comparisons of one prompt have in common."""
        return json.dumps(self.prompt, sort_keys=True)

    def pairs(self) -> Iterator[tuple[int, int]]:
        """(the better, the worse) of all two answers that are not as good."""
        for one, other in itertools.permutations(range(len(self.answers)), 2):
            if self.ranks[one] < self.ranks[other]:
                yield one, other


def read(spec: str, tally: Tally) -> Iterator[Comparison]:
    """The comparisons of a data set, always in the same order.

    spec: as in `conversations.read`, or "reviews". Each line or row has the fields of
      LAYOUTS, where a prompt or an answer is a text, or a list of messages; a list may
      repeat those of the prompt, or be all there is of it. Optional are margin, and
      gold, of the chosen and the rejected, or of the answers.

    Raises FileNotFoundError, or ValueError in one line that names the place.
    """
    if spec == REVIEWS:
        yield from reviews()
        return
    for where, record in conversations.records(spec):
        try:
            found = to_comparison(where, conversations.parse(record))
            check(found)
        except ValueError as error:
            tally.refuse(where, error)
        else:
            yield found


def to_comparison(where: str, record: Mapping[str, Any]) -> Comparison:
    """The comparison of a record in any of LAYOUTS."""
    match record:
        case {"chosen": chosen, "rejected": rejected}:
            answers, ranks = [chosen, rejected], [1, 2]
        case {"answers": answers, "ranks": ranks}:
            answers, ranks = list(answers), list(ranks)
        case _:
            names = ", ".join(map(str, record)) or "none"
            raise ValueError(f"unknown fields: {names}; known are {LAYOUTS}")
    answers = [_messages(answer, "assistant") for answer in answers]
    prompt = record.get("prompt")
    if prompt is not None:
        prompt = _messages(prompt, "user")
    elif answers:  # all that the answers begin with, and that none ends with
        prompt = _common([answer[:-1] for answer in answers])
    num = len(prompt or ())
    answers = [
        answer[num:] if num and answer[:num] == prompt else answer for answer in answers
    ]
    gold, margin = record.get("gold"), record.get("margin")
    gold = None if gold is None else _numbers("gold", gold, len(answers))
    [margin] = [0.0] if margin is None else _numbers("margin", [margin], 1)
    if margin < 0:
        raise ValueError(f"margin below 0: {margin:g}")
    ranks = _numbers("ranks", ranks, len(answers))
    places = {rank: place for place, rank in enumerate(sorted({*ranks}), start=1)}
    dense = [places[rank] for rank in ranks]
    return Comparison(where, prompt or [], answers, dense, margin, gold)


def _common(lists: list[Messages]) -> Messages:
    """The messages that all begin with."""
    columns = zip(*lists, strict=False)
    same = itertools.takewhile(lambda of: all(one == of[0] for one in of), columns)
    return [of[0] for of in same]


def _messages(value: Any, role: str) -> Messages:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return conversations.read_messages(value)


def _numbers(name: str, values: Any, num: int) -> list[float]:
    values = list(values) if isinstance(values, Sequence | np.ndarray) else []
    numbers = [v for v in values if isinstance(v, int | float | np.number)]
    if len(numbers) != len(values) or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} not of numbers: {values!r:.60}")
    if len(numbers) != num:
        raise ValueError(f"{name} of another number: {len(numbers)} for {num} answers")
    return [float(number) for number in numbers]


def check(comparison: Comparison) -> None:
    """Raises ValueError, what is wrong before a colon, unless all is in order."""
    answers = comparison.answers
    if len(answers) < 2:
        raise ValueError(f"fewer than two answers: {len(answers)}")
    if not comparison.prompt:
        raise ValueError("no prompt: the answers begin with nothing in common")
    for number, answer in enumerate(answers, start=1):
        messages = comparison.prompt + answer
        conversations.check_messages(messages, ("assistant",))
        if not answer or answer[-1]["role"] != "assistant":
            raise ValueError(f"roles out of order: answer {number} ends otherwise")
    for one, other in comparison.pairs():
        if answers[one] == answers[other]:
            first, second = sorted((one + 1, other + 1))
            places = f"answers {first} and {second} are the same"
            raise ValueError(f"identical answers: {places}, but not as good")


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the messages say, one below the other."""
    return "\n".join(str(message["content"]) for message in messages)


def from_texts(
    where: str, prompt: str, answers: Sequence[str], ranks: Sequence[int], **more: Any
) -> Comparison:
    """A comparison of plain texts; `more` is margin or gold."""
    record = {"prompt": prompt, "answers": answers, "ranks": ranks} | more
    return to_comparison(where, record)


def write(path: str | os.PathLike, found: Iterable[Comparison]) -> None:
    """Writes .jsonl that `read` reads; the file appears whole or not."""
    sources.write_jsonl(path, map(_record, found))


def _record(one: Comparison) -> dict[str, Any]:
    record = {"prompt": one.prompt, "answers": one.answers, "ranks": one.ranks}
    record |= {"margin": one.margin} if one.margin else {}
    return record if one.gold is None else record | {"gold": one.gold}


def judge(
    gold: Sequence[float],
    rng: np.random.Generator,
    *,
    strength: float = math.inf,
    flips: float = 0.0,
) -> list[int]:
    """Ranks, as a judge gives them who sees the gold rewards dimly.

    strength: of two answers the better wins with the probability sigmoid(strength *
      (difference in gold)), of several by Plackett and Luce's rule; inf never errs.
    flips: how often two of the answers, drawn evenly, change places after that.
    Equal rewards without noise are tied.
    """
    values = np.asarray(gold, np.float64)
    if not math.isinf(strength):  # the difference of two Gumbel draws is logistic
        values = strength * values + rng.gumbel(size=len(values))
    ranks = (np.unique(-values, return_inverse=True)[1] + 1).tolist()
    if rng.random() < flips:
        one, other = rng.choice(len(ranks), 2, replace=False)
        ranks[one], ranks[other] = ranks[other], ranks[one]
    return ranks


def reviews() -> Iterator[Comparison]:
    """Of two sentences on one film the fresh one is better; see `film_reviews`.

    Each sentence is in one pair at least, if the film has sentences of both kinds.
    """
    for film, sides in film_reviews.by_film().items():
        num = max(map(len, sides.values())) if all(sides.values()) else 0
        for index in range(num):
            pair = [sides[side][index % len(sides[side])] for side in sides]
            prompt = film_reviews.question(film)
            yield from_texts(f"{film}:{index}", prompt, pair, [1, 2])
