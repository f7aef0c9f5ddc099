"""The grid of a sweep, its learning rates, and what it costs."""

import math

import numpy as np
import pytest

from llmjax import metrics
from llmjax.config import ModelConfig
from llmjax.models import presets
from llmjax.scaling import costs, rates, sweep
from llmjax.scaling.costs import Cost
from llmjax.scaling.sweep import Cell, SweepConfig

SMALL = SweepConfig(
    budgets=(4e9, 1.6e10), sizes=("2x32", "2x64"), repeats=2,
    min_tokens_per_param=0.01, max_tokens_per_param=20.0,
)  # fmt: skip


def test_a_grid_by_hand():
    num_params = metrics.count(sweep.shape("2x32", 256, 64)).total
    assert (
        num_params == 256 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 96 + 2 * 32 + 2 * 16) + 32
    )
    cells, _ = sweep.grid(SMALL, 256, 64, 512, seed=3)
    steps = {name: 4e9 * times / (6 * 512 * num_params) for name, times in
             (("4e09_2x32", 1), ("1.6e10_2x32", 4))}  # fmt: skip
    first = cells[0]
    assert (first.id, first.num_params, first.seed) == ("4e09_2x32", num_params, 3)
    assert {c.id: c.num_steps for c in cells if c.id in steps} == {
        name: round(value) for name, value in steps.items()
    }
    assert [cell.id for cell in cells if cell.seed != 3] == [
        "4e09_2x32_seed4", "4e09_2x32_seed5",
    ]  # fmt: skip
    for cell in cells:
        assert cell.flops == 6 * cell.num_params * cell.num_steps * 512
        assert 0.01 <= cell.num_steps * 512 / cell.num_params <= 20
        assert cell.num_steps >= sweep.MIN_STEPS


def test_ids_stay_when_a_grid_grows():
    cfg = SweepConfig(budgets=(1e11, 4e11), sizes=("2x32", "2x64"), repeats=0)
    more = SweepConfig(
        budgets=(5e10, 1e11, 4e11), sizes=("2x32", "3x48", "2x64"), repeats=1
    )
    few, _ = sweep.grid(cfg, 256, 64, 512, seed=0)
    many, _ = sweep.grid(more, 256, 64, 512, seed=0)
    assert len(few) == 4 and set(few) <= set(many)
    assert [cell.id for cell in many if "seed" in cell.id] == ["5e10_2x32_seed1"]
    assert len({cell.id for cell in many}) == len(many)


def test_cells_outside_the_range_are_named():
    cfg = SweepConfig(tokens=(1e5, 1e7), sizes=("2x32",), max_tokens_per_param=100.0)
    cells, gone = sweep.grid(cfg, 256, 64, 512, seed=0)
    assert {cell.num_steps for cell in cells} == {round(1e5 / 512)}
    assert len(gone) == 1 and gone[0].startswith("1e07_2x32: ")
    with pytest.raises(
        ValueError, match="no cell is left of the grid: 1_2x32: 0 steps"
    ):
        sweep.grid(SweepConfig(tokens=(1.0,), sizes=("2x32",)), 256, 64, 512, seed=0)


@pytest.mark.parametrize("size", ["4", "3x64", "2x256", "6x512"])
def test_the_flags_of_a_size_give_its_model(size):
    """As experiments/pretrain.py reads them: a depth, and fields that differ."""
    depth, *changes = sweep.model_arguments(size, 512, 128)
    cfg = vars(presets.from_depth(int(depth.removeprefix("--model.depth="))))
    for text in changes:
        name, value = text.removeprefix("--model.").split("=")
        cfg[name] = int(value)
    assert ModelConfig(**cfg) == sweep.shape(size, 512, 128)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sizes": ("3y64",)}, "size '3y64': give layers"),
        ({"sizes": ("2x40",)}, "a width of 40 has no heads of 16"),
        ({"sizes": ("0",)}, "depth must be at least 1"),
        ({"budgets": (0.0,)}, "numbers above 0"),
        ({"budgets": (1e9, 1e9)}, "different numbers"),
        ({"budgets": ()}, "budgets or tokens"),
        ({"rates": (1.0, 2.0)}, "three or more"),
        ({"repeats": -1}, "repeats=-1"),
    ],
)
def test_bad_grids_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SweepConfig(**changes)


def planted(p, q, sizes=((1e5, 400), (2e5, 300), (4e5, 100), (2e5, 1200))):
    """Trials whose losses are parabolas around a planted rule."""
    rule = rates.Rule(0.011, 2e5, p, 300.0, q)
    trials, losses = [], {}
    for num_params, num_steps in sizes:
        for rate in (0.0012, 0.003, 0.006, 0.012, 0.024, 0.05, 0.12):
            cell = Cell(f"{num_params}-{num_steps}-{rate}", f"s{num_params}", 1.0,
                        num_params, num_steps, 0, rate)  # fmt: skip
            trials.append(cell)
            off = math.log(rate / rule(num_params, num_steps))
            losses[cell.id] = 2.0 + 0.1 * off**2
    return rule, trials, losses


def test_the_planted_rule_of_rates_is_found():
    planted_rule, trials, losses = planted(-0.3, -0.2)
    rule, rows = rates.fit(trials, losses, 0.01)
    assert len(rows) == 4 and not any(row["at_end"] for row in rows)
    np.testing.assert_allclose([row["loss"] for row in rows], 2.0, atol=1e-9)
    for at in ((1e5, 400), (3e5, 900)):
        assert rule(*at) == pytest.approx(planted_rule(*at), rel=1e-6)
    assert rule(1e12, 1) == 0.0006  # no further than twice beyond what was tried


def test_failed_trials_and_rates_at_an_end():
    _, trials, losses = planted(0.0, 0.0)
    rest = {
        name: loss
        for name, loss in losses.items()
        if float(name.split("-")[2]) <= 0.006
    }
    _, rows = rates.fit(trials, rest, 0.01)
    assert all(row["at_end"] and row["lr"] == pytest.approx(0.006) for row in rows)
    with pytest.raises(ValueError, match="--lr_rule=fixed"):
        rates.fit(trials, dict(list(losses.items())[:2]), 0.01)
    assert rates.fit([], {}, 0.01)[0](123.0, 4) == 0.01


def test_trials_leave_the_top_budget_alone():
    cfg = SweepConfig(budgets=(1e11, 4e11), sizes=("2x32", "2x48", "2x64"))
    cells, _ = sweep.grid(cfg, 256, 64, 512, seed=0)
    trials = sweep.trials(cells, cfg, lr=0.01)
    assert {cell.id.split("_")[1] for cell in trials} == {"1e11"}
    assert len(trials) == 3 * 4 and len({cell.id for cell in trials}) == 12
    wide = SweepConfig(budgets=(2e11, 1e11, 4e11), sizes=("2x64", "2x32", "2x48"))
    cells, _ = sweep.grid(wide, 256, 64, 512, seed=0)
    trials = sweep.trials(cells, wide, lr=0.01)
    assert [c.id.split("_")[1] for c in trials[::4]] == ["1e11"] * 3 + ["2e11"] * 2
    sizes = [c.size for c in trials[::4]]
    assert sizes == ["2x32", "2x48", "2x64", "2x32", "2x64"]  # the widest range
    assert [c.lr for c in trials[:4]] == [0.005, 0.01, 0.02, 0.04]


def cell(name, size, num_params, num_steps):
    return Cell(name, size, 6.0 * num_params * num_steps, num_params, num_steps, 0)


def test_the_time_of_a_plan_by_hand():
    cells = [cell("a", "s", 100, 10), cell("b", "s", 100, 30), cell("c", "l", 200, 20)]
    table = {"s": Cost(0.1, 2.0, 0), "l": Cost(0.5, 3.0, 0)}
    # Dearest first: c takes 13 s; meanwhile b, 5 s, and then a, 3 s.
    assert costs.total_secs(cells, table, parallel=2) == pytest.approx(13.0)
    assert costs.total_secs(cells, table, parallel=1) == pytest.approx(21.0)
    costs.check(3600.0, table, 2, max_hours=0.0)
    costs.check(3600.0, table, 2, max_hours=1.0)
    with pytest.raises(ValueError, match="takes 1.1 hours, over --max_hours=1"):
        costs.check(3960.0, table, 2, max_hours=1.0)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(costs, "available_bytes", lambda: 8 * 2**30)
    cells = [cell("a", "s", 10**6, 10), cell("b", "huge", 3 * 10**8, 30)]
    costs.refuse_too_large(cells, parallel=1)
    with pytest.raises(ValueError, match="2 x huge .* need 8.9 GiB, and 8.0 are free"):
        costs.refuse_too_large(cells, parallel=2)
    table = {"s": Cost(0.1, 1.0, 2**30), "huge": Cost(1.0, 1.0, 5 * 2**30)}
    costs.check(1.0, table, 1, 0.0)
    with pytest.raises(ValueError, match="2 x huge need 10.0 GiB"):
        costs.check(1.0, table, 2, 0.0)


def test_memory_of_this_machine():
    assert 2**28 < costs.available_bytes() < 2**46
