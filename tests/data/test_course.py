"""The exercises of the quickstart, and their judge."""

import json

from llmjax.data import course, instructions


def test_tasks_take_turns_and_nothing_is_asked_twice():
    found = course.draw(200, 0)
    assert [one.kind.name for one in found[:10]] == [
        task.name for task in instructions.TASKS if task.name in course.TASKS
    ]
    assert len({one.question() for one in found}) == 200
    assert course.draw(200, 0) == found != course.draw(200, 1)


def test_the_exam_shares_no_input_and_no_wording_with_the_lessons():
    lessons, exam = course.draw(3000, 0), course.draw(300, 3, held_out=True)
    assert not {one.given for one in lessons} & {one.given for one in exam}
    wordings = ({(one.kind.name, one.instruction) for one in some}
                for some in (lessons, exam))  # fmt: skip
    assert not set.intersection(*wordings)


def test_half_of_the_lessons_are_sentences_and_all_are_right(tmp_path):
    examples = course.draw(100, course.LESSONS)
    course.write_lessons(file := tmp_path / "lessons.jsonl", 100)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    said = [line["completion"] for line in lines]
    assert [line["prompt"] for line in lines] == [one.question() for one in examples]
    assert sum(map(course.is_sentence, said)) == 50
    assert all(map(course.is_right, examples, said))


def test_the_judge_puts_right_above_wrong_then_sentences_above_bare_answers():
    [reverse] = (task for task in instructions.TASKS if task.name == "reverse")
    example = instructions.Example(reverse, "reverse the letters", "a b c", "c b a")
    marks = {
        "The answer is c b a.": 3.0, "c b a": 2.0, "The answer is a b c.": 1.0,
        "a b c": 0.0, "": 0.0,
        # Neither manner: what is said is taken as it stands.
        "The answer is c b a": 0.0, "c b a.": 0.0, "the answer is c b a.": 0.0,
        "The answer is The answer is c b a..": 1.0,
    }  # fmt: skip
    assert {said: course.gold(example, said) for said in marks} == marks
