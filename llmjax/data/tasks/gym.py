"""Tasks of the package reasoning-gym, which makes up and scores items of its own.

Its questions say in full what they ask for, so these have no instruction beside.
https://github.com/open-thought/reasoning-gym
"""

import numpy as np

from llmjax.data.tasks.task import Task

CLUSTER = "reasoning-gym"
NUM_ITEMS = 10**6


def task(name: str, *, is_new: bool = False, seed: int = 0) -> Task:
    """The data set of this name as a task; is_new: it is asked and never learned.

    Raises ValueError where the package is missing or knows no such data set.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        message = f"{name}: reasoning-gym is not installed; pip install llmjax[tasks]"
        raise ValueError(message) from error
    try:
        items = reasoning_gym.create_dataset(name, size=NUM_ITEMS, seed=seed)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reasoning-gym: {name}: {error}") from error
    drawn = {}  # item by question, for answers and scores

    def draw(rng: np.random.Generator) -> str:
        item = items[int(rng.integers(NUM_ITEMS))]
        drawn[item["question"]] = item
        return item["question"]

    def accepts(given: str, said: str) -> bool:
        return items.score_answer(said, drawn[given]) >= 1

    return Task(
        name, CLUSTER, "question", "answer", draw,
        lambda given: drawn[given]["answer"] or "", ("",), (), is_new, accepts,
    )  # fmt: skip
