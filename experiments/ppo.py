"""Tunes a model on rewards for its own answers, by PPO against a frozen reference.

    python experiments/ppo.py --init_from=runs/sft --reward=runs/reward_model \
        --data.source=prompts.jsonl
    python experiments/ppo.py --init_from=DIR --reward=mine:score --lora.rank=16 ...

A reward is a reward model's workdir, or MODULE:FUNCTION, any fn(prompts, answers) that
gives a number for each answer. An iteration (--num_steps of them) draws answers, scores
them, takes from each token's reward what it strays from the reference, and goes through
them in shuffled minibatches. The line it prints says how it goes, and what to do where
a figure is ill. A run that is started again in its workdir resumes.
"""

import time
from functools import partial

import jax
from absl import flags as absl_flags

from llmjax import flags, lora, optim, sharding
from llmjax.checkpoint import Checkpoints
from llmjax.config import ComputeConfig
from llmjax.data import prompts
from llmjax.generate.sampling import SamplingConfig
from llmjax.load import chat_template, load_writer
from llmjax.models import quantise, transformer
from llmjax.rl import critic as critics
from llmjax.rl import loop, page, ppo, rollout, scores, trained
from llmjax.train import workdir
from llmjax.train.step import make_step

TUNED = optim.OptimConfig(
    name="adamw", lr=3e-6, warmup_fraction=0.0, weight_decay=0.0, b2=0.999, eps=1e-5
)
RUN = flags.define("", flags.Run(workdir="runs/ppo", num_steps=100))
absl_flags.DEFINE_string("reward", None, "a reward model's workdir, or MODULE:FUNCTION")
absl_flags.DEFINE_integer("save_every", 10, "iterations between checkpoints")
DATA = flags.define("data", prompts.PromptConfig())
ROLLOUT = flags.define("rollout", rollout.RolloutConfig())
SAMPLING = flags.define("sampling", SamplingConfig(temperature=0.7))
PPO = flags.define("ppo", ppo.PpoConfig())
CRITIC = flags.define("critic", critics.CriticConfig())
OPTIM = flags.define("optim", TUNED)
LORA = flags.define("lora", lora.OptionalLora())
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs, run, knobs = time.perf_counter(), RUN(), PPO()
    folder, mesh = workdir.begin(run)
    cfg, params, tokenizer = load_writer(run.init_from)
    template, room_tokens = chat_template(run.init_from), ROLLOUT().room_tokens(cfg)
    corpus = prompts.prepare(DATA(), tokenizer, template, room_tokens=room_tokens)
    model, scorer = transformer.make(cfg, COMPUTE()), transformer.scorer_of(cfg)
    critic = transformer.make(scorer, COMPUTE())
    new_head = partial(
        transformer.with_score_head, scorer, key=jax.random.key(run.seed)
    )
    asker = rollout.Asker(
        model, tokenizer, corpus, scores.load(flags.FLAGS.reward, mesh), ROLLOUT(),
        SAMPLING(), seed=run.seed, context=cfg.context, mesh=mesh,
    )  # fmt: skip
    loop.check_rows(ROLLOUT().num_rows, knobs.num_minibatches, asker.num_tokens, mesh)
    num_updates = run.num_steps * knobs.num_epochs * knobs.num_minibatches
    tx, _ = optim.make(OPTIM(), num_updates)
    config = dict(
        experiment="ppo", seed=run.seed, num_steps=run.num_steps, model=cfg,
        part="policy", init_from=run.init_from, reward=flags.FLAGS.reward, data=DATA(),
        data_fingerprint=corpus.fingerprint, rollout=ROLLOUT(), sampling=SAMPLING(),
        ppo=knobs, critic=CRITIC(), optim=OPTIM(), **trained.base_of(run, LORA()),
    )  # fmt: skip
    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        if LORA().rank:
            params = quantise.narrow(params, LORA().base)
        base = {"policy": params}
        base["critic"] = critics.begin(CRITIC(), scorer, params, new_head)
        base = jax.device_put(base, sharding.param_shardings(base, mesh))
        head = {"critic": {"head": base["critic"]["head"]}}
        own = trained.begin(base, LORA(), head)
        shared = (model, critic, knobs, ROLLOUT(), SAMPLING().temperature)
        loss_fn = own.of(partial(ppo.loss, *shared))
        prepare = jax.jit(partial(ppo.prepare, *shared))

        def collect(iteration, state):
            both = own.whole(state.params)
            batch = asker.ask(both["policy"], iteration)
            return prepare(both, base["policy"], batch, state.extras)

        state = workdir.resume_or_init(
            checkpoints, config, own.init, tx, mesh, run,
            init_from=own.start, extras=ppo.init_extras(knobs),
        )  # fmt: skip
        flags.save(folder)
        page.begin(folder, config, tokenizer, corpus, state, mesh)
        before = asker.try_out(base["policy"])
        state, panel = loop.fit(
            make_step(loss_fn, tx, state, frozen=own.frozen), state, collect,
            checkpoints, config, folder=folder, mesh=mesh, num_iterations=run.num_steps,
            knobs=knobs, seed=run.seed, save_every=flags.FLAGS.save_every,
        )  # fmt: skip
        after = asker.try_out(own.whole(state.params)["policy"])
    secs = time.perf_counter() - start_secs
    page.write(folder, "PPO", config, panel, before, after, secs)


if __name__ == "__main__":
    flags.run(main)
