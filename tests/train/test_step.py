"""One update: the same on every mesh, in parts or whole, and never a NaN."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import losses, optim, sharding
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.metrics import reduce_metrics
from llmjax.models import transformer
from llmjax.train import hooks
from llmjax.train.state import init_state
from llmjax.train.step import make_step

CFG = ModelConfig(
    vocab_size=64, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_width=8,
    ff_width=64, context=32, qk_norm="head",
)  # fmt: skip
MESHES = [
    "fsdp=8",
    "data=2,fsdp=2,tensor=2",
    "data=2,tensor=2,sequence=2",
    "fsdp=2,tensor=2,pipeline=2",
    "data=4,sequence=2",
]


def make_batch(seed=0, rows=8, width=32):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, CFG.vocab_size, (rows, width + 1))
    weights = (rng.random((rows, width)) < 0.8).astype(np.float32)
    segments = np.sort(rng.integers(1, 4, (rows, width)), axis=1)
    return {
        "tokens": ids[:, :-1].astype(np.int32),
        "targets": ids[:, 1:].astype(np.int32),
        "weights": weights,
        "segment_ids": segments.astype(np.int32),
    }


def setup(mesh, compute=ComputeConfig(), name="adamw", layers=2, **kwargs):
    """(state, step) of the small model; call under `jax.set_mesh(mesh)`."""
    model = transformer.make(dataclasses.replace(CFG, num_layers=layers), compute)
    tx, _ = optim.make(optim.OptimConfig(name=name, lr=1e-2, schedule="linear"), 20)
    state = init_state(
        model.init, tx, mesh, jax.random.key(0), ema="ema_decay" in kwargs
    )
    loss_fn = partial(losses.next_token, model, chunk_tokens=64, z_loss=1e-3)
    return state, make_step(loss_fn, tx, state, **kwargs)


def run(spec, num_devices=8, num_steps=10, **kwargs):
    """(losses, last state) of some steps on a mesh."""
    mesh = sharding.make_mesh(spec, jax.devices()[:num_devices])
    found = []
    with jax.set_mesh(mesh):
        state, step = setup(mesh, **kwargs)
        for number in range(num_steps):
            batch = jax.device_put(make_batch(number), sharding.batch_sharding(mesh))
            state, metrics = step(state, batch)
            found.append(reduce_metrics({"loss": metrics["loss"]})["loss"])
    return np.array(found), state


@pytest.fixture(name="one_device", scope="module")
def _one_device():
    return run("", 1)


@pytest.mark.parametrize(
    "layers", ["scan", pytest.param("unroll", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("spec", MESHES)
def test_ten_losses_equal_one_device(one_device, spec, layers, capfd, compile_afresh):
    found, state = run(spec, compute=ComputeConfig(layers=layers))
    np.testing.assert_allclose(found, one_device[0], rtol=2e-5)
    assert "rematerialization" not in capfd.readouterr().err
    moments = state.opt_state[1].mu
    for param, moment in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(moments), strict=True
    ):
        assert param.sharding == moment.sharding
    if "fsdp" in spec:
        up = state.params["blocks"]["mlp"]["up_DF"]
        assert up.addressable_shards[0].data.shape[1] == 32 // state_fsdp(spec)


def state_fsdp(spec):
    return int(dict(part.split("=") for part in spec.split(","))["fsdp"])


def test_muon_on_a_mesh_equals_one_device():
    expected, _ = run("", 1, num_steps=4, name="muon")
    found, _ = run("fsdp=4,tensor=2", num_steps=4, name="muon")
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_the_old_state_is_donated():
    mesh = sharding.make_mesh("fsdp=8")
    with jax.set_mesh(mesh):
        state, step = setup(mesh)
        batch = jax.device_put(make_batch(), sharding.batch_sharding(mesh))
        step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert state.opt_state[1].mu["embed"]["embed_VD"].is_deleted()


@pytest.mark.parametrize("num", [2, 4])
def test_accumulation_equals_the_large_batch(one_device, num):
    """Rows differ in their number of targets, so a mean of means would not do."""
    found, _ = run("", 1, accumulate=num)
    np.testing.assert_allclose(found, one_device[0], rtol=1e-5)
    found, _ = run("data=2,fsdp=2,tensor=2", accumulate=2)
    np.testing.assert_allclose(found, one_device[0], rtol=2e-5)


def test_backward_computes_again_what_it_does_not_keep():
    """Were a barrier dropped on the way, both programs would need the same memory."""
    temp_bytes = []
    mesh = sharding.make_mesh("", jax.devices()[:1])
    for remat in ("auto", "none"):
        with jax.set_mesh(mesh):
            compute = ComputeConfig(layers="unroll", remat=remat)
            state, step = setup(mesh, compute, layers=6)
            compiled = step.lower(state, make_batch(rows=64)).compile()
        temp_bytes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temp_bytes[0] < 0.75 * temp_bytes[1]


def test_ema_follows_its_formula():
    mesh = sharding.make_mesh("", jax.devices()[:1])
    with jax.set_mesh(mesh):
        state, step = setup(mesh, ema_decay=0.75)
        expected = jax.device_get(state.params)
        for number in range(3):
            state, _ = step(state, make_batch(number))
            expected = jax.tree.map(
                lambda old, new: 0.75 * old + 0.25 * np.asarray(new),
                expected,
                state.params,
            )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        state.extras["ema"],
        expected,
    )


def test_a_bad_gradient_changes_nothing():
    mesh = sharding.make_mesh("", jax.devices()[:1])
    with jax.set_mesh(mesh):
        state, step = setup(mesh)
        before = jax.device_get(state.params)
        batch = make_batch()
        batch["weights"][0, 0] = np.nan
        state, metrics = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, state.params, before)
    assert int(state.step) == 1 and not np.isfinite(metrics["grad_norm"])
    log = hooks.Log(lambda step, figures: None, lambda step: 0.0)
    log(1, state, metrics)
    with pytest.raises(FloatingPointError, match="step 1: the loss is not finite"):
        log.flush()


def test_the_first_bad_tensor_is_named():
    """A gradient that overflows while the loss is fine."""

    @jax.custom_vjp
    def poison(x):
        return x

    poison.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.inf,))
    mesh = sharding.make_mesh("", jax.devices()[:1])

    def loss_fn(params, batch, key):
        bad = jnp.sum(poison(params["mlp"]["up_DF"])) + jnp.sum(params["z"]["scale_D"])
        return bad, {"loss": (bad, jnp.ones(()))}

    def init(key):
        return {"mlp": {"up_DF": jnp.ones((2, 2))}, "z": {"scale_D": jnp.ones(2)}}

    tx, _ = optim.make(optim.OptimConfig(), 10)
    state = init_state(init, tx, mesh, jax.random.key(0))
    state, metrics = make_step(loss_fn, tx, state)(state, {})
    log = hooks.Log(lambda step, figures: None, lambda step: 0.0)
    log(1, state, metrics)
    with pytest.raises(FloatingPointError, match="gradient of mlp/up_DF is not finite"):
        log.flush()


def test_metrics_are_read_one_step_late():
    written = []
    log = hooks.Log(lambda step, figures: written.append((step, figures)), lambda s: s)
    for step in (1, 2):
        norms = {"a_D": jnp.ones(())}
        loss = (jnp.float32(6.0 * step), jnp.float32(3))
        log(step, None, {"loss": loss, "grad_norm": jnp.ones(()), "grad_norms": norms})
        assert len(written) == step - 1
    log.flush()
    assert [(step, figures["loss"], figures["lr"]) for step, figures in written] == [
        (1, 2.0, 0.0),
        (2, 4.0, 1.0),
    ]


def test_golden_losses():
    """The numbers of this very model: a change of any part of the maths shows here."""
    found, _ = run("", 1, num_steps=3)
    np.testing.assert_allclose(found, GOLDEN, rtol=1e-4)


GOLDEN = [4.1641282, 4.1571404, 4.1747768]
