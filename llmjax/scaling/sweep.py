"""The grid of a sweep: which models are trained, for how long, under which names."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

from llmjax import metrics
from llmjax.config import ModelConfig, field
from llmjax.models import presets

MIN_STEPS = 20  # a shorter run is mostly its warm-up


@dataclasses.dataclass(frozen=True)
class Run:
    """Where and how the cells of a sweep are run."""

    workdir: str = field("runs/scaling_law", "where everything is written, and resumed")
    mesh: str = field("data=-1", "of each cell: devices by axis")
    seed: int = field(0, "of the first run of each cell")
    context: int = field(
        64,
        "tokens of a row; in long ones small models begin to copy at a moment that "
        "varies, which bends the law: 256 and more are for larger budgets",
    )
    parallel: int = field(2, "cells at a time, each on its share of the cores")
    max_hours: float = field(0.0, "a plan that takes longer is refused; 0: none is")
    launch: Literal["run", "print", "slurm", "none"] = field(
        "run",
        "the cells; or print or write what runs them elsewhere; or fit what is done",
    )
    slurm: tuple[str, ...] = field((), "further options of sbatch, by comma")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Budgets times sizes, within a range of tokens per parameter."""

    budgets: tuple[float, ...] = field((5e11, 1.6e12, 5e12, 1.6e13), "FLOPs of a run")
    tokens: tuple[float, ...] = field((), "instead of budgets, tokens: a grid of N x D")
    sizes: tuple[str, ...] = field(
        ("3x32", "3x48", "3x64", "3x96", "3x128", "3x192"),
        "layers x width, or the one dial --model.depth; at two layers, which learn to "
        "copy late or never, a law of larger models does not hold",
    )
    min_tokens_per_param: float = field(0.5, "cells with fewer are no part of the grid")
    max_tokens_per_param: float = field(300.0, "nor are those with more")
    repeats: int = field(2, "further seeds of the smallest cell: they tell the noise")
    lr_rule: Literal["swept", "fixed"] = field(
        "swept",
        "a power law of N and D through rates tried at small cells, or optim.lr",
    )
    rates: tuple[float, ...] = field((0.5, 1.0, 2.0, 4.0), "tried, times optim.lr")

    def __post_init__(self):
        if not self.sizes or not (self.budgets or self.tokens):
            raise ValueError("a sweep needs sizes, and budgets or tokens")
        for name in ("budgets", "tokens", "rates"):
            values = getattr(self, name)
            if any(value <= 0 for value in values) or len(set(values)) < len(values):
                raise ValueError(f"{name}={values}: give different numbers above 0")
        if self.repeats < 0:
            raise ValueError(f"repeats={self.repeats} is below 0")
        if self.lr_rule == "swept" and len(self.rates) < 3:
            raise ValueError("rates: a best one is told from three or more")
        for size in self.sizes:
            shape(size, 256, 256)  # says what is wrong with it


class Cell(NamedTuple):
    """One run. lr is 0 until the rule for it is known."""

    id: str
    size: str
    flops: float  # 6 N D, with N all parameters
    num_params: int
    num_steps: int
    seed: int
    lr: float = 0.0


def shape(size: str, vocab_size: int, context: int) -> ModelConfig:
    """The decoder of a size: "4", as --model.depth=4 has it, or "3x64"."""
    try:
        depth, *widths = map(int, size.split("x"))
        (width,) = widths or (0,)
    except ValueError:
        raise ValueError(
            f"size {size!r}: give layers, or layers x width: 3x64"
        ) from None
    cfg = presets.from_depth(depth, vocab_size, context)
    if not widths:
        return cfg
    head_width = 16 if width < 192 else 32 if width < 512 else 64
    if width <= 0 or width % head_width:
        raise ValueError(
            f"size {size!r}: a width of {width} has no heads of {head_width}"
        )
    num_heads = width // head_width
    return dataclasses.replace(
        cfg, width=width, head_width=head_width, num_heads=num_heads,
        num_kv_heads=num_heads, ff_width=-(-width * 8 // 3 // 32) * 32,
    )  # fmt: skip


def num_params(size: str, vocab_size: int = 256, context: int = 256) -> int:
    """All parameters of the decoder of a size."""
    return metrics.count(shape(size, vocab_size, context)).total


def model_arguments(size: str, vocab_size: int, context: int) -> list[str]:
    """The flags of experiments/pretrain.py for a size."""
    cfg = shape(size, vocab_size, context)
    base = presets.from_depth(cfg.num_layers)
    differs = [
        f"--model.{item.name}={getattr(cfg, item.name)}"
        for item in dataclasses.fields(cfg)
        if getattr(cfg, item.name) != getattr(base, item.name)
    ]
    return [f"--model.depth={cfg.num_layers}", *differs]


PRESETS = {
    "laptop": SweepConfig(),  # half an hour on two cores
    "miniseries": SweepConfig(sizes=("1", "2", "3", "4", "5", "6")),
    "gpu": SweepConfig(
        budgets=(1e14, 3e14, 1e15, 3e15),
        sizes=("3x96", "4x128", "6x192", "8x256", "10x320", "12x384", "14x512"),
    ),
    "toy": SweepConfig(
        budgets=(5e8, 1e9, 2e9), sizes=("1x16", "1x32", "2x32"), repeats=0,
        rates=(0.5, 1.0, 2.0), min_tokens_per_param=0.0, max_tokens_per_param=1e9,
    ),
}  # fmt: skip


def grid(
    cfg: SweepConfig, vocab_size: int, context: int, step_tokens: int, seed: int
) -> tuple[list[Cell], list[str]]:
    """The cells by budget and size, from below, and a line on each that is left out.

    Ids follow from budget, size and seed alone: a grid that grows keeps its cells.
    """
    counts = {
        size: metrics.count(shape(size, vocab_size, context)).total
        for size in cfg.sizes
    }
    cells, gone = [], []
    for target in sorted(cfg.tokens or cfg.budgets):
        for size, num in sorted(counts.items(), key=lambda item: item[1]):
            tokens = target if cfg.tokens else target / (6 * num)
            num_steps = round(tokens / step_tokens)
            ratio = num_steps * step_tokens / num
            name = f"{target:.3g}".replace("+", "") + f"_{size}"
            if num_steps < MIN_STEPS:
                gone.append(f"{name}: {num_steps} steps, fewer than {MIN_STEPS}")
            elif not cfg.min_tokens_per_param <= ratio <= cfg.max_tokens_per_param:
                gone.append(f"{name}: {ratio:.3g} tokens per parameter")
            else:
                flops = 6.0 * num * num_steps * step_tokens
                cells.append(Cell(name, size, flops, num, num_steps, seed))
    if not cells:
        raise ValueError(f"no cell is left of the grid: {'; '.join(gone)}")
    for extra in range(1, cfg.repeats + 1):
        first = cells[0]
        cells.append(
            first._replace(id=f"{first.id}_seed{seed + extra}", seed=seed + extra)
        )
    return cells, gone


def dearest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The order to run them in: then the last ones to end are short."""
    return sorted(cells, key=lambda cell: -cell.flops)


def trials(cells: Sequence[Cell], cfg: SweepConfig, lr: float) -> list[Cell]:
    """The runs that tell the rule of learning rates: every rate, at five small cells.

    The sizes are as far apart as two budgets have them, as the law will be carried on
    to larger ones. The top budget, which is to be predicted, has no part in it. None
    where the rate is fixed.
    """
    if cfg.lr_rule == "fixed":
        return []
    by_budget: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.seed == cells[0].seed:
            by_budget.setdefault(cell.id.partition("_")[0], []).append(cell)
    first, *others = by_budget.values()
    places = [first[0], first[len(first) // 2], first[-1]]
    if len(others) > 1:
        places += [others[0][0], others[0][-1]]
    places = list(dict.fromkeys(places))  # of few sizes, some are the same
    return [
        cell._replace(id=f"lr_{cell.id}_{rate * lr:.3g}", lr=rate * lr)
        for cell in places
        for rate in cfg.rates
    ]
