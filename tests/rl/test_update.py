"""From a rollout to an update: PPO and GRPO, on one device and on eight."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax import lora, sharding
from llmjax.generate.sampling import SamplingConfig
from llmjax.models import presets, transformer
from llmjax.rl import critic as critics
from llmjax.rl import dpo, grpo, kl, logprobs, loop, moments, ppo, rollout, trained
from llmjax.train.state import init_state
from llmjax.train.step import make_step

CFG = dataclasses.replace(
    presets.get("tiny"), vocab_size=32, num_heads=4, num_kv_heads=4
)
MODEL = transformer.make(CFG)
SCORER = transformer.scorer_of(CFG)
CRITIC = transformer.make(SCORER)
SHAPE = rollout.RolloutConfig(num_prompts=8, num_samples=4, max_new_tokens=6)
SAMPLING = SamplingConfig(temperature=0.7)
PROMPTS = [[1 + i, 7, 9][: 1 + i % 3] for i in range(8)]
STOPS = (3, 5, 8)
MESHES = ("data=8", "fsdp=4,tensor=2", "fsdp=2,tensor=2,sequence=2")


def scaled(key, by=3.0):
    return jax.tree.map(lambda leaf: by * leaf, MODEL.init(jax.random.key(key)))


def new_head(policy):
    return transformer.with_score_head(SCORER, policy, jax.random.key(2))


@pytest.fixture(name="rolled", scope="module")
def _rolled():
    """A policy that has moved from its reference, and its scored answers."""
    policy = jax.tree.map(lambda one, other: one + 0.1 * other, scaled(0), scaled(1))
    batch, answers = rollout.draw(
        MODEL, policy, PROMPTS, SHAPE, sampling=SAMPLING, iteration=0, num_tokens=8,
        context=CFG.context, stop_ids=STOPS,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    batch["score_B"] = rng.normal(size=len(answers.ids)).astype(np.float32)
    batch["ended_B"] = answers.ended_B
    return policy, scaled(0), batch


def parts(policy, trunk="separate", start="policy", **changes):
    cfg = ppo.PpoConfig(**changes)
    params = {"policy": policy}
    params["critic"] = critics.begin(
        critics.CriticConfig(trunk=trunk, start=start), SCORER, policy, new_head
    )
    shared = (MODEL, CRITIC, cfg, SHAPE, 0.7)
    prepare = jax.jit(partial(ppo.prepare, *shared))
    return cfg, params, prepare, partial(ppo.loss, *shared)


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_the_first_ratio_is_one_and_old_log_probs_stay(rolled, trunk):
    policy, reference, batch = rolled
    cfg, params, prepare, loss_fn = parts(policy, trunk)
    learned, _, figures = prepare(params, reference, batch, ppo.init_extras(cfg))
    _, metrics = loss_fn(params, learned)
    for name in ("ratio_low", "ratio_high"):
        np.testing.assert_allclose(metrics[name][0], 1, atol=1e-5)
    assert metrics["approx_kl"][0] < 1e-8 and metrics["clip_fraction"][0] == 0
    assert figures["log_prob_gap"] < 5e-5
    moved = {**params, "policy": jax.tree.map(lambda leaf: 1.02 * leaf, policy)}
    _, metrics = loss_fn(moved, learned)
    assert metrics["ratio_high"][0] > 1.01


def test_the_kl_is_zero_at_the_reference_whatever_the_temperature(rolled):
    _, reference, batch = rolled
    cfg, params, prepare, _ = parts(reference)
    _, _, figures = prepare(params, reference, batch, ppo.init_extras(cfg))
    assert float(figures["kl"]) == 0 and float(figures["kl_drawn"]) == 0


def test_what_is_learned_from_is_spelt_out(rolled):
    """Rewards by hand: KL at each token, score and penalty at the last."""
    policy, reference, batch = rolled
    cfg, params, prepare, _ = parts(
        policy, start="zero", lam=1.0, kl_coef=0.3, whiten_advantages=False
    )
    learned, _, figures = prepare(params, reference, batch, ppo.init_extras(cfg))
    assert not learned["values"].any()
    both = logprobs.compare(MODEL, policy, reference, batch, temperature=0.7)
    per_token = np.asarray(kl.k1(both["log_probs"], both["ref_log_probs"]))
    score = batch["score_B"] - np.where(batch["ended_B"], 0, 1.0)
    for row, mask in enumerate(batch["weights"] > 0):
        rewards = -0.3 * per_token[row][mask]
        rewards[-1] += score[row]
        want = rewards[::-1].cumsum()[::-1]
        np.testing.assert_allclose(learned["returns"][row][mask], want, atol=1e-5)
        np.testing.assert_allclose(learned["advantages"][row][mask], want, atol=1e-5)
    drawn = (per_token * batch["weights"]).sum(axis=1).mean()
    np.testing.assert_allclose(figures["kl_drawn"], drawn, rtol=1e-5)
    np.testing.assert_allclose(figures["reward"], batch["score_B"].mean(), rtol=1e-5)


def test_the_coefficient_follows_the_kl(rolled):
    policy, reference, batch = rolled
    cfg, params, prepare, _ = parts(policy, kl_target=0.01, kl_horizon=100.0)
    _, extras, _ = prepare(params, reference, batch, ppo.init_extras(cfg))
    np.testing.assert_allclose(
        extras["kl_coef"], 0.05 * (1 + 0.2 * 32 / 100), rtol=1e-6
    )


def test_moments_are_those_of_all_scores():
    rng = np.random.default_rng(0)
    some = [rng.normal(2, 3, size=size).astype(np.float32) for size in (8, 32, 8)]
    found = moments.init()
    for score in some:
        found = moments.update(found, jnp.asarray(score))
    every = np.concatenate(some)
    want = (some[-1] - every.mean()) / every.std(ddof=1)
    np.testing.assert_allclose(moments.normalise(found, some[-1]), want, rtol=1e-4)


def updated(kind, rolled, spec, num_devices):
    """Losses of two iterations' first updates, and the parameters after them."""
    policy, reference, batch = rolled
    mesh = sharding.make_mesh(spec, jax.devices()[:num_devices])
    with jax.set_mesh(mesh):
        if kind == "ppo":
            cfg, start, prepare, loss_fn = parts(policy)
            extras, knobs = ppo.init_extras(cfg), cfg
        else:
            knobs = grpo.GrpoConfig(kind=kind)
            shared = (MODEL, knobs, SHAPE, 0.7)
            prepare = jax.jit(partial(grpo.prepare, *shared))
            loss_fn, start, extras = partial(grpo.loss, *shared), policy, {}
        # Small, where ratios are large: else rounding grows tenfold a step.
        tx = optax.sgd(5e-4 if kind == "ppo" else 2e-5)
        own = trained.begin(start, lora.OptionalLora())
        state = init_state(own.init, tx, mesh, jax.random.key(0), extras=extras)
        places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        state = state._replace(params=jax.device_put(own.start, places))
        frozen = jax.device_put(reference, sharding.param_shardings(reference, mesh))
        step_fn, seen = make_step(loss_fn, tx, state), []
        learned, _, _ = prepare(
            state.params, frozen, rollout.place(batch, mesh), state.extras
        )
        for number, part in enumerate(loop.minibatches(learned, knobs, (0, 0), mesh)):
            state, metrics = step_fn(state, part)
            seen.append(float(metrics["loss"][0] / metrics["loss"][1]))
            if number == 3:
                break
    return seen, jax.device_get(state.params)


@pytest.mark.parametrize("kind", ["ppo", "grpo", "rloo"])
def test_any_mesh_gives_the_same_losses(rolled, kind):
    want, params = updated(kind, rolled, "", 1)
    for spec in MESHES if kind == "ppo" else MESHES[1:2]:
        found, other = updated(kind, rolled, spec, 8)
        np.testing.assert_allclose(found, want, atol=2e-5)
        worst = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, other)
        assert max(jax.tree.leaves(worst)) < 2e-5


def test_minibatches_are_all_rows_shuffled_afresh():
    mesh = sharding.make_mesh("", jax.devices()[:1])
    batch = {"tokens": jnp.arange(24).reshape(12, 2)}
    knobs = ppo.PpoConfig(num_epochs=2, num_minibatches=3)
    found = [
        np.asarray(part["tokens"])
        for part in loop.minibatches(batch, knobs, (0, 1), mesh)
    ]
    epochs = [np.concatenate(found[i : i + 3]) for i in (0, 3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch, axis=0), batch["tokens"])
    assert (epochs[0] != epochs[1]).any()
    with pytest.raises(ValueError, match="12 answers cannot be cut into 5"):
        loop.check_rows(12, 5, 2, mesh)


def test_adapters_start_at_the_reference_and_train_the_critics_head(rolled):
    policy, _, batch = rolled
    cfg, base, prepare, loss_fn = parts(policy, start="zero")
    head = {"critic": {"head": base["critic"]["head"]}}
    how = lora.OptionalLora(rank=2)
    own = trained.begin(base, how, head)
    adapters = own.init(jax.random.key(0))
    whole = own.whole(adapters)
    learned, _, figures = prepare(whole, policy, batch, ppo.init_extras(cfg))
    assert float(figures["kl"]) < 1e-9
    gradient = jax.grad(
        lambda adapters: own.of(loss_fn)(adapters, learned, None, base)[0]
    )(adapters)
    assert np.abs(gradient["critic"]["head"]["head_DO"]).max() > 0
    assert np.abs(gradient["policy"]["blocks"]["attention"]["q_b_RNH"]).max() > 0


def test_rewards_of_another_model_make_no_critic(tmp_path):
    with pytest.raises(ValueError, match="reads its own trunk"):
        critics.begin(
            critics.CriticConfig(trunk="shared", start=str(tmp_path)), SCORER, {}, None
        )


@pytest.mark.parametrize("kind", ["sigmoid", "robust", "ipo", "hinge", "kto"])
def test_pairs_move_the_right_way(rolled, kind):
    policy, _, batch = rolled
    names = ("tokens", "targets", "weights", "segment_ids")
    pairs = {f"chosen_{name}": batch[name][:4] for name in names}
    pairs |= {f"rejected_{name}": batch[name][4:8] for name in names}
    cfg = dpo.DpoConfig(kind, smoothing=0.1 if kind == "robust" else 0.0)

    def loss(params):
        return dpo.loss(MODEL, cfg, params, pairs, None, policy)

    pairs = {name: np.pad(rows, [(0, 2), (0, 0)]) for name, rows in pairs.items()}
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(policy)
    want = {"sigmoid": np.log(2), "ipo": 25.0, "hinge": 1.0, "kto": 1.0}
    if kind in want:  # at the reference all margins are 0
        np.testing.assert_allclose(value, want[kind], rtol=1e-5)
    assert float(metrics["margin"][0]) == 0 and metrics["loss"][1] == 4
    after = jax.tree.map(lambda leaf, grad: leaf - 1e-3 * grad, policy, gradient)
    moved = loss(after)
    assert moved[0] < value and moved[1]["margin"][0] > 0
    with pytest.raises(ValueError, match="smoothing is not for loss=hinge"):
        dpo.DpoConfig("hinge", smoothing=0.1)
