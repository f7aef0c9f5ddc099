"""What the page of the quickstart says of answers and scores."""

import numpy as np

from llmjax.data import course
from llmjax.evals import course_page
from llmjax.evals.course import mark, to_compare

EXAM = course.draw(4, 0)
RIGHT = [one.answer for one in EXAM]


def test_marks_are_shares_of_the_exam():
    said = [RIGHT[0], f"The answer is {RIGHT[1]}.", "The answer is so.", "?"]
    assert mark(EXAM, said) == {"right": 0.5, "sentences": 0.5, "gold": 6 / 4}


def test_scores_by_kind_of_answer():
    said = [RIGHT[0], RIGHT[1], "The answer is so.", "The answer is no."]
    rows = course_page.score_by_kind(EXAM, said, np.array([2.0, 4.0, 1.0, -1.0]))
    assert [tuple(row.values()) for row in rows] == [
        ("right", "a sentence", 0, None),
        ("right", "bare", 2, 3.0),
        ("wrong", "a sentence", 2, 0.0),
        ("wrong", "bare", 0, None),
    ]


def test_a_right_answer_is_compared_with_a_wrong_one_in_both_manners():
    right, told = RIGHT[0], f"The answer is {RIGHT[0]}."
    four = [right, told, "so", "The answer is so."]
    assert to_compare(EXAM[0], [" ", "The answer is so.", told, right, "no"]) == four
    assert to_compare(EXAM[0], [right, told]) == []
    assert to_compare(EXAM[0], ["so", "The answer is no.", ""]) == []
