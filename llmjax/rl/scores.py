"""The scores of answers: any function of prompts and answers, called with care."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from llmjax.rl import reward

Reward = Callable[[Sequence[str], Sequence[str]], Any]


class RewardError(ValueError):
    """A reward function failed, or gave what is no score for each answer."""


def load(spec: str, mesh: Mesh | None = None) -> Reward:
    """fn(prompts, answers) of MODULE:FUNCTION, or of a reward model's workdir.

    A module may lie in the current folder. Of a reward model it says what its report
    has against it. mesh: where its parameters are laid out.
    Raises ValueError or FileNotFoundError where there is none.
    """
    module, colon, name = spec.partition(":")
    if not colon:
        for warning in reward.warnings(spec):
            print(f"warning: {spec}: {warning}", file=sys.stderr)
        return reward.load(spec, mesh=mesh)
    if os.getcwd() not in sys.path:  # a program's own folder is there instead
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--reward={spec}: {error}") from None


def call(score: Reward, prompts: Sequence[Any], answers: Sequence[Any]) -> np.ndarray:
    """A float32 score for each answer.

    Any numbers will do: whole ones and bools are made float32, never the other way.
    Raises RewardError, in one line, where the function raises or gives anything else.
    """
    name = getattr(score, "__name__", "the reward")
    try:
        found = score(prompts, answers)
    except Exception as error:
        raise RewardError(
            f"{name} raised {type(error).__name__}: {error}; mend it and start again, "
            "the run goes on from where it is"
        ) from error
    try:
        scores_B = np.asarray(found)
    except ValueError:
        raise RewardError(f"{name} gave a ragged {type(found).__name__}") from None
    if scores_B.dtype.kind not in "fiub" and scores_B.dtype.name != "bfloat16":
        raise RewardError(
            f"{name} gave {scores_B.dtype} where numbers are needed, one an answer"
        )
    if scores_B.shape != (len(answers),):
        raise RewardError(
            f"{name} gave scores of shape {scores_B.shape} for {len(answers)} answers; "
            f"it must be ({len(answers)},)"
        )
    scores_B = scores_B.astype(np.float32)
    if not np.isfinite(scores_B).all():
        bad = int(np.flatnonzero(~np.isfinite(scores_B))[0])
        raise RewardError(
            f"{name} gave {scores_B[bad]} for answer {bad}: {str(answers[bad])[:60]!r}"
        )
    return scores_B
