"""PPO and GRPO on a language whose best policy is known, to be held against it.

    python experiments/exact_rlhf.py                    # about 4 minutes, 2 CPU cores
    python experiments/exact_rlhf.py --algorithms=rloo --beta=0.25

Answers are 6 symbols of 8, so all 262,144 can be listed; a small transformer learns to
write as a chain of symbols does, and is the reference. For a reward r the best policy
is reference * exp(r / beta) / Z. Of its objective E[r] - beta * KL, 0.767 at beta 0.5,
PPO reaches 98 %, RLOO 96 % and GRPO 94 %; with the KL in GRPO's loss (--grpo.kl_in) it
is 88 %. No policy lies above the frontier. All that is shown is exact, not sampled.
"""

import dataclasses
from functools import partial
from operator import itemgetter

import jax
from absl import flags as absl_flags

from llmjax import flags, lora, optim
from llmjax.checkpoint import Checkpoints
from llmjax.generate.sampling import SamplingConfig
from llmjax.models import transformer
from llmjax.rl import exact, exact_page, grpo, loop, ppo, rollout, trained
from llmjax.train import workdir
from llmjax.train.step import make_step

START = 0  # an answer's first symbol follows this one, at position 0
FIT_STEPS, FIT_ROWS, NUM_LOOKS = 400, 512, 10
RUN = flags.define("", flags.Run(workdir="runs/exact_rlhf", num_steps=60))
absl_flags.DEFINE_float("beta", 0.5, "weight of the KL")
absl_flags.DEFINE_list("algorithms", ["ppo", "grpo", "rloo"], "ppo, or as --grpo.kind")
LANGUAGE = flags.define("language", exact.LanguageConfig())
MODEL = flags.define("model", exact.WRITER)
OPTIM = flags.define("optim", optim.OptimConfig(
    name="adamw", lr=2e-3, weight_decay=0.0, b2=0.999, eps=1e-5,
))  # fmt: skip
PPO = flags.define("ppo", ppo.PpoConfig(value_coef=1.0, endless_penalty=0.0))
GRPO = flags.define("grpo", grpo.GrpoConfig(num_epochs=2, kl_in="score"))
ROLLOUT = rollout.RolloutConfig(num_prompts=64, num_samples=8, max_new_tokens=6)
SAMPLING = SamplingConfig(temperature=1.0)


def main():
    language, (folder, mesh) = LANGUAGE(), workdir.begin(RUN())
    flags.save(folder)
    with jax.set_mesh(mesh):
        model = transformer.make(MODEL())
        fit = dataclasses.replace(OPTIM(), lr=1e-2), FIT_STEPS, FIT_ROWS
        reference = exact.learn_chain(model, language, START, mesh, *fit)
        ref_log_probs, reward = exact.known(model, reference, language, START)
        found = {
            name: learn(name, model, reference, ref_log_probs, reward, folder, mesh)
            for name in flags.FLAGS.algorithms
        }
    exact_page.write(folder, ref_log_probs, reward, flags.FLAGS.beta, found)


def learn(name, model, reference, ref_log_probs, reward, parent, mesh):
    """[Point] of a policy, from the reference on; `name` is ppo or a kind of GRPO."""
    run, language, is_ppo = RUN(), LANGUAGE(), name == "ppo"
    folder = workdir.open_workdir(str(parent / name))
    knobs = dataclasses.replace(PPO() if is_ppo else GRPO(), kl_coef=flags.FLAGS.beta)
    if is_ppo:
        critic = transformer.make(transformer.scorer_of(MODEL()))
        shared = (model, critic, knobs, ROLLOUT, SAMPLING.temperature)
        prepare, loss_fn = partial(ppo.prepare, *shared), partial(ppo.loss, *shared)
        start = {"policy": reference, "critic": critic.init(jax.random.key(1))}
        policy, extras = itemgetter("policy"), ppo.init_extras(knobs)
    else:
        knobs = dataclasses.replace(knobs, kind=name)
        shared = (model, knobs, ROLLOUT, SAMPLING.temperature)
        prepare, loss_fn = partial(grpo.prepare, *shared), partial(grpo.loss, *shared)
        start, policy, extras = reference, lambda params: params, {}
    prepare, own = jax.jit(prepare), trained.begin(start, lora.OptionalLora())

    def collect(iteration, state):
        batch = exact.collect(
            model, policy(state.params), language, reward, ROLLOUT, SAMPLING,
            start_id=START, iteration=iteration, mesh=mesh,
        )  # fmt: skip
        return prepare(state.params, reference, batch, state.extras)

    def look(iteration, state, figures):
        if iteration % max(1, run.num_steps // NUM_LOOKS) == 0:
            log_probs = exact.of_model(model, policy(state.params), language, START)
            figures |= exact.measure(log_probs, ref_log_probs, reward)._asdict()

    tx, _ = optim.make(
        OPTIM(), run.num_steps * knobs.num_epochs * knobs.num_minibatches
    )
    config = dict(model=MODEL(), language=language, optim=OPTIM(), knobs=knobs)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = workdir.resume_or_init(
            checkpoints, config, own.init, tx, mesh, run,
            init_from=own.start, extras=extras,
        )  # fmt: skip
        _, panel = loop.fit(
            make_step(loss_fn, tx, state), state, collect, checkpoints, config,
            folder=folder, mesh=mesh, num_iterations=run.num_steps, knobs=knobs,
            seed=run.seed, save_every=10, looks=[look],
        )  # fmt: skip
    seen = [line for line in panel.history if "exact_kl" in line]
    return [exact.Point(line["exact_kl"], line["exact_reward"]) for line in seen]


if __name__ == "__main__":
    flags.run(main)
