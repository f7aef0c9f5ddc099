"""Against the installed peft: it reads our folders, and computes the same.

Skipped without torch, transformers and peft.
"""

import numpy as np
import pytest

from llmjax import lora
from llmjax.interop import hf, peft
from llmjax.lora import LoraConfig
from tests.interop.parity import GOLDEN, run
from tests.test_lora import trained

pytestmark = [pytest.mark.live, pytest.mark.filterwarnings("ignore")]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
theirs = pytest.importorskip("peft")

RSLORA = LoraConfig(rank=3, alpha=5.0, scaling="alpha/sqrt(r)")
DORA = LoraConfig(rank=2, alpha=6.0, dora=True)
CASES = [
    ("llama_biased", "llama", LoraConfig(rank=3, alpha=7.0, bias="all")),
    ("llama_biased", "llama", DORA),
    ("llama_tied", "llama", LoraConfig(rank=2, targets=("mlp/*", "embed"))),
    ("gpt2", "gpt2", RSLORA),
    ("gpt2", "gpt2", LoraConfig(rank=2, dora=True, share_qkv=True)),
    ("gpt2", "gpt2", LoraConfig(rank=2, targets=("attention/k", "mlp/up"))),
    ("qwen2", "qwen2", LoraConfig(rank=3, bias="lora_only")),
    ("qwen2", "qwen2", LoraConfig(rank=3, targets=("attention/q", "head"))),
    ("t5", "t5", RSLORA),
    ("t5", "t5", LoraConfig(rank=2, targets=("encoder/blocks/attention/q",))),
]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_peft_computes_the_same(case, tmp_path):
    name, family, lora_cfg = case
    cfg, base = hf.load(GOLDEN / name)
    adapters = trained(lora_cfg, base)
    peft.save(tmp_path / "a", cfg, lora_cfg, adapters, family=family)
    kind = "Seq2SeqLM" if cfg.encoder else "CausalLM"
    plain = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
        GOLDEN / name, dtype=torch.float32, attn_implementation="eager"
    )
    model = theirs.PeftModel.from_pretrained(plain, tmp_path / "a").eval()
    ids = np.random.default_rng(0).integers(1, cfg.vocab_size, (2, 9))
    inputs = {"input_ids": ids}
    if cfg.encoder:
        inputs["decoder_input_ids"] = ids[:, ::-1].copy()
    with torch.no_grad():
        tensors = {key: torch.from_numpy(array) for key, array in inputs.items()}
        expected = model(**tensors).logits.numpy()
    got = run(cfg, lora.join(base, adapters, lora_cfg), inputs)["logits"]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.abs(run(cfg, base, inputs)["logits"] - expected).max() > 0.05
