"""Rewards that can be checked: GRPO mends an adder, and shuffled rewards do not.

    python experiments/grpo_arithmetic.py                     # 2 CPU cores
    python experiments/grpo_arithmetic.py --kinds=grpo,dr_grpo,dapo,rloo

An adder learns from worked sums, over half of which are by one who forgets to carry: it
picks up both ways, and half of its answers are right. Then it gets other sums, without
results, and a reward of 1 for an answer that is right, 0 for any other. As a control,
the same rewards are dealt to the answers of an iteration at random: what that gains
does not come from the rewards. All are asked the same held-out sums, and 16 draws of
each tell whether there are more of them that can be solved at all than before.

The adder is a run of pretrain.py, the others are of grpo.py, in processes of their own.
Killed and started again in its workdir, the experiment goes on where it stopped.
Expect 58 % of drawn answers right before, 85 % after, and 57 % with shuffled rewards.
"""

import shlex
from pathlib import Path

from llmjax import flags, host
from llmjax.load import load
from llmjax.rl import verified
from llmjax.rl import verified_page as page
from llmjax.scaling import folder as folders
from llmjax.scaling import jobs, sweep
from llmjax.train import workdir

CONTEXT, VOCAB_SIZE = 128, 257  # bytes, and the end of a text
REWARDS = {"rewards": "is_right", "shuffled": "shuffled"}
# Adam makes all steps as long, whatever the gradient: by the noise of shuffled rewards
# alone a policy would wander off. With so large an eps they are as long as it is.
TUNED = (
    "--rollout.num_prompts=128", "--rollout.num_samples=8", "--grpo.num_minibatches=1",
    "--optim.lr=2e-3", "--optim.eps=1e-2", "--optim.warmup_fraction=0.1",
    "--grpo.kl_coef=0.1",
)  # fmt: skip
TUNE = flags.define("", verified.TuneConfig())
SUMS = flags.define("sums", verified.SumConfig())


def main():
    cfg, sums = TUNE(), SUMS()
    folder = workdir.open_workdir(cfg.workdir).resolve()
    names = ("size", "base_steps", "num_steps", "flags")
    settings = {name: getattr(cfg, name) for name in names} | {"sums": sums}
    with folders.under_settings(folder, settings):
        verified.write_sums(sums, folder / "data")
    flags.save(folder)

    adders = [adder(seed, folder) for seed in range(cfg.num_seeds)]
    runs = {"adder": adders} | {
        f"{kind}, {rewards}": [
            tuned(kind, rewards, seed, folder) for seed in range(cfg.num_seeds)
        ]
        for kind in cfg.kinds
        for rewards in REWARDS
    }
    jobs.finish(adders, cfg.parallel)
    jobs.finish([run for some in runs.values() for run in some], cfg.parallel)

    host.start()
    starts, arms = [load(run.folder) for run in adders], []
    for name, some in runs.items():
        tried = [
            verified.try_kept(run.folder, start, sums)
            for run, start in zip(some, starts, strict=True)
        ]
        arms.append(page.Arm(name, [run.folder for run in some], tried))
    page.write(folder, arms, verified.asked(sums), settings)


def adder(seed: int, folder: Path) -> jobs.Job:
    """The run that learns from worked sums."""
    cfg, name = TUNE(), f"adder_seed{seed}"
    command = [
        "experiments/pretrain.py", f"--workdir={folder / name}", f"--seed={seed}",
        f"--data.source={folder}/data/worked.jsonl", "--data.tokenizer=bytes",
        *sweep.model_arguments(cfg.size, VOCAB_SIZE, CONTEXT),
        f"--num_steps={cfg.base_steps}", "--train.batch_size=16",
        "--train.eval_every=0",
    ]  # fmt: skip
    return jobs.Job(name, command, folder / name)


def tuned(kind: str, rewards: str, seed: int, folder: Path) -> jobs.Job:
    """The run that learns from rewards."""
    cfg, name = TUNE(), f"{kind}_{rewards}_seed{seed}"
    command = [
        "experiments/grpo.py", f"--init_from={folder}/adder_seed{seed}",
        f"--workdir={folder / name}", f"--seed={seed}", f"--grpo.kind={kind}",
        f"--data.source={folder}/data/posed.jsonl", "--data.template=none",
        f"--reward=llmjax.rl.verifiable:{REWARDS[rewards]}",
        f"--num_steps={cfg.num_steps}",
        f"--rollout.max_new_tokens={SUMS().answer_tokens}", *TUNED,
        *shlex.split(cfg.flags),
    ]  # fmt: skip
    return jobs.Job(name, command, folder / name)


if __name__ == "__main__":
    flags.run(main)
