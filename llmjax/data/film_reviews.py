"""Sentences of film reviews as answers to a question, to learn to write them from."""

import collections
from pathlib import Path

from llmjax.data import labelled, sources


def by_film() -> dict[str, dict[str, list[str]]]:
    """{film: {"fresh": sentences, "rotten": sentences}} of `rotten_tomatoes`."""
    found = collections.defaultdict(lambda: {"fresh": [], "rotten": []})
    for text, label, film in labelled.rotten_tomatoes():
        found[film][label].append(text)
    return found


def question(film: str) -> str:
    """What a sentence on a film is an answer to."""
    return f"How is {film.replace('_', ' ').title()}?"


def write(chats: Path, prompts: Path) -> None:
    """Writes the questions with their answers, and the questions alone, as .jsonl."""
    films = by_film()
    sources.write_jsonl(prompts, ({"prompt": question(film)} for film in films))
    sources.write_jsonl(
        chats,
        (
            {"prompt": question(film), "completion": text}
            for film, sides in films.items()
            for texts in sides.values()
            for text in texts
        ),
    )
