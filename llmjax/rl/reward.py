"""A reward model: how good an answer is, as a number; opened, normalised and judged.

It is what experiments/reward_model.py leaves in its workdir.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from llmjax import sharding
from llmjax.config import ComputeConfig, field
from llmjax.data import conversations
from llmjax.data.comparison_rows import Scribe
from llmjax.data.template import Messages
from llmjax.data.tokenizer import Tokenizer
from llmjax.load import load_scorer
from llmjax.train.workdir import write_json
from llmjax.types import Params

FILE = "reward.json"
NUM_REFERENCES = 1024
BATCH_ROWS = 16  # scored at once, at most
MIN_TOKENS = 16  # of the shortest rows; others are twice as long, and so on

LOW_ACCURACY = 0.6
HIGH_CALIBRATION_ERROR = 0.1
HIGH_LENGTH_GAP = 0.2  # in accuracy, between pairs whose better answer is the longer
FEW_PAIRS = 100


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """What a reward model learns beside which answer is better."""

    smoothing: float = field(0.0, "how often a label is taken to be wrong, below 1/2")
    centring: float = field(0.0, "weight of the square of two answers' summed scores")
    normalise: Literal["std", "mean", "none"] = field(
        "std", "of scores, on reference answers: mean 0 and deviation 1, or mean 0 only"
    )
    references: str = field(
        "", ".jsonl conversations with those answers; empty: some of those learned from"
    )

    def __post_init__(self):
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing={self.smoothing} must be in [0, 0.5)")
        if self.centring < 0:
            raise ValueError(f"centring={self.centring} must be at least 0")

    @property
    def loss(self) -> dict[str, float]:
        """What `losses.prefer` takes of it."""
        return {"smoothing": self.smoothing, "centring": self.centring}


@dataclasses.dataclass(frozen=True, eq=False)
class RewardModel:
    """Scores answers: gain * (what the model computes) + bias, in float32.

    logits_fn: (params, batch) -> [B, 1], as `transformer.classifier` makes it.
    context: the longest prompt with its answer, in tokens; of a longer one the end is
      not read.
    The probability that one answer is liked better is sigmoid((its score - the other's)
    / gain).
    """

    scribe: Scribe
    logits_fn: Callable[..., jax.Array]
    params: Params
    context: int
    gain: float = 1.0
    bias: float = 0.0

    def score(
        self, prompts: Sequence[str | Messages], responses: Sequence[str]
    ) -> np.ndarray:
        """[N] float32: of each response to its prompt, a text or a conversation.

        Raises ValueError, with its number, for a prompt that leaves no room.
        """
        asked = zip(prompts, responses, strict=True)
        return self.score_talks([_talk(*one) for one in asked])

    __call__ = score  # a reward as any other function of prompts and responses

    def score_talks(self, talks: Sequence[Messages]) -> np.ndarray:
        """[N] float32: of the last message of each conversation."""
        found = []
        for number, answer in enumerate(self.scribe.encode(talks)):
            try:
                if isinstance(answer, ValueError):
                    raise answer
                found.append(self.scribe.cut(answer, self.context).ids)
            except ValueError as error:
                raise ValueError(f"conversation {number}: {error}") from None
        return self.score_ids(found)

    def score_ids(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """[N] float32: of texts in this model's tokens, those of a length together."""
        scores = np.zeros(len(rows), np.float32)
        by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        for first in range(0, len(rows), BATCH_ROWS):
            some = by_length[first : first + BATCH_ROWS]
            longest = max(MIN_TOKENS, len(rows[some[-1]]))
            shape = _round_up(len(some)), min(self.context, _round_up(longest))
            tokens_BT, last_B = np.zeros(shape, np.int32), np.zeros(shape[0], np.int32)
            for place, row in enumerate(some):
                tokens_BT[place, : len(rows[row])] = rows[row]
                last_B[place] = len(rows[row]) - 1
            found = self.score_tokens(tokens_BT, last_B)
            scores[some] = np.asarray(found)[: len(some)]
        return scores

    def score_tokens(self, tokens_BT, last_B) -> jax.Array:
        """[B] float32: of rows that begin at their left; last_B is the place of the
        last token that counts, and what comes after it is not read."""
        if tokens_BT.shape[1] > self.context:
            raise ValueError(
                f"rows of {tokens_BT.shape[1]} tokens, and the reward model reads "
                f"{self.context}; shorten the prompts or the answers"
            )
        raw_B = _score(self.logits_fn, self.params, tokens_BT, last_B)
        return self.gain * raw_B + self.bias

    def check_vocabulary(self, tokenizer: Tokenizer, whose: str = "the policy") -> None:
        """Raises ValueError unless that tokenizer's ids mean the same here."""
        own, other = (
            one.core.get_vocab(with_added_tokens=True)
            for one in (self.scribe.tokenizer, tokenizer)
        )
        if own != other:
            num = len(own.items() ^ other.items())
            raise ValueError(
                f"the reward model is of another vocabulary than {whose}: "
                f"{len(own)} and {len(other)} tokens, {num} not the same; score texts "
                "by RewardModel.score, or start the reward model from the same base"
            )

    def normalised(
        self, cfg: RewardConfig, answers: Sequence[Sequence[int]]
    ) -> "RewardModel":
        """The model whose scores of reference answers have the mean and deviation of
        `cfg.normalise`: of those that it names, or else of the first of `answers`."""
        if cfg.normalise == "none":
            return self
        if cfg.references:
            found = conversations.read(cfg.references, conversations.Tally())
            references = self.score_talks([one.messages for one in found])
        else:
            references = self.score_ids(answers[:NUM_REFERENCES])
        mean, std = (float(f(references, dtype=np.float64)) for f in (np.mean, np.std))
        if not math.isfinite(std) or std < 1e-6:
            raise ValueError(
                f"the {len(references)} reference answers all score {mean:g}; nothing "
                "was learned"
            )
        gain = 1.0 / std if cfg.normalise == "std" else 1.0
        return dataclasses.replace(
            self, gain=self.gain * gain, bias=gain * (self.bias - mean)
        )

    def save(self, folder: Path) -> None:
        """Writes what the weights do not say, such as how scores are scaled."""
        kept = {"gain": self.gain, "bias": self.bias, "context": self.context}
        write_json(folder / FILE, kept | {"form": self.scribe.form})

    def folded(self) -> Params:
        """Parameters of which `logits_fn` makes the normalised scores by itself, for a
        critic to start from."""
        head = self.params["head"]
        made = {
            "head_DO": head["head_DO"] * self.gain,
            "bias_O": head["bias_O"] * self.gain + self.bias,
        }
        return {**self.params, "head": {**head, **made}}


def _round_up(num: int) -> int:
    """To a power of two, so that few programs are compiled."""
    return 1 << (num - 1).bit_length()


def _talk(prompt: str | Messages, response: str) -> Messages:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    return [*prompt, {"role": "assistant", "content": response}]


@partial(jax.jit, static_argnums=0)
def _score(logits_fn: Callable, params: Params, tokens_BT, last_B) -> jax.Array:
    is_real_BT = jnp.arange(tokens_BT.shape[1])[None] <= last_B[:, None]
    batch = {"tokens": tokens_BT, "segment_ids": is_real_BT.astype(jnp.int32)}
    return sharding.replicate(logits_fn(params, batch)[:, 0].astype(jnp.float32))


def load(
    workdir: str | os.PathLike,
    compute: ComputeConfig = ComputeConfig(),
    mesh: Mesh | None = None,
) -> RewardModel:
    """The reward model that a run of experiments/reward_model.py has left.

    mesh: its parameters are laid out there; None: on one device.
    Raises FileNotFoundError or ValueError in one line that names the folder.
    """
    folder = Path(workdir).expanduser()
    found, logits_fn = load_scorer(folder, compute)
    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder / FILE}: missing; has the run ended?")
    try:
        kept = json.loads((folder / FILE).read_text("utf-8"))
        scribe = Scribe(found.tokenizer, kept["form"])
        numbers = float(kept["gain"]), float(kept["bias"])
        context = int(kept["context"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / FILE}: not as it was written ({error})") from None
    place = None if mesh is None else sharding.param_shardings(found.params, mesh)
    params = jax.device_put(found.params, place)
    return RewardModel(scribe, logits_fn, params, context, *numbers)


def warnings(workdir: str | os.PathLike) -> list[str]:
    """In plain words, what speaks against training a policy for this reward."""
    file = Path(workdir).expanduser() / "summary.json"
    try:
        return judge(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{file}: no report on this reward model; nobody knows how good it is"]


def judge(figures: Mapping[str, Any]) -> list[str]:
    """The same, of the figures of `evals.preferences.measure`."""
    accuracy, found = figures["accuracy"], []
    low, high = figures["accuracy_low"], figures["accuracy_high"]
    span = f"{accuracy:.1%} of held-out pairs right ({low:.1%} to {high:.1%})"
    if low <= 0.5:
        found.append(f"{span}: that may be chance; a policy would learn noise")
    elif accuracy < LOW_ACCURACY:
        found.append(f"{span}, under {LOW_ACCURACY:.0%}: get more or clearer labels")
    if figures["pairs"] < FEW_PAIRS:
        found.append(f"only {figures['pairs']} held-out pairs: no figure here is sure")
    if figures["calibration_error"] > HIGH_CALIBRATION_ERROR:
        found.append(
            "badly calibrated: its probabilities are "
            f"{figures['calibration_error']:.0%} off on average; train for fewer "
            "epochs, or with --reward.smoothing"
        )
    longer = figures["accuracy_longer_better"]
    shorter = figures["accuracy_shorter_better"]
    if None not in (longer, shorter) and longer - shorter > HIGH_LENGTH_GAP:
        found.append(
            f"it likes length: {longer:.1%} right where the better answer is longer, "
            f"{shorter:.1%} where it is shorter; a policy will write much"
        )
    if None not in (longer, shorter) and shorter - longer > HIGH_LENGTH_GAP:
        found.append(
            f"it likes brevity: {shorter:.1%} right where the better answer is "
            f"shorter, {longer:.1%} where it is longer; a policy will write little"
        )
    if accuracy <= figures["accuracy_always_longer"]:
        found.append(
            "no better than to take always the longer answer "
            f"({figures['accuracy_always_longer']:.1%} right)"
        )
    return found
