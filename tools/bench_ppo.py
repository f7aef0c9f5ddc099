"""`tools/bench.py ppo`: seconds of an iteration of PPO, and of its parts, beside TRL.

    pip install torch trl==0.11.4 transformers==4.46.3 accelerate==1.1.1 datasets==3.1.0

in an environment of its own, which --torch_python names: TRL 0.11 is the last with a
PPO whose steps a program can call one by one (`PPOTrainer.generate`, `step`), and it
needs a transformers of its time. Both programs have the same weights, prompts, reward
model and sizes; both must give the same log-probabilities and scores to given answers.
"""

import statistics
import tempfile
from pathlib import Path

import bench_decode
import numpy as np
from bench_turns import (
    ROUNDS,
    TORCH,
    Worker,
    at_work,
    has,
    paired_ratio,
    show,
    take_turns,
)

PARTS = ("rollout", "scoring", "preparing", "update")
MAX_GAP = 1e-3  # between log-probabilities of the two, and between scores
# Prompts and answers are about as long as those of summaries are in Huang et al. 2024,
# or, where a CPU is to get through them, shorter.
SIZES = {
    "tiny": dict(rows=4, prompt_tokens=5, answer_tokens=6),
    "b": dict(rows=32, prompt_tokens=64, answer_tokens=53),
    "smollm2": dict(rows=8, prompt_tokens=32, answer_tokens=24),
}
EPOCHS = dict(num_epochs=4, num_minibatches=4)


def ppo(config: str) -> None:
    """Prints the table of one model; the turns of both programs alternate."""
    if not has(TORCH.value, "torch", "trl"):
        raise ValueError(
            f"{TORCH.value} has no trl: install what tools/bench_ppo.py says, and name "
            "that Python by --torch_python"
        )
    sizes = SIZES[config] | EPOCHS
    with tempfile.TemporaryDirectory() as scratch:
        spec = sizes | {"folder": str(bench_decode.make_folder(config, Path(scratch)))}
        jobs = [
            (spec | {"program": "llmjax"}, None),
            (spec | {"program": "TRL"}, TORCH.value),
        ]
        with at_work("bench_ppo_worker.py", jobs) as workers:
            check_same(*workers)
            take_turns(workers)
    mb = [max(turn["peak_bytes"] for turn in one.turns) / 1e6 for one in workers]
    show(
        f"{config}: {describe(sizes)}; {ROUNDS.value} rounds; peak memory of llmjax "
        f"{mb[0]:,.0f} MB, of TRL {mb[1]:,.0f} MB",
        [figures(config, part, *workers) for part in (*PARTS, "iteration")],
    )


def describe(sizes: dict[str, int]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {number}" for name, number in sizes.items()
    )


def check_same(ours: Worker, theirs: Worker) -> None:
    """ValueError unless both see the same probabilities and scores."""
    for name in ("log_probs", "scores"):
        gap = np.abs(np.subtract(ours.ready[name], theirs.ready[name])).max()
        if not gap <= MAX_GAP:
            raise ValueError(f"not the same model: {name} differ by up to {gap:.2g}")


def figures(config: str, part: str, ours: Worker, theirs: Worker) -> dict:
    """A row of the table: seconds of that part of an iteration, or of all of it."""
    own, other = (
        [turn["result"].get(part, turn["secs"]) for turn in worker.turns]
        for worker in (ours, theirs)
    )
    return {
        "config": config,
        "part": part,
        "llmjax_secs": statistics.median(own),
        "trl_secs": statistics.median(other),
        "time_over_llmjax": paired_ratio(other, own),
        "disturbed": statistics.median(
            turn["disturbed"] for turn in (*ours.turns, *theirs.turns)
        ),
    }
