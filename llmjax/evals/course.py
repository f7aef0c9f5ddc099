"""What the models of experiments/quickstart.py answer, and how good that is."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmjax.data import chat, comparisons, course
from llmjax.data.instructions import Example
from llmjax.data.template import Messages
from llmjax.evals import sampled
from llmjax.generate.sampling import SamplingConfig
from llmjax.load import chat_template, load
from llmjax.train.workdir import write_json

MAX_NEW_TOKENS = 24  # every right sentence is shorter
NUM_ANSWERS, FLIPS = 4, 0.05  # to a question, of which two are swapped so often


def draw(path: Path, examples: Sequence[Example], num: int) -> Iterator[list[str]]:
    """So many answers of the model at `path` to each question, at temperature 1."""
    cfg, params, tokenizer = found = load(path)
    asked = [[{"role": "user", "content": one.question()}] for one in examples]
    drawn = sampled.draw_answers(
        found.model, params, tokenizer,
        chat.choose("auto", tokenizer, chat_template(path)), asked,
        num_answers=num, max_new_tokens=MAX_NEW_TOKENS, context=cfg.context,
        sampling=SamplingConfig(1.0),
    )  # fmt: skip
    return (answers for _, answers in drawn)


def ask_kept(path: Path, examples: Sequence[Example]) -> list[str]:
    """The model's answer to each question; kept in its workdir for next time."""
    file = path / "answers.json"
    if not file.exists():
        print(f"asking {path.name} {len(examples)} questions", flush=True)
        write_json(file, [answers[0] for answers in draw(path, examples, 1)])
    return json.loads(file.read_text(encoding="utf-8"))


def write_comparisons(file: Path, path: Path, num: int) -> None:
    """Writes comparisons of the model's answers to so many questions, unless it has
    been; the judge errs now and then."""
    if file.exists():
        return
    print(f"{path.name} answers {num} questions, to be compared", flush=True)
    by_question = {one.question(): one for one in course.draw(num, course.COMPARED)}
    drawn = draw(path, list(by_question.values()), NUM_ANSWERS)

    def gold(asked: Messages, said: str) -> float:
        return course.gold(by_question[asked[0]["content"]], said)

    answered = (
        ([{"role": "user", "content": question}], texts)
        for (question, example), answers in zip(by_question.items(), drawn, strict=True)
        if (texts := to_compare(example, answers))
    )
    comparisons.write(file, sampled.compare(answered, gold, flips=FLIPS))


def to_compare(example: Example, answers: Sequence[str]) -> list[str]:
    """The first right answer and the first wrong one, both in both manners, lest one
    be told from the other by its length; none where all are right, or all wrong."""
    contents = [text for text in map(course.content, answers) if text.strip()]
    sides = [
        next((text for text in contents if course.is_right(example, text) == side), "")
        for side in (True, False)
    ]
    return [text for one in sides for text in (one, course.sentence(one))] * all(sides)


def mark(examples: Sequence[Example], said: Sequence[str]) -> dict[str, float]:
    """The shares of right answers and of sentences, and the judge's mean mark."""
    both = list(zip(examples, said, strict=True))
    return {
        "right": float(np.mean([course.is_right(*one) for one in both])),
        "sentences": float(np.mean([course.is_sentence(text) for text in said])),
        "gold": float(np.mean([course.gold(*one) for one in both])),
    }
