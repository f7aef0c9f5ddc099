"""Span corruption: a text with holes for the encoder, what they held for the decoder.

As in T5 (Raffel et al., 2019): a hole is one sentinel, and the targets are all the
sentinels in turn, each with the tokens of its hole after it. The first, `<extra_id_0>`,
is the highest id of the vocabulary, and the others count down from it.
"""

import numpy as np

from llmjax.data.objectives import check_rate, positions
from llmjax.data.pack import Batch

NUM_SENTINELS = 100  # of T5's vocabularies


def span_corruption(
    tokens_BT,
    segment_ids_BT,
    rng: np.random.Generator,
    *,
    vocab_size: int,
    eos_id: int,
    start_id: int,
    num_sentinels: int = NUM_SENTINELS,
    rate: float = 0.15,
    mean_span: float = 3.0,
) -> Batch:
    """An encoder-decoder batch, as long as `corrupted_lengths` says of full rows.

    Both sides end in `eos_id`; the decoder's tokens are its targets, one later, after
    `start_id`. No token of the text may be one of the sentinels, the top
    `num_sentinels` ids. A row is one text, as in T5: where documents are packed in it,
    only their own first tokens tell them apart.
    """
    num_spans = count_noise(tokens_BT.shape[1], rate=rate, mean_span=mean_span)[1]
    real_BT = segment_ids_BT > 0
    _check_sentinels(tokens_BT[real_BT], num_spans, num_sentinels, vocab_size)
    sources, answers = [], []
    for tokens, real in zip(tokens_BT, real_BT, strict=True):
        text = tokens[real]
        noise = draw_spans(len(text), rng, rate=rate, mean_span=mean_span)
        source, answer = cut_spans(text, noise, vocab_size=vocab_size)
        end = [eos_id] if len(text) else []  # an empty row stays one
        sources.append([*source, *end])
        answers.append([*answer, *end])
    lengths = corrupted_lengths(tokens_BT.shape[1], rate=rate, mean_span=mean_span)
    encoder_BS, encoder_segments_BS = _pad(sources, lengths[0])
    targets_BT, segments_BT = _pad(answers, lengths[1])
    inputs_BT, _ = _pad(
        [[start_id, *answer][: len(answer)] for answer in answers], lengths[1]
    )
    return {
        "encoder_tokens": encoder_BS,
        "encoder_segment_ids": encoder_segments_BS,
        "encoder_positions": positions(encoder_segments_BS),
        "tokens": inputs_BT,
        "targets": targets_BT,
        "weights": segments_BT.astype(np.float32),
        "segment_ids": segments_BT,
        "positions": positions(segments_BT),
    }


def _pad(rows: list, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(the rows filled up with 0, 1 where a token is)."""
    in_use = np.arange(length) < np.array([len(row) for row in rows])[:, None]
    padded = np.zeros(in_use.shape, np.int32)
    padded[in_use] = np.concatenate(rows)
    return padded, in_use.astype(np.int32)


def _check_sentinels(
    tokens, num_spans: int, num_sentinels: int, vocab_size: int
) -> None:
    if num_spans > num_sentinels:
        raise ValueError(
            f"{num_spans} spans in a row but {num_sentinels} sentinels; raise "
            "num_sentinels, or make the rows shorter"
        )
    first = vocab_size - num_sentinels
    highest = tokens.max(initial=0)
    if highest >= first:
        raise ValueError(
            f"token {highest} of the text is a sentinel (ids from {first} on); make "
            f"vocab_size {num_sentinels} more than the tokenizer's"
        )


def count_noise(
    num_tokens: int, *, rate: float = 0.15, mean_span: float = 3.0
) -> tuple[int, int]:
    """(tokens, spans) to cut out of a text; of a single token, none."""
    check_rate(rate)
    if mean_span < 1:
        raise ValueError(f"mean_span {mean_span}: give at least 1 token")
    if num_tokens < 2:
        return 0, 0
    num_noise = min(max(round(num_tokens * rate), 1), num_tokens - 1)
    num_spans = min(max(round(num_noise / mean_span), 1), num_tokens - num_noise)
    return num_noise, num_spans


def corrupted_lengths(
    num_tokens: int, *, rate: float = 0.15, mean_span: float = 3.0
) -> tuple[int, int]:
    """(encoder tokens, targets) made of a text of `num_tokens`, with both ends."""
    num_noise, num_spans = count_noise(num_tokens, rate=rate, mean_span=mean_span)
    return num_tokens - num_noise + num_spans + 1, num_noise + num_spans + 1


def longest_text(
    encoder_length: int,
    target_length: int,
    *,
    rate: float = 0.15,
    mean_span: float = 3.0,
) -> int:
    """How many tokens a text may have for its corruption to fit both lengths."""
    num_tokens = 1  # both lengths grow with it, or stay
    while True:
        longer = corrupted_lengths(num_tokens + 1, rate=rate, mean_span=mean_span)
        if longer[0] > encoder_length or longer[1] > target_length:
            break
        num_tokens += 1
    if num_tokens == 1:
        raise ValueError(
            f"lengths of {encoder_length} and {target_length} tokens hold no corrupted "
            "text; give at least 3 and 3"
        )
    return num_tokens


def draw_spans(
    num_tokens: int,
    rng: np.random.Generator,
    *,
    rate: float = 0.15,
    mean_span: float = 3.0,
) -> np.ndarray:
    """[num_tokens] bool: which tokens are cut out.

    `count_noise` tokens in as many spans as it says; their lengths, and those of the
    pieces of text between them, are any that add up, all with the same probability.
    The text begins with a piece that stays and ends with a span, as in T5.
    """
    num_noise, num_spans = count_noise(num_tokens, rate=rate, mean_span=mean_span)
    if not num_spans:
        return np.zeros(num_tokens, bool)
    kept = _draw_parts(num_tokens - num_noise, num_spans, rng)
    cut = _draw_parts(num_noise, num_spans, rng)
    lengths = np.stack([kept, cut], axis=1).ravel()
    return np.repeat(np.tile([False, True], num_spans), lengths)


def _draw_parts(total: int, num_parts: int, rng: np.random.Generator) -> np.ndarray:
    """Lengths of at least 1 with the sum `total`."""
    cuts = 1 + np.sort(rng.choice(total - 1, num_parts - 1, replace=False))
    return np.diff(cuts, prepend=0, append=total)


def cut_spans(
    text: np.ndarray, cut: np.ndarray, *, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(source, answer): the text with a sentinel for each run of `cut`, and the runs,
    each after its sentinel."""
    begins = np.diff(cut.astype(np.int8), prepend=0) > 0
    sentinels = vocab_size - np.cumsum(begins)
    source = np.where(begins, sentinels, text)[~cut | begins]
    answer = np.insert(text[cut], np.flatnonzero(begins[cut]), sentinels[begins])
    return source, answer


def fill_spans(
    source: np.ndarray,
    answer: np.ndarray,
    *,
    vocab_size: int,
    num_sentinels: int = NUM_SENTINELS,
) -> tuple[np.ndarray, np.ndarray]:
    """(text, cut): undoes `cut_spans`, with a model's own answer too.

    A sentinel that the answer lacks stands for nothing; where it has one more than
    once, the first counts. What comes before the first sentinel is dropped. Give both
    without padding and without their last end of text.
    """
    first = vocab_size - num_sentinels
    begins = np.flatnonzero(answer >= first)
    runs = np.split(answer, begins)[1:]
    spans = {run[0]: run[1:] for run in reversed(runs)}
    parts = [
        spans.get(token, source[:0]) if token >= first else source[i : i + 1]
        for i, token in enumerate(source)
    ]
    cut = np.repeat(source >= first, [len(part) for part in parts])
    return np.concatenate(parts), cut
