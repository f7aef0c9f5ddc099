"""Learning-rate schedules and optimizers, from optax, chosen by one frozen config."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import optax

from llmjax import dims
from llmjax.config import field
from llmjax.sharding import path_name


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How parameters are updated."""

    name: Literal["adamw", "lion", "adafactor", "muon"] = field("muon", "optimizer")
    lr: float = field(1e-2, "peak learning rate; a third of it suits adamw")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = field(
        "linear", "decay after warm-up; wsd stays at the peak until decay_fraction"
    )
    warmup_fraction: float = field(0.02, "share of the steps spent warming up")
    decay_fraction: float = field(0.3, "wsd: share of the steps that decay, at the end")
    final_lr_fraction: float = field(0.0, "learning rate at the end, over the peak")
    weight_decay: float = field(0.1, "decoupled; of what no_decay does not name")
    no_decay: tuple[str, ...] = field(
        ("bias", "scale", "norm"), "a parameter whose path holds one of these is spared"
    )
    clip: float = field(1.0, "largest global norm of the gradient; 0: no clipping")
    b1: float = field(0.9, "decay of the first moment")
    b2: float = field(0.95, "decay of the second moment")
    eps: float = field(1e-8, "added to the root of the second moment")
    muon_beta: float = field(0.95, "muon: decay of the momentum")
    adam_lr_ratio: float = field(1.0, "muon: rate of embeddings and vectors, over lr")


def make(
    cfg: OptimConfig, num_steps: int
) -> tuple[optax.GradientTransformation, Callable]:
    """(transformation, schedule); the schedule maps a step to its learning rate."""
    schedule = make_schedule(cfg, num_steps)
    transformation = optax.chain(
        optax.clip_by_global_norm(cfg.clip) if cfg.clip else optax.identity(),
        _direction(cfg),
        optax.add_decayed_weights(cfg.weight_decay, _decay_mask(cfg)),
        optax.scale_by_learning_rate(schedule),
    )
    return transformation, schedule


def make_schedule(cfg: OptimConfig, num_steps: int) -> Callable:
    """Warm-up to the peak, then the decay of `cfg.schedule` until `num_steps`."""
    warmup_steps = round(cfg.warmup_fraction * num_steps)
    decay_steps = max(1, num_steps - warmup_steps)
    last = cfg.lr * cfg.final_lr_fraction
    if cfg.schedule == "cosine":
        decay = optax.cosine_decay_schedule(cfg.lr, decay_steps, cfg.final_lr_fraction)
    elif cfg.schedule == "linear":
        decay = optax.linear_schedule(cfg.lr, last, decay_steps)
    elif cfg.schedule == "wsd":
        fall_steps = max(1, round(cfg.decay_fraction * num_steps))
        decay = optax.linear_schedule(
            cfg.lr, last, fall_steps, max(0, decay_steps - fall_steps)
        )
    else:
        decay = optax.constant_schedule(cfg.lr)
    # Step 0 already learns: the ramp's zero lies one step before it.
    warmup = optax.linear_schedule(
        cfg.lr / (warmup_steps + 1), cfg.lr, max(1, warmup_steps)
    )
    return optax.join_schedules([warmup, decay], [warmup_steps])


def decays(path: str, cfg: OptimConfig) -> bool:
    """Whether weight decay applies to the parameter at `path`."""
    return not any(word in path for word in cfg.no_decay)


def _decay_mask(cfg: OptimConfig):
    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: decays(path_name(path), cfg), params
        )

    return mask


def _direction(cfg: OptimConfig) -> optax.GradientTransformation:
    if cfg.name == "adamw":
        return optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps)
    if cfg.name == "lion":
        return optax.scale_by_lion(cfg.b1, cfg.b2)
    if cfg.name == "adafactor":
        return optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    return _muon(cfg)


def _muon(cfg: OptimConfig) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the matrices of the blocks, Adam for the rest.

    Muon's updates are given the size of Adam's, 0.2 * sqrt(larger side) (Liu et al.
    2025), so that one learning rate and one weight decay serve both.
    """
    from optax import contrib

    muon = optax.chain(
        contrib.scale_by_muon(
            beta=cfg.muon_beta, weight_dimension_numbers=_matrix_axes
        ),
        optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(
            lambda path, update: update * _adam_size(path, update), updates)),
    )  # fmt: skip
    adam = optax.chain(
        optax.scale_by_adam(cfg.b1, cfg.b2, cfg.eps), optax.scale(cfg.adam_lr_ratio)
    )
    return optax.partition({"muon": muon, "adam": adam}, _labels)


def _labels(params):
    def label(path, leaf):
        letters = dims.parse(path_name(path).rpartition("/")[2])
        matrix = len(letters) > 1 and "bias" not in path_name(path)
        in_block = path_name(path).startswith(("blocks/", "encoder/blocks/"))
        return "muon" if matrix and in_block else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _matrix_axes(params):
    """Which axes of each weight are its input and output; a leading L is a batch."""
    from optax import contrib

    def axes(path, leaf):
        inputs, outputs = dims.split_matrix(path_name(path).rpartition("/")[2])
        own = tuple(range(leaf.ndim - len(inputs + outputs), leaf.ndim))
        return contrib.MuonDimensionNumbers(own[: len(inputs)], own[len(inputs) :])

    return jax.tree_util.tree_map_with_path(axes, params)


def _adam_size(path, update) -> float:
    inputs, outputs = dims.split_matrix(path_name(path).rpartition("/")[2])
    shape = update.shape[update.ndim - len(inputs + outputs) :]
    sides = math.prod(shape[: len(inputs)]), math.prod(shape[len(inputs) :])
    return 0.2 * max(sides) ** 0.5
