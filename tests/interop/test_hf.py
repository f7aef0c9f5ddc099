"""Hugging Face folders: config dialects, exact round trips, and what is refused."""

import copy
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from llmjax.config import Layer, RopeScaling
from llmjax.interop import fields, hf
from llmjax.interop import safetensors as ours
from llmjax.models import presets, transformer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAMES = ("gpt2", "llama_tied", "llama_biased")


@pytest.fixture
def folder(tmp_path):
    """A copy of the untied Llama that a test may damage."""
    return shutil.copytree(GOLDEN / "llama_biased", tmp_path / "llama")


def family(name: str) -> str:
    return name.partition("_")[0]


def config(name: str) -> dict:
    return json.loads((GOLDEN / name / "config.json").read_text())


def tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(path / hf.WEIGHTS)


def rewrite(path: pathlib.Path, arrays: dict) -> None:
    safetensors.numpy.save_file(arrays, path / hf.WEIGHTS)


@pytest.mark.parametrize("name", NAMES)
def test_both_dialects_give_equal_configs(name):
    v4 = json.loads((GOLDEN / name / "config_v4.json").read_text())
    assert v4 != config(name)
    assert hf.config_from_json(v4) == hf.config_from_json(config(name))


@pytest.mark.parametrize("name", NAMES)
def test_config_survives_export(name):
    cfg = hf.config_from_json(config(name))
    assert hf.config_from_json(hf.config_to_json(cfg, family(name))) == cfg


@pytest.mark.parametrize("name", ["gpt2", "gpt2_xl", "smollm2_135m", "llama3_1b"])
def test_presets_are_expressible(name):
    if name.startswith("gpt2"):
        hf.config_to_json(presets.get(name), "gpt2")
    else:
        hf.config_to_json(presets.get(name), "llama")


@pytest.mark.parametrize("name", NAMES)
def test_tree_is_the_model_s_own(name):
    cfg, params = hf.load(GOLDEN / name)
    expected = jax.eval_shape(transformer.make(cfg).init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, expected)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_the_imported_bytes(name, tmp_path):
    cfg, params = hf.load(GOLDEN / name)
    hf.save_like(tmp_path / "like", params, GOLDEN / name)
    dtype = config(name)["dtype"]
    hf.save(tmp_path / "new", cfg, params, family=family(name), dtype=dtype)
    original = (GOLDEN / name / hf.WEIGHTS).read_bytes()
    assert (tmp_path / "like" / hf.WEIGHTS).read_bytes() == original
    assert (tmp_path / "new" / hf.WEIGHTS).read_bytes() == original
    assert (tmp_path / "like" / hf.CONFIG).read_text() == (
        GOLDEN / name / hf.CONFIG
    ).read_text()
    assert hf.load(tmp_path / "new")[0] == cfg


def test_shards_of_either_origin_are_kept(tmp_path):
    cfg, params = hf.load(GOLDEN / "gpt2")
    hf.save(tmp_path / "a", cfg, params, family="gpt2", max_shard_bytes=20_000)
    index = json.loads((tmp_path / "a" / hf.INDEX).read_text())
    assert len(set(index["weight_map"].values())) > 2
    again_cfg, again = hf.load(tmp_path / "a")
    assert again_cfg == cfg
    jax.tree.map(np.testing.assert_array_equal, again, params)
    hf.save_like(tmp_path / "b", again, tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_prefix_buffers_and_tied_head_of_hub_checkpoints(tmp_path):
    """Hub GPT-2 files: no prefix, causal masks as tensors, sometimes the head twice."""
    arrays = {
        name.removeprefix("transformer."): array
        for name, array in tensors(GOLDEN / "gpt2").items()
    }
    arrays["h.1.attn.bias"] = np.tril(np.ones((1, 1, 29, 29), bool))
    arrays["h.1.attn.masked_bias"] = np.array(-1e4, np.float32)
    arrays["lm_head.weight"] = arrays["wte.weight"]
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "hub")
    rewrite(tmp_path / "hub", arrays)
    (tmp_path / "hub" / "merges.txt").write_text("#version: 0.2\n")
    _, expected = hf.load(GOLDEN / "gpt2")
    _, params = hf.load(tmp_path / "hub")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    hf.save_like(tmp_path / "out", params, tmp_path / "hub")
    for path in (tmp_path / "hub").iterdir():
        if path.suffix != ".npz":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()

    arrays["lm_head.weight"] = arrays["wte.weight"] + 1
    rewrite(tmp_path / "hub", arrays)
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from 'wte.weight'"):
        hf.load(tmp_path / "hub")


def test_trained_parameters_are_what_is_exported(folder, tmp_path):
    _, params = hf.load(folder)
    params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf) * 2, params)
    hf.save_like(tmp_path / "out", params, folder)
    for name, array in tensors(tmp_path / "out").items():
        np.testing.assert_array_equal(array, 2 * tensors(folder)[name])


FIELDS = [
    ("gpt2", "activation_function", "relu", {"activation": "relu"}),
    ("gpt2", "activation_function", "gelu", {"activation": "gelu"}),
    ("gpt2", "scale_attn_weights", False, {"attention_scale": 1.0}),
    ("gpt2", "reorder_and_upcast_attn", True, {}),
    ("gpt2", "layer_norm_epsilon", 1e-6, {"norm_eps": 1e-6}),
    ("gpt2", "n_inner", None, {"ff_width": 96}),
    ("gpt2", "tie_word_embeddings", False, {"tied": False}),
    ("gpt2", "n_head", 3, {"num_heads": 3, "num_kv_heads": 3, "head_width": 8}),
    ("gpt2", "resid_pdrop", 0.5, {}),
    ("llama_tied", "hidden_act", "gelu_pytorch_tanh", {"activation": "gelu_tanh"}),
    ("llama_tied", "attention_bias", True, {"qkv_bias": True, "out_bias": True}),
    ("llama_tied", "mlp_bias", True, {"mlp_bias": True}),
    ("llama_tied", "head_dim", 14, {"head_width": 14}),
    ("llama_tied", "num_key_value_heads", None, {"num_kv_heads": 4}),
    ("llama_tied", "rms_norm_eps", 1, {"norm_eps": 1.0}),
    ("llama_tied", "rope_parameters", None, {"rope_theta": 1e4, "rope_scaling": None}),
    ("llama_tied", "rope_scaling", {"type": "linear", "factor": 3}, {
        "rope_theta": 1e4, "rope_scaling": RopeScaling("linear", 3.0)}),
    ("llama_biased", "original_max_position_embeddings", 32, {
        "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 32)}),
    ("llama_tied", "sliding_window", 4096, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "changes"), FIELDS, ids=str)
def test_field_is_honoured(name, field, value, changes):
    cfg = hf.config_from_json(config(name))
    changed = hf.config_from_json(config(name) | {field: value})
    assert changed == dataclasses.replace(cfg, **changes)


REFUSED = [
    ("gpt2", "model_type", "bort", "model_type='bort' .* known: gpt2, "),
    ("gpt2", "model_type", None, "model_type=None"),
    ("gpt2", "model_type", ["gpt2"], "model_type="),
    ("gpt2", "activation_function", "quick_gelu", "activation_function='quick_gelu'"),
    ("gpt2", "activation_function", [], "activation_function"),
    ("gpt2", "add_cross_attention", True, "add_cross_attention=True"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True, "by_inverse_layer_idx="),
    ("gpt2", "n_head", 5, "n_head=5 must divide n_embd=24"),
    ("gpt2", "n_layer", "3", "n_layer must be a positive integer"),
    ("gpt2", "n_layer", -1, "n_layer must be a positive integer"),
    ("gpt2", "n_layer", True, "n_layer must be a positive integer"),
    ("gpt2", "vocab_size", 10**30, "vocab_size must be a positive integer"),
    ("gpt2", "layer_norm_epsilon", float("nan"), "layer_norm_epsilon must be"),
    ("gpt2", "tie_word_embeddings", "no", "tie_word_embeddings must be true or false"),
    ("gpt2", "auto_map", {"AutoModel": "x.Y"}, "auto_map"),
    ("gpt2", "quantization_config", {"bits": 4}, "quantization_config"),
    ("gpt2", "per_layer_config", {"0": {}}, "per_layer_config"),
    ("llama_tied", "num_key_value_heads", 3, "num_kv_heads=3 must divide"),
    ("llama_tied", "head_dim", 5, "even head_width"),
    ("llama_tied", "partial_rotary_factor", 0.5, "partial_rotary_factor=0.5"),
    ("llama_tied", "rope_scaling", {"rope_type": "yarn"}, "factor must be a positive"),
    ("llama_tied", "rope_scaling", {"type": "longrope"}, "rope_type='longrope'"),
    ("llama_tied", "rope_scaling", {"type": "dynamic"}, "rope_type='dynamic'"),
    ("llama_tied", "rope_scaling", {"type": "linear"}, "factor must be a positive"),
    ("llama_tied", "rope_scaling", {"type": "llama3", "factor": 8}, "low_freq_factor"),
    ("llama_tied", "rope_scaling", [1], "rope_scaling must be one object"),
    ("llama_tied", "rope_parameters", {"full_attention": {}}, "rope_parameters must"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "field", "value", "message"), REFUSED, ids=str)
def test_field_is_refused_by_name(name, field, value, message, tmp_path):
    changed = config(name) | {field: value}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=message) as caught:
        hf.load(tmp_path)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "changes", "field"),
    [
        ("llama", {"pattern": (Layer(window=8),)}, "pattern"),
        ("llama", {"qk_norm": "head"}, "qk_norm"),
        ("llama", {"out_bias": True}, "out_bias"),
        ("gpt2", {}, "num_kv_heads"),
    ],
)
def test_what_a_family_cannot_express_is_named(family, changes, field):
    cfg = dataclasses.replace(presets.get("tiny"), **changes)
    with pytest.raises(ValueError, match=f"{family} checkpoint has no {field}="):
        hf.config_to_json(cfg, family)


def missing(arrays):
    del arrays["model.layers.1.mlp.up_proj.weight"]


def extra(arrays):
    arrays["model.layers.3.mlp.up_proj.weight"] = np.zeros((44, 24), np.float32)


def misshapen(arrays):
    arrays["model.norm.weight"] = np.zeros(25, np.float32)


def transposed(arrays):
    name = "model.layers.0.mlp.up_proj.weight"
    arrays[name] = np.ascontiguousarray(arrays[name].T)


def whole_numbers(arrays):
    arrays["lm_head.weight"] = arrays["lm_head.weight"].astype(np.int32)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"'model.layers.1.mlp.up_proj.weight' is missing.*\(44, 24\)"),
        (extra, r"'model.layers.3.mlp.up_proj.weight' has no place"),
        (misshapen, r"'model.norm.weight' has shape \(25,\); .* \(24,\)"),
        (transposed, r"has shape \(24, 44\); .* \(44, 24\)"),
        (whole_numbers, "'lm_head.weight' is int32; a parameter must be float32"),
    ],
)
def test_tensors_must_be_exactly_the_expected_ones(folder, damage, message):
    arrays = copy.copy(tensors(folder))
    damage(arrays)
    rewrite(folder, arrays)
    with pytest.raises(ValueError, match=message) as caught:
        hf.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_file_is_named_with_its_tensor(folder):
    path = folder / hf.WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"model.safetensors: .*truncated: tensor 'model"
    ):
        hf.load(folder)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"]
)
def test_pickle_is_refused(folder, name):
    (folder / hf.WEIGHTS).rename(folder / name)
    with pytest.raises(ValueError, match=rf"{name}: pickled .* convert .*safetensors"):
        hf.load(folder)


def test_missing_files_are_named(folder, tmp_path):
    (folder / hf.WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors: missing"):
        hf.load(folder)
    with pytest.raises(FileNotFoundError, match="config.json: missing"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not JSON"):
        hf.load(tmp_path)


def write_index(folder: pathlib.Path, weight_map) -> None:
    (folder / hf.WEIGHTS).rename(folder / "part.safetensors")
    text = json.dumps({"weight_map": weight_map})
    (folder / hf.INDEX).write_text(text)


@pytest.mark.parametrize(
    "file",
    ["../other/part.safetensors", "/etc/part.safetensors", "..", "a\\b.safetensors"],
)
def test_index_stays_in_its_folder(folder, file):
    write_index(folder, {"lm_head.weight": file})
    with pytest.raises(ValueError, match="not the name of a safetensors file in this"):
        hf.load(folder)


def test_index_must_agree_with_the_shards(folder):
    write_index(folder, {"lm_head.weight": "gone.safetensors"})
    with pytest.raises(
        FileNotFoundError, match="gone.safetensors: missing, but listed"
    ):
        hf.load(folder)
    (folder / hf.INDEX).write_text('{"weight_map": {"ghost": "part.safetensors"}}')
    with pytest.raises(ValueError, match="'ghost' is not in 'part.safetensors'"):
        hf.load(folder)
    shutil.copy(folder / "part.safetensors", folder / "twin.safetensors")
    both = {
        "lm_head.weight": "part.safetensors",
        "model.norm.weight": "twin.safetensors",
    }
    (folder / hf.INDEX).write_text(json.dumps({"weight_map": both}))
    with pytest.raises(ValueError, match="is also in"):
        hf.load(folder)
    (folder / hf.INDEX).write_text("{}")
    with pytest.raises(ValueError, match="no weight_map"):
        hf.load(folder)


def test_export_refuses_what_does_not_fit_and_leaves_nothing(folder, tmp_path):
    cfg, params = hf.load(folder)
    out = tmp_path / "out"
    extra = params | {"lora": np.zeros(3)}
    with pytest.raises(ValueError, match="'lora' has no place"):
        hf.save(out, cfg, extra, family="llama")
    short = params | {"final_norm": {"scale_D": np.zeros(3)}}
    with pytest.raises(ValueError, match=r"'final_norm/scale_D' has shape \(3,\)"):
        hf.save_like(out, short, folder)
    with pytest.raises(ValueError, match="'head/head_DV' is missing"):
        hf.save_like(out, {k: v for k, v in params.items() if k != "head"}, folder)
    with pytest.raises(ValueError, match="dtype='int8'"):
        hf.save(out, cfg, params, family="llama", dtype="int8")
    with pytest.raises(FileExistsError, match="already there"):
        hf.save_like(folder, params, folder)
    assert sorted(tmp_path.iterdir()) == [folder]


def test_interrupted_export_leaves_nothing(folder, tmp_path, monkeypatch):
    cfg, params = hf.load(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(ours, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        hf.save(tmp_path / "out", cfg, params, family="llama")
    assert sorted(tmp_path.iterdir()) == [folder]


def test_random_damage_to_the_config_is_a_value_error_or_harmless(folder):
    rng = np.random.default_rng(0)
    values = [None, -1, 0, 10**40, 1.5, "x", [], {}, [1], {"a": 1}, True, 1e999]
    original = config("llama_biased")
    for _ in range(300):
        changed = copy.deepcopy(original)
        target = changed if rng.integers(3) else changed["rope_parameters"]
        target[rng.choice(list(target))] = values[rng.integers(len(values))]
        (folder / hf.CONFIG).write_text(json.dumps(changed))
        try:
            hf.load(folder)
        except ValueError as error:
            assert "\n" not in str(error)


def test_activation_names_map_both_ways():
    for ours_name in set(fields.ACTIVATIONS.values()):
        assert fields.ACTIVATIONS[fields.activation_name(ours_name)] == ours_name
