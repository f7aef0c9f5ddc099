"""Labelled texts as rows: framed, cut, each once in an epoch."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from llmjax.data.batches import Batches, eval_batches
from llmjax.data.held_out import Splits
from llmjax.data.label_corpus import LabelConfig, LabelledRows, in_tokens, prepare
from llmjax.data.labelled import Labelled
from llmjax.data.tokenizer import Tokenizer, byte_tokenizer

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "good", "bad", "film", "[", "]", "SEP"]
EXAMPLES = [
    Labelled("good film", "fresh"),
    Labelled("bad bad bad film", "rotten"),
    Labelled("film", "rotten"),
]


@pytest.fixture(name="tokenizer")
def _tokenizer():
    """Words in the frame of BERT."""
    vocab = {word: number for number, word in enumerate(WORDS)}
    core = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    core.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    return Tokenizer(core, pad="[PAD]")


def test_a_long_text_loses_its_end_but_not_its_frame(tokenizer):
    texts = ["good film", "bad bad bad film good"]
    assert tokenizer.encode_framed(texts, 5) == [[1, 4, 6, 2], [1, 5, 5, 5, 2]]
    # And the tokenizer is as it was.
    assert tokenizer.encode("film " * 9) == [6] * 9
    assert tokenizer.core.truncation is None


def test_the_name_of_a_control_token_is_text(tokenizer):
    assert tokenizer.encode_framed(["good [SEP]"], 9) == [[1, 4, 7, 9, 8, 2]]


def test_bytes_have_no_frame():
    assert byte_tokenizer().encode_framed(["abc", ""], 2) == [[97, 98], []]


def test_rows(tokenizer):
    texts = LabelledRows(EXAMPLES, ["fresh", "rotten"], tokenizer, 5)
    batch = texts.rows(np.array([1, 0]))
    expected = {
        "tokens": [[1, 5, 5, 5, 2], [1, 4, 6, 2, 0]],
        "segment_ids": [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]],
        "positions": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0]],
        "class_B": [1, 0],
        "weight_B": [1, 1],
    }
    assert {name: array.tolist() for name, array in batch.items()} == expected
    kinds = {name: array.dtype for name, array in batch.items()}
    assert kinds.pop("weight_B") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


def many(num, tokenizer, context=8):
    examples = [Labelled("good " * (i % 5 + 1), "ab"[i % 2]) for i in range(num)]
    return LabelledRows(examples, ["a", "b"], tokenizer, context)


def test_an_epoch_has_each_text_once(tokenizer):
    texts = many(10, tokenizer)
    texts.classes = np.arange(10, dtype=np.int32)  # tells the rows apart
    epochs = [texts.take(np.arange(10) + 10 * e, 3)["class_B"].tolist() for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_hosts_share_a_step(tokenizer):
    texts = many(10, tokenizer)
    whole = Batches(texts, 4, 0).batch(7)
    halves = [
        Batches(texts, 4, 0, process_index=index, process_count=2).batch(7)
        for index in (0, 1)
    ]
    for name, array in whole.items():
        joined = np.concatenate([half[name] for half in halves])
        np.testing.assert_array_equal(array, joined)


def test_evaluation_counts_each_text_once(tokenizer):
    texts = many(10, tokenizer)
    looks = list(eval_batches(texts, 4))
    assert [look["weight_B"].sum() for look in looks] == [4, 4, 2]
    classes = np.concatenate([x["class_B"][x["weight_B"] > 0] for x in looks])
    assert np.bincount(classes).tolist() == [5, 5]


def test_the_fingerprint_is_of_texts_labels_and_length(tokenizer):
    first = many(4, tokenizer).fingerprint
    assert many(4, tokenizer).fingerprint == first
    other = many(4, tokenizer)
    other.classes = other.classes[::-1]
    found = {other.fingerprint, many(5, tokenizer).fingerprint}
    found.add(many(4, tokenizer, context=9).fingerprint)
    assert len(found | {first}) == 4


def test_all_sides_number_the_labels_alike(tokenizer):
    sides = Splits(EXAMPLES[:1], EXAMPLES[1:2], EXAMPLES[2:])
    texts = in_tokens(sides, tokenizer, 5)
    assert [side.classes.tolist() for side in texts] == [[0], [1], [1]]
    assert {tuple(side.labels) for side in texts} == {("fresh", "rotten")}


def test_columns_are_those_of_the_config(tmp_path):
    file = tmp_path / "texts.tsv"
    lines = [f"text {i}\t{'yn'[i % 2]}\tgroup {i // 2}" for i in range(100)]
    file.write_text("what\twhich\twhose\n" + "\n".join(lines) + "\n")
    cfg = LabelConfig(
        file=str(file), text_column="what", label_column="which", group_column="whose"
    )
    sides = prepare(cfg)
    assert sorted(e.text for side in sides for e in side) == sorted(
        f"text {i}" for i in range(100)
    )
    groups = [{example.group for example in side} for side in sides]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 50
