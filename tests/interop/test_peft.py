"""PEFT folders: the logits are peft's, and what is written is what was read."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest

from llmjax import lora
from llmjax.interop import hf, peft, peft_config, safetensors
from llmjax.lora import LoraConfig
from tests.interop.parity import BAR, GOLDEN, run

ADAPTERS = {
    folder.name: json.loads((folder / peft_config.FILE).read_text())
    for folder in sorted((GOLDEN / "peft").iterdir())
}
WHOLE = [name for name in ADAPTERS if name not in ("llama_some", "qwen2")]


def open_both(name):
    """(cfg, base, LoraConfig, adapters, what peft computes)."""
    cfg, base = hf.load(GOLDEN / ADAPTERS[name]["base_model_name_or_path"])
    lora_cfg, adapters = peft.load(GOLDEN / "peft" / name, cfg)
    with np.load(GOLDEN / "peft" / name / "golden.npz") as file:
        return cfg, base, lora_cfg, adapters, dict(file)


def error(cfg, params, expected):
    return np.abs(run(cfg, params, expected)["logits"] - expected["logits"]).max()


@pytest.mark.parametrize("name", ADAPTERS)
def test_logits_are_those_of_peft(name):
    cfg, base, lora_cfg, adapters, expected = open_both(name)
    lora.check(base, adapters)
    assert error(cfg, lora.join(base, adapters, lora_cfg), expected) < BAR
    assert error(cfg, base, expected) > 0.1
    if name not in ("llama_dora", "gpt2"):  # whose embeddings are adapted, and tied
        assert error(cfg, lora.merge(base, adapters, lora_cfg), expected) < BAR


@pytest.mark.parametrize("name", WHOLE)
def test_as_many_numbers_are_trained(name):
    _, base, lora_cfg, adapters, expected = open_both(name)
    assert lora.count(adapters) == expected["num_trained"]
    shapes = jax.eval_shape(partial(lora.init, lora_cfg), base, jax.random.key(0))
    assert lora.count(shapes) == expected["num_trained"]


@pytest.mark.parametrize("name", WHOLE)
def test_written_again_it_is_what_was_read(name, tmp_path):
    cfg, _, lora_cfg, adapters, _ = open_both(name)
    base = ADAPTERS[name]["base_model_name_or_path"]
    family = json.loads((GOLDEN / base / "config.json").read_text())["model_type"]
    peft.save(tmp_path / "a", cfg, lora_cfg, adapters, family=family, base=base)
    files = [
        safetensors.open_file(folder / peft.WEIGHTS)
        for folder in (GOLDEN / "peft" / name, tmp_path / "a")
    ]
    theirs, ours = ({key: t.read() for key, t in file.items()} for file in files)
    tables = {key for key in theirs if key.endswith("base_layer.weight")}
    assert ours.keys() == theirs.keys() - tables
    for key, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[key], err_msg=key)
    config = json.loads((tmp_path / "a" / peft_config.FILE).read_text())
    for field in (
        "r",
        "lora_alpha",
        "bias",
        "use_rslora",
        "use_dora",
        "fan_in_fan_out",
    ):
        assert config[field] == ADAPTERS[name][field], field
    again = peft.load(tmp_path / "a", cfg)
    assert again[0] == lora_cfg
    jax.tree.map(np.testing.assert_array_equal, again[1], adapters)


@pytest.mark.parametrize("name", ["llama_some", "qwen2"])
def test_other_ranks_and_alphas_are_kept_in_what_is_written(name, tmp_path):
    """Filled up with zeros, and multiplied in: another folder, the same logits."""
    cfg, base, lora_cfg, adapters, expected = open_both(name)
    family = {"qwen2": "qwen2"}.get(name, "llama")
    peft.save(tmp_path / "a", cfg, lora_cfg, adapters, family=family)
    again, same = peft.load(tmp_path / "a", cfg)
    assert error(cfg, lora.join(base, same, again), expected) < BAR


@pytest.mark.parametrize("kind", ["plain", "dora", "some"])
def test_parts_of_one_matrix_that_read_apart(kind, tmp_path):
    """GPT-2's c_attn: their ranks add up, and the folder computes the same."""
    cfg, base = hf.load(GOLDEN / "gpt2")
    targets = ("attention/q", "attention/v") if kind == "some" else ("attention/*",)
    lora_cfg = LoraConfig(
        rank=2, alpha=3.0, targets=targets, dora=kind == "dora", scaling="alpha/sqrt(r)"
    )
    adapters = jax.device_get(lora.init(lora_cfg, base, jax.random.key(0)))
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda leaf: np.float32(leaf + rng.normal(0, 0.3, leaf.shape)), adapters
    )
    peft.save(tmp_path / "a", cfg, lora_cfg, adapters, family="gpt2")
    config = json.loads((tmp_path / "a" / peft_config.FILE).read_text())
    num_parts = len(targets) if kind == "some" else 3
    assert set(config["rank_pattern"].values()) == {2 * num_parts}
    again, same = peft.load(tmp_path / "a", cfg)
    inputs = {"input_ids": np.arange(1, 19).reshape(2, 9)}
    wanted, got = (
        run(cfg, lora.join(base, one, own), inputs)["logits"]
        for own, one in ((lora_cfg, adapters), (again, same))
    )
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.fixture(name="folder")
def _folder(tmp_path):
    shutil.copytree(GOLDEN / "peft" / "llama", tmp_path / "a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type must be LORA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.* is not supported"),
        ({"layer_replication": [[0, 2]]}, "layer_replication=.* is not supported"),
        ({"use_qalora": True}, "use_qalora=True is not supported"),
        ({"lora_bias": True}, "lora_bias=True is not supported"),
        ({"some_new_field": 3}, "some_new_field=3 is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base"),
        ({"bias": "some"}, "bias='some' must be"),
        ({"r": "8"}, "r must be a positive integer"),
        ({"use_dora": 1}, "use_dora must be true or false"),
    ],
)
def test_configs_that_are_refused(folder, fields, message):
    path = folder / peft_config.FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    cfg, _ = hf.load(GOLDEN / "llama_biased")
    with pytest.raises(ValueError, match=message):
        peft.load(folder, cfg)


def test_an_adapter_for_another_base(folder):
    cfg = hf.read_config(GOLDEN / "llama_biased")[1]
    name = r"'base_model.model.model.layers.0.mlp.down_proj.lora_A.weight'"
    with pytest.raises(ValueError, match=rf"{name} has shape \(3, 44\).*\(r, 40\)"):
        peft.load(folder, dataclasses.replace(cfg, ff_width=40))
    shallow = dataclasses.replace(cfg, num_layers=2)
    with pytest.raises(ValueError, match="layers.2.* which this base has not"):
        peft.load(folder, shallow)
    for other in ("gpt2", "gpt_neox", "bart", "modernbert"):
        with pytest.raises(ValueError, match="down_proj.* which this base has not"):
            peft.load(folder, hf.read_config(GOLDEN / other)[1])
    (folder / peft.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="never loaded"):
        peft.load(folder, cfg)
    with pytest.raises(FileNotFoundError, match="adapter_config.json: missing"):
        peft.load(folder.parent, cfg)


def test_adapters_that_a_checkpoint_cannot_hold(tmp_path):
    _, base = hf.load(GOLDEN / "llama_biased")
    adapters = jax.device_get(
        lora.init(LoraConfig(targets=("mlp/gate",)), base, jax.random.key(0))
    )
    with pytest.raises(ValueError, match="mlp/gate_a_DR' has no place in a gpt2"):
        gpt2 = hf.read_config(GOLDEN / "gpt2")[1]
        peft.save(tmp_path / "a", gpt2, LoraConfig(), adapters, family="gpt2")
    assert not (tmp_path / "a").exists()
