"""A shuffle without a state: where an index goes is computed, not stored.

A Feistel network is a permutation of the 2^(2k) numbers of 2k bits, whatever its round
function (Luby and Rackoff, 1988). A result outside the wanted range is sent through
again until it falls inside ("cycle walking", Black and Rogaway, 2002), which keeps it a
permutation. Nothing here depends on the version of a random number library.
"""

import numpy as np

NUM_ROUNDS = 8  # of small sizes too, every permutation is then about as likely


def shuffled(
    indices: np.ndarray, size: int, seed: int, epochs: np.ndarray
) -> np.ndarray:
    """Where each index in [0, size) goes under the permutation of (seed, its epoch)."""
    out = np.array(indices, np.uint64)
    keys = _mix(np.uint64(seed % 2**64) + _mix(np.broadcast_to(epochs, out.shape)))
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    out = _feistel(out, keys, half_bits)
    while (outside := out >= size).any():
        out[outside] = _feistel(out[outside], keys[outside], half_bits)
    return out.astype(np.int64)


def _feistel(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    mask, shift = np.uint64(2**half_bits - 1), np.uint64(half_bits)
    left, right = values >> shift, values & mask
    for number in range(NUM_ROUNDS):
        hashed = _mix(right + keys * np.uint64(2 * number + 1))
        left, right = right, left ^ (hashed & mask)
    return left << shift | right


def _mix(values) -> np.ndarray:
    """SplitMix64 (Steele, Lea and Flood, 2014): a bijection that scatters 64 bits."""
    z = np.asarray(values, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
