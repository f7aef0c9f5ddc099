"""DPO and its kin: pairs of answers in rows, and their loss for `make_step`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.config import field
from llmjax.data.comparison_rows import Example
from llmjax.data.shuffle import shuffled
from llmjax.rl import logprobs, preference, rows
from llmjax.types import Batch, Key, Metrics, Model, Params


@dataclasses.dataclass(frozen=True)
class DpoConfig:
    """How pairs are learned from; see `llmjax.rl.preference`."""

    loss: Literal["sigmoid", "robust", "ipo", "hinge", "kto"] = field(
        "sigmoid", "sigmoid is DPO's"
    )
    beta: float = field(0.1, "the larger, the nearer to the reference")
    smoothing: float = field(
        0.0, "sigmoid, robust: the share of pairs that may be the wrong way round"
    )

    def __post_init__(self):
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing={self.smoothing} must be in [0, 0.5)")
        if self.smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"smoothing is not for loss={self.loss}; leave it at 0")


class PairRows:
    """All pairs of comparisons, the better answer and the worse, as rows."""

    def __init__(self, examples: Sequence[Example], num_tokens: int):
        self._pairs = [
            (example.answers[better], example.answers[worse])
            for example in examples
            for better, worse in example.comparison.pairs()
        ]
        self.num_tokens = num_tokens

    def __len__(self) -> int:
        """The number of pairs, which is an epoch."""
        return len(self._pairs)

    @property
    def lengths(self) -> tuple[int]:
        """The tokens of a row: of both answers."""
        return (2 * self.num_tokens,)

    def take(self, indices: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Rows of the endless sequence of epochs, each in an order of its own."""
        epochs, places = np.divmod(np.asarray(indices, np.int64), len(self))
        return self.rows(shuffled(places, len(self), seed, epochs))

    def rows(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """These pairs: what `rows.make_batch` has, as chosen_... and rejected_..."""
        batch = {}
        for side, name in enumerate(("chosen", "rejected")):
            answers = [self._pairs[index][side] for index in indices]
            prompts = [answer.ids[: answer.num_prompt] for answer in answers]
            said = [answer.ids[answer.num_prompt :] for answer in answers]
            made = rows.make_batch(prompts, said, self.num_tokens)
            batch |= {f"{name}_{key}": array for key, array in made.items()}
        return batch


def loss(
    model: Model,
    cfg: DpoConfig,
    params: Params,
    batch: Batch,
    key: Key | None,
    reference: Params,
) -> tuple[jax.Array, Metrics]:
    """The mean loss of the pairs; a row without answers is none.

    Metrics: accuracy, how often the chosen answer has the larger implicit reward;
    margin, between the two; chosen and rejected, how their log-probabilities have
    changed, in nats.
    """
    sides = {}
    for side in ("chosen", "rejected"):
        names = (name for name in batch if name.startswith(side))
        own = {name.removeprefix(f"{side}_"): batch[name] for name in names}
        before_B = jax.lax.stop_gradient(logprobs.of_answers(model, reference, own))
        sides[side] = logprobs.of_answers(model, params, own) - before_B, own["weights"]
    (chosen_B, chosen_BT), (rejected_B, rejected_BT) = sides.values()
    smoothing = {"smoothing": cfg.smoothing} if cfg.smoothing else {}
    one = partial(getattr(preference, cfg.loss), beta=cfg.beta, **smoothing)
    if cfg.loss == "ipo":
        lengths = (jnp.maximum(x.sum(axis=1), 1) for x in (chosen_BT, rejected_BT))
        loss_B = one(*map(jnp.divide, (chosen_B, rejected_B), lengths))
    else:
        loss_B = one(chosen_B, rejected_B)
    is_pair_B, margin_B = chosen_BT.any(axis=1), cfg.beta * (chosen_B - rejected_B)
    metrics = {
        "loss": loss_B, "accuracy": margin_B > 0, "margin": margin_B,
        "chosen": chosen_B, "rejected": rejected_B,
    }  # fmt: skip
    count = jnp.sum(is_pair_B).astype(jnp.float32)
    totals = {
        name: (jnp.sum(each * is_pair_B), count) for name, each in metrics.items()
    }
    return totals["loss"][0] / jnp.maximum(count, 1), totals
