"""LoRA: it changes nothing at first, then what a merged model would compute."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llmjax import lora, losses, optim, sharding
from llmjax.checkpoint import Checkpoints, array_folder
from llmjax.config import ComputeConfig, ModelConfig
from llmjax.generate import steps
from llmjax.lora import LoraConfig
from llmjax.models import quantise, transformer
from llmjax.nn.cell import dense
from llmjax.ops import quant
from llmjax.ops.adapter import Adapted, Dropout, names
from llmjax.train.state import init_state
from llmjax.train.step import make_step

CFG = ModelConfig(
    vocab_size=64, num_layers=2, width=32, num_heads=4, num_kv_heads=2, head_width=8,
    ff_width=64, context=32, qkv_bias=True, tied=False,
)  # fmt: skip
ENCODER = dataclasses.replace(transformer.encoder_of(CFG), tied=True)
SEQ2SEQ = dataclasses.replace(CFG, tied=True, encoder=ENCODER)
ALL = (*LoraConfig().targets, "embed", "head")
LORA = LoraConfig(rank=3, alpha=5.0)
KINDS = [
    LORA,
    LoraConfig(rank=3, alpha=5.0, targets=ALL, scaling="alpha/sqrt(r)", bias="all"),
    LoraConfig(rank=2, targets=ALL, dora=True, bias="lora_only"),
    LoraConfig(rank=4, targets=("attention/*",), share_qkv=True),
    LoraConfig(rank=2, whole=("head", "mlp/up")),
]
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 12)).astype(np.int32)


def make(cfg=CFG, layers="scan"):
    return transformer.make(cfg, ComputeConfig(dtype="float32", layers=layers))


def draw(tree, seed=0, size=0.2):
    """Numpy arrays of these shapes."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        return rng.normal(0, size, leaf.shape).astype(np.float32)

    return jax.tree.map(one, tree)


def base_of(cfg=CFG):
    return draw(jax.eval_shape(make(cfg).init, jax.random.key(0)))


def start(lora_cfg, base):
    """Adapters as they begin, in numpy."""
    return jax.device_get(
        jax.jit(partial(lora.init, lora_cfg))(base, jax.random.key(1))
    )


def trained(lora_cfg, base):
    """Adapters of which no part is zero."""
    adapters = start(lora_cfg, base)
    return jax.tree.map(np.add, adapters, draw(adapters, seed=7))


def logits_fn(cfg=CFG, layers="scan"):
    model = make(cfg, layers)

    @jax.jit
    def logits(params):
        batch = {"tokens": TOKENS}
        if cfg.encoder:
            batch["encoder_tokens"] = TOKENS[:, ::-1]
        return model.readout(params, model.apply(params, batch).hidden_BTD)

    return logits


@pytest.mark.parametrize("kind", KINDS, ids=["lora", "all", "dora", "shared", "whole"])
def test_nothing_changes_at_first_and_merged_equals_adapted(kind):
    base, logits = base_of(), logits_fn()
    plain = logits(base)
    first = logits(lora.join(base, start(kind, base), kind))
    if kind.dora:  # magnitude / length is 1 but for rounding
        np.testing.assert_allclose(first, plain, atol=2e-6)
    else:
        np.testing.assert_array_equal(first, plain)
    adapters = trained(kind, base)
    adapted = logits(lora.join(base, adapters, kind))
    merged = jax.jit(partial(lora.merge, cfg=kind))(base, adapters)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, base)
    np.testing.assert_allclose(logits(merged), adapted, atol=1e-5)
    assert np.abs(adapted - plain).max() > 0.05


def test_encoder_decoder_merged_equals_adapted():
    base, logits = base_of(SEQ2SEQ), logits_fn(SEQ2SEQ)
    adapters = trained(LORA, base)
    assert "cross" in adapters["blocks"] and "encoder" in adapters
    adapted = logits(lora.join(base, adapters, LORA))
    np.testing.assert_allclose(
        logits(lora.merge(base, adapters, LORA)), adapted, atol=1e-5
    )
    assert np.abs(adapted - logits(base)).max() > 0.05


def test_the_change_is_alpha_over_rank_times_a_b():
    """By hand, in float64, for a matrix that reads one axis and one that reads two."""
    base = base_of()
    adapters = trained(LORA, base)
    merged = lora.merge(base, adapters, LORA)["blocks"]["attention"]
    own, frozen = adapters["blocks"]["attention"], base["blocks"]["attention"]
    for name, equation in (("q_DNH", "ldr,lrnh->ldnh"), ("o_NHD", "lnhr,lrd->lnhd")):
        a, b = (own[part].astype(np.float64) for part in names(name)[:2])
        change = 5.0 / 3 * np.einsum(equation, a, b)
        np.testing.assert_allclose(merged[name], frozen[name] + change, atol=1e-6)
    rooted = dataclasses.replace(LORA, scaling="alpha/sqrt(r)")
    assert rooted.scale == pytest.approx(5 / 3**0.5)


def test_counts_by_hand():
    base = jax.eval_shape(make().init, jax.random.key(0))

    def count(**fields):
        cfg = LoraConfig(rank=4, **fields)
        shapes = jax.eval_shape(partial(lora.init, cfg), base, jax.random.key(0))
        return lora.count(shapes)

    assert count(targets=("attention/q",)) == 2 * (32 * 4 + 4 * 32)
    assert count(targets=("attention/k",), dora=True) == 2 * (32 * 4 + 4 * 16 + 16)
    assert count(targets=("attention/o",), bias="all") == 2 * (2 * 32 * 4 + 32 + 2 * 16)
    shared = count(targets=("attention/*",), share_qkv=True)
    assert shared == 2 * (32 * 4 + 4 * (32 + 16 + 16) + 2 * 32 * 4)


def test_gradients_by_hand():
    """x W + (x a) b, and DoRA's, whose length is a constant (Liu et al. 2024, 4.3)."""
    rng = np.random.default_rng(0)
    shapes = dict(
        x=(2, 5, 6), w=(6, 3, 4), a=(6, 2), b=(2, 3, 4), m=(3, 4), d=(2, 5, 3, 4)
    )
    of = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    f32 = {name: jnp.asarray(array, jnp.float32) for name, array in of.items()}

    @partial(jax.jit, static_argnums=1)
    def grads(arrays, is_dora):
        def total(a, b, m):
            weight = Adapted(arrays["w"], a, b, m if is_dora else None)
            y = dense("BTD,DNH->BTNH", arrays["x"], weight)
            return (y * arrays["d"]).sum()

        return jax.grad(total, argnums=(0, 1, 2))(arrays["a"], arrays["b"], arrays["m"])

    read = np.einsum("btd,dr->btr", of["x"], of["a"])
    whole = of["w"] + np.einsum("dr,rnh->dnh", of["a"], of["b"])
    gain = of["m"] / np.sqrt((whole**2).sum(0))
    for is_dora in (False, True):
        dy = of["d"] * gain if is_dora else of["d"]
        da, db, dm = grads(f32, is_dora)
        expected = np.einsum("btd,btnh,rnh->dr", of["x"], dy, of["b"])
        np.testing.assert_allclose(da, expected, atol=1e-4)
        expected = np.einsum("btr,btnh->rnh", read, dy)
        np.testing.assert_allclose(db, expected, atol=1e-4)
    y = np.einsum("btd,dnh->btnh", of["x"], whole)
    expected = (of["d"] * y).sum((0, 1)) * gain / of["m"]
    np.testing.assert_allclose(dm, expected, atol=1e-4)


def test_gradients_of_a_model_are_those_through_the_merged_weights():
    base = base_of()
    adapters = trained(LORA, base)
    model = make()

    def loss(params):
        return jnp.sin(model.apply(params, {"tokens": TOKENS}).hidden_BTD).sum()

    @jax.jit
    def both(adapters, base):
        through = jax.grad(lambda own: loss(lora.join(base, own, LORA)))(adapters)
        merged = jax.grad(lambda own: loss(lora.merge(base, own, LORA)))(adapters)
        return through, merged

    for got, expected in zip(*map(jax.tree.leaves, both(adapters, base)), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "nf4"])
def test_bases_in_fewer_bits(dtype):
    if dtype == "nf4":
        pytest.importorskip("qwix")
    base, logits = quantise.narrow(base_of(), dtype), logits_fn()
    cfg = dataclasses.replace(LORA, dora=dtype == "int8")
    plain = logits(base)
    first = logits(lora.join(base, start(cfg, base), cfg))
    np.testing.assert_allclose(first, plain, atol=5e-6 if cfg.dora else 0)
    adapters = trained(cfg, base)
    adapted = logits(lora.join(base, adapters, cfg))
    merged = logits(lora.merge(base, adapters, cfg))
    # What is merged into bfloat16 is rounded to it.
    np.testing.assert_allclose(
        merged, adapted, atol=0.1 if dtype == "bfloat16" else 3e-5
    )
    assert np.abs(adapted - plain).max() > 0.05


def test_nf4_is_blocks_of_quantiles():
    """By hand: each block of 64 along the input, by its largest, to 16 values."""
    pytest.importorskip("qwix")
    values = np.array(  # appendix E of Dettmers et al. 2023
        [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
         -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
         0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
         0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
         0.7229568362236023, 1.0]
    )  # fmt: skip
    weight = np.random.default_rng(0).normal(size=(2, 128, 3, 4)).astype(np.float32)
    found = quant.quantise_nf4("q_DNH", weight)
    blocks = weight.reshape(2, 2, 64, 3, 4)
    largest = np.abs(blocks).max(2, keepdims=True)
    nearest = np.abs(blocks[..., None] / largest[..., None] - values).argmin(-1)
    expected = (values[nearest] * largest).reshape(weight.shape)
    np.testing.assert_allclose(quant.restore("q_DNH", found), expected, atol=1e-6)
    assert found.codes.dtype == jnp.uint4 and found.scale.shape == (2, 2, 3, 4)


def test_decoding_by_layer_with_turned_matrices():
    base = base_of()
    for kind in (LORA, KINDS[2]):
        params = lora.join(base, trained(kind, base), kind)
        whole = logits_fn()(params)
        turned = steps.by_layer(params)
        assert isinstance(turned["blocks"], list)
        np.testing.assert_allclose(logits_fn()(turned), whole, atol=1e-5)


def test_dropout():
    """Of what adapters read alone; another in each layer, matrix and step."""
    cfg = dataclasses.replace(LORA, dropout=0.5, targets=("attention/*",))
    base = base_of()
    logits = logits_fn()
    joined = jax.jit(partial(lora.join, cfg=cfg))
    begin, adapters = start(cfg, base), trained(cfg, base)
    key = jax.random.key(3)
    np.testing.assert_array_equal(logits(joined(base, begin, key=key)), logits(base))
    kept = joined(base, adapters, key=key)["blocks"]["attention"]
    keys = [jax.random.key_data(kept[f"{m}_dropout"].key) for m in "qkvo"]
    assert len({tuple(one) for of in keys for one in of.tolist()}) == 2 * 4
    plain = logits(lora.join(base, adapters, cfg))
    dropped = logits(joined(base, adapters, key=key))
    assert np.abs(dropped - plain).max() > 1e-3
    x, a = np.ones((1, 4000, 8), np.float32), np.ones((8, 1), np.float32)
    weight = Adapted(
        np.zeros((8, 1), np.float32), a, np.ones((1, 1), np.float32),
        dropout=Dropout(key, jnp.float32(0.25)),
    )  # fmt: skip
    y = dense("BTD,DF->BTF", x, weight)
    np.testing.assert_allclose(y.mean(), 8, atol=0.15)
    assert set(np.unique(np.round(np.asarray(y) * 0.75, 3))) == set(
        map(float, range(1, 9))
    )


MESHES = ["data=2,fsdp=2,tensor=2", "fsdp=2,tensor=2,pipeline=2"]


def train(spec, num_devices, cfg=LORA, num_steps=3):
    """(losses, state, base) of some steps of the adapters alone."""
    mesh = sharding.make_mesh(spec, jax.devices()[:num_devices])
    model, base = make(), base_of()
    adapters = start(cfg, base)
    tx, _ = optim.make(optim.OptimConfig(name="adamw", lr=1e-2), 20)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 64, (8, 17)).astype(np.int32)
    batch = {
        "tokens": ids[:, :-1], "targets": ids[:, 1:],
        "weights": np.ones((8, 16), np.float32),
    }  # fmt: skip

    def loss_fn(adapters, batch, key, base):
        params = lora.join(base, adapters, cfg, key)
        return losses.next_token(model, params, batch, key)

    found = []
    with jax.set_mesh(mesh):
        base = jax.device_put(base, sharding.param_shardings(base, mesh))
        state = init_state(lambda _: adapters, tx, mesh, jax.random.key(0))
        step = make_step(loss_fn, tx, state, frozen=base)
        placed = sharding.placer(mesh)(batch)
        for _ in range(num_steps):
            state, metrics = step(state, placed)
            found.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return found, state, base


@pytest.fixture(name="alone", scope="module")
def _alone():
    return train("data=1", 1)


@pytest.mark.parametrize("spec", MESHES)
def test_sharded_equals_single_device(alone, spec):
    expected, state, _ = alone
    found, sharded, _ = train(spec, 8)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    assert found[-1] < found[0]
    for one, other in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(sharded.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=5e-5)
    mlp = sharded.params["blocks"]["mlp"]
    assert mlp["up_a_DR"].sharding.spec[1:] == ("fsdp", None)
    assert mlp["up_b_RF"].sharding.spec[1:] == (None, "tensor")


def test_only_adapters_and_their_moments_are_kept(alone, tmp_path):
    _, state, base = alone
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, state, {})
    _, types = array_folder(tmp_path / "c")
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    own = {path[-1].key for path, _ in leaves}
    for name in types:
        last = name.rpartition("/")[2]
        assert last in own or last in ("step", "key", "count"), name
    stored = sum(int(np.prod(shape)) for shape, _ in types.values())
    num_own = lora.count(state.params)
    assert 3 * num_own <= stored < 3 * num_own + 10  # counts and the key
    assert num_own < 0.4 * sum(leaf.size for leaf in jax.tree.leaves(base))


def test_names_that_do_not_fit():
    base = base_of()
    with pytest.raises(ValueError, match="'attention/w' matches no matrix; there are"):
        lora.init(LoraConfig(targets=("attention/w",)), base, jax.random.key(0))
    adapters = trained(LORA, base)
    lora.check(base, adapters)
    other = dataclasses.replace(CFG, ff_width=48)
    message = r"mlp/down_a_FR has shape \(2, 64, 3\); the base calls for \(2, 48, R\)"
    with pytest.raises(ValueError, match=message):
        lora.check(base_of(other), adapters)
    gpt2 = dataclasses.replace(CFG, gated=False)
    with pytest.raises(ValueError, match="mlp/gate_a_DR: the base has no matrix"):
        lora.check(base_of(gpt2), adapters)
    tied = base_of(dataclasses.replace(CFG, tied=True))
    cfg = LoraConfig(targets=("embed",))
    with pytest.raises(ValueError, match="the head may be the same"):
        lora.merge(tied, trained(cfg, tied), cfg)
    with pytest.raises(ValueError, match="rank=0"):
        LoraConfig(rank=0)


@pytest.mark.parametrize("held_in", ["float32", "int8", "nf4"])
def test_a_tied_head_stays_as_it_was_where_the_embedding_is_adapted(held_in):
    tied = dataclasses.replace(CFG, tied=True)
    kind = LoraConfig(rank=2, targets=("embed", "mlp/up"), base=held_in)
    base = quantise.narrow(base_of(tied), held_in)
    adapters = trained(kind, base)
    merged = lora.merge(lora.untied(base), adapters, kind)
    joined = lora.join(base, adapters, kind)
    found, wanted = logits_fn(CFG)(merged), logits_fn(tied)(joined)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_matrices_that_are_trained_whole():
    kind = LoraConfig(rank=2, targets=("attention/q",), whole=("head",))
    base = base_of()
    adapters = trained(kind, base)
    assert set(adapters) == {"blocks", "head"}
    lora.check(base, adapters)
    merged = lora.merge(base, adapters, kind)
    np.testing.assert_array_equal(
        merged["head"]["head_DV"], adapters["head"]["head_DV"]
    )
    fields = json.loads(json.dumps(dataclasses.asdict(kind)))
    assert LoraConfig.from_json(fields) == kind
    with pytest.raises(ValueError, match="'tail' matches no matrix"):
        start(dataclasses.replace(kind, whole=("tail",)), base)
    narrow = quantise.narrow(base, "int8")
    with pytest.raises(ValueError, match="head/head_DV is held in fewer bits"):
        start(kind, narrow)
    wrong = {"head": {"head_DV": adapters["head"]["head_DV"][:, :9]}}
    with pytest.raises(ValueError, match=r"head/head_DV has shape \(32, 9\)"):
        lora.check(base, wrong)


def test_lora_may_be_left_out():
    assert lora.OptionalLora().rank == 0
    with pytest.raises(ValueError, match="rank=-1 must be at least 0"):
        lora.OptionalLora(rank=-1)
