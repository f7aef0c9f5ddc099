"""A token store gives back what was written, or an error, never anything else."""

import json

import numpy as np
import pytest

from llmjax.data import store
from llmjax.data.store import open_store, write_store


@pytest.fixture
def docs():
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 400, 90)
    sizes[7] = 4000  # several shards of `small_shards`
    documents = [(rng.integers(0, 300, size), int(size)) for size in sizes]
    documents[7][0][:] = 0  # tensorstore would rather not store chunks of zeros
    return documents


@pytest.fixture
def small_shards(monkeypatch):
    """Several chunks to a shard and several shards, as large stores have."""
    monkeypatch.setattr(store, "CHUNK_TOKENS", 64)
    monkeypatch.setattr(store, "SHARD_TOKENS", 1024)


@pytest.mark.parametrize("in_memory_bytes", [0, 2**30])
@pytest.mark.parametrize("as_url", [False, True])
def test_round_trip(tmp_path, docs, small_shards, in_memory_bytes, as_url):
    path = tmp_path / "store"
    meta = write_store(path, docs, vocab_size=300, tokenizer="abc", source="here")
    opened = open_store(
        path.as_uri() if as_url else path, in_memory_bytes=in_memory_bytes
    )
    assert opened.meta == meta and len(opened) == 90
    assert meta.num_bytes == sum(size for _, size in docs) == meta.num_tokens
    assert (meta.tokenizer, meta.source, meta.dtype) == ("abc", "here", "uint16")
    for index, (ids, _) in enumerate(docs):
        np.testing.assert_array_equal(opened.document(index), ids)
    flat = np.concatenate([ids for ids, _ in docs])
    first, second = opened.read([3, 2000], [5000, 100])
    np.testing.assert_array_equal(first, flat[3:5003])
    np.testing.assert_array_equal(second, flat[2000:2100])
    assert len(list((path / "tokens" / "c").iterdir())) == -(-len(flat) // 1024)


@pytest.mark.parametrize("size", [1023, 1024, 1025, 5 * 1024])
def test_shards_may_be_full_to_the_token(tmp_path, small_shards, size):
    ids = np.arange(size) % 300
    write_store(tmp_path / "store", [(ids, 1)], vocab_size=300)
    np.testing.assert_array_equal(open_store(tmp_path / "store").document(0), ids)


def test_the_fingerprint_is_of_the_content(tmp_path, docs):
    def fingerprint(name, docs, tokenizer="t", source="s"):
        return write_store(
            tmp_path / name, docs, vocab_size=300, tokenizer=tokenizer, source=source
        ).fingerprint

    first = fingerprint("a", docs)
    assert first == fingerprint("b", docs, source="elsewhere")
    assert first != fingerprint("c", docs, tokenizer="other")
    changed = [(docs[0][0] ^ 1, docs[0][1]), *docs[1:]]
    assert first != fingerprint("d", changed)
    joined = np.concatenate([docs[0][0], docs[1][0]])  # same tokens, other documents
    assert first != fingerprint("e", [(joined, 1), *docs[2:]])


def test_large_vocabularies_take_four_bytes(tmp_path):
    ids = np.array([0, 70_000])
    write_store(tmp_path / "s", [(ids, 1)], vocab_size=70_001)
    opened = open_store(tmp_path / "s")
    assert opened.meta.dtype == "uint32"
    np.testing.assert_array_equal(opened.document(0), ids)


@pytest.mark.parametrize("in_memory_bytes", [0, 2**30])
@pytest.mark.parametrize("array", ["tokens", "offsets"])
def test_a_flipped_bit_is_an_error_that_names_the_file(
    tmp_path, docs, array, in_memory_bytes
):
    path = tmp_path / "store"
    write_store(path, docs, vocab_size=300)
    shard = path / array / "c" / "0"
    whole = shard.read_bytes()
    for where in (0, len(whole) // 3, len(whole) - 2):
        raw = bytearray(whole)
        raw[where] ^= 4
        shard.write_bytes(bytes(raw))
        with pytest.raises(ValueError, match=f"{array}/c/0") as caught:
            opened = open_store(path, in_memory_bytes=in_memory_bytes)
            [opened.document(index) for index in range(len(opened))]
        assert "\n" not in str(caught.value)


def test_other_damage_is_an_error(tmp_path, docs):
    path = tmp_path / "store"
    write_store(path, docs, vocab_size=300)
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**meta, "num_tokens": 5}))
    with pytest.raises(ValueError, match=r"meta\.json"):
        open_store(path)
    (path / "meta.json").write_text("{")
    with pytest.raises(ValueError, match=r"meta\.json"):
        open_store(path)
    (path / "meta.json").write_text(json.dumps(meta))
    (path / "tokens" / "zarr.json").unlink()
    with pytest.raises(ValueError, match="store"):
        open_store(path)
    with pytest.raises(FileNotFoundError, match="tokenize"):
        open_store(tmp_path / "nowhere")


def test_a_missing_shard_is_an_error_not_zeros(tmp_path, docs):
    path = tmp_path / "store"
    write_store(path, docs, vocab_size=300)
    (path / "tokens" / "c" / "0").unlink()
    with pytest.raises(ValueError, match="damaged"):
        open_store(path)


@pytest.mark.parametrize("bad", [300, -1])
def test_ids_outside_the_vocabulary_leave_nothing_behind(tmp_path, docs, bad):
    docs[40] = (np.array([1, bad]), 1)
    with pytest.raises(ValueError, match=f"document 40: id {bad} .* 300"):
        write_store(tmp_path / "deep" / "store", docs, vocab_size=300)
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path, docs):
    write_store(tmp_path / "store", docs, vocab_size=300)
    with pytest.raises(ValueError, match="exists"):
        write_store(tmp_path / "store", docs[:1], vocab_size=300)
    assert len(open_store(tmp_path / "store")) == 90
    with pytest.raises(ValueError, match="no document"):
        write_store(tmp_path / "other", [], vocab_size=300)
