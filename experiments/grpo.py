"""Tunes a model on rewards for its own answers, by GRPO or a kin of it: no critic.

    python experiments/grpo.py --init_from=DIR --reward=mine:is_right \
        --data.source=prompts.jsonl --grpo.kind=dr_grpo

As ppo.py, but what an answer is held against are the other answers to its prompt. It
suits rewards that can be checked, such as whether a sum is right. What differs from
ppo.py: `grpo.prepare` and `grpo.loss` in place of `ppo`'s, and no critic.
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
from llmjax.rl import grpo, loop, page, rollout, scores, trained
from llmjax.train import workdir
from llmjax.train.step import make_step

TUNED = optim.OptimConfig(
    name="adamw", lr=1e-6, warmup_fraction=0.0, weight_decay=0.0, b2=0.999
)
GROUPS = rollout.RolloutConfig(num_prompts=16, num_samples=8)
RUN = flags.define("", flags.Run(workdir="runs/grpo", num_steps=100))
absl_flags.DEFINE_string("reward", None, "a reward model's workdir, or MODULE:FUNCTION")
absl_flags.DEFINE_integer("save_every", 10, "iterations between checkpoints")
DATA = flags.define("data", prompts.PromptConfig())
ROLLOUT = flags.define("rollout", GROUPS)
SAMPLING = flags.define("sampling", SamplingConfig(temperature=1.0))
GRPO = flags.define("grpo", grpo.GrpoConfig())
OPTIM = flags.define("optim", TUNED)
LORA = flags.define("lora", lora.OptionalLora())
COMPUTE = flags.define("compute", ComputeConfig())


def main():
    start_secs, run, knobs = time.perf_counter(), RUN(), GRPO()
    folder, mesh = workdir.begin(run)
    cfg, params, tokenizer = load_writer(run.init_from)
    template, room_tokens = chat_template(run.init_from), ROLLOUT().room_tokens(cfg)
    corpus = prompts.prepare(DATA(), tokenizer, template, room_tokens=room_tokens)
    model = transformer.make(cfg, COMPUTE())
    asker = rollout.Asker(
        model, tokenizer, corpus, scores.load(flags.FLAGS.reward, mesh), ROLLOUT(),
        SAMPLING(), seed=run.seed, context=cfg.context, mesh=mesh,
    )  # fmt: skip
    loop.check_rows(ROLLOUT().num_rows, knobs.num_minibatches, asker.num_tokens, mesh)
    num_updates = run.num_steps * knobs.num_epochs * knobs.num_minibatches
    tx, _ = optim.make(OPTIM(), num_updates)
    config = dict(
        experiment="grpo", seed=run.seed, num_steps=run.num_steps, model=cfg,
        init_from=run.init_from, reward=flags.FLAGS.reward, data=DATA(),
        data_fingerprint=corpus.fingerprint, rollout=ROLLOUT(), sampling=SAMPLING(),
        grpo=knobs, optim=OPTIM(), **trained.base_of(run, LORA()),
    )  # fmt: skip
    with jax.set_mesh(mesh), Checkpoints(folder / "checkpoints") as checkpoints:
        if LORA().rank:
            params = quantise.narrow(params, LORA().base)
        base = jax.device_put(params, sharding.param_shardings(params, mesh))
        own = trained.begin(base, LORA())
        shared = (model, knobs, ROLLOUT(), SAMPLING().temperature)
        loss_fn = own.of(partial(grpo.loss, *shared))
        prepare = jax.jit(partial(grpo.prepare, *shared))

        def collect(iteration, state):
            policy = own.whole(state.params)
            return prepare(policy, base, asker.ask(policy, iteration), state.extras)

        state = workdir.resume_or_init(
            checkpoints, config, own.init, tx, mesh, run, init_from=own.start
        )
        flags.save(folder)
        page.begin(folder, config, tokenizer, corpus, state, mesh)
        before = asker.try_out(base)
        state, panel = loop.fit(
            make_step(loss_fn, tx, state, frozen=own.frozen), state, collect,
            checkpoints, config, folder=folder, mesh=mesh, num_iterations=run.num_steps,
            knobs=knobs, seed=run.seed, save_every=flags.FLAGS.save_every,
        )  # fmt: skip
        after = asker.try_out(own.whole(state.params))
    secs = time.perf_counter() - start_secs
    page.write(folder, "GRPO", config, panel, before, after, secs)


if __name__ == "__main__":
    flags.run(main)
