"""What compressors reach on a text: the bar that a language model is held against."""

import gzip
import lzma
from collections.abc import Iterable

import numpy as np


def compression_baselines(texts: Iterable[str]) -> dict[str, float]:
    """Bits per byte of the texts, joined to one stream, under each compressor.

    `byte unigram` is the entropy of the stream's own byte frequencies.
    """
    stream = "".join(texts).encode()
    counts = np.bincount(np.frombuffer(stream, np.uint8), minlength=256)
    shares = counts[counts > 0] / len(stream)
    return {
        "gzip -9": 8 * len(gzip.compress(stream, 9)) / len(stream),
        "xz": 8 * len(lzma.compress(stream)) / len(stream),
        "byte unigram": float(-(shares * np.log2(shares)).sum()),
    }
