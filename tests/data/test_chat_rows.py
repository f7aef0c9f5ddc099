"""Rows of conversations by hand: what is trained, what is padding, what is cut."""

import numpy as np
import pytest

from llmjax.data import chat_rows
from llmjax.data.batches import Batches
from llmjax.data.chat_rows import AnswerRows, ConversationRows, Counts, Example
from llmjax.data.tokenizer import byte_tokenizer, train_bpe

END = 9  # ends a turn


def example(ids, trained, where="a.jsonl:1"):
    """`trained` has a 1 for each trained token."""
    is_trained = np.array([mark == "1" for mark in trained])
    assert len(ids) == len(is_trained)
    return Example(where, "key", np.array(ids, np.int32), is_trained)


# Two questions with an answer each; one of one token; one that is cut in a row of 6.
TWO = example([1, 2, 3, END, 4, 5, END], "0011011")
ONE = example([6, 7, END], "011")
LONG = example([1, 1, 1, 8, 8, 8, 8, 8, END], "000111111")


def test_by_hand():
    rows = ConversationRows([ONE, TWO, LONG], context=6)
    batch = rows.rows(np.arange(len(rows)))
    order = np.argsort(batch["tokens"][:, 2] * 10 + batch["tokens"][:, 1])
    batch = {name: array[order].tolist() for name, array in batch.items()}
    # Targets are one further on, and have the weights; the last two of LONG are lost.
    assert batch == {
        "tokens": [[6, 7, 0, 0, 0, 0], [1, 1, 1, 8, 8, 8], [1, 2, 3, END, 4, 5]],
        "targets": [[7, END, 0, 0, 0, 0], [1, 1, 8, 8, 8, 8], [2, 3, END, 4, 5, END]],
        "weights": [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1]],
        "segment_ids": [[1, 1, 0, 0, 0, 0], [1] * 6, [1] * 6],
        "positions": [[0, 1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]],
    }


def test_conversations_share_a_row_and_none_is_split():
    rows = ConversationRows([ONE, TWO, ONE, ONE, LONG], context=8)
    batch = rows.rows(np.arange(len(rows)))
    assert len(rows) == 3  # 8, 6 + 2, 2 + 2
    seen = []
    for row in range(len(rows)):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            where = batch["segment_ids"][row] == segment
            ids = [batch["tokens"][row][where][0], *batch["targets"][row][where]]
            weights = [0.0, *batch["weights"][row][where]]
            assert batch["positions"][row][where].tolist() == list(range(where.sum()))
            seen.append((list(map(int, ids)), list(map(bool, weights))))
    expected = [
        (one.ids_T.tolist(), one.is_trained_T.tolist())
        for one in (ONE, TWO, ONE, ONE, LONG)
    ]
    assert sorted(seen) == sorted(expected)
    assert batch["weights"].dtype == np.float32 and batch["tokens"].dtype == np.int32


def test_batches_are_a_function_of_seed_step_and_row():
    some = [example([n, n + 1, END], "011") for n in range(1, 40)]
    rows = ConversationRows(some, context=8)
    whole = Batches(rows, 4, seed=1)
    parts = [Batches(rows, 4, 1, process_index=i, process_count=2) for i in (0, 1)]
    for step in (0, 7):
        halves = [part.batch(step) for part in parts]
        for name, array in whole.batch(step).items():
            np.testing.assert_array_equal(
                array, np.concatenate([half[name] for half in halves])
            )
    assert (whole.batch(0)["tokens"] != whole.batch(1)["tokens"]).any()
    other = ConversationRows([*some[:-1], example([39, 40, END], "001")], context=8)
    same = ConversationRows(list(some), context=8)
    prints = [rows.fingerprint, other.fingerprint]
    prints.append(ConversationRows(some, context=9).fingerprint)
    assert len(set(prints)) == 3 and same.fingerprint == rows.fingerprint


def test_answers_by_hand():
    rows = AnswerRows([TWO, LONG], 4, 5, start_id=0, end_id=3)
    assert rows.lengths == (4, 5) and len(rows) == 3
    batch = {name: a.tolist() for name, a in rows.rows(np.arange(3)).items()}
    # Each turn of TWO has all before it; of a long source the end is kept.
    assert batch == {
        "tokens": [[0, 3, 0, 0], [0, 5, 0, 0], [0, 8, 8, 8]],
        "targets": [[3, END, 0, 0], [5, END, 0, 0], [8, 8, 8, 8]],
        "weights": [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]],
        "segment_ids": [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]],
        "positions": [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 2, 3]],
        "encoder_tokens": [[1, 2, 3, 0, 0], [2, 3, END, 4, 3], [1, 1, 1, 3, 0]],
        "encoder_segment_ids": [[1, 1, 1, 0, 0], [1] * 5, [1, 1, 1, 1, 0]],
        "encoder_positions": [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4], [0, 1, 2, 3, 0]],
    }
    taken = rows.take(np.arange(6), seed=0)
    assert sorted(taken["targets"][:3].tolist()) == sorted(batch["targets"])


def test_what_a_model_is_asked():
    assert ConversationRows([TWO], 8).ask(TWO) == ([1, 2], None)
    assert AnswerRows([TWO], 4, 5, start_id=0, end_id=3).ask(TWO) == ([0], [1, 2, 3])


def test_counts_by_hand():
    rows = ConversationRows([ONE, TWO, LONG, ONE], context=8)
    found = chat_rows.count_all(rows, [END])
    expected = Counts(
        rows=3, conversations=4, untrained=0, trained=2 + 4 + 6 + 2,
        context=2 + 2, padding=6, ends=5, masked_ends=0,
    )  # fmt: skip
    assert found == expected
    turns = AnswerRows([TWO, ONE], 4, 5, start_id=0, end_id=3)
    found = chat_rows.count_all(turns, [END])
    assert (found.conversations, found.trained, found.context, found.ends) == (
        3,
        6,
        0,
        3,
    )
    no_end = example([6, 7, END, 1], "0100")
    found = chat_rows.count_all(ConversationRows([no_end, TWO], 8), [END])
    assert (found.ends, found.masked_ends) == (2, 1)
    nothing = example([1, 2], "00")
    found = chat_rows.count_all(ConversationRows([nothing, TWO], 8), [END])
    assert (found.conversations, found.untrained) == (2, 1)
    # What follows an end is no end of an answer, nor is what is only quoted.
    twice = example([6, 7, END, END, END, 2], "011000")
    assert chat_rows.count_all(ConversationRows([twice], 8), [END]).masked_ends == 0


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (example([1, 2, 3], "000"), "1 of 2 conversations train no token"),
        (example([1, 2, 256, 3], "0100"), "is masked away, as the padding is"),
        (example([1, 2, 3], "011"), None),
    ],
)
def test_what_cannot_be_learned_from_is_refused(one, message):
    tokenizer = byte_tokenizer()  # whose padding is its end, 256
    good = example([1, 2, 256], "011")
    counts = chat_rows.count_all(ConversationRows([good, one], 8), [256])
    if message is None:
        return chat_rows.check(counts, tokenizer, [256])
    with pytest.raises(ValueError, match=message):
        chat_rows.check(counts, tokenizer, [256])


def test_an_end_must_be_trained():
    tokenizer = train_bpe(["a"], 257)
    tokenizer.core.add_special_tokens(["<|im_end|>"])
    end = tokenizer.core.token_to_id("<|im_end|>")
    masked = example([1, 2, end, 3], "0100")
    counts = chat_rows.count_all(ConversationRows([masked], 8), [end])
    with pytest.raises(ValueError, match=r"end \(<.im_end.>\) of 1 answers is not tr"):
        chat_rows.check(counts, tokenizer, [end])
    endless = example([1, 2, 3], "011")
    counts = chat_rows.count_all(ConversationRows([endless], 8), [end])
    with pytest.raises(ValueError, match=r"no answer has an end \(<.im_end.>\)"):
        chat_rows.check(counts, tokenizer, [end])
