"""The exercises of experiments/quickstart.py, and the judge who knows the answers.

A question is one of the small tasks of `instructions`. It is answered in one of two
manners, barely, "d c", or in a sentence, "The answer is d c." Models are taught
both; that people like sentences better is what a reward model has to find out.
"""

from pathlib import Path

import numpy as np

from llmjax.data import instructions, sources
from llmjax.data.instructions import Example, InstructionConfig

TASKS = (
    "first", "second", "last", "first_two", "last_two", "largest", "smallest",
)  # fmt: skip
PLAIN = InstructionConfig()
LESSONS, COMPARED, PRACTICE, EXAM = range(4)  # seeds: each has its own questions
OPENING, END = "The answer is ", "."


def draw(num: int, seed: int, *, held_out: bool = False) -> list[Example]:
    """So many different questions; tasks take turns.

    held_out: on inputs that are never learned, half of them in such wordings too.
    """
    tasks = [task for task in instructions.TASKS if task.name in TASKS]
    rng, found = np.random.default_rng(seed), {}
    while len(found) < num:
        task = tasks[len(found) % len(tasks)]
        is_new = held_out and rng.random() < 0.5
        wordings = task.held_out if is_new else task.wordings
        words = wordings[rng.integers(len(wordings))]
        example = instructions.draw(PLAIN, task, words, rng, held_out=held_out)
        found.setdefault(example.question(), example)
    return list(found.values())


def write_lessons(file: Path, num: int) -> None:
    """Writes conversations, half of whose answers are sentences, unless it has been."""
    if file.exists():
        return
    in_sentence = np.random.default_rng(LESSONS).permutation(num) % 2
    sources.write_jsonl(
        file,
        (
            {
                "prompt": one.question(),
                "completion": sentence(one.answer) if is_dressed else one.answer,
            }
            for one, is_dressed in zip(draw(num, LESSONS), in_sentence, strict=True)
        ),
    )


def write_questions(file: Path, num: int) -> None:
    """Writes questions alone, unless it has been."""
    if not file.exists():
        questions = (one.question() for one in draw(num, PRACTICE))
        sources.write_jsonl(file, ({"prompt": question} for question in questions))


def sentence(content: str) -> str:
    """An answer in the manner that people like better."""
    return f"{OPENING}{content}{END}"


def is_sentence(said: str) -> bool:
    """Whether an answer has the form of a sentence, be it right or wrong."""
    return said.startswith(OPENING) and said.endswith(END)


def content(said: str) -> str:
    """An answer without its manner."""
    if not is_sentence(said):
        return said
    return said.removeprefix(OPENING).removesuffix(END)


def is_right(example: Example, said: str) -> bool:
    """Whether an answer is right, in either manner."""
    return example.kind.is_right(example.given, content(said))


def gold(example: Example, said: str) -> float:
    """From 0 to 3: whatever is right is above what is wrong, then a sentence above a
    bare answer."""
    return 2.0 * is_right(example, said) + is_sentence(said)
