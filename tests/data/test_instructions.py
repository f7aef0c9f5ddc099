"""Tasks, by hand; and that nothing that is asked is learned."""

import json
import re

import numpy as np
import pytest

from llmjax.data import instructions
from llmjax.data.instructions import (
    CLUSTERS,
    STEP,
    TASKS,
    Example,
    InstructionConfig,
    Pair,
)
from llmjax.data.tasks import gym

# Worked out by hand: task -> input, right answer; "" where there is none.
BY_HAND = {
    "reverse": ("a b c d", "d c b a"),
    "rotate": ("a b c d", "b c d a"),
    "swap_ends": ("a b c d", "d b c a"),
    "rotate_back": ("a b c d", "d a b c"),
    "first_two": ("c a b d", "c a"),
    "first_three": ("c a b d", "c a b"),
    "last_two": ("c a b d", "b d"),
    "last_three": ("c a b d", "a b d"),
    "drop_first": ("c a b d", "a b d"),
    "drop_last": ("c a b d", "c a b"),
    "next_letter": ("a c o p", "b d p a"),
    "previous_letter": ("b d p a", "a c o p"),
    "first": ("c a b d", "c"),
    "second": ("c a b d", "a"),
    "last": ("c a b d", "d"),
    "second_last": ("c a b d", "b"),
    "any_vowel": ("c i b a", "i"),
    "each_twice": ("c a b", "c c a a b b"),
    "double_first": ("c a b", "c c a b"),
    "double_last": ("c a b", "c a b b"),
    "upper": ("c a b", "C A B"),
    "upper_first": ("c a b", "C a b"),
    "upper_last": ("c a b", "c a B"),
    "how_many": ("c a b c a", "5"),
    "how_many_vowels": ("c a b o a", "3"),
    "ascending": ("c a d c b", "a b c c d"),
    "descending": ("c a d c b", "d c c b a"),
    "add_one": ("9 3 20", "10 4 21"),
    "subtract_one": ("9 1 20", "8 0 19"),
    "double": ("9 1 20", "18 2 40"),
    "largest": ("9 13 2 13", "13"),
    "smallest": ("9 13 2 13", "2"),
    "value_of": ("a 3, b 7, c 0 ; b", "7"),
    "key_of": ("a 3, b 7, c 0 ; 0", "c"),
    "negate": ("true false false", "false true true"),
    "and_ends": ("true false true", "true"),
    "or_ends": ("false true false", "false"),
    "only_vowels": ("b a c o d a", "a o a"),
    "no_vowels": ("b a c o d a", "b c d"),
    "common": ("b a c d | d e b f", "b d"),
    "difference": ("b a c d | d e b f", "a c"),
    "next_number": ("3 7 11 15", "19"),
    "next_in_cycle": ("a b c a b c a", "b"),
    "name": ("kim is 31 and lives in bonn", "kim"),
    "city": ("kim is 31 and lives in bonn", "bonn"),
    "age": ("kim is 31 and lives in bonn", "31"),
    "has_vowel": ("b c e d", "yes"),
    "has_twins": ("b c d c", "yes"),
}
MORE_BY_HAND = [
    ("swap_ends", "a", ""),
    ("first_three", "a b", ""),
    ("last_two", "a", ""),
    ("drop_last", "a", ""),
    ("second", "a", ""),
    ("any_vowel", "b c d", ""),
    ("how_many_vowels", "b c d", "0"),
    ("and_ends", "false true true", "false"),
    ("and_ends", "true true false", "false"),
    ("or_ends", "false true true", "true"),
    ("or_ends", "true false false", "true"),
    ("only_vowels", "b c d", ""),
    ("no_vowels", "a a e", ""),
    ("next_number", "23 20 17 14", "11"),
    ("next_in_cycle", "a b a b a b a b", "a"),
    ("next_in_cycle", "a b a b a b a", "b"),
    ("next_in_cycle", "a b c a b c a b", "c"),
    ("has_vowel", "b c d d", "no"),
    ("has_twins", "b c d a", "no"),
]
# What inputs of each kind look like.
SHAPES = {
    "letters": r"[a-p]( [a-p]){3,5}",
    "numbers": r"([1-9]|1[0-2])( ([1-9]|1[0-2])){2,4}",
    "truths": r"(true|false)( (true|false)){3,6}",
    "table and key": r"[a-p] \d(, [a-p] \d){2} ; [a-p]",
    "table and value": r"[a-p] \d(, [a-p] \d){2} ; \d",
    "two lists": r"[a-p]( [a-p]){3} \| [a-p]( [a-p]){3}",
    "series": r"\d+( \d+){3}",
    "cycle": r"[a-p]( [a-p]){6,7}",
    "person": r"[a-z]{3} is \d\d and lives in [a-z]{4}",
}
SMALL = InstructionConfig(num_examples=4000, num_asked=8, num_asked_pair=4)


def find(name):
    (task,) = [task for task in TASKS if task.name == name]
    return task


def words_of(wording):
    return re.findall(r"\w+", wording)


@pytest.fixture(name="asked", scope="module")
def _asked():
    return instructions.asked(SMALL)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_by_hand(task):
    given, right = BY_HAND[task.name]
    assert task.solve(given) == right
    assert task.is_right(given, f" {right}\n")
    assert not task.is_right(given, f"{right} x") and not task.is_right(given, "")
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    drawn = [task.draw(rng) for _ in range(300)]
    assert drawn == [task.draw(other) for _ in range(300)]
    answers = [task.solve(one) for one in drawn]
    assert all(re.fullmatch(SHAPES[task.takes], one) for one in drawn)
    assert len(set(drawn)) > 100 and len(set(answers)) > 1
    if task.gives in ("letters", "numbers", "truths"):
        unlike = {"letters": "[a-p ]*", "numbers": "[0-9 ]+", "truths": "[a-z ]+"}
        assert all(re.fullmatch(unlike[task.gives], one) for one in answers)


@pytest.mark.parametrize(("name", "given", "right"), MORE_BY_HAND)
def test_edges_by_hand(name, given, right):
    assert find(name).solve(given) == right


def test_tables_lists_and_rows_that_are_drawn_have_one_answer():
    rng = np.random.default_rng(1)
    for _ in range(200):
        table, asked = find("key_of").draw(rng).split(" ; ")
        rows = dict(row.split()[::-1] for row in table.split(", "))
        assert len(rows) == table.count(",") + 1 and asked in rows
        mine, its = (set(part.split()) for part in find("common").draw(rng).split("|"))
        assert len(mine & its) == 2 and len(mine) == len(its) == 4
        numbers = list(map(int, find("next_number").draw(rng).split()))
        assert len(set(np.diff(numbers))) == 1
        assert int(find("next_number").solve(" ".join(map(str, numbers)))) > 0


def test_any_of_several_answers_may_be_right():
    task = find("any_vowel")
    assert task.is_right("b a c o", "a") and task.is_right("b a c o", " o ")
    assert not task.is_right("b a c o", "e") and not task.is_right("b a c o", "a o")
    assert not task.is_right("b a c o", "b")
    pair = Pair(find("reverse"), task)
    assert pair.solve("b a c o") == "o" and pair.is_right("b a c o", "a")


def test_pairs_by_hand():
    pair = Pair(find("reverse"), find("first_two"))
    assert pair.solve("a b c d") == "d c"
    assert pair.is_right("a b c d", "d c b a ; d c")
    assert pair.is_right("a b c d", "d c")
    assert not pair.is_right("a b c d", "d c ; d c b a")
    assert not pair.is_right("a b c d", "d c b a")
    assert Pair(find("drop_last"), find("first_three")).solve("a b") == ""
    assert pair.name == "reverse, then first_two"


def test_there_are_enough_tasks_clusters_and_wordings():
    names = [task.name for task in TASKS]
    assert set(names) == set(BY_HAND) and len(set(names)) == len(names) >= 28
    clusters = {task.cluster for task in TASKS}
    assert len(clusters) >= 14 and len(clusters - set(CLUSTERS)) >= 2
    for cluster in clusters:
        assert sum(task.cluster == cluster for task in TASKS) >= 2
    known = [set(words_of(w)) for t in TASKS for w in t.wordings]
    known = set().union(*known)
    seen = set()
    for task in TASKS:
        assert len(task.wordings) >= 4 and len(task.held_out) >= 2
        every = task.wordings + task.held_out
        assert len({tuple(words_of(one)) for one in every}) == len(every)
        assert not seen & set(every)
        seen |= set(every)
        if task.cluster in CLUSTERS and not task.is_new:  # new wordings of known words
            assert set(words_of(" ".join(task.held_out))) <= known
    for cluster in CLUSTERS:
        learned = [t for t in TASKS if t.cluster == cluster and not t.is_new]
        assert len(learned) >= 2


@pytest.mark.parametrize("num_clusters", [4, 8, 12])
def test_pairs_are_split_and_steps_of_held_out_ones_are_learned(num_clusters):
    learned = instructions.pairs(num_clusters, held_out=False)
    held_out = instructions.pairs(num_clusters, held_out=True)
    assert not set(pair.name for pair in learned) & {pair.name for pair in held_out}
    assert 0.08 < len(held_out) / len(learned) < 0.25
    tasks = instructions.learned_tasks(num_clusters)
    for pair in held_out:
        assert pair.first in tasks and pair.second in tasks
        assert any(other.first is pair.first for other in learned)
        assert any(other.second is pair.second for other in learned)
    assert {t.cluster for t in tasks} == set(CLUSTERS[:num_clusters])
    assert not any(task.is_new for task in tasks)


@pytest.mark.parametrize("num_clusters", [4, 12])
def test_nothing_that_is_asked_is_learned(num_clusters, asked):
    learned = list(instructions.learned(SMALL, num_clusters, seed=3))
    assert len(learned) == SMALL.num_examples
    kinds = {example.kind.name for example in learned}
    inputs = {example.given for example in learned}
    questions = {example.question() for example in learned}
    for name, examples in asked.items():
        assert not inputs & {example.given for example in examples}, name
        assert not questions & {example.question() for example in examples}
    text = "\n".join(example.instruction for example in learned)
    known = instructions.learned_tasks(num_clusters)
    for task in TASKS:
        words = task.held_out if task in known else (*task.held_out, *task.wordings)
        for wording in words:
            others = [w for t in known for w in t.wordings if wording in w]
            assert others or wording not in text, wording
    unseen = ("held-out pairs", "new tasks", "new clusters")
    assert not kinds & {one.kind.name for name in unseen for one in asked[name]}
    wanted = {task.name for task in known}
    assert wanted <= kinds
    share = np.mean([isinstance(example.kind, Pair) for example in learned])
    assert share == SMALL.pair_share


def test_what_is_asked(asked):
    num_tasks = len(instructions.learned_tasks(12))
    assert (
        len(asked["learned wordings"])
        == len(asked["held-out wordings"])
        == (8 * num_tasks)
    )
    held_out = instructions.pairs(12, held_out=True)
    assert len(asked["held-out pairs"]) == 4 * len(held_out)
    taught = {pair.name for pair in instructions.pairs(12, held_out=False)}
    assert {one.kind.name for one in asked["learned pairs"]} <= taught
    for example in asked["held-out wordings"]:
        assert example.instruction in example.kind.held_out
    assert {e.kind.cluster for e in asked["new tasks"]} <= set(CLUSTERS)
    assert {e.kind.cluster for e in asked["new clusters"]}.isdisjoint(CLUSTERS)
    for examples in asked.values():
        assert len({(e.kind.name, e.given) for e in examples}) == len(examples)
        for example in examples:
            assert instructions.is_held_out(example.given)
            assert example.kind.is_right(example.given, example.answer)
    again = instructions.asked(SMALL)
    assert [e.question() for es in again.values() for e in es] == [
        e.question() for es in asked.values() for e in es
    ]


def test_examples_depend_on_the_seed_alone():
    first, same, other = (
        [example.question() for example in instructions.learned(SMALL, 8, seed)]
        for seed in (0, 0, 1)
    )
    assert first == same and first != other


def test_a_question_and_its_answer():
    example = Example(find("reverse"), "turn the list around", "a b", "b a")
    assert example.question() == "turn the list around: a b"
    assert example.question(told=False) == "a b"
    rng = np.random.default_rng(0)
    pair = Pair(find("reverse"), find("first"))
    for show_steps, answer in ((True, "{} ; {}"), (False, "{1}")):
        cfg = InstructionConfig(show_steps=show_steps)
        one = instructions.draw(cfg, pair, "go", rng, held_out=False)
        steps = find("reverse").solve(one.given), one.given[-1]
        assert one.answer == answer.format(*steps)


def test_files(tmp_path):
    file = tmp_path / "data" / "some.jsonl"
    cfg = InstructionConfig(
        num_examples=60, text=str(tmp_path / "text"), num_prompts=96
    )
    instructions.write_learned(file, cfg, 4, 0, told=True)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 60
    examples = list(instructions.learned(cfg, 4, 0))
    assert records[0] == {
        "prompt": examples[0].question(), "completion": examples[0].answer,
    }  # fmt: skip
    assert any(STEP in record["completion"] for record in records)
    untold = tmp_path / "untold.jsonl"
    instructions.write_learned(untold, cfg, 4, 0, told=False)
    first = json.loads(untold.read_text().splitlines()[0])
    assert first["prompt"] == examples[0].given
    before = file.stat().st_mtime_ns
    instructions.write_learned(file, cfg, 4, 0, told=True)
    assert file.stat().st_mtime_ns == before


def test_what_a_base_reads_has_nothing_that_is_held_out(tmp_path, asked):
    (tmp_path / "text").mkdir()
    for number in range(30):
        (tmp_path / "text" / f"{number}.txt").write_text(f"document {number}\n" * 900)
    cfg = InstructionConfig(text=str(tmp_path / "text"), num_prompts=960)
    file = tmp_path / "text.jsonl"
    instructions.write_text(file, cfg)
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    prompts, others = texts[:120], texts[120:]
    assert all(text.startswith("document") for text in others)
    assert max(map(len, others)) == instructions.PASSAGE_CHARS
    sizes = sum(map(len, prompts)), sum(map(len, others))
    assert abs(sizes[0] - sizes[1]) <= instructions.PASSAGE_CHARS
    lines = "".join(prompts).splitlines()
    assert len(lines) == 960
    read = {}
    for line in lines:
        wording, given = line.split(": ")
        read.setdefault(wording, set()).add(given)
        assert not instructions.is_held_out(given)
    allowed = {wording for task in TASKS for wording in task.wordings}
    assert set(read) <= allowed
    assert len(set(read)) > 0.9 * len(allowed)  # of new tasks too
    given = {one for some in read.values() for one in some}
    assert not given & {one.given for some in asked.values() for one in some}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_examples": 0}, "num_examples must be positive"),
        ({"num_asked": 0}, "num_asked must be positive"),
        ({"pair_share": 1.0}, "pair_share must be in"),
        (
            {"reasoning_gym": ("a", "b"), "reasoning_gym_new": ("b",)},
            "b is to be learned, and not to",
        ),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        InstructionConfig(**change)


def test_a_task_without_answers_is_no_endless_search():
    hopeless = find("reverse")._replace(solve=lambda given: "")
    with pytest.raises(ValueError, match="reverse: no input with an answer"):
        instructions.draw(SMALL, hopeless, "", np.random.default_rng(0), held_out=False)


def test_reasoning_gym_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"pip install llmjax\[tasks\]"):
        gym.task("basic_arithmetic")


def test_tasks_of_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    cfg = InstructionConfig(
        num_examples=100, pair_share=0, num_asked=4, num_asked_pair=1,
        reasoning_gym=("basic_arithmetic",), reasoning_gym_new=("leg_counting",),
    )  # fmt: skip
    learned = [
        example
        for example in instructions.learned(cfg, 4, 0)
        if example.kind.cluster == gym.CLUSTER
    ]
    assert len(learned) > 3
    for example in learned:
        assert example.kind.name == "basic_arithmetic" and not example.instruction
        (asked,) = re.findall(r"[-+*/() \d]{3,}", example.question())[:1]
        assert abs(eval(asked) - float(example.answer)) < 1e-2
        assert example.kind.is_right(example.given, example.answer)
        assert not example.kind.is_right(example.given, "no idea")
    sets = instructions.asked(cfg)
    known = [e for e in sets["learned wordings"] if e.kind.cluster == gym.CLUSTER]
    new = [e for e in sets["new clusters"] if e.kind.cluster == gym.CLUSTER]
    assert {e.kind.name for e in known} == {"basic_arithmetic"} and len(known) == 4
    assert {e.kind.name for e in new} == {"leg_counting"} and len(new) == 4
    assert not {e.given for e in known} & {e.given for e in learned}
    with pytest.raises(ValueError, match="reasoning-gym: nothing"):
        gym.task("nothing")
