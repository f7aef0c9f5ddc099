"""Optimizers against updates worked out in float64; schedules by their corners."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llmjax import optim

NAMES = ("adamw", "lion", "adafactor", "muon")


def params():
    rng = np.random.default_rng(0)
    return {
        "blocks": {
            "attention": {
                "q_DNH": rng.normal(size=(2, 8, 2, 3)),
                "o_NHD": rng.normal(size=(2, 2, 3, 8)),
                "q_bias_NH": rng.normal(size=(2, 2, 3)),
            },
            "attention_norm": {"scale_D": rng.normal(size=(2, 8))},
        },
        "embed": {"embed_VD": rng.normal(size=(5, 8))},
    }


def as_float32(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def run(cfg, num_steps=3, scale=1.0):
    """Parameters after some steps on fixed random gradients, and those gradients."""
    tx, _ = optim.make(cfg, 10)
    p = as_float32(params())
    state = tx.init(p)
    rng = np.random.default_rng(1)
    grads = [
        jax.tree.map(lambda x: scale * rng.normal(size=x.shape), params())
        for _ in range(num_steps)
    ]
    for grad in grads:
        updates, state = tx.update(as_float32(grad), state, p)
        p = optax.apply_updates(p, updates)
    return p, grads


def exact(cfg, grads, rule):
    """The same with `rule(path, parameter, gradient, memory, step)`, in float64."""
    p, memory = params(), {}
    schedule = optim.make_schedule(cfg, 10)
    for step, grad in enumerate(grads):
        norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grad)))
        clip = min(1.0, cfg.clip / norm) if cfg.clip else 1.0

        def update(path, w, g, step=step, clip=clip):
            name = jax.tree_util.keystr(path)
            direction = rule(name, g * clip, memory.setdefault(name, {}), step + 1)
            decay = 0.0 if any(x in name for x in cfg.no_decay) else cfg.weight_decay
            return w - float(schedule(step)) * (direction + decay * w)

        p = jax.tree_util.tree_map_with_path(update, p, grad)
    return p


def adam(name, g, memory, t, b1=0.9, b2=0.95, eps=1e-8):
    m = memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    v = memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def lion(name, g, memory, t, b1=0.9, b2=0.95):
    m = memory.get("m", 0)
    memory["m"] = b2 * m + (1 - b2) * g
    return np.sign(b1 * m + (1 - b1) * g)


def muon(name, g, memory, t):
    if "blocks" not in name or "bias" in name or "scale" in name:
        return adam(name, g, memory, t) * 0.5
    m = memory["m"] = 0.95 * memory.get("m", 0) + 0.05 * g
    m_hat = 0.95 * m / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t)
    rows = 8 if "q_DNH" in name else 6
    flat = m_hat.reshape(2, rows, -1)
    out = np.zeros_like(flat)
    for layer, x in enumerate(flat):
        x = x / (np.linalg.norm(x) + 1e-8)
        wide = x.shape[0] <= x.shape[1]
        x = x if wide else x.T
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
        out[layer] = x if wide else x.T
    return 0.2 * np.sqrt(max(flat.shape[1:])) * out.reshape(g.shape)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("name,rule", [("adamw", adam), ("lion", lion), ("muon", muon)])
def test_updates_equal_the_formula(name, rule, clip):
    cfg = optim.OptimConfig(name=name, lr=0.1, clip=clip, adam_lr_ratio=0.5)
    found, grads = run(cfg)
    expected = exact(cfg, grads, rule)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected
    )


def test_adafactor_keeps_less_and_still_descends():
    cfg = optim.OptimConfig(name="adafactor", lr=0.1)
    tx, _ = optim.make(cfg, 10)
    weights = {"mlp": {"up_DF": jnp.ones((256, 512))}}
    sizes = [leaf.size for leaf in jax.tree.leaves(tx.init(weights))]
    assert sum(sizes) < 256 * 512 / 10
    found, _ = run(cfg)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("name", NAMES)
def test_all_minimise_a_quadratic(name):
    cfg = optim.OptimConfig(name=name, lr=0.3, weight_decay=0.0, warmup_fraction=0.0)
    tx, _ = optim.make(cfg, 200)
    p = as_float32(params())
    state = tx.init(p)

    @jax.jit
    def step(p, state):
        grads = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))(p)
        updates, state = tx.update(grads, state, p)
        return optax.apply_updates(p, updates), state

    for _ in range(200):
        p, state = step(p, state)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(p)) < 0.1


def test_decay_is_by_name():
    cfg = optim.OptimConfig()
    assert optim.decays("blocks/mlp/up_DF", cfg) and optim.decays("embed/embed_VD", cfg)
    for path in (
        "blocks/mlp_norm/scale_D",
        "blocks/mlp/up_bias_F",
        "final_norm/bias_D",
    ):
        assert not optim.decays(path, cfg)


def test_schedules_by_their_corners():
    def at(schedule, *steps, **fields):
        cfg = optim.OptimConfig(
            lr=1.0, schedule=schedule, warmup_fraction=0.1, **fields
        )
        f = optim.make_schedule(cfg, 100)
        return [round(float(f(step)), 4) for step in steps]

    assert at("constant", 0, 9, 10, 99) == [0.0909, 0.9091, 1.0, 1.0]
    assert at("linear", 10, 55, 100) == [1.0, 0.5, 0.0]
    assert at("cosine", 10, 55, 100, final_lr_fraction=0.1) == [1.0, 0.55, 0.1]
    assert at("wsd", 10, 70, 85, 100, decay_fraction=0.3) == [1.0, 1.0, 0.5, 0.0]
