"""Rewards that need no judge: whether a sum or a difference is right.

Both are fn(prompts, answers), for --reward of experiments/grpo.py and ppo.py.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np

PROBLEM = re.compile(r"(\d+)([+-])(\d+)=")


def is_right(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """1 where the answer to a problem such as "47+85=" is its result, else 0, float32.

    The result as people write it, and nothing else. No share of it is worth anything.
    Raises ValueError for a prompt that is no such problem.
    """
    right = [text == solve(one) for one, text in zip(prompts, answers, strict=True)]
    return np.array(right, np.float32)


def solve(problem: str) -> str:
    """The right answer: "132" for "47+85="."""
    found = PROBLEM.fullmatch(problem)
    if found is None:
        raise ValueError(f'{problem!r} is no problem such as "47+85="')
    first, operation, second = found.groups()
    sign = 1 if operation == "+" else -1
    return str(int(first) + sign * int(second))


def shuffled(prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """The rewards of `is_right`, dealt anew among all the answers: a control.

    As many are rewarded, but whoever learns from them learns nothing of arithmetic.
    Equal prompts and answers are dealt equally, so that a run resumes as it was.
    """
    text = "\n".join([*prompts, *answers])
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).permutation(is_right(prompts, answers))
