"""Against the installed transformers: exports load there, and compute the same.

Skipped without torch and transformers. Random configs reach what no golden holds.
"""

import jax
import numpy as np
import pytest

from llmjax.config import ComputeConfig
from llmjax.interop import hf
from llmjax.models import transformer

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GPT2 = {"model_type": "gpt2", "vocab_size": 53, "n_embd": 30, "n_layer": 2, "n_head": 5,
        "n_positions": 40}  # fmt: skip
LLAMA = {"model_type": "llama", "vocab_size": 53, "hidden_size": 30,
         "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3,
         "intermediate_size": 50, "head_dim": 8}  # fmt: skip
LINEAR = {"type": "linear", "factor": 3.0}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 53,
    "hidden_size": 30,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 50,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4}
CONFIGS = [
    GPT2,
    GPT2 | {"scale_attn_weights": False, "tie_word_embeddings": False},
    GPT2 | {"activation_function": "relu", "n_inner": 17, "layer_norm_epsilon": 0.1},
    GPT2 | {"reorder_and_upcast_attn": True},
    LLAMA,
    LLAMA | {"head_dim": None, "num_attention_heads": 3, "tie_word_embeddings": True},
    LLAMA | {"num_key_value_heads": None, "rms_norm_eps": 0.1},
    LLAMA | {"rope_scaling": LINEAR, "rope_theta": 77.0, "attention_bias": True},
    LLAMA | {"rope_scaling": LLAMA3, "mlp_bias": True, "hidden_act": "relu2"},
    LLAMA | {"rope_parameters": LLAMA3 | {"rope_theta": 50}, "hidden_act": "gelu_fast"},
    LLAMA | {"rope_scaling": YARN},
    LLAMA | {"rope_scaling": YARN | {"truncate": False, "attention_factor": 1.3}},
    NEOX,
    NEOX | {"rotary_pct": 0.6, "use_parallel_residual": False, "attention_bias": False},
    LLAMA | {"model_type": "mistral", "sliding_window": 5},
    LLAMA | {"model_type": "mistral", "sliding_window": None},
    LLAMA | WINDOWS | {"model_type": "qwen2", "max_window_layers": 1},
    LLAMA | WINDOWS | {"model_type": "qwen3", "attention_bias": True,
                       "layer_types": ["sliding_attention", "full_attention"]},
    LLAMA | {"model_type": "gemma", "tie_word_embeddings": False},
    LLAMA | {"model_type": "gemma2", "sliding_window": 4, "query_pre_attn_scalar": 9},
    LLAMA | {"model_type": "gemma3_text", "sliding_window": 4, "rope_theta": 50.0,
             "sliding_window_pattern": 2, "final_logit_softcapping": 3.0},
    LLAMA | {"model_type": "olmo2", "attention_bias": True},
    LLAMA | WINDOWS | {"model_type": "smollm3", "no_rope_layer_interval": 2},
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_export_computes_the_same_in_transformers(config, tmp_path):
    cfg = hf.config_from_json(config)
    model = transformer.make(cfg, ComputeConfig(dtype="float32"))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )
    hf.save(tmp_path / "m", cfg, params, family=config["model_type"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "m", attn_implementation="eager"
    )
    ids = rng.integers(0, 53, (2, 13))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids), output_hidden_states=True)
    with jax.default_matmul_precision("highest"):
        output = model.apply(params, {"tokens": ids}, hiddens=True)
        logits = model.readout(params, output.hidden_BTD)
    assert abs(logits - expected.logits.numpy()).max() < 1e-4
    for ours, other in zip(output.hiddens, expected.hidden_states, strict=True):
        assert abs(ours - other.numpy()).max() < 1e-4
    theirs_cfg = hf.config_from_json(theirs.config.to_dict())
    assert theirs_cfg == cfg
