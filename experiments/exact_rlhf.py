"""PPO and GRPO on a language whose best policy is known, to be held against it.

    python experiments/exact_rlhf.py                    # about 4 minutes, 2 CPU cores
    python experiments/exact_rlhf.py --algorithms=rloo --beta=0.25

Answers are 6 symbols of 8, so all 262,144 can be listed; a small transformer learns to
write as a chain of symbols does, and is the reference. For a reward r the best policy
is reference * exp(r / beta) / Z. At beta 0.5 both reach over nine tenths of its
objective E[r] - beta * KL, and no policy lies above the frontier of all best ones. What
is shown of a policy is exact, not sampled.
"""

import dataclasses
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags as absl_flags

from llmjax import flags, losses, optim, sharding
from llmjax.config import ModelConfig
from llmjax.generate.sampling import SamplingConfig
from llmjax.models import transformer
from llmjax.rl import exact, exact_page, grpo, health, loop, ppo, rollout, scores
from llmjax.train import workdir
from llmjax.train.state import init_state
from llmjax.train.step import make_step

START = 0  # an answer's first symbol follows this one, at position 0
FIT_STEPS, FIT_ROWS, NUM_LOOKS = 400, 512, 10
RUN = flags.define("", flags.Run(workdir="runs/exact_rlhf", num_steps=60))
absl_flags.DEFINE_float("beta", 0.5, "weight of the KL")
absl_flags.DEFINE_list(
    "algorithms", ["ppo", "rloo", "dr_grpo"], "ppo, or as --grpo.kind"
)
LANGUAGE = flags.define("language", exact.LanguageConfig())
MODEL = flags.define("model", ModelConfig(
    num_layers=2, width=32, num_heads=2, num_kv_heads=2, head_width=16, ff_width=96,
    positions="learned", vocab_size=8, context=16,
))  # fmt: skip
OPTIM = flags.define("optim", optim.OptimConfig(
    name="adamw", lr=2e-3, weight_decay=0.0, b2=0.999, eps=1e-5,
))  # fmt: skip
PPO = flags.define("ppo", ppo.PpoConfig(value_coef=1.0, endless_penalty=0.0))
GRPO = flags.define("grpo", grpo.GrpoConfig(num_epochs=2, exact_kl=True))
ROLLOUT = rollout.RolloutConfig(num_prompts=64, num_samples=8, max_new_tokens=6)
SAMPLING = SamplingConfig(temperature=1.0)


def main():
    run, language, beta = RUN(), LANGUAGE(), flags.FLAGS.beta
    folder, mesh = workdir.begin(run)
    flags.save(folder)
    with jax.set_mesh(mesh):
        model = transformer.make(MODEL())
        reference = fit_reference(model, mesh)
        ref_log_probs = exact.of_model(model, reference, language, START)
        reward = exact.gold(language, exact.all_answers(language))
        reward = exact.standardised(reward, ref_log_probs)
        found = {
            name: learn(name, model, reference, ref_log_probs, reward, folder, mesh)
            for name in flags.FLAGS.algorithms
        }
    exact_page.write(folder, ref_log_probs, reward, beta, found)


def learn(name, model, reference, ref_log_probs, reward, parent, mesh):
    """[Point] of the policy, from the reference on; `name` is ppo, or a kind of GRPO."""
    run, language, is_ppo = RUN(), LANGUAGE(), name == "ppo"
    folder = workdir.open_workdir(str(parent / name))
    policy = itemgetter("policy") if is_ppo else lambda params: params
    cfg, init, prepare, loss_fn = (ppo_parts if is_ppo else partial(grpo_parts, name))(
        model, reference
    )
    tx, _ = optim.make(OPTIM(), run.num_steps * cfg.num_epochs * cfg.num_minibatches)
    extras = ppo.init_extras(cfg) if is_ppo else {}
    asked, place = [[START]] * ROLLOUT.num_prompts, sharding.placer(mesh)
    shape = (language.num_symbols,) * language.length

    def score(prompts, answers):
        return reward[np.ravel_multi_index(np.transpose(answers), shape)]

    def collect(iteration, state):
        batch, answers = rollout.draw(
            model, policy(state.params), asked, ROLLOUT, SAMPLING, iteration,
            num_tokens=language.length, context=MODEL().context,
        )  # fmt: skip
        batch["score_B"] = scores.call(score, asked, answers.ids)
        batch["ended_B"] = np.ones(len(answers.ids), bool)  # all have one length
        return prepare(state.params, reference, place(batch), state.extras)

    def look(iteration, state, figures):
        if iteration % max(1, run.num_steps // NUM_LOOKS) == 0:
            log_probs = exact.of_model(model, policy(state.params), language, START)
            points.append(exact.measure(log_probs, ref_log_probs, reward))
            figures |= {"exact_kl": points[-1].kl, "exact_reward": points[-1].reward}

    points = [exact.measure(ref_log_probs, ref_log_probs, reward)]
    state = init_state(init, tx, mesh, jax.random.key(run.seed), extras=extras)
    with health.Panel(folder, first=0, num_iterations=run.num_steps) as panel:
        panel.say(f"{name}:")
        loop.train(
            make_step(loss_fn, tx, state), state, collect, mesh=mesh,
            num_iterations=run.num_steps, num_epochs=cfg.num_epochs,
            num_minibatches=cfg.num_minibatches, seed=run.seed, hooks=[look, panel],
        )  # fmt: skip
    return points


def ppo_parts(model, reference):
    """(config, init, prepare, loss) of PPO, with a critic of its own from zero on."""
    cfg = dataclasses.replace(PPO(), kl_coef=flags.FLAGS.beta)
    critic = transformer.make(transformer.classifier_of(MODEL(), 1))
    shared = (model, critic, cfg, SAMPLING.temperature)

    def init(key):
        own = critic.init(key)
        own["head"] = jax.tree.map(jnp.zeros_like, own["head"])
        return {"policy": jax.tree.map(jnp.copy, reference), "critic": own}

    return cfg, init, jax.jit(partial(ppo.prepare, *shared)), partial(ppo.loss, *shared)


def grpo_parts(kind, model, reference):
    """(config, init, prepare, loss) of a kind of GRPO."""
    cfg = dataclasses.replace(GRPO(), kl_coef=flags.FLAGS.beta, kind=kind)
    num_tokens, temperature = LANGUAGE().length, SAMPLING.temperature
    return (
        cfg,
        lambda key: jax.tree.map(jnp.copy, reference),
        jax.jit(partial(grpo.prepare, model, cfg, ROLLOUT.num_samples, temperature)),
        partial(grpo.loss, model, cfg, num_tokens, temperature),
    )


def fit_reference(model, mesh):
    """The parameters of a model that has learned to write as the chain does."""
    rng = np.random.default_rng(RUN().seed)
    tx, _ = optim.make(dataclasses.replace(OPTIM(), lr=1e-2), FIT_STEPS)
    state = init_state(model.init, tx, mesh, jax.random.key(RUN().seed))
    step_fn = make_step(partial(losses.next_token, model), tx, state)
    place = sharding.placer(mesh)
    for _ in range(FIT_STEPS):
        drawn = exact.draw(LANGUAGE(), FIT_ROWS, rng)
        prompts = [[START]] * FIT_ROWS
        batch = rollout.make_batch(prompts, drawn.tolist(), LANGUAGE().length)
        state, _ = step_fn(state, place(batch))
    return state.params


if __name__ == "__main__":
    flags.run(main)
