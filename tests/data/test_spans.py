"""Span corruption: T5's counts and lengths, and nothing of the text is lost."""

from functools import partial

import numpy as np
import pytest

from llmjax.data.spans import (
    corrupted_lengths,
    count_noise,
    cut_spans,
    draw_spans,
    fill_spans,
    longest_text,
    span_corruption,
)

VOCAB, EOS, START = 1100, 1, 0
corrupt = partial(span_corruption, vocab_size=VOCAB, eos_id=EOS, start_id=START)


def test_the_example_of_the_paper():
    # Raffel et al., figure 2: "Thank you for inviting me to your party last week", of
    # which "for inviting" and "last" are cut. <extra_id_0> is 1099, <extra_id_1> 1098.
    thank, you, for_, inviting, me, to, your, party, last, week = range(10, 20)
    text = np.arange(10, 20)
    cut = np.isin(text, [for_, inviting, last])
    source, answer = cut_spans(text, cut, vocab_size=VOCAB)
    assert source.tolist() == [thank, you, 1099, me, to, your, party, 1098, week]
    assert answer.tolist() == [1099, for_, inviting, 1098, last]
    for left, right in zip(
        fill_spans(source, answer, vocab_size=VOCAB), (text, cut), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_batch_by_hand():
    # 8 tokens and 5: round(0.5 * n) are cut, 4 in 2 spans and 2 in 1. The text begins
    # with what is kept and ends with a span, so that the second row has one way to be.
    tokens = np.array([[10, 11, 12, 13, 14, 15, 16, 17], [20, 21, 22, 23, 24, 0, 0, 0]])
    segments = np.array([[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 0, 0, 0]])
    batch = corrupt(tokens, segments, np.random.default_rng(0), rate=0.5, mean_span=2)
    expected = {
        "encoder_tokens": [20, 21, 22, 1099, 1, 0, 0],
        "encoder_segment_ids": [1, 1, 1, 1, 1, 0, 0],
        "encoder_positions": [0, 1, 2, 3, 4, 0, 0],
        "tokens": [0, 1099, 23, 24, 0, 0, 0],
        "targets": [1099, 23, 24, 1, 0, 0, 0],
        "weights": [1, 1, 1, 1, 0, 0, 0],
        "segment_ids": [1, 1, 1, 1, 0, 0, 0],
        "positions": [0, 1, 2, 3, 0, 0, 0],
    }
    assert batch.keys() == expected.keys()
    for name, row in expected.items():
        assert batch[name][1].tolist() == row, name
        assert batch[name].shape == (2, 7)
        assert batch[name].dtype == (np.float32 if name == "weights" else np.int32)
    assert (batch["weights"][0] == 1).all()  # a full row fills both lengths
    np.testing.assert_array_equal(batch["encoder_segment_ids"][0], 1)


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.9])
@pytest.mark.parametrize("mean_span", [1.0, 3.0, 8.5])
def test_spans_are_as_many_and_as_long_as_asked(rate, mean_span):
    rng = np.random.default_rng(0)
    for length in [*range(2, 40), 512]:
        num_noise, num_spans = count_noise(length, rate=rate, mean_span=mean_span)
        cut = draw_spans(length, rng, rate=rate, mean_span=mean_span)
        assert cut.shape == (length,) and cut.sum() == num_noise
        assert (np.diff(cut.astype(int), prepend=0) == 1).sum() == num_spans
        assert not cut[0] and cut[-1]
        assert num_noise == min(max(round(rate * length), 1), length - 1)
        # As near to the mean as the tokens that are left to part the spans allow.
        asked = max(round(num_noise / mean_span), 1)
        assert num_spans == min(asked, length - num_noise)


def test_all_ways_to_cut_are_as_likely():
    # 12 tokens, 6 of them in 2 spans: 5 ways to part 6 in two, on either side.
    rng = np.random.default_rng(0)
    number = 5000
    drawn = [
        tuple(draw_spans(12, rng, rate=0.5, mean_span=3).tolist())
        for _ in range(number)
    ]
    shapes, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(shapes) == 25
    # Chi-square with 24 degrees of freedom: above 60 once in 16,000 times.
    assert ((counts - number / 25) ** 2 / (number / 25)).sum() < 60


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.5])
def test_the_text_comes_back(rate):
    rng = np.random.default_rng(0)
    num_real = np.array([60, 60, 33, 2, 1, 0])
    tokens = rng.integers(2, 1000, (6, 60))
    segments = (np.arange(60) < num_real[:, None]).astype(np.int32)
    batch = corrupt(np.where(segments, tokens, 0), segments, rng, rate=rate)
    for row, length in enumerate(num_real):
        source = batch["encoder_tokens"][row][batch["encoder_segment_ids"][row] > 0]
        answer = batch["targets"][row][batch["weights"][row] > 0]
        inputs = batch["tokens"][row][batch["segment_ids"][row] > 0]
        if not length:  # an empty row stays one
            assert not len(source) and not len(answer)
            continue
        assert source[-1] == answer[-1] == EOS
        np.testing.assert_array_equal(inputs, [START, *answer[:-1]])
        assert (len(source), len(answer)) == corrupted_lengths(length, rate=rate)
        text, cut = fill_spans(source[:-1], answer[:-1], vocab_size=VOCAB)
        np.testing.assert_array_equal(text, tokens[row, :length])
        assert cut.sum() == count_noise(length, rate=rate)[0]
        sentinels = [token for token in source if token >= 1000]
        assert sentinels == [1099 - number for number in range(len(sentinels))]
        assert sentinels == [token for token in answer if token >= 1000]


def test_a_models_own_answer_is_filled_in_where_it_can_be():
    source = np.array([5, 99, 6, 98, 7, 97])
    answer = np.array([3, 99, 11, 12, 97, 13, 99, 14])
    text, cut = fill_spans(source, answer, vocab_size=100, num_sentinels=10)
    assert text.tolist() == [5, 11, 12, 6, 7, 13]
    assert cut.tolist() == [False, True, True, False, False, True]
    text, _ = fill_spans(source, answer[:0], vocab_size=100, num_sentinels=10)
    assert text.tolist() == [5, 6, 7]


def test_lengths_are_those_of_t5():
    """512 tokens of encoder take 568 of text and give 114 targets; 1024, 1137 and 229:
    what T5 and mT5 were trained with."""
    assert corrupted_lengths(568) == (512, 114)
    assert longest_text(512, 114) == 568
    assert longest_text(1024, 229) == 1137
    assert corrupted_lengths(1137) == (1024, 229)


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.5, 0.95])
@pytest.mark.parametrize("mean_span", [1.0, 3.0])
def test_no_longer_text_fits(rate, mean_span):
    settings = dict(rate=rate, mean_span=mean_span)
    lengths = np.array([corrupted_lengths(n, **settings) for n in range(1, 300)])
    assert (np.diff(lengths, axis=0) >= 0).all()
    for sizes in [(20, 10), (10, 20), (40, 7), (3, 3)]:
        fits = np.flatnonzero((lengths <= sizes).all(axis=1)) + 1
        assert longest_text(*sizes, **settings) == fits.max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(rate=0.0), "rate 0.0: give a share"),
        (dict(rate=1.5), "rate 1.5"),
        (dict(mean_span=0.5), "mean_span 0.5: give at least 1"),
        (dict(num_sentinels=2), "3 spans in a row but 2 sentinels; raise"),
        (dict(vocab_size=120), "token 39 of the text is a sentinel .*make vocab_size"),
        (dict(vocab_size=50), "token 39 of the text is a sentinel"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    tokens = np.tile(np.arange(2, 40), (1, 2))[:, :64]
    tokens = np.where(np.arange(tokens.shape[1]) < 64, tokens, 0)
    with pytest.raises(ValueError, match=message):
        corrupt(tokens, np.ones_like(tokens), np.random.default_rng(0), **settings)


def test_lengths_without_room_are_refused():
    with pytest.raises(ValueError, match="at least 3 and 3"):
        longest_text(512, 2)
