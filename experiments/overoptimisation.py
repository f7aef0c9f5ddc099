"""A reward model is optimised until it no longer says what it was made to say.

    python experiments/overoptimisation.py                # about 6 minutes, 2 CPU cores

The language of exact_rlhf.py with its known gold reward. Reward models of two
capacities learn from 100, 500 or 5,000 comparisons, some with a quarter mislabelled;
policies then follow these proxies ever further from the reference: the best policy for
each weight of the KL, the best of n draws, and PPO. The proxy only rises. Gold rises
too, and with a weak proxy then falls, as in Gao et al. 2022: by PPO from +0.87 to -0.21
deviations with a bag of symbols and 500 noisy pairs, from +1.38 to +1.15 with pairs of
symbols and 5,000. All that is shown is exact, not sampled.
"""

import dataclasses
from functools import partial
from operator import itemgetter

import jax
import numpy as np

from llmjax import flags, lora, optim
from llmjax.generate.sampling import SamplingConfig
from llmjax.models import transformer
from llmjax.rl import exact, loop, ppo, proxy, proxy_page, rollout, trained
from llmjax.rl.proxy import Proxy
from llmjax.train import workdir
from llmjax.train.state import init_state
from llmjax.train.step import make_step

START, NUM_FITS = 0, 5
WEAK, STRONG = Proxy("bag", 500, 0.25), Proxy("bigram", 5000)
PROXIES = (
    Proxy("bigram", 100, 0.25), Proxy("bigram", 100), WEAK, Proxy("bag", 5000),
    Proxy("bigram", 500), STRONG,
)  # fmt: skip
RUN = flags.define("", flags.Run(workdir="runs/overoptimisation", num_steps=45))
LANGUAGE = flags.define("language", exact.LanguageConfig())
MODEL = flags.define("model", exact.WRITER)
OPTIM = flags.define("optim", optim.OptimConfig(
    name="adamw", lr=2e-4, schedule="constant", weight_decay=0.0, b2=0.999, eps=1e-5,
))  # fmt: skip
FREE = ppo.PpoConfig(value_coef=1.0, endless_penalty=0.0, kl_coef=0.05)
PPO = flags.define("ppo", FREE)
ROLLOUT = rollout.RolloutConfig(num_prompts=512, max_new_tokens=6)
SAMPLING = SamplingConfig(temperature=1.0)


def main():
    language, (folder, mesh) = LANGUAGE(), workdir.begin(RUN())
    flags.save(folder)
    with jax.set_mesh(mesh):
        model = transformer.make(MODEL())
        fit = dataclasses.replace(OPTIM(), lr=1e-2, schedule="linear"), 400, 512
        reference = exact.learn_chain(model, language, START, mesh, *fit)
        ref_log_probs, gold = exact.known(model, reference, language, START)
        curves, shown = {}, {}
        for one in PROXIES:
            rngs = map(np.random.default_rng, range(NUM_FITS))
            fits = [
                proxy.learn(language, one, ref_log_probs, gold, rng) for rng in rngs
            ]
            best = [proxy_page.optima(ref_log_probs, fit, gold) for fit in fits]
            curves[str(one)] = proxy_page.mean(best)
            if one in (WEAK, STRONG):
                where = partial(proxy_page.place, reference=ref_log_probs,
                                proxy=fits[0], gold=gold)  # fmt: skip
                shown[str(one)] = {
                    "best policy": best[0],
                    "best of n": proxy_page.best_of_n(ref_log_probs, fits[0], gold),
                    "PPO": follow(str(one), model, reference, fits[0], where, mesh),
                }
    proxy_page.write(folder, curves, shown)


def follow(name, model, reference, reward, where, mesh):
    """[Place] of a policy on its way, as PPO makes it follow the reward."""
    run, language, knobs = RUN(), LANGUAGE(), PPO()
    critic = transformer.make(transformer.scorer_of(MODEL()))
    shared = (model, critic, knobs, ROLLOUT, SAMPLING.temperature)
    prepare, policy = jax.jit(partial(ppo.prepare, *shared)), itemgetter("policy")
    start = {"policy": reference, "critic": critic.init(jax.random.key(1))}
    places = []

    def collect(iteration, state):
        batch = exact.collect(
            model, policy(state.params), language, reward, ROLLOUT, SAMPLING,
            start_id=START, iteration=iteration, mesh=mesh,
        )  # fmt: skip
        return prepare(state.params, reference, batch, state.extras)

    def look(iteration, state, figures):
        if iteration % 3 == 0:
            log_probs = exact.of_model(model, policy(state.params), language, START)
            places.append(where(log_probs))
            print(f"{name}: iteration {iteration}: KL {places[-1].kl:.2f}, proxy "
                  f"{places[-1].proxy:+.2f}, gold {places[-1].gold:+.2f}")  # fmt: skip

    own = trained.begin(start, lora.OptionalLora())
    tx, extras = optim.make(OPTIM(), run.num_steps)[0], ppo.init_extras(knobs)
    state = init_state(own.init, tx, mesh, jax.random.key(run.seed), extras=extras)
    state = state._replace(params=own.start)
    step_fn = make_step(partial(ppo.loss, *shared), tx, state)
    loop.train(
        step_fn, state, collect, mesh=mesh, num_iterations=run.num_steps, knobs=knobs,
        seed=run.seed, hooks=[look],
    )  # fmt: skip
    return places


if __name__ == "__main__":
    flags.run(main)
