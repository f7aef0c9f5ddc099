"""Checkpoints come back bit for bit, or say in a line why they do not."""

import contextlib
import gc
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llmjax import checkpoint

SPECS = {"q_DNH": PartitionSpec("fsdp"), "up_DF": PartitionSpec("fsdp", "tensor")}
TX = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.masked(optax.adamw(1e-3), {"q_DNH": True, "up_DF": True, "scale_D": False}),
)


def make_mesh(fsdp, tensor):
    types = (jax.sharding.AxisType.Auto,) * 2
    devices = jax.devices()[: fsdp * tensor]
    return jax.make_mesh((fsdp, tensor), ("fsdp", "tensor"), types, devices=devices)


def init(key):
    keys = jax.random.split(key, 3)
    params = {
        "q_DNH": jax.random.normal(keys[0], (8, 4, 3)),
        "up_DF": jax.random.normal(keys[1], (8, 16)),
        "scale_D": jax.random.normal(keys[2], (8,), jnp.bfloat16),
    }
    return {
        "step": jnp.int32(7),
        "params": params,
        "opt_state": jax.tree.map(lambda x: x + 1, TX.init(params)),
        "key": key,
        "extras": {},
    }


def abstract_state(mesh):
    def place(path, leaf):
        spec = SPECS.get(getattr(path[-1], "key", None), PartitionSpec())
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree_util.tree_map_with_path(place, jax.eval_shape(init, key()))


def make_state(mesh):
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(mesh))
    return jax.jit(init, out_shardings=shardings)(key())


# When one file fails, orbax drops the coroutines that were busy with the others.
dropped_tasks = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine .* was never awaited:RuntimeWarning",
)


def key():
    return jax.random.key(3)


def small_state(num=1000):
    return {"params": {"w_D": jnp.arange(num, dtype=jnp.float32)}, "step": jnp.int32(0)}


def small_abstract():
    return jax.eval_shape(small_state)


def stored_files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def assert_same_bits(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with step 7 of `make_state`; tests only read it."""
    directory = tmp_path_factory.mktemp("saved")
    with checkpoint.Checkpoints(directory) as checkpoints:
        checkpoints.save(7, make_state(make_mesh(4, 2)), {"row": 56})
    return directory


@pytest.mark.parametrize("shape", [(4, 2), (2, 1), (1, 8)])
def test_round_trip_is_bit_exact_on_any_mesh(saved, shape):
    abstract = abstract_state(make_mesh(*shape))
    with checkpoint.Checkpoints(saved) as checkpoints:
        state, meta = checkpoints.restore(abstract)
    assert meta == {"row": 56}
    assert_same_bits(state, make_state(make_mesh(4, 2)))
    for leaf, expected in zip(
        jax.tree.leaves(state), jax.tree.leaves(abstract), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(expected.sharding, leaf.ndim)
    assert jax.random.key_impl(state["key"]) == jax.random.key_impl(key())


def test_reads_of_a_part(saved):
    abstract = jax.eval_shape(init, key())["params"]
    params = checkpoint.read_params(saved, abstract)
    assert_same_bits(params, make_state(make_mesh(4, 2))["params"])
    assert all(len(leaf.sharding.device_set) == 1 for leaf in params.values())
    assert checkpoint.read_meta(saved) == {"row": 56}


def test_arrays_are_stored_uncompressed(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w_D": jnp.zeros(100_000)}, {})  # zstd makes this 30 bytes
    assert sum(path.stat().st_size for path in stored_files(tmp_path)) > 400_000


def test_saved_state_may_be_donated_at_once(tmp_path):
    state = {"w_D": jnp.arange(1 << 20, dtype=jnp.float32)}
    abstract = jax.eval_shape(lambda: state)
    negate = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        for _ in range(3):
            state = negate(state)
        restored, _ = checkpoints.restore(abstract)
    np.testing.assert_array_equal(restored["w_D"], np.arange(1 << 20))


def test_meta_may_be_changed_at_once(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        meta = {"rows": [1]}
        checkpoints.save(1, small_state(), meta)
        meta["rows"].append(2)
        assert checkpoints.restore(small_abstract())[1] == {"rows": [1]}


@pytest.mark.parametrize(
    "change, line",
    [
        (
            lambda s: s["params"].pop("q_DNH"),
            "unexpected  params/q_DNH: stored float32[8, 4, 3]",
        ),
        (
            lambda s: s["params"].update(new_D=jax.ShapeDtypeStruct((2,), jnp.int8)),
            "missing     params/new_D: expected int8[2]",
        ),
        (
            lambda s: s["params"].update(
                up_DF=jax.ShapeDtypeStruct((8, 9), jnp.float32)
            ),
            "shape       params/up_DF: stored float32[8, 16], expected float32[8, 9]",
        ),
        (
            lambda s: s["params"].update(
                up_DF=jax.ShapeDtypeStruct((8, 16), jnp.bfloat16)
            ),
            "dtype       params/up_DF: stored float32[8, 16], expected bfloat16[8, 16]",
        ),
        (
            lambda s: s.update(
                key=jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))
            ),
            "shape       key: stored uint32[2], expected uint32[4]",
        ),
        (
            lambda s: s.update(key=jax.ShapeDtypeStruct((2,), jnp.uint32)),
            "shape       key: stored key<fry>[], expected uint32[2]",
        ),
        (
            lambda s: s.update(opt_state=optax.sgd(1e-3).init(s["params"])),
            "unexpected  opt_state/1/inner_state/0/count: stored int32[]",
        ),
    ],
)
def test_restore_refuses_another_tree(saved, change, line):
    abstract = jax.eval_shape(init, key())
    change(abstract)
    refusal = pytest.raises(ValueError, match=r"step 7 in .* does not fit")
    with checkpoint.Checkpoints(saved) as checkpoints, refusal as error:
        checkpoints.restore(abstract)
    assert line in [text.strip() for text in str(error.value).splitlines()]


def test_read_params_is_strict_too(saved):
    abstract = jax.eval_shape(init, key())["params"]
    del abstract["scale_D"]
    with pytest.raises(ValueError, match="unexpected  params/scale_D: stored bfloat16"):
        checkpoint.read_params(saved, abstract)


def test_a_long_difference_is_cut():
    lines = checkpoint.compare_trees(
        {}, {f"w{i:02}": ((1,), "int8") for i in range(30)}
    )
    assert len(lines) == 30
    text = checkpoint._listed(lines).splitlines()[1:]
    assert len(text) == 21 and text[-1].strip() == "... and 10 more"


def test_keeps_the_newest_and_every_nth(tmp_path):
    policy = dict(max_to_keep=2, keep_every_steps=4)
    with checkpoint.Checkpoints(tmp_path, **policy) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in range(1, 8):
            assert checkpoints.save(step, small_state(), {"at": step})
        assert not checkpoints.save(7, small_state(), {"at": 0})
        assert checkpoints.steps() == [4, 6, 7]
        assert checkpoints.restore(small_abstract(), step=4)[1] == {"at": 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["4", "6", "7"]


def test_an_earlier_step_may_be_saved_after_a_later_one(tmp_path):
    """As a run does that goes back to step 1 and on from there."""
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (1, 5, 3):
            assert checkpoints.save(step, small_state(), {})
        assert checkpoints.steps() == [1, 3, 5]


def test_an_interrupted_save_is_ignored_then_cleared(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, small_state(), {})
    leftover = tmp_path / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "1", leftover)
    checkpoint.read_meta(tmp_path)
    assert leftover.exists()  # reading disturbs no run that is writing there
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert not leftover.exists()
        assert checkpoints.latest_step() == 1


KILLED = """
import sys, jax.numpy as jnp
from llmjax import checkpoint
checkpoints = checkpoint.Checkpoints(sys.argv[1])
for step in range(1, 1000):
    params = {"w_D": jnp.full(300_000, step, jnp.float32)}
    checkpoints.save(step, {"params": params}, {})
    print(step, flush=True)
"""


@pytest.mark.parametrize("delay_secs", [0.0, 0.02])
def test_a_killed_run_leaves_a_whole_step(tmp_path, delay_secs):
    """kill -9 in the middle of a save: the newest complete step is there, unmixed."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True
    ) as run:
        started = [int(run.stdout.readline()) for _ in range(3)]
        time.sleep(delay_secs)
        run.kill()
    abstract = {"params": {"w_D": jax.ShapeDtypeStruct((300_000,), jnp.float32)}}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        step = checkpoints.latest_step()
        assert step >= started[-1] - 1
        state, _ = checkpoints.restore(abstract)
        np.testing.assert_array_equal(state["params"]["w_D"], np.full(300_000, step))


@contextlib.contextmanager
def files_limited_to(num_bytes):
    """As on a full disk, writing more fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


@dropped_tasks
def test_a_failed_save_is_told_at_the_next_call_and_survived(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, small_state(), {})
    checkpoints.wait()
    with files_limited_to(100_000):
        checkpoints.save(2, small_state(100_000), {})
        with pytest.raises(checkpoint.CheckpointError, match="step 2 was not saved in"):
            checkpoints.latest_step()
    assert checkpoints.steps() == [1]
    checkpoints.save(3, small_state(), {})
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]
    gc.collect()


@dropped_tasks
@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt", "metadata"])
@pytest.mark.parametrize("cut", [True, False])
def test_damage_is_named(saved, tmp_path, name, cut):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    item = "meta" if name == "metadata" else "state"
    path = tmp_path / "7" / item / name
    if cut:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.unlink()
    refusal = pytest.raises(checkpoint.CheckpointError)
    with checkpoint.Checkpoints(tmp_path) as checkpoints, refusal as error:
        checkpoints.restore(jax.eval_shape(init, key()))
    gc.collect()
    message = str(error.value)
    assert f"step 7 in {tmp_path} is damaged" in message and "\n" not in message


def test_nothing_to_restore(tmp_path):
    with checkpoint.Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        with pytest.raises(
            FileNotFoundError, match=r"no checkpoint in .*/run/checkpoi"
        ):
            checkpoints.restore(small_abstract())
        checkpoints.save(2, small_state(), {})
        with pytest.raises(FileNotFoundError, match=r"no step 3 in .*, only 2"):
            checkpoints.restore(small_abstract(), step=3)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        checkpoint.read_meta(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_in_place_of_the_folder(tmp_path):
    path = tmp_path / "checkpoints"
    path.write_text("")
    with pytest.raises(ValueError, match="checkpoints is a file"):
        checkpoint.Checkpoints(path)


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run"])
def test_other_storage_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="local folders only"):
        checkpoint.Checkpoints(url)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "new/checkpoints"])
def test_a_folder_without_permission(name):
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root may write anywhere
        try:
            with pytest.raises(PermissionError, match="cannot write into") as error:
                checkpoint.Checkpoints(os.path.join(directory, name))
        finally:
            os.seteuid(user)
            os.chmod(directory, 0o755)
        assert "\n" not in str(error.value) and directory in str(error.value)


def test_compare_config():
    saved = {"model": {"width": 64, "pattern": [1, 2]}, "optim": {"lr": 1e-3}}
    assert checkpoint.compare_config(saved, saved) == []
    same = {"model": {"width": 64, "pattern": (1, 2)}, "optim": {"lr": 0.001}}
    assert checkpoint.compare_config(saved, same) == []
    checkpoint.check_config(saved, same)
    other = {"model": {"width": 128, "pattern": [1, 2], "depth": None}, "optim": {}}
    lines = checkpoint.compare_config(saved, other)
    assert lines == [
        "model.depth: absent -> null",
        "model.width: 64 -> 128",
        "optim.lr: 0.001 -> absent",
    ]
    with pytest.raises(ValueError, match="--allow_config_change") as error:
        checkpoint.check_config(saved, other)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == lines
