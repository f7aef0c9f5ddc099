"""The exercises of the quickstart, and their judge."""

import json

from llmjax.data import course, instructions


def test_tasks_take_turns_and_nothing_is_asked_twice():
    found = course.draw(200, 0)
    assert [one.kind.name for one in found[: len(course.TASKS)]] == [
        task.name for task in instructions.TASKS if task.name in course.TASKS
    ]
    assert len({one.question() for one in found}) == 200
    assert course.draw(200, 0) == found != course.draw(200, 1)


def test_the_exam_has_new_inputs_and_half_of_it_new_wordings():
    lessons, exam = course.draw(3000, 0), course.draw(300, 3, held_out=True)
    assert not {one.given for one in lessons} & {one.given for one in exam}
    known = {(one.kind.name, one.instruction) for one in lessons}
    new = [(one.kind.name, one.instruction) not in known for one in exam]
    assert 0.4 < sum(new) / 300 < 0.6


def test_half_of_the_lessons_are_sentences_and_all_are_right(tmp_path):
    examples = course.draw(100, course.LESSONS)
    course.write_lessons(file := tmp_path / "lessons.jsonl", 100)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    said = [line["completion"] for line in lines]
    assert [line["prompt"] for line in lines] == [one.question() for one in examples]
    assert sum(map(course.is_sentence, said)) == 50
    assert all(map(course.is_right, examples, said))


def test_the_judge_puts_right_above_wrong_then_sentences_above_bare_answers():
    [task] = (task for task in instructions.TASKS if task.name == "last_two")
    example = instructions.Example(task, "keep the last two letters", "a b c", "b c")
    marks = {
        "The answer is b c.": 3.0, "b c": 2.0, "The answer is a b.": 1.0,
        "a b": 0.0, "": 0.0,
        # Neither manner: what is said is taken as it stands.
        "The answer is b c": 0.0, "b c.": 0.0, "the answer is b c.": 0.0,
        "The answer is The answer is b c..": 1.0,
    }  # fmt: skip
    assert {said: course.gold(example, said) for said in marks} == marks
