"""Tokenizers lose nothing, count bytes exactly and are the same each time."""

import itertools
import json

import numpy as np
import pytest

from llmjax.data.sources import documents
from llmjax.data.tokenizer import byte_tokenizer, load_tokenizer, train_bpe

# What breaks tokenizers: every byte length of UTF-8, white space of every kind, joined
# emoji, the names of control tokens, the replacement character itself.
HARD = (
    "",
    " ",
    "\n\n\t  x \r\n",
    "naïve Ωmega 漢字 👩‍👩‍👧‍👦 \x00\x7f\u2028\ufeff\ufffd",
    "a<|endoftext|>b",
    "x = 12345678.90e-12  # ½ ²",
    "if a:\n        return self._b[0]\n\n\n\n",
    "".join(map(chr, range(0x300))),
)


@pytest.fixture(scope="module")
def texts():
    return list(itertools.islice(documents("stdlib", split="train"), 60))


@pytest.fixture(scope="module")
def held_out():
    return list(documents("stdlib", split="validation"))


@pytest.fixture(scope="module")
def bpe(texts):
    return train_bpe(texts, 1024)


def test_bytes_are_the_ids():
    tokenizer = byte_tokenizer()
    assert tokenizer.vocab_size == 257 and tokenizer.eos_id == 256
    for text in HARD:
        assert tokenizer.encode(text) == list(text.encode())
    np.testing.assert_array_equal(tokenizer.token_bytes(), [1] * 256 + [0])


def test_nothing_is_lost(bpe, held_out):
    for tokenizer in (bpe, byte_tokenizer()):
        sizes = tokenizer.token_bytes()
        for text in (*HARD, *held_out):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert sizes[ids].sum() == len(text.encode())


def test_indentation_is_one_token(bpe):
    text = "if x:\n    if y:\n        return z\n"
    pieces = [bpe.decode([index]) for index in bpe.encode(text)]
    assert ":\n        " in pieces


def test_documents_have_a_start_and_an_end_and_cannot_forge_them(bpe):
    assert bpe.eos_id in bpe.encode("a<|endoftext|>b", special=True)
    (ids, num_bytes), *_ = bpe.encode_documents(["a<|endoftext|>b"])
    assert num_bytes == 15 and (ids == bpe.eos_id).nonzero()[0].tolist() == [
        0,
        len(ids) - 1,
    ]
    assert bpe.eos_id not in bpe.encode("a<|endoftext|>b")


def test_training_is_deterministic(texts, bpe):
    again = train_bpe(texts, 1024)
    assert again.core.to_str() == bpe.core.to_str()
    assert again.fingerprint == bpe.fingerprint
    assert again.vocab_size == 1024 and again.eos_id == 0


def test_saved_and_loaded_is_the_same(tmp_path, bpe):
    for tokenizer in (bpe, byte_tokenizer()):
        tokenizer.save(tmp_path / "tokenizer.json")
        for where in (tmp_path, tmp_path / "tokenizer.json"):
            loaded = load_tokenizer(where)
            assert loaded.fingerprint == tokenizer.fingerprint
            assert loaded.encode(HARD[3]) == tokenizer.encode(HARD[3])
            assert (loaded.eos_id, loaded.bos_id) == (tokenizer.eos_id, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_control_tokens_come_from_the_config_beside_it(tmp_path, bpe):
    bpe.core.add_special_tokens(["<s>", "<pad>"])
    bpe.save(tmp_path / "tokenizer.json")
    config = {"bos_token": {"content": "<s>"}, "pad_token": "<pad>", "eos_token": "!"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    assert loaded.decode([loaded.bos_id, loaded.pad_id, loaded.eos_id]) == "<s><pad>!"
    ids, _ = next(loaded.encode_documents(["x"]))
    assert ids[0] == loaded.bos_id and ids[-1] == loaded.eos_id


def test_bad_tokenizers_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no/tokenizer"):
        load_tokenizer("no/tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="257"):
        train_bpe(["x"], 100)
