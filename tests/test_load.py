"""Opening what a run with LoRA leaves: adapters, and the name of their base."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from llmjax import load, lora
from llmjax.checkpoint import Checkpoints
from llmjax.interop import hf
from llmjax.lora import LoraConfig
from tests.interop.parity import GOLDEN
from tests.test_lora import trained

LORA = LoraConfig(rank=2, alpha=3.0, targets=("attention/q", "mlp/*"), dora=True)


@pytest.fixture(name="workdir")
def _workdir(tmp_path):
    """What a run leaves whose state was these adapters."""
    cfg, base = hf.load(GOLDEN / "llama_biased")
    adapters = trained(LORA, base)
    config = {
        "model": dataclasses.asdict(cfg),
        "lora": dataclasses.asdict(LORA),
        "base": str(GOLDEN / "llama_biased"),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": jax.tree.map(jax.numpy.asarray, adapters)}, {})
    return tmp_path, base, adapters


def test_a_workdir_of_adapters(workdir):
    folder, base, adapters = workdir
    opened = load.load(GOLDEN / "llama_biased")
    cfg, found = load.load_adapter(folder, opened)
    assert cfg == LORA
    jax.tree.map(np.testing.assert_array_equal, found, adapters)
    whole = load.load(folder)
    assert whole.cfg == opened.cfg
    jax.tree.map(
        np.testing.assert_array_equal, whole.params, lora.merge(base, adapters, LORA)
    )
    with pytest.raises(ValueError, match="does not fit this model"):
        load.load_adapter(folder, load.load(GOLDEN / "llama_tied"))
    with pytest.raises(FileNotFoundError, match="no adapter here"):
        load.load_adapter(GOLDEN / "llama_tied", opened)
