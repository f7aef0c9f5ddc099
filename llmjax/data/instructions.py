"""Instructions to be tuned on, and those that are held out: wordings, pairs, tasks.

A pair is two tasks one after the other: "reverse the letters, then name the first
letter". Its answer says what comes out of both steps: "d c b a ; d". Of all pairs some
are held out, each of whose steps is learned alone and in other pairs. What a model of
`num_clusters` learns are the tasks of the first so many CLUSTERS, and their pairs. No
input that is asked is learned, in any task.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmjax.config import field
from llmjax.data import sources
from llmjax.data.held_out import rank
from llmjax.data.tasks import forms, gym, letters, unseen, values
from llmjax.data.tasks.task import Task

CLUSTERS = (
    "order", "keep", "cipher", "pick", "number", "compare", "repeat", "case", "count",
    "sort", "lookup", "logic",
)  # fmt: skip
TASKS = (*letters.TASKS, *forms.TASKS, *values.TASKS, *unseen.TASKS)
JOINS = ("{}, then {}", "first {}, then {}", "{} and after that {}",
         "{}; with the result, {}")  # fmt: skip
STEP = " ; "  # between the answers of two steps

HELD_OUT_INPUTS = 1 / 8
HELD_OUT_PAIRS = 1 / 6
TRIES = 64  # inputs that tell whether a pair makes sense
MOST_TRIES = 10_000  # for an input of the right side that has an answer
ASKED_SEED, TEXT_SEED = 10**6, 10**6 + 1  # no model is tuned with these
PASSAGE_CHARS = 4000  # of a document of other text
LINES = 8  # of a document of instructions


@dataclasses.dataclass(frozen=True)
class InstructionConfig:
    """What is learned, and how much is asked."""

    num_examples: int = field(64_000, "that each model is tuned on")
    pair_share: float = field(0.4, "of these: two tasks, one after the other")
    show_steps: bool = field(True, "the answer to a pair has that of its first step")
    num_asked: int = field(12, "questions on each task, of each kind")
    num_asked_pair: int = field(6, "questions on each pair")
    text: str = field("stdlib", "what a base reads too, as --data.source of pretrain")
    num_prompts: int = field(40_000, "instructions without answers that a base reads")
    reasoning_gym: tuple[str, ...] = field((), "data sets learned by all models")
    reasoning_gym_new: tuple[str, ...] = field((), "data sets asked and never learned")

    def __post_init__(self):
        for name in ("num_examples", "num_asked", "num_asked_pair", "num_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.pair_share < 1:
            raise ValueError(f"pair_share must be in [0, 1), got {self.pair_share}")
        if both := set(self.reasoning_gym) & set(self.reasoning_gym_new):
            raise ValueError(f"reasoning_gym: {min(both)} is to be learned, and not to")


class Pair(NamedTuple):
    """A task, and a task that is done with its answer."""

    first: Task
    second: Task

    @property
    def name(self) -> str:
        return f"{self.first.name}, then {self.second.name}"

    def draw(self, rng: np.random.Generator) -> str:
        return self.first.draw(rng)

    def solve(self, given: str) -> str:
        between = self.first.solve(given)
        return self.second.solve(between) if between else ""

    def is_right(self, given: str, said: str) -> bool:
        """Whether the last step's answer is right."""
        said = said.rpartition(STEP.strip())[2]
        return self.second.is_right(self.first.solve(given), said)


class Example(NamedTuple):
    """A question and its answer."""

    kind: Task | Pair
    instruction: str
    given: str
    answer: str

    def question(self, told: bool = True) -> str:
        """What is asked; untold, it is the input alone."""
        if not (told and self.instruction):
            return self.given
        return f"{self.instruction}: {self.given}"


def learned_tasks(num_clusters: int) -> list[Task]:
    """What a model of so many clusters learns, beside what all learn."""
    known = CLUSTERS[:num_clusters]
    return [task for task in TASKS if task.cluster in known and not task.is_new]


@functools.cache
def pairs(num_clusters: int, *, held_out: bool) -> tuple[Pair, ...]:
    """The pairs of those tasks on one side of the split: the second step can be done
    with most answers to the first."""
    tasks = learned_tasks(num_clusters)
    found = (
        Pair(first, second)
        for first, second in itertools.permutations(tasks, 2)
        if first.gives == second.takes
    )
    return tuple(
        pair
        for pair in found
        if (rank(pair.name) < HELD_OUT_PAIRS) == held_out and _makes_sense(pair)
    )


def _makes_sense(pair: Pair) -> bool:
    rng = np.random.default_rng(0)
    return sum(bool(pair.solve(pair.draw(rng))) for _ in range(TRIES)) > TRIES / 2


def gym_tasks(cfg: InstructionConfig) -> tuple[list[Task], list[Task]]:
    """(learned, never learned) tasks of reasoning-gym."""
    learned, new = cfg.reasoning_gym, cfg.reasoning_gym_new
    return list(map(gym.task, learned)), [gym.task(name, is_new=True) for name in new]


def learned(cfg: InstructionConfig, num_clusters: int, seed: int) -> Iterator[Example]:
    """The examples of a model; tasks take turns, and so do pairs."""
    rng = np.random.default_rng(seed)
    tasks = learned_tasks(num_clusters) + gym_tasks(cfg)[0]
    num_pairs = round(cfg.num_examples * cfg.pair_share)
    turns = (
        (tasks, cfg.num_examples - num_pairs),
        (pairs(num_clusters, held_out=False), num_pairs),
    )
    for kinds, num in turns:
        for kind in itertools.islice(itertools.cycle(kinds), num):
            yield draw(cfg, kind, wording(kind, rng), rng, held_out=False)


def wording(kind: Task | Pair, rng: np.random.Generator) -> str:
    """An instruction that may be learned."""
    if isinstance(kind, Pair):
        steps = (wording(step, rng) for step in kind)
        return JOINS[rng.integers(len(JOINS))].format(*steps)
    return kind.wordings[rng.integers(len(kind.wordings))]


def draw(
    cfg: InstructionConfig, kind: Task | Pair, instruction: str,
    rng: np.random.Generator, *, held_out: bool,
) -> Example:  # fmt: skip
    """An example whose input is on one side of the split."""
    for _ in range(MOST_TRIES):
        given = kind.draw(rng)
        if is_held_out(given) == held_out and (answer := kind.solve(given)):
            if isinstance(kind, Pair) and cfg.show_steps:
                answer = kind.first.solve(given) + STEP + answer
            return Example(kind, instruction, given, answer)
    raise ValueError(f"{kind.name}: no input with an answer in {MOST_TRIES} draws")


def is_held_out(given: str) -> bool:
    """Whether an input is asked and never learned, in whatever task."""
    return rank(given) < HELD_OUT_INPUTS


def asked(cfg: InstructionConfig) -> dict[str, list[Example]]:
    """What all models are asked: the same questions, by what is new about them."""
    tasks = learned_tasks(len(CLUSTERS))
    old_gym, new_gym = gym_tasks(cfg)
    new = [task for task in TASKS if task.is_new]
    never = [task for task in TASKS if task.cluster not in CLUSTERS]
    held, taught = (pairs(len(CLUSTERS), held_out=side) for side in (True, False))
    every = len(taught) // len(held)
    return {
        "learned wordings": _ask(cfg, tasks + old_gym),
        "held-out wordings": _ask(cfg, tasks, is_reworded=True),
        "learned pairs": _ask(cfg, taught[::every][: len(held)]),
        "held-out pairs": _ask(cfg, held),
        "new tasks": _ask(cfg, new),
        "new clusters": _ask(cfg, never + new_gym),
    }


def _ask(
    cfg: InstructionConfig, kinds: Sequence[Task | Pair], *, is_reworded: bool = False
) -> list[Example]:
    """Questions on each kind, whose inputs differ; its wordings take turns."""
    found = []
    for kind in kinds:
        rng = np.random.default_rng((ASKED_SEED, *kind.name.encode()))
        num, by_input = cfg.num_asked, {}
        if is_pair := isinstance(kind, Pair):
            num = cfg.num_asked_pair
        for turn in range(TRIES * num):
            if len(by_input) == num:
                break
            if is_pair:
                words = wording(kind, rng)
            else:
                wordings = kind.held_out if is_reworded else kind.wordings
                words = wordings[turn % len(wordings)]
            example = draw(cfg, kind, words, rng, held_out=True)
            by_input.setdefault(example.given, example)
        found += by_input.values()
    return found


def write_learned(
    file: Path, cfg: InstructionConfig, num_clusters: int, seed: int, *, told: bool
) -> None:
    """Writes what a model is tuned on, as conversations, if it is not there yet."""
    if file.exists():
        return
    examples = learned(cfg, num_clusters, seed)
    pairs = ((example.question(told), example.answer) for example in examples)
    sources.write_jsonl(
        file, ({"prompt": question, "completion": said} for question, said in pairs)
    )


def write_text(file: Path, cfg: InstructionConfig) -> None:
    """Writes what a base reads, if it is not there yet: instructions of all tasks, in
    wordings and on inputs that may be learned, without answers; and as much of other
    text, the beginning of each document."""
    if file.exists():
        return
    documents = list(prompts(cfg))
    num_chars, others = sum(map(len, documents)), []
    for text in sources.documents(cfg.text):
        others.append(text[:PASSAGE_CHARS])
        num_chars -= len(others[-1])
        if num_chars < 0:
            break
    sources.write_jsonl(file, ({"text": text} for text in documents + others))


def prompts(cfg: InstructionConfig) -> Iterator[str]:
    """Documents of some instructions each, on inputs, without answers."""
    rng = np.random.default_rng(TEXT_SEED)
    tasks = itertools.cycle(TASKS)
    for _ in range(-(-cfg.num_prompts // LINES)):
        some = itertools.islice(tasks, LINES)
        lines = (draw(cfg, one, wording(one, rng), rng, held_out=False) for one in some)
        yield "".join(f"{line.question()}\n" for line in lines)
