"""Meshes and specs from names: values by hand, bad input by its message."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llmjax import sharding
from llmjax.models import presets, transformer


def mesh_of(spec, num_devices=8):
    return sharding.make_mesh(spec, jax.devices()[:num_devices])


def test_a_mesh_from_text():
    assert dict(mesh_of("fsdp=4,tensor=2").shape) == dict(
        data=1, fsdp=4, tensor=2, sequence=1, expert=1, pipeline=1
    )
    assert mesh_of("tensor=2,data=-1").shape["data"] == 4
    assert mesh_of("").shape["data"] == 8


@pytest.mark.parametrize(
    "spec,message",
    [
        ("fsdp=3", "needs 3 devices but there are 8"),
        ("fsdp=16", "needs 16 devices but there are 8"),
        ("fsdp=3,data=-1", "8 devices cannot be divided by 3"),
        ("model=2", "unknown axis 'model'; known: data, fsdp"),
        ("fsdp=two", "must be a positive number or -1"),
        ("fsdp=0", "must be a positive number or -1"),
        ("fsdp=2,fsdp=4", "given twice"),
        ("fsdp=-1,data=-1", "only one size may be -1"),
    ],
)
def test_a_bad_mesh_is_explained(spec, message):
    with pytest.raises(ValueError, match=message):
        mesh_of(spec)


def test_specs_by_hand():
    mesh = mesh_of("fsdp=2,tensor=4")
    spec = sharding.param_spec
    assert spec("attention/q_DNH", (64, 4, 16), mesh) == P("fsdp", "tensor", None)
    stacked = spec("blocks/attention/o_NHD", (3, 4, 16, 64), mesh)
    assert stacked == P(None, "tensor", None, "fsdp")
    assert spec("embed/embed_VD", (256, 64), mesh) == P("tensor", "fsdp")
    # Two key/value heads cannot be divided by four: whole, while D still is split.
    assert spec("attention/k_DKH", (64, 2, 16), mesh) == P("fsdp", None, None)
    # Vectors stay whole, in a stack too.
    assert spec("norm/scale_D", (64,), mesh) == P()
    assert spec("blocks/norm/scale_D", (3, 64), mesh) == P(None)


@pytest.mark.parametrize(
    "path,shape,message",
    [
        ("mlp/up", (4, 4), "parameter mlp/up: .*dimension letters"),
        ("mlp/up_DZ", (4, 4), "unknown dimension 'Z'"),
        ("mlp/up_DF", (4,), r"parameter mlp/up_DF is named DF but has shape \(4,\)"),
        ("mlp/odd_NK", (4, 4), "two dimensions of NK"),
    ],
)
def test_a_name_that_gives_no_spec_is_refused(path, shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.param_spec(path, shape, mesh_of("fsdp=2,tensor=4"))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_parameter_of_every_preset_has_a_spec(name):
    """And on a pod's mesh, what matters is split: no device holds over 1/8 of it."""
    cfg = dataclasses.replace(presets.get(name), num_layers=2)
    params = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    mesh = mesh_of("fsdp=8")
    rows = sharding.table(params, mesh)
    whole = sum(leaf.size * 4 for leaf in jax.tree.leaves(params))
    assert sum(num_bytes for *_, num_bytes in rows) < whole / 8 * 1.05
    assert {row[0] for row in rows} >= {"embed/embed_VD", "blocks/attention/q_DNH"}


def test_batches_that_do_not_divide_are_refused():
    mesh = mesh_of("data=2,fsdp=2,sequence=2")
    sharding.check_batch(8, 64, mesh)
    with pytest.raises(ValueError, match="multiple of 4"):
        sharding.check_batch(6, 64, mesh)
    with pytest.raises(ValueError, match="sequence=2"):
        sharding.check_batch(8, 63, mesh)


def test_a_batch_is_placed_by_rows_and_tokens():
    mesh = mesh_of("data=2,sequence=4")
    place = sharding.placer(mesh)
    batch = {
        "tokens": np.arange(32).reshape(4, 8),
        "class_B": np.arange(4),
        "rank_BA": np.arange(12).reshape(4, 3),  # the letters say what is split
        "tokens_BAT": np.arange(96).reshape(4, 3, 8),
    }
    placed = place(batch)
    for name, shape in (
        ("tokens", (2, 2)), ("class_B", (2,)), ("rank_BA", (2, 3)),
        ("tokens_BAT", (2, 3, 2)),
    ):  # fmt: skip
        np.testing.assert_array_equal(placed[name], batch[name])
        assert placed[name].sharding.shard_shape(batch[name].shape) == shape


def test_constrain_splits_an_activation():
    mesh = mesh_of("data=2,tensor=4")
    with jax.set_mesh(mesh):
        out = jax.jit(lambda x: sharding.constrain(x + 1, "BTF"))(np.zeros((2, 3, 8)))
    expected = jax.sharding.NamedSharding(mesh, P("data", None, "tensor"))
    assert out.sharding.is_equivalent_to(expected, 3)
