"""GGUF: tiny files written by the `gguf` package, and hostile ones."""

import dataclasses
import pathlib
import sys

import gguf as package
import jax
import numpy as np
import pytest
import safetensors.numpy

from llmjax.interop import gguf, hf
from llmjax.ops import rope

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "llama_biased"
TOKENS = ["<|end|>", "a", "b", "ab", "Ġ", "Ġab", "1", "2", "12"]
MERGES = ["a b", "Ġ ab", "1 2"]
METADATA = {
    "block_count": 3,
    "context_length": 256,
    "embedding_length": 24,
    "feed_forward_length": 44,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
    "attention.key_length": 10,
    "attention.value_length": 10,
    "rope.dimension_count": 10,
    "rope.freq_base": 500.0,
    "attention.layer_norm_rms_epsilon": 2e-3,
}


def permute(rows: np.ndarray, num_heads: int) -> np.ndarray:
    """Rotate-half rows to pairs, as llama.cpp's converter does it."""
    split = rows.reshape(num_heads, 2, -1, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def golden_tensors() -> dict[str, np.ndarray]:
    """The golden's tensors under GGUF names, and its RoPE factors."""
    theirs = {name: short for short, name in gguf.NAMES.items()}
    tensors = {}
    for name, array in safetensors.numpy.load_file(GOLDEN / hf.WEIGHTS).items():
        stem, _, kind = name.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            short = theirs[part]
            num_heads = {"attn_q": 4, "attn_k": 2}.get(short)
            array = permute(array, num_heads) if num_heads else array
            tensors[f"blk.{layer}.{short}.{kind}"] = array
        else:
            tensors[f"{theirs[stem]}.{kind}"] = array
    scaling = hf.load(GOLDEN)[0].rope_scaling
    factors = rope.frequencies(10, 500.0) / rope.frequencies(10, 500.0, scaling)
    tensors["rope_freqs.weight"] = factors.astype(np.float32)
    return tensors


def write(path, metadata=METADATA, tensors=None, arch="llama", pre="smollm"):
    writer = package.GGUFWriter(path, arch)
    for name, value in metadata.items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{arch}.{name}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] + [1] * (len(TOKENS) - 1))
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages }}")
    for name, array in (golden_tensors() if tensors is None else tensors).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_is_the_same_model_as_the_folder_it_came_from(tmp_path, monkeypatch):
    # Meta's models stretch from 8192 tokens; the golden, so that it shows, from 64.
    monkeypatch.setitem(gguf.LLAMA3, "original_context", 64)
    cfg, params, _ = gguf.load(write(tmp_path / "a.gguf"))
    expected_cfg, expected = hf.load(GOLDEN)
    # The format has no field for the activation: its Llama has SiLU always.
    assert cfg == dataclasses.replace(expected_cfg, activation="silu")
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_other_rope_factors_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"'rope_freqs.weight' is not the RoPE scaling"
    ):
        gguf.load(write(tmp_path / "a.gguf"))


def test_quantised_tensors_are_dequantised(tmp_path):
    tensors = golden_tensors()
    del tensors["rope_freqs.weight"]
    wide = np.random.default_rng(0).normal(size=(61, 32)).astype(np.float32)
    raw = package.quantize(wide, package.GGMLQuantizationType.Q8_0)
    path = tmp_path / "a.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_tensor("w", raw, raw_dtype=package.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _, found = gguf.gguf_file.open_file(path)
    assert found["w"].shape == (61, 32)
    np.testing.assert_allclose(found["w"].read(), wide, atol=0.02)


@pytest.mark.parametrize(
    ("pre", "digits"),
    [("smollm", ["1", "2"]), ("gpt-2", ["12"]), ("llama-bpe", ["12"])],
)
def test_vocabulary(tmp_path, pre, digits):
    path = write(tmp_path / "a.gguf", tensors=plain_tensors(), pre=pre)
    vocabulary = gguf.vocabulary(gguf.load(path)[2])
    ids = vocabulary.core.encode("ab ab12<|end|>").ids
    assert [TOKENS[i] for i in ids] == ["ab", "Ġab", *digits, "<|end|>"]
    assert vocabulary.core.decode(ids, skip_special_tokens=False) == "ab ab12<|end|>"
    assert vocabulary.control == {"eos": "<|end|>"}
    assert vocabulary.chat_template == "{{ messages }}"


def plain_tensors() -> dict[str, np.ndarray]:
    tensors = golden_tensors()
    del tensors["rope_freqs.weight"]
    return tensors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "mamba"}, "general.architecture='mamba' is not known; known: llama"),
        ({"metadata": METADATA | {"expert_count": 8}}, "llama.expert_count=8"),
        (
            {"metadata": METADATA | {"rope.dimension_count": 4}},
            "dimension_count differ",
        ),
        ({"metadata": METADATA | {"block_count": 4}}, "'model.layers.3.* is missing"),
        ({"metadata": METADATA | {"block_count": 2}}, "'model.layers.2.* has no place"),
        ({"metadata": METADATA | {"embedding_length": 25}}, r"config.json calls for"),
        ({"metadata": {}}, "llama.block_count is missing"),
        ({"tensors": {"a": np.zeros(3, np.float32)}}, "'token_embd.weight' is missing"),
    ],
    ids=str,
)
def test_what_is_not_a_llama_is_refused(tmp_path, changes, message):
    changes = {"tensors": plain_tensors()} | changes
    with pytest.raises(ValueError, match=message) as caught:
        gguf.load(write(tmp_path / "a.gguf", **changes))
    assert "a.gguf" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pre", "qwen35", "tokenizer.ggml.pre='qwen35' is not known; known: gpt-2"),
        ("model", "llama", "tokenizer.ggml.model='llama' is not known; known: gpt2"),
        ("merges", ["x y"], "tokens and merges"),
        ("tokens", None, "tokens and merges"),
    ],
)
def test_unknown_tokenizer_is_refused(tmp_path, key, value, message):
    _, _, metadata = gguf.load(write(tmp_path / "a.gguf", tensors=plain_tensors()))
    with pytest.raises(ValueError, match=message):
        gguf.vocabulary(metadata | {f"tokenizer.ggml.{key}": value})


def test_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'llmjax\[gguf\]'"):
        gguf.load(path)


def test_truncated_file_is_refused(tmp_path):
    path = write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(
        ValueError, match=r"a.gguf: the file is truncated: it ends before"
    ):
        gguf.load(path)
    path.write_bytes(b"GGML" + bytes(100))
    with pytest.raises(ValueError, match=r"a.gguf: not a GGUF file"):
        gguf.load(path)


def test_random_damage_is_a_value_error_or_harmless(tmp_path):
    path, rng = (
        write(tmp_path / "a.gguf", tensors=plain_tensors()),
        np.random.default_rng(0),
    )
    sound = path.read_bytes()
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(sound)
        for place in rng.integers(0, 4000, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            gguf.vocabulary(gguf.load(path)[2])
        except ValueError as error:
            num_refused += 1
            assert "\n" not in str(error)
    assert num_refused > 100
