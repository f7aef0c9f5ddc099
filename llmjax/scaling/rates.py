"""The learning rate of each run of a sweep: tried at small runs, then a power law.

Near its best rate a run's loss is a parabola in the logarithm of the rate. Through the
bottoms found at small N and D goes ln lr = c + p ln N + q ln D. Runs at one rate for
all sizes bend a scaling law: the sizes it does not suit look worse than they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llmjax.scaling.sweep import Cell


class Rule(NamedTuple):
    """lr * (N / num_params)^p * (steps / num_steps)^q, within low and high."""

    lr: float
    num_params: float = 1.0
    p: float = 0.0
    num_steps: float = 1.0
    q: float = 0.0
    low: float = 0.0
    high: float = np.inf

    def __call__(self, num_params: float, num_steps: float) -> float:
        lr = self.lr * (num_params / self.num_params) ** self.p
        lr *= (num_steps / self.num_steps) ** self.q
        return float(np.clip(lr, self.low, self.high))


def best(rates: Sequence[float], losses: Sequence[float]) -> dict[str, Any]:
    """The rate with the least loss: the bottom of the parabola through the best run and
    its neighbours. At an end of the rates tried there is none: then that end."""
    order = np.argsort(rates)
    x, y = np.log(np.asarray(rates, float))[order], np.asarray(losses, float)[order]
    least = int(np.argmin(y))
    if least in (0, len(x) - 1):
        return {"lr": float(np.exp(x[least])), "loss": float(y[least]), "at_end": True}
    near = slice(least - 1, least + 2)
    curve, slope, offset = np.polyfit(x[near] - x[least], y[near], 2)
    at = -slope / (2 * curve)
    loss = offset - slope**2 / (4 * curve)
    return {"lr": float(np.exp(x[least] + at)), "loss": float(loss), "at_end": False}


def fit(
    trials: Sequence[Cell], losses: dict[str, float], lr: float
) -> tuple[Rule, list[dict]]:
    """The rule, and a line for each place where rates were tried; without trials `lr`.

    losses: by the id of a trial; those that failed have none. With places on one line
    of N and D only the power along it is told, and with one none is.
    """
    if not trials:
        return Rule(lr), []
    places: dict[tuple, list[Cell]] = {}
    for cell in trials:
        if cell.id in losses:
            places.setdefault((cell.size, cell.num_steps), []).append(cell)
    rows = []
    for (size, num_steps), cells in places.items():
        if len(cells) >= 3:
            found = best([c.lr for c in cells], [losses[c.id] for c in cells])
            rows.append({"size": size, "N": cells[0].num_params, "steps": num_steps}
                        | found)  # fmt: skip
    if not rows:
        raise ValueError(
            "no size has three learning rates that trained to the end; see the logs, "
            "or go on with --lr_rule=fixed"
        )
    logs = np.log([[row["N"], row["steps"], row["lr"]] for row in rows])
    centre = logs.mean(axis=0)
    powers = np.linalg.lstsq(
        logs[:, :2] - centre[:2], logs[:, 2] - centre[2], rcond=1e-3
    )
    p, q = map(float, powers[0])
    # Beyond what was tried by a factor of two the law is not believed.
    tried = [cell.lr for cells in places.values() for cell in cells]
    num_params, num_steps, lr = np.exp(centre).tolist()
    ends = min(tried) / 2, 2 * max(tried)
    return Rule(lr, num_params, p, num_steps, q, *ends), rows
