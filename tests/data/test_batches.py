"""Batches do not depend on hosts or on history, and count bytes exactly."""

import gzip

import numpy as np
import pytest

from llmjax.data.baselines import compression_baselines
from llmjax.data.batches import Batches, eval_batches
from llmjax.data.mixture import Mixture
from llmjax.data.pack import Packed
from llmjax.data.store import open_store, write_store
from llmjax.data.tokenizer import byte_tokenizer, train_bpe


@pytest.fixture
def packed(make_store):
    return Packed(make_store([30, 7, 50, 12, 90, 3] * 5), context=16)


def stack(batches):
    return {
        name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]
    }


def assert_equal(left, right):
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


@pytest.mark.parametrize("process_count", [1, 2, 4])
@pytest.mark.parametrize("mixed", [False, True])
def test_any_number_of_hosts_gives_the_same_rows(packed, process_count, mixed):
    dataset = Mixture([packed, packed], [2, 1]) if mixed else packed
    whole = Batches(dataset, 8, seed=1)
    hosts = [
        Batches(dataset, 8, seed=1, process_index=index, process_count=process_count)
        for index in range(process_count)
    ]
    for step in (0, 5, 40):  # the last is several epochs on
        assert_equal(stack([host.batch(step) for host in hosts]), whole.batch(step))
    assert len({host.fingerprint for host in (*hosts, whole)}) == 1


def test_batches_follow_one_another(packed):
    small, large = Batches(packed, 4, seed=1), Batches(packed, 12, seed=1)
    assert_equal(stack([small.batch(step) for step in (3, 4, 5)]), large.batch(1))


def test_the_fingerprint_is_of_all_that_changes_a_batch(packed, make_store):
    prints = {
        Batches(packed, 8, seed=1).fingerprint,
        Batches(packed, 4, seed=1).fingerprint,
        Batches(packed, 8, seed=2).fingerprint,
        Batches(Packed(packed.store, 8), 8, seed=1).fingerprint,
        Batches(Packed(make_store([5], "other"), 16), 8, seed=1).fingerprint,
    }
    assert len(prints) == 5
    assert Batches(packed, 8, seed=1).fingerprint in prints


def test_batches_that_do_not_divide_are_refused(packed):
    with pytest.raises(ValueError, match="9 rows .* 2 hosts"):
        Batches(packed, 9, seed=0, process_count=2)
    with pytest.raises(ValueError, match="process 2 of 2"):
        Batches(packed, 8, seed=0, process_index=2, process_count=2)


TEXTS = [
    "def f(x):\n    return x\n" * 9,
    "naïve 漢字 👩‍👩‍👧‍👦\n" * 7,
    "x",
    "words " * 50,
]


@pytest.mark.parametrize("make", [byte_tokenizer, lambda: train_bpe(TEXTS, 300)])
def test_validation_counts_every_byte_once(tmp_path, make):
    tokenizer = make()
    documents = tokenizer.encode_documents(TEXTS)
    write_store(tmp_path / "s", documents, vocab_size=tokenizer.vocab_size)
    packed = Packed(open_store(tmp_path / "s"), context=32)
    sizes = tokenizer.token_bytes()
    batches = list(eval_batches(packed, 3, sizes))
    assert all(batch["tokens"].shape == (3, 32) for batch in batches)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert sum(batch["target_bytes"].sum() for batch in batches) == num_bytes
    assert packed.store.meta.num_bytes == num_bytes
    num_targets = sum(batch["weights"].sum() for batch in batches)
    assert num_targets == packed.plan.lengths.sum()
    again = list(eval_batches(packed, 3, sizes))
    assert_equal(stack(again), stack(batches))
    hosts = [
        list(eval_batches(packed, 3, sizes, process_index=index, process_count=3))
        for index in range(3)
    ]
    for parts, batch in zip(zip(*hosts, strict=True), batches, strict=True):
        assert_equal(stack(parts), batch)


def test_a_part_of_validation_is_counted_for_itself(packed):
    sizes = np.ones(packed.store.meta.vocab_size, np.int32)
    batches = stack(list(eval_batches(packed, 4, sizes, max_rows=6)))
    assert len(batches["weights"]) == 8
    assert (batches["weights"][6:] == 0).all() and batches["weights"][:6].any(1).all()
    assert batches["target_bytes"].sum() == batches["weights"].sum()


def test_baselines():
    stream = bytes(range(256)) * 8
    found = compression_baselines([stream.decode("latin1")])
    utf8 = stream.decode("latin1").encode()
    assert found["gzip -9"] == 8 * len(gzip.compress(utf8, 9)) / len(utf8)
    assert found["byte unigram"] == pytest.approx(entropy(utf8), abs=1e-12)
    assert compression_baselines(["ab", "ab"])["byte unigram"] == 1.0
    assert 0 < found["xz"] < 8


def entropy(raw):
    shares = [raw.count(byte) / len(raw) for byte in set(raw)]
    return -sum(share * np.log2(share) for share in shares)
