"""RLHF on real text: a language model learns to write the reviews that are liked.

    python experiments/review_rlhf.py                     # 2 CPU cores
    python experiments/review_rlhf.py --base=DIR --workdir=runs/other

SmolLM2-135M is tuned on sentences of film reviews, for and against, by LoRA; a reward
model learns from pairs of them which is better; then PPO. The reward model is MiniLM,
which reads other tokens than the policy writes: scores are of texts. A control follows
length instead. How the answers to films never asked in training changed is told by the
reward model, by a judge that it has never met (words, counted), at equal lengths, and
by the reader: they are in the report, before and after.

Each stage is a run of lora.py, reward_model.py or ppo.py, in a process of its own.
Killed and started again in its workdir, the experiment goes on where it stopped.
"""

import dataclasses
import shlex
from pathlib import Path

from llmjax import flags
from llmjax.config import field
from llmjax.data import film_reviews
from llmjax.rl import review_page as page
from llmjax.scaling import folder as folders
from llmjax.scaling import jobs
from llmjax.train import workdir


@dataclasses.dataclass(frozen=True)
class ReviewConfig:
    """Who writes, who judges, and for how long each learns."""

    workdir: str = field("runs/review_rlhf", "all is written there, and resumed")
    base: str = field("smollm2", "the model that learns to write")
    judge: str = field("minilm", "the model that learns to judge")
    sft_steps: int = field(60, "of tuning on reviews, 2,048 tokens each")
    reward_steps: int = field(150, "of the reward model, 16 pairs each")
    ppo_steps: int = field(25, "iterations of PPO, 48 answers each")
    sft_flags: str = field("", "more flags for lora.py")
    reward_flags: str = field("", "more flags for reward_model.py")
    ppo_flags: str = field("", "more flags for ppo.py")


CONFIG = flags.define("", ReviewConfig())


def main():
    cfg = CONFIG()
    folder = workdir.open_workdir(cfg.workdir).resolve()
    chats, prompts = folder / "data" / "chats.jsonl", folder / "data" / "prompts.jsonl"
    settings = {key: value for key, value in vars(cfg).items() if key != "workdir"}
    with folders.under_settings(folder, settings):
        film_reviews.write(chats, prompts)
    flags.save(folder)

    sft = job(
        "lora", folder / "sft", cfg.sft_steps, cfg.sft_flags, f"--init_from={cfg.base}",
        f"--data.source={chats}", "--data.template=chatml", "--data.context=256",
        "--train.batch_size=8", "--optim.lr=5e-4",
    )  # fmt: skip
    judge = job(
        "reward_model", folder / "reward", cfg.reward_steps, cfg.reward_flags,
        f"--init_from={cfg.judge}", "--data.context=56", "--data.max_cut=0.3",
        "--optim.lr=1e-4", "--train.eval_every=0",
    )  # fmt: skip
    common = (
        f"--init_from={sft.folder}", f"--data.source={prompts}",
        "--data.num_held_out=96", "--rollout.num_prompts=48",
        "--rollout.max_new_tokens=40", "--ppo.num_epochs=2", "--critic.trunk=shared",
        "--lora.rank=16", "--optim.lr=1e-4", "--save_every=5",
    )  # fmt: skip
    policies = [
        job("ppo", folder / name, cfg.ppo_steps, cfg.ppo_flags, reward, *common)
        for name, reward in (
            ("liked", f"--reward={judge.folder}"),
            ("longer", "--reward=llmjax.rl.controls:length"),
        )
    ]
    jobs.finish([judge, sft], 1)
    jobs.finish(policies, 1)
    page.write(folder, judge.folder, *(one.folder for one in policies), settings)


def job(program: str, folder: Path, num_steps: int, more: str, *args: str) -> jobs.Job:
    """A run of an experiment."""
    command = [f"experiments/{program}.py", f"--workdir={folder}", *args,
               f"--num_steps={num_steps}", *shlex.split(more)]  # fmt: skip
    return jobs.Job(folder.name, command, folder)


if __name__ == "__main__":
    flags.run(main)
