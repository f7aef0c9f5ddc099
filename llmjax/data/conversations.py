"""Conversations out of the files and data sets that people keep them in.

Each is a list of messages, {"role": ..., "content": text}, in an order that makes
sense. What is not is refused by name and place, or counted; none is lost on the way.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from llmjax.data import sources

HUB = "hf:"
USED = LEARNED, HELD_OUT = "learned", "held out"
CUT = "cut off where too long"  # counted once more, beside learned or held out
FIRST_PLACES = 3  # of each kind of trouble, named in the table
# Who may speak after whom; the first of all comes after None.
AFTER = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
LAYOUTS = "messages; or instruction, input and output; or prompt and completion"

OnBad = Literal["refuse", "skip"]


class Conversation(NamedTuple):
    """The messages, and where they stand: file:line."""

    where: str
    messages: list[dict[str, Any]]


class Tally:
    """How many conversations are used, cut and refused, and where the first ones stand.

    on_bad: what is done about one that cannot be learned from: `refuse` raises
      ValueError at the first, `skip` counts it and goes on.
    what: they are called so.
    """

    def __init__(self, on_bad: OnBad = "refuse", what: str = "conversations"):
        self.on_bad, self.what = on_bad, what
        self.places = {LEARNED: [], HELD_OUT: []}

    def add(self, kind: str, where: str) -> None:
        """Counts a conversation as LEARNED, HELD_OUT, cut, or refused."""
        self.places.setdefault(kind, []).append(where)

    def count(self, word: str) -> int:
        """How many there are of the kinds that begin with this word."""
        found = self.places.items()
        return sum(len(places) for kind, places in found if kind.startswith(word))

    def check_cut(self, num: int, num_tokens: int, max_cut: float) -> None:
        """Raises ValueError where more than that share of `num` are CUT."""
        num_cut = self.count(CUT)
        if num_cut > max_cut * num:
            raise ValueError(
                f"{self.places[CUT][0]}: this and others, {num_cut} of {num} "
                f"{self.what}, are longer than {num_tokens} tokens, more than "
                f"--data.max_cut={max_cut:g} of them; raise --data.context"
            )

    def refuse(self, where: str, error: ValueError) -> None:
        """Counts one as refused, or raises; its kind is what comes before a colon."""
        if self.on_bad == "refuse":
            raise ValueError(
                f"{where}: {error}; mend it, or leave out such {self.what} by "
                "--data.on_bad=skip"
            ) from error
        self.add(f"refused: {str(error).partition(':')[0]}", where)

    def rows(self) -> list[dict[str, Any]]:
        """The table of it all."""
        return [
            {
                self.what: kind,
                "number": len(places),
                "first": "" if kind in USED else ", ".join(places[:FIRST_PLACES]),
            }
            for kind, places in self.places.items()
        ]


def read(
    spec: str, tally: Tally, *, roles: Sequence[str] = ("assistant",)
) -> Iterator[Conversation]:
    """The conversations of a data set, always in the same order.

    spec: files, folders and patterns, separated by commas, of .jsonl or .jsonl.gz; or
      what the package datasets has saved in a folder; or "hf:NAME" or "hf:NAME:SPLIT",
      which it fetches. Each line or row has the fields of one of LAYOUTS.
    roles: those that a model learns from, of which there must be one with an answer.

    Raises FileNotFoundError, or ValueError in one line that names the place.
    """
    for where, record in records(spec):
        try:
            messages = to_messages(parse(record))
            check_messages(messages, roles)
        except ValueError as error:
            tally.refuse(where, error)
        else:
            yield Conversation(where, messages)


def records(spec: str) -> Iterator[tuple[str, bytes | Mapping[str, Any]]]:
    """(where it stands, a line of JSON or what it would say) of each; see `read`."""
    for part in filter(None, map(str.strip, spec.split(","))):
        if part.startswith(HUB) or _is_saved(Path(part).expanduser()):
            for number, row in enumerate(_open_datasets(part)):
                yield f"{part}:{number}", row
            continue
        for file in sources.find_files(part, kinds=[".jsonl"]):
            for number, line in enumerate(sources.read_lines(file), start=1):
                if not line.isspace():
                    yield f"{file}:{number}", line


def _is_saved(folder: Path) -> bool:
    """Whether the package datasets has saved it."""
    return any(
        (folder / name).is_file() for name in ("state.json", "dataset_dict.json")
    )


def _open_datasets(part: str):
    datasets = sources.need("datasets", part)
    if part.startswith(HUB):
        name, _, split = part.removeprefix(HUB).partition(":")
        try:
            return datasets.load_dataset(name, split=split or "train")
        except (OSError, ValueError) as error:
            raise ValueError(f"{part}: {' '.join(str(error).split())}") from error
    found = datasets.load_from_disk(os.path.expanduser(part))
    if isinstance(found, datasets.DatasetDict):
        if "train" not in found:
            raise ValueError(f"{part}: no split train; name one of {list(found)} in it")
        return found["train"]
    return found


def parse(line: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """What a line says; ValueError, what is wrong before a colon, if it says none."""
    if isinstance(line, Mapping):
        return line
    try:
        return sources.read_object(line.decode(), "bad line")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {error.start} of the line") from error


def to_messages(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages of a record in any of LAYOUTS."""
    match record:
        case {"messages": messages}:
            return read_messages(messages)
        case {"instruction": question, "output": answer}:
            more = record.get("input") or ""
            question = f"{question}\n\n{more}" if more else question
        case {"prompt": question, "completion": answer}:
            pass
        case _:
            names = ", ".join(map(str, record)) or "none"
            raise ValueError(f"unknown fields: {names}; known are {LAYOUTS}")
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def read_messages(messages: Any) -> list[dict[str, Any]]:
    """The list of messages that this should be."""
    if not isinstance(messages, list | tuple) or not all(
        isinstance(message, Mapping) for message in messages
    ):
        raise ValueError("not a list of messages")
    # Where rows are of one shape, a field that one lacks is None.
    return [
        {name: value for name, value in message.items() if value is not None}
        for message in messages
    ]


def check_messages(messages: list[dict[str, Any]], roles: Sequence[str]) -> None:
    """Raises ValueError, what is wrong before a colon, unless all is in order."""
    last = None
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if role not in AFTER[last]:
            after = f"after {last}" if last else "at first"
            raise ValueError(f"roles out of order: {role!r} {after}, message {number}")
        if not isinstance(content, str):
            raise ValueError(f"content is not text: of message {number}, {role}")
        if not content.strip() and role != "system":
            what = "answer" if role == "assistant" else "message"
            raise ValueError(f"empty {what}: message {number}, of the {role}")
        try:
            content.encode()  # JSON can write half of a surrogate pair
        except UnicodeEncodeError as error:
            raise ValueError(f"not UTF-8: message {number}, {error}") from error
        last = role
    if not any(message["role"] in roles for message in messages):
        raise ValueError(f"no {' or '.join(roles)} turn: there is nothing to learn")
