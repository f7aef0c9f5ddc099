"""tools/convert.py: the same bytes back, and nothing left behind by failures."""

import dataclasses
import json
import pathlib
import resource
import shutil
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from absl.testing import flagsaver

from llmjax import checkpoint, load, sharding
from llmjax.interop import gguf, hf, leaves
from tests.interop import test_gguf
from tools import convert

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
NAMES = sorted(path.parent.name for path in GOLDEN.glob(f"*/{hf.WEIGHTS}"))


def run(src, dst, *arguments: str) -> None:
    with flagsaver.flagsaver():
        flags.FLAGS(["convert", *arguments])
        convert.main(str(src), str(dst))


def checkpoint_of(name: str, folder: pathlib.Path) -> pathlib.Path:
    """A copy of a golden, without its outputs."""
    folder.mkdir()
    for file in (hf.CONFIG, hf.WEIGHTS):
        shutil.copy(GOLDEN / name / file, folder / file)
    return folder


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in hf.open_folder(folder).items()}


def assert_same_model(path: pathlib.Path, folder: pathlib.Path) -> None:
    """What llmjax opens at `path` is the Hugging Face checkpoint in `folder`."""
    cfg, params = hf.load(folder)
    loaded = load.load(path)
    assert loaded.cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_gives_the_same_bytes(name, tmp_path):
    source = checkpoint_of(name, tmp_path / "source")
    run(source, tmp_path / "run")
    run(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("block_bytes", [2**23, 1000])
@pytest.mark.parametrize("name", ["gpt2", "llama_biased"])
def test_every_way_gives_the_same_bytes(name, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(leaves, "MAX_BLOCK_BYTES", block_bytes)
    source = checkpoint_of(name, tmp_path / "source")
    run(source, tmp_path / "run")
    assert_same_model(tmp_path / "run", source)
    run(tmp_path / "run", tmp_path / "back")
    run(tmp_path / "run", tmp_path / "like", f"--like={source}")
    run(source, tmp_path / "copy", "--format=hf")
    for folder in ("back", "like", "copy"):
        assert contents(tmp_path / folder) == contents(source)


def hub_checkpoint(folder: pathlib.Path) -> pathlib.Path:
    """GPT-2 as on the hub: shards, no prefix, masks, the tied head again, and zeros."""
    arrays = {
        name.removeprefix("transformer."): array.astype(ml_dtypes.bfloat16)
        for name, array in tensors(GOLDEN / "gpt2").items()
    }
    arrays["lm_head.weight"] = arrays["wte.weight"]
    for layer in range(3):
        arrays[f"h.{layer}.attn.c_attn.bias"][:] = 0
    arrays["h.1.attn.bias"] = np.tril(np.ones((1, 1, 29, 29), bool))
    arrays["h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    folder.mkdir()
    shutil.copy(GOLDEN / "gpt2" / hf.CONFIG, folder)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = {}
    for i in range(3):
        names = sorted(arrays)[i::3]
        files |= dict.fromkeys(names, f"part-{i}.safetensors")
        shard = {name: np.ascontiguousarray(arrays[name]) for name in names}
        safetensors.numpy.save_file(shard, folder / f"part-{i}.safetensors")
    (folder / hf.INDEX).write_text(json.dumps({"weight_map": files}))
    return folder


def test_form_of_the_source_is_remembered(tmp_path):
    source = hub_checkpoint(tmp_path / "hub")
    run(source, tmp_path / "run")
    assert_same_model(tmp_path / "run", source)
    run(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(source)


def test_another_dtype_and_shards(tmp_path):
    source = checkpoint_of("llama_biased", tmp_path / "source")
    (source / "tokenizer_config.json").write_text("{}")
    arguments = ("--dtype=bfloat16", "--max_shard_bytes=6000")
    run(source, tmp_path / "small", *arguments, "--format=hf")
    run(source, tmp_path / "run")
    run(tmp_path / "run", tmp_path / "same", *arguments)
    assert contents(tmp_path / "small") == contents(tmp_path / "same")

    small, original = tensors(tmp_path / "small"), tensors(source)
    assert small.keys() == original.keys()
    for name, array in small.items():
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array, original[name].astype(array.dtype))
    config = json.loads((tmp_path / "small" / hf.CONFIG).read_text())
    expected = json.loads((source / hf.CONFIG).read_text())
    assert config == expected | {"dtype": "bfloat16"}
    index = json.loads((tmp_path / "small" / hf.INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 3
    assert (tmp_path / "small" / "tokenizer_config.json").read_text() == "{}"

    # And what is bfloat16 stays so.
    run(tmp_path / "small", tmp_path / "run16")
    run(tmp_path / "run16", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "small")


def trained_run(folder: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """A workdir as training leaves it: more than parameters, nothing of a family."""
    cfg, params = hf.load(source)
    with checkpoint.Checkpoints(folder / "checkpoints") as checkpoints:
        state = {"params": params, "opt_state": {"count": np.zeros(2, np.int32)}}
        checkpoints.save(30, state, {})
    config = {"experiment": "pretrain", "model": dataclasses.asdict(cfg)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_is_exported_as_the_family_asked_for(tmp_path):
    source = checkpoint_of("llama_tied", tmp_path / "source")
    trained = trained_run(tmp_path / "run", source)
    with pytest.raises(ValueError, match=r"--family=None is not known; give one of gp"):
        run(trained, tmp_path / "out")
    with pytest.raises(ValueError, match="a gpt2 checkpoint has no "):
        run(trained, tmp_path / "out", "--family=gpt2")
    run(trained, tmp_path / "out", "--family=llama")
    assert tensors(tmp_path / "out").keys() == tensors(source).keys()
    assert_same_model(tmp_path / "out", source)
    run(trained, tmp_path / "like", f"--like={source}")
    assert contents(tmp_path / "like") == contents(source)


def test_a_mesh_restores_what_was_converted(tmp_path):
    source = checkpoint_of("llama_biased", tmp_path / "source")
    run(source, tmp_path / "run")
    _, params = hf.load(source)
    mesh = sharding.make_mesh("fsdp=4,tensor=2")
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=place
        ),
        params,
        sharding.param_shardings(params, mesh),
    )
    restored = checkpoint.read_params(tmp_path / "run" / "checkpoints", abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, params)


@pytest.mark.parametrize("block_bytes", [2**23, 1000])
def test_a_gguf_file(tmp_path, block_bytes, monkeypatch):
    """The same config and parameters to the bit, and so the same logits."""
    monkeypatch.setattr(leaves, "MAX_BLOCK_BYTES", block_bytes)
    arrays = test_gguf.plain_tensors()
    path = test_gguf.write(tmp_path / "model.gguf", tensors=arrays)
    run(path, tmp_path / "run")
    run(path, tmp_path / "folder", "--format=hf")
    run(tmp_path / "run", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "folder")
    cfg, params, _ = gguf.load(path)
    for place in ("run", "folder"):
        loaded = load.load(tmp_path / place)
        assert loaded.cfg == cfg
        jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
        assert loaded.tokenizer.encode("ab ab12") == [3, 5, 6, 7]
        assert loaded.tokenizer.eos_id == 0
        template = (tmp_path / place / "chat_template.jinja").read_text()
        assert template == "{{ messages }}"
    config = json.loads((tmp_path / "folder" / hf.CONFIG).read_text())
    assert config["eos_token_id"] == 0


def pickled(source):
    (source / hf.WEIGHTS).rename(source / "pytorch_model.bin")


def outside(source):
    (source / hf.WEIGHTS).unlink()
    index = {"weight_map": {"lm_head.weight": "../../model.safetensors"}}
    (source / hf.INDEX).write_text(json.dumps(index))


def truncated(source):
    path = source / hf.WEIGHTS
    path.write_bytes(path.read_bytes()[:-8])


def empty(source):
    for path in source.iterdir():
        path.unlink()


def wide_tokenizer(source):
    load.load_tokenizer("bytes").save(source / "tokenizer.json")


def taken(source):
    (source.parent / "out").mkdir()
    (source.parent / "out" / "thesis.tex").touch()


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (pickled, [], "pytorch_model.bin: pickled weights can run any code"),
        (outside, [], "not the name of a safetensors file in this folder"),
        (truncated, [], "the file is truncated"),
        (empty, [], "config.json: missing; give the folder of a checkpoint"),
        (wide_tokenizer, [], "tokenizer.json has 257 ids but the model embeds"),
        (taken, [], "out: already there; choose a new folder"),
        (taken, ["--format=hf"], "out: already there; choose a new folder"),
        (None, ["--dtype=float16"], "--dtype and --max_shard_bytes need --format=hf"),
        (None, ["--dtype=int4", "--format=hf"], "dtype='int4' must be one of"),
        (None, ["--family=bort", "--format=hf"], "--family=bort is not known"),
        (None, ["--like=/nowhere"], "/nowhere/config.json: missing"),
        (None, [f"--like={GOLDEN / 'gpt2'}"], "config.json is not that of"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(damage, arguments, message, tmp_path):
    source = checkpoint_of("llama_tied", tmp_path / "source")
    if damage:
        damage(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ValueError, OSError), match=message) as caught:
        run(source, tmp_path / "out", *arguments)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_asked_of_a_run(tmp_path):
    source = checkpoint_of("llama_tied", tmp_path / "source")
    run(source, tmp_path / "run")
    with pytest.raises(ValueError, match="GGUF files are read, not written"):
        run(source, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="SRC is a llmjax checkpoint already"):
        run(tmp_path / "run", tmp_path / "out", "--format=llmjax")
    with pytest.raises(ValueError, match="--like settles what --dtype"):
        run(tmp_path / "run", tmp_path / "out", f"--like={source}", "--dtype=float16")
    embedding = tensors(source)["model.embed_tokens.weight"]
    values = embedding.astype(np.float32).tobytes()
    for path in (tmp_path / "run" / "checkpoints").rglob("d/*"):
        if values in path.read_bytes():
            path.unlink()
    with pytest.raises(
        ValueError, match="parameter embed/embed_VD cannot be rea"
    ) as caught:
        run(tmp_path / "run", tmp_path / "out")
    assert "\n" not in str(caught.value)
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json: not a run's config"):
        run(tmp_path / "run", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "run"}


@pytest.mark.parametrize("format", ["hf", "llmjax"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interruption_leaves_nothing(format, error, tmp_path, monkeypatch):
    source = checkpoint_of("llama_tied", tmp_path / "source")
    copy, num_calls = leaves.copy, 0

    def fail(*leaf):
        nonlocal num_calls
        num_calls += 1
        if num_calls == 5:
            raise error("in the middle")
        copy(*leaf)

    monkeypatch.setattr(leaves, "copy", fail)
    with pytest.raises(error, match="in the middle"):
        run(source, tmp_path / "out", f"--format={format}")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("format", "message"),
    [("hf", "File too large"), ("llmjax", "parameter .* cannot be written")],
)
def test_full_disk_is_one_line_and_leaves_nothing(format, message, tmp_path):
    source = checkpoint_of("llama_tied", tmp_path / "source")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, old[1]))
    try:
        with pytest.raises((OSError, ValueError), match=message) as caught:
            run(source, tmp_path / "out", f"--format={format}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def program(*arguments) -> tuple[int, str, str]:
    result = subprocess.run(
        [sys.executable, "tools/convert.py", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


def test_program_says_what_it_did(tmp_path):
    code, out, err = program(GOLDEN / "gpt2", tmp_path / "run")
    assert (code, err) == (0, "")
    [line] = out.splitlines()
    assert line.startswith(f"{GOLDEN / 'gpt2'} -> {tmp_path / 'run'}: 40 tensors, 0.00")
    assert line.endswith(" MB") and "peak memory" in line
    code, out, err = program(GOLDEN / "gpt2")
    assert (code, out, err) == (2, "", "error: usage: tools/convert.py SRC DST\n")
