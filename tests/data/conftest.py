"""Stores in memory, for tests of what is built on them."""

import numpy as np
import pytest

from llmjax.data.store import Store, StoreMeta


@pytest.fixture
def make_store():
    """make_store(lengths): documents 0 1 2 .. of these lengths, in one token stream.

    Token t of the stream is t itself, so that a batch shows where its tokens are from.
    """

    def make(lengths, fingerprint="store"):
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        num_tokens = int(offsets[-1])
        meta = StoreMeta(
            num_documents=len(lengths),
            num_tokens=num_tokens,
            num_bytes=num_tokens,
            vocab_size=num_tokens,
            dtype="uint32",
            tokenizer="tokenizer",
            source="test",
            fingerprint=fingerprint,
        )
        return Store("memory", meta, np.arange(num_tokens, dtype=np.uint32), offsets)

    return make
