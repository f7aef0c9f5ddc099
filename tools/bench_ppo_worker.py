"""The programs that tools/bench.py ppo times; see tools/bench_worker.py.

SPEC: program, folder, rows, prompt_tokens, answer_tokens, num_epochs, num_minibatches.
A step is an iteration of PPO from prompts to the last update, and comes to the seconds
of its parts. The critic is a head on the policy's trunk, the reward a model as large as
the policy, and no answer ends early: all programs do the same work.
"""

import itertools
import json
import time
from functools import partial
from pathlib import Path

import bench_worker
import numpy as np

LR, KL_COEF = 1e-6, 0.05
REWARD_GAIN = 0.01  # the weight of each hidden number in a score


def given(spec) -> tuple[list[list[int]], list[list[int]]]:
    """The same random prompts for all programs, and answers to compare them on."""
    config = json.loads((Path(spec["folder"]) / "config.json").read_text())
    shape = spec["rows"], spec["prompt_tokens"] + spec["answer_tokens"]
    ids = np.random.default_rng(1).integers(0, config["vocab_size"], shape)
    parts = np.split(ids, [spec["prompt_tokens"]], axis=1)
    return tuple(part.tolist() for part in parts)


class Clock:
    """The seconds of each part of an iteration."""

    def __init__(self):
        self.secs: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What ran since the last lap was this part."""
        now = time.perf_counter()
        self.secs[part], self._last = now - self._last, now


def llmjax(spec):
    """The library, as experiments/ppo.py uses it."""
    from llmjax import host, load

    host.start()

    import jax

    from llmjax import sharding
    from llmjax.generate.sampling import SamplingConfig
    from llmjax.models import transformer
    from llmjax.rl import logprobs, rollout, rows

    cfg, params, _ = load.load(spec["folder"])
    mesh, model = sharding.make_mesh(), transformer.make(cfg)
    params = jax.device_put(params, sharding.param_shardings(params, mesh))
    score, (prompts, answers) = our_reward(cfg, params), given(spec)
    num_tokens = rows.row_length(prompts, spec["answer_tokens"])
    draw = partial(
        rollout.draw, model, prompts=prompts, sampling=SamplingConfig(temperature=1.0),
        cfg=rollout.RolloutConfig(spec["rows"], 1, spec["answer_tokens"]),
        num_tokens=num_tokens, context=cfg.context,
    )  # fmt: skip
    policy, learn = our_learner(spec, cfg, model, params, mesh)
    iterations = itertools.count()

    def step():
        clock, iteration = Clock(), next(iterations)
        with jax.set_mesh(mesh):
            batch, said = draw(params=policy(), iteration=iteration)
            clock.lap("rollout")
            batch |= {"score_B": score(prompts, said.ids), "ended_B": said.ended_B}
            clock.lap("scoring")
            learn(rollout.place(batch, mesh), iteration, clock)
        return clock.secs

    batch = rows.make_batch(prompts, answers, num_tokens)
    said_BT = np.asarray(logprobs.of(model, params, batch).log_prob_BT)
    return step, {
        "log_probs": said_BT[:, spec["prompt_tokens"] - 1 :].tolist(),
        "scores": score(prompts, answers).tolist(),
    }


def our_reward(cfg, params):
    """(prompts, answers) -> scores, by a reward model upon the same trunk."""
    from llmjax.models import transformer
    from llmjax.rl.reward import RewardModel

    logits_fn = transformer.classifier(transformer.scorer_of(cfg))
    head = {"head_DO": np.full((cfg.width, 1), REWARD_GAIN, np.float32)}
    head["bias_O"] = np.zeros(1, np.float32)
    model = RewardModel(None, logits_fn, params | {"head": head}, cfg.context)

    def score(prompts, answers):
        both = zip(prompts, answers, strict=True)
        return model.score_ids([[*prompt, *answer] for prompt, answer in both])

    return score


def our_learner(spec, cfg, model, policy, mesh):
    """(() -> the policy by now, (a rollout, iteration, clock) -> its updates)."""
    import jax

    from llmjax import optim
    from llmjax.lora import OptionalLora
    from llmjax.models import transformer
    from llmjax.rl import loop, ppo, rollout, trained
    from llmjax.train.state import init_state
    from llmjax.train.step import make_step

    knobs = ppo.PpoConfig(
        num_epochs=spec["num_epochs"], num_minibatches=spec["num_minibatches"],
        kl_coef=KL_COEF, endless_penalty=0.0,
    )  # fmt: skip
    adam = optim.OptimConfig(
        "adamw", lr=LR, schedule="constant", warmup_fraction=0, clip=0.0,
        weight_decay=0.0, b2=0.999,
    )  # fmt: skip
    head = {"head_DO": np.zeros((cfg.width, 1), np.float32)}
    head["bias_O"] = np.zeros(1, np.float32)
    own = trained.begin({"policy": policy, "critic": {"head": head}}, OptionalLora())
    tx, extras = optim.make(adam, 1)[0], ppo.init_extras(knobs)
    state = init_state(own.init, tx, mesh, jax.random.key(0), extras=extras)
    places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    state = state._replace(params=jax.device_put(own.start, places))
    critic = transformer.make(transformer.scorer_of(cfg))
    shape = rollout.RolloutConfig(max_new_tokens=spec["answer_tokens"])
    shared = model, critic, knobs, shape, 1.0
    step_fn = make_step(partial(ppo.loss, *shared), tx, state)
    prepare = jax.jit(partial(ppo.prepare, *shared))

    def learn(batch, iteration, clock):
        nonlocal state
        batch, _, _ = prepare(state.params, policy, batch, state.extras)
        jax.block_until_ready(batch)
        clock.lap("preparing")
        for part in loop.minibatches(batch, knobs, (0, iteration), mesh):
            state, figures = step_fn(state, part)
        jax.block_until_ready(figures)
        clock.lap("update")

    return lambda: state.params["policy"], learn


def trl(spec):
    """The last TRL with a PPO whose parts can be called."""
    import torch

    trainer, reward_model = their_trainer(spec), their_reward(spec)
    prompts, answers = ([torch.tensor(ids) for ids in some] for some in given(spec))

    def score(answers):
        rows = [torch.cat(both) for both in zip(prompts, answers, strict=True)]
        with torch.inference_mode():
            return list(reward_model(torch.stack(rows)).logits[:, 0])

    def step():
        clock = Clock()
        answers = trainer.generate(
            prompts, batch_size=len(prompts), return_prompt=False, remove_padding=False,
            max_new_tokens=spec["answer_tokens"], do_sample=True, top_k=0, top_p=1.0,
        )  # fmt: skip
        assert {len(answer) for answer in answers} == {spec["answer_tokens"]}
        clock.lap("rollout")
        scores = score(answers)
        clock.lap("scoring")
        stats = trainer.step(prompts, answers, scores)
        clock.lap("update")
        clock.secs["preparing"] = sum(
            stats[f"time/ppo/{part}"]
            for part in ("forward_pass", "compute_rewards", "compute_advantages")
        )
        clock.secs["update"] -= clock.secs["preparing"]
        return clock.secs

    with torch.no_grad():
        said_BT, *_ = trainer.batched_forward_pass(
            trainer.model, prompts, answers,
            trainer.prepare_model_inputs(prompts, answers),
        )  # fmt: skip
    return step, {
        "log_probs": said_BT[:, spec["prompt_tokens"] - 1 :].tolist(),
        "scores": [float(one) for one in score(answers)],
    }


def their_reward(spec):
    """The reward model, of the same trunk and head as ours."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        spec["folder"], num_labels=1
    )
    model.config.pad_token_id = -1  # none: an answer ends where its row does
    torch.nn.init.constant_(model.score.weight, REWARD_GAIN)
    return model.eval()


def their_trainer(spec):
    """TRL's trainer of policy, head and frozen reference, with PyTorch's fused Adam."""
    import tokenizers
    import torch
    from transformers import PreTrainedTokenizerFast
    from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

    policy, reference = (
        AutoModelForCausalLMWithValueHead.from_pretrained(spec["folder"])
        for _ in range(2)
    )
    policy.pretrained_model.generation_config.eos_token_id = None  # to the last token
    config = PPOConfig(
        batch_size=spec["rows"], ppo_epochs=spec["num_epochs"], learning_rate=LR,
        mini_batch_size=spec["rows"] // spec["num_minibatches"], gamma=1.0, lam=0.95,
        adap_kl_ctrl=False, init_kl_coef=KL_COEF,
    )  # fmt: skip
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0}, "<pad>"))
    return PPOTrainer(
        config, policy, reference,
        PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>"),
        optimizer=torch.optim.Adam(policy.parameters(), lr=LR, fused=True),
    )  # fmt: skip


if __name__ == "__main__":
    bench_worker.main({"llmjax": llmjax, "TRL": trl})
